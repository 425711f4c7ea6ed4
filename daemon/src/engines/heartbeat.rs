//! Whether an engine is alive. Pure: signs of life and times in, a verdict out.
//!
//! An engine beats twice a second while it has work, and once when it becomes busy or idle. An engine
//! that nobody wants anything of owes no sign, and watching it costs no wake-up. One that somebody
//! waits for has failed
//!
//! - when it was given work and falls silent before it has said that it is busy (a stopped process), or
//! - when it said that it is busy and then fell silent, or
//! - when it beats and says that it is busy, and its progress does not move (a hang).
//!
//! An idle beat answers for new work only once the engine is known to have begun that work: it may be the
//! last word on older work.

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
    /// When it was given work that it has not yet said a word on.
    unanswered: Option<Instant>,
    /// The last sign of any kind.
    last_sign: Instant,
    /// The last time that it did something for a request.
    last_deed: Instant,
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
        Self {
            timeout,
            work: 0,
            unanswered: None,
            last_sign: now,
            last_deed: now,
            busy: false,
            progress: (0, now),
            lenient: false,
        }
    }

    /// An engine that loads: any sign will do.
    pub(super) fn of_load(timeout: Duration, now: Instant) -> Self {
        let mut heart = Self { lenient: true, ..Self::new(timeout, now) };
        heart.work(now, 1);
        heart
    }

    /// So many wait for it now.
    pub(super) fn work(&mut self, now: Instant, work: u32) {
        if !self.owes_signs() {
            self.progress.1 = now;
            self.last_sign = now;
        }
        if work > self.work {
            self.unanswered.get_or_insert(now);
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
        self.heard(now);
        let begun = self.unanswered.is_some_and(|since| self.last_deed >= since);
        if beat.busy || begun {
            self.unanswered = None;
        }
    }

    /// It did something for one of its requests at `at`.
    pub(super) fn sign(&mut self, at: Instant) {
        self.last_deed = self.last_deed.max(at);
        self.heard(at);
    }

    fn heard(&mut self, at: Instant) {
        self.last_sign = self.last_sign.max(at);
        if self.lenient {
            self.progress.1 = self.last_sign;
        }
    }

    /// When to ask for a verdict next, if nothing happens before.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let silence = self.owes_signs().then_some(self.last_sign);
        let hang = (self.work > 0 && self.busy).then_some(self.progress.1);
        silence.into_iter().chain(hang).min().map(|since| since + self.timeout)
    }

    /// Whether it has failed by `now`.
    pub(super) fn verdict(&self, now: Instant) -> Option<Hung> {
        let late = |since: Instant| now.saturating_duration_since(since) >= self.timeout;
        if self.owes_signs() && late(self.last_sign) {
            Some(Hung::Silent(self.timeout))
        } else if self.work > 0 && self.busy && late(self.progress.1) {
            Some(Hung::Stuck(self.timeout))
        } else {
            None
        }
    }

    fn owes_signs(&self) -> bool {
        self.work > 0 && (self.busy || self.unanswered.is_some())
    }
}

impl fmt::Display for Hung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent(time) => {
                write!(f, "the engine gave no sign of life for {} and was ended", Seconds(*time))
            }
            Self::Stuck(time) => {
                write!(f, "the engine made no progress for {} and was ended", Seconds(*time))
            }
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
    fn an_idle_beat_answers_for_nothing() {
        let (mut heart, at) = watched();
        heart.work(at(100), 1);
        heart.beat(at(101), &beat(false, 1));
        assert_eq!((heart.verdict(at(130)), heart.verdict(at(131))), (None, Some(Hung::Silent(TIMEOUT))));
        heart.beat(at(132), &beat(true, 2));
        assert_eq!(heart.verdict(at(133)), None);
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
    fn events_of_a_stream_are_signs_but_do_not_end_the_watch() {
        let (mut heart, at) = watched();
        heart.work(at(0), 1);
        heart.sign(at(20));
        assert_eq!((heart.deadline(), heart.verdict(at(49))), (Some(at(50)), None));
        assert_eq!(heart.verdict(at(50)), Some(Hung::Silent(TIMEOUT)));
    }

    #[test]
    fn work_that_was_done_between_two_beats_is_answered_by_the_idle_one() {
        let (mut heart, at) = watched();
        heart.work(at(100), 1);
        heart.sign(at(101));
        heart.beat(at(101), &beat(false, 9));
        assert_eq!((heart.deadline(), heart.verdict(at(5000))), (None, None));
    }

    #[test]
    fn a_load_lives_by_any_sign() {
        let start = Instant::now();
        let mut heart = Heartbeat::of_load(TIMEOUT, start);
        let at = |seconds| start + Duration::from_secs(seconds);
        (1..100).for_each(|i| heart.beat(at(i), &beat(true, 0)));
        assert_eq!(heart.verdict(at(128)), None);
        assert_eq!(heart.verdict(at(129)), Some(Hung::Silent(TIMEOUT)));
    }
}
