//! A daemon that nobody asks anything: what it wakes up for, and what memory it holds.

use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::time::Duration;

use hearth_tests::daemon::{pid, program};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::procfs;

/// What a service manager with `WatchdogSec=20` says.
const WATCHDOG: Duration = Duration::from_secs(20);
/// Until the start is over.
const SETTLE: Duration = Duration::from_secs(5);

/// What was seen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Idle {
    /// Resident memory in bytes.
    pub(crate) resident: u64,
    /// Voluntary context switches of all threads.
    pub(crate) switches: u64,
    /// Watchdog periods that passed meanwhile.
    pub(crate) periods: f64,
    /// Signs of life that the service manager got meanwhile.
    pub(crate) pats: usize,
}

/// Starts a daemon, lets it settle and watches it for so long.
pub(crate) async fn watch(time: Duration) -> Idle {
    let folder = TempDir::new().expect("a temporary folder");
    let manager = UnixDatagram::bind(folder.path().join("notify")).expect("a notification socket");
    manager.set_nonblocking(true).expect("a socket that does not wait");
    let daemon = start(&folder);
    let id = pid(daemon.id().expect("the daemon runs"));
    tokio::time::sleep(SETTLE).await;
    pats(&manager);
    let before = procfs::voluntary_switches(id);
    tokio::time::sleep(time).await;
    Idle {
        resident: procfs::resident(id),
        switches: procfs::voluntary_switches(id) - before,
        periods: time.as_secs_f64() / WATCHDOG.as_secs_f64(),
        pats: pats(&manager),
    }
}

fn start(folder: &TempDir) -> Child {
    let path = folder.path();
    std::fs::write(path.join("config.toml"), "").expect("write the configuration");
    Command::new(program("hearthd"))
        .arg("serve")
        .arg("--config")
        .arg(path.join("config.toml"))
        .arg("--listen")
        .arg(format!("unix:{}", path.join("hearth.sock").display()))
        .arg("--state")
        .arg(path.join("state"))
        .env("NOTIFY_SOCKET", path.join("notify"))
        .env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("start hearthd")
}

/// Takes what the manager was sent and counts the signs of life.
fn pats(manager: &UnixDatagram) -> usize {
    let mut message = [0; 4096];
    let mut found = 0;
    while let Ok(length) = manager.recv(&mut message) {
        let text = String::from_utf8_lossy(&message[..length]);
        found += text.lines().filter(|line| *line == "WATCHDOG=1").count();
    }
    found
}
