//! Keeps the memory budget true while models are in memory: others on the board come and go.

use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use super::charge::ChargeReader;
use super::memory::MemoryReader;
use crate::config::live::Live;
use crate::engines::{Engines, ModelState, Snapshot};
use crate::memory::ledger::{Ledger, Reservation};
use crate::memory::{Budget, BudgetSource, Limit, Limits};
use crate::units::Bytes;

/// How often the board is looked at. Only while a model is in memory: an idle daemon sleeps.
const EVERY: Duration = Duration::from_secs(5);

/// What the daemon itself is counted with before it was measured, and at least.
pub const FRONT: Bytes = Bytes(24 << 20);

/// What the daemon may grow by until it is measured again.
const FRONT_SLACK: Bytes = Bytes(4 << 20);

/// Who wants a look at the board waits for it here; all of them want the same.
const LOOKS: usize = 16;

/// What limits the budget as the board is now; `held` is what the daemon and its engines have of it.
pub fn limits(reader: &MemoryReader, config: &crate::memory::Config, held: Bytes) -> Vec<Limit> {
    let report = reader.read();
    let groups = report.groups.into_iter().map(|group| (group.path, group.limit, group.used)).collect();
    crate::memory::limits(config, &Limits { available: report.available, groups }, held)
}

/// What the board's watcher looks with.
#[derive(Debug)]
pub struct Watcher {
    /// Reads what there is.
    pub memory: MemoryReader,
    /// Reads what the daemon takes.
    pub charges: ChargeReader,
    /// The daemon's line in the ledger.
    pub front: Reservation,
    /// Where it is told what limits the budget.
    pub limits: watch::Sender<Vec<Limit>>,
    /// Who wants the budget to be as the board is now.
    pub asked: mpsc::Receiver<oneshot::Sender<()>>,
}

/// Asks the watcher to look at once: while no model is in memory it sleeps, and the budget is as old as its last look.
/// Clones are cheap.
#[derive(Clone, Debug)]
pub struct Looks(mpsc::Sender<oneshot::Sender<()>>);

/// The two ends of the way to the watcher.
pub fn looks() -> (Looks, mpsc::Receiver<oneshot::Sender<()>>) {
    let (ask, asked) = mpsc::channel(LOOKS);
    (Looks(ask), asked)
}

impl Looks {
    /// Resolves once the budget is as the board is now, or nobody watches.
    pub async fn look(&self) {
        let (reply, done) = oneshot::channel();
        if self.0.send(reply).await.is_ok() {
            // An error says that nobody watches any more.
            done.await.ok();
        }
    }
}

/// Looks again and again, and tells ledger and engines of what has changed.
pub async fn run(engines: Engines, mut config: Live, watcher: Watcher) {
    let Watcher { memory, charges, front, limits: publish, mut asked } = watcher;
    let mut states = engines.watch();
    let mut less_since = None;
    let mut waiting: Option<oneshot::Sender<()>> = None;
    loop {
        let scene = Scene::of(&states.borrow_and_update());
        let pids = scene.pids.iter().copied().chain(engines.inspector_pids()).chain([std::process::id()]);
        let held = memory.held_by(pids) + scene.on_gpu;
        count_front(engines.ledger(), &front, &charges);
        let limits = limits(&memory, &config.now().memory, held);
        let (known, found) = (engines.ledger().budget(), Budget::least(&limits));
        publish.send_if_modified(|last| std::mem::replace(last, limits.clone()) != limits);
        if holds(&known, &found, scene.pids.is_empty(), scene.is_moving, &mut less_since) {
            tracing::info!(budget.old = %known.bytes, budget.new = %found.bytes, source = %found.source,
                "Changed memory budget");
            engines.ledger().set_budget(found);
            engines.budget_changed().await;
        }
        if let Some(reply) = waiting.take() {
            // One who no longer waits needs no answer.
            reply.send(()).ok();
        }
        tokio::select! {
            Some(reply) = asked.recv() => waiting = Some(reply),
            changed = states.changed() => if changed.is_err() { return },
            goes_on = config.changed() => {
                if !goes_on {
                    return;
                }
                // Pins and times may be others, too.
                engines.budget_changed().await;
            }
            () = tokio::time::sleep(EVERY), if scene.is_used => {}
        }
    }
}

/// Keeps the daemon's own line true. It may grow into what is free only; what it takes beyond that is taken from
/// nobody who was promised it, but from the reserve.
fn count_front(ledger: &Ledger, front: &Reservation, charges: &ChargeReader) {
    let Some(charge) = charges.of(std::process::id()) else { return };
    let wanted = FRONT.max(charge.total() + FRONT_SLACK);
    if wanted.0.abs_diff(front.bytes().0) >= FRONT_SLACK.0 / 4 && ledger.resize(front.line(), wanted).is_err()
    {
        let free = ledger.free();
        ledger.resize(front.line(), front.bytes() + free).ok();
    }
}

