//! The daemon: what a client sees of it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hearth_client::{Client, Generation, GenerationEvent, ImportEvent, v1};
use hearth_tests::TestDaemon;
use hearth_tests::answer::raw;
use rustix::process::Pid;

/// The model whose cache is empty, and the one whose cache is full of what others asked; one file.
pub(crate) const CLEAN: &str = "clean";
pub(crate) const FULL: &str = "full";

/// Tokens of a short prompt, roughly.
pub(crate) const SHORT_PROMPT: u32 = 32;
/// The same where several clients come at once: the first should not have ended before the last begins.
pub(crate) const SHORTEST_PROMPT: u32 = 8;
/// Sequences that keep prefixes: twice the eight that run at a time.
const PLACES: u32 = 16;

/// A daemon with the model under two names, and a connection for each client.
#[derive(Debug)]
pub(crate) struct Hearth {
    daemon: TestDaemon,
    clients: Vec<Client>,
    context: u32,
    /// Characters of text that make a token, measured.
    characters: f64,
    salts: usize,
}

/// One answer as it arrived.
#[derive(Clone, Debug)]
struct Trace {
    asked: Instant,
    deltas: Vec<Instant>,
    usage: v1::Usage,
    timings: v1::Timings,
}

/// What several answers together came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decoded {
    /// Tokens in a second while all of them were being written.
    pub(crate) rate: f64,
    /// Tokens written in all.
    pub(crate) tokens: u32,
    /// What the client saw beyond the engine's own time, for one token.
    pub(crate) delay: Duration,
}

/// What a prompt came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prompted {
    /// Tokens of the prompt.
    pub(crate) tokens: u32,
    /// Those of them that were cached.
    pub(crate) cached: u32,
    /// From asking to the first delta.
    pub(crate) took: Duration,
}

impl Prompted {
    /// Computed tokens in a second.
    pub(crate) fn rate(&self) -> f64 {
        f64::from(self.tokens - self.cached) / self.took.as_secs_f64()
    }
}

impl Hearth {
    /// Starts a daemon and loads the model.
    pub(crate) async fn start(model: &Path, context: u32) -> Self {
        let daemon = TestDaemon::with(&format!("[engine]\ncontext_tokens = {context}\n")).await;
        let mut clients = Vec::new();
        for _ in 0..8 {
            clients.push(daemon.new_client().await);
        }
        let mut hearth = Self { daemon, clients, context, characters: 4.0, salts: 0 };
        hearth.import(CLEAN, model).await;
        hearth.import(FULL, model).await;
        hearth.fresh().await;
        let text = hearth.text(SHORT_PROMPT * 8);
        let tokens = hearth.answer(CLEAN, 0, &text, 1).await.usage.prompt_tokens;
        hearth.characters = count(text.len()) / f64::from(tokens);
        hearth
    }

    async fn import(&self, name: &str, model: &Path) {
        let file = tokio::fs::File::open(model).await.expect("the model file");
        let size = file.metadata().await.expect("the model file").len();
        let mut events = self.daemon.client().import(name, file, size, None).await.expect("an import");
        while let Some(event) = events.next().await {
            if let ImportEvent::Done(_) = event.expect("the import goes on") {
                return;
            }
        }
    }

    /// Loads the clean model anew, which empties its cache, and warms it up.
    pub(crate) async fn fresh(&self) {
        self.daemon.client().unload(CLEAN, true).await.expect("unloaded");
        self.daemon.load(CLEAN).await;
        let mut first = self.ask(CLEAN, 0, "ready", 4).await;
        while first.next().await.is_some() {}
    }

    /// The model file as the daemon has it: the bare loop reads the same pages.
    pub(crate) fn blob(&self) -> PathBuf {
        let folder = self.daemon.state().join("models/blobs");
        let files =
            std::fs::read_dir(folder).expect("the store").filter_map(|entry| Some(entry.ok()?.path()));
        let size = |path: &PathBuf| path.metadata().map_or(0, |file| file.len());
        files.max_by_key(size).expect("the model's file")
    }

    pub(crate) fn pid(&self) -> Pid {
        self.daemon.pid()
    }

    pub(crate) async fn engine_pid(&self, model: &str) -> Pid {
        self.daemon.engine_pid(model).await
    }

    /// Other text every time, of about so many tokens.
    fn text(&mut self, tokens: u32) -> String {
        self.salts += 1;
        // Two texts have no beginning in common, or one would take over the other's place in the cache.
        let letters = (b'a'..=b'z').map(char::from).collect::<Vec<_>>();
        let salt = [self.salts % 26, self.salts / 26 % 26].map(|at| letters[at]);
        let mut text = format!("{}{} {} water level", salt[0], salt[1], self.salts);
        while count(text.len()) < f64::from(tokens) * self.characters {
            text.push_str(" sensor reading nominal");
        }
        text
    }

    async fn ask(&self, model: &str, client: usize, text: &str, tokens: u32) -> Generation {
        let request = v1::GenerateRequest { sampling: Some(sampling()), ..raw(model, text, tokens) };
        self.clients[client].generate(request).await.expect("a stream")
    }

