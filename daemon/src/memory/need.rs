//! What a model takes in memory, at any size of its context, and the ways in which it may be loaded.

use std::fmt;
use std::str::FromStr;

use crate::units::Bytes;

/// The smallest context that a model is given when memory is short, in tokens.
pub const LEAST_CONTEXT: u32 = 512;

/// Contexts are made in steps of so many tokens.
pub const STEP: u32 = 256;

/// Candidates of an answer's next token, for one token of the vocabulary, in bytes.
const ANSWER_PER_TOKEN: u64 = 16;

/// llama.cpp keeps the logits of a token, 4 bytes for each of the vocabulary, for every sequence that a context may have
/// (`output_reserve` in llama-context.cpp); an engine has two sequences for each answer.
const LOGITS_PER_TOKEN: u64 = 2 * 4;

/// What an engine takes beside what its inspector did, weights and context: queues, stacks, llama.cpp's working
/// memory; measured likewise.
const RUNNING: Bytes = Bytes(1 << 20);

/// What the context is kept as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KvType {
    /// 16-bit floats.
    F16,
    /// 8-bit blocks: half the memory.
    Q8_0,
    /// 4-bit blocks: a quarter of the memory, at some cost in quality.
    Q4_0,
}

/// Why a text is not a [`KvType`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not f16, q8_0 or q4_0")]
pub struct BadKvType(pub String);

/// Sizes of a context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Tokens that all answers share.
    pub tokens: u32,
    /// Answers at a time.
    pub sequences: u32,
    /// Most tokens in one step.
    pub micro_batch: u32,
    /// How keys and values are kept.
    pub kv_type: KvType,
}

/// What a context of some sizes takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// The sizes.
    pub sizes: Sizes,
    /// Keys and values.
    pub kv: Bytes,
    /// Compute buffers.
    pub compute: Bytes,
}

/// What the weights take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weights {
    /// As pages of the file.
    pub mapped: Bytes,
    /// In memory of their own, rearranged for the CPU's kernels; `None` where the kernels like nothing of it.
    pub repacked: Option<Bytes>,
    /// The largest that is rearranged, and in memory twice while it is.
    pub staging: Bytes,
}

/// What a model takes, as an inspector found out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// The weights.
    pub weights: Weights,
    /// The process with its vocabulary and the logits of its context.
    pub process: Bytes,
    /// Answers at a time of that context; 0 where it has no logits.
    pub process_sequences: u32,
    /// What the first grammar adds to that.
    pub grammar: Bytes,
    /// Tokens of the vocabulary.
    pub vocabulary: u32,
    /// Contexts: every combination of some values for each of the sizes.
    pub points: Vec<Point>,
    /// What engines of this model were seen to take besides.
    pub correction: Correction,
}

/// What engines were measured to take beyond the estimate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Correction {
    /// Once they were loaded, beyond what the inspector took, or less; in bytes. Weights that are rearranged leave other
    /// memory behind than those that stay in their file.
    pub at_start: AtStart,
    /// The most beyond what was reserved, while they worked.
    pub in_use: Bytes,
}

/// Bytes, by where the weights are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AtStart {
    /// Rearranged, in memory of their own.
    pub repacked: i64,
    /// Pages of the file.
    pub mapped: i64,
}

/// How a load is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Sizes to begin with.
    pub sizes: Sizes,
    /// Whether the context may begin smaller where memory is short.
    pub may_shorten: bool,
    /// Whether keys and values may be kept in fewer bits where memory is short.
    pub may_quantize: bool,
    /// Whether weights are rearranged where the kernels like it.
    pub repack: bool,
}

/// A way to load a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Its sizes to begin with.
    pub sizes: Sizes,
    /// Whether its weights are rearranged.
    pub repack: bool,
    /// What it takes.
    pub estimate: Estimate,
}

/// Bytes that an engine takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Weights.
    pub weights: Bytes,
    /// Whether they are pages of the file.
    pub mapped: bool,
    /// What the load takes beyond the weights while it runs.
    pub staging: Bytes,
    /// Keys and values.
    pub kv: Bytes,
    /// Compute buffers.
    pub compute: Bytes,
    /// Everything else.
    pub process: Bytes,
    /// As much of that is there once the model is loaded, before it was asked anything.
    pub from_start: Bytes,
}

