//! When a call is tried again, and after how long.
//!
//! Only what cannot have done anything is tried again: a daemon that could not be reached, and a refusal that
//! says when to come back. An answer that has begun, and an import, never are.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use crate::Error;

/// Wait before the second attempt, where the daemon names none.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// Longest wait between two attempts, where the daemon names none: a daemon takes about that long to start.
const LONGEST_WAIT: Duration = Duration::from_secs(3);
/// What `times` spends at most: longer than any wait that the daemon names.
const DEFAULT_TOTAL: Duration = Duration::from_secs(60);

/// How often, and for how long in all, a call is tried.
///
/// ```
/// use std::time::Duration;
/// use hearth_client::Retry;
///
/// let patient = Retry::times(5).within(Duration::from_secs(20));
/// assert_ne!(patient, Retry::never());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    attempts: u32,
    total: Duration,
}

impl Retry {
    /// Once only: the program decides what to do about a failure.
    pub const fn never() -> Self {
        Self { attempts: 1, total: Duration::ZERO }
    }

    /// At most so often, and a minute in all. 0 counts as 1.
    pub const fn times(attempts: u32) -> Self {
        Self { attempts, total: DEFAULT_TOTAL }
    }

    /// For so long, counted from the first attempt.
    pub const fn for_at_most(total: Duration) -> Self {
        Self { attempts: u32::MAX, total }
    }

    /// Bounds the time of all attempts and the waits between them.
    #[must_use]
    pub const fn within(self, total: Duration) -> Self {
        Self { total, ..self }
    }

    /// Whether nothing is ever tried again.
    pub(crate) fn is_never(&self) -> bool {
        self.attempts <= 1 || self.total.is_zero()
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self::never()
    }
}

/// The attempts of one call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempts {
    retry: Retry,
    made: u32,
}

impl Attempts {
    pub(crate) fn new(retry: Retry) -> Self {
        Self { retry, made: 1 }
    }

    /// How long to wait after a failure, `elapsed` after the first attempt began. None: that was the last one.
    /// `random` lies between 0 and 1.
    pub(crate) fn next(&mut self, error: &Error, elapsed: Duration, random: f64) -> Option<Duration> {
        if self.made >= self.retry.attempts {
            return None;
        }
        let wait = wait(error, self.made, random)?;
        self.made += 1;
        let in_time = elapsed.checked_add(wait).is_some_and(|end| end <= self.retry.total);
        in_time.then_some(wait)
    }
}

/// The wait after the attempt number `made`, where another may help.
fn wait(error: &Error, made: u32, random: f64) -> Option<Duration> {
    match error {
        // Spread apart, so that those who were sent away together do not come back together.
        Error::Unreachable { .. } => {
            let doubled = FIRST_WAIT.saturating_mul(1 << (made - 1).min(10)).min(LONGEST_WAIT);
            Some(doubled.mul_f64(0.5 + random / 2.0))
        }
        Error::Refused(refusal) if refusal.is_retryable() => {
            refusal.retry_after.map(|wait| wait.mul_f64(1.0 + random / 4.0))
        }
        _ => None,
    }
}

/// Between 0 and 1, another one each time. For spreading waits, and for nothing else.
pub(crate) fn random() -> f64 {
    let number = RandomState::new().build_hasher().finish() >> 32;
    u32::try_from(number).map_or(0.5, |number| f64::from(number) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Code, Endpoint, Refusal};

    fn unreachable() -> Error {
        Error::Unreachable { endpoint: Endpoint::default(), source: std::io::ErrorKind::NotFound.into() }
    }

    fn refused(code: Code, retry_after: Option<u64>) -> Error {
        let retry_after = retry_after.map(Duration::from_secs);
        Error::Refused(Box::new(Refusal { code, retry_after, ..Refusal::plain(code, "no") }))
    }

    fn waits(retry: Retry, error: &Error, random: f64) -> Vec<Duration> {
        let (mut attempts, mut elapsed, mut waits) = (Attempts::new(retry), Duration::ZERO, Vec::new());
        while let Some(wait) = attempts.next(error, elapsed, random) {
            elapsed += wait;
            waits.push(wait);
        }
        waits
    }

    #[test]
    fn attempts_and_time_are_bounded() {
        assert!(waits(Retry::never(), &unreachable(), 0.5).is_empty());
        assert_eq!(waits(Retry::times(4), &unreachable(), 0.5).len(), 3);
        let total = Duration::from_secs(10);
        let spent: Duration = waits(Retry::for_at_most(total), &unreachable(), 1.0).iter().sum();
        assert!(spent <= total && spent > total - LONGEST_WAIT, "{spent:?}");
        assert!(waits(Retry::times(9).within(Duration::from_millis(50)), &unreachable(), 0.0).is_empty());
    }

    #[test]
    fn waits_grow_up_to_a_bound_and_are_spread() {
        let waited = waits(Retry::times(12).within(Duration::from_secs(600)), &unreachable(), 1.0);
        assert_eq!(waited[0], FIRST_WAIT);
        assert_eq!(waited[1], FIRST_WAIT * 2);
        assert_eq!(waited.last(), Some(&LONGEST_WAIT));
        assert_eq!(waits(Retry::times(2), &unreachable(), 0.0), [FIRST_WAIT / 2]);
    }

    #[test]
    fn the_wait_of_the_daemon_is_kept_and_never_cut() {
        let full = refused(Code::ResourceExhausted, Some(4));
        assert_eq!(waits(Retry::times(2), &full, 0.0), [Duration::from_secs(4)]);
        assert_eq!(waits(Retry::times(2), &full, 1.0), [Duration::from_secs(5)]);
        assert!(waits(Retry::for_at_most(Duration::from_secs(3)), &full, 0.0).is_empty());
    }

    #[test]
    fn what_may_have_done_something_is_not_tried_again() {
        let lost = Error::ConnectionLost {
            endpoint: Endpoint::default(),
            source: std::io::ErrorKind::BrokenPipe.into(),
        };
        for error in [
            lost,
            Error::Protocol("x"),
            refused(Code::NotFound, None),
            refused(Code::ResourceExhausted, None),
            refused(Code::Unavailable, None),
        ] {
            assert!(waits(Retry::times(9), &error, 0.5).is_empty(), "{error:?}");
        }
    }

    #[test]
    fn random_numbers_lie_between_0_and_1() {
        assert!((0..100).map(|_| random()).all(|number| (0.0..=1.0).contains(&number)));
    }
}