    async fn answer(&self, model: &str, client: usize, text: &str, tokens: u32) -> Trace {
        let asked = Instant::now();
        Trace::read(asked, self.ask(model, client, text, tokens).await).await
    }

    /// `clients` answers of `tokens` tokens at the same time, after prompts of `prompt` tokens.
    pub(crate) async fn decode(&mut self, model: &str, tokens: u32, prompt: u32, clients: usize) -> Decoded {
        let texts: Vec<String> = (0..clients).map(|_| self.text(prompt)).collect();
        if clients > 1 {
            // Their prompts are in the cache then, and all answers begin at once.
            for text in &texts {
                self.answer(model, 0, text, 1).await;
            }
        }
        let answers = texts.iter().enumerate().map(|(at, text)| self.answer(model, at, text, tokens));
        decoded(&futures_util::future::join_all(answers).await)
    }

    /// A new prompt, and then the same with another end, whose prefix is cached.
    pub(crate) async fn prompt_twice(&mut self, tokens: u32) -> (Prompted, Prompted) {
        let text = self.text(tokens);
        let first = self.answer(CLEAN, 0, &text, 1).await;
        let again = self.answer(CLEAN, 0, &format!("{text}: is that so?"), 1).await;
        (first.prompted(), again.prompted())
    }

    /// A new prompt.
    pub(crate) async fn prompt(&mut self, tokens: u32) -> Prompted {
        let text = self.text(tokens);
        self.answer(CLEAN, 0, &text, 1).await.prompted()
    }

    /// Fills the other model's cache with what others asked, but for one place and its cells.
    pub(crate) async fn fill(&mut self) -> f64 {
        let each = self.context / PLACES;
        let wanted = self.context - each * 3 / 2;
        for _ in 0..PLACES * 2 {
            if self.used().await >= wanted {
                break;
            }
            let text = self.text(each);
            self.answer(FULL, 0, &text, 1).await;
        }
        f64::from(self.used().await) / f64::from(self.context)
    }

    async fn used(&self) -> u32 {
        self.daemon.engine(FULL).await.map_or(0, |engine| engine.context_used)
    }
}

impl Trace {
    async fn read(asked: Instant, mut stream: Generation) -> Self {
        let mut trace =
            Self { asked, deltas: Vec::new(), usage: v1::Usage::default(), timings: v1::Timings::default() };
        while let Some(event) = stream.next().await {
            match event.expect("no error") {
                GenerationEvent::Text(_) | GenerationEvent::Reasoning(_) => trace.deltas.push(Instant::now()),
                GenerationEvent::Finished(finished) => {
                    trace.usage = finished.usage.unwrap_or_default();
                    trace.timings = finished.timings.unwrap_or_default();
                }
                _ => {}
            }
        }
        trace
    }

    fn first(&self) -> Instant {
        *self.deltas.first().expect("a delta")
    }

    fn last(&self) -> Instant {
        *self.deltas.last().expect("a delta")
    }

    /// A delta may carry more than one token, or a part of one.
    fn tokens_of_a_delta(&self) -> f64 {
        f64::from(self.usage.generated_tokens) / count(self.deltas.len())
    }

    fn tokens_between(&self, begin: Instant, end: Instant) -> f64 {
        let deltas = self.deltas.iter().filter(|&&at| begin < at && at <= end).count();
        count(deltas) * self.tokens_of_a_delta()
    }

    /// From the first delta to the last at the client, less the same in the engine, for each token.
    fn delay(&self) -> Duration {
        let seen = (self.last() - self.first()).as_secs_f64();
        let extra = (seen - self.timings.decode_ms / 1e3).max(0.0);
        Duration::from_secs_f64(extra / f64::from(self.usage.generated_tokens.max(1)))
    }

    fn prompted(&self) -> Prompted {
        let v1::Usage { prompt_tokens, cached_tokens, .. } = self.usage;
        Prompted { tokens: prompt_tokens, cached: cached_tokens, took: self.first() - self.asked }
    }
}

/// The rate while all answers were being written; where one had ended before another began, the rate of
/// the whole time.
fn decoded(traces: &[Trace]) -> Decoded {
    let firsts = || traces.iter().map(Trace::first);
    let lasts = || traces.iter().map(Trace::last);
    let together = (firsts().max().expect("an answer"), lasts().min().expect("an answer"));
    let (begin, end) = if together.0 < together.1 {
        together
    } else {
        (firsts().min().expect("an answer"), lasts().max().expect("an answer"))
    };
    let tokens: f64 = traces.iter().map(|trace| trace.tokens_between(begin, end)).sum();
    Decoded {
        rate: tokens / (end - begin).as_secs_f64(),
        tokens: traces.iter().map(|trace| trace.usage.generated_tokens).sum(),
        delay: traces[0].delay(),
    }
}

/// Hearth's defaults, spelled out: the bare loop has the same.
fn sampling() -> v1::Sampling {
    v1::Sampling {
        temperature: Some(0.8),
        top_k: Some(40),
        top_p: Some(0.95),
        min_p: Some(0.05),
        ..v1::Sampling::default()
    }
}

#[expect(clippy::cast_precision_loss, reason = "thousands at most")]
fn count(number: usize) -> f64 {
    number as f64
}
