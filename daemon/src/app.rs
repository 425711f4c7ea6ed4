//! The composition root: everything is made and wired here, and ended here in the reverse order.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use listenfd::ListenFd;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::board::charge::ChargeReader;
use crate::board::memory::MemoryReader;
use crate::board::oom::OomReader;
use crate::board::pressure::{self, PressureReader};
use crate::board::process::ProcessReader;
use crate::board::sensors::SensorReader;
use crate::board::watch as watch_board;
use crate::config::live::{Live, Source};
use crate::config::{Config, Endpoint};
use crate::engines::program::Program;
use crate::engines::{Base, Engines, Intent, ModelState};
use crate::lifecycle::signal::{Signals, Wish};
use crate::lifecycle::watchdog::{self, Pulse};
use crate::lifecycle::{Lifecycle, LifecycleWatch, Phase, notify};
use crate::listen::{self, Listener};
use crate::memory::ledger::Ledger;
use crate::memory::{Budget, Limit};
use crate::metrics::{self, Exposition, Gauges, Metrics};
use crate::reload::{Reloader, grants, reach};
use crate::rpc::{Backing, Board, Services};
use crate::store::{Damaged, Store};
use crate::telemetry::LogControl;
use crate::telemetry::chain::Chain;
use crate::units::{Bytes, ModelName};

/// Exit code of a daemon that failed.
pub const EXIT_FAILED: u8 = 1;

/// Exit code for a configuration that cannot be (`EX_CONFIG`).
pub const EXIT_BAD_CONFIG: u8 = 78;

/// Imports, renames and status calls; more at once would only fight over one card.
const BLOCKING_THREADS: usize = 16;

/// How long calls that were told to end may take for it.
const ABORT_GRACE: Duration = Duration::from_secs(2);

/// How long all that remains may take beyond the grace of the engines, which are killed after it: the kernel
/// takes back the memory of the dead, and an import ends its last write.
const STOP_MARGIN: Duration = Duration::from_secs(7);

/// A daemon that is bound and ready to serve.
#[derive(Debug)]
pub struct App {
    runtime: Runtime,
    config: Live,
    lifecycle: Lifecycle,
    signals: Signals,
    listeners: Vec<Listener>,
    figures: Option<(Listener, Exposition)>,
    reloader: Reloader,
    services: Services,
    engines: Engines,
    watcher: watch_board::Watcher,
    pressure: watch::Sender<pressure::Report>,
    pulse: Pulse,
    tasks: TaskTracker,
}

impl App {
    /// Opens the store and binds the sockets.
    ///
    /// # Errors
    /// Whatever keeps the daemon from serving.
    pub fn build(source: Source, log: LogControl, inherited: ListenFd) -> Result<Self> {
        let live = source.live();
        let config = live.now();
        tracing::info!(version = env!("CARGO_PKG_VERSION"), build.id = hearth_proto::BUILD_ID, "Starting");
        tracing::info!(config = %shown(&config), "Effective configuration");
        OomReader::new("/").spare_this_process();
        // One thread: the front converts and forwards, the cores belong to the engines, and an idle daemon wakes
        // up no second one.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(BLOCKING_THREADS)
            .thread_name("hearthd")
            .enable_all()
            .build()
            .context("start the runtime")?;
        let entered = runtime.enter();
        let signals = Signals::listen().context("listen for signals")?;
        let (lifecycle, pulse, tasks) = (Lifecycle::new(), Pulse::default(), TaskTracker::new());
        let (metrics, started) = (Metrics::default(), SystemTime::now());
        let tls = config.tls.as_ref().map(crate::tls::Config::load).transpose().context("set up TLS")?;
        let tls = tls.map(watch::Sender::new);
        let grants = watch::Sender::new(Arc::new(grants(&config)));
        let store = Store::open(&config.state_dir).context("open the store")?;
        tell_damage(&store);
        let limits = watch_board::limits(&MemoryReader::new("/"), &config.memory, Bytes(0));
        let ledger = Ledger::new(budget(&limits));
        let (looks, asked) = watch_board::looks();
        let watcher = watch_board::Watcher {
            memory: MemoryReader::new("/"),
            charges: ChargeReader::new("/"),
            front: ledger.note("hearthd", watch_board::FRONT),
            limits: watch::Sender::new(limits),
            asked,
        };
        let pressure = watch::Sender::new(pressure::Report::default());
        let board = Board {
            limits: watcher.limits.subscribe(),
            pressure: pressure.subscribe(),
            sensors: SensorReader::new("/"),
        };
        let base = Base {
            config: live.clone(),
            program: Program::find(config.engine.executable.as_deref())?,
            store: store.clone(),
            ledger: ledger.clone(),
            looks,
            log: log.clone(),
            metrics: metrics.clone(),
            pulse: pulse.clone(),
        };
        let engines = Engines::start(base, &tasks).context("start the engine registry")?;
        let backing = Backing {
            engines: engines.clone(),
            store: store.clone(),
            config: live.clone(),
            lifecycle: lifecycle.watch(),
            grants: grants.subscribe(),
            tls: tls.as_ref().map(watch::Sender::subscribe),
            log: log.clone(),
            metrics: metrics.clone(),
            board,
            started,
        };
        let services = runtime.block_on(Services::new(backing)).context("put the services together")?;
        let listeners = runtime.block_on(bind(&config, inherited))?;
        let gauges = Gauges {
            engines: engines.clone(),
            store,
            started,
            process: ProcessReader::new("/"),
            pressure: pressure.subscribe(),
        };
        let figures = runtime.block_on(bind_figures(&config))?;
        let figures = figures.map(|listener| (listener, metrics.with(gauges)));
        let sockets = listeners.iter().filter_map(Listener::socket).map(Path::to_owned).collect();
        let reloader = Reloader { source, log, grants, tls, sockets, metrics };
        drop(entered);
        let config = live;
        Ok(Self {
            runtime,
            config,
            lifecycle,
            signals,
            listeners,
            figures,
            reloader,
            services,
            engines,
            watcher,
            pressure,
            pulse,
            tasks,
        })
    }

