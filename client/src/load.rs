//! How a model is put into memory, and how long it stays there.

use std::time::Duration;

use crate::v1;

/// How a model is put into memory. What is not said is as the daemon's configuration has it.
///
/// ```
/// use hearth_client::{KeepAlive, KvType, LoadOptions};
///
/// let options = LoadOptions {
///     context_tokens: Some(8192),
///     kv_type: Some(KvType::Q80),
///     keep_alive: Some(KeepAlive::Forever),
/// };
/// # drop(options);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// Tokens of its context, shared by all answers: exactly so many, until it is unloaded.
    pub context_tokens: Option<u32>,
    /// How its context is kept.
    pub kv_type: Option<v1::KvType>,
    /// How long it stays once nobody uses it. A plan does not depend on it.
    pub keep_alive: Option<KeepAlive>,
}

/// How long a model stays in memory once nobody uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeepAlive {
    /// Until its memory is needed.
    Forever,
    /// For this time, in whole milliseconds.
    For(Duration),
}

impl KeepAlive {
    /// As the wire has it: milliseconds, -1 for ever.
    pub(crate) fn to_ms(self) -> i64 {
        match self {
            Self::Forever => -1,
            Self::For(time) => i64::try_from(time.as_millis()).unwrap_or(i64::MAX),
        }
    }
}

impl LoadOptions {
    pub(crate) fn load(self, name: &str) -> v1::LoadModelRequest {
        let Self { context_tokens, kv_type, keep_alive } = self;
        v1::LoadModelRequest {
            model: name.to_owned(),
            context_tokens,
            kv_type: kv_type.unwrap_or_default().into(),
            keep_alive_ms: keep_alive.map(KeepAlive::to_ms),
        }
    }

    pub(crate) fn plan(self, name: &str) -> v1::PlanModelRequest {
        let Self { context_tokens, kv_type, keep_alive: _ } = self;
        v1::PlanModelRequest {
            model: name.to_owned(),
            context_tokens,
            kv_type: kv_type.unwrap_or_default().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_milliseconds_and_for_ever_is_minus_one() {
        assert_eq!(KeepAlive::Forever.to_ms(), -1);
        assert_eq!(KeepAlive::For(Duration::ZERO).to_ms(), 0);
        assert_eq!(KeepAlive::For(Duration::from_secs(90)).to_ms(), 90_000);
        assert_eq!(KeepAlive::For(Duration::MAX).to_ms(), i64::MAX);
    }

    #[test]
    fn what_was_not_said_is_absent() {
        let request = LoadOptions::default().load("m");
        assert_eq!((request.context_tokens, request.keep_alive_ms), (None, None));
        assert_eq!(request.kv_type(), v1::KvType::Unspecified);
    }
}
