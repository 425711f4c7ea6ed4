//! Chat formats by model family.
//!
//! A dialect says what its family needs beyond the file's template: how history is rewritten for
//! the template, how the answer is read, which tokens end it and how to sample. Adding a family
//! means a file in `dialect/`, a variant here, and vectors.

mod generic;
mod glm4;
mod llama31;
mod qwen3;

use super::message::{Conversation, Thinking};
use super::parser::{Parser, Style};
use super::segment::Rendered;
use super::shield::Shield;
use super::template::{Context, Template};
use std::fmt;
use std::str::FromStr;

pub(crate) use generic::FALLBACK_TEMPLATE;

/// How a model family writes.
///
/// The parser gets text, and a control token has none of its own: the engine leaves it out. Where
/// the family gives one a meaning inside the answer, the engine must spell it out in the bytes that
/// it pushes, such as `<|python_tag|>`. Exactly those that [`Self::visible_control_tokens`] lists
/// are spelled out; tokens that end the answer never reach the parser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Qwen3: `<think>` blocks and `<tool_call>` tags.
    Qwen3,
    /// Llama 3.1 and those after it with its template: bare JSON calls and `<|python_tag|>`.
    Llama31,
    /// GLM-4-0414: the name of a tool on a line, its arguments below.
    Glm4,
    /// Any other: the template as it is; calls in `<tool_call>` tags if the template writes them.
    Generic,
}

/// No dialect has this name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("no dialect is called {name:?}; there are qwen3, llama31, glm4 and generic")]
pub struct UnknownDialect {
    /// The name asked for.
    pub name: String,
}

/// Sampling that the makers of a model recommend; what is absent is left to the defaults.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Sampling {
    /// Softens or sharpens the distribution.
    pub temperature: Option<f32>,
    /// Keeps the likeliest tokens up to this probability.
    pub top_p: Option<f32>,
    /// Keeps so many of the likeliest tokens.
    pub top_k: Option<u32>,
    /// Drops tokens less likely than this part of the likeliest.
    pub min_p: Option<f32>,
}

impl Dialect {
    /// The dialect of a file, by architecture and what its template writes.
    pub fn detect(architecture: &str, template: Option<&str>) -> Self {
        let template = template.unwrap_or_default();
        match architecture {
            "llama" if llama31::knows(template) => Self::Llama31,
            "glm4" if glm4::knows(template) => Self::Glm4,
            _ if architecture.starts_with("qwen3") && qwen3::knows(template) => Self::Qwen3,
            _ => Self::Generic,
        }
    }

    /// The name used in configuration and manifests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Qwen3 => "qwen3",
            Self::Llama31 => "llama31",
            Self::Glm4 => "glm4",
            Self::Generic => "generic",
        }
    }

    /// What the template gets.
    pub(crate) fn context(self, conversation: &Conversation, shield: &Shield) -> Context {
        let messages = match self {
            // The rules of Qwen3 are the general ones: N1 to N5.
            Self::Qwen3 | Self::Generic => generic::messages(conversation, shield),
            Self::Llama31 => llama31::messages(conversation, shield),
            Self::Glm4 => glm4::messages(conversation, shield),
        };
        generic::context(conversation, messages, shield)
    }

    /// Reads the answer to a prompt.
    pub(crate) fn parser(self, request: &Conversation, prompt: &Rendered, template: &Template) -> Parser {
        match self {
            Self::Qwen3 => qwen3::parser(request, prompt),
            Self::Llama31 => llama31::parser(request, prompt, template),
            Self::Glm4 => glm4::parser(request, prompt, template),
            Self::Generic => generic::parser(request, prompt, template),
        }
    }

    /// How the family writes calls, if that is known.
    pub(crate) fn style(self, template: &Template) -> Option<Style> {
        match self {
            Self::Qwen3 => Some(Style::Tags),
            Self::Llama31 => Some(Style::Json),
            Self::Glm4 => Some(Style::Lines),
            Self::Generic => generic::writes_tags(template).then_some(Style::Tags),
        }
    }

    /// Whether the family was trained to make several calls in one answer. Llama 3.1 was not: its template
    /// refuses them in the history.
    pub(crate) fn calls_in_parallel(self) -> bool {
        self != Self::Llama31
    }

    pub(crate) fn sampling(self, thinking: Thinking) -> Sampling {
        match self {
            Self::Qwen3 => qwen3::sampling(thinking),
            Self::Llama31 => llama31::SAMPLING,
            Self::Glm4 => glm4::SAMPLING,
            Self::Generic => Sampling::default(),
        }
    }

    pub(crate) fn extra_stop_tokens(self) -> &'static [&'static str] {
        match self {
            Self::Qwen3 => qwen3::STOP_TOKENS,
            Self::Llama31 => llama31::STOP_TOKENS,
            Self::Glm4 => glm4::STOP_TOKENS,
            Self::Generic => &[],
        }
    }

    /// Texts of the control tokens that must be spelled out to the parser, since they mean
    /// something within an answer. All others must not be: they are no text.
    pub fn visible_control_tokens(self) -> &'static [&'static str] {
        match self {
            Self::Llama31 => llama31::VISIBLE_TOKENS,
            Self::Glm4 => glm4::VISIBLE_TOKENS,
            Self::Qwen3 | Self::Generic => &[],
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Dialect {
    type Err = UnknownDialect;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let mut all = [Self::Qwen3, Self::Llama31, Self::Glm4, Self::Generic].into_iter();
        all.find(|dialect| dialect.name() == name).ok_or_else(|| UnknownDialect { name: name.to_owned() })
    }
}
