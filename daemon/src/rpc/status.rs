//! Every way a call can fail, and the one table from those to gRPC's codes.
//!
//! The message is for people and may change; programs read the reason in `ErrorInfo`, the numbers in its
//! metadata, the field in `BadRequest` and the wait in `RetryInfo`.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::access::Role;
use crate::engines::inspect::InspectError;
use crate::engines::link::{EngineFailure, FailureReason, LinkError};
use crate::engines::{AcquireError, InUse, PlanError, RenderError};
use crate::memory::plan::Refusal;
use crate::store::{DiskError, ImportError, LookupError, RemoveError};
use crate::telemetry::SetFilterError;
use crate::telemetry::chain::Chain;

/// `ErrorInfo.domain` of all errors.
const DOMAIN: &str = "hearth";

/// An engine is back after about a load.
const RETRY_ENGINE: Duration = Duration::from_secs(1);

/// A place in a queue comes free after an answer.
const RETRY_QUEUE: Duration = Duration::from_secs(1);

/// Memory comes free when somebody is done with a model.
const RETRY_MEMORY: Duration = Duration::from_secs(5);

/// A daemon that goes down comes back, if at all, after its drain.
const RETRY_DAEMON: Duration = Duration::from_secs(5);

/// A field of a request that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub(crate) struct Invalid {
    /// Path of the field, for example `prompt.conversation.messages[2].role`.
    pub(crate) field: String,
    /// What is wrong with it.
    pub(crate) why: String,
}

/// Whether the client has seen a part of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spoken {
    Nothing,
    Tokens,
}

