//! Why a command failed, and the exit code that says so.

use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use hearth_client::{Code, Error};

use super::tools::BadTools;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// All was done.
    Done = 0,
    /// It failed, and would fail again.
    Failed = 1,
    /// The arguments make no sense.
    Usage = 2,
    /// There is no daemon (`EX_UNAVAILABLE`).
    Unreachable = 69,
    /// Not now (`EX_TEMPFAIL`).
    TryLater = 75,
    /// Ended by Ctrl-C, as a shell counts it.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Call(#[from] Error),
    #[error("{0}")]
    Usage(String),
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot read stdin")]
    Stdin(#[source] io::Error),
    #[error("{} is not a list of tools", path.display())]
    Tools { path: PathBuf, source: BadTools },
    #[error("cannot write the output")]
    Write(#[source] io::Error),
    #[error("cannot write {}", path.display())]
    WriteFile { path: PathBuf, source: io::Error },
    #[error("the terminal failed")]
    Terminal(#[source] rustyline::error::ReadlineError),
    #[error("cannot start")]
    Start(#[source] io::Error),
    #[error("the model was still calling tools after {0} rounds")]
    EndlessTools(usize),
    #[error("interrupted")]
    Interrupted,
    /// The reader of stdout is gone, and with it the reason to go on.
    #[error("nobody reads the output")]
    OutputClosed,
    /// Each failure on the way was reported where it happened; this is the first one's exit code.
    #[error("reported already")]
    Reported(Exit),
}

impl Failure {
    pub(super) fn write(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::Write(error),
        }
    }

    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Call(error) => exit_of(error),
            Self::Usage(_) => Exit::Usage,
            Self::Interrupted => Exit::Interrupted,
            Self::OutputClosed => Exit::Done,
            Self::Reported(exit) => *exit,
            Self::Read { .. }
            | Self::Stdin(_)
            | Self::Tools { .. }
            | Self::Write(_)
            | Self::WriteFile { .. }
            | Self::Terminal(_)
            | Self::Start(_)
            | Self::EndlessTools(_) => Exit::Failed,
        }
    }

    /// The kind of failure for programs, in lower snake case.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Call(Error::Refused(refusal)) => refusal.code.as_str(),
            Self::Call(Error::Unreachable { .. }) => "unreachable",
            Self::Call(Error::ConnectionLost { .. }) => "connection_lost",
            Self::Call(Error::Protocol(_)) => Code::Internal.as_str(),
            Self::Usage(_)
            | Self::Call(
                Error::Endpoint(_)
                | Error::BadRequestId(_)
                | Error::TokenInClear { .. }
                | Error::HalfIdentity { .. },
            ) => "usage",
            Self::Call(Error::Handshake { .. }) => "tls",
            Self::Interrupted => Code::Cancelled.as_str(),
            _ => "failed",
        }
    }

    /// The failure and its causes in one line.
    pub(super) fn message(&self) -> String {
        chain(self)
    }
}

/// An error and its causes in one line.
pub(super) fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

fn exit_of(error: &Error) -> Exit {
    match error {
        Error::Unreachable { .. } | Error::ConnectionLost { .. } | Error::Handshake { .. } => {
            Exit::Unreachable
        }
        Error::Endpoint(_)
        | Error::BadRequestId(_)
        | Error::TokenInClear { .. }
        | Error::HalfIdentity { .. } => Exit::Usage,
        Error::Refused(refusal) => match refusal.code {
            Code::ResourceExhausted | Code::Unavailable if refusal.is_retryable() => Exit::TryLater,
            _ => Exit::Failed,
        },
        _ => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hearth_client::{Endpoint, Refusal};
    use std::time::Duration;

    fn refused(code: Code, retry_after: Option<Duration>) -> Failure {
        let refusal = Refusal {
            code,
            reason: None,
            message: "no".to_owned(),
            numbers: Default::default(),
            fields: Vec::new(),
            quotas: Vec::new(),
            retry_after,
        };
        Failure::Call(Error::Refused(Box::new(refusal)))
    }

    #[test]
    fn only_what_may_pass_by_itself_says_try_again_later() {
        let soon = Some(Duration::from_secs(1));
        assert_eq!(refused(Code::ResourceExhausted, soon).exit(), Exit::TryLater);
        assert_eq!(refused(Code::Unavailable, soon).exit(), Exit::TryLater);
        assert_eq!(refused(Code::ResourceExhausted, None).exit(), Exit::Failed);
        assert_eq!(refused(Code::NotFound, None).exit(), Exit::Failed);
        assert_eq!(refused(Code::Aborted, None).exit(), Exit::Failed);
    }

    #[test]
    fn a_missing_daemon_is_named() {
        let source = io::ErrorKind::NotFound.into();
        let failure = Failure::Call(Error::Unreachable { endpoint: Endpoint::default(), source });
        assert_eq!(failure.exit(), Exit::Unreachable);
        assert!(failure.message().contains("unix:/run/hearth/hearth.sock"), "{}", failure.message());
    }
}