impl AtStart {
    /// The one for weights that are mapped, or not.
    pub fn of(self, mapped: bool) -> i64 {
        if mapped { self.mapped } else { self.repacked }
    }

    /// With another one for weights that are mapped, or not.
    #[must_use]
    pub fn with(self, mapped: bool, bytes: i64) -> Self {
        if mapped { Self { mapped: bytes, ..self } } else { Self { repacked: bytes, ..self } }
    }
}

impl Estimate {
    /// Once the model is loaded, with its context full and everything used.
    pub fn loaded(&self) -> Bytes {
        self.weights + self.kv + self.compute + self.process
    }

    /// The most at any moment of load and use.
    pub fn peak(&self) -> Bytes {
        self.loaded().max(self.weights + self.staging + self.process)
    }
}

impl Footprint {
    /// What a load takes. `None` where nothing is known of contexts of this kind.
    pub fn estimate(&self, sizes: &Sizes, repack: bool) -> Option<Estimate> {
        let (kv, compute) = self.context(sizes)?;
        let repacked = self.weights.repacked.filter(|_| repack);
        let mapped = repacked.is_none();
        let at_start = self.at_start(sizes.sequences, mapped);
        let per_token = ANSWER_PER_TOKEN * u64::from(sizes.sequences);
        let answers = Bytes(u64::from(self.vocabulary).saturating_mul(per_token));
        Some(Estimate {
            weights: repacked.unwrap_or(self.weights.mapped),
            mapped,
            staging: if repacked.is_some() { self.weights.staging } else { Bytes(0) },
            kv,
            compute,
            process: at_start + self.grammar + answers + RUNNING + self.correction.in_use,
            from_start: at_start,
        })
    }

    fn at_start(&self, sequences: u32, mapped: bool) -> Bytes {
        let per_answer = u64::from(self.vocabulary) * LOGITS_PER_TOKEN;
        let logits = |sequences: u32| Bytes(u64::from(sequences).saturating_mul(per_answer));
        let process = match self.process_sequences {
            0 => self.process,
            inspected => self.process.saturating_sub(logits(inspected)) + logits(sequences),
        };
        Bytes(process.0.saturating_add_signed(self.correction.at_start.of(mapped)))
    }

    /// Keys and values, and compute buffers. Between two known sizes both grow evenly; where a size is not among
    /// the known ones, the next larger one counts.
    fn context(&self, sizes: &Sizes) -> Option<(Bytes, Bytes)> {
        let of_kind = || self.points.iter().filter(|point| point.sizes.kv_type == sizes.kv_type);
        let sequences = at_least(of_kind().map(|point| point.sizes.sequences), sizes.sequences)?;
        let micro_batch = at_least(of_kind().map(|point| point.sizes.micro_batch), sizes.micro_batch)?;
        let mut row: Vec<&Point> = of_kind()
            .filter(|point| point.sizes.sequences == sequences && point.sizes.micro_batch == micro_batch)
            .collect();
        row.sort_by_key(|point| point.sizes.tokens);
        row.dedup_by_key(|point| point.sizes.tokens);
        // llama.cpp rounds up.
        let tokens = sizes.tokens.next_multiple_of(STEP);
        let above = row.partition_point(|point| point.sizes.tokens < tokens);
        let (low, high) = match (row.get(above), above.checked_sub(1).and_then(|at| row.get(at))) {
            (Some(high), _) if high.sizes.tokens == tokens => (*high, *high),
            (Some(high), Some(low)) => (*low, *high),
            // Outside of what is known: as between the two at that end.
            (Some(high), None) => (*high, row.get(1).copied().unwrap_or(*high)),
            (None, Some(last)) => {
                (row.len().checked_sub(2).and_then(|at| row.get(at)).copied().unwrap_or(*last), *last)
            }
            (None, None) => return None,
        };
        let between = |value: fn(&Point) -> Bytes| {
            even((low.sizes.tokens, value(low)), (high.sizes.tokens, value(high)), tokens)
        };
        Some((between(|point| point.kv), between(|point| point.compute)))
    }