    /// Serves until told to stop, drains, and ends all engines.
    ///
    /// # Errors
    /// An address that was bound cannot be read back.
    pub fn run(self) -> Result<()> {
        let Self {
            runtime,
            config,
            lifecycle,
            mut signals,
            listeners,
            figures,
            reloader,
            services,
            engines,
            watcher,
            pressure,
            pulse,
            tasks,
        } = self;
        let done = runtime.block_on(async {
            let servers = serve(listeners, &services)?;
            let looks = (watcher, pressure);
            let side = side_work(figures, looks, pulse, engines.clone(), &config, lifecycle.watch());
            lifecycle.enter(Phase::Serving);
            notify::ready();
            tracing::info!("Ready");
            until_stopped(&mut signals, &reloader, &servers).await;
            let config = config.now();
            let limit = stop_limit(config.engine.stop_grace);
            notify::stopping(config.drain_deadline.saturating_add(ABORT_GRACE).saturating_add(limit));
            lifecycle.enter(Phase::Draining);
            services.stop_taking().await;
            drain(&lifecycle, &mut signals, &servers, config.drain_deadline).await;
            drop(services);
            tokio::select! {
                () = stop(engines, &tasks, limit) => {}
                // The kernel ends the engines with the daemon.
                signal = signals.stop() => tracing::warn!(signal, "Left engines on another signal"),
            }
            drop(side);
            lifecycle.enter(Phase::Stopped);
            Ok(())
        });
        // What is left is blocked on a disk; the process ends without it.
        runtime.shutdown_timeout(Duration::from_millis(200));
        done
    }
}

fn serve(listeners: Vec<Listener>, services: &Services) -> Result<TaskTracker> {
    let servers = TaskTracker::new();
    for listener in listeners {
        let endpoint = listener.endpoint().context("read a bound address")?;
        tracing::info!("hearthd: listening on {endpoint}");
        let services = services.clone();
        servers.spawn(async move {
            if let Err(error) = services.serve(listener).await {
                tracing::error!(%error, %endpoint, "Stopped listening");
            }
        });
    }
    servers.close();
    Ok(servers)
}

/// What goes on beside the serving, until it is dropped.
fn side_work(
    figures: Option<(Listener, Exposition)>,
    (watcher, pressure): (watch_board::Watcher, watch::Sender<pressure::Report>),
    pulse: Pulse,
    engines: Engines,
    config: &Live,
    lifecycle: LifecycleWatch,
) -> tokio::task::JoinSet<()> {
    let mut side = tokio::task::JoinSet::new();
    let until_draining = |work: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
        let lifecycle = lifecycle.clone();
        async move {
            tokio::select! {
                () = lifecycle.draining() => {}
                () = work => {}
            }
        }
    };
    let pressure = pressure::run(engines.clone(), config.clone(), PressureReader::new("/"), pressure);
    side.spawn(until_draining(Box::pin(pressure)));
    let board = watch_board::run(engines.clone(), config.clone(), watcher);
    side.spawn(until_draining(Box::pin(board)));
    side.spawn(until_draining(Box::pin(preload(engines.clone(), config.clone()))));
    if let Some((listener, exposition)) = figures {
        side.spawn(metrics::serve(listener, exposition));
    }
    if let Some(period) = notify::watchdog() {
        side.spawn(async move {
            if let Err(error) = watchdog::run(pulse, period).await {
                tracing::error!(%error, "The watchdog has no clock: the service manager will end the daemon");
            }
        });
    }
    // From there on the daemon's own end is the news.
    side.spawn(until_draining(Box::pin(tell_status(engines))));
    side
}

/// Loads models that the configuration wants in memory from the start, one after the other, and those that a reload
/// adds. One that does not load is told of in the log; a request may try again.
async fn preload(engines: Engines, mut config: Live) {
    let mut tried = BTreeSet::new();
    loop {
        let wanted: BTreeSet<ModelName> = config.now().preloaded().into_iter().collect();
        for model in wanted.difference(&tried) {
            load(&engines, model).await;
        }
        tried = wanted;
        if !config.changed().await {
            return;
        }
    }
}

