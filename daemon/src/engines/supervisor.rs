//! One life of one engine, from the estimate of its need to the end of its process.
//!
//! ```text
//!  estimate ──Estimated──► (Admit) ──► spawn, greet, load ──Ready──► watch ──► end ──Gone──►
//!      └──────────────────── Stop, refusal, crash, hang: end ──────────────────┘
//! ```
//!
//! The task owns the process. It takes orders from the registry and reports to it; `Gone` is its last word
//! and comes after the process has ended and its memory is back in the ledger.

mod measure;

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, BoxStream, FuturesUnordered};
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::AcquireError;
use super::config::Explicit;
use super::event::Beat;
use super::footprint::Target;
use super::heartbeat::{Heartbeat, Hung};
use super::inspect::{InspectError, Inspectors, Room};
use super::lease::{Engine, Measured};
use super::link::{FailureReason, Link, LinkError};
use super::process::{EngineExit, Process, Spawner, Spec, Task};
use super::registry::state::{End, InstanceId, Options};
use super::start::{Loaded, Spawned, StartError};
use crate::board::charge::ChargeReader;
use crate::board::oom::OomReader;
use crate::config::live::Live;
use crate::lifecycle::watchdog::Pulse;
use crate::memory::ledger::{Ledger, Reservation};
use crate::memory::need::Choice;
use crate::memory::plan::Refusal;
use crate::metrics::Metrics;
use crate::store::Store;
use crate::telemetry::LogControl;
use crate::telemetry::chain::Chain;
use crate::units::{Bytes, ModelName};
use measure::Meter;

/// How often it is said that requests still need a larger context.
const WANTS_AGAIN: Duration = Duration::from_secs(1);

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
    pub(super) ledger: Ledger,
    pub(super) charges: ChargeReader,
    pub(super) ooms: OomReader,
}

/// What the registry tells a supervisor: `Admit` at most once, `Stop` at most once.
#[derive(Debug)]
pub(super) enum Order {
    Admit(Admission),
    /// The context is to have so many tokens; their memory is reserved.
    Resize(u32),
    /// There is no memory for the context that was wanted.
    RefuseGrowth(String),
    /// What is kept for later is to be given up, and the context to have so many tokens if nobody needs more.
    Shed(u32),
    Stop,
}

/// The memory for a load, and the way in which it is to be done.
#[derive(Debug)]
pub(super) struct Admission {
    pub(super) reservation: Reservation,
    pub(super) choice: Choice,
    pub(super) ceiling: u32,
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
    Estimated(Arc<Options>),
    /// Its process runs.
    Spawned(u32),
    Progress(u32),
    /// Its requests need a context of so many tokens.
    Wants(u32),
    /// It did as it was told of its context, which has so many tokens now.
    Resized(u32),
    /// It was measured to take so much, which is more than is reserved.
    Takes(Bytes),
    Ready(Arc<Engine>),
    Gone(End),
}

/// One life.
pub(super) struct Life {
    pub(super) model: ModelName,
    pub(super) instance: InstanceId,
    /// How it is to be loaded, where somebody said so.
    pub(super) explicit: Option<Explicit>,
    /// The best so many ways to load it were too much.
    pub(super) skip: usize,
    pub(super) parts: Parts,
    pub(super) reports: mpsc::Sender<Report>,
}

impl Life {
    /// Lives it.
    pub(super) async fn run(self, mut orders: mpsc::Receiver<Order>) {
        let name = format!("supervisor of {}", self.model);
        let end = match self.parts.pulse.guard(name, self.live(&mut orders)).await {
            Ok(end) | Err(end) => end,
        };
        if matches!(end, End::Crashed(_) | End::OutOfMemory(_)) {
            self.parts.metrics.crashed(&self.model);
        }
        self.report(News::Gone(end)).await;
    }

