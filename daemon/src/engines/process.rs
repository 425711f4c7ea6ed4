//! Engine processes: how they start, what they say on standard error, and how they end.
//!
//! All are started by one thread that lives as long as the daemon, because a child's parent-death signal
//! fires when the *thread* that started it ends. The link travels as the child's standard input, which
//! needs neither unsafe code nor a name in the file system.
//!
//! A [`Process`] is the right to end the child: dropping it kills. A tracked task of its own waits for
//! the child through a pidfd, collects its last words, gives its memory reservation back, and only then
//! publishes the [`EngineExit`] that names what happened.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;
use tokio::sync::{oneshot, watch};
use tokio_util::task::TaskTracker;
use tracing::{Instrument, error_span};

use super::program::Program;
use super::words::{self, Tail};
use crate::memory::ledger::Reservation;
use crate::telemetry::LogControl;

/// Starts waiting at once; engines are started one at a time and each in milliseconds.
const SPAWN_QUEUE: usize = 16;

/// How long the last words of a dead engine may take to arrive.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Variables that an engine inherits; all others are cleared.
const ENVIRONMENT: [&str; 7] = ["PATH", "HOME", "LANG", "LC_ALL", "TZ", "RUST_BACKTRACE", "OMP_NUM_THREADS"];

/// How long the threads of a step look for each other before they sleep, in turns of libgomp's waiting loop:
/// about 150 us. A step has a thousand places where they wait, for microseconds each, so sleeping at once costs
/// 40% of the speed. libgomp's own 300,000 turns are worse as soon as others want the cores: one thread spins
/// away the time that the thread it waits for needs. A turn is a `pause` of 20 to 60 ns on x86 and about 1 ns
/// elsewhere.
const SPIN_TURNS: &str = if cfg!(target_arch = "x86_64") { "3000" } else { "100000" };

/// An engine is the first that the kernel should take when memory runs out, and never the daemon. The kernel weighs a
/// process by its share of the memory, in thousandths, and adds this: with less than a thousand some larger program of
/// the board would go before a small engine.
const OOM_SCORE_ADJ: i32 = 1000;

/// Starts engine processes, all from one thread.
#[derive(Clone, Debug)]
pub struct Spawner {
    jobs: SyncSender<Job>,
    program: Arc<Program>,
    log: LogControl,
    tasks: TaskTracker,
}

#[derive(Debug)]
struct Job {
    command: Command,
    child: oneshot::Sender<io::Result<Unwatched>>,
}

/// A child that nobody watches yet. Dropping it ends the process: who was to watch it has gone or cannot.
#[derive(Debug)]
struct Unwatched(Option<Child>);

/// What to start.
#[derive(Debug)]
pub struct Spec<'a> {
    /// What the process is for.
    pub task: Task,
    /// The model file.
    pub model: &'a Path,
    /// Names the process in logs.
    pub label: &'a str,
    /// Memory that is the process's until it is gone.
    pub reservation: Option<Reservation>,
}

/// What an engine process is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Load the model and answer.
    Serve,
    /// Look at the file only.
    Inspect,
}

/// A running engine. Dropping it kills the process.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    pidfd: OwnedFd,
    exit: ExitWatch,
    /// The daemon's end of the link, to close it whoever else still holds it.
    socket: UnixStream,
    verdict: Verdict,
}

/// Why the daemon ended a process, where it did.
type Verdict = Arc<OnceLock<String>>;

/// Learns how a process ended.
#[derive(Clone, Debug)]
pub struct ExitWatch(watch::Receiver<Option<Arc<EngineExit>>>);

/// How an engine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineExit {
    /// What the kernel reports.
    pub how: ExitKind,
    /// The last line on standard error that looks like a reason.
    pub last_words: Option<String>,
    /// Why the daemon ended it, where it did.
    pub verdict: Option<String>,
}

/// What the kernel reports of a process's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitKind {
    /// It returned.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
    /// Nobody knows: its status was not to be had.
    Unknown,
}

