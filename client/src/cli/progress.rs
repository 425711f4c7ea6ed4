//! One bar on a terminal's stderr, for work that takes long enough to wonder about.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Bytes,
    Tokens,
    /// Thousandths of the whole.
    Permille,
    /// Nothing that could be counted.
    Nothing,
}

/// How far something is.
#[derive(Clone, Debug)]
pub(super) struct Step<'a> {
    /// What is going on, as in `loading demo`.
    pub(super) what: &'a str,
    pub(super) unit: Unit,
    pub(super) done: u64,
    pub(super) total: u64,
}

/// The bar that is shown, if any.
#[derive(Debug, Default)]
pub(super) struct Progress {
    shown: Option<(Unit, ProgressBar)>,
}

impl Progress {
    /// Shows the step in place of the last one.
    pub(super) fn show(&mut self, step: &Step<'_>) {
        if self.shown.as_ref().is_some_and(|(unit, _)| *unit != step.unit) {
            self.clear();
        }
        let bar = self.shown.take().map_or_else(|| fresh(step), |(_, bar)| bar);
        bar.set_length(step.total);
        bar.set_position(step.done);
        bar.set_message(step.what.to_owned());
        self.shown = Some((step.unit, bar));
    }

    /// Takes the bar away; what comes next is written where it stood.
    pub(super) fn clear(&mut self) {
        if let Some((_, bar)) = self.shown.take() {
            bar.finish_and_clear();
        }
    }
}

fn fresh(step: &Step<'_>) -> ProgressBar {
    ProgressBar::with_draw_target(Some(step.total), ProgressDrawTarget::stderr()).with_style(style(step.unit))
}

fn style(unit: Unit) -> ProgressStyle {
    let template = match unit {
        Unit::Bytes => {
            "{msg} [{bar:24}] {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left"
        }
        Unit::Tokens => "{msg} [{bar:24}] {pos} of {len} tokens",
        Unit::Permille => "{msg} [{bar:24}] {percent}%",
        Unit::Nothing => "{msg}",
    };
    let plain = ProgressStyle::with_template(template).expect("a test reads every template");
    plain.progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_has_its_bar() {
        for unit in [Unit::Bytes, Unit::Tokens, Unit::Permille, Unit::Nothing] {
            let mut progress = Progress::default();
            progress.show(&Step { what: "working", unit, done: 1, total: 2 });
            progress.show(&Step { what: "working", unit, done: 2, total: 2 });
            progress.clear();
            assert!(progress.shown.is_none());
        }
    }
}
