//! What can go wrong with a call, and what to do about it.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tonic_types::StatusExt;

use crate::endpoint::{BadEndpoint, Endpoint};
use crate::token::BadToken;

/// Why a call failed.
#[expect(clippy::error_impl_error, reason = "the one error of this crate, read as `hearth_client::Error`")]
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no connection to the daemon; the request was not sent.
    #[error("cannot reach the daemon at {endpoint}")]
    Unreachable {
        /// Where it was looked for.
        endpoint: Endpoint,
        /// What the system said.
        source: io::Error,
    },
    /// The connection ended in the middle of a call.
    #[error("lost the connection to the daemon at {endpoint}")]
    ConnectionLost {
        /// Where it was.
        endpoint: Endpoint,
        /// What the system said.
        source: io::Error,
    },
    /// The daemon said no.
    #[error(transparent)]
    Refused(Box<Refusal>),
    /// The daemon's answer breaks the API.
    #[error("the daemon broke the protocol: {0}")]
    Protocol(&'static str),
    /// The endpoint cannot be used.
    #[error(transparent)]
    Endpoint(#[from] BadEndpoint),
    /// The request id cannot be sent.
    #[error("the request id {0:?} is not printable ASCII")]
    BadRequestId(String),
    /// The trace cannot be sent.
    #[error("the traceparent {0:?} is not printable ASCII")]
    BadTraceparent(String),
    /// What is to be imported cannot be read.
    #[error("cannot read the file to import")]
    Read(#[source] io::Error),
    /// The two sides could not agree on who they are; nothing was sent.
    #[error("no trust between this program and the daemon at {endpoint}")]
    Handshake {
        /// Where the daemon is.
        endpoint: Endpoint,
        /// What was wrong with a certificate, or with the way it was shown.
        source: io::Error,
    },
    /// Certificates or keys that are no such things.
    #[error("the certificates for {endpoint} cannot be used")]
    Certificates {
        /// Where the daemon is.
        endpoint: Endpoint,
        /// What is wrong with them.
        source: io::Error,
    },
    /// A certificate without its key, or a key without its certificate.
    #[error("a client certificate for {endpoint} needs both its certificate and its key")]
    HalfIdentity {
        /// Where the daemon is.
        endpoint: Endpoint,
    },
    /// This program was built without the feature `tls`.
    #[error("{endpoint} needs TLS, which this program was built without")]
    NoTls {
        /// Where the daemon is.
        endpoint: Endpoint,
    },
    /// A token is not sent where others can read it on its way.
    #[error("a token is not sent unencrypted to {endpoint}")]
    TokenInClear {
        /// Where it would have gone.
        endpoint: Endpoint,
    },
    /// A file with a token, a certificate or a key cannot be read.
    #[error("cannot read {}", path.display())]
    Secret {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A token that is none.
    #[error(transparent)]
    Token(#[from] BadToken),
    /// Results came while the model waits for none.
    #[error("the model waits for no results")]
    NothingAsked,
}

/// A refusal by the daemon, in its own words and numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The kind of refusal.
    pub code: Code,
    /// Stable name of the reason, for programs. Absent: the daemon gave none.
    pub reason: Option<String>,
    /// For people.
    pub message: String,
    /// The numbers behind the reason, by name.
    pub numbers: BTreeMap<String, String>,
    /// The fields of the request that are at fault.
    pub fields: Vec<FieldViolation>,
    /// The limits that were met.
    pub quotas: Vec<QuotaViolation>,
    /// How long to wait before the same call may succeed. Absent: waiting alone does not help, or nobody
    /// knows how long.
    pub retry_after: Option<Duration>,
}

/// A field of the request that is at fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldViolation {
    /// Its path, as in `prompt.conversation.messages[2].role`.
    pub field: String,
    /// What is wrong with it.
    pub description: String,
}

/// A limit that was met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaViolation {
    /// What is limited.
    pub subject: String,
    /// How.
    pub description: String,
}

/// The kind of a refusal: the codes of gRPC that Hearth uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Code {
    /// A field of the request is wrong.
    InvalidArgument,
    /// There is no such model.
    NotFound,
    /// It is there already.
    AlreadyExists,
    /// The caller may not do that.
    PermissionDenied,
    /// The daemon does not know the caller.
    Unauthenticated,
    /// Never fits this board, or the model cannot do that.
    FailedPrecondition,
    /// No room now.
    ResourceExhausted,
    /// Not now: the daemon is going down, or an engine is restarting.
    Unavailable,
    /// The answer was cut after it had begun.
    Aborted,
    /// The deadline of the call passed.
    DeadlineExceeded,
    /// A file is damaged.
    DataLoss,
    /// The call was given up.
    Cancelled,
    /// A value lies outside its range.
    OutOfRange,
    /// This daemon does not serve that.
    Unimplemented,
    /// A bug of the daemon.
    Internal,
    /// Anything else.
    Unknown,
}

