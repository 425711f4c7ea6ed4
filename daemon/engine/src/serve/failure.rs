//! Errors of the engine as statuses of the link. The details of every status are one `Failure` message.

use std::collections::HashMap;
use std::error::Error;

use hearth_proto::engine as pb;
use prost::Message as _;
use tonic::{Code, Status};

use crate::batch::event::Failure;
use crate::chat::{ChatError, FormError};
use crate::constrain::ConstraintError;
use crate::inspect::InspectError;
use crate::prompt::{NotRun, PromptError, chain};
use crate::worker::LoadedAlready;

/// A failure under construction.
struct Draft {
    code: Code,
    reason: pb::Reason,
    message: String,
    field: String,
    numbers: HashMap<String, u64>,
    detail: String,
}

fn draft(code: Code, reason: pb::Reason, message: impl Into<String>) -> Draft {
    Draft {
        code,
        reason,
        message: message.into(),
        field: String::new(),
        numbers: HashMap::new(),
        detail: String::new(),
    }
}

impl Draft {
    fn field(mut self, field: impl Into<String>) -> Self {
        self.field = field.into();
        self
    }

    fn number(mut self, name: &str, value: usize) -> Self {
        self.numbers.insert(name.to_owned(), value as u64);
        self
    }

    fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    fn status(self) -> Status {
        let failure = pb::Failure {
            reason: self.reason.into(),
            field: self.field,
            numbers: self.numbers,
            detail: self.detail,
        };
        Status::with_details(self.code, self.message, failure.encode_to_vec().into())
    }
}

/// A field of a request is wrong.
pub(super) fn invalid(field: impl Into<String>, why: impl Into<String>) -> Status {
    draft(Code::InvalidArgument, pb::Reason::Invalid, why).field(field).status()
}

pub(super) fn build_mismatch(theirs: &str, ours: &str) -> Status {
    let message = format!("the front is build {theirs}, this engine is build {ours}");
    draft(Code::FailedPrecondition, pb::Reason::BuildMismatch, message).status()
}

pub(super) fn not_loaded() -> Status {
    draft(Code::FailedPrecondition, pb::Reason::Internal, "no model is loaded").status()
}

pub(super) fn loaded_already(error: LoadedAlready) -> Status {
    draft(Code::FailedPrecondition, pb::Reason::Internal, error.to_string()).status()
}

pub(super) fn not_run(error: NotRun) -> Status {
    let (code, reason) = match error {
        NotRun::Busy => (Code::ResourceExhausted, pb::Reason::QueueFull),
        NotRun::Panicked => (Code::Internal, pb::Reason::Internal),
    };
    draft(code, reason, error.to_string()).status()
}

/// The model file is refused.
pub(super) fn inspect(error: &InspectError) -> Status {
    if let InspectError::NoGpu(no_gpu) = error {
        return draft(Code::FailedPrecondition, pb::Reason::Unsupported, no_gpu.to_string())
            .field("gpu_layers")
            .status();
    }
    draft(Code::FailedPrecondition, pb::Reason::BadModel, chain(error))
        .detail(error.source().map(ToString::to_string).unwrap_or_default())
        .status()
}

/// The prompt was not made.
pub(super) fn prompt(error: &PromptError) -> Status {
    let message = chain(error);
    match error {
        PromptError::NoTemplate(_)
        | PromptError::CannotThink
        | PromptError::Chat(ChatError::ToolsUnsupported) => {
            draft(Code::FailedPrecondition, pb::Reason::Unsupported, message).status()
        }
        PromptError::Chat(ChatError::Render(_)) => invalid("prompt.conversation", message),
        PromptError::TooLong { bytes, most } => {
            draft(Code::InvalidArgument, pb::Reason::PromptTooLong, message)
                .number("prompt_bytes", *bytes)
                .number("most_bytes", *most)
                .status()
        }
        PromptError::LongRun { characters, most } => {
            draft(Code::InvalidArgument, pb::Reason::PromptTooLong, message)
                .number("run_characters", *characters)
                .number("most_characters", *most)
                .status()
        }
        PromptError::Tokenize(_) => invalid("prompt", message),
        PromptError::Form(FormError::Field { field, why }) => invalid(field, why),
        PromptError::Form(FormError::NoCalls) => {
            draft(Code::FailedPrecondition, pb::Reason::Unsupported, message).status()
        }
        PromptError::Constraint(ConstraintError::Tables(_) | ConstraintError::Run(_)) => {
            draft(Code::Internal, pb::Reason::Internal, message).status()
        }
        PromptError::Constraint(ConstraintError::Compile(_)) => invalid("output", message),
    }
}

/// The batch loop refused or ended the request.
pub(super) fn batch(failed: &Failure) -> Status {
    let message = failed.to_string();
    match failed {
        Failure::QueueFull { waiting } => {
            draft(Code::ResourceExhausted, pb::Reason::QueueFull, message).number("waiting", *waiting)
        }
        Failure::PromptTooLong { prompt, context } => {
            draft(Code::InvalidArgument, pb::Reason::PromptTooLong, message)
                .number("prompt_tokens", *prompt)
                .number("context_tokens", *context)
        }
        Failure::EmptyPrompt => draft(Code::InvalidArgument, pb::Reason::Invalid, message).field("prompt"),
        Failure::Deadline => draft(Code::DeadlineExceeded, pb::Reason::Deadline, message),
        Failure::ReaderStalled { .. } => draft(Code::Aborted, pb::Reason::ReaderStalled, message),
        Failure::NoMemory(_) => draft(Code::ResourceExhausted, pb::Reason::NoMemory, message),
        Failure::Compute(_) => draft(Code::Internal, pb::Reason::Internal, message),
        Failure::Ending => draft(Code::Unavailable, pb::Reason::Cancelled, message),
    }
    .status()
}
