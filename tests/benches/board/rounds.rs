//! The measurements, in rounds: daemon and bare loop take turns.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hearth_tests::fixture::{self, Arch, Size};
use rustix::process::{Pid, getpid};
use tempfile::TempDir;

use super::bare::{Bare, Waiting};
use super::busy::Busy;
use super::hearth::{CLEAN, Decoded, FULL, Hearth, Prompted, SHORT_PROMPT, SHORTEST_PROMPT};
use super::options::{Options, Sizes};
use super::report::Report;
use super::stats::Series;
use super::{idle, procfs};

/// Clients at the same time; one is what the others are compared with.
pub(crate) const CLIENTS: [usize; 4] = [1, 2, 4, 8];
/// Busy threads.
pub(crate) const BUSY: [usize; 2] = [2, 6];
/// Tokens of the prompt that is computed beside busy threads.
const BUSY_PROMPT: u32 = 64;
/// Turns of one client's decoding in a round.
const TURNS: usize = 4;
/// Between two turns: threads that still look for work go to sleep.
const PAUSE: Duration = Duration::from_millis(100);

/// Everything measured, by name, one value for each round.
#[derive(Debug, Default)]
pub(crate) struct Records(BTreeMap<String, Series>);

impl Records {
    fn note(&mut self, name: &str, value: f64) {
        self.0.entry(name.to_owned()).or_default().push(value);
    }

    /// The rounds of one measurement; none if it was not made.
    pub(crate) fn of(&self, name: &str) -> Series {
        self.0.get(name).cloned().unwrap_or_default()
    }

    /// All of them.
    pub(crate) fn all(&self) -> &BTreeMap<String, Series> {
        &self.0
    }
}

/// Daemon, bare loop, and what they showed so far.
struct Board {
    hearth: Hearth,
    bare: Bare,
    /// The bare loop as libgomp has it wait.
    plain: Bare,
    sizes: Sizes,
    records: Records,
    round: usize,
}

/// Measures everything.
pub(crate) async fn run(options: &Options) -> Report {
    let folder = TempDir::new().expect("a temporary folder");
    let model = model(options, &folder);
    let idle = if options.wants("idle") { Some(idle::watch(options.idle).await) } else { None };
    let sizes = options.sizes;
    let hearth = Hearth::start(&model, sizes.context).await;
    let model = hearth.blob();
    let bare = Bare::start(&model, sizes.context, Waiting::AsHearth).await;
    let plain = Bare::start(&model, sizes.context, Waiting::AsItComes).await;
    let mut board = Board { hearth, bare, plain, sizes, records: Records::default(), round: 0 };
    if options.wants("foreign") {
        board.hearth.fill().await;
    }
    for round in 0..options.rounds {
        board.round = round;
        board.round(options).await;
        super::say(&format!("round {} of {}", round + 1, options.rounds));
    }
    Report::new(board.records, idle, options)
}

fn model(options: &Options, folder: &TempDir) -> PathBuf {
    if let Some(path) = &options.model {
        return path.clone();
    }
    let path = folder.path().join("half.gguf");
    fixture::scaled(Arch::Qwen3, Size::Half).write(Path::new(&path)).expect("write the random model");
    path
}

impl Board {
    /// One client's decoding always: nearly everything else is a share of it.
    async fn round(&mut self, options: &Options) {
        self.one_client(options.wants("foreign")).await;
        if options.wants("prompts") {
            self.prompts().await;
        }
        for clients in CLIENTS.into_iter().filter(|_| options.wants("clients")) {
            self.clients(clients).await;
        }
        if options.wants("busy") {
            self.beside_busy_threads().await;
        }
    }

    /// Decoding with an empty cache, with a full one, and bare, in short turns.
    async fn one_client(&mut self, foreign: bool) {
        if foreign {
            let share = self.hearth.fill().await;
            self.records.note("foreign.share", share);
        }
        self.hearth.fresh().await;
        for turn in 0..TURNS {
            let daemon_first = (self.round + turn).is_multiple_of(2);
            if !daemon_first {
                self.decode_bare().await;
            }
            self.decode_clean().await;
            if daemon_first {
                self.decode_bare().await;
            }
            if foreign {
                self.decode_full().await;
            }
        }
    }

    async fn decode_clean(&mut self) {
        let pids = [self.hearth.pid(), self.hearth.engine_pid(CLEAN).await, getpid()];
        let before = pids.map(procfs::cpu_time);
        let decoded = self.decode(CLEAN, self.sizes.decode).await;
        for (name, (pid, before)) in
            ["front", "engine", "client"].into_iter().zip(pids.into_iter().zip(before))
        {
            let took = procfs::cpu_time(pid).saturating_sub(before);
            self.records.note(&format!("cpu.{name}"), took.as_secs_f64() / f64::from(decoded.tokens));
        }
        self.records.note("decode.hearth", decoded.rate);
        self.records.note("delay", decoded.delay.as_secs_f64());
    }

