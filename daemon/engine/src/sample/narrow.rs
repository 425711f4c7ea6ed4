//! The likeliest few of a large vocabulary, in one pass over the logits.
//!
//! A vocabulary has up to 150,000 tokens and a sampler looks at the 40 likeliest of them. Writing all of them
//! into a candidate array costs more than choosing: so the logits are read in blocks, and a block is looked
//! at only if its largest logit can still count.

use std::cmp::Ordering;

use crate::llama::Candidate;

/// Logits of one block; the compiler compares them many at a time.
const BLOCK: usize = 64;

/// Puts the `count` largest logits into `found`, largest first and of equals the smaller id first. There are
/// fewer where other logits are no numbers or minus infinity, or where `allowed` has not as many bits: its words
/// stand for 32 tokens each, the first token lowest.
pub(super) fn largest(logits: &[f32], allowed: Option<&[u32]>, count: usize, found: &mut Vec<Candidate>) {
    found.clear();
    let mut least = f32::NEG_INFINITY;
    for (at, (first, block)) in (0..).step_by(BLOCK).zip(logits.chunks(BLOCK)).enumerate() {
        let bits = allowed.map_or(u64::MAX, |words| block_bits(words, at));
        if bits != 0 && maximum(block) > least {
            // Of equals the smaller id wins, so what comes later must be larger.
            let new = (first..).zip(block).enumerate();
            let new = new.filter(|&(bit, (_, &logit))| bits >> bit & 1 == 1 && logit > least);
            found.extend(new.map(|(_, (token, &logit))| Candidate { token, logit, probability: 0.0 }));
            if found.len() >= count + BLOCK {
                least = keep(found, count);
            }
        }
    }
    keep(found, count);
    found.sort_unstable_by(likelier);
}

/// The bits of one block: two words, or fewer at the end.
fn block_bits(words: &[u32], block: usize) -> u64 {
    let word = |at: usize| words.get(at).copied().map_or(0, u64::from);
    word(2 * block) | word(2 * block + 1) << 32
}

/// Drops all but the `count` likeliest; returns the smallest logit among them if there are so many.
fn keep(found: &mut Vec<Candidate>, count: usize) -> f32 {
    if count == 0 || found.len() < count {
        return f32::NEG_INFINITY;
    }
    found.select_nth_unstable_by(count - 1, likelier);
    found.truncate(count);
    found[count - 1].logit
}

/// The largest logit; one that is no number never counts.
fn maximum(block: &[f32]) -> f32 {
    block.iter().fold(f32::NEG_INFINITY, |most, &logit| if logit > most { logit } else { most })
}

fn likelier(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sorted(logits: &[f32], count: usize) -> Vec<(i32, f32)> {
        let mut all: Vec<(i32, f32)> = (0..).zip(logits.iter().copied()).collect();
        all.retain(|&(_, logit)| logit > f32::NEG_INFINITY);
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        all.truncate(count);
        all
    }

    fn narrowed(logits: &[f32], count: usize) -> Vec<(i32, f32)> {
        let mut found = Vec::new();
        largest(logits, None, count, &mut found);
        found.into_iter().map(|candidate| (candidate.token, candidate.logit)).collect()
    }

    proptest! {
        #[test]
        fn it_finds_what_sorting_finds(
            // Few values, so that there are many equals.
            logits in prop::collection::vec(
                prop_oneof![(-6..6i8).prop_map(f32::from), -4.0f32..4.0, Just(f32::NEG_INFINITY)], 1..700),
            count in 1..70usize,
        ) {
            prop_assert_eq!(narrowed(&logits, count), sorted(&logits, count));
        }
    }

    proptest! {
        #[test]
        fn only_what_is_allowed_is_found(
            logits in prop::collection::vec((-6..6i8).prop_map(f32::from), 1..300),
            words in prop::collection::vec(any::<u32>(), 0..10),
            count in 1..70usize,
        ) {
            let allowed = |token: usize| words.get(token / 32).is_some_and(|word| word >> (token % 32) & 1 == 1);
            let masked: Vec<f32> = logits.iter().enumerate()
                .map(|(token, &logit)| if allowed(token) { logit } else { f32::NEG_INFINITY })
                .collect();
            let mut found = Vec::new();
            largest(&logits, Some(&words), count, &mut found);
            let found: Vec<(i32, f32)> = found.into_iter().map(|c| (c.token, c.logit)).collect();
            prop_assert_eq!(found, sorted(&masked, count));
        }
    }

    #[test]
    fn what_is_no_number_never_counts() {
        let logits = [1.0, f32::NAN, 3.0, f32::NEG_INFINITY];
        assert_eq!(narrowed(&logits, 4), [(2, 3.0), (0, 1.0)]);
        assert_eq!(narrowed(&[f32::NAN; 3], 1), []);
    }
}
