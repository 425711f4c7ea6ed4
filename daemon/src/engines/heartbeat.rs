//! Whether an engine is alive. Pure: signs of life and times in, a verdict out.
//!
//! An engine beats twice a second while it has work, and once when it becomes busy or idle. An engine
//! that nobody wants anything of owes no sign, and watching it costs no wake-up. One that somebody
//! waits for has failed
//!
//! - when it was given work and not a single sign has come since (a stopped process), or
//! - when it said that it is busy and then fell silent, or
//! - when it beats and says that it is busy, and its progress does not move (a hang).

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use super::event::Beat;

/// Watches one engine.
#[derive(Debug)]
pub(super) struct Heartbeat {
    timeout: Duration,
    /// Requests that somebody waits for; a load counts as one.
    work: u32,
    /// When it was given work that it has shown no sign of since.
    unanswered: Option<Instant>,
    /// The last sign of any kind.
    last_sign: Instant,
    /// What it last said it is doing.
    busy: bool,
    /// The last progress that differed from the one before, and when.
    progress: (u64, Instant),
    /// Whether any sign counts as progress: a load has its own measure of that.
    lenient: bool,
}

/// Why an engine is to be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hung {
    /// No sign of life.
    Silent(Duration),
    /// Signs, but no progress.
    Stuck(Duration),
}

impl Heartbeat {
    /// An engine of which nobody wants anything.
    pub(super) fn new(timeout: Duration, now: Instant) -> Self {
        let progress = (0, now);
        Self { timeout, work: 0, unanswered: None, last_sign: now, busy: false, progress, lenient: false }
    }

    /// An engine that loads: any sign will do.
    pub(super) fn of_load(timeout: Duration, now: Instant) -> Self {
        let mut heart = Self { lenient: true, ..Self::new(timeout, now) };
        heart.work(now, 1);
        heart
    }

    /// So many wait for it now.
    pub(super) fn work(&mut self, now: Instant, work: u32) {
        if work > self.work {
            self.unanswered.get_or_insert(now);
        }
        if self.work == 0 || work == 0 {
            self.progress.1 = now;
            self.last_sign = now;
        }
        if work == 0 {
            self.unanswered = None;
        }
        self.work = work;
    }

    /// A beat came.
    pub(super) fn beat(&mut self, now: Instant, beat: &Beat) {
        let began = beat.busy && !self.busy;
        if began || beat.progress != self.progress.0 {
            self.progress = (beat.progress, now);
        }
        self.busy = beat.busy;
        self.sign(now);
    }

    /// It was heard of at `at`, by a beat or otherwise.
    pub(super) fn sign(&mut self, at: Instant) {
        self.last_sign = self.last_sign.max(at);
        if self.lenient {
            self.progress.1 = self.last_sign;
        }
        if self.unanswered.is_some_and(|since| at >= since) {
            self.unanswered = None;
        }
    }

    /// When to ask for a verdict next, if nothing happens before.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let unanswered = self.unanswered;
        let busy = (self.work > 0 && self.busy).then(|| self.last_sign.min(self.progress.1));
        unanswered.into_iter().chain(busy).min().map(|since| since + self.timeout)
    }

    /// Whether it has failed by `now`.
    pub(super) fn verdict(&self, now: Instant) -> Option<Hung> {
        if self.work == 0 {
            return None;
        }
        let late = |since: Instant| now.saturating_duration_since(since) >= self.timeout;
        let silent = self.unanswered.is_some_and(late) || (self.busy && late(self.last_sign));
        let stuck = self.busy && late(self.progress.1);
        match (silent, stuck) {
            (true, _) => Some(Hung::Silent(self.timeout)),
            (false, true) => Some(Hung::Stuck(self.timeout)),
            (false, false) => None,
        }
    }
}

impl fmt::Display for Hung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent(time) => {
                write!(f, "the engine gave no sign of life for {} and was ended", Seconds(*time))
            }
            Self::Stuck(time) => write!(f, "the engine made no progress for {} and was ended", Seconds(*time)),
        }
    }
}

struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s", self.0.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);

    fn beat(busy: bool, progress: u64) -> Beat {
        Beat { busy, progress, ..Beat::default() }
    }

    fn watched() -> (Heartbeat, impl Fn(u64) -> Instant) {
        let start = Instant::now();
        (Heartbeat::new(TIMEOUT, start), move |seconds| start + Duration::from_secs(seconds))
    }

    #[test]
    fn an_idle_engine_owes_nothing() {
        let (mut heart, at) = watched();
        heart.beat(at(0), &beat(false, 7));
        assert_eq!((heart.deadline(), heart.verdict(at(9000))), (None, None));
    }

    #[test]
    fn a_stopped_engine_is_found_by_its_silence() {
        let (mut heart, at) = watched();
        heart.work(at(100), 1);
        assert_eq!((heart.deadline(), heart.verdict(at(129))), (Some(at(130)), None));
        assert_eq!(heart.verdict(at(130)), Some(Hung::Silent(TIMEOUT)));
    }

    #[test]
    fn a_stop_in_mid_work_is_found_too() {
        let (mut heart, at) = watched();
        heart.work(at(0), 1);
        (0..50).for_each(|i| heart.beat(at(i), &beat(true, i)));
        assert_eq!(heart.verdict(at(78)), None);
        assert_eq!(heart.verdict(at(79)), Some(Hung::Silent(TIMEOUT)));
    }

    #[test]
    fn a_hang_is_found_although_it_beats() {
        let (mut heart, at) = watched();
        heart.work(at(0), 2);
        (0..40).for_each(|i| heart.beat(at(i), &beat(true, 5)));
        assert_eq!(heart.verdict(at(29)), None);
        assert_eq!(heart.verdict(at(39)), Some(Hung::Stuck(TIMEOUT)));
    }

    #[test]
    fn an_engine_that_waits_for_a_slow_reader_is_alive() {
        let (mut heart, at) = watched();
        heart.work(at(0), 1);
        heart.beat(at(1), &beat(true, 1));
        heart.beat(at(2), &beat(false, 2));
        assert_eq!((heart.deadline(), heart.verdict(at(5000))), (None, None));
        heart.beat(at(5000), &beat(true, 2));
        assert_eq!(heart.verdict(at(5029)), None);
    }

    #[test]
    fn events_of_a_stream_are_signs() {
        let (mut heart, at) = watched();
        heart.work(at(0), 1);
        heart.sign(at(20));
        assert_eq!(heart.verdict(at(60)), None);
        heart.work(at(60), 2);
        assert_eq!(heart.verdict(at(90)), Some(Hung::Silent(TIMEOUT)));
    }
}
