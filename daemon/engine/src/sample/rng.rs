//! The random number of an output token: a function of the request's seed and the token's index alone.
//!
//! Because nothing else enters, a stream can be replayed from any token, and the draw does not depend on
//! which other requests ran. The mixing function is SplitMix64's finaliser (Steele, Lea and Flood, "Fast
//! splittable pseudorandom number generators", OOPSLA 2014), applied twice.

/// A number in [0, 1) with 53 random bits.
pub(super) fn uniform(seed: u64, index: u64) -> f64 {
    let bits = mix(mix(seed.wrapping_add(0x9e37_79b9_7f4a_7c15)) ^ index.wrapping_mul(0xd1b5_4a32_d192_ed03));
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit an f64 exactly")]
    let whole = (bits >> 11) as f64;
    whole * (1.0 / 9_007_199_254_740_992.0)
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_place_gives_the_same_number() {
        assert_eq!(uniform(7, 3).to_bits(), uniform(7, 3).to_bits());
        assert_ne!(uniform(7, 3).to_bits(), uniform(7, 4).to_bits());
        assert_ne!(uniform(7, 3).to_bits(), uniform(8, 3).to_bits());
    }

    #[test]
    fn numbers_are_spread_evenly_over_seeds_and_indices() {
        let mut bins = [0u32; 20];
        for seed in 0..200 {
            for index in 0..200 {
                let u = uniform(seed, index);
                assert!((0.0..1.0).contains(&u));
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 19")]
                let bin = (u * 20.0) as usize;
                bins[bin] += 1;
            }
        }
        // 2000 expected in each; five standard deviations are about 220.
        assert!(bins.iter().all(|&n| (1780..2220).contains(&n)), "{bins:?}");
    }
}