    async fn decode_full(&mut self) {
        let pid = self.hearth.engine_pid(FULL).await;
        let before = procfs::cpu_time(pid);
        let decoded = self.decode(FULL, self.sizes.decode).await;
        let took = procfs::cpu_time(pid).saturating_sub(before);
        self.records.note("foreign.hearth", decoded.rate);
        self.records.note("cpu.full", took.as_secs_f64() / f64::from(decoded.tokens));
    }

    async fn decode_bare(&mut self) {
        let pid: Pid = self.bare.pid();
        let before = procfs::cpu_time(pid);
        let rate = self.bare_decode(self.sizes.decode).await;
        let took = procfs::cpu_time(pid).saturating_sub(before);
        self.records.note("cpu.bare", took.as_secs_f64() / f64::from(self.sizes.decode));
        self.records.note("decode.bare", rate);
    }

    /// Prompts that are new, and prompts whose prefix is cached.
    async fn prompts(&mut self) {
        let tokens = self.sizes.prompt;
        tokio::time::sleep(PAUSE).await;
        // The daemon comes first always: the bare loop computes as many tokens as it did.
        let (new, cached) = self.hearth.prompt_twice(tokens).await;
        self.bare_prompts((new, cached)).await;
        self.records.note("prefill.hearth", new.rate());
        self.records.note("first.new.hearth", new.took.as_secs_f64());
        self.records.note("first.cached.hearth", cached.took.as_secs_f64());
        self.records.note("first.cached.tokens", f64::from(cached.tokens - cached.cached));
    }

    async fn bare_prompts(&mut self, (new, cached): (Prompted, Prompted)) {
        tokio::time::sleep(PAUSE).await;
        let report = self.bare.prompt(new.tokens, new.cached, self.round).await;
        self.records.note("prefill.bare", report.rate());
        self.records.note("first.new.bare", report.seconds);
        let report = self.bare.prompt(cached.tokens, cached.cached, self.round).await;
        self.records.note("first.cached.bare", report.seconds);
    }

    async fn clients(&mut self, clients: usize) {
        if self.round.is_multiple_of(2) {
            self.clients_of_hearth(clients).await;
            self.clients_of_bare(clients).await;
        } else {
            self.clients_of_bare(clients).await;
            self.clients_of_hearth(clients).await;
        }
    }

    async fn clients_of_hearth(&mut self, clients: usize) {
        tokio::time::sleep(PAUSE).await;
        let decoded = self.hearth.decode(CLEAN, self.sizes.clients, SHORTEST_PROMPT, clients).await;
        self.records.note(&format!("clients.{clients}.hearth"), decoded.rate);
    }

    async fn clients_of_bare(&mut self, clients: usize) {
        tokio::time::sleep(PAUSE).await;
        let count = u32::try_from(clients).expect("a handful");
        let report = self.bare.decode(self.sizes.clients, SHORTEST_PROMPT, count).await;
        self.records.note(&format!("clients.{clients}.bare"), report.rate());
    }

    /// The quiet speed is measured again in between: it is the one that the busy speed is a share of.
    async fn beside_busy_threads(&mut self) {
        self.hearth.fresh().await;
        self.loaded("quiet").await;
        for count in BUSY {
            let busy = Busy::start(count);
            self.loaded(&format!("busy.{count}")).await;
            drop(busy);
        }
    }

    async fn loaded(&mut self, name: &str) {
        let tokens = self.sizes.busy;
        let hearth = self.decode(CLEAN, tokens).await.rate;
        let bare = self.bare_decode(tokens).await;
        self.records.note(&format!("{name}.decode.hearth"), hearth);
        self.records.note(&format!("{name}.decode.bare"), bare);
        tokio::time::sleep(PAUSE).await;
        let plain = self.plain.decode(tokens / 4, SHORT_PROMPT, 1).await.rate();
        self.records.note(&format!("{name}.decode.plain"), plain);
        let prompt = self.hearth.prompt(BUSY_PROMPT).await;
        let report = self.bare.prompt(prompt.tokens, prompt.cached, self.round).await;
        self.records.note(&format!("{name}.prefill.hearth"), prompt.rate());
        self.records.note(&format!("{name}.prefill.bare"), report.rate());
    }

    async fn decode(&mut self, model: &str, tokens: u32) -> Decoded {
        tokio::time::sleep(PAUSE).await;
        self.hearth.decode(model, tokens, SHORT_PROMPT, 1).await
    }

    async fn bare_decode(&mut self, tokens: u32) -> f64 {
        tokio::time::sleep(PAUSE).await;
        self.bare.decode(tokens, SHORT_PROMPT, 1).await.rate()
    }
}
