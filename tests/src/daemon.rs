//! A real `hearthd` in a temporary folder.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use hearth_client::{Client, Endpoint, ImportEvent, v1};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::eventually::eventually;
use crate::fixture::Gguf;

/// A daemon that dies with the test; its log is printed if the test fails.
#[derive(Debug)]
pub struct TestDaemon {
    folder: TempDir,
    launch: Launch,
    child: Child,
    client: Client,
}

/// How a daemon is started.
#[derive(Clone, Debug, Default)]
pub struct Launch {
    /// Its configuration file.
    pub config: String,
    /// Variables of its environment.
    pub environment: Vec<(String, String)>,
    /// A program that starts it, with arguments; the daemon's own command line follows.
    pub through: Vec<String>,
    /// Arguments after its own.
    pub arguments: Vec<String>,
}

/// A program of this workspace, built beside the test.
///
/// # Panics
/// When it was not built: `cargo build --workspace --release` comes first.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let folder = test.parent().and_then(Path::parent).expect("target/release/deps/test");
    let program = folder.join(name);
    assert!(program.is_file(), "{} is missing: run `make build` first", program.display());
    program
}

impl TestDaemon {
    /// A daemon with an empty store and the defaults, but for small models.
    pub async fn start() -> Self {
        Self::with("").await
    }

    /// A daemon with more lines of configuration.
    pub async fn with(config: &str) -> Self {
        Self::launch(Launch { config: config.to_owned(), ..Launch::default() }).await
    }

    /// A daemon that is started in a special way.
    pub async fn launch(launch: Launch) -> Self {
        Self::launch_in(TempDir::new().expect("a temporary folder"), launch).await
    }

    /// A daemon in a folder that was prepared for it.
    pub async fn launch_in(folder: TempDir, launch: Launch) -> Self {
        write_config(folder.path(), &launch.config);
        let mut child = spawn(folder.path(), &launch, None);
        let endpoint = Endpoint::Unix(folder.path().join("hearth.sock"));
        let client = eventually("the daemon answers", || {
            let exited = child.try_wait().expect("look at the daemon");
            assert!(exited.is_none(), "the daemon ended: {exited:?}\n{}", read_log(folder.path()));
            let endpoint = endpoint.clone();
            async move {
                let client = Client::connect(endpoint).await.ok()?;
                client.status().await.ok()?;
                Some(client)
            }
        })
        .await;
        Self { folder, launch, child, client }
    }

    /// A client of this daemon.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// A client with a connection of its own.
    pub async fn new_client(&self) -> Client {
        Client::connect(self.endpoint()).await.expect("connect")
    }

