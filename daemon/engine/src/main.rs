//! `hearth-engine`: one model in one process. Started by `hearthd` only.
//!
//! The order is the point: limits, then the sandbox, and only then threads and the model file.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use hearth_engine::llama::Backend;
use hearth_engine::log::{self, LogFilter};
use hearth_engine::process::{Spec, limits, sandbox, slice};
use hearth_engine::prompt::{BigStack, chain};
use hearth_engine::serve::Service;
use hearth_engine::worker::Worker;

/// The engine process of Hearth. `hearthd` starts it; it is of no use by itself.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve one model over the socket on standard input.
    Serve(Options),
    /// Answer questions about a model file over the socket on standard input, without loading it.
    Inspect(Options),
}

#[derive(Debug, clap::Args)]
struct Options {
    /// The model file.
    #[arg(long)]
    model: PathBuf,
    /// Process id of the front.
    #[arg(long)]
    parent_pid: i32,
    /// How willingly the kernel kills this process when memory is short.
    #[arg(long, default_value_t = 500, allow_negative_numbers = true)]
    oom_score_adj: i32,
    /// Name of the model, for people who look at the process list.
    #[arg(long, default_value = "")]
    label: String,
    /// What to log.
    #[arg(long, default_value = "info")]
    log: String,
}

fn main() -> ExitCode {
    let Args { command: Command::Serve(options) | Command::Inspect(options) } = Args::parse();
    let filter = log::start(&options.log);
    match run(&options, filter) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %chain(error.as_ref()), model = options.label, "Engine ends");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options, filter: LogFilter) -> Result<(), Box<dyn std::error::Error>> {
    let spec = Spec {
        model: options.model.clone(),
        parent: options.parent_pid,
        oom_score_adj: options.oom_score_adj,
    };
    limits::apply(&spec)?;
    if let Err(error) = slice::shorten() {
        tracing::info!(%error, "No time slice of its own: slower beside busy programs");
    }
    sandbox::enter(&spec);
    let socket: OwnedFd = io::stdin().as_fd().try_clone_to_owned()?;
    let backend = Arc::new(Backend::init()?);
    let (worker, signs) = Worker::start(Arc::clone(&backend))?;
    let stack = BigStack::start()?;
    let service = Service::new(spec.model, backend, worker, signs, stack, filter);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(service.run(socket))?;
    Ok(())
}
