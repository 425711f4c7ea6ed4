//! Text and meaning: what a conversation looks like to a model, and what a model's text means.
//!
//! ```text
//!  Conversation ── dialect (history rules) ── template ──► Rendered { segments }  ──► tokenizer
//!  bytes of the model ──► Parser (UTF-8 ─ thinking ─ tool calls) ──► Delta … ──► Finish
//! ```
//!
//! [`Chat`] is made once per loaded model from the facts of its file. It picks the [`Dialect`],
//! compiles the file's own template and knows the vocabulary's control tokens. For each request it
//! renders the prompt and hands out one [`Parser`].
//!
//! Two promises hold for every dialect. Nothing a request says ever becomes a control token (see
//! [`shield`]). Nothing the model wrote is ever dropped but the markers and separators of calls and
//! thinking that were recognised, and the control tokens of its dialect: text that merely looks like
//! a call stays text.
//!
//! **Invariant:** this module is pure. It knows no clock, no path, no process, no protobuf and no
//! llama.cpp; the same input gives the same output, however the model's bytes are cut.

pub mod delta;
pub mod dialect;
pub mod grammar;
pub mod json;
pub mod message;
pub mod parser;
mod schema;
pub mod segment;
pub mod shield;
pub mod stop;
pub mod template;

#[cfg(test)]
pub(crate) mod tests;

pub use delta::{Delta, End, Finish};
pub use dialect::{Dialect, Sampling, UnknownDialect};
pub use grammar::{Form, FormError, Opened, Output};
pub use message::{
    Conversation, Date, DateError, Message, Role, Thinking, Tool, ToolCall, ToolChoice, ToolError,
};
pub use parser::{Hold, OpenCall, Parser, Phase, Style};
pub use segment::{Rendered, Segment};
pub use stop::StopStrings;
pub use template::{CompileError, RenderError, Template};

use json::Json;
use shield::Shield;
use std::sync::Arc;
use template::guarded;

/// What [`Chat`] needs to know of a model file.
#[derive(Debug, Clone, Default)]
pub struct ModelFacts {
    /// `general.architecture` of the file.
    pub architecture: String,
    /// `tokenizer.chat_template` of the file, if it has one.
    pub template: Option<String>,
    /// Text of the beginning-of-sequence token, which templates may print; empty if there is none.
    pub bos_token: String,
    /// Text of the end-of-sequence token, which templates may print; empty if there is none.
    pub eos_token: String,
    /// Texts of every token of the vocabulary whose kind is *control* or *unknown*: the ones that
    /// llama.cpp makes of text only when it is told to parse special tokens. *User-defined* tokens
    /// (`<think>`, `<tool_call>`) do not belong here: they match in any text, and models are
    /// trained with it.
    pub control_tokens: Vec<String>,
    /// A dialect that the operator chose by name, which wins over what the file looks like.
    pub dialect: Option<Dialect>,
}

/// Why a request cannot be rendered.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// Tools were declared, and the model's template has no place for them.
    #[error("this model's chat template does not know tools")]
    ToolsUnsupported,
    /// The template could not be rendered with this conversation.
    #[error("render the chat template")]
    Render(#[source] RenderError),
}

/// The chat format of one loaded model.
#[derive(Debug)]
pub struct Chat {
    dialect: Dialect,
    template: Template,
    shield: Arc<Shield>,
    bos_token: String,
    eos_token: String,
}

impl Chat {
    /// Picks the dialect and compiles the template of a model.
    pub fn new(facts: ModelFacts) -> Result<Self, CompileError> {
        let source = facts.template.as_deref();
        let dialect = facts.dialect.unwrap_or_else(|| Dialect::detect(&facts.architecture, source));
        let shield = Arc::new(Shield::new(facts.control_tokens));
        let source = source.unwrap_or(dialect::FALLBACK_TEMPLATE);
        Ok(Self {
            dialect,
            template: Template::compile(source, Arc::clone(&shield))?,
            shield,
            bos_token: facts.bos_token,
            eos_token: facts.eos_token,
        })
    }

    /// The dialect this model speaks.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Renders the conversation into what the tokenizer gets.
    pub fn render(&self, conversation: &Conversation) -> Result<Rendered, ChatError> {
        self.render_with(conversation, &[])
    }

    /// Renders with more variables for the template, such as `builtin_tools` of Llama 3.1. What the
    /// conversation says itself wins.
    pub fn render_with(
        &self,
        conversation: &Conversation,
        variables: &[(String, Json)],
    ) -> Result<Rendered, ChatError> {
        if !conversation.tools.is_empty() && !self.knows_tools() {
            return Err(ChatError::ToolsUnsupported);
        }
        let mut context = self.dialect.context(conversation, &self.shield);
        for (name, value) in variables {
            context.add(name, guarded(value, &self.shield));
        }
        let text = self
            .template
            .render(context.with_tokens(&self.bos_token, &self.eos_token))
            .map_err(ChatError::Render)?;
        Ok(Rendered {
            segments: segment::split(&text, &self.shield),
            thinking_open: conversation.add_generation_prompt && self.opens_thinking(&text),
        })
    }

    /// A parser for the answer to this prompt.
    pub fn parser(&self, conversation: &Conversation, prompt: &Rendered) -> Parser {
        self.dialect.parser(conversation, prompt, &self.template)
    }

    /// What the answer to this conversation must look like.
    ///
    /// # Errors
    /// [`FormError`] with the field at fault.
    pub fn form(&self, conversation: &Conversation, output: Option<&Output>) -> Result<Form, FormError> {
        let parallel = conversation.parallel.unwrap_or_else(|| self.dialect.calls_in_parallel());
        Form::new(conversation, output, self.dialect.style(&self.template), parallel)
    }

    /// The sampling that the model's makers recommend, if it is known.
    pub fn sampling(&self, thinking: Thinking) -> Sampling {
        self.dialect.sampling(thinking)
    }

    /// Texts of tokens that end the answer although the file may not say so.
    pub fn extra_stop_tokens(&self) -> &'static [&'static str] {
        self.dialect.extra_stop_tokens()
    }

    /// Texts of control tokens that the parser must see: see [`Dialect::visible_control_tokens`].
    pub fn visible_control_tokens(&self) -> &'static [&'static str] {
        self.dialect.visible_control_tokens()
    }

    /// Whether the template has a place for tools.
    pub fn knows_tools(&self) -> bool {
        self.template.mentions("tools")
    }

    /// Whether the model may open its answer with a `<think>` block.
    pub fn thinks(&self) -> bool {
        self.template.thinks()
    }

    /// Some templates open the block themselves; the answer then starts inside it.
    fn opens_thinking(&self, prompt: &str) -> bool {
        self.thinks() && prompt.trim_end().ends_with("<think>")
    }
}
