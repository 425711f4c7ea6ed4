//! `hearth-engine`: one model in one process. Started by `hearthd` only.
//!
//! The order is the point: limits, then the sandbox, and only then threads and the model file.

use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use hearth_engine::conformance::{self, Tally};
use hearth_engine::llama::Backend;
use hearth_engine::log::{self, LogFilter};
use hearth_engine::process::{Spec, Surroundings, limits, sandbox, slice};
use hearth_engine::prompt::{BigStack, STACK_BYTES, chain};
use hearth_engine::serve::Service;
use hearth_engine::worker::Worker;

/// The engine process of Hearth. `hearthd` starts it; it is of no use by itself.
#[derive(Debug, Parser)]
#[command(version = concat!(env!("CARGO_PKG_VERSION"), " (", env!("HEARTH_CPU_LEVEL"), ")"))]
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
    /// Run golden vectors through the code that serves requests. Exits with 1 if one fails.
    Conformance {
        /// A folder with `render/`, `parse/` or `tokenize/`.
        folder: PathBuf,
    },
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
    let options = match Args::parse().command {
        Command::Serve(options) | Command::Inspect(options) => options,
        Command::Conformance { folder } => return conform(&folder),
    };
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
    // No thread, and the last sockets that this process makes.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let surroundings = Surroundings::before(|| sandbox::enter(&spec));
    let socket: OwnedFd = io::stdin().as_fd().try_clone_to_owned()?;
    let backend = Arc::new(Backend::init()?);
    let (worker, signs) = Worker::start(Arc::clone(&backend))?;
    let stack = BigStack::start()?;
    let service = Service::new(spec.model, surroundings, backend, worker, signs, stack, filter);
    runtime.block_on(service.run(socket))?;
    Ok(())
}

fn conform(folder: &Path) -> ExitCode {
    let run = || -> Result<Tally, Box<dyn std::error::Error>> {
        Ok(conformance::run(folder, &Backend::init()?, &mut io::stdout().lock())?)
    };
    // Templates recurse: the same stack as when serving.
    let outcome = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
        let run = || run().map_err(|error| chain(error.as_ref()));
        thread.spawn_scoped(scope, run).map(|thread| thread.join())
    });
    let error = match outcome {
        Ok(Ok(Ok(Tally { failed: 0, .. }))) => return ExitCode::SUCCESS,
        Ok(Ok(Ok(_))) => return ExitCode::FAILURE,
        Ok(Ok(Err(error))) => error,
        Ok(Err(_)) => "a vector made the engine panic".to_owned(),
        Err(error) => format!("start a thread: {error}"),
    };
    // Nothing can be done where standard error is closed.
    writeln!(io::stderr(), "hearth-engine: {error}").ok();
    ExitCode::from(2)
}
