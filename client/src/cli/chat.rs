//! `chat`: one question, or a conversation line by line.

mod session;
mod show;
mod talk;

use std::time::Duration;

use clap::Args;
use hearth_client::{ChatRequest, Client, Error, v1};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::exit::Failure;
use super::output::Output;
use super::prompt::PromptArgs;
use super::tools::CannedResult;
use talk::Talk;

/// Asks a model: once with -p, else line by line until the end of input.
///
/// In a conversation `/reset` forgets what was said, `/quit` and Ctrl-D end it, Ctrl-C stops an answer.
/// A line after a tool call is the result of that call. Thoughts are shown on a terminal only.
#[derive(Debug, Args)]
pub(super) struct ChatArgs {
    #[command(flatten)]
    prompt: PromptArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Most tokens to write, thoughts included.
    #[arg(long, value_name = "N")]
    max_tokens: Option<u32>,
    /// End the answer before this text; may be given several times.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Give up after this time, as in 30s or 5m.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    deadline: Option<Duration>,
    /// Answer calls of the tool NAME with TEXT and let the model go on; may be given several times.
    #[arg(long, value_name = "NAME=TEXT", value_parser = CannedResult::parse)]
    tool_result: Vec<CannedResult>,
}

/// How tokens are chosen; what is not given is up to the model.
#[derive(Debug, Args)]
struct SamplingArgs {
    /// 0 to 2; 0 always takes the likeliest token.
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Only the likeliest tokens that together reach this probability.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Only the K likeliest tokens; 0: all.
    #[arg(long, value_name = "K")]
    top_k: Option<u32>,
    /// Only tokens at least this likely, relative to the likeliest.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f32>,
    /// Same seed, same board, nothing else running: same answer.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

pub(super) async fn run(
    args: ChatArgs,
    connect: impl Future<Output = Result<Client, Error>>,
    out: &mut Output,
) -> Result<(), Failure> {
    let opening = args.opening()?;
    let question = args.prompt.question()?;
    let talk = Talk::new(connect.await?, opening, args.tool_result);
    let interrupt = Interrupt::listen()?;
    match question {
        Some(question) => ask_once(talk, question, interrupt, out).await,
        None => session::run(talk, &args.prompt.model, interrupt, out).await,
    }
}

async fn ask_once(
    mut talk: Talk,
    question: String,
    mut interrupt: Interrupt,
    out: &mut Output,
) -> Result<(), Failure> {
    talk.say(question);
    tokio::select! {
        // Ctrl-C first: a model that streams without a pause must not outrun it.
        biased;
        () = interrupt.came() => Err(Failure::Interrupted),
        // Calls that nobody answers are what was asked for: they are shown, and that is all.
        result = talk.listen(out) => result.map(drop),
    }
}

impl ChatArgs {
    /// The conversation before the first question.
    fn opening(&self) -> Result<ChatRequest, Failure> {
        let mut request = self.prompt.opening()?.sampling(self.sampling.to_wire());
        if let Some(tokens) = self.max_tokens {
            request = request.max_tokens(tokens);
        }
        if let Some(deadline) = self.deadline {
            request = request.deadline(deadline);
        }
        Ok(self.stop.iter().fold(request, |request, text| request.stop(text)))
    }
}

impl SamplingArgs {
    fn to_wire(&self) -> v1::Sampling {
        let Self { temperature, top_p, top_k, min_p, seed } = *self;
        v1::Sampling { temperature, top_p, top_k, min_p, seed, ..v1::Sampling::default() }
    }
}

/// Ctrl-C, caught from here on: the answer ends, not the program.
struct Interrupt(Signal);

impl Interrupt {
    fn listen() -> Result<Self, Failure> {
        signal(SignalKind::interrupt()).map(Self).map_err(Failure::Start)
    }

    async fn came(&mut self) {
        if self.0.recv().await.is_none() {
            // The runtime is going down; nothing will come any more.
            std::future::pending().await
        }
    }
}
