//! How many prompt tokens go into a step, so that a step takes the time it is meant to take.
//!
//! A fixed chunk would freeze every stream on a slow board: 128 tokens are 9 to 21 seconds of prefill on
//! a Raspberry Pi. The time of a step is modelled as `decode + tokens * per_token`; both terms follow the
//! measured steps.

use std::time::Duration;

/// Weight of the newest measurement.
const FOLLOW: f64 = 0.3;
/// Prompt tokens of the first step, before anything was measured.
const FIRST_CHUNK: u32 = 16;
/// A chunk is at most by this factor larger than the largest that was measured.
const MOST_GROWTH: u32 = 4;

/// Large chunks are a multiple of this: kernels compute tiles of so many tokens, and a tile that is not full
/// takes as long as a full one.
const TILE: u32 = 32;

/// Prompts get at least this share of the time of a step in which others decode.
const LEAST_SHARE: f64 = 0.3;

/// At most this share of a mixed step is put down to decoding, so that prompt tokens never look free.
const MOST_DECODE: f64 = 0.9;

/// What a step is meant to take.
#[derive(Clone, Copy, Debug)]
pub struct StepTargets {
    /// While another answer is being written.
    pub busy: Duration,
    /// When a prompt is alone.
    pub alone: Duration,
}

/// Follows the measured steps and says how large the next prefill chunk is.
#[derive(Clone, Debug)]
pub struct Pace {
    targets: StepTargets,
    /// Seconds of a step that only decodes.
    decode: f64,
    /// Seconds for each prompt token. `None` until a prefill was measured.
    per_token: Option<f64>,
    largest_chunk: u32,
}

impl Pace {
    /// Nothing measured yet.
    pub fn new(targets: StepTargets) -> Self {
        Self { targets, decode: 0.0, per_token: None, largest_chunk: FIRST_CHUNK / MOST_GROWTH }
    }

    /// Prompt tokens for the next step, at least 1 and at most `ceiling`. `decoding` is the number of
    /// answers that get a token in the same step.
    pub fn chunk(&self, decoding: usize, ceiling: u32) -> u32 {
        let growth = self.largest_chunk.saturating_mul(MOST_GROWTH);
        let wanted = match self.per_token {
            None => growth,
            Some(per_token) => {
                let left = if decoding == 0 {
                    self.targets.alone.as_secs_f64()
                } else {
                    // Where decoding alone takes the whole time, prompts still get on.
                    let target = self.targets.busy.as_secs_f64();
                    (target - self.decode).max(target * LEAST_SHARE)
                };
                whole(left / per_token.max(1e-9)).min(growth)
            }
        };
        whole_tiles(wanted.clamp(1, ceiling.max(1)))
    }

    /// Takes in a step that was computed.
    pub fn measured(&mut self, prefill_tokens: u32, decoding: usize, took: Duration) {
        let took = took.as_secs_f64();
        if prefill_tokens == 0 {
            follow(&mut self.decode, took);
            return;
        }
        let decode = if decoding == 0 { 0.0 } else { self.decode.min(took * MOST_DECODE) };
        if decoding > 0 {
            // The part cannot take longer than the whole: a first slow step must not be believed for ever.
            self.decode = self.decode.min(took);
        }
        let per_token = (took - decode) / f64::from(prefill_tokens);
        match &mut self.per_token {
            None => self.per_token = Some(per_token),
            Some(known) => follow(known, per_token),
        }
        // The end of a prompt is a small chunk that says nothing against larger ones.
        self.largest_chunk = self.largest_chunk.max(prefill_tokens);
    }
}

fn follow(value: &mut f64, newest: f64) {
    *value = if *value == 0.0 { newest } else { *value + FOLLOW * (newest - *value) };
}

fn whole_tiles(chunk: u32) -> u32 {
    if chunk < 2 * TILE { chunk } else { chunk - chunk % TILE }
}

/// The whole part of a number, 0 for a negative one.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the range first")]
fn whole(value: f64) -> u32 {
    value.clamp(0.0, f64::from(u32::MAX)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGETS: StepTargets =
        StepTargets { busy: Duration::from_millis(250), alone: Duration::from_secs(2) };

    /// A board that needs `per_token` for each prompt token and 40 ms for the rest of a step.
    fn settle(per_token: Duration, decoding: usize) -> (Pace, Duration) {
        let mut pace = Pace::new(TARGETS);
        let mut took = Duration::ZERO;
        for _ in 0..40 {
            pace.measured(0, decoding.max(1), Duration::from_millis(40));
            let chunk = pace.chunk(decoding, 4096);
            took = per_token * chunk + Duration::from_millis(if decoding == 0 { 0 } else { 40 });
            pace.measured(chunk, decoding, took);
        }
        (pace, took)
    }

    #[test]
    fn a_step_comes_to_take_what_it_is_meant_to_take() {
        for per_token in [1, 5, 20, 80].map(Duration::from_millis) {
            let busy = settle(per_token, 3).1;
            assert!(busy <= Duration::from_millis(260) && busy >= Duration::from_millis(100), "{busy:?}");
            let alone = settle(per_token, 0).1;
            assert!(
                alone <= Duration::from_millis(2050) && alone >= Duration::from_millis(1500),
                "{alone:?}"
            );
        }
    }

    #[test]
    fn the_end_of_a_prompt_does_not_make_the_next_one_slow() {
        let (mut pace, _) = settle(Duration::from_millis(5), 0);
        let before = pace.chunk(0, 256);
        pace.measured(3, 0, Duration::from_millis(15));
        assert_eq!((before, pace.chunk(0, 256)), (256, 256));
    }

    #[test]
    fn large_chunks_are_whole_tiles() {
        let (pace, _) = settle(Duration::from_millis(15), 0);
        assert_eq!(pace.chunk(0, 4096) % TILE, 0);
    }

    #[test]
    fn a_slow_board_still_gets_on() {
        let (pace, _) = settle(Duration::from_secs(3), 2);
        assert_eq!(pace.chunk(2, 512), 1);
    }

    #[test]
    fn one_slow_step_is_forgotten() {
        let mut pace = Pace::new(TARGETS);
        pace.measured(0, 1, Duration::from_millis(900));
        for _ in 0..20 {
            let chunk = pace.chunk(1, 512);
            pace.measured(chunk, 1, Duration::from_millis(40 + 5 * u64::from(chunk)));
        }
        assert!(pace.chunk(1, 512) >= 30, "{pace:?}");
    }

    #[test]
    fn prompts_get_on_where_decoding_takes_all_the_time() {
        let mut pace = Pace::new(TARGETS);
        for _ in 0..20 {
            pace.measured(0, 1, Duration::from_millis(300));
            let chunk = pace.chunk(1, 512);
            pace.measured(chunk, 1, Duration::from_millis(300 + 10 * u64::from(chunk)));
        }
        assert!(pace.chunk(1, 512) >= 5, "{pace:?}");
    }

    #[test]
    fn the_micro_batch_is_the_ceiling() {
        let (pace, _) = settle(Duration::from_micros(10), 0);
        assert_eq!(pace.chunk(0, 256), 256);
    }
}
