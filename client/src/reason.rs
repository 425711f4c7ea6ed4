//! The reasons of refusals, as [`Refusal::reason`](crate::Refusal::reason) has them.
//!
//! The daemon adds reasons and never changes one: a program that does not know a reason goes by the
//! [`Code`](crate::Code).
//!
//! ```
//! use hearth_client::{Error, reason};
//!
//! fn is_missing(error: &Error) -> bool {
//!     error.refusal().is_some_and(|refusal| refusal.reason.as_deref() == Some(reason::MODEL_NOT_FOUND))
//! }
//! # assert!(!is_missing(&Error::Protocol("x")));
//! ```

/// More than one model begins with these digits.
pub const AMBIGUOUS_DIGEST: &str = "AMBIGUOUS_DIGEST";
/// The file is damaged, hostile, or of a kind that Hearth does not run.
pub const BAD_MODEL: &str = "BAD_MODEL";
/// Front and engine are of two builds.
pub const BUILD_MISMATCH: &str = "BUILD_MISMATCH";
/// The client ended the call.
pub const CANCELLED: &str = "CANCELLED";
/// The deadline of the call passed.
pub const DEADLINE: &str = "DEADLINE";
/// The file has another SHA-256 than was announced.
pub const DIGEST_MISMATCH: &str = "DIGEST_MISMATCH";
/// The disk failed the daemon.
pub const DISK_FAILED: &str = "DISK_FAILED";
/// The disk has no room for it.
pub const DISK_FULL: &str = "DISK_FULL";
/// The daemon is going down.
pub const DRAINING: &str = "DRAINING";
/// The engine failed the request; a bug.
pub const ENGINE_FAILED: &str = "ENGINE_FAILED";
/// The engine ended while it worked on the request; the model is loaded anew.
pub const ENGINE_LOST: &str = "ENGINE_LOST";
/// No engine process could be started.
pub const ENGINE_NOT_STARTED: &str = "ENGINE_NOT_STARTED";
/// The engine broke its protocol; a bug.
pub const ENGINE_PROTOCOL: &str = "ENGINE_PROTOCOL";
/// Reading the facts of the file took too long.
pub const INSPECTION_TIMEOUT: &str = "INSPECTION_TIMEOUT";
/// A bug of the daemon.
pub const INTERNAL: &str = "INTERNAL";
/// A field of the request is wrong; [`Refusal::fields`](crate::Refusal::fields) names it.
pub const INVALID_FIELD: &str = "INVALID_FIELD";
/// There is no memory for the model now.
pub const MEMORY_FULL: &str = "MEMORY_FULL";
/// The board is short of memory, and nothing more is loaded.
pub const MEMORY_PRESSURE: &str = "MEMORY_PRESSURE";
/// The model is being changed.
pub const MODEL_CHANGING: &str = "MODEL_CHANGING";
/// That cannot be done to a model in memory.
pub const MODEL_IN_MEMORY: &str = "MODEL_IN_MEMORY";
/// There is no such model.
pub const MODEL_NOT_FOUND: &str = "MODEL_NOT_FOUND";
/// The model's engine crashed too often in a row; a load tries again.
pub const MODEL_QUARANTINED: &str = "MODEL_QUARANTINED";
/// The model was taken out of memory in the middle of the answer.
pub const MODEL_UNLOADED: &str = "MODEL_UNLOADED";
/// The address asks for a token or a certificate.
pub const NAME_NEEDED: &str = "NAME_NEEDED";
/// The model needs more memory than the daemon may use at all.
pub const NEVER_FITS: &str = "NEVER_FITS";
/// The engine got no memory from the system.
pub const NO_MEMORY: &str = "NO_MEMORY";
/// The file on the daemon's side is not under one of its `import_dirs`.
pub const PATH_NOT_ALLOWED: &str = "PATH_NOT_ALLOWED";
/// The prompt does not fit into the context.
pub const PROMPT_TOO_LONG: &str = "PROMPT_TOO_LONG";
/// Too many requests are waiting.
pub const QUEUE_FULL: &str = "QUEUE_FULL";
/// Nothing of the answer was taken for too long.
pub const READER_STALLED: &str = "READER_STALLED";
/// The results of the model's calls did not come for too long.
pub const REPLY_STALLED: &str = "REPLY_STALLED";
/// The caller has not the role that the call takes.
pub const ROLE_NEEDED: &str = "ROLE_NEEDED";
/// Nothing more of the file came for too long.
pub const SENDER_STALLED: &str = "SENDER_STALLED";
/// The file has another size than was announced.
pub const SIZE_MISMATCH: &str = "SIZE_MISMATCH";
/// The daemon cannot read the file on its side.
pub const SOURCE_UNREADABLE: &str = "SOURCE_UNREADABLE";
/// The daemon does not know the token.
pub const UNKNOWN_TOKEN: &str = "UNKNOWN_TOKEN";
/// The model cannot do that.
pub const UNSUPPORTED: &str = "UNSUPPORTED";

#[cfg(test)]
mod tests {
    #[test]
    fn every_reason_of_the_daemon_has_its_name_here() {
        let table = include_str!("../../daemon/src/rpc/status.rs");
        let table = table.split("#[cfg(test)]").next().unwrap_or_default();
        let reasons: Vec<&str> =
            table.split("Row::new(Code::").skip(1).filter_map(|row| row.split('"').nth(1)).collect();
        assert!(reasons.len() > 30, "{reasons:?}");
        for reason in reasons {
            let line = format!("pub const {reason}: &str = \"{reason}\";");
            assert!(include_str!("reason.rs").contains(&line), "no constant for {reason}");
        }
    }
}