/// Why there is no process.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The link's sockets.
    #[error("make a socket pair for the engine")]
    Socket(#[source] io::Error),
    /// The program.
    #[error("start {}", path.display())]
    Start {
        /// The executable.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The new process cannot be watched.
    #[error("watch the engine process")]
    Watch(#[source] io::Error),
    /// More starts are waiting than ever should.
    #[error("too many engines are being started at once")]
    Busy,
    /// The thread that starts processes has ended.
    #[error("the daemon is ending")]
    Ending,
}

impl Spawner {
    /// Starts the thread. It ends with the last clone of the spawner.
    pub fn start(program: Program, log: LogControl, tasks: TaskTracker) -> io::Result<Self> {
        let (jobs, queue) = sync_channel::<Job>(SPAWN_QUEUE);
        std::thread::Builder::new().name("spawner".to_owned()).spawn(move || {
            for Job { mut command, child } in queue {
                // One who no longer waits drops the child, which ends it.
                child.send(command.spawn().map(|child| Unwatched(Some(child)))).ok();
            }
        })?;
        Ok(Self { jobs, program: Arc::new(program), log, tasks })
    }

    /// What is started.
    pub fn program(&self) -> &Arc<Program> {
        &self.program
    }

    /// Starts a process and hands out the daemon's end of its link.
    pub async fn spawn(&self, spec: Spec<'_>) -> Result<(Process, UnixStream), SpawnError> {
        let (ours, theirs) = UnixStream::pair().map_err(SpawnError::Socket)?;
        let closer = ours.try_clone().map_err(SpawnError::Socket)?;
        let child = self.run(self.command(&spec, theirs)).await?;
        let process = self.watch(child, spec, closer).map_err(SpawnError::Watch)?;
        Ok((process, ours))
    }

    fn command(&self, spec: &Spec<'_>, link: UnixStream) -> Command {
        let mut command = Command::new(&self.program.path);
        let variables = ENVIRONMENT.iter().filter_map(|name| Some((*name, std::env::var_os(name)?)));
        command
            .args(arguments(spec))
            .arg("--log")
            .arg(self.log.filter())
            .env_clear()
            .envs(variables)
            .env("GGML_NO_BACKTRACE", "1")
            .env("OMP_WAIT_POLICY", "PASSIVE")
            .env("GOMP_SPINCOUNT", SPIN_TURNS)
            .stdin(Stdio::from(OwnedFd::from(link)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // A terminal sends Ctrl-C to the whole group of a daemon in the foreground, and an engine that it
            // ends has no answers to drain.
            .process_group(0);
        command
    }

    async fn run(&self, command: Command) -> Result<Unwatched, SpawnError> {
        let (child, started) = oneshot::channel();
        self.jobs.try_send(Job { command, child }).map_err(|error| match error {
            TrySendError::Full(_) => SpawnError::Busy,
            TrySendError::Disconnected(_) => SpawnError::Ending,
        })?;
        let child = started.await.map_err(|_| SpawnError::Ending)?;
        child.map_err(|source| SpawnError::Start { path: self.program.path.clone(), source })
    }

    /// Puts a task in charge of the child. Where that fails the child is ended.
    fn watch(&self, mut unwatched: Unwatched, spec: Spec<'_>, socket: UnixStream) -> io::Result<Process> {
        let child = unwatched.child();
        let pid = child.id();
        let stderr = stderr_of(child)?;
        let pidfd = open_pidfd(child)?;
        let pidfd_ready = readable(pidfd.try_clone()?)?;
        // Nothing fails from here on.
        let child = unwatched.into_child();
        let (publish, exit) = watch::channel(None);
        // Of the highest level, so that the model is named whatever is logged.
        let span = error_span!("engine", model.name = %spec.label, engine.pid = pid);
        let verdict = Verdict::default();
        let reaper = Reaper {
            child,
            pidfd: pidfd_ready,
            stderr,
            reservation: spec.reservation,
            verdict: Arc::clone(&verdict),
            publish,
        };
        self.tasks.spawn(reaper.run().instrument(span));
        Ok(Process { pid, pidfd, exit: ExitWatch(exit), socket, verdict })
    }
}

fn arguments(spec: &Spec<'_>) -> Vec<OsString> {
    let text = |text: &str| OsString::from(text);
    let mut arguments = vec![
        text(match spec.task {
            Task::Serve => "serve",
            Task::Inspect => "inspect",
        }),
        text("--model"),
        spec.model.into(),
        text("--parent-pid"),
        text(&std::process::id().to_string()),
        text("--label"),
        text(spec.label),
    ];
    if spec.task == Task::Serve {
        arguments.extend([text("--oom-score-adj"), text(&OOM_SCORE_ADJ.to_string())]);
    }
    arguments
}

fn open_pidfd(child: &Child) -> io::Result<OwnedFd> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other("the kernel gave out a process id that is none"))?;
    Ok(pidfd_open(pid, PidfdFlags::NONBLOCK)?)
}

#[expect(deprecated, reason = "unsound only for a type that does not own its descriptor, as this one does")]
fn readable(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(pidfd, Interest::READABLE)
}

fn stderr_of(child: &mut Child) -> io::Result<pipe::Receiver> {
    let stderr = child.stderr.take().ok_or_else(|| io::Error::other("the child has no standard error"))?;
    pipe::Receiver::from_owned_fd(OwnedFd::from(stderr))
}

impl Unwatched {
    fn child(&mut self) -> &mut Child {
        self.0.as_mut().expect("it is taken out by value only")
    }

    fn into_child(mut self) -> Child {
        self.0.take().expect("it is taken out by value only")
    }
}

impl Drop for Unwatched {
    /// Waiting is short: the child was killed and has not begun its work.
    fn drop(&mut self) {
        let Some(mut child) = self.0.take() else { return };
        if let Err(error) = child.kill().and_then(|()| child.wait().map(drop)) {
            tracing::warn!(%error, engine.pid = child.id(), "Could not end an engine that nobody waits for");
        }
    }
}

impl Process {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// How it will have ended.
    pub fn exit(&self) -> ExitWatch {
        self.exit.clone()
    }

    /// Closes the link, on which an engine ends by itself.
    pub fn close_link(&self) {
        // Fails only where the engine has closed it before.
        self.socket.shutdown(std::net::Shutdown::Both).ok();
    }

    /// Ends it at once.
    pub fn kill(&self) {
        if self.exit.now().is_none() {
            // Fails only where the process has just ended by itself.
            pidfd_send_signal(&self.pidfd, Signal::KILL).ok();
        }
    }

    /// Ends it at once, for a reason that its [`EngineExit`] will say.
    pub fn kill_because(&self, why: String) {
        // The first reason is the true one.
        self.verdict.set(why).ok();
        self.kill();
    }

    /// Asks it to end, waits for `grace`, then ends it.
    pub async fn stop(self, grace: Duration) -> Arc<EngineExit> {
        self.close_link();
        if let Ok(exit) = tokio::time::timeout(grace, self.exit.clone().wait()).await {
            return exit;
        }
        tracing::warn!(engine.pid = self.pid, "Killed an engine that did not end by itself");
        self.kill();
        self.exit.clone().wait().await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

impl ExitWatch {
    /// How it ended, if it has.
    pub fn now(&self) -> Option<Arc<EngineExit>> {
        self.0.borrow().clone()
    }

    /// Resolves once it has ended.
    pub async fn wait(&mut self) -> Arc<EngineExit> {
        let unknown = || Arc::new(EngineExit { how: ExitKind::Unknown, last_words: None, verdict: None });
        match self.0.wait_for(Option::is_some).await {
            Ok(exit) => exit.clone().unwrap_or_else(unknown),
            Err(_) => unknown(),
        }
    }
}

/// The task in charge of a child.
struct Reaper {
    child: Child,
    pidfd: AsyncFd<OwnedFd>,
    stderr: pipe::Receiver,
    /// Held until the kernel has the memory back.
    reservation: Option<Reservation>,
    verdict: Verdict,
    publish: watch::Sender<Option<Arc<EngineExit>>>,
}

impl Reaper {
    async fn run(mut self) {
        let tail = Tail::default();
        let how = {
            let pump = words::pump(&mut self.stderr, &tail);
            tokio::pin!(pump);
            tokio::select! {
                how = wait(&mut self.child, &self.pidfd) => {
                    // What it wrote before it ended is still in the pipe.
                    tokio::time::timeout(LAST_WORDS, pump).await.ok();
                    how
                }
                // It closed its standard error and goes on.
                () = &mut pump => wait(&mut self.child, &self.pidfd).await,
            }
        };
        let exit = EngineExit { how, last_words: tail.last_words(), verdict: self.verdict.get().cloned() };
        if exit.is_clean() {
            tracing::debug!(engine.exit = %exit, "Engine process ended");
        } else {
            tracing::warn!(engine.exit = %exit, engine.tail = %tail, "Engine process failed");
        }
        drop(self.reservation.take());
        self.publish.send_replace(Some(Arc::new(exit)));
    }
}

async fn wait(child: &mut Child, pidfd: &AsyncFd<OwnedFd>) -> ExitKind {
    loop {
        let Ok(mut ready) = pidfd.readable().await else { return ExitKind::Unknown };
        match child.try_wait() {
            Ok(Some(status)) => return status.into(),
            Ok(None) => ready.clear_ready(),
            Err(_) => return ExitKind::Unknown,
        }
    }
}

impl From<ExitStatus> for ExitKind {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Code(code),
            (None, Some(signal)) => Self::Signal(signal),
            (None, None) => Self::Unknown,
        }
    }
}

impl EngineExit {
    /// Whether it ended by itself and in order.
    pub fn is_clean(&self) -> bool {
        self.how == ExitKind::Code(0)
    }
}

impl EngineExit {
    /// Whether somebody else killed it.
    pub fn was_killed(&self) -> bool {
        self.verdict.is_none() && self.how == ExitKind::Signal(Signal::KILL.as_raw())
    }
}

impl fmt::Display for EngineExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(verdict) = &self.verdict {
            return f.write_str(verdict);
        }
        match self.how {
            ExitKind::Code(code) => write!(f, "the engine exited with code {code}")?,
            ExitKind::Signal(signal) => write!(f, "the engine {}", words(signal))?,
            ExitKind::Unknown => write!(f, "the engine ended in an unknown way")?,
        }
        match &self.last_words {
            Some(words) => write!(f, ": {words}"),
            None => Ok(()),
        }
    }
}

