//! What the daemon was told: flags before file before defaults.
//!
//! Each module owns its part and its defaults; this one reads the file, checks it, and reports every
//! fault at once with its key and line. [`live`] keeps what may change while the daemon runs.

mod file;
pub mod live;
mod reader;
mod show;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use crate::access;
use crate::engines::date::PromptDate;
use crate::engines::request::Sampling;
use crate::engines::{self, KeepAlive, LoadParams, ModelOverrides};
use crate::memory;
use crate::metrics;
use crate::telemetry;
use crate::tls;
use crate::units::{Bytes, ModelName};

/// Where a daemon without flags listens.
pub const DEFAULT_SOCKET: &str = "/run/hearth/hearth.sock";

/// Where a daemon without flags keeps its models.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/hearth";

/// How long running answers may go on after SIGTERM: long enough for most of an answer, well below
/// systemd's 90 s.
pub const DEFAULT_DRAIN_DEADLINE: Duration = Duration::from_secs(20);

/// Names of the chat formats that the engine knows, as its `chat::dialect` has them. The front cannot ask it
/// without a model, so a new dialect is to be added here too.
pub const DIALECTS: [&str; 4] = ["llama31", "glm4", "qwen3", "generic"];

/// The effective configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where to listen; never empty.
    pub listen: Vec<Endpoint>,
    /// Where models are kept.
    pub state_dir: PathBuf,
    /// Folders whose files may be imported by path.
    pub import_dirs: Vec<PathBuf>,
    /// How long running answers may go on once the daemon is told to stop.
    pub drain_deadline: Duration,
    /// What the engines may use.
    pub memory: memory::Config,
    /// How engines are run.
    pub engine: engines::Config,
    /// How tokens are chosen where neither the request nor the model's table says.
    pub sampling: Sampling,
    /// Exceptions for single models.
    pub models: BTreeMap<ModelName, ModelOverrides>,
    /// Who may do what.
    pub access: access::Config,
    /// Encryption of TCP. Absent: TCP is plain, and on loopback only.
    pub tls: Option<tls::Config>,
    /// Where figures can be read.
    pub metrics: metrics::Config,
    /// What is logged.
    pub log: telemetry::Config,
}

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A Unix socket.
    Unix(PathBuf),
    /// TCP: encrypted where TLS is configured, else on loopback only.
    Tcp(SocketAddr),
}

/// What the command line says; outranks the file.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// Replaces the file's list where it is not empty.
    pub listen: Vec<Endpoint>,
    /// Replaces `state_dir`.
    pub state_dir: Option<PathBuf>,
    /// Replaces `memory.budget`.
    pub memory_budget: Option<Bytes>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// What the file says cannot be.
    #[error("{}: {faults}", path.display())]
    Faults {
        /// The file.
        path: PathBuf,
        /// Everything that is wrong with it.
        faults: Faults,
    },
    /// An address is open to the network and not encrypted.
    #[error(
        "`tcp:{0}` is not a loopback address: plain TCP is only served on 127.0.0.1 and ::1; set \
             tls.certificate and tls.key to serve it encrypted"
    )]
    NotLoopback(SocketAddr),
}

/// Everything that is wrong with a file, one line each.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

/// One wrong value.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    /// Path of the key, for example `engine.sequences`. Empty where the text is not TOML.
    pub key: String,
    /// Where it stands, counted from 1.
    pub line: Option<usize>,
    /// What is wrong with it.
    pub why: String,
}

/// Why a text is not an address to listen on.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadEndpoint {
    /// Neither form.
    #[error("`{0}` is not an address: write unix:PATH or tcp:HOST:PORT")]
    Form(String),
}

impl Config {
    /// Reads the file where there is one, and lays the flags over it.
    pub fn read(path: Option<&Path>, flags: Flags) -> Result<Self, ConfigError> {
        let mut config = match path {
            Some(path) => Self::from_file(path)?,
            None => Self::default(),
        };
        config.overlay(flags);
        config.check_addresses()?;
        Ok(config)
    }

    fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        file::read(&text).map_err(|faults| ConfigError::Faults { path: path.to_owned(), faults })
    }

    fn check_addresses(&self) -> Result<(), ConfigError> {
        let open = self.listen.iter().find_map(|endpoint| match endpoint {
            Endpoint::Tcp(address) if !address.ip().is_loopback() => Some(*address),
            Endpoint::Tcp(_) | Endpoint::Unix(_) => None,
        });
        match open.filter(|_| self.tls.is_none()) {
            Some(address) => Err(ConfigError::NotLoopback(address)),
            None => Ok(()),
        }
    }

    fn overlay(&mut self, flags: Flags) {
        let Flags { listen, state_dir, memory_budget } = flags;
        if !listen.is_empty() {
            self.listen = listen;
        }
        if let Some(state_dir) = state_dir {
            self.state_dir = state_dir;
        }
        if memory_budget.is_some() {
            self.memory.budget = memory_budget;
        }
    }

    /// How `model` is to be loaded.
    pub fn load_params(&self, model: &ModelName) -> LoadParams {
        self.models
            .get(model)
            .map_or_else(|| self.engine.load.clone(), |exceptions| self.engine.load.with(exceptions))
    }

    /// The day that the template of `model` is told.
    pub fn date(&self, model: &ModelName) -> PromptDate {
        self.models.get(model).and_then(|exceptions| exceptions.date).unwrap_or(self.engine.date)
    }

    /// How long a model stays in memory that nobody uses.
    pub fn keep_alive(&self, model: &ModelName) -> KeepAlive {
        let of_model = self.models.get(model).and_then(|exceptions| exceptions.keep_alive);
        of_model.unwrap_or(self.engine.keep_alive)
    }

    /// Models that are never taken out of memory but on request.
    pub fn pinned(&self) -> BTreeSet<ModelName> {
        self.those(|exceptions| exceptions.pinned).collect()
    }

    /// Models that are loaded at the start, in the order of their names.
    pub fn preloaded(&self) -> Vec<ModelName> {
        self.those(|exceptions| exceptions.preload).collect()
    }

    fn those<'a>(
        &'a self,
        wanted: impl Fn(&ModelOverrides) -> bool + 'a,
    ) -> impl Iterator<Item = ModelName> + 'a {
        let models = self.models.iter();
        models.filter(move |(_, exceptions)| wanted(exceptions)).map(|(name, _)| name.clone())
    }

    /// How tokens of `model` are chosen where the request does not say.
    pub fn sampling(&self, model: &ModelName) -> Sampling {
        let of_model = self.models.get(model).map(|exceptions| exceptions.sampling.clone());
        of_model.unwrap_or_default().or(&self.sampling)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![Endpoint::Unix(DEFAULT_SOCKET.into())],
            state_dir: DEFAULT_STATE_DIR.into(),
            import_dirs: Vec::new(),
            drain_deadline: DEFAULT_DRAIN_DEADLINE,
            memory: memory::Config::default(),
            engine: engines::Config::default(),
            sampling: Sampling::default(),
            models: BTreeMap::new(),
            access: access::Config::default(),
            tls: None,
            metrics: metrics::Config::default(),
            log: telemetry::Config::default(),
        }
    }
}

impl Endpoint {
    /// Whether what comes to `other` comes here: the same address, or all addresses of the same port.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tcp(own), Self::Tcp(other)) if own.ip().is_unspecified() => own.port() == other.port(),
            _ => self == other,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

impl FromStr for Endpoint {
    type Err = BadEndpoint;

    fn from_str(text: &str) -> Result<Self, BadEndpoint> {
        let form = || BadEndpoint::Form(text.to_owned());
        match text.split_once(':').ok_or_else(form)? {
            ("unix", path) if !path.is_empty() => Ok(Self::Unix(path.into())),
            ("tcp", address) => {
                let address = address.replace("localhost:", "127.0.0.1:");
                Ok(Self::Tcp(address.parse().map_err(|_| form())?))
            }
            _ => Err(form()),
        }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bad configuration")?;
        self.0.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, line, why } = self;
        if let Some(line) = line {
            write!(f, "line {line}: ")?;
        }
        if key.is_empty() { f.write_str(why) } else { write!(f, "{key}: {why}") }
    }
}

#[cfg(test)]
mod tests;
