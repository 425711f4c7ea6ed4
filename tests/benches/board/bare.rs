//! The bare loop: a child that computes what it is told to.

use std::path::Path;
use std::process::Stdio;

use hearth_tests::daemon::{pid, program};
use rustix::process::Pid;
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// How the bare loop's threads wait for each other.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Waiting {
    /// As Hearth's engines do, which is as fast as any setting when quiet and the fastest beside others.
    AsHearth,
    /// As libgomp comes.
    AsItComes,
}

/// What the daemon gives its engines.
const AS_HEARTH: [(&str, &str); 2] = [
    ("OMP_WAIT_POLICY", "PASSIVE"),
    ("GOMP_SPINCOUNT", if cfg!(target_arch = "x86_64") { "3000" } else { "100000" }),
];

/// The child and its two pipes.
#[derive(Debug)]
pub(crate) struct Bare {
    child: Child,
    orders: ChildStdin,
    reports: Lines<BufReader<ChildStdout>>,
}

/// What an order took.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Report {
    pub(crate) tokens: f64,
    pub(crate) seconds: f64,
}

impl Report {
    /// Tokens in a second.
    pub(crate) fn rate(&self) -> f64 {
        self.tokens / self.seconds
    }
}

impl Bare {
    /// Loads a model.
    pub(crate) async fn start(model: &Path, context: u32, waiting: Waiting) -> Self {
        let variables = match waiting {
            Waiting::AsHearth => &AS_HEARTH[..],
            Waiting::AsItComes => &[],
        };
        let mut child = Command::new(program("examples/bare"))
            .env_remove("OMP_WAIT_POLICY")
            .env_remove("GOMP_SPINCOUNT")
            .envs(variables.iter().copied())
            .arg(model)
            .args(["--context", &context.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("start the bare loop");
        let orders = child.stdin.take().expect("a pipe");
        let reports = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let mut bare = Self { child, orders, reports };
        bare.line().await;
        bare
    }

    pub(crate) fn pid(&self) -> Pid {
        pid(self.child.id().expect("the bare loop runs"))
    }

    /// Computes a prompt, of which `cached` tokens are there already, and draws one token.
    pub(crate) async fn prompt(&mut self, tokens: u32, cached: u32, salt: usize) -> Report {
        self.order(&json!({"do": "prompt", "tokens": tokens, "cached": cached, "salt": salt})).await
    }

    /// Writes `tokens` tokens for each of `clients` together, after prompts of `prompt` tokens.
    pub(crate) async fn decode(&mut self, tokens: u32, prompt: u32, clients: u32) -> Report {
        self.order(&json!({"do": "decode", "tokens": tokens, "prompt": prompt, "clients": clients})).await
    }

    async fn order(&mut self, order: &serde_json::Value) -> Report {
        self.orders.write_all(format!("{order}\n").as_bytes()).await.expect("the bare loop listens");
        serde_json::from_str(&self.line().await).expect("a report")
    }

    async fn line(&mut self) -> String {
        self.reports.next_line().await.expect("a line").expect("the bare loop goes on")
    }
}
