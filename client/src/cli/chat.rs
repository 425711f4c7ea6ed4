//! `chat`: one question, or a conversation.

mod calls;
mod command;
mod editor;
mod history;
mod saved;
mod session;
mod settings;
mod show;
mod talk;
mod terminal;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use futures_util::FutureExt;
use hearth_client::v1::{self, output};
use hearth_client::{Client, Error, KeepAlive};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::exit::Failure;
use super::keep_alive;
use super::output::Output;
use super::prompt::PromptArgs;
use super::setup::Setup;
use super::tools::{CannedResult, Consent, ToolCommand, Toolbox};
use calls::Answered;
use editor::Editor;
use talk::{Mode, Talk};
use terminal::Terminal;

/// Asks a model: once with -p, else in a conversation.
///
/// At a terminal lines can be edited and recalled, `/help` lists the commands, Ctrl-C stops an answer and
/// Ctrl-D ends the conversation. From a pipe each line is a question, `/reset` forgets what was said, and a
/// line after a tool call is its result. Thoughts are shown on a terminal only.
#[derive(Debug, Args)]
pub(super) struct ChatArgs {
    #[command(flatten)]
    prompt: PromptArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    output: OutputArgs,
    /// Most tokens to write, thoughts included.
    #[arg(long, value_name = "N")]
    max_tokens: Option<u32>,
    /// End the answer before this text; may be given several times.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// How long the model stays in memory once nobody uses it, as in 10m; or forever, until its memory is needed.
    #[arg(long, value_name = "TIME|forever", value_parser = keep_alive::parse)]
    keep_alive: Option<KeepAlive>,
    /// Give up after this time, as in 30s or 5m; it holds for a question with all its tool calls.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    deadline: Option<Duration>,
    /// Answer calls of the tool NAME with TEXT and let the model go on; may be given several times.
    #[arg(long, value_name = "NAME=TEXT", value_parser = CannedResult::parse)]
    tool_result: Vec<CannedResult>,
    /// Answer calls of the tool NAME with what COMMAND writes; it gets the arguments as JSON on its stdin,
    /// and is run without a shell. May be given several times.
    #[arg(long, value_name = "NAME=COMMAND", value_parser = ToolCommand::parse)]
    tool_cmd: Vec<ToolCommand>,
    /// Run the commands of --tool-cmd without asking.
    #[arg(long)]
    yes: bool,
    /// Do not remember what is written at the prompt, and recall nothing of earlier times.
    #[arg(long, env = "HEARTH_NO_HISTORY", value_parser = clap::builder::FalseyValueParser::new())]
    no_history: bool,
}

/// What every answer looks like.
#[derive(Debug, Args)]
#[group(multiple = false)]
struct OutputArgs {
    /// The answer is JSON that the JSON Schema in this file allows.
    #[arg(long, value_name = "FILE")]
    schema: Option<PathBuf>,
    /// The answer is a JSON object.
    #[arg(long)]
    json_output: bool,
    /// The answer is a text that this regular expression matches as a whole.
    #[arg(long, value_name = "TEXT")]
    regex: Option<String>,
    /// The answer is a text of the grammar in this file, in the Lark syntax of llguidance.
    #[arg(long, value_name = "FILE")]
    grammar: Option<PathBuf>,
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
    let toolbox = args.toolbox();
    if toolbox.asks() && !out.is_interactive() {
        return Err(Failure::Usage("nobody can be asked before a command runs: give --yes".to_owned()));
    }
    let setup = args.setup()?;
    let question = args.prompt.question()?;
    let mode = if question.is_some() { Mode::Once } else { Mode::Conversation };
    let talk = Talk::new(connect.await?, setup, toolbox, mode);
    let interrupt = Interrupt::listen()?;
    let open = || Editor::open(args.history(), out.has_colour());
    match question {
        Some(question) if talk.toolbox().asks() => {
            let editor = open()?;
            ask_once(talk, question, Some(editor), interrupt, out).await
        }
        Some(question) => ask_once(talk, question, None, interrupt, out).await,
        None if out.is_interactive() => {
            let editor = open()?;
            Terminal { talk, editor, interrupt, out }.run().await
        }
        None => session::run(talk, interrupt, out).await,
    }
}

/// One question. With an editor the person is asked before programs run.
async fn ask_once(
    mut talk: Talk,
    question: String,
    mut editor: Option<Editor>,
    mut interrupt: Interrupt,
    out: &mut Output,
) -> Result<(), Failure> {
    talk.say(question);
    loop {
        let calls = tokio::select! {
            // Ctrl-C first: a model that streams without a pause must not outrun it.
            biased;
            () = interrupt.came() => return Err(Failure::Interrupted),
            heard = talk.listen(out) => heard?,
        };
        // Calls that nobody answers are what was asked for: they are shown, and that is all.
        let Some(editor) = editor.as_mut().filter(|_| !calls.is_empty()) else { return talk.end(out).await };
        if calls::answer(&calls, &mut talk, editor, &mut interrupt, out).await? == Answered::GivenUp {
            return Err(Failure::Interrupted);
        }
    }
}

impl ChatArgs {
    /// How the model is asked.
    fn setup(&self) -> Result<Setup, Failure> {
        Ok(Setup {
            sampling: self.sampling.to_wire(),
            stop: self.stop.clone(),
            max_tokens: self.max_tokens,
            keep_alive: self.keep_alive,
            deadline: self.deadline,
            output: self.output.form()?,
            ..self.prompt.setup()?
        })
    }

    fn toolbox(&self) -> Toolbox {
        Toolbox {
            canned: self.tool_result.clone(),
            commands: self.tool_cmd.clone(),
            consent: if self.yes { Consent::Given } else { Consent::Ask },
        }
    }

    fn history(&self) -> Option<PathBuf> {
        if self.no_history { None } else { history::file() }
    }
}

impl OutputArgs {
    fn form(&self) -> Result<Option<output::Kind>, Failure> {
        let Self { schema, json_output, regex, grammar } = self;
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path).map_err(|source| Failure::Read { path: path.clone(), source })
        };
        Ok(match (schema, regex, grammar) {
            (Some(path), _, _) => Some(output::Kind::JsonSchema(read(path)?)),
            (_, Some(regex), _) => Some(output::Kind::Regex(regex.clone())),
            (_, _, Some(path)) => Some(output::Kind::Grammar(read(path)?)),
            _ => json_output.then_some(output::Kind::Json(v1::JsonObject {})),
        })
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
    /// What came while nothing was to be stopped stops nothing later.
    fn forget(&mut self) {
        while let Some(Some(())) = self.0.recv().now_or_never() {}
    }
}