    /// Where it listens.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint::Unix(self.socket())
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("hearth.sock")
    }

    /// The folder of its state.
    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// A folder for the test's own files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        read_log(self.folder.path())
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        pid(self.child.id().expect("the daemon runs"))
    }

    /// Imports a model.
    pub async fn import(&self, name: &str, model: &Gguf) -> v1::Model {
        self.try_import(name, model.to_bytes()).await.expect("the model is imported")
    }

    /// Imports any bytes as a model.
    ///
    /// # Errors
    /// What the daemon says.
    pub async fn try_import(&self, name: &str, bytes: Vec<u8>) -> Result<v1::Model, hearth_client::Error> {
        let size = bytes.len() as u64;
        let mut events = self.client.import(name, std::io::Cursor::new(bytes), size, None).await?;
        while let Some(event) = events.next().await {
            if let ImportEvent::Done(model) = event? {
                return Ok(model);
            }
        }
        panic!("an import ended without a word");
    }

    /// Imports the built-in demo model as `demo`.
    pub async fn import_demo(&self) -> v1::Model {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../client/demo/hearth-demo.gguf");
        let bytes = std::fs::read(file).expect("the demo model");
        self.try_import("demo", bytes).await.expect("the demo model is imported")
    }

    /// Loads a model.
    pub async fn load(&self, name: &str) {
        let mut events = self.client.load(name).await.expect("the load begins");
        while let Some(event) = events.next().await {
            event.expect("the load goes on");
        }
    }

    /// The engine of a model, as the status shows it.
    pub async fn engine(&self, name: &str) -> Option<v1::Engine> {
        let status = self.client.status().await.expect("a status");
        status.engines.into_iter().find(|engine| engine.model == format!("{name}:latest"))
    }

    /// Process id of a model's engine.
    pub async fn engine_pid(&self, name: &str) -> Pid {
        let engine = self.engine(name).await.expect("the model is loaded");
        pid(engine.pid)
    }

    /// SIGTERM, and how it ended.
    pub async fn stop(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ended().await
    }

    /// Kills it with SIGKILL and starts another one on the same state.
    pub async fn kill_and_restart(mut self) -> Self {
        self.kill().await;
        self.restart().await
    }

    /// Kills it with SIGKILL.
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("kill the daemon");
    }

    /// Starts another daemon on the state of one that has ended.
    pub async fn restart(mut self) -> Self {
        let exit = self.child.wait().await.expect("wait for the daemon");
        assert!(exit.code().is_some() || exit.signal().is_some());
        let folder = std::mem::replace(&mut self.folder, TempDir::new().expect("a temporary folder"));
        let launch = self.launch.clone();
        Self::launch_in(folder, launch).await
    }

    /// Writes another configuration file, which the daemon reads when it is told to.
    pub fn write_config(&self, config: &str) {
        write_config(self.folder(), config);
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("signal the daemon");
    }

    /// Waits for it to end.
    pub async fn ended(&mut self) -> ExitStatus {
        tokio::time::timeout(Duration::from_secs(60), self.child.wait())
            .await
            .expect("the daemon ends in time")
            .expect("wait for the daemon")
    }

    /// Waits until its log has so many lines with `words` at least.
    pub async fn logs(&self, words: &str, count: usize) {
        let what = format!("{count} lines of the log with {words:?}");
        eventually(&what, || {
            let seen = self.count_in_log(words);
            async move { (seen >= count).then_some(()) }
        })
        .await;
    }

    /// Lines of its log with `words`.
    pub fn count_in_log(&self, words: &str) -> usize {
        self.log().lines().filter(|line| line.contains(words)).count()
    }
}

impl Drop for TestDaemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            #[expect(clippy::print_stderr, reason = "the test runner shows it with the failure")]
            {
                eprintln!("---- the daemon's log ends:\n{}", tail.join("\n"));
            }
        }
    }
}

/// A process id as the kernel wants it.
pub fn pid(id: u32) -> Pid {
    i32::try_from(id).ok().and_then(Pid::from_raw).expect("a process id")
}

fn read_log(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("log")).unwrap_or_default()
}

fn write_config(folder: &Path, config: &str) {
    std::fs::write(folder.join("config.toml"), config).expect("write the configuration");
}

/// Starts a daemon in `folder`, with its socket and state there and its log in a file, and does not wait for it.
pub fn spawn(folder: &Path, launch: &Launch, stdin: Option<Stdio>) -> Child {
    let log =
        std::fs::OpenOptions::new().create(true).append(true).open(folder.join("log")).expect("a log file");
    let hearthd = program("hearthd");
    let mut command = match launch.through.split_first() {
        Some((through, arguments)) => {
            let mut command = Command::new(through);
            command.args(arguments).arg(hearthd);
            command
        }
        None => Command::new(hearthd),
    };
    command
        .arg("serve")
        .arg("--config")
        .arg(folder.join("config.toml"))
        .arg("--listen")
        .arg(format!("unix:{}", folder.join("hearth.sock").display()))
        .arg("--state")
        .arg(folder.join("state"))
        .args(&launch.arguments)
        .env("HEARTH_LOG", "info,hearthd=debug")
        .env_remove("NOTIFY_SOCKET")
        .env_remove("WATCHDOG_USEC")
        .envs(launch.environment.iter().cloned())
        .process_group(0)
        .stdin(stdin.unwrap_or_else(Stdio::null))
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .expect("start hearthd")
}
