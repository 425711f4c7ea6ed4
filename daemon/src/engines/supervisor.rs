//! One life of one engine, from the estimate of its need to the end of its process.
//!
//! ```text
//!  estimate ──Estimated──► (Admit) ──► spawn, greet, load ──Ready──► watch ──► end ──Gone──►
//!      └──────────────────── Stop, refusal, crash, hang: end ──────────────────┘
//! ```
//!
//! The task owns the process. It takes orders from the registry and reports to it; `Gone` is its last word
//! and comes after the process has ended and its memory is back in the ledger.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use hearth_proto::BUILD_ID;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::AcquireError;
use super::config::LoadParams;
use super::event::{Beat, Inspection};
use super::heartbeat::{Heartbeat, Hung};
use super::inspect::{InspectError, Inspectors};
use super::lease::Engine;
use super::link::{FailureReason, Link, LinkError};
use super::process::{Process, Spawner, Spec, Task};
use super::registry::state::{End, InstanceId};
use super::start::{Loaded, Spawned, StartError};
use crate::config::Config;
use crate::config::live::Live;
use crate::lifecycle::watchdog::Pulse;
use crate::memory::Estimate;
use crate::memory::ledger::Reservation;
use crate::metrics::Metrics;
use crate::store::{ModelRef, Store};
use crate::telemetry::LogControl;
use crate::telemetry::chain::Chain;
use crate::units::{Bytes, Digest, ModelName};

/// What every life needs. Clones are cheap.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    pub(super) spawner: Spawner,
    pub(super) inspectors: Inspectors,
    pub(super) store: Store,
    pub(super) config: Live,
    pub(super) log: LogControl,
    pub(super) metrics: Metrics,
    pub(super) pulse: Pulse,
}

/// What the registry tells a supervisor: `Admit` at most once, `Stop` at most once.
#[derive(Debug)]
pub(super) enum Order {
    Admit(Reservation),
    Stop,
}

/// What a supervisor tells the registry.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) model: ModelName,
    pub(super) instance: InstanceId,
    pub(super) news: News,
}

#[derive(Debug)]
pub(super) enum News {
    Estimated(Bytes),
    Progress(u32),
    Ready(Arc<Engine>),
    Gone(End),
}

/// One life.
pub(super) struct Life {
    pub(super) model: ModelName,
    pub(super) instance: InstanceId,
    pub(super) parts: Parts,
    pub(super) reports: mpsc::Sender<Report>,
}

/// What is to be loaded.
struct Target {
    file: PathBuf,
    digest: Digest,
    params: LoadParams,
}

impl Life {
    /// Lives it.
    pub(super) async fn run(self, mut orders: mpsc::Receiver<Order>) {
        let name = format!("supervisor of {}", self.model);
        let end = match self.parts.pulse.guard(name, self.live(&mut orders)).await {
            Ok(end) | Err(end) => end,
        };
        if matches!(end, End::Crashed(_)) {
            self.parts.metrics.crashed(&self.model);
        }
        self.report(News::Gone(end)).await;
    }

    async fn live(&self, orders: &mut mpsc::Receiver<Order>) -> Result<End, End> {
        let target = self.target()?;
        let estimate = unless_stopped(orders, self.estimate(&target)).await??;
        self.report(News::Estimated(estimate.charge())).await;
        let Some(Order::Admit(reservation)) = orders.recv().await else { return Err(End::Stopped) };
        let began = Instant::now();
        let loaded = self.bring_up(&target, &estimate, reservation, orders).await;
        let loaded = loaded.inspect_err(|_| self.parts.metrics.not_loaded(&self.model))?;
        self.parts.metrics.loaded(&self.model, began.elapsed());
        Ok(self.serve(loaded, began.elapsed(), orders).await)
    }

    fn target(&self) -> Result<Target, End> {
        let manifest = self
            .parts
            .store
            .get(&ModelRef::from(self.model.clone()))
            .map_err(|error| End::Failed(AcquireError::Lookup(Arc::new(error))))?;
        let digest = manifest.weights().digest;
        let params = self.parts.config.now().load_params(&self.model);
        Ok(Target { file: self.parts.store.blob_path(&digest), digest, params })
    }

    async fn estimate(&self, target: &Target) -> Result<Estimate, End> {
        let Parts { inspectors, store, .. } = &self.parts;
        if let Some(known) = known_estimate(store, target).await {
            return Ok(known);
        }
        let inspection = inspectors
            .inspect(&target.file, self.model.as_str(), &target.params)
            .await
            .map_err(|error| inspect_end(&error))?;
        let (parts, model, digest) = (self.parts.clone(), self.model.clone(), target.digest);
        let memory = inspection.memory;
        let keep = move || keep_estimate(&parts.store, &parts.config.now(), &model, &digest, &inspection);
        // Lost only where the runtime ends, and then nobody needs it.
        tokio::task::spawn_blocking(keep).await.ok();
        Ok(memory)
    }

