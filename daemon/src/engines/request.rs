//! What the front asks of an engine, checked and complete. The door makes these out of wire messages;
//! the link makes wire messages out of these.

use super::date::Day;

/// Most tokens that penalties look back over.
pub const PENALTY_WINDOW: u32 = 4096;

/// A request for an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateRequest {
    /// Names the request in logs on both sides.
    pub request_id: String,
    /// What the model reads.
    pub prompt: Prompt,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Texts that end the answer.
    pub stop: Vec<String>,
    /// Most tokens to write.
    pub max_tokens: Option<u32>,
    /// Number of alternatives to report with each token's log probability.
    pub logprobs: Option<u32>,
    /// Seed of the draw.
    pub seed: u64,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// What the answer must look like.
    pub output: Option<Output>,
}

/// A form that every answer has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Any JSON object.
    JsonObject,
    /// What this JSON Schema allows: an object or a boolean, as text.
    JsonSchema(String),
    /// What this regular expression matches as a whole.
    Regex(String),
    /// What this grammar derives.
    Grammar(String),
}

/// What the model reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// Put into the model's own format.
    Conversation(Conversation),
    /// As it is.
    Raw(String),
}

/// A conversation and what may be done in the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversation {
    /// Oldest first, never empty.
    pub messages: Vec<Message>,
    /// What may be called.
    pub tools: Vec<Tool>,
    /// Whether it may be.
    pub tool_choice: ToolChoice,
    /// Whether to think first.
    pub thinking: Thinking,
    /// Most tokens of a thought, at least 1.
    pub thinking_budget: Option<u32>,
    /// The day that the template is told. Absent: none, as before it is known which model answers.
    pub date: Option<Day>,
}

/// Which tools may be called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolChoice {
    /// How the choice is made.
    pub mode: ToolMode,
    /// Whether one answer may make several calls. Absent: where the model was trained to.
    pub parallel: Option<bool>,
}

/// How it is chosen whether a tool is called, and which.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ToolMode {
    /// The model decides.
    #[default]
    Auto,
    /// None is.
    None,
    /// At least one is.
    Required,
    /// This one is; it is declared.
    Named(String),
}

/// Whether a model that can think does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thinking {
    /// The model's default.
    Default,
    /// It does.
    On,
    /// It does not.
    Off,
}

/// Who says a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The program.
    System,
    /// Who asks.
    User,
    /// The model.
    Assistant,
    /// A tool.
    Tool,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What it says.
    pub parts: Vec<String>,
    /// The calls that the model made in it.
    pub tool_calls: Vec<ToolCall>,
    /// The call that this is the result of; every message of a tool has it.
    pub tool_call_id: Option<String>,
    /// What the model thought before.
    pub reasoning: Option<String>,
    /// The speaker's name.
    pub name: Option<String>,
}

/// A call that the model made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolCall {
    /// Pairs the call with its result.
    pub id: String,
    /// The tool.
    pub name: String,
    /// A JSON object as text.
    pub arguments: String,
}

/// What may be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// What it does.
    pub description: Option<String>,
    /// JSON Schema of its arguments, a JSON object as text.
    pub parameters: Option<String>,
}

/// How tokens are chosen; what is absent is the model's own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sampling {
    /// 0 to 2.
    pub temperature: Option<f32>,
    /// Above 0, up to 1.
    pub top_p: Option<f32>,
    /// 0: all.
    pub top_k: Option<u32>,
    /// 0 to 1.
    pub min_p: Option<f32>,
    /// Above 0, up to 2.
    pub repeat_penalty: Option<f32>,
    /// -2 to 2.
    pub presence_penalty: Option<f32>,
    /// -2 to 2.
    pub frequency_penalty: Option<f32>,
    /// 0 to 4096.
    pub penalty_window: Option<u32>,
    /// Token and push, -100 to 100.
    pub logit_bias: Vec<(u32, f32)>,
}

impl Prompt {
    /// The same for a model whose template is told this day.
    #[must_use]
    pub fn dated(self, date: Option<Day>) -> Self {
        match self {
            Self::Conversation(conversation) => Self::Conversation(Conversation { date, ..conversation }),
            Self::Raw(text) => Self::Raw(text),
        }
    }
}

impl ToolChoice {
    /// What holds once the results of its calls are known and nothing else was chosen: a model that had to call
    /// would have to call for ever.
    #[must_use]
    pub fn answered(self) -> Self {
        let mode = match self.mode {
            ToolMode::Required | ToolMode::Named(_) => ToolMode::Auto,
            mode @ (ToolMode::Auto | ToolMode::None) => mode,
        };
        Self { mode, ..self }
    }
}

impl Sampling {
    /// These, and where one is absent the one of `fallback`. Biases are taken as a whole.
    pub fn or(self, fallback: &Self) -> Self {
        Self {
            temperature: self.temperature.or(fallback.temperature),
            top_p: self.top_p.or(fallback.top_p),
            top_k: self.top_k.or(fallback.top_k),
            min_p: self.min_p.or(fallback.min_p),
            repeat_penalty: self.repeat_penalty.or(fallback.repeat_penalty),
            presence_penalty: self.presence_penalty.or(fallback.presence_penalty),
            frequency_penalty: self.frequency_penalty.or(fallback.frequency_penalty),
            penalty_window: self.penalty_window.or(fallback.penalty_window),
            logit_bias: if self.logit_bias.is_empty() {
                fallback.logit_bias.clone()
            } else {
                self.logit_bias
            },
        }
    }
}
