//! Reading the configuration again while the daemon runs, and putting what may change into effect: all of it, or
//! nothing where there is any fault.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_rustls::rustls::ServerConfig;

use crate::access::{self, Grants};
use crate::config::live::{Changes, Source};
use crate::config::{Config, ConfigError};
use crate::lifecycle::notify;
use crate::listen::{Reach, share};
use crate::metrics::Metrics;
use crate::telemetry::LogControl;
use crate::telemetry::chain::Chain;
use crate::tls::TlsError;

/// How long the look-up of users and groups may take.
const LOOK_UP_LIMIT: Duration = Duration::from_secs(10);

/// The parts that take on a new configuration.
#[derive(Debug)]
pub struct Reloader {
    /// The file and the flags.
    pub source: Source,
    /// What is logged.
    pub log: LogControl,
    /// Who may do what.
    pub grants: watch::Sender<Arc<Grants>>,
    /// Certificates. Absent: TCP is plain, for as long as the daemon runs.
    pub tls: Option<watch::Sender<Arc<ServerConfig>>>,
    /// The Unix sockets for clients.
    pub sockets: Vec<PathBuf>,
    /// Where reloads are counted.
    pub metrics: Metrics,
}

/// Why the old configuration holds on.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The users and groups.
    #[error("access: the users and groups could not be looked up within {} s", LOOK_UP_LIMIT.as_secs())]
    LookUp,
}

impl Reloader {
    /// Reads the file again and says in the log what came of it.
    pub async fn run(&self) {
        notify::reloading();
        match self.reload().await {
            Ok(Changes { applied, waiting }) => {
                self.metrics.reloaded("ok");
                tracing::info!(keys = %applied.join(", "), "Read the configuration again");
                if !waiting.is_empty() {
                    tracing::warn!(keys = %waiting.join(", "), "These changes take effect after a restart");
                }
            }
            Err(error) => {
                self.metrics.reloaded("failed");
                tracing::error!(error = %Chain(&error), "Kept the old configuration");
            }
        }
        notify::ready();
    }

    async fn reload(&self) -> Result<Changes, ReloadError> {
        let prepared = self.source.prepare()?;
        let config = prepared.config();
        let certificates = match (&self.tls, &config.tls) {
            (Some(tls), Some(files)) => Some((tls, files.load()?)),
            _ => None,
        };
        // Names may be looked up on the network: not on this thread, and not for ever.
        let names = Arc::clone(config);
        let looked_up = tokio::task::spawn_blocking(move || grants(&names));
        let looked_up = tokio::time::timeout(LOOK_UP_LIMIT, looked_up).await.ok().and_then(Result::ok);
        let grants = looked_up.ok_or(ReloadError::LookUp)?;
        if let Err(error) = self.log.configure(&config.log.level) {
            // The filter was checked with the file.
            tracing::warn!(%error, "Kept the old log filter");
        }
        self.grants.send_replace(Arc::new(grants));
        for socket in &self.sockets {
            share(socket, reach(config));
        }
        if let Some((tls, certificates)) = certificates {
            tls.send_replace(certificates);
        }
        Ok(self.source.commit(prepared))
    }
}

/// Who may do what by this configuration; names that this system does not know are warned of.
pub fn grants(config: &Config) -> Grants {
    let own = rustix::process::geteuid().as_raw();
    let (grants, unknown) = Grants::resolve(&config.access, own);
    for access::UnknownName { key, grantee } in unknown {
        tracing::warn!(key, %grantee, "This system does not know the name: it grants nothing");
    }
    grants
}

/// Who may open the sockets by this configuration.
pub fn reach(config: &Config) -> Reach {
    if config.access.reaches_beyond_the_group() { Reach::All } else { Reach::Group }
}