/// Whether a budget that was found holds from now on. A smaller one drives models out, so it must have been seen for
/// a while, and not while an engine comes or goes: its memory is then seen in part only.
fn holds(
    known: &Budget,
    found: &Budget,
    is_empty: bool,
    is_moving: bool,
    less_since: &mut Option<Instant>,
) -> bool {
    let harmless = found.bytes >= known.bytes || is_empty || found.source == BudgetSource::Configured;
    if !found.is_news_to(known) || harmless {
        *less_since = None;
        return found.is_news_to(known) && harmless;
    }
    let since = *less_since.get_or_insert_with(Instant::now);
    // Where models come and go all the time, less for long enough is believed all the same.
    let holds = since.elapsed() >= if is_moving { EVERY * 6 } else { EVERY };
    if holds {
        *less_since = None;
    }
    holds
}

/// What the models are doing, as far as it matters here.
struct Scene {
    /// One is in memory, or on its way.
    is_used: bool,
    /// One is on its way, in or out.
    is_moving: bool,
    /// Processes of those that are in memory, or on their way.
    pids: Vec<u32>,
    /// What a GPU has for them of the board's memory.
    on_gpu: Bytes,
}

impl Scene {
    fn of(states: &Snapshot) -> Self {
        let any = |wanted: &[ModelState]| states.values().any(|status| wanted.contains(&status.state));
        Self {
            is_used: any(&[ModelState::Loading, ModelState::Ready, ModelState::Unloading]),
            is_moving: any(&[ModelState::Loading, ModelState::Unloading]),
            pids: states.values().filter_map(|status| status.pid).collect(),
            on_gpu: states.values().filter_map(|status| Some(status.engine.as_ref()?.beat().on_gpu)).sum(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::config::Flags;
    use crate::config::live::Source;
    use crate::engines::Base;
    use crate::engines::program::Program;
    use crate::store::Store;

    #[tokio::test]
    async fn who_asks_while_nothing_is_in_memory_gets_the_board_as_it_is() {
        let root = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(root.path().join("proc")).expect("make a folder");
        let available = |mib: u64| {
            let text = format!("MemTotal: 8388608 kB\nMemAvailable: {} kB\n", mib << 10);
            std::fs::write(root.path().join("proc/meminfo"), text).expect("write a file");
        };
        available(6000);
        let file = root.path().join("config.toml");
        std::fs::write(&file, "").expect("write a file");
        let source = Source::read(Some(file), Flags::default()).expect("a configuration");
        let config = source.live();
        let memory = MemoryReader::new(root.path());
        let found = limits(&memory, &config.now().memory, Bytes(0));
        let ledger = Ledger::new(Budget::least(&found));
        let store = Store::open(&root.path().join("state")).expect("a new store");
        let (looks, asked) = looks();
        let base = Base {
            looks: looks.clone(),
            ..Base::alone(config.clone(), Program::plain("/none"), store, ledger.clone())
        };
        let engines = Engines::start(base, &TaskTracker::new()).expect("a thread");
        let (limits, charges) = (watch::Sender::new(found), ChargeReader::new(root.path()));
        let told = limits.subscribe();
        let front = ledger.note("hearthd", FRONT);
        let watcher = Watcher { memory, charges, front, limits, asked };
        let watching = tokio::spawn(run(engines.clone(), config, watcher));
        engines.renew_budget().await;
        assert_eq!(ledger.budget().bytes, Bytes((6000 - 256) << 20));
        // Others have taken memory. Nobody looks until somebody asks, and then it holds at once.
        available(2000);
        engines.renew_budget().await;
        assert_eq!(ledger.budget().bytes, Bytes((2000 - 256) << 20));
        assert_eq!(told.borrow()[0].bytes, ledger.budget().bytes);
        watching.abort();
        looks.look().await;
    }

    #[test]
    fn less_holds_when_it_lasts_or_hurts_nobody() {
        let budget = |bytes, source| Budget { bytes: Bytes(bytes), source };
        let (known, less) = (budget(1000, BudgetSource::Available), budget(500, BudgetSource::Available));
        let holds_at_once =
            |found: &Budget, is_empty, is_moving| holds(&known, found, is_empty, is_moving, &mut None);
        assert!(holds_at_once(&budget(2000, BudgetSource::Available), false, true));
        assert!(holds_at_once(&less, true, true), "nobody is there to be driven out");
        assert!(holds_at_once(&budget(500, BudgetSource::Configured), false, false));
        assert!(!holds_at_once(&less, false, false));
        assert!(!holds_at_once(&known, false, false));
        let mut since = Instant::now().checked_sub(EVERY);
        assert!(holds(&known, &less, false, false, &mut since) && since.is_none());
        let mut since = Instant::now().checked_sub(EVERY);
        assert!(!holds(&known, &less, false, true, &mut since) && since.is_some(), "a load is under way");
        let mut since = Instant::now().checked_sub(EVERY * 6);
        assert!(holds(&known, &less, false, true, &mut since), "but not for ever");
    }
}