impl Error {
    /// Whether the same call may succeed later without any change to it.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::ConnectionLost { .. } => true,
            Self::Refused(refusal) => refusal.is_retryable(),
            Self::Protocol(_)
            | Self::Endpoint(_)
            | Self::BadRequestId(_)
            | Self::BadTraceparent(_)
            | Self::Read(_)
            | Self::Handshake { .. }
            | Self::Certificates { .. }
            | Self::HalfIdentity { .. }
            | Self::NoTls { .. }
            | Self::TokenInClear { .. }
            | Self::Secret { .. }
            | Self::Token(_)
            | Self::NothingAsked => false,
        }
    }

    /// How long to wait before a retry, where the daemon said so.
    pub fn retry_after(&self) -> Option<Duration> {
        self.refusal().and_then(|refusal| refusal.retry_after)
    }

    /// What the daemon said, where it was the daemon that said no.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// The call's own deadline passed before the daemon said anything about it.
    pub(crate) fn deadline() -> Self {
        Self::Refused(Box::new(Refusal::plain(Code::DeadlineExceeded, "the deadline of the call passed")))
    }

    pub(crate) fn unreachable(endpoint: &Endpoint, error: &(dyn StdError + 'static)) -> Self {
        Self::Unreachable { endpoint: endpoint.clone(), source: root_cause(error) }
    }

    /// There is no connection: nobody is there, or nobody who is trusted.
    pub(crate) fn not_connected(endpoint: &Endpoint, error: &(dyn StdError + 'static)) -> Self {
        Self::distrust(endpoint, error).unwrap_or_else(|| Self::unreachable(endpoint, error))
    }

    #[cfg(feature = "tls")]
    pub(crate) fn certificates(endpoint: &Endpoint, error: &(dyn StdError + 'static)) -> Self {
        Self::Certificates { endpoint: endpoint.clone(), source: root_cause(error) }
    }

    /// On an encrypted connection, data that makes no sense is what TLS says of a peer that it refuses.
    fn distrust(endpoint: &Endpoint, error: &(dyn StdError + 'static)) -> Option<Self> {
        let source = root_cause(error);
        let refused =
            matches!(endpoint, Endpoint::Https { .. }) && source.kind() == io::ErrorKind::InvalidData;
        refused.then(|| Self::Handshake { endpoint: endpoint.clone(), source })
    }

    /// A status from the wire is a refusal; one that tonic made of an error on this side is not.
    pub(crate) fn from_status(status: &tonic::Status, endpoint: &Endpoint) -> Self {
        let Some(local) = status.source() else {
            return Self::Refused(Box::new(Refusal::from_status(status)));
        };
        if chain(local).any(|error| error.is::<tonic::TimeoutExpired>()) {
            Self::deadline()
        } else if chain(local).any(|error| error.is::<tonic::ConnectError>()) {
            Self::not_connected(endpoint, local)
        } else {
            let lost = || Self::ConnectionLost { endpoint: endpoint.clone(), source: root_cause(local) };
            Self::distrust(endpoint, local).unwrap_or_else(lost)
        }
    }
}

impl Refusal {
    pub(crate) fn plain(code: Code, message: &str) -> Self {
        Self {
            code,
            reason: None,
            message: message.to_owned(),
            numbers: BTreeMap::new(),
            fields: Vec::new(),
            quotas: Vec::new(),
            retry_after: None,
        }
    }

    fn from_status(status: &tonic::Status) -> Self {
        let mut refusal = Self::plain(status.code().into(), status.message());
        let details = status.get_error_details();
        if let Some(info) = details.error_info() {
            refusal.reason = Some(info.reason.clone()).filter(|reason| !reason.is_empty());
            refusal.numbers = info.metadata.clone().into_iter().collect();
        }
        if let Some(bad) = details.bad_request() {
            refusal.fields = bad.field_violations.iter().map(FieldViolation::from_detail).collect();
        }
        if let Some(quota) = details.quota_failure() {
            refusal.quotas = quota.violations.iter().map(QuotaViolation::from_detail).collect();
        }
        refusal.retry_after = details.retry_info().and_then(|retry| retry.retry_delay);
        refusal
    }

    /// Whether the same call may succeed later without any change to it.
    pub fn is_retryable(&self) -> bool {
        match self.code {
            Code::Unavailable | Code::Aborted => true,
            Code::ResourceExhausted => self.retry_after.is_some(),
            _ => false,
        }
    }
}

impl StdError for Refusal {}

impl fmt::Display for Refusal {
    /// One line: the message, then what it does not say already.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.message.as_str() {
            "" => f.write_str(self.code.as_str())?,
            message => message.lines().enumerate().try_for_each(|(i, line)| {
                let gap = if i == 0 { "" } else { " " };
                write!(f, "{gap}{line}")
            })?,
        }
        for violation in &self.fields {
            if !self.message.contains(&violation.field) {
                write!(f, "; {}: {}", violation.field, violation.description)?;
            } else if !self.message.contains(&violation.description) {
                write!(f, "; {}", violation.description)?;
            }
        }
        match self.retry_after {
            Some(wait) => write!(f, "; try again in {:.1} s", wait.as_secs_f64()),
            None => Ok(()),
        }
    }
}

impl FieldViolation {
    fn from_detail(detail: &tonic_types::FieldViolation) -> Self {
        Self { field: detail.field.clone(), description: detail.description.clone() }
    }
}

impl QuotaViolation {
    fn from_detail(detail: &tonic_types::QuotaViolation) -> Self {
        Self { subject: detail.subject.clone(), description: detail.description.clone() }
    }
}

impl Code {
    /// The code in lower snake case, as in `not_found`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidArgument => "invalid_argument",
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::PermissionDenied => "permission_denied",
            Self::Unauthenticated => "unauthenticated",
            Self::FailedPrecondition => "failed_precondition",
            Self::ResourceExhausted => "resource_exhausted",
            Self::Unavailable => "unavailable",
            Self::Aborted => "aborted",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::DataLoss => "data_loss",
            Self::Cancelled => "cancelled",
            Self::OutOfRange => "out_of_range",
            Self::Unimplemented => "unimplemented",
            Self::Internal => "internal",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<tonic::Code> for Code {
    fn from(code: tonic::Code) -> Self {
        match code {
            tonic::Code::InvalidArgument => Self::InvalidArgument,
            tonic::Code::NotFound => Self::NotFound,
            tonic::Code::AlreadyExists => Self::AlreadyExists,
            tonic::Code::PermissionDenied => Self::PermissionDenied,
            tonic::Code::Unauthenticated => Self::Unauthenticated,
            tonic::Code::FailedPrecondition => Self::FailedPrecondition,
            tonic::Code::ResourceExhausted => Self::ResourceExhausted,
            tonic::Code::Unavailable => Self::Unavailable,
            tonic::Code::Aborted => Self::Aborted,
            tonic::Code::DeadlineExceeded => Self::DeadlineExceeded,
            tonic::Code::DataLoss => Self::DataLoss,
            tonic::Code::Cancelled => Self::Cancelled,
            tonic::Code::OutOfRange => Self::OutOfRange,
            tonic::Code::Unimplemented => Self::Unimplemented,
            tonic::Code::Internal => Self::Internal,
            // `Ok` is no failure: a status with it that ends a call in an error is broken.
            tonic::Code::Unknown | tonic::Code::Ok => Self::Unknown,
        }
    }
}

/// The endpoint of a connection, shared by all streams over it, so that each can name it in its errors.
pub(crate) type SharedEndpoint = Arc<Endpoint>;

fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// The system's own error at the bottom of the layers, with its kind where it has one.
fn root_cause(error: &(dyn StdError + 'static)) -> io::Error {
    let system = chain(error).filter_map(|error| error.downcast_ref::<io::Error>()).last();
    match system {
        Some(error) => match error.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::new(error.kind(), error.to_string()),
        },
        None => io::Error::other(chain(error).last().map(ToString::to_string).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::ErrorDetails;

    fn decoded(code: tonic::Code, message: &str, details: ErrorDetails) -> Error {
        let status = tonic::Status::with_error_details(code, message, details);
        Error::from_status(&status, &Endpoint::default())
    }

    #[test]
    fn details_are_decoded() {
        let mut details = ErrorDetails::new();
        details
            .set_error_info("QUEUE_FULL", "hearth", [("waiting".to_owned(), "64".to_owned())])
            .set_retry_info(Some(Duration::from_millis(1500)))
            .add_bad_request_violation("model", "is too long")
            .add_quota_failure_violation("queue", "64 at most");
        let error = decoded(tonic::Code::ResourceExhausted, "the queue is full", details);
        let refusal = error.refusal().expect("the daemon said no");
        assert_eq!(refusal.code, Code::ResourceExhausted);
        assert_eq!(refusal.reason.as_deref(), Some("QUEUE_FULL"));
        assert_eq!(refusal.numbers["waiting"], "64");
        assert_eq!(refusal.fields[0].field, "model");
        assert_eq!(refusal.quotas[0].description, "64 at most");
        assert_eq!(error.retry_after(), Some(Duration::from_millis(1500)));
        assert!(error.is_retryable());
    }

    #[test]
    fn a_status_without_details_is_decoded_too() {
        let error = decoded(tonic::Code::NotFound, "no model `x`", ErrorDetails::new());
        let refusal = error.refusal().expect("the daemon said no");
        assert_eq!((refusal.code, refusal.reason.as_deref()), (Code::NotFound, None));
        assert!(!error.is_retryable());
        assert_eq!(error.to_string(), "no model `x`");
    }

    #[test]
    fn damaged_details_leave_code_and_message() {
        let status = tonic::Status::with_details(
            tonic::Code::Internal,
            "bug",
            b"\xff\xff\xff not protobuf".as_slice().into(),
        );
        let error = Error::from_status(&status, &Endpoint::default());
        assert_eq!(error.refusal().map(|r| (r.code, r.message.as_str())), Some((Code::Internal, "bug")));
    }

    #[test]
    fn the_text_is_one_line_that_says_nothing_twice() {
        let details = ErrorDetails::with_bad_request_violation("stop[1]", "must not be empty");
        let known = decoded(tonic::Code::InvalidArgument, "stop[1] must not be empty", details.clone());
        assert_eq!(known.to_string(), "stop[1] must not be empty");
        let unknown = decoded(tonic::Code::InvalidArgument, "bad\nrequest", details);
        assert_eq!(unknown.to_string(), "bad request; stop[1]: must not be empty");
        let wait = ErrorDetails::with_retry_info(Some(Duration::from_secs(3)));
        assert_eq!(
            decoded(tonic::Code::Unavailable, "", wait).to_string(),
            "unavailable; try again in 3.0 s"
        );
    }

    #[test]
    fn no_room_is_worth_a_retry_only_where_the_daemon_says_when() {
        assert!(!decoded(tonic::Code::ResourceExhausted, "disk full", ErrorDetails::new()).is_retryable());
        assert!(decoded(tonic::Code::Unavailable, "draining", ErrorDetails::new()).is_retryable());
        assert!(!decoded(tonic::Code::FailedPrecondition, "never fits", ErrorDetails::new()).is_retryable());
    }

    #[test]
    fn errors_of_the_connection_are_kept_apart() {
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let connect = tonic::Status::from_error(Box::new(tonic::ConnectError(Box::new(refused()))));
        let lost = tonic::Status::from_error(Box::new(io::Error::from(io::ErrorKind::BrokenPipe)));
        let expired = tonic::Status::from_error(Box::new(tonic::TimeoutExpired(())));
        let endpoint = Endpoint::default();
        assert!(matches!(
            Error::from_status(&connect, &endpoint),
            Error::Unreachable { source, .. } if source.kind() == io::ErrorKind::ConnectionRefused
        ));
        assert!(matches!(Error::from_status(&lost, &endpoint), Error::ConnectionLost { .. }));
        assert_eq!(
            Error::from_status(&expired, &endpoint).refusal().map(|refusal| refusal.code),
            Some(Code::DeadlineExceeded)
        );
    }
}