    /// The ways to load it, the best first. `skip` leaves out so many of them: that was too much before.
    pub fn choices(&self, wish: &Wish, skip: usize) -> Vec<Choice> {
        let sizes = wish.sizes;
        let least = LEAST_CONTEXT.min(sizes.tokens);
        let halves = std::iter::successors(Some(sizes.tokens), |tokens| Some(tokens / 2));
        let lengths: Vec<u32> = if wish.may_shorten {
            halves.take_while(|tokens| *tokens >= least.max(1)).collect()
        } else {
            vec![sizes.tokens]
        };
        let mut types = vec![sizes.kv_type];
        if wish.may_quantize && sizes.kv_type == KvType::F16 {
            types.push(KvType::Q8_0);
        }
        let mut choices: Vec<Choice> = Vec::new();
        for kv_type in types {
            for &tokens in &lengths {
                let sizes = Sizes { tokens, kv_type, ..sizes };
                // Rearranging takes more while it lasts, so that there may be room for the other way only.
                for repack in [true, false] {
                    let Some(estimate) = self.estimate(&sizes, repack && wish.repack) else { continue };
                    let is_less = choices.iter().all(|known| estimate.peak() < known.estimate.peak());
                    if is_less {
                        choices.push(Choice { sizes, repack: !estimate.mapped, estimate });
                    }
                }
            }
        }
        let skip = skip.min(choices.len().saturating_sub(1));
        choices.split_off(skip)
    }

    /// The largest context that fits into `room`, in tokens; `None` where none does.
    pub fn largest_context(&self, wish: &Wish, room: Bytes) -> Option<u32> {
        let peak = |tokens: u32| {
            let sizes = Sizes { tokens, ..wish.sizes };
            let ways = [wish.repack, false].into_iter().filter_map(|repack| self.estimate(&sizes, repack));
            ways.map(|estimate| estimate.peak()).min()
        };
        let most = self.points.iter().map(|point| point.sizes.tokens).max()?;
        let fits = |steps: u32| peak(steps * STEP).is_some_and(|peak| peak <= room);
        let (mut low, mut high) = (0, most / STEP);
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            if fits(middle) { low = middle } else { high = middle - 1 }
        }
        (low > 0).then_some(low * STEP)
    }
}

/// The least of `known` that is not less than `wanted`, else the largest.
fn at_least(known: impl Iterator<Item = u32>, wanted: u32) -> Option<u32> {
    known.max_by_key(|value| (*value >= wanted, if *value >= wanted { u32::MAX - value } else { *value }))
}

/// The value at `at` of the straight line through two points, rounded up; never below zero.
fn even(low: (u32, Bytes), high: (u32, Bytes), at: u32) -> Bytes {
    let run = i128::from(high.0) - i128::from(low.0);
    if run == 0 {
        return high.1;
    }
    let rise = i128::from(high.1.0) - i128::from(low.1.0);
    let along = i128::from(at) - i128::from(low.0);
    let value = i128::from(low.1.0) + (rise * along + run.abs() - 1).div_euclid(run);
    Bytes(u64::try_from(value.max(0)).unwrap_or(u64::MAX))
}

impl fmt::Display for KvType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F16 => "f16",
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
        })
    }
}

impl FromStr for KvType {
    type Err = BadKvType;