    /// Spawns, greets and loads. Whatever stops that, the process has ended when this returns.
    async fn bring_up(
        &self,
        target: &Target,
        estimate: &Estimate,
        reservation: Reservation,
        orders: &mut mpsc::Receiver<Order>,
    ) -> Result<Loaded, End> {
        let spec = Spec {
            task: Task::Serve,
            model: &target.file,
            label: self.model.as_str(),
            reservation: Some(reservation),
        };
        let spawned = Spawned::spawn(&self.parts.spawner, spec)
            .await
            .map_err(|error| End::Failed(AcquireError::CannotStart { reason: Chain(&error).to_string() }))?;
        let mut exit = spawned.exit();
        let loaded =
            unless_stopped(orders, self.load(spawned, target, estimate)).await.and_then(|loaded| loaded);
        if loaded.is_err() {
            exit.wait().await;
        }
        loaded
    }

    async fn load(&self, spawned: Spawned, target: &Target, estimate: &Estimate) -> Result<Loaded, End> {
        let greeted = spawned.greet(target.params.sequences).await.map_err(|error| start_end(&error))?;
        let link = greeted.link.clone();
        let config = self.parts.config.now();
        let heart = Heartbeat::of_load(config.engine.heartbeat_timeout, Instant::now());
        let stall = config.engine.load_stall;
        let progress = |permille| self.report(News::Progress(permille));
        tokio::select! {
            loaded = greeted.load(&target.params, estimate, stall, progress) => {
                loaded.map_err(|error| start_end(&error))
            }
            hung = watch_over(&link, heart, None, |_| {}) => Err(End::Crashed(hung.to_string())),
        }
    }

    /// Watches over a loaded engine until it ends.
    async fn serve(&self, loaded: Loaded, load_time: Duration, orders: &mut mpsc::Receiver<Order>) -> End {
        let Loaded { process, link, greeting, facts } = loaded;
        let engine = Arc::new(Engine {
            model: self.model.clone(),
            instance: self.instance,
            pid: process.pid(),
            cpu_level: greeting.cpu_level,
            link: link.clone(),
            facts,
            load_time,
            abort: CancellationToken::new(),
            leases: watch::Sender::new(0),
            beat: watch::Sender::new(Beat::default()),
        });
        // Before the first lease can be given out, or nobody would watch over what it is for.
        let leases = count_of(&engine.leases);
        self.report(News::Ready(Arc::clone(&engine))).await;
        let heart = Heartbeat::new(self.parts.config.now().engine.heartbeat_timeout, Instant::now());
        let mut exit = process.exit();
        let keep_beat = |beat: Beat| {
            engine.beat.send_if_modified(|last| std::mem::replace(last, beat) != beat);
        };
        // An order first: what it ends is not a crash.
        tokio::select! {
            biased;
            () = stop_order(orders) => self.stop(process).await,
            exit = exit.wait() => End::Crashed(exit.to_string()),
            never = keep_filter(&link, &self.parts.log) => match never {},
            hung = watch_over(&link, heart, Some(leases), keep_beat) => {
                process.kill_because(hung.to_string());
                process.exit().wait().await;
                End::Crashed(hung.to_string())
            }
        }
    }

    async fn stop(&self, process: Process) -> End {
        process.stop(self.parts.config.now().engine.stop_grace).await;
        End::Stopped
    }

    /// The registry outlives all supervisors, so a report is never lost.
    async fn report(&self, news: News) {
        let report = Report { model: self.model.clone(), instance: self.instance, news };
        self.reports.send(report).await.ok();
    }
}

/// Tells the engine what to log whenever that changes.
async fn keep_filter(link: &Link, log: &LogControl) -> std::convert::Infallible {
    let mut filters = log.watch();
    // It may have changed since the process was started with one.
    let mut filter = log.filter();
    loop {
        if let Err(error) = link.set_log_filter(filter).await {
            // One that has ended is noticed elsewhere.
            tracing::debug!(%error, "Could not change what an engine logs");
        }
        filter = filters.changed().await;
    }
}

async fn stop_order(orders: &mut mpsc::Receiver<Order>) {
    while let Some(order) = orders.recv().await {
        if matches!(order, Order::Stop) {
            return;
        }
    }
}

async fn unless_stopped<T>(
    orders: &mut mpsc::Receiver<Order>,
    work: impl Future<Output = T>,
) -> Result<T, End> {
    tokio::select! {
        biased;
        () = stop_order(orders) => Err(End::Stopped),
        result = work => Ok(result),
    }
}

