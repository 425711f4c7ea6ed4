//! The composition root: everything is made and wired here, and ended here in the reverse order.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::runtime::Runtime;
use tokio_util::task::TaskTracker;

use crate::board::memory::MemoryReader;
use crate::config::{Config, Endpoint};
use crate::engines::Engines;
use crate::lifecycle::signal::StopSignals;
use crate::lifecycle::{Lifecycle, Phase};
use crate::memory::Budget;
use crate::memory::ledger::Ledger;
use crate::rpc::listen::Listener;
use crate::rpc::{Backing, Services};
use crate::store::Store;

/// Exit code of a daemon that failed.
pub const EXIT_FAILED: u8 = 1;

/// Exit code for a configuration that cannot be (`EX_CONFIG`).
pub const EXIT_BAD_CONFIG: u8 = 78;

/// The front converts and forwards; the cores belong to the engines.
const WORKERS: usize = 2;

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
    config: Config,
    lifecycle: Lifecycle,
    signals: StopSignals,
    listeners: Vec<Listener>,
    services: Services,
    engines: Engines,
    tasks: TaskTracker,
}

impl App {
    /// Opens the store and binds the sockets.
    pub fn build(config: Config) -> Result<Self> {
        tracing::info!(version = env!("CARGO_PKG_VERSION"), build.id = hearth_proto::BUILD_ID, "Starting");
        tracing::info!(config = ?config, "Effective configuration");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .max_blocking_threads(BLOCKING_THREADS)
            .thread_name("hearthd")
            .enable_all()
            .build()
            .context("start the runtime")?;
        let entered = runtime.enter();
        let signals = StopSignals::listen().context("listen for signals")?;
        let lifecycle = Lifecycle::new();
        let tasks = TaskTracker::new();
        let store = Store::open(&config.state_dir).context("open the store")?;
        let ledger = Ledger::new(budget(&config));
        let executable = engine_executable(&config)?;
        let engines = Engines::start(&config, executable, store.clone(), ledger, &tasks)
            .context("start the engine registry")?;
        let backing = Backing {
            engines: engines.clone(),
            store,
            import_dirs: config.import_dirs.clone(),
            lifecycle: lifecycle.watch(),
        };
        let services = runtime.block_on(Services::new(backing)).context("put the services together")?;
        let listeners = runtime.block_on(bind(&config.listen))?;
        drop(entered);
        Ok(Self { runtime, config, lifecycle, signals, listeners, services, engines, tasks })
    }

    /// Serves until told to stop, drains, and ends all engines.
    pub fn run(self) -> Result<()> {
        let Self { runtime, config, lifecycle, mut signals, listeners, services, engines, tasks } = self;
        let done = runtime.block_on(async {
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
            lifecycle.enter(Phase::Serving);
            tracing::info!("Ready");
            tokio::select! {
                signal = signals.next() => tracing::info!(signal, "Told to stop"),
                () = servers.wait() => tracing::error!("No address is left to listen on"),
            }
            lifecycle.enter(Phase::Draining);
            services.stop_taking().await;
            drain(&lifecycle, &mut signals, &servers, config.drain_deadline).await;
            drop(services);
            stop(engines, &tasks, stop_limit(config.engine.stop_grace)).await;
            lifecycle.enter(Phase::Stopped);
            Ok(())
        });
        // What is left is blocked on a disk; the process ends without it.
        runtime.shutdown_timeout(Duration::from_millis(200));
        done
    }
}

/// Lets what runs finish, up to the deadline or a second signal; then ends it with a status.
async fn drain(lifecycle: &Lifecycle, signals: &mut StopSignals, servers: &TaskTracker, deadline: Duration) {
    tokio::select! {
        () = servers.wait() => return tracing::info!("Drained"),
        () = tokio::time::sleep(deadline) => tracing::warn!("Ended calls at the drain deadline"),
        signal = signals.next() => tracing::warn!(signal, "Ended calls on a second signal"),
    }
    lifecycle.abort();
    if tokio::time::timeout(ABORT_GRACE, servers.wait()).await.is_err() {
        tracing::warn!("Left connections that did not end");
    }
}

/// Ends the engines, then everything that was waiting for them, and leaves what has not ended after `limit`.
async fn stop(engines: Engines, tasks: &TaskTracker, limit: Duration) {
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

fn budget(config: &Config) -> Budget {
    let report = MemoryReader::new("/").read();
    let budget = Budget::find(&config.memory, report.cgroup_limit, report.available);
    tracing::info!(budget = %budget.bytes, source = %budget.source, "Found memory budget");
    budget
}

fn engine_executable(config: &Config) -> Result<PathBuf> {
    let path = match &config.engine.executable {
        Some(path) => path.clone(),
        None => std::env::current_exe()
            .context("find the daemon's own executable")?
            .with_file_name("hearth-engine"),
    };
    anyhow::ensure!(path.is_file(), "there is no engine executable at {}", path.display());
    Ok(path)
}

async fn bind(endpoints: &[Endpoint]) -> Result<Vec<Listener>> {
    let mut listeners = Vec::with_capacity(endpoints.len());
    for endpoint in endpoints {
        listeners.push(Listener::bind(endpoint).await.with_context(|| format!("listen on {endpoint}"))?);
    }
    Ok(listeners)
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
