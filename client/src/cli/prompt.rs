//! What a model is asked: the options that `chat`, `render` and `count` share.

use std::io::Read;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use hearth_client::Call;
use hearth_client::v1;

use super::exit::Failure;
use super::setup::{Setup, ToolChoice};
use super::tools;

/// A model and a conversation.
#[derive(Debug, Args)]
pub(super) struct PromptArgs {
    /// The model: `name[:tag]`, or the first digits of its SHA-256.
    pub(super) model: String,
    /// What to ask; `-` reads it from stdin.
    #[arg(short, long, value_name = "TEXT")]
    pub(super) prompt: Option<String>,
    /// Instructions ahead of the conversation.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Tools that the model may call: a JSON array of {"name", "description", "parameters"} or of
    /// OpenAI's {"type": "function", "function": {...}}.
    #[arg(long, value_name = "FILE")]
    tools: Option<PathBuf>,
    /// Whether the model calls its tools: none, auto, required (at least one call), or the name of the one that
    /// it shall call.
    #[arg(long, value_name = "none|auto|required|NAME")]
    tool_choice: Option<ToolChoice>,
    /// At most one call in an answer.
    #[arg(long)]
    no_parallel: bool,
    /// Whether the model thinks before it answers; auto leaves it to the model's default.
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    think: Think,
    /// Most tokens of a thought; it is closed then, and the answer follows.
    #[arg(long, value_name = "N")]
    think_budget: Option<u32>,
}

/// Whether a model thinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Think {
    On,
    Off,
    Auto,
}

impl Think {
    pub(super) fn to_wire(self) -> v1::Thinking {
        match self {
            Self::On => v1::Thinking::On,
            Self::Off => v1::Thinking::Off,
            Self::Auto => v1::Thinking::Unspecified,
        }
    }
}

/// A conversation, or with `--raw` a text as it is.
#[derive(Debug, Args)]
pub(super) struct WholePromptArgs {
    #[command(flatten)]
    prompt: PromptArgs,
    /// Take this text as the whole prompt, control tokens included.
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["prompt", "system", "tools", "tool_choice", "no_parallel", "think", "think_budget"])]
    raw: Option<String>,
}

impl PromptArgs {
    /// The model and how it is asked.
    pub(super) fn setup(&self) -> Result<Setup, Failure> {
        let tools = self.tools.as_deref().map_or(Ok(Vec::new()), tools::read)?;
        Ok(Setup {
            model: self.model.clone(),
            system: self.system.clone(),
            tools,
            tool_choice: self.tool_choice.clone(),
            parallel: self.no_parallel.then_some(false),
            thinking: self.think.to_wire(),
            thinking_budget: self.think_budget,
            ..Setup::default()
        })
    }

    /// The question, where there is one.
    pub(super) fn question(&self) -> Result<Option<String>, Failure> {
        match self.prompt.as_deref() {
            Some("-") => read_stdin().map(Some),
            prompt => Ok(prompt.map(str::to_owned)),
        }
    }
}

impl WholePromptArgs {
    /// The request, as `Render` takes it.
    pub(super) fn request(&self) -> Result<v1::RenderRequest, Failure> {
        if let Some(raw) = &self.raw {
            let prompt = v1::Prompt { kind: Some(v1::prompt::Kind::Raw(raw.clone())) };
            let model = self.prompt.model.clone();
            return Ok(v1::RenderRequest { model, prompt: Some(prompt), with_tokens: false });
        }
        let opening = self.prompt.setup()?.request(&[]);
        let request = match self.prompt.question()? {
            Some(question) => opening.user(question),
            None if opening.messages().is_empty() => {
                return Err(Failure::Usage("nothing to render: give -p, --system or --raw".to_owned()));
            }
            None => opening,
        };
        Ok(Call::<v1::RenderRequest>::from(request).message)
    }
}

/// All of stdin, less the newline that ends it.
fn read_stdin() -> Result<String, Failure> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).map_err(Failure::Stdin)?;
    if text.ends_with('\n') {
        text.pop();
    }
    Ok(text)
}
