//! Logging: `tracing` to standard error, one compact line per event.
//!
//! ERROR: an operator must act. WARN: recovered. INFO: lifecycle. DEBUG: per request. TRACE: per token;
//! prompts and completions appear nowhere else.

pub mod chain;

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// The environment variable that outranks `log.level`.
pub const LEVEL_VARIABLE: &str = "HEARTH_LOG";

/// Level of a daemon that was told nothing: lifecycle, warnings and errors.
pub const DEFAULT_LEVEL: &str = "info";

/// What is logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// A level, or directives such as `info,hearthd::engines=debug`.
    pub level: String,
}

impl Default for Config {
    fn default() -> Self {
        Self { level: DEFAULT_LEVEL.to_owned() }
    }
}

/// Whether `level` is a level or a list of directives.
pub fn check_level(level: &str) -> Result<(), tracing_subscriber::filter::ParseError> {
    EnvFilter::try_new(level).map(drop)
}

/// Starts logging. Does nothing where a program or test has started it before.
pub fn init(config: &Config) {
    let level = std::env::var(LEVEL_VARIABLE).unwrap_or_else(|_| config.level.clone());
    let filter = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new(DEFAULT_LEVEL));
    tracing_subscriber::fmt()
        .compact()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .try_init()
        .ok();
}
