//! Logging: `tracing` to the journal with every field as a journal field, or to standard error, one compact
//! line per event.
//!
//! ERROR: an operator must act. WARN: recovered. INFO: lifecycle. DEBUG: per request. TRACE: per token;
//! prompts and completions appear nowhere else. What is logged can be changed while the daemon runs, through
//! [`LogControl`].

pub mod chain;
mod control;
mod journal;
mod line;

use std::fmt;
use std::io::{self, IsTerminal};
use std::str::FromStr;

use tracing_subscriber::filter::ParseError;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

pub use self::control::{LogControl, SetFilterError};
use self::journal::Journal;

/// The environment variable that outranks `log.level`.
pub const LEVEL_VARIABLE: &str = "HEARTH_LOG";

/// Level of a daemon that was told nothing: lifecycle, warnings and errors.
pub const DEFAULT_LEVEL: &str = "info";

/// Crates below us whose DEBUG is about bytes on a wire: they are let through only where they are named.
const QUIET: [&str; 6] = ["h2", "hyper", "hyper_util", "rustls", "tonic", "tower"];

/// What is logged, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// A level, or directives such as `info,hearthd::engines=debug`.
    pub level: String,
    /// Where lines go.
    pub target: Target,
}

/// Where lines go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The journal where systemd has connected standard error to it, else standard error.
    Auto,
    /// The journal.
    Journal,
    /// Standard error.
    Stderr,
}

/// Why a text is not a [`Target`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not auto, journal or stderr")]
pub struct BadTarget(pub String);

/// Logging that was started.
#[derive(Debug)]
pub struct Telemetry {
    /// Changes what is logged.
    pub control: LogControl,
    journal: Option<Journal>,
}

impl Default for Config {
    fn default() -> Self {
        Self { level: DEFAULT_LEVEL.to_owned(), target: Target::Auto }
    }
}

/// Whether `filter` is a level or a list of directives.
///
/// # Errors
/// What is wrong with it, in words.
pub fn check_filter(filter: &str) -> Result<(), ParseError> {
    parse_filter(filter).map(drop)
}

fn parse_filter(filter: &str) -> Result<EnvFilter, ParseError> {
    let quiet = QUIET.iter().filter(|name| !filter.contains(*name)).map(|name| format!(",{name}=info"));
    EnvFilter::try_new(filter.to_owned() + &quiet.collect::<String>())
}

impl Telemetry {
    /// Starts logging.
    ///
    /// # Errors
    /// The journal was asked for by name and does not answer.
    pub fn start(config: &Config) -> io::Result<Self> {
        let journal = match config.target {
            Target::Stderr => None,
            Target::Journal => Some(Journal::connect()?),
            Target::Auto if systemd_journal_logger::connected_to_journal() => Journal::connect().ok(),
            Target::Auto => None,
        };
        let pinned = std::env::var(LEVEL_VARIABLE).ok();
        let pinned = pinned.filter(|level| !level.is_empty() && check_filter(level).is_ok());
        let level = pinned.clone().unwrap_or_else(|| config.level.clone());
        let filter = parse_filter(&level).unwrap_or_else(|_| EnvFilter::new(DEFAULT_LEVEL));
        let (filter, handle) = reload::Layer::<EnvFilter, Registry>::new(filter);
        let output = match journal.clone() {
            Some(journal) => journal.boxed(),
            None => tracing_subscriber::fmt::layer()
                .compact()
                .with_ansi(io::stderr().is_terminal())
                .with_writer(io::stderr)
                .boxed(),
        };
        tracing_subscriber::registry().with(filter).with(output).init();
        let control = LogControl::new(level, pinned.is_some(), move |filter| handle.reload(filter).is_ok());
        Ok(Self { control, journal })
    }

    /// Waits until what was logged is written.
    pub fn flush(&self) {
        if let Some(journal) = &self.journal {
            journal.flush();
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Journal => "journal",
            Self::Stderr => "stderr",
        })
    }
}

impl FromStr for Target {
    type Err = BadTarget;

    fn from_str(text: &str) -> Result<Self, BadTarget> {
        match text {
            "auto" => Ok(Self::Auto),
            "journal" => Ok(Self::Journal),
            "stderr" => Ok(Self::Stderr),
            _ => Err(BadTarget(text.to_owned())),
        }
    }
}
