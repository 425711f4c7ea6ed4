//! The model file's own Jinja template, rendered as transformers would.
//!
//! minijinja differs from that environment in a few places, and `python` holds what makes up for
//! them. Templates come with the model file, so they are hostile until proven otherwise: `limits`
//! refuses what the compiler would recurse too deep on, and fuel bounds time and memory. Give the
//! thread that compiles 64 MiB of stack all the same.

mod limits;
mod python;

use super::message::Date;
use super::shield::Shield;
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value};
use minijinja_contrib::pycompat;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) use python::guarded;

/// Fuel for one rendering: an instruction costs one, and so does every few dozen bytes. A request of
/// a hundred messages takes some twenty thousand.
const FUEL: u64 = 5_000_000;

/// The name of the one template of an environment, which appears in no message.
const NAME: &str = "chat";

/// A compiled chat template.
#[derive(Debug)]
pub struct Template {
    environment: Environment<'static>,
    source: String,
}

/// Why a model file's template cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// Longer than any honest template.
    #[error("chat template of {len} bytes, at most {max} are taken")]
    TooLong {
        /// Bytes of this one.
        len: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// An expression or a chain of branches that the compiler would have to recurse into too deep.
    #[error("chat template nests too deep at line {line}")]
    TooDeep {
        /// Where.
        line: usize,
    },
    /// Not Jinja, or not the part of it that is known here.
    #[error("chat template, line {line}: {message}")]
    Syntax {
        /// Where.
        line: usize,
        /// What is wrong.
        message: String,
    },
}

/// Why a conversation cannot be rendered.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// The template itself refuses it, such as two tool calls where the model makes one.
    #[error("the chat template refuses this conversation: {0}")]
    Refused(String),
    /// The template ran out of the fuel it is given.
    #[error("chat template, line {line}: too much work")]
    TooMuchWork {
        /// Where it was.
        line: usize,
    },
    /// The template failed, such as on a field that is missing.
    #[error("chat template, line {line}: {message}")]
    Failed {
        /// Where it was.
        line: usize,
        /// What is wrong.
        message: String,
    },
}

/// The variables of one rendering.
#[derive(Debug, Default)]
pub(crate) struct Context {
    variables: BTreeMap<Cow<'static, str>, Value>,
}

impl Context {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn set(&mut self, name: impl Into<Cow<'static, str>>, value: impl Into<Value>) {
        self.variables.insert(name.into(), value.into());
    }

    /// Adds a variable, unless the conversation set it.
    pub(crate) fn add(&mut self, name: &str, value: impl Into<Value>) {
        if !self.variables.contains_key(name) {
            self.set(name.to_owned(), value);
        }
    }

    /// Templates ask for the day in two ways. Without one the function is not defined, which they
    /// test for.
    pub(crate) fn set_date(&mut self, date: Date) {
        self.set("date_string", date.strftime("%d %b %Y"));
        let strftime_now = move |format: &str| date.strftime(format);
        self.set("strftime_now", Value::from_function(strftime_now));
    }

    pub(crate) fn with_tokens(mut self, bos: &str, eos: &str) -> Self {
        self.set("bos_token", bos);
        self.set("eos_token", eos);
        self
    }
}

impl Template {
    /// Compiles a template. Texts of requests reach it guarded by this shield.
    pub fn compile(source: &str, shield: Arc<Shield>) -> Result<Self, CompileError> {
        limits::check(source)?;
        let mut environment = Environment::new();
        environment.set_syntax(syntax().map_err(|e| CompileError::from_error(&e))?);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(pycompat::unknown_method_callback);
        python::install(&mut environment, shield);
        environment
            .add_template_owned(NAME, source.to_owned())
            .map_err(|error| CompileError::from_error(&error))?;
        Ok(Self { environment, source: source.to_owned() })
    }

    /// Whether the source has this text anywhere.
    pub(crate) fn mentions(&self, text: &str) -> bool {
        self.source.contains(text)
    }

    /// Whether it writes or strips `<think>` blocks.
    pub(crate) fn thinks(&self) -> bool {
        self.mentions("<think>") || self.mentions("</think>")
    }

    pub(crate) fn render(&self, context: Context) -> Result<String, RenderError> {
        let template = self.environment.get_template(NAME);
        template
            .and_then(|template| template.render(Value::from(context.variables)))
            .map_err(|error| RenderError::from_error(&error))
    }
}

/// As transformers sets it up. Our names of templates end in nothing, so nothing is escaped.
fn syntax() -> Result<SyntaxConfig, Error> {
    let mut builder = SyntaxConfig::builder();
    builder.trim_blocks(true).lstrip_blocks(true).build()
}

impl CompileError {
    fn from_error(error: &Error) -> Self {
        Self::Syntax { line: error.line().unwrap_or(0), message: message(error) }
    }
}

impl RenderError {
    fn from_error(error: &Error) -> Self {
        let line = error.line().unwrap_or(0);
        match python::raised(error) {
            Some(refusal) => Self::Refused(refusal.to_owned()),
            None if error.kind() == ErrorKind::OutOfFuel => Self::TooMuchWork { line },
            None => Self::Failed { line, message: message(error) },
        }
    }
}

fn message(error: &Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

#[cfg(test)]
mod tests;
