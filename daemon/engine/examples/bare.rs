//! A bare llama.cpp loop, for comparison: what a program gets that calls llama.cpp itself, with nothing of
//! Hearth in between.
//!
//! `bare MODEL [--context N] [--threads N] [--batch N] [--micro-batch N]` reads one order per line from
//! standard input and answers each with one line, both JSON, so that a benchmark can take turns between it
//! and a daemon. It has llama.cpp's own good settings: flash attention, 16-bit keys and values, weights
//! repacked where the CPU has kernels for that, a batch of 2048 and a micro-batch of 512, one thread per
//! core, OpenMP as it comes. The next token is drawn by llama.cpp's own samplers: top-k 40, top-p 0.95,
//! min-p 0.05, temperature 0.8, as Hearth's default is. Tokens are neither turned into text nor sent
//! anywhere. A time covers the steps and the draws, and nothing else.

use std::io::{BufRead as _, Write as _};
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use serde::{Deserialize, Serialize};

/// Sequences of the context: answers written at the same time.
const SEQUENCES: u32 = 8;
/// Tokens of the batch that warms up weights and buffers.
const WARM_UP: u32 = 16;

type Failure = Box<dyn std::error::Error>;

/// What to load, and how.
#[derive(Debug, clap::Parser)]
struct Options {
    /// The model file.
    model: std::path::PathBuf,
    /// Tokens of the context.
    #[arg(long, default_value_t = 4096)]
    context: u32,
    /// Threads. 0: one for each core.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Most tokens in one call.
    #[arg(long, default_value_t = 2048)]
    batch: u32,
    /// Most tokens computed together.
    #[arg(long, default_value_t = 512)]
    micro_batch: u32,
}

/// What to do next.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
enum Order {
    /// Computes a prompt and draws the first token. The first `cached` tokens are in the cache before the
    /// clock starts; `salt` makes the prompt another one.
    Prompt { tokens: u32, cached: u32, salt: u32 },
    /// Writes `tokens` tokens after a prompt of `prompt` tokens, for each of `clients` together. The prompt
    /// and the first token are not part of the time.
    Decode { tokens: u32, prompt: u32, clients: u32 },
}

/// What it took.
#[derive(Clone, Copy, Debug, Serialize)]
struct Report {
    /// Tokens computed on the clock, those of all clients together.
    tokens: u32,
    /// Wall time in seconds.
    seconds: f64,
}

/// A context with its batch.
struct Bare<'a> {
    context: LlamaContext<'a>,
    batch: LlamaBatch<'static>,
    batch_size: u32,
    vocabulary: i32,
}

/// One answer that is being written.
struct Writer {
    sampler: LlamaSampler,
    sequence: i32,
    position: i32,
    next: LlamaToken,
}