    async fn live(&self, orders: &mut mpsc::Receiver<Order>) -> Result<End, End> {
        let Parts { store, config, inspectors, .. } = &self.parts;
        let target = Target::of(store, &config.now(), &self.model, self.explicit.as_ref());
        let target = target.map_err(|error| End::Failed(AcquireError::Lookup(Arc::new(error))))?;
        let options =
            unless_stopped(orders, target.options(store, inspectors, Room::Made, self.skip)).await?;
        let options = options.map_err(|error| inspect_end(&error))?;
        let correction = options.footprint.correction;
        self.report(News::Estimated(options)).await;
        let Some(Order::Admit(admission)) = orders.recv().await else { return Err(End::Stopped) };
        let meter = Meter::new(&self.parts, &target, &admission, correction);
        let began = Instant::now();
        let loaded = self.bring_up(&target, admission, orders).await;
        let loaded = loaded.inspect_err(|_| self.parts.metrics.not_loaded(&self.model))?;
        self.parts.metrics.loaded(&self.model, began.elapsed());
        tracing::info!(ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX), "Loaded model");
        Ok(self.serve(loaded, meter, began.elapsed(), orders).await)
    }

    /// Spawns, greets and loads. Whatever stops that, the process has ended when this returns.
    async fn bring_up(
        &self,
        target: &Target,
        admission: Admission,
        orders: &mut mpsc::Receiver<Order>,
    ) -> Result<Loaded, End> {
        let Admission { reservation, choice, ceiling } = admission;
        let spec = Spec {
            task: Task::Serve,
            model: &target.file,
            label: self.model.as_str(),
            reservation: Some(reservation),
        };
        let kills = self.parts.ooms.kills();
        let spawned = Spawned::spawn(&self.parts.spawner, spec)
            .await
            .map_err(|error| End::Failed(AcquireError::CannotStart { reason: Chain(&error).to_string() }))?;
        self.report(News::Spawned(spawned.pid())).await;
        let mut exit = spawned.exit();
        let failed = match unless_stopped(orders, self.load(spawned, target, (&choice, ceiling))).await {
            Ok(Ok(loaded)) => return Ok(loaded),
            Ok(Err(failed)) => failed,
            Err(stopped) => FailedLoad { end: stopped, by_itself: false },
        };
        let exit = exit.wait().await;
        let was_taken = failed.by_itself && self.was_taken(&exit, kills);
        Err(if was_taken { out_of_memory(&exit) } else { failed.end })
    }

    /// Whether the kernel took a process for lack of memory: it was killed, not by us, and the kernel has killed
    /// since `kills` were counted.
    fn was_taken(&self, exit: &EngineExit, kills: u64) -> bool {
        exit.was_killed() && self.parts.ooms.kills() > kills
    }

    async fn load(
        &self,
        spawned: Spawned,
        target: &Target,
        way: (&Choice, u32),
    ) -> Result<Loaded, FailedLoad> {
        let greeted = spawned.greet(target.params.sequences).await?;
        let link = greeted.link.clone();
        let config = self.parts.config.now();
        let heart = Heartbeat::of_load(config.engine.heartbeat_timeout, Instant::now());
        let stall = config.engine.load_stall;
        let progress = |permille| self.report(News::Progress(permille));
        tokio::select! {
            loaded = greeted.load(&target.params, way, stall, progress) => Ok(loaded?),
            hung = watch_over(&link, heart, None, |_| {}) => {
                Err(FailedLoad { end: End::Crashed(hung.to_string()), by_itself: false })
            }
        }
    }

    /// Watches over a loaded engine until it ends.
    async fn serve(
        &self,
        loaded: Loaded,
        mut meter: Meter,
        load_time: Duration,
        orders: &mut mpsc::Receiver<Order>,
    ) -> End {
        let Loaded { process, link, greeting, facts } = loaded;
        let engine = Arc::new(Engine {
            model: self.model.clone(),
            instance: self.instance,
            pid: process.pid(),
            cpu_level: greeting.cpu_level,
            sandbox: greeting.sandbox,
            gpu: greeting.gpu,
            link: link.clone(),
            facts,
            load_time,
            abort: CancellationToken::new(),
            leases: watch::Sender::new(0),
            beat: watch::Sender::new(Beat { context_tokens: facts.context_tokens, ..Beat::default() }),
            line: meter.line(),
            measured: watch::Sender::new(Measured::default()),
        });
        // Before it answers anybody: what it takes now is what it takes beside its compute buffers.
        meter.loaded(&engine, load_time).await;
        let kills = self.parts.ooms.kills();
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
            () = self.obey(orders, &engine) => self.stop(process).await,
            exit = exit.wait() => match self.was_taken(&exit, kills) {
                true => out_of_memory(&exit),
                false => End::Crashed(exit.to_string()),
            },
            never = keep_filter(&link, &self.parts.log) => match never {},
            never = tell_wants(engine.beat.subscribe(), |tokens| self.report(News::Wants(tokens))) => match never {},
            never = meter.run(&engine, |bytes| self.report(News::Takes(bytes))) => match never {},
            hung = watch_over(&link, heart, Some(leases), keep_beat) => {
                process.kill_because(hung.to_string());
                process.exit().wait().await;
                End::Crashed(hung.to_string())
            }
        }
    }

    /// Does what the registry orders, until that is to stop.
    async fn obey(&self, orders: &mut mpsc::Receiver<Order>, engine: &Engine) {
        let link = &engine.link;
        let mut resizes = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                order = orders.recv() => match order {
                    Some(Order::Resize(tokens)) => {
                        resizes.push(resized(link.resize(tokens)).boxed());
                    }
                    Some(Order::RefuseGrowth(reason)) => {
                        resizes.push(resized(link.refuse_growth(reason)).boxed());
                    }
                    Some(Order::Shed(tokens)) => {
                        resizes.push(resized(link.shed(tokens)).boxed());
                    }
                    Some(Order::Admit(_)) => {}
                    Some(Order::Stop) | None => return,
                },
                Some(tokens) = resizes.next() => {
                    // One that could not do it is as it was.
                    let tokens = tokens.unwrap_or(engine.beat().context_tokens);
                    self.report(News::Resized(tokens)).await;
                }
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

fn out_of_memory(exit: &EngineExit) -> End {
    End::OutOfMemory(format!("the kernel took its engine for lack of memory: {exit}"))
}

/// The size that a context has after a change; `None` where the engine did not do it.
async fn resized(answer: impl Future<Output = Result<u32, LinkError>>) -> Option<u32> {
    answer.await.inspect_err(|error| tracing::warn!(%error, "Could not change a context")).ok()
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

/// Tells when requests need a larger context, and again while they do: what was told may have come while the engine was
/// told something else, and one whose requests are all held says nothing new.
async fn tell_wants<F: Future<Output = ()>>(
    mut beats: watch::Receiver<Beat>,
    mut tell: impl FnMut(u32) -> F,
) -> std::convert::Infallible {
    loop {
        let wanted = beats.borrow_and_update().wanted_context_tokens;
        if wanted > 0 {
            tell(wanted).await;
        }
        let changed = beats.changed();
        let changed = match wanted {
            0 => changed.await,
            _ => tokio::time::timeout(WANTS_AGAIN, changed).await.unwrap_or(Ok(())),
        };
        if changed.is_err() {
            return std::future::pending().await;
        }
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
        InspectError::NoRoom { need, free, budget } => {
            let (need, free, budget, idle) = (*need, *free, *budget, Bytes(0));
            End::Failed(AcquireError::Refused(Refusal::FullNow { need, free, idle, budget }))
        }
        InspectError::Pressure => End::Failed(AcquireError::Pressure),
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

/// How a load failed.
#[derive(Debug)]
struct FailedLoad {
    end: End,
    /// Whether the process ended before anybody had a reason to end it.
    by_itself: bool,
}

impl From<StartError> for FailedLoad {
    fn from(error: StartError) -> Self {
        let by_itself = matches!(error, StartError::Link(LinkError::Exited(_) | LinkError::Broken(_)));
        Self { end: start_end(&error), by_itself }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::engines::process::ExitKind;

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

    #[tokio::test(start_paused = true)]
    async fn a_need_for_context_is_told_again_while_it_lasts() {
        let beat = |wanted_context_tokens| Beat { wanted_context_tokens, ..Beat::default() };
        let beats = watch::Sender::new(beat(0));
        let (tell, mut told) = mpsc::channel(16);
        let (began, receiver) = (Instant::now(), beats.subscribe());
        let telling = tokio::spawn(tell_wants(receiver, move |tokens| {
            tell.try_send((tokens, began.elapsed().as_secs())).expect("there is room");
            std::future::ready(())
        }));
        sleep_until(began + WANTS_AGAIN * 10).await;
        beats.send_replace(beat(2048));
        sleep_until(began + WANTS_AGAIN * 25 / 2).await;
        beats.send_replace(beat(0));
        sleep_until(began + WANTS_AGAIN * 20).await;
        telling.abort();
        let mut all = Vec::new();
        while let Some(one) = told.recv().await {
            all.push(one);
        }
        assert_eq!(all, [(2048, 10), (2048, 11), (2048, 12)]);
    }

    #[test]
    fn a_load_that_was_ended_for_a_reason_was_not_taken_by_the_kernel() {
        let by_itself = |error: StartError| FailedLoad::from(error).by_itself;
        assert!(!by_itself(StartError::Stalled(Duration::from_secs(1))));
        assert!(!by_itself(StartError::Silent(Duration::from_secs(1))));
        assert!(!by_itself(StartError::Link(LinkError::Protocol("of another kind"))));
        let exit = EngineExit { how: ExitKind::Unknown, last_words: None, verdict: None };
        assert!(by_itself(StartError::Link(LinkError::Exited(Arc::new(exit)))));
    }
}
