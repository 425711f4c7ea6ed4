//! `hearthd`: argv, config, telemetry, [`App::build`], [`App::run`], exit code.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use hearthd::access::{self, Role};
use hearthd::app::{App, EXIT_BAD_CONFIG, EXIT_FAILED};
use hearthd::config::live::Source;
use hearthd::config::{Config, Endpoint, Flags};
use hearthd::engines::program::Program;
use hearthd::telemetry::chain::Chain;
use hearthd::telemetry::{StartError, Telemetry};
use hearthd::units::Bytes;
use listenfd::ListenFd;

/// Random bytes of a token: more than anybody can try.
const TOKEN_BYTES: usize = 32;

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
        /// Where to listen: `unix:PATH` or `tcp:HOST:PORT` (loopback, unless TLS is configured). May be given more than once.
        #[arg(long, value_name = "ADDRESS")]
        listen: Vec<Endpoint>,
        /// Where models and state are kept.
        #[arg(long, value_name = "DIR")]
        state: Option<PathBuf>,
        /// What the engines may use in all, for example `6GiB`.
        #[arg(long, value_name = "SIZE")]
        memory_budget: Option<Bytes>,
    },
    /// Check a configuration file and print every fault in it; without one, print what it means.
    CheckConfig {
        /// Configuration file.
        #[arg(long, value_name = "FILE", default_value = "/etc/hearth/config.toml")]
        config: PathBuf,
    },
    /// Make a token for a program that comes over TCP. The table for the configuration goes to standard output,
    /// the token itself to a new file that nobody else can read.
    NewToken {
        /// What the program is called in logs.
        name: String,
        /// What it may do: use or manage.
        #[arg(long, default_value = "use")]
        role: Role,
        /// The new file.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Run golden vectors through the code that serves requests; each failure is printed with a difference.
    Conformance {
        /// A folder with `render/`, `parse/` or `tokenize/`.
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// The engine executable. Default: the one that `serve` takes.
        #[arg(long, value_name = "FILE")]
        engine: Option<PathBuf>,
    },
    /// Write the completions of a shell to standard output.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Write the pages of the manual into a folder.
    Man {
        /// The folder, which is made where it is missing.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

fn main() -> ExitCode {
    // It takes variables out of the environment, which is safe only while there is one thread.
    let inherited = ListenFd::from_env();
    match Args::parse().command {
        Command::Serve { config, listen, state, memory_budget } => {
            serve(config, Flags { listen, state_dir: state, memory_budget }, inherited)
        }
        Command::CheckConfig { config } => check(&config),
        Command::NewToken { name, role, out } => match new_token(&out) {
            Ok(token) => {
                let digest = access::digest_of(&token);
                say(&format!("[[access.tokens]]\nname = {name:?}\nsha256 = \"{digest}\"\nrole = \"{role}\""))
            }
            Err(error) => fail(&format!("write {}: {error}", out.display()), EXIT_FAILED),
        },
        Command::Conformance { folder, engine } => conformance(&folder, engine),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Args::command(), "hearthd", &mut std::io::stdout());
            ExitCode::SUCCESS
        }
        Command::Man { out } => match std::fs::create_dir_all(&out).and_then(|()| manual(&out)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&format!("write the manual to {}: {error}", out.display()), EXIT_FAILED),
        },
    }
}

/// A page for the daemon, and one for each of its commands.
fn manual(out: &Path) -> std::io::Result<()> {
    clap_mangen::generate_to(Args::command(), out)
}

/// Becomes the engine, which has the code that is checked.
fn conformance(folder: &Path, engine: Option<PathBuf>) -> ExitCode {
    let engine = match Program::find(engine.as_deref()) {
        Ok(program) => program.path,
        Err(error) => return fail(&Chain(&error).to_string(), EXIT_FAILED),
    };
    let error = process::Command::new(&engine).arg("conformance").arg(folder).exec();
    fail(&format!("start {}: {error}", engine.display()), EXIT_FAILED)
}

fn serve(file: Option<PathBuf>, flags: Flags, inherited: ListenFd) -> ExitCode {
    let source = match Source::read(file, flags) {
        Ok(source) => source,
        Err(error) => return complain(&error, EXIT_BAD_CONFIG),
    };
    let telemetry = match Telemetry::start(&source.live().now().log) {
        Ok(telemetry) => telemetry,
        Err(error @ StartError::Journal(_)) => return complain(&error, EXIT_FAILED),
        Err(error @ StartError::Variable(_)) => return complain(&error, EXIT_BAD_CONFIG),
    };
    let code = match App::build(source, telemetry.control.clone(), inherited).and_then(App::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %Chain(error.as_ref()), "Stopped on an error");
            ExitCode::from(EXIT_FAILED)
        }
    };
    telemetry.flush();
    code
}

/// Reads the file as the daemon would, the certificates it names included.
fn check(file: &Path) -> ExitCode {
    let config = match Config::read(Some(file), Flags::default()) {
        Ok(config) => config,
        Err(error) => return complain(&error, EXIT_BAD_CONFIG),
    };
    if let Some(Err(error)) = config.tls.as_ref().map(hearthd::tls::Config::load) {
        return complain(&error, EXIT_BAD_CONFIG);
    }
    let own = rustix::process::geteuid().as_raw();
    let (_, unknown) = access::Grants::resolve(&config.access, own);
    let warnings = unknown.iter().map(|unknown| format!("warning: {unknown}"));
    let entries = config.entries().into_iter().map(|(key, value)| format!("{key} = {value}"));
    let lines = warnings.chain(entries).chain([format!("{}: no faults", file.display())]);
    say(&lines.collect::<Vec<_>>().join("\n"))
}

/// Writes a new token into a new file.
fn new_token(out: &Path) -> std::io::Result<String> {
    let mut bytes = [0; TOKEN_BYTES];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(out)?;
    writeln!(file, "{token}")?;
    file.sync_all()?;
    Ok(token)
}

fn fail(words: &str, code: u8) -> ExitCode {
    // Nothing can be done where standard error is closed.
    writeln!(std::io::stderr(), "hearthd: {words}").ok();
    ExitCode::from(code)
}

fn complain(error: &dyn std::error::Error, code: u8) -> ExitCode {
    fail(&Chain(error).to_string(), code)
}

fn say(lines: &str) -> ExitCode {
    if writeln!(std::io::stdout(), "{lines}").is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(EXIT_FAILED)
    }
}
