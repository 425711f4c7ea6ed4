//! What the daemon was told: flags before file before defaults.
//!
//! Each module owns its part and its defaults; this one reads the file, checks it, and reports every
//! fault at once with its key.

mod file;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use crate::engines::{self, LoadParams, ModelOverrides};
use crate::memory;
use crate::telemetry;
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
pub const DIALECTS: [&str; 2] = ["qwen3", "generic"];

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
    /// Exceptions for single models.
    pub models: BTreeMap<ModelName, ModelOverrides>,
    /// What is logged.
    pub log: telemetry::Config,
}

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A Unix socket.
    Unix(PathBuf),
    /// Plain TCP, on loopback only.
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
    /// The file is not TOML of the right shape.
    #[error("{}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// Where and what.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// Values that cannot be.
    #[error("{0}")]
    Faults(Faults),
}

/// Everything that is wrong with a file, one line each.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

/// One wrong value.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    /// Path of the key, for example `engine.sequences`.
    pub key: String,
    /// What is wrong with it.
    pub why: String,
}

/// Why a text is not an address to listen on.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadEndpoint {
    /// Neither form.
    #[error("`{0}` is not an address: write unix:PATH or tcp:HOST:PORT")]
    Form(String),
    /// Plain TCP would be open to the network.
    #[error("`{0}` is not a loopback address: plain TCP is only served on 127.0.0.1 and ::1")]
    NotLoopback(SocketAddr),
}

impl Config {
    /// Reads the file where there is one, and lays the flags over it.
    pub fn read(path: Option<&Path>, flags: Flags) -> Result<Self, ConfigError> {
        let mut config = match path {
            Some(path) => Self::from_file(path)?,
            None => Self::default(),
        };
        config.overlay(flags);
        Ok(config)
    }

    fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let raw: file::Root = toml::from_str(&text)
            .map_err(|source| ConfigError::Shape { path: path.to_owned(), source: Box::new(source) })?;
        Self::try_from(raw).map_err(ConfigError::Faults)
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
            models: BTreeMap::new(),
            log: telemetry::Config::default(),
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
                loopback(address.parse().map_err(|_| form())?)
            }
            _ => Err(form()),
        }
    }
}

fn loopback(address: SocketAddr) -> Result<Endpoint, BadEndpoint> {
    if address.ip().is_loopback() {
        Ok(Endpoint::Tcp(address))
    } else {
        Err(BadEndpoint::NotLoopback(address))
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bad configuration")?;
        self.0.iter().try_for_each(|fault| write!(f, "\n  {}: {}", fault.key, fault.why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("config.toml");
        std::fs::write(&path, text).expect("write the file");
        Config::read(Some(&path), Flags::default())
    }

    fn faults(text: &str) -> Vec<String> {
        match parse(text) {
            Err(ConfigError::Faults(Faults(faults))) => faults.into_iter().map(|fault| fault.key).collect(),
            other => panic!("expected faults, got {other:?}"),
        }
    }

    /// Takes the `# ` off each commented key, as a reader of the file would.
    fn uncommented(text: &str) -> String {
        let key = |line: &&str| {
            let line = line.trim_start_matches("# ");
            line.starts_with('[')
                || line.split_once(" = ").is_some_and(|(key, _)| {
                    !key.is_empty() && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
                })
        };
        text.lines().filter(key).map(|line| line.trim_start_matches("# ")).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_shipped_file_is_the_default() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/config.toml");
        let text = std::fs::read_to_string(&path).expect("deploy/config.toml is there");
        assert_eq!(parse(&text).expect("it is valid as it is"), Config::default());
        let text = uncommented(&text);
        let example = text.find("[models").expect("it shows a model's table");
        assert_eq!(parse(&text[..example]).expect("it is valid uncommented"), Config::default());
        assert_eq!(parse(&text).expect("so is the example").models.len(), 1);
        for key in file::KEYS {
            assert!(text.lines().any(|line| line.starts_with(&format!("{key} = "))), "{key} is missing");
        }
    }

    #[test]
    fn all_faults_are_named_with_their_keys() {
        let keys = faults(
            "listen = ['tcp:0.0.0.0:1', 'x']\ndrain_deadline = '5 parsecs'\n[engine]\nsequences = 0\n\
             kv_type = 'f64'\n[memory]\nbudget = 'much'\n[models.'a b']\nsequences = 1\n\
             [models.'m']\nsequences = 129\ndialect = 'qwen33'\n[log]\nlevel = '=,='",
        );
        let wanted = [
            "listen[0]",
            "listen[1]",
            "drain_deadline",
            "memory.budget",
            "engine.sequences",
            "engine.kv_type",
            "models.\"a b\"",
            "models.\"m\".sequences",
            "models.\"m\".dialect",
            "log.level",
        ];
        assert_eq!(keys, wanted);
    }

    #[test]
    fn an_unknown_key_is_refused() {
        assert!(matches!(parse("sockets = 1"), Err(ConfigError::Shape { .. })));
        assert!(matches!(parse("[engine]\nfoo = 1"), Err(ConfigError::Shape { .. })));
    }

    #[test]
    fn flags_outrank_the_file_and_models_outrank_the_engine_table() {
        let mut config = parse(
            "state_dir = '/a'\n[engine]\nsequences = 4\n[models.'m']\nsequences = 2\n\
             dialect = 'qwen3'\n[memory]\nbudget = '1GiB'",
        )
        .expect("a valid file");
        config.overlay(Flags { state_dir: Some("/b".into()), ..Flags::default() });
        assert_eq!(config.state_dir, Path::new("/b"));
        assert_eq!(config.memory.budget, Some(Bytes(1 << 30)));
        let model = |name: &str| config.load_params(&name.parse().expect("a name"));
        assert_eq!((model("m").sequences, model("m").dialect.as_deref()), (2, Some("qwen3")));
        assert_eq!((model("other").sequences, model("other").dialect), (4, None));
    }

    #[test]
    fn plain_tcp_stays_on_loopback() {
        assert!("tcp:127.0.0.1:0".parse::<Endpoint>().is_ok());
        assert!("tcp:[::1]:50051".parse::<Endpoint>().is_ok());
        assert!(matches!("tcp:10.0.0.1:1".parse::<Endpoint>(), Err(BadEndpoint::NotLoopback(_))));
        assert!(matches!("unix:".parse::<Endpoint>(), Err(BadEndpoint::Form(_))));
    }
}
