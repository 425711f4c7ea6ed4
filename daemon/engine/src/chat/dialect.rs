//! Chat formats by model family.
//!
//! A dialect says what its family needs beyond the file's template: how history is rewritten for
//! the template, how the answer is read, which tokens end it and how to sample. Adding a family
//! means a file in `dialect/`, a variant here, and vectors.

mod generic;
mod qwen3;

use super::message::{Conversation, Thinking};
use super::parser::Parser;
use super::segment::Rendered;
use super::shield::Shield;
use super::template::Context;
use std::fmt;
use std::str::FromStr;

pub(crate) use generic::FALLBACK_TEMPLATE;

/// How a model family writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Qwen3: `<think>` blocks and `<tool_call>` tags.
    Qwen3,
    /// Any other: the template as it is, no tool calls read.
    Generic,
}

/// No dialect has this name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("no dialect is called {name:?}; there are qwen3 and generic")]
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
        if architecture.starts_with("qwen3") && qwen3::knows(template) { Self::Qwen3 } else { Self::Generic }
    }

    /// The name used in configuration and manifests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Qwen3 => "qwen3",
            Self::Generic => "generic",
        }
    }

    /// What the template gets.
    pub(crate) fn context(self, conversation: &Conversation, shield: &Shield) -> Context {
        match self {
            // The rules of Qwen3 are the general ones: N1 to N5.
            Self::Qwen3 | Self::Generic => generic::context(conversation, shield),
        }
    }

    /// Reads the answer to a prompt. `thinks` says that the template knows `<think>` blocks.
    pub(crate) fn parser(self, request: &Conversation, prompt: &Rendered, thinks: bool) -> Parser {
        match self {
            Self::Qwen3 => qwen3::parser(request, prompt),
            Self::Generic => generic::parser(prompt, thinks),
        }
    }

    pub(crate) fn sampling(self, thinking: Thinking) -> Sampling {
        match self {
            Self::Qwen3 => qwen3::sampling(thinking),
            Self::Generic => Sampling::default(),
        }
    }

    pub(crate) fn extra_stop_tokens(self) -> &'static [&'static str] {
        match self {
            Self::Qwen3 => qwen3::STOP_TOKENS,
            Self::Generic => &[],
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
        let mut all = [Self::Qwen3, Self::Generic].into_iter();
        all.find(|dialect| dialect.name() == name).ok_or_else(|| UnknownDialect { name: name.to_owned() })
    }
}
