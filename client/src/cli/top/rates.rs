//! How fast each model reads and writes, from what the daemon has counted.
//!
//! The daemon counts tokens and speaks only when something has changed. Two of its messages and the time between
//! them make a rate; where no message comes, nothing was read or written.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hearth_client::v1;

/// Tokens per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Speed {
    /// Of answers.
    pub(super) decode: f64,
    /// Of prompts.
    pub(super) prefill: f64,
}

/// The speed of each model by name; a model whose engine was not seen twice has none.
pub(super) type Speeds = BTreeMap<String, Speed>;

/// What an engine had counted.
#[derive(Clone, Copy, Debug)]
struct Count {
    pid: u32,
    generated: u64,
    prefilled: u64,
}

/// What all engines had counted, and when.
#[derive(Debug)]
pub(super) struct Meter {
    interval: Duration,
    at: Instant,
    counts: BTreeMap<String, Count>,
}

impl Meter {
    /// Messages come at most once per interval.
    pub(super) fn new(interval: Duration, engines: &[v1::Engine], at: Instant) -> Self {
        Self { interval, at, counts: counts(engines) }
    }

    /// The speeds since the message before this one.
    pub(super) fn on_status(&mut self, engines: &[v1::Engine], at: Instant) -> Speeds {
        let seconds = at.saturating_duration_since(self.at).as_secs_f64();
        let before = std::mem::replace(&mut self.counts, counts(engines));
        self.at = at;
        let speeds = self.counts.iter().filter_map(|(model, count)| {
            Some((model.clone(), count.speed_since(before.get(model)?, seconds)?))
        });
        speeds.collect()
    }

    /// Whether the daemon has been quiet for so long that nothing can have happened. The next rate begins then.
    pub(super) fn is_quiet(&mut self, at: Instant) -> bool {
        let quiet = at.saturating_duration_since(self.at) > self.interval * 2;
        if let Some(begun) = at.checked_sub(self.interval).filter(|_| quiet) {
            self.at = begun;
        }
        quiet
    }
}

impl Count {
    /// None: another engine counted before, or no time has passed.
    fn speed_since(&self, before: &Self, seconds: f64) -> Option<Speed> {
        let generated = self.generated.checked_sub(before.generated)?;
        let prefilled = self.prefilled.checked_sub(before.prefilled)?;
        let comparable = self.pid == before.pid && seconds > 0.0;
        comparable
            .then(|| Speed { decode: tokens(generated) / seconds, prefill: tokens(prefilled) / seconds })
    }
}

fn counts(engines: &[v1::Engine]) -> BTreeMap<String, Count> {
    let running = engines.iter().filter(|engine| engine.pid != 0);
    let counts = running.map(|engine| {
        let v1::Engine { pid, generated_tokens: generated, prefilled_tokens: prefilled, .. } = *engine;
        (engine.model.clone(), Count { pid, generated, prefilled })
    });
    counts.collect()
}

/// Exact up to four billion tokens between two messages.
fn tokens(number: u64) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn engine(pid: u32, generated_tokens: u64, prefilled_tokens: u64) -> [v1::Engine; 1] {
        let model = "m".to_owned();
        [v1::Engine { model, pid, generated_tokens, prefilled_tokens, ..v1::Engine::default() }]
    }

    #[test]
    fn a_rate_is_the_difference_over_its_time() {
        let start = Instant::now();
        let mut meter = Meter::new(SECOND, &engine(1, 100, 1000), start);
        let speeds = meter.on_status(&engine(1, 120, 1000), start + SECOND * 2);
        assert_eq!(speeds["m"], Speed { decode: 10.0, prefill: 0.0 });
        let speeds = meter.on_status(&engine(1, 120, 1300), start + SECOND * 3);
        assert_eq!(speeds["m"], Speed { decode: 0.0, prefill: 300.0 });
    }

    #[test]
    fn another_engine_begins_anew() {
        let start = Instant::now();
        let mut meter = Meter::new(SECOND, &engine(1, 100, 0), start);
        assert!(meter.on_status(&engine(2, 200, 0), start + SECOND).is_empty());
        assert!(meter.on_status(&engine(2, 150, 0), start + SECOND * 2).is_empty());
        assert!(meter.on_status(&engine(2, 160, 0), start + SECOND * 2).is_empty(), "no time has passed");
        assert!(meter.on_status(&engine(0, 0, 0), start + SECOND * 3).is_empty());
        assert!(meter.on_status(&[], start + SECOND * 4).is_empty());
    }

    #[test]
    fn the_time_in_which_the_daemon_was_quiet_does_not_count() {
        let start = Instant::now();
        let mut meter = Meter::new(SECOND, &engine(1, 0, 0), start);
        assert!(!meter.is_quiet(start + SECOND * 2));
        assert!(meter.is_quiet(start + SECOND * 60));
        let speeds = meter.on_status(&engine(1, 10, 0), start + SECOND * 60);
        assert_eq!(speeds["m"].decode, 10.0);
    }
}
