//! The command line: arguments, one connection, one command, one exit code.
//!
//! The answer goes to stdout, progress and errors to stderr. With `--json` everything a program may want
//! goes to stdout, one object per line, errors included.

mod chat;
mod connect;
mod exit;
mod hint;
mod import;
mod json;
mod keep_alive;
mod load;
mod log;
mod manual;
mod models;
mod output;
mod plan;
mod progress;
mod prompt;
mod render;
mod setup;
mod status;
mod style;
mod table;
mod tools;
mod top;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use connect::ConnectArgs;
use exit::{Exit, Failure};
use output::{Format, Output};
use style::When;

/// Talks to Hearth, the daemon that keeps language models ready on this board.
///
/// Exit codes: 0 done, 1 failed, 2 usage, 69 daemon unreachable, 75 try again later, 130 interrupted.
#[derive(Debug, Parser)]
#[command(name = "hearth", version, arg_required_else_help = true, disable_help_subcommand = true)]
struct Cli {
    /// Write one JSON object per line to stdout, errors included.
    #[arg(long, global = true)]
    json: bool,
    /// When to use colours; auto looks at the terminal, NO_COLOR and CLICOLOR_FORCE.
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: When,
    // Behind the others, since its heading holds for all that follows.
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Chat(Box<chat::ChatArgs>),
    Models(models::ModelsArgs),
    Import(import::ImportArgs),
    Rm(models::RmArgs),
    Load(load::LoadArgs),
    Unload(load::UnloadArgs),
    Plan(plan::PlanArgs),
    Pin(load::PinArgs),
    Unpin(load::UnpinArgs),
    Status(status::StatusArgs),
    Top(top::TopArgs),
    Log(log::LogArgs),
    Render(render::RenderArgs),
    Count(render::CountArgs),
    Completions(manual::CompletionsArgs),
    Man(manual::ManArgs),
}

/// Reads the arguments, runs the command, reports its failure.
pub(super) fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => run(cli).into(),
        Err(error) => bad_usage(&error).into(),
    }
}

fn run(cli: Cli) -> Exit {
    let mut out = Output::new(if cli.json { Format::Json } else { Format::Human }, cli.color);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(source) => return out.failure(&Failure::Start(source)),
    };
    let result = runtime.block_on(command(cli.command, cli.connect, &mut out));
    // A read of stdin that is still waiting must not hold the exit.
    runtime.shutdown_background();
    match result {
        Ok(()) => Exit::Done,
        Err(failure) => out.failure(&failure),
    }
}

async fn command(command: Command, connect: ConnectArgs, out: &mut Output) -> Result<(), Failure> {
    match &command {
        Command::Completions(args) => return manual::completions(args, Cli::command(), out),
        Command::Man(args) => return manual::man(args, Cli::command(), out),
        _ => {}
    }
    let connect = connect.connect()?;
    match command {
        Command::Chat(args) => chat::run(*args, connect, out).await,
        Command::Models(args) => models::list(args, &connect.await?, out).await,
        Command::Import(args) => import::run(args, connect, out).await,
        Command::Rm(args) => models::remove(args, &connect.await?, out).await,
        Command::Load(args) => load::load(args, &connect.await?, out).await,
        Command::Unload(args) => load::unload(args, &connect.await?, out).await,
        Command::Plan(args) => plan::run(args, &connect.await?, out).await,
        Command::Pin(args) => load::pin(args, &connect.await?, out).await,
        Command::Unpin(args) => load::unpin(args, &connect.await?, out).await,
        Command::Status(args) => status::run(args, &connect.await?, out).await,
        Command::Top(args) => top::run(args, connect, out).await,
        Command::Log(args) => log::run(args, &connect.await?, out).await,
        Command::Render(args) => render::render(args, connect, out).await,
        Command::Count(args) => render::count(args, connect, out).await,
        // They need no daemon, and ran already.
        Command::Completions(_) | Command::Man(_) => Ok(()),
    }
}

/// Help and version are no errors; a program that asked for JSON gets the fault as a line of it.
fn bad_usage(error: &clap::Error) -> Exit {
    let asked_for_json = std::env::args().take_while(|arg| arg != "--").any(|arg| arg == "--json");
    if error.use_stderr() && asked_for_json {
        let text = error.render().to_string();
        let message = text.trim_start_matches("error: ").lines().next().unwrap_or_default();
        return Output::new(Format::Json, When::Never).failure(&Failure::Usage(message.to_owned()));
    }
    // Nobody is left to tell where even this cannot be written.
    drop(error.print());
    if error.use_stderr() { Exit::Usage } else { Exit::Done }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hearth_client::Endpoint;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_of_the_program_may_follow_the_command() {
        let cli =
            Cli::try_parse_from(["hearth", "models", "--json", "--endpoint", "unix:/x"]).expect("valid");
        assert!(cli.json);
        assert_eq!(cli.connect.endpoint, Some(Endpoint::Unix("/x".into())));
    }

    #[test]
    fn a_negative_number_is_a_value() {
        let parsed = Cli::try_parse_from(["hearth", "chat", "m", "--temperature", "-1"]);
        assert!(parsed.is_ok(), "{parsed:?}");
    }
}
