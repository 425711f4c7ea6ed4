//! `top` on a terminal: what it draws, and that the terminal is as it was before once it ends.

use std::io::{Read, Write};
use std::num::NonZero;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};
use tokio::process::Command;

use crate::daemon::Daemon;
use crate::node::DOWN_MS;
use crate::until;

const ROWS: NonZero<u16> = NonZero::new(24).expect("not 0");
const COLUMNS: NonZero<u16> = NonZero::new(90).expect("not 0");

/// What takes the screen, and what gives it back.
const TAKEN: &str = "\x1b[?1049h";
const GIVEN_BACK: &str = "\x1b[?1049l";

/// `hearth top` on a terminal of its own.
struct Top {
    child: Box<dyn Child + Send + Sync>,
    /// What a person types.
    keys: Box<dyn Write + Send>,
    terminal: Box<dyn MasterPty + Send>,
    /// All that was written to the terminal.
    written: Arc<Mutex<String>>,
    /// Ends when everything was read that the program wrote.
    reading: JoinHandle<()>,
}

impl Top {
    fn start(daemon: &Daemon, interval: &str) -> Self {
        let pair = native_pty_system().openpty(size(ROWS.get(), COLUMNS.get())).expect("a terminal");
        let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_hearth"));
        command.env("HEARTH_ENDPOINT", daemon.endpoint.to_string());
        command.env("TERM", "xterm-256color");
        command.args(["top", "--interval", interval]);
        let child = pair.slave.spawn_command(command).expect("the program starts");
        let mut reader = pair.master.try_clone_reader().expect("a reader");
        let written = Arc::new(Mutex::new(String::new()));
        let sink = Arc::clone(&written);
        let reading = std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut piece) {
                sink.lock().expect("no panic").push_str(&String::from_utf8_lossy(&piece[..length]));
            }
        });
        let keys = pair.master.take_writer().expect("a writer");
        Self { child, keys, terminal: pair.master, written, reading }
    }

    fn written(&self) -> String {
        self.written.lock().expect("no panic").clone()
    }

    /// What a person sees, row by row.
    fn rows(&self) -> Vec<String> {
        let mut terminal = vt100::Parser::new(ROWS, COLUMNS, 0);
        terminal.process(self.written().as_bytes());
        terminal.screen().rows(0, COLUMNS.get()).collect()
    }

    async fn shows(&self, text: &str) {
        until(text, || self.rows().iter().any(|row| row.contains(text))).await;
    }

    fn types(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("the program reads");
    }

    /// The exit code, and what was written behind the screen.
    async fn end(mut self) -> (u32, String) {
        until("it ends", || self.child.try_wait().expect("it runs").is_some()).await;
        until("all is read", || self.reading.is_finished()).await;
        let code = self.child.wait().expect("it ran").exit_code();
        let written = self.written();
        assert!(written.contains(GIVEN_BACK), "the screen is given back: {written:?}");
        assert!(written.contains("\x1b[?25h"), "the cursor is back: {written:?}");
        (code, written.rsplit(GIVEN_BACK).next().unwrap_or_default().to_owned())
    }
}

fn size(rows: u16, cols: u16) -> PtySize {
    PtySize { rows, cols, pixel_width: 0, pixel_height: 0 }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_sorts_pauses_resizes_and_leaves() {
    let daemon = Daemon::start();
    let mut top = Top::start(&daemon, "1s");
    top.shows("qwen3:8b  ready             100/4096").await;
    assert!(top.written().contains(TAKEN));
    top.types(" ");
    top.shows("by memory   paused").await;
    top.types("s");
    top.shows("by name   paused").await;
    top.types(" ");
    until("it goes on", || !top.rows()[0].contains("paused")).await;
    top.terminal.resize(size(10, 60)).expect("a terminal");
    until("it is drawn anew", || top.rows()[9].starts_with("q quit")).await;
    top.types("q");
    assert_eq!(top.end().await.0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_and_escape_leave_too() {
    let daemon = Daemon::start();
    for key in ["\x03", "\x1b"] {
        let mut top = Top::start(&daemon, "1s");
        top.shows("by memory").await;
        top.types(key);
        assert_eq!(top.end().await.0, 0, "{key:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_gives_the_terminal_back() {
    let daemon = Daemon::start();
    for signal in ["-TERM", "-INT", "-HUP"] {
        let top = Top::start(&daemon, "1s");
        top.shows("by memory").await;
        let pid = top.child.process_id().expect("it runs").to_string();
        let sent = Command::new("kill").args([signal, &pid]).status().await.expect("kill starts");
        assert!(sent.success());
        assert_eq!(top.end().await.0, 130, "{signal}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_goes_down_is_told_behind_the_screen() {
    let daemon = Daemon::start();
    let top = Top::start(&daemon, &format!("{DOWN_MS}ms"));
    top.shows("hearth: lost the connection to the daemon").await;
    assert!(top.written().contains(TAKEN));
    let (code, told) = top.end().await;
    assert_eq!(code, 69);
    assert!(told.contains("lost the connection to the daemon at unix:"), "{told:?}");
    assert!(told.contains("it is going down"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_gone_all_at_once_is_told_too() {
    let life = tokio::runtime::Runtime::new().expect("a runtime");
    let daemon = {
        let _inside = life.enter();
        Daemon::start()
    };
    let top = Top::start(&daemon, "1s");
    top.shows("by memory").await;
    life.shutdown_background();
    let (code, told) = top.end().await;
    assert_eq!(code, 69, "{told:?}");
    assert!(told.contains("lost the connection to the daemon at unix:"), "{told:?}");
}
