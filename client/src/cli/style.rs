//! Colours, and whether there are any.
//!
//! `--color` decides; with `auto` the terminal, `NO_COLOR`, `CLICOLOR` and `CLICOLOR_FORCE` do.

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use clap::ValueEnum;

/// A thought, and remarks of less weight than the answer.
pub(super) const FAINT: Style = Style::new().dimmed();
/// What the model wants to have done.
pub(super) const CALL: Style = AnsiColor::Cyan.on_default();
/// Where a person writes.
pub(super) const PROMPT: Style = AnsiColor::Green.on_default().bold();
/// Head of a table.
pub(super) const HEAD: Style = Style::new().bold();
/// A failure.
pub(super) const FAILURE: Style = AnsiColor::Red.on_default().bold();

/// When there are colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum When {
    /// On a terminal that knows them.
    #[default]
    Auto,
    /// In a pipe too.
    Always,
    /// Not at all.
    Never,
}

/// The output streams that take colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Colours {
    pub(super) stdout: bool,
    pub(super) stderr: bool,
}

impl Colours {
    /// What the person, the environment and the terminals allow together.
    pub(super) fn choose(when: When) -> Self {
        let of = |auto: ColorChoice| match when {
            When::Auto => auto != ColorChoice::Never,
            When::Always => true,
            When::Never => false,
        };
        Self {
            stdout: of(AutoStream::choice(&std::io::stdout())),
            stderr: of(AutoStream::choice(&std::io::stderr())),
        }
    }
}

/// The text in a style, or as it is.
pub(super) fn painted(text: &str, style: Style, colour: bool) -> String {
    if colour { format!("{style}{text}{style:#}") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_style_is_closed_again() {
        assert_eq!(painted("x", FAINT, true), "\x1b[2mx\x1b[0m");
        assert_eq!(painted("x", FAINT, false), "x");
    }

    #[test]
    fn what_was_asked_for_beats_the_terminal() {
        assert_eq!(Colours::choose(When::Always), Colours { stdout: true, stderr: true });
        assert_eq!(Colours::choose(When::Never), Colours { stdout: false, stderr: false });
    }
}
