//! The real command line `hearth`.

use std::process::Stdio;

use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};

use crate::TestDaemon;
use crate::daemon::program;

/// What a run of `hearth` left behind.
#[derive(Debug)]
pub struct Run {
    /// Exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Run {
    /// The lines of `--json`.
    ///
    /// # Panics
    /// When a line is not one JSON object with a `type`.
    pub fn lines(&self) -> Vec<Value> {
        let parse = |line: &str| -> Value {
            let value: Value = serde_json::from_str(line).unwrap_or_else(|bad| panic!("{bad}: {line}"));
            assert!(value["type"].is_string(), "no type: {line}");
            value
        };
        self.stdout.lines().map(parse).collect()
    }

    /// The lines of one type.
    pub fn of_type(&self, kind: &str) -> Vec<Value> {
        self.lines().into_iter().filter(|line| line["type"] == kind).collect()
    }

    /// The whole answer.
    pub fn text(&self) -> String {
        self.of_type("text").iter().filter_map(|line| line["text"].as_str()).collect()
    }
}

/// A command of `hearth` that talks to `daemon`.
pub fn command(daemon: &TestDaemon, args: &[&str]) -> Command {
    let mut command = Command::new(program("hearth"));
    command
        .args(args)
        .env("HEARTH_ENDPOINT", format!("unix:{}", daemon.socket().display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Runs `hearth` to its end, with `stdin` to read.
pub async fn hearth_with(daemon: &TestDaemon, args: &[&str], stdin: &str) -> Run {
    let mut child = command(daemon, args).spawn().expect("start hearth");
    let mut pipe = child.stdin.take().expect("a pipe");
    // It may end without reading: that is its right.
    drop(pipe.write_all(stdin.as_bytes()).await);
    drop(pipe);
    ended(child).await
}

/// Runs `hearth` to its end.
pub async fn hearth(daemon: &TestDaemon, args: &[&str]) -> Run {
    hearth_with(daemon, args, "").await
}

/// Waits for a run to end.
pub async fn ended(child: Child) -> Run {
    let output = child.wait_with_output().await.expect("wait for hearth");
    Run {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}
