//! From a request to the tokens of its prompt.
//!
//! Templates and some pre-tokenizers recurse, so all of it runs on [`BigStack`], one thread with a 64 MiB
//! stack beside the batch loop: rendering never delays a running answer.

mod stack;

use std::sync::Arc;

use crate::batch::guide::{Guide, Opening, Thought};
use crate::chat::{Chat, ChatError, CompileError, Conversation, Parser, Rendered, Segment, Thinking};
use crate::chat::{Form, FormError, Output, Sampling as ChatSampling, parser::Blocks};
use crate::constrain::{ConstraintError, Grammars};
use crate::llama::{Model, Token, TokenizeError};

pub use stack::{BigStack, NotRun, STACK_BYTES};

/// Longest prompt that is looked at, in bytes: more than 131,072 tokens of any text.
const MAX_PROMPT: usize = 4 << 20;
/// Longest run of characters of one class, for vocabularies whose pre-tokenizer is a `std::regex` that
/// recurses over them: 10,000 letters overflowed 2 MiB of stack, and [`BigStack`] has 64 MiB.
const MAX_RUN: usize = 100_000;

/// Why a prompt was not made.
#[derive(Debug, thiserror::Error)]
pub enum PromptError {
    /// The file's template cannot be used at all.
    #[error("this model's chat template cannot be used, only raw prompts: {0}")]
    NoTemplate(String),
    /// The template refused the conversation.
    #[error("render the conversation")]
    Chat(#[from] ChatError),
    /// Thinking was asked of a model that cannot.
    #[error("this model cannot think before it answers")]
    CannotThink,
    /// Too long to be looked at.
    #[error("the prompt has {bytes} bytes; at most {most} are taken")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        most: usize,
    },
    /// One run of letters, blanks or signs is too long for the model's tokenizer.
    #[error(
        "the prompt has {characters} letters, blanks or signs in a row; this model's tokenizer takes {most}"
    )]
    LongRun {
        /// Its length.
        characters: usize,
        /// The limit.
        most: usize,
    },
    /// llama.cpp cannot tokenize it.
    #[error("tokenize the prompt")]
    Tokenize(#[from] TokenizeError),
    /// No answer can have the form that is asked for.
    #[error(transparent)]
    Form(#[from] FormError),
    /// The form cannot be compiled.
    #[error("hold the answer to its form")]
    Constraint(#[from] ConstraintError),
}

/// A prompt, ready to be computed.
#[derive(Debug)]
pub struct Prepared {
    /// For people to read.
    pub text: String,
    /// For the model.
    pub tokens: Vec<Token>,
    /// For the answer.
    pub parser: Parser,
    /// For the answer, too.
    pub guide: Guide,
}

/// What a prompt is made for.
#[derive(Clone, Copy, Debug)]
pub enum Purpose<'a> {
    /// To be looked at.
    Look,
    /// To be answered, in this form.
    Answer(Option<&'a Output>),
}

/// Makes prompts for one model.
#[derive(Debug)]
pub struct Prompter {
    model: Arc<Model>,
    chat: Result<Chat, CompileError>,
    /// The pre-tokenizer recurses over runs of like characters.
    recursive: bool,
    extra_ends: Vec<Token>,
    visible: Vec<Token>,
    grammars: Arc<Grammars>,
    thought: ThoughtTokens,
}

/// Tokens around a thought; empty for a model that has none.
#[derive(Debug, Default)]
struct ThoughtTokens {
    open: Vec<Token>,
    close: Vec<Token>,
    gap: Vec<Token>,
}

impl Prompter {
    /// `recursive` says that the pre-tokenizer recurses over runs of letters.
    pub fn new(model: Arc<Model>, chat: Result<Chat, CompileError>, recursive: bool) -> Self {
        let specials = model.special_tokens();
        let ids = |wanted: &[&str]| -> Vec<Token> {
            let wanted = specials.iter().filter(|token| wanted.contains(&token.text.as_str()));
            wanted.map(|token| token.id).collect()
        };
        let extra_ends = ids(chat.as_ref().map(Chat::extra_stop_tokens).unwrap_or_default());
        let visible = ids(chat.as_ref().map(Chat::visible_control_tokens).unwrap_or_default());
        let thinks = chat.as_ref().is_ok_and(Chat::thinks);
        let thought = if thinks { ThoughtTokens::of(&model) } else { ThoughtTokens::default() };
        let grammars = Arc::new(Grammars::new(Arc::clone(&model), &extra_ends));
        Self { model, chat, recursive, extra_ends, visible, grammars, thought }
    }

    /// The model's name for its chat format; `raw` where it has none that can be used.
    pub fn dialect(&self) -> &'static str {
        self.chat.as_ref().map_or("raw", |chat| chat.dialect().name())
    }

    /// Whether the model can be told of tools.
    pub fn knows_tools(&self) -> bool {
        self.chat.as_ref().is_ok_and(Chat::knows_tools)
    }

    /// Whether the model can think before it answers.
    pub fn thinks(&self) -> bool {
        self.chat.as_ref().is_ok_and(Chat::thinks)
    }

    /// Gives up compiled grammars and their tables; answers under way keep their own.
    pub fn forget_grammars(&self) {
        self.grammars.forget();
    }

    /// Looks at something while all is in memory that the first request for a form brings there: tables of the
    /// vocabulary, a compiled grammar, its first mask. `None` where the vocabulary is no good for that.
    pub fn with_first_grammar<T>(&self, look: impl FnOnce() -> T) -> Option<T> {
        let output = Output::JsonObject;
        let form = Form::output_only(Some(&output)).ok()?;
        let mut guidance = self.grammars.compile(form, Some(&output)).ok()??;
        let mask = guidance.whole.as_mut()?.mask().ok()?;
        let seen = look();
        drop(mask);
        self.forget_grammars();
        Some(seen)
    }

    /// Tokens that end an answer although the file does not say so.
    pub fn extra_ends(&self) -> &[Token] {
        &self.extra_ends
    }

    /// Control tokens that the parser reads as text.
    pub fn visible(&self) -> &[Token] {
        &self.visible
    }

    /// What the model's makers recommend.
    pub fn sampling(&self, thinking: Thinking) -> ChatSampling {
        self.chat.as_ref().map(|chat| chat.sampling(thinking)).unwrap_or_default()
    }

    /// Renders and tokenizes a conversation.
    ///
    /// # Errors
    /// [`PromptError`].
    pub fn conversation(
        &self,
        conversation: &Conversation,
        purpose: Purpose<'_>,
    ) -> Result<Prepared, PromptError> {
        let chat = self.chat.as_ref().map_err(|error| PromptError::NoTemplate(chain(error)))?;
        if conversation.thinking == Thinking::On && !chat.thinks() {
            return Err(PromptError::CannotThink);
        }
        Self::check_length(conversation_bytes(conversation))?;
        let rendered = chat.render(conversation)?;
        let tokens = self.tokenize(&rendered)?;
        let thought = self.thought(conversation, chat, rendered.thinking_open);
        let guide = match purpose {
            Purpose::Look => Guide::new(None, Thought::none(), &[]),
            Purpose::Answer(output) => self.guide(chat.form(conversation, output)?, output, thought)?,
        };
        let parser = chat.parser(conversation, &rendered);
        Ok(Prepared { text: rendered.text(), tokens, parser, guide })
    }

    fn guide(&self, form: Form, output: Option<&Output>, thought: Thought) -> Result<Guide, PromptError> {
        match self.grammars.compile(form, output) {
            Ok(guidance) => Ok(Guide::new(guidance, thought, &self.extra_ends)),
            Err(Ok(form)) => Err(form.into()),
            Err(Err(constraint)) => Err(constraint.into()),
        }
    }

    fn thought(&self, conversation: &Conversation, chat: &Chat, is_open: bool) -> Thought {
        let opening = match conversation.thinking {
            _ if is_open => Opening::Done,
            _ if !chat.thinks() => Opening::Never,
            Thinking::Off => Opening::Never,
            Thinking::On => Opening::Demanded,
            Thinking::ModelDefault => Opening::Allowed,
        };
        let ThoughtTokens { open, close, gap } = &self.thought;
        Thought {
            opening,
            budget: conversation.thinking_budget,
            open: open.clone(),
            close: close.clone(),
            gap: gap.clone(),
        }
    }

    /// Tokenizes a raw prompt, control tokens included.
    ///
    /// # Errors
    /// [`PromptError`].
    pub fn raw(&self, text: &str, purpose: Purpose<'_>) -> Result<Prepared, PromptError> {
        Self::check_length(text.len())?;
        self.check_runs(text)?;
        let mut tokens: Vec<Token> = self.model.bos_to_add().into_iter().collect();
        self.model.tokenize(text, true, &mut tokens)?;
        let parser = Parser::new(Blocks::None, Vec::new());
        let guide = match purpose {
            Purpose::Look => Guide::new(None, Thought::none(), &[]),
            Purpose::Answer(output) => self.guide(Form::output_only(output)?, output, Thought::none())?,
        };
        Ok(Prepared { text: text.to_owned(), tokens, parser, guide })
    }

    /// Template text with its control tokens, request text without: segment by segment, never BOS added,
    /// since templates write it themselves.
    fn tokenize(&self, rendered: &Rendered) -> Result<Vec<Token>, PromptError> {
        Self::check_length(rendered.segments.iter().map(|segment| segment.as_str().len()).sum())?;
        let mut tokens = Vec::new();
        for segment in &rendered.segments {
            self.check_runs(segment.as_str())?;
            let special = matches!(segment, Segment::Template(_));
            self.model.tokenize(segment.as_str(), special, &mut tokens)?;
        }
        Ok(tokens)
    }

    fn check_length(bytes: usize) -> Result<(), PromptError> {
        if bytes > MAX_PROMPT { Err(PromptError::TooLong { bytes, most: MAX_PROMPT }) } else { Ok(()) }
    }

    fn check_runs(&self, text: &str) -> Result<(), PromptError> {
        let characters = if self.recursive { longest_run(text) } else { 0 };
        if characters > MAX_RUN { Err(PromptError::LongRun { characters, most: MAX_RUN }) } else { Ok(()) }
    }
}

impl ThoughtTokens {
    /// As the model cuts them itself. A text that cannot be cut is left out: then nothing is forced.
    fn of(model: &Model) -> Self {
        let tokens = |text: &str| {
            let mut tokens = Vec::new();
            if model.tokenize(text, true, &mut tokens).is_err() {
                tokens.clear();
            }
            tokens
        };
        Self { open: tokens("<think>\n"), close: tokens("\n</think>\n\n"), gap: tokens("\n\n") }
    }
}

/// Length of the longest run of letters, of digits, of blanks or of other signs.
fn longest_run(text: &str) -> usize {
    let class = |c: char| (c.is_alphabetic(), c.is_numeric(), c.is_whitespace());
    let (mut longest, mut run, mut last) = (0, 0, None);
    for of in text.chars().map(class) {
        run = if last == Some(of) { run + 1 } else { 1 };
        last = Some(of);
        longest = longest.max(run);
    }
    longest
}

fn conversation_bytes(conversation: &Conversation) -> usize {
    conversation.messages.iter().flat_map(|message| &message.parts).map(String::len).sum()
}

/// An error with its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
