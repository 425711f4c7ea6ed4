//! `hearthd`: argv, telemetry, config, [`App::build`], [`App::run`], exit code.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use hearthd::app::{App, EXIT_BAD_CONFIG, EXIT_FAILED};
use hearthd::config::{Config, Endpoint, Flags};
use hearthd::telemetry;
use hearthd::telemetry::chain::Chain;
use hearthd::units::Bytes;

/// Keeps language models ready and serves them over gRPC.
#[derive(Debug, Parser)]
#[command(name = "hearthd", version, max_term_width = 100)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until SIGTERM or SIGINT.
    Serve {
        /// Configuration file. Without it the defaults hold.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Where to listen: `unix:PATH` or `tcp:HOST:PORT` (loopback only). May be given more than once.
        #[arg(long, value_name = "ADDRESS")]
        listen: Vec<Endpoint>,
        /// Where models and state are kept.
        #[arg(long, value_name = "DIR")]
        state: Option<PathBuf>,
        /// What the engines may use in all, for example `6GiB`.
        #[arg(long, value_name = "SIZE")]
        memory_budget: Option<Bytes>,
    },
    /// Check a configuration file and print every fault in it.
    CheckConfig {
        /// Configuration file.
        #[arg(long, value_name = "FILE", default_value = "/etc/hearth/config.toml")]
        config: PathBuf,
    },
}

fn main() -> ExitCode {
    match Args::parse().command {
        Command::Serve { config, listen, state, memory_budget } => {
            serve(config, Flags { listen, state_dir: state, memory_budget })
        }
        Command::CheckConfig { config } => match Config::read(Some(&config), Flags::default()) {
            Ok(_) => say(&format!("{}: no faults", config.display()), ExitCode::SUCCESS),
            Err(error) => complain(&error, EXIT_BAD_CONFIG),
        },
    }
}

fn serve(file: Option<PathBuf>, flags: Flags) -> ExitCode {
    let config = match Config::read(file.as_deref(), flags) {
        Ok(config) => config,
        Err(error) => return complain(&error, EXIT_BAD_CONFIG),
    };
    telemetry::init(&config.log);
    match App::build(config).and_then(App::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %Chain(error.as_ref()), "Stopped on an error");
            ExitCode::from(EXIT_FAILED)
        }
    }
}

fn complain(error: &dyn std::error::Error, code: u8) -> ExitCode {
    // Nothing can be done where standard error is closed.
    writeln!(std::io::stderr(), "hearthd: {}", Chain(error)).ok();
    ExitCode::from(code)
}

fn say(line: &str, code: ExitCode) -> ExitCode {
    if writeln!(std::io::stdout(), "{line}").is_ok() { code } else { ExitCode::from(EXIT_FAILED) }
}