impl<'a> Bare<'a> {
    fn new(backend: &LlamaBackend, model: &'a LlamaModel, options: &Options) -> Result<Self, Failure> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = i32::try_from(if options.threads == 0 { cores } else { options.threads })?;
        let params = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(options.context))
            .with_n_batch(options.batch)
            .with_n_ubatch(options.micro_batch)
            .with_n_seq_max(SEQUENCES)
            .with_kv_unified(true)
            .with_n_threads(threads)
            .with_n_threads_batch(threads);
        let context = model.new_context(backend, params)?;
        let batch = LlamaBatch::new(usize::try_from(options.batch)?, 1);
        let mut bare =
            Self { context, batch, batch_size: options.batch, vocabulary: model.vocab().n_tokens() };
        bare.prompt(0, 0, WARM_UP, 0)?;
        Ok(bare)
    }

    fn run(&mut self, order: Order) -> Result<Report, Failure> {
        let (tokens, took) = match order {
            Order::Prompt { tokens, cached, salt } => {
                (tokens - cached, self.first_token(tokens, cached, salt)?)
            }
            Order::Decode { tokens, prompt, clients } => {
                (tokens * clients, self.decode(tokens, prompt, clients)?)
            }
        };
        Ok(Report { tokens, seconds: took.as_secs_f64() })
    }

    fn first_token(&mut self, tokens: u32, cached: u32, salt: u32) -> Result<Duration, Failure> {
        self.context.clear_kv_cache();
        self.prompt(0, 0, cached, salt)?;
        let mut sampler = chain();
        let begun = Instant::now();
        self.prompt(0, cached, tokens, salt)?;
        std::hint::black_box(sampler.sample(&self.context, self.batch.n_tokens() - 1));
        Ok(begun.elapsed())
    }

    fn decode(&mut self, tokens: u32, prompt: u32, clients: u32) -> Result<Duration, Failure> {
        self.context.clear_kv_cache();
        let mut writers = Vec::new();
        for sequence in 0..i32::try_from(clients.min(SEQUENCES))? {
            self.prompt(sequence, 0, prompt, sequence.unsigned_abs())?;
            let mut sampler = chain();
            let next = sampler.sample(&self.context, self.batch.n_tokens() - 1);
            writers.push(Writer { sampler, sequence, position: i32::try_from(prompt)?, next });
        }
        let begun = Instant::now();
        for _ in 0..tokens {
            self.step(&mut writers)?;
        }
        Ok(begun.elapsed())
    }

    /// One token more for every writer.
    fn step(&mut self, writers: &mut [Writer]) -> Result<(), Failure> {
        self.batch.clear();
        for writer in &*writers {
            self.batch.add(writer.next, writer.position, &[writer.sequence], true)?;
        }
        self.context.decode(&mut self.batch)?;
        for (index, writer) in (0..).zip(writers) {
            writer.next = writer.sampler.sample(&self.context, index);
            writer.position += 1;
        }
        Ok(())
    }

    /// Computes the tokens `from..to` of a made-up prompt; the last one's logits are there afterwards.
    fn prompt(&mut self, sequence: i32, from: u32, to: u32, salt: u32) -> Result<(), Failure> {
        let mut at = from;
        while at < to {
            let end = to.min(at + self.batch_size);
            self.batch.clear();
            for position in at..end {
                let token = self.token(position, salt);
                self.batch.add(token, i32::try_from(position)?, &[sequence], position + 1 == to)?;
            }
            self.context.decode(&mut self.batch)?;
            at = end;
        }
        Ok(())
    }

    /// Some token of the vocabulary's first half, where ordinary text is.
    fn token(&self, position: u32, salt: u32) -> LlamaToken {
        let mixed = (position.wrapping_add(salt.wrapping_mul(0x9e37)).wrapping_mul(2_654_435_761)) >> 8;
        let ordinary = self.vocabulary.unsigned_abs() / 2;
        LlamaToken(i32::try_from(mixed % ordinary.max(1)).unwrap_or(0))
    }
}

/// Hearth's default sampling, by llama.cpp alone.
fn chain() -> LlamaSampler {
    let samplers = [
        LlamaSampler::top_k(40),
        LlamaSampler::top_p(0.95, 1),
        LlamaSampler::min_p(0.05, 1),
        LlamaSampler::temp(0.8),
        LlamaSampler::dist(1),
    ];
    LlamaSampler::chain(samplers, true)
}

fn answer(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

fn main() -> Result<(), Failure> {
    let options = <Options as clap::Parser>::parse();
    let mut backend = LlamaBackend::init()?;
    backend.void_logs();
    let model = LlamaModel::load_from_file(&backend, &options.model, &LlamaModelParams::default())?;
    let mut bare = Bare::new(&backend, &model, &options)?;
    answer(r#"{"ready":true}"#)?;
    for line in std::io::stdin().lock().lines() {
        let report = bare.run(serde_json::from_str(&line?)?)?;
        answer(&serde_json::to_string(&report)?)?;
    }
    Ok(())
}
