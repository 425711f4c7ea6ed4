//! Which context the answers get: the model's own, or one that is stretched for a long text.
//!
//! ```text
//!   Native ── a long request is first in line, nothing runs ──► Stretched
//!     ▲                                                             │
//!     └──────── no long request is left, nothing runs ◄─────────────┘
//! ```
//!
//! Stretching changes how the model reads short texts too, so it ends with the last long request. What is cached
//! under one context means nothing under the other. While a long request waits for its context, nobody behind it
//! begins; once it runs, others run beside it, in the same context: they would wait for hours else.

use crate::gguf::{Facts, Stretch};

/// The window of a model, and the context that it has now.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Tokens of one sequence without stretching.
    native: usize,
    /// How it can be stretched, where the context has more room than the native window.
    stretch: Option<Stretch>,
    stretched: bool,
}

/// What is to be done before the next request begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nothing: it may begin.
    Begin,
    /// It waits until nothing runs.
    Wait,
    /// The context is to be stretched, or not to be any more.
    Switch,
}

impl Window {
    /// Of a model whose context has room for so many tokens, or may have later.
    pub fn of(facts: &Facts, capacity: u32) -> Self {
        let capacity_tokens = capacity as usize;
        let native = facts.context_length.and_then(|tokens| usize::try_from(tokens).ok());
        let stretch = Stretch::of(facts).filter(|_| native.is_some_and(|native| native < capacity_tokens));
        match (native, stretch) {
            (Some(native), Some(stretch)) => Self { native, stretch: Some(stretch), stretched: false },
            _ => Self {
                native: native.unwrap_or(capacity_tokens).min(capacity_tokens),
                stretch: None,
                stretched: false,
            },
        }
    }

    /// Whether a request needs a stretched context: its prompt, and what it asked to be written, do not fit the
    /// native window. One that asks for no length gets what the window has.
    pub fn is_long(&self, prompt: usize, max_tokens: Option<u32>) -> bool {
        let wanted = max_tokens.map_or(1, |tokens| usize::try_from(tokens).unwrap_or(usize::MAX));
        self.stretch.is_some() && prompt.saturating_add(wanted) > self.native
    }

    /// Tokens that prompt and answer of one request may have together.
    pub fn tokens(&self, long: bool, capacity: usize) -> usize {
        let most = match self.stretch {
            Some(stretch) if long => stretch.most() as usize,
            _ => self.native,
        };
        most.min(capacity)
    }

    /// What the first request in line waits for. `any_long` says whether a long request runs or waits.
    pub fn turn(&self, first_is_long: bool, any_long: bool, running: usize) -> Turn {
        let wanted = if self.stretched { any_long } else { first_is_long };
        match (self.stretched == wanted, running) {
            (true, _) => Turn::Begin,
            (false, 0) => Turn::Switch,
            (false, _) => Turn::Wait,
        }
    }

    /// What the context gets at a switch: the original window and how many times longer it becomes.
    pub fn other(&self) -> Option<(u32, u32)> {
        self.stretch.filter(|_| !self.stretched).map(|stretch| (stretch.original, stretch.factor))
    }

    /// Whether the context is stretched now.
    pub const fn is_stretched(&self) -> bool {
        self.stretched
    }

    /// The switch was made.
    pub fn switched(&mut self) {
        self.stretched = !self.stretched;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn glm4() -> Facts {
        Facts { architecture: "glm4".to_owned(), context_length: Some(1000), ..Facts::default() }
    }

    fn window(capacity: u32) -> Window {
        Window::of(&glm4(), capacity)
    }

    #[test]
    fn a_context_that_is_not_larger_is_never_stretched() {
        let window = window(1000);
        assert!(!window.is_long(5000, Some(1)));
        assert_eq!(window.turn(false, false, 3), Turn::Begin);
    }

    #[test]
    fn only_what_does_not_fit_is_long() {
        let window = window(4000);
        assert!(!window.is_long(999, None) && window.is_long(1000, None));
        assert!(!window.is_long(500, Some(500)) && window.is_long(500, Some(501)));
        assert_eq!((window.tokens(false, 4000), window.tokens(true, 4000)), (1000, 4000));
        let larger = super::Window::of(&glm4(), 9000);
        assert_eq!((larger.tokens(false, 9000), larger.tokens(true, 9000)), (1000, 4000), "no further");
    }

    #[test]
    fn the_switch_waits_for_what_runs_and_is_undone() {
        let mut window = window(4000);
        assert_eq!(window.turn(false, true, 2), Turn::Begin, "who is in front of the long one begins");
        assert_eq!(window.turn(true, true, 2), Turn::Wait);
        assert_eq!(window.turn(true, true, 0), Turn::Switch);
        assert_eq!(window.other(), Some((1000, 4)));
        window.switched();
        assert_eq!(window.turn(false, true, 1), Turn::Begin, "beside the long one");
        assert_eq!(window.turn(false, false, 1), Turn::Wait);
        assert_eq!(window.turn(false, false, 0), Turn::Switch);
        assert_eq!(window.other(), None);
    }
}