/// Why a call fails.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error(transparent)]
    Invalid(#[from] Invalid),
    #[error(transparent)]
    Lookup(#[from] LookupError),
    #[error(transparent)]
    Acquire(#[from] AcquireError),
    #[error("{error}")]
    Engine { error: LinkError, spoken: Spoken },
    #[error(transparent)]
    Inspect(#[from] InspectError),
    #[error(transparent)]
    Import(#[from] ImportError),
    #[error(transparent)]
    Remove(#[from] RemoveError),
    #[error("the store cannot be read")]
    Disk(#[source] DiskError),
    #[error("the model is in memory: unload it first")]
    InUse,
    #[error("the deadline of the call has passed")]
    Deadline,
    #[error("nothing of the answer was taken for {} s", .0.as_secs())]
    ReaderStalled(Duration),
    #[error("nothing more of the file came for {} s", .0.as_secs())]
    SenderStalled(Duration),
    #[error("the results of the model's calls did not come for {} s", .0.as_secs())]
    ReplyStalled(Duration),
    #[error("the model was unloaded while it answered")]
    UnloadedInAnswer,
    #[error("the daemon is going down")]
    GoingDown { spoken: Spoken },
    #[error("the daemon does not know this token")]
    UnknownToken,
    #[error(
        "this address asks for a name: send a token (or a client certificate), or connect to the Unix socket"
    )]
    Unnamed,
    #[error("{principal} does not have the role {need}: access.{need} in the configuration says who does")]
    RoleNeeded { principal: String, need: Role },
    #[error("{0}")]
    LogFilter(#[from] SetFilterError),
    #[error("import by path is not allowed for this file: it is not under one of import_dirs")]
    PathNotAllowed,
    #[error("the client ended the call before it had sent everything")]
    ClientGone,
    #[error("internal error: {0}")]
    Internal(&'static str),
}

/// A line of the table.
struct Row {
    code: Code,
    reason: &'static str,
    /// What programs may want to know, by name.
    words: Vec<(String, String)>,
    field: Option<(String, String)>,
    retry: Option<Duration>,
}

impl Fault {
    /// As gRPC says it.
    pub(crate) fn status(&self) -> Status {
        let Row { code, reason, words, field, retry } = self.row();
        let mut details = ErrorDetails::new();
        details.set_error_info(reason, DOMAIN, HashMap::from_iter(words));
        if let Some((field, why)) = field {
            details.add_bad_request_violation(field, why);
        }
        if retry.is_some() {
            details.set_retry_info(retry);
        }
        Status::with_error_details(code, self.to_string(), details)
    }

    /// The stable name of the reason.
    pub(crate) fn reason(&self) -> &'static str {
        self.row().reason
    }

    /// What is ours to mend is an error; the rest is the caller's business.
    pub(crate) fn log(&self, request_id: &str) {
        let row = self.row();
        let error = Chain(self);
        if matches!(row.code, Code::Internal | Code::DataLoss) {
            tracing::error!(%error, request.id = %request_id, reason = row.reason, "Failed call");
        } else {
            tracing::debug!(%error, request.id = %request_id, reason = row.reason, "Refused call");
        }
    }

    fn row(&self) -> Row {
        match self {
            Self::Invalid(Invalid { field, why }) => {
                Row::new(Code::InvalidArgument, "INVALID_FIELD").field(field, why)
            }
            Self::Lookup(error) => lookup(error),
            Self::Acquire(error) => acquire(error),
            Self::Engine { error, spoken } => link(error, *spoken),
            Self::Inspect(error) => inspect(error),
            Self::Import(error) => import(error),
            Self::Remove(RemoveError::NotFound { .. }) => Row::new(Code::NotFound, "MODEL_NOT_FOUND"),
            Self::Remove(RemoveError::Disk(error)) | Self::Disk(error) => disk(error),
            Self::InUse => Row::new(Code::FailedPrecondition, "MODEL_IN_MEMORY"),
            Self::Deadline => Row::new(Code::DeadlineExceeded, "DEADLINE"),
            Self::ReaderStalled(_) => Row::new(Code::Aborted, "READER_STALLED"),
            Self::SenderStalled(_) => Row::new(Code::Aborted, "SENDER_STALLED"),
            Self::ReplyStalled(_) => Row::new(Code::Aborted, "REPLY_STALLED"),
            Self::UnloadedInAnswer => Row::new(Code::Aborted, "MODEL_UNLOADED"),
            Self::GoingDown { spoken: Spoken::Nothing } => {
                Row::new(Code::Unavailable, "DRAINING").retry(RETRY_DAEMON)
            }
            Self::GoingDown { spoken: Spoken::Tokens } => Row::new(Code::Aborted, "DRAINING"),
            Self::PathNotAllowed => Row::new(Code::PermissionDenied, "PATH_NOT_ALLOWED")
                .field("header.source_path", "not under one of import_dirs"),
            Self::UnknownToken => Row::new(Code::Unauthenticated, "UNKNOWN_TOKEN"),
            Self::Unnamed => Row::new(Code::Unauthenticated, "NAME_NEEDED"),
            Self::RoleNeeded { principal: _, need } => {
                Row::new(Code::PermissionDenied, "ROLE_NEEDED").word("role", &need.to_string())
            }
            Self::LogFilter(SetFilterError::Parse { .. }) => Row::new(Code::InvalidArgument, "INVALID_FIELD")
                .field("filter", "not a level or list of directives"),
            Self::LogFilter(SetFilterError::Gone) => Row::new(Code::Internal, "INTERNAL"),
            Self::ClientGone => Row::new(Code::Cancelled, "CANCELLED"),
            Self::Internal(_) => Row::new(Code::Internal, "INTERNAL"),
        }
    }
}

fn lookup(error: &LookupError) -> Row {
    match error {
        LookupError::NotFound { .. } => Row::new(Code::NotFound, "MODEL_NOT_FOUND"),
        LookupError::Ambiguous { .. } => {
            Row::new(Code::InvalidArgument, "AMBIGUOUS_DIGEST").field("model", "write more digits")
        }
    }
}

fn acquire(error: &AcquireError) -> Row {
    match error {
        AcquireError::Lookup(error) => lookup(error),
        AcquireError::Refused(Refusal::NeverFits { need, budget, context }) => {
            Row::new(Code::FailedPrecondition, "NEVER_FITS")
                .number("need_bytes", need.0)
                .number("budget_bytes", budget.0)
                .number("largest_context_tokens", context.unwrap_or(0).into())
        }
        AcquireError::Refused(Refusal::FullNow { need, free, idle, budget }) => {
            Row::new(Code::ResourceExhausted, "MEMORY_FULL")
                .number("need_bytes", need.0)
                .number("free_bytes", free.0)
                .number("idle_bytes", idle.0)
                .number("budget_bytes", budget.0)
                .retry(RETRY_MEMORY)
        }
        AcquireError::QueueFull { waiting } => Row::new(Code::ResourceExhausted, "QUEUE_FULL")
            .number("waiting", *waiting as u64)
            .retry(RETRY_QUEUE),
        AcquireError::Quarantined { .. } => Row::new(Code::FailedPrecondition, "MODEL_QUARANTINED"),
        AcquireError::Crashed { .. } => Row::new(Code::Unavailable, "ENGINE_LOST").retry(RETRY_ENGINE),
        AcquireError::LoadRefused(refused) => failure(refused),
        AcquireError::BadModel { .. } => Row::new(Code::FailedPrecondition, "BAD_MODEL"),
        AcquireError::CannotStart { .. } => Row::new(Code::Internal, "ENGINE_NOT_STARTED"),
        AcquireError::Pressure => Row::new(Code::ResourceExhausted, "MEMORY_PRESSURE").retry(RETRY_MEMORY),
        AcquireError::Unloaded => Row::new(Code::Aborted, "MODEL_UNLOADED"),
        AcquireError::Held => Row::new(Code::Unavailable, "MODEL_CHANGING").retry(RETRY_ENGINE),
        AcquireError::Draining => Row::new(Code::Unavailable, "DRAINING").retry(RETRY_DAEMON),
    }
}

fn link(error: &LinkError, spoken: Spoken) -> Row {
    match (error, spoken) {
        (LinkError::Exited(_) | LinkError::Broken(_), Spoken::Nothing) => {
            Row::new(Code::Unavailable, "ENGINE_LOST").retry(RETRY_ENGINE)
        }
        (LinkError::Exited(_) | LinkError::Broken(_), Spoken::Tokens) => {
            Row::new(Code::Aborted, "ENGINE_LOST")
        }
        (LinkError::Refused(refused), _) => failure(refused),
        (LinkError::BuildMismatch { .. }, _) => Row::new(Code::Internal, "BUILD_MISMATCH"),
        (LinkError::Protocol(_), _) => Row::new(Code::Internal, "ENGINE_PROTOCOL"),
    }
}

fn failure(failure: &EngineFailure) -> Row {
    let row = match failure.reason {
        FailureReason::Internal => Row::new(Code::Internal, "ENGINE_FAILED"),
        FailureReason::Invalid => Row::new(Code::InvalidArgument, "INVALID_FIELD"),
        FailureReason::PromptTooLong => Row::new(Code::FailedPrecondition, "PROMPT_TOO_LONG"),
        FailureReason::QueueFull => Row::new(Code::ResourceExhausted, "QUEUE_FULL").retry(RETRY_QUEUE),
        FailureReason::Deadline => Row::new(Code::DeadlineExceeded, "DEADLINE"),
        FailureReason::ReaderStalled => Row::new(Code::Aborted, "READER_STALLED"),
        FailureReason::Unsupported => Row::new(Code::FailedPrecondition, "UNSUPPORTED"),
        FailureReason::BadModel => Row::new(Code::FailedPrecondition, "BAD_MODEL"),
        FailureReason::BuildMismatch => Row::new(Code::Internal, "BUILD_MISMATCH"),
        FailureReason::Cancelled => Row::new(Code::Cancelled, "CANCELLED"),
        FailureReason::NoMemory => Row::new(Code::ResourceExhausted, "NO_MEMORY").retry(RETRY_MEMORY),
    };
    // Whatever the reason: where the engine names a field, that is what is to be changed.
    let row = match failure.field.as_str() {
        "" => row,
        field => row.field(field, &failure.message),
    };
    failure.numbers.iter().fold(row, |row, (name, number)| row.number(name, *number))
}

fn inspect(error: &InspectError) -> Row {
    match error {
        InspectError::BadModel(_) | InspectError::Crashed(_) => {
            Row::new(Code::FailedPrecondition, "BAD_MODEL")
        }
        InspectError::Link(error) => link(error, Spoken::Nothing),
        InspectError::Spawn(_) => Row::new(Code::Internal, "ENGINE_NOT_STARTED"),
        InspectError::Timeout(_) => Row::new(Code::Unavailable, "INSPECTION_TIMEOUT").retry(RETRY_ENGINE),
        InspectError::NoRoom { need, free, budget } => Row::new(Code::ResourceExhausted, "MEMORY_FULL")
            .number("need_bytes", need.0)
            .number("free_bytes", free.0)
            .number("budget_bytes", budget.0)
            .retry(RETRY_MEMORY),
        InspectError::Pressure => Row::new(Code::ResourceExhausted, "MEMORY_PRESSURE").retry(RETRY_MEMORY),
        InspectError::Busy { waiting } => Row::new(Code::ResourceExhausted, "QUEUE_FULL")
            .number("waiting", *waiting as u64)
            .retry(RETRY_QUEUE),
    }
}

fn import(error: &ImportError) -> Row {
    match error {
        ImportError::NoSpace { need, free } => Row::new(Code::ResourceExhausted, "DISK_FULL")
            .number("need_bytes", need.0)
            .number("free_bytes", free.0),
        ImportError::TooLong { announced, got } | ImportError::TooShort { announced, got } => {
            Row::new(Code::InvalidArgument, "SIZE_MISMATCH")
                .field("header.size_bytes", "the file has another size")
                .number("announced_bytes", announced.0)
                .number("got_bytes", got.0)
        }
        ImportError::WrongDigest { .. } => Row::new(Code::DataLoss, "DIGEST_MISMATCH"),
        ImportError::Stopped => Row::new(Code::Cancelled, "CANCELLED"),
        ImportError::Source(_) => Row::new(Code::FailedPrecondition, "SOURCE_UNREADABLE"),
        ImportError::Disk(error) => disk(error),
        ImportError::Spoiled => Row::new(Code::Internal, "DISK_FAILED"),
    }
}

/// A disk may fill up behind the check for room: that is for a person to mend, and no fault of ours.
fn disk(error: &DiskError) -> Row {
    if error.is_full() {
        Row::new(Code::ResourceExhausted, "DISK_FULL")
    } else {
        Row::new(Code::Internal, "DISK_FAILED")
    }
}

impl Row {
    fn new(code: Code, reason: &'static str) -> Self {
        Self { code, reason, words: Vec::new(), field: None, retry: None }
    }

    fn number(self, name: &str, number: u64) -> Self {
        self.word(name, &number.to_string())
    }

    fn word(mut self, name: &str, word: &str) -> Self {
        self.words.push((name.to_owned(), word.to_owned()));
        self
    }

    fn field(mut self, field: &str, why: &str) -> Self {
        self.field = Some((field.to_owned(), why.to_owned()));
        self
    }

    fn retry(mut self, wait: Duration) -> Self {
        self.retry = Some(wait);
        self
    }
}

impl Invalid {
    pub(crate) fn new(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self { field: field.into(), why: why.into() }
    }
}

impl From<InUse> for Fault {
    fn from(_: InUse) -> Self {
        Self::InUse
    }
}

impl From<PlanError> for Fault {
    fn from(error: PlanError) -> Self {
        match error {
            PlanError::Acquire(error) => Self::Acquire(error),
            PlanError::Inspect(error) => Self::Inspect(error),
        }
    }
}

impl From<RenderError> for Fault {
    fn from(error: RenderError) -> Self {
        match error {
            RenderError::Lookup(error) => Self::Lookup(error),
            RenderError::Acquire(error) => Self::Acquire(error),
            RenderError::Link(error) => Self::Engine { error, spoken: Spoken::Nothing },
            RenderError::Inspect(error) => Self::Inspect(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engines::process::{EngineExit, ExitKind};
    use crate::units::Bytes;

    fn lost() -> LinkError {
        let how = ExitKind::Signal(9);
        LinkError::Exited(Arc::new(EngineExit { how, last_words: None, verdict: None }))
    }

    #[test]
    fn a_lost_engine_may_be_retried_only_before_the_first_token() {
        let status = |spoken| Fault::Engine { error: lost(), spoken }.status();
        let before = status(Spoken::Nothing);
        assert_eq!(before.code(), Code::Unavailable);
        assert!(before.get_details_retry_info().is_some());
        let after = status(Spoken::Tokens);
        assert_eq!(after.code(), Code::Aborted);
        assert!(after.get_details_retry_info().is_none());
        assert_eq!(after.get_details_error_info().map(|info| info.reason), Some("ENGINE_LOST".to_owned()));
        assert!(after.message().contains("SIGKILL"));
    }

    #[test]
    fn a_full_disk_is_no_fault_of_ours() {
        let row = |kind: std::io::ErrorKind| {
            let error = DiskError { doing: "write", path: "/x".into(), source: kind.into() };
            let status = Fault::Import(error.into()).status();
            (status.code(), status.get_details_error_info().expect("every error has it").reason)
        };
        let full = (Code::ResourceExhausted, "DISK_FULL".to_owned());
        assert_eq!(row(std::io::ErrorKind::StorageFull), full);
        assert_eq!(row(std::io::ErrorKind::QuotaExceeded), full);
        assert_eq!(row(std::io::ErrorKind::PermissionDenied), (Code::Internal, "DISK_FAILED".to_owned()));
    }

    #[test]
    fn busy_inspectors_ask_to_come_back() {
        let status = Fault::Inspect(InspectError::Busy { waiting: 3 }).status();
        let info = status.get_details_error_info().expect("every error has it");
        assert_eq!((status.code(), info.reason.as_str()), (Code::ResourceExhausted, "QUEUE_FULL"));
        assert_eq!(info.metadata.get("waiting").map(String::as_str), Some("3"));
        assert!(status.get_details_retry_info().is_some());
    }

    #[test]
    fn numbers_and_fields_travel_in_the_details() {
        let refusal = Refusal::NeverFits { need: Bytes(9), budget: Bytes(5), context: None };
        let status = Fault::Acquire(AcquireError::Refused(refusal)).status();
        let info = status.get_details_error_info().expect("every error has it");
        assert_eq!(info.metadata.get("need_bytes").map(String::as_str), Some("9"));
        assert_eq!((info.domain.as_str(), status.code()), ("hearth", Code::FailedPrecondition));
        let status = Fault::Invalid(Invalid::new("a.b[1]", "bad")).status();
        let violations = status.get_details_bad_request().expect("a field").field_violations;
        assert_eq!(violations[0].field, "a.b[1]");
    }
}