fn words(signal: i32) -> String {
    match Signal::from_named_raw(signal) {
        Some(Signal::ABORT) => "aborted (SIGABRT)".to_owned(),
        Some(Signal::SEGV) => "crashed (SIGSEGV)".to_owned(),
        Some(Signal::BUS) => {
            "crashed (SIGBUS), perhaps since its model file changed or could not be read".to_owned()
        }
        Some(Signal::ILL) => "crashed (SIGILL): it was built for another processor".to_owned(),
        Some(Signal::FPE) => "crashed (SIGFPE)".to_owned(),
        Some(Signal::SYS) => "was killed (SIGSYS) by its sandbox".to_owned(),
        Some(Signal::KILL) => "was killed (SIGKILL), perhaps by the kernel for lack of memory".to_owned(),
        Some(Signal::TERM) => "was ended (SIGTERM)".to_owned(),
        _ => format!("was ended by signal {signal}"),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn an_exit_says_what_happened() {
        let exit = |how, words: Option<&str>| EngineExit {
            how,
            last_words: words.map(str::to_owned),
            verdict: None,
        };
        assert_eq!(
            exit(ExitKind::Signal(6), Some("GGML_ASSERT(x) failed")).to_string(),
            "the engine aborted (SIGABRT): GGML_ASSERT(x) failed"
        );
        assert!(exit(ExitKind::Signal(9), None).to_string().contains("lack of memory"));
        assert!(exit(ExitKind::Code(0), None).is_clean());
    }

    /// A shell script that stands in for an engine: what is proven is the watching, not the program. A child
    /// writes it, so that no descriptor that could write is inherited by another test's child.
    fn stand_in(folder: &Path, script: &str) -> PathBuf {
        let path = folder.join("engine");
        let written = Command::new("sh")
            .args(["-c", "printf '%s' \"$1\" > \"$2\" && chmod 755 \"$2\"", "sh", script])
            .arg(&path)
            .status();
        assert!(written.is_ok_and(|status| status.success()));
        path
    }

    fn inspector() -> Spec<'static> {
        Spec { task: Task::Inspect, model: Path::new("/x"), label: "x", reservation: None }
    }

    #[tokio::test]
    async fn a_process_is_in_a_group_of_its_own() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let script = stand_in(folder.path(), "#!/bin/sh\nread line\n");
        let spawner = Spawner::start(Program::plain(script), LogControl::detached(), TaskTracker::new())
            .expect("a thread");
        let (process, _link) = spawner.spawn(inspector()).await.expect("it starts");
        let pid = i32::try_from(process.pid()).ok().and_then(Pid::from_raw);
        assert_eq!(rustix::process::getpgid(pid).ok(), pid);
        process.stop(Duration::from_secs(10)).await;
    }

    #[tokio::test]
    async fn a_child_that_nobody_takes_is_ended() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let spawner = Spawner::start(Program::plain("/none"), LogControl::detached(), TaskTracker::new())
            .expect("a thread");
        let said = folder.path().join("pid");
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ > \"$1.new\" && mv \"$1.new\" \"$1\"; exec sleep 600", "sh"]).arg(&said);
        let mut run = Box::pin(spawner.run(command));
        assert!(run.as_mut().now_or_never().is_none());
        let begun = std::time::Instant::now();
        let wait = || {
            assert!(begun.elapsed() < Duration::from_secs(20), "it takes too long");
            std::thread::sleep(Duration::from_millis(10));
        };
        while !said.exists() {
            wait();
        }
        let pid = std::fs::read_to_string(&said).expect("it is there");
        let pid = pid.trim().parse().ok().and_then(Pid::from_raw).expect("a process id");
        drop(run);
        while rustix::process::test_kill_process(pid).is_ok() {
            wait();
        }
    }

    #[tokio::test]
    async fn the_end_of_a_process_is_named_and_its_memory_returned() {
        use crate::memory::ledger::Ledger;
        use crate::memory::{Budget, BudgetSource};
        use crate::units::Bytes;

        let tasks = TaskTracker::new();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let script = stand_in(folder.path(), "#!/bin/sh\necho 'ERROR out of luck' >&2\nread line\nexit 3\n");
        let ledger = Ledger::new(Budget { bytes: Bytes(10), source: BudgetSource::Configured });
        let spawner =
            Spawner::start(Program::plain(script), LogControl::detached(), tasks.clone()).expect("a thread");
        let reservation = ledger.reserve("x", Bytes(10)).ok();
        let spec = Spec { task: Task::Serve, model: Path::new("/x"), label: "x", reservation };
        let (process, _link) = spawner.spawn(spec).await.expect("it starts");
        assert_eq!(ledger.free(), Bytes(0));
        let exit = process.stop(Duration::from_secs(10)).await;
        assert_eq!(exit.to_string(), "the engine exited with code 3: ERROR out of luck");
        assert_eq!(ledger.free(), Bytes(10));
        tasks.close();
        tasks.wait().await;
    }
}