    fn from_str(text: &str) -> Result<Self, BadKvType> {
        match text {
            "f16" => Ok(Self::F16),
            "q8_0" => Ok(Self::Q8_0),
            "q4_0" => Ok(Self::Q4_0),
            _ => Err(BadKvType(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn sizes(tokens: u32, kv_type: KvType) -> Sizes {
        Sizes { tokens, sequences: 8, micro_batch: 256, kv_type }
    }

    /// 1 MiB for 16 tokens in f16, half of it in q8_0; compute grows by a tenth of that.
    fn footprint() -> Footprint {
        let mut points = Vec::new();
        for (kv_type, factor) in [(KvType::F16, 2), (KvType::Q8_0, 1)] {
            for tokens in [512, 1024, 2048, 4096, 8192] {
                for (sequences, micro_batch) in [(1, 64), (1, 256), (8, 64), (8, 256)] {
                    let sizes = Sizes { tokens, sequences, micro_batch, kv_type };
                    let kv = Bytes(u64::from(tokens) / 32 * factor * MIB);
                    let compute = Bytes(u64::from(micro_batch + sequences) * MIB / 8);
                    points.push(Point { sizes, kv, compute });
                }
            }
        }
        let weights =
            Weights { mapped: Bytes(400 * MIB), repacked: Some(Bytes(410 * MIB)), staging: Bytes(50 * MIB) };
        Footprint {
            weights,
            process: Bytes(20 * MIB),
            process_sequences: 0,
            grammar: Bytes(0),
            vocabulary: 0,
            points,
            correction: Correction::default(),
        }
    }

    fn wish(tokens: u32) -> Wish {
        Wish { sizes: sizes(tokens, KvType::F16), may_shorten: true, may_quantize: true, repack: true }
    }

    #[test]
    fn each_answer_more_than_the_inspector_had_takes_two_logits() {
        let known = Footprint { vocabulary: 1 << 17, process_sequences: 8, ..footprint() };
        let start = |sequences| {
            let sizes = Sizes { sequences, ..sizes(1024, KvType::F16) };
            known.estimate(&sizes, false).expect("a known size").from_start
        };
        assert_eq!([8, 1, 9].map(start), [20, 13, 21].map(|mib| Bytes(mib * MIB)));
    }

    #[test]
    fn what_rearranged_weights_leave_behind_is_not_of_mapped_ones() {
        let at_start = AtStart { repacked: 8 << 20, mapped: -(1 << 20) };
        let known = footprint();
        let seen = Footprint { correction: Correction { at_start, in_use: Bytes(0) }, ..footprint() };
        let sizes = sizes(1024, KvType::F16);
        for (repack, more) in [(true, 8), (false, -1)] {
            let process = |of: &Footprint| of.estimate(&sizes, repack).expect("a known size").process;
            assert_eq!(process(&seen), Bytes(process(&known).0.saturating_add_signed(more << 20)));
        }
    }

    #[test]
    fn known_sizes_are_exact_and_others_lie_between() {
        let footprint = footprint();
        let kv = |tokens| footprint.estimate(&sizes(tokens, KvType::F16), true).expect("known").kv;
        assert_eq!(kv(2048), Bytes(128 * MIB));
        assert_eq!(kv(3072), Bytes(192 * MIB));
        assert_eq!(
            (kv(256), kv(16384)),
            (Bytes(16 * MIB), Bytes(1024 * MIB)),
            "beyond the known as at its end"
        );
        let odd = Sizes { sequences: 3, micro_batch: 100, ..sizes(512, KvType::F16) };
        assert_eq!(
            footprint.estimate(&odd, true).expect("known").compute,
            Bytes(33 * MIB),
            "the next larger"
        );
        assert!(footprint.estimate(&sizes(512, KvType::Q4_0), true).is_none());
    }

    #[test]
    fn choices_get_smaller_and_end_at_the_least_context() {
        let choices = footprint().choices(&wish(4096), 0);
        assert_eq!((choices[0].sizes.tokens, choices[0].repack), (4096, true));
        assert!(choices.windows(2).all(|pair| pair[1].estimate.peak() < pair[0].estimate.peak()));
        let last = choices.last().expect("some");
        assert_eq!((last.sizes.tokens, last.sizes.kv_type, last.repack), (512, KvType::Q8_0, false));
        assert_eq!(footprint().choices(&wish(4096), 99), [*last], "one is always left");
        let exact = Wish { may_shorten: false, may_quantize: false, ..wish(4096) };
        assert!(footprint().choices(&exact, 0).iter().all(|choice| choice.sizes == exact.sizes));
    }

    #[test]
    fn the_load_peaks_while_a_large_weight_is_in_memory_twice() {
        let estimate = footprint().estimate(&sizes(512, KvType::Q8_0), true).expect("known");
        assert!(estimate.peak() >= estimate.loaded());
        assert_eq!(estimate.peak(), Bytes((410 + 50 + 20 + 1) * MIB));
    }

    proptest! {
        #[test]
        fn the_largest_context_fits_and_the_next_does_not(room in 400u64..2000) {
            let (footprint, room) = (footprint(), Bytes(room * MIB));
            let peak = |tokens| {
                let ways = [true, false].map(|repack| {
                    footprint.estimate(&sizes(tokens, KvType::F16), repack).expect("known").peak()
                });
                ways.into_iter().min().expect("two")
            };
            match footprint.largest_context(&wish(4096), room) {
                Some(tokens) => {
                    prop_assert!(peak(tokens) <= room);
                    prop_assert!(tokens == 8192 || peak(tokens + 256) > room);
                }
                None => prop_assert!(peak(256) > room),
            }
        }
    }
}
