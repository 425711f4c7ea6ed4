//! Keeps the memory budget true while models are in memory: others on the board come and go.

use std::time::Duration;

use super::memory::MemoryReader;
use crate::config::live::Live;
use crate::engines::{Engines, ModelState, Snapshot};
use crate::memory::{Budget, BudgetSource, Limits};
use crate::units::Bytes;

/// How often the board is looked at. Only while a model is in memory: an idle daemon sleeps.
const EVERY: Duration = Duration::from_secs(5);

/// The budget as the board is now; `held` is what engines have of it.
pub fn budget(reader: &MemoryReader, config: &crate::memory::Config, held: Bytes) -> Budget {
    let report = reader.read();
    let groups = report.groups.iter().map(|group| (group.limit, group.used)).collect();
    Budget::find(config, &Limits { available: report.available, groups }, held)
}

/// Looks again and again, and tells ledger and engines of what has changed. A smaller budget counts when it was
/// seen twice: a program that takes memory for a moment drives no model out.
pub async fn run(engines: Engines, mut config: Live, reader: MemoryReader) {
    let mut states = engines.watch();
    let mut seen_less = false;
    loop {
        let (is_used, pids) = in_memory(&states.borrow_and_update());
        let held = reader.held_by(pids);
        let (known, found) = (engines.ledger().budget(), budget(&reader, &config.now().memory, held));
        let less = found.bytes < known.bytes;
        let is_wish = found.source == BudgetSource::Configured;
        if !found.is_news_to(&known) {
            seen_less = false;
        } else if less && is_used && !is_wish && !seen_less {
            seen_less = true;
        } else {
            seen_less = false;
            tracing::info!(budget.old = %known.bytes, budget.new = %found.bytes, source = %found.source,
                "Changed memory budget");
            engines.ledger().set_budget(found);
            engines.budget_changed().await;
        }
        let goes_on = tokio::select! {
            changed = states.changed() => changed.is_ok(),
            goes_on = config.changed() => goes_on,
            () = tokio::time::sleep(EVERY), if is_used => true,
        };
        if !goes_on {
            return;
        }
    }
}

/// Whether a model is in memory or on its way, and the processes of those that are.
fn in_memory(states: &Snapshot) -> (bool, Vec<u32>) {
    let is_used =
        states.values().any(|status| !matches!(status.state, ModelState::Absent | ModelState::Quarantined));
    let pids = states.values().filter_map(|status| status.engine.as_ref()).map(|engine| engine.pid());
    (is_used, pids.collect())
}