async fn load(engines: &Engines, model: &ModelName) {
    let loaded = match engines.acquire(model, Intent::Load.into()).await {
        Ok(acquiring) => acquiring.lease().await.map(drop),
        Err(error) => Err(error),
    };
    if let Err(error) = loaded {
        tracing::warn!(model.name = %model, error = %Chain(&error), "Did not load model at the start");
    }
}

/// Keeps the service manager's line on the daemon true.
async fn tell_status(engines: Engines) {
    let mut states = engines.watch();
    let mut told = String::new();
    loop {
        let ready: Vec<_> = {
            let states = states.borrow_and_update();
            let ready = states.iter().filter(|(_, status)| status.state == ModelState::Ready);
            ready.map(|(name, _)| name.to_string()).collect()
        };
        let line = match ready.as_slice() {
            [] => "Ready, no model in memory".to_owned(),
            names => format!("Ready, in memory: {}", names.join(", ")),
        };
        if line != told {
            notify::status(&line);
            told = line;
        }
        if states.changed().await.is_err() {
            return;
        }
    }
}

/// Serves, and reads the configuration again when asked to.
async fn until_stopped(signals: &mut Signals, reloader: &Reloader, servers: &TaskTracker) {
    loop {
        tokio::select! {
            wish = signals.next() => match wish {
                Wish::Reload => reloader.run().await,
                Wish::Stop(signal) => return tracing::info!(signal, "Told to stop"),
            },
            () = servers.wait() => return tracing::error!("No address is left to listen on"),
        }
    }
}

/// Lets what runs finish, up to the deadline or a second signal; then ends it with a status.
async fn drain(lifecycle: &Lifecycle, signals: &mut Signals, servers: &TaskTracker, deadline: Duration) {
    notify::status("Going down: finishing what runs");
    tokio::select! {
        () = servers.wait() => return tracing::info!("Drained"),
        () = tokio::time::sleep(deadline) => tracing::warn!("Ended calls at the drain deadline"),
        signal = signals.stop() => tracing::warn!(signal, "Ended calls on a second signal"),
    }
    lifecycle.abort();
    if tokio::time::timeout(ABORT_GRACE, servers.wait()).await.is_err() {
        tracing::warn!("Left connections that did not end");
    }
}

/// Ends the engines, then everything that was waiting for them, and leaves what has not ended after `limit`.
async fn stop(engines: Engines, tasks: &TaskTracker, limit: Duration) {
    notify::status("Going down: ending engines");
    tasks.close();
    let all = async {
        engines.shut_down().await;
        drop(engines);
        tasks.wait().await;
    };
    if tokio::time::timeout(limit, all).await.is_err() {
        tracing::error!("Left work that did not end");
    }
}

/// Never less than what the engines were promised.
fn stop_limit(engine_grace: Duration) -> Duration {
    engine_grace.saturating_add(STOP_MARGIN)
}

fn budget(limits: &[Limit]) -> Budget {
    let budget = Budget::least(limits);
    tracing::info!(budget = %budget.bytes, source = %budget.source, "Found memory budget");
    budget
}

/// Takes over what systemd has bound, and binds the rest.
async fn bind(config: &Config, inherited: ListenFd) -> Result<Vec<Listener>> {
    let mut listeners = listen::inherited(inherited, reach(config))?;
    let mut bound = Vec::new();
    for listener in &listeners {
        let endpoint = listener.endpoint().context("read an inherited address")?;
        if let Endpoint::Tcp(address) = endpoint {
            let is_safe = config.tls.is_some() || address.ip().is_loopback();
            anyhow::ensure!(
                is_safe,
                "the inherited socket {endpoint} is open to the network and TLS is not set"
            );
        }
        bound.push(endpoint);
    }
    for endpoint in config.listen.iter().filter(|endpoint| !bound.iter().any(|bound| bound.covers(endpoint)))
    {
        let listener = Listener::bind(endpoint, reach(config)).await;
        listeners.push(listener.with_context(|| format!("listen on {endpoint}"))?);
    }
    Ok(listeners)
}

async fn bind_figures(config: &Config) -> Result<Option<Listener>> {
    let Some(endpoint) = &config.metrics.listen else { return Ok(None) };
    let listener = Listener::bind(endpoint, listen::Reach::Group).await;
    let listener = listener.with_context(|| format!("serve figures on {endpoint}"))?;
    let endpoint = listener.endpoint().context("read a bound address")?;
    tracing::info!("hearthd: figures on {endpoint}");
    Ok(Some(listener))
}

fn shown(config: &Config) -> String {
    let entries = config.entries().into_iter();
    entries.map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
}

/// An operator must bring these models in again.
fn tell_damage(store: &Store) {
    for Damaged { file, why } in store.damaged() {
        tracing::error!(manifest = %file, error = %Chain(why), "Set a damaged model aside");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_have_their_whole_grace() {
        for grace in [Duration::from_secs(3), Duration::from_secs(120)] {
            assert!(stop_limit(grace) > grace);
        }
        assert_eq!(stop_limit(Duration::MAX), Duration::MAX);
    }
}