/// Resolves when the engine has hung. `leases` counts who waits for it; without it, a load does.
async fn watch_over(
    link: &Link,
    mut heart: Heartbeat,
    mut leases: Option<watch::Receiver<u32>>,
    mut keep: impl FnMut(Beat),
) -> Hung {
    let mut beats = beats_of(link.clone());
    loop {
        let deadline = heart.deadline();
        // New work first: a beat that comes after it may answer for it.
        tokio::select! {
            biased;
            work = changed(&mut leases) => heart.work(Instant::now(), work),
            Some(beat) = beats.next() => {
                // What it did before this beat was heard comes first.
                heart.sign(link.signs().last());
                heart.beat(Instant::now(), &beat);
                keep(beat);
            }
            () = at(deadline) => {
                heart.sign(link.signs().last());
                if let Some(hung) = heart.verdict(Instant::now()) {
                    return hung;
                }
            }
        }
    }
}

/// The beats of an engine. One whose beats end is one that ends, which others notice; until then it is
/// silent.
fn beats_of(link: Link) -> BoxStream<'static, Beat> {
    let beats = async move {
        match link.watch().await {
            Ok(beats) => beats.filter_map(|beat| std::future::ready(beat.ok())).boxed(),
            Err(_) => stream::empty().boxed(),
        }
    };
    stream::once(beats).flatten().chain(stream::pending()).boxed()
}

/// The count of leases, of which the first look shows what it is already.
fn count_of(leases: &watch::Sender<u32>) -> watch::Receiver<u32> {
    let mut count = leases.subscribe();
    count.mark_changed();
    count
}

async fn changed(leases: &mut Option<watch::Receiver<u32>>) -> u32 {
    let Some(leases) = leases else { return std::future::pending().await };
    match leases.changed().await {
        Ok(()) => *leases.borrow_and_update(),
        Err(_) => std::future::pending().await,
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn inspect_end(error: &InspectError) -> End {
    match error {
        InspectError::BadModel(words) => {
            End::Failed(AcquireError::BadModel { reason: format!("llama.cpp refuses the file: {words}") })
        }
        InspectError::Spawn(error) => {
            End::Failed(AcquireError::CannotStart { reason: Chain(error).to_string() })
        }
        InspectError::Busy { waiting } => End::Failed(AcquireError::QueueFull { waiting: *waiting }),
        InspectError::Link(LinkError::Refused(failure)) => {
            End::Failed(AcquireError::LoadRefused(failure.clone()))
        }
        InspectError::Link(LinkError::BuildMismatch { .. }) => {
            End::Failed(AcquireError::CannotStart { reason: error.to_string() })
        }
        InspectError::Crashed(_) | InspectError::Link(_) | InspectError::Timeout(_) => {
            End::Crashed(error.to_string())
        }
    }
}

fn start_end(error: &StartError) -> End {
    match error {
        StartError::Link(LinkError::Refused(failure)) if failure.reason != FailureReason::Internal => {
            End::Failed(AcquireError::LoadRefused(failure.clone()))
        }
        error if error.is_crash() => End::Crashed(error.to_string()),
        error => End::Failed(AcquireError::CannotStart { reason: Chain(error).to_string() }),
    }
}

async fn known_estimate(store: &Store, target: &Target) -> Option<Estimate> {
    let (store, digest, key) = (store.clone(), target.digest, key(&target.params));
    let value = tokio::task::spawn_blocking(move || store.inspection(&digest, &key)).await.ok()??;
    let field = |name: &str| value.get(name).and_then(Value::as_u64).map(Bytes);
    Some(Estimate {
        weights_mapped: field("weights_mapped")?,
        weights_copied: field("weights_copied")?,
        kv: field("kv")?,
        compute: field("compute")?,
    })
}

/// Keeps an estimate for the next load. Losing it costs an inspection, so a failure is only logged.
pub(super) fn keep_estimate(
    store: &Store,
    config: &Config,
    model: &ModelName,
    digest: &Digest,
    inspection: &Inspection,
) {
    let Estimate { weights_mapped, weights_copied, kv, compute } = inspection.memory;
    let value = json!({
        "weights_mapped": weights_mapped.0,
        "weights_copied": weights_copied.0,
        "kv": kv.0,
        "compute": compute.0,
    });
    let key = key(&config.load_params(model));
    if let Err(error) = store.save_inspection(digest, &key, value) {
        tracing::warn!(error = %Chain(&error), model.name = %model, "Could not keep an estimate");
    }
}

/// An estimate holds for one build of the engine and one set of sizes. Which CPU level the engine is compiled
/// for is not known before one has run, and need not be: a package has one engine, which the build id names,
/// and the sizes come from the file and llama.cpp's own sums. Once a package carries several, the level is to
/// be a part of the key.
fn key(params: &LoadParams) -> String {
    format!("estimate {BUILD_ID} {}", params.estimate_key())
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_lease_from_before_the_watch_is_seen() {
        let leases = watch::Sender::new(0);
        leases.send_replace(1);
        let mut count = Some(count_of(&leases));
        assert_eq!(changed(&mut count).now_or_never(), Some(1));
        assert_eq!(changed(&mut count).now_or_never(), None);
        leases.send_replace(2);
        assert_eq!(changed(&mut count).now_or_never(), Some(2));
    }
}
