//! How large a context the requests need. Pure: numbers in, numbers out.
//!
//! A context starts small and grows when somebody needs more of it: a request that is next in line and does not
//! fit, or answers that have filled it. The front says whether there is memory for that. Until it has, the
//! request stays in its place, and answers without a cell stand still.

/// Tokens more than are needed now, where nobody said how many it will be.
const MARGIN: usize = 256;
/// llama.cpp's contexts are a multiple of so many tokens.
const UNIT: usize = 256;

/// What one request needs of the context, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Its prompt and what it asked to be written: one token where it named no length.
    pub whole: usize,
    /// What is asked for in its name, where there is less than `whole`.
    pub ask: usize,
}

impl Need {
    /// Of a request that may use `most` tokens of the context.
    pub fn of(prompt: usize, max_tokens: Option<u32>, most: usize) -> Self {
        let with = |more: usize| prompt.saturating_add(more).min(most);
        match max_tokens {
            Some(tokens) => {
                let whole = with(usize::try_from(tokens).unwrap_or(usize::MAX).max(1));
                Self { whole, ask: whole }
            }
            None => Self { whole: with(1), ask: with(MARGIN) },
        }
    }
}

/// The context that answers need that have filled one of `cells` tokens. An eighth more, so that a long answer
/// moves seldom.
pub fn next_size(cells: usize, ceiling: usize) -> usize {
    (cells + MARGIN.max(cells / 8)).min(ceiling)
}

/// The size that llama.cpp makes of so many tokens.
pub const fn rounded(tokens: usize) -> usize {
    tokens.div_ceil(UNIT) * UNIT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_needs_its_prompt_and_what_it_asked_for() {
        assert_eq!(Need::of(1000, Some(500), 8192), Need { whole: 1500, ask: 1500 });
        assert_eq!(Need::of(1000, None, 8192), Need { whole: 1001, ask: 1256 });
        assert_eq!(Need::of(1000, Some(u32::MAX), 8192), Need { whole: 8192, ask: 8192 });
        assert_eq!(Need::of(8191, None, 8192), Need { whole: 8192, ask: 8192 });
    }

    #[test]
    fn a_full_context_grows_by_at_least_the_margin_and_never_over_the_ceiling() {
        assert_eq!(next_size(512, 8192), 768);
        assert_eq!(next_size(8192, 65_536), 9216);
        assert_eq!(next_size(8000, 8192), 8192);
        assert_eq!((rounded(1), rounded(256), rounded(257)), (256, 256, 512));
    }
}
