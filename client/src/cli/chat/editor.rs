//! The line that a person edits: keys, history, completion and input of several lines.
//!
//! Enter sends. A `\` before it, Alt-Enter, and a block between `"""` make a new line instead; pasted text
//! keeps its own lines and its own backslashes. The editor waits on a thread of its own, so that the connection stays alive meanwhile.

use std::path::PathBuf;

use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{
    Cmd, ColorMode, CompletionType, Config, Context, EventHandler, Helper, KeyCode, KeyEvent, Modifiers,
};

use super::{command, history};
use crate::cli::exit::Failure;
use crate::cli::style::{self, painted};

/// The prompt of a line that goes on from the one before.
const CONTINUED: &str = "… ";

/// What begins and ends a block of several lines.
const FENCE: &str = "\"\"\"";

/// What a person gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Input {
    Text(String),
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-D on an empty line.
    End,
}

/// What a line is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Part of the conversation: with commands, and kept in the history.
    Talk,
    /// An answer to a question of this program.
    Reply,
}

/// A line editor on this terminal.
pub(super) struct Editor {
    /// Away while it waits for a line.
    inner: Option<Inner>,
    history: Option<PathBuf>,
    colour: bool,
}

type Inner = rustyline::Editor<Keys, FileHistory>;

impl Editor {
    /// Opens the terminal. `history` is the file to remember lines in; None: they are forgotten.
    pub(super) fn open(history: Option<PathBuf>, colour: bool) -> Result<Self, Failure> {
        let config = Config::builder()
            .max_history_size(history::MOST_ENTRIES)
            .map_err(Failure::Terminal)?
            .history_ignore_space(true)
            .completion_type(CompletionType::List)
            .color_mode(if colour { ColorMode::Enabled } else { ColorMode::Disabled })
            .build();
        let mut inner = Inner::with_config(config).map_err(Failure::Terminal)?;
        inner.set_helper(Some(Keys::default()));
        bind(&mut inner);
        let history = history.filter(|file| history::make_room(file).is_ok());
        if let Some(file) = &history {
            // One that is missing or damaged begins anew.
            drop(inner.load_history(file));
        }
        Ok(Self { inner: Some(inner), history, colour })
    }

    /// What is written next. Must not be dropped before it is done: the terminal would go on being read.
    pub(super) async fn read(&mut self, prompt: &str, kind: Kind) -> Result<Input, Failure> {
        let mut text = String::new();
        let mut prompt = prompt;
        loop {
            match self.line(prompt, kind).await {
                Ok(line) => text.push_str(&line),
                Err(ReadlineError::Interrupted) => return Ok(Input::Interrupt),
                Err(ReadlineError::Eof) if text.is_empty() => return Ok(Input::End),
                Err(ReadlineError::Eof) => {}
                Err(error) => return Err(Failure::Terminal(error)),
            }
            if kind == Kind::Reply || !ends_in_backslash(&text) {
                return Ok(Input::Text(self.whole(text, kind)));
            }
            text.pop();
            text.push('\n');
            prompt = CONTINUED;
        }
    }

    async fn line(&mut self, prompt: &str, kind: Kind) -> rustyline::Result<String> {
        let mut inner = self.inner.take().expect("a read is awaited to its end");
        if let Some(keys) = inner.helper_mut() {
            keys.kind = Some(kind);
        }
        let prompt = (prompt.to_owned(), painted(prompt, style::PROMPT, self.colour));
        let waiting = tokio::task::spawn_blocking(move || {
            let read = inner.readline(&prompt);
            (inner, read)
        });
        let (inner, read) = waiting.await.map_err(std::io::Error::from)?;
        self.inner = Some(inner);
        read
    }

    fn whole(&mut self, text: String, kind: Kind) -> String {
        match kind {
            Kind::Talk => {
                self.remember(&text);
                unfenced(&text).to_owned()
            }
            Kind::Reply => text,
        }
    }

    /// Written at once: a window that is closed loses nothing.
    fn remember(&mut self, text: &str) {
        if let Some(inner) = &mut self.inner {
            let is_new = inner.add_history_entry(text).unwrap_or(false);
            if let Some(file) = self.history.as_ref().filter(|_| is_new) {
                // A full disk must not end the conversation.
                drop(inner.append_history(file));
            }
        }
    }
}

fn bind(inner: &mut Inner) {
    let new_line = || EventHandler::Simple(Cmd::Newline);
    inner.bind_sequence(KeyEvent(KeyCode::Enter, Modifiers::ALT), new_line());
    inner.bind_sequence(KeyEvent(KeyCode::Char('M'), Modifiers::CTRL | Modifiers::ALT), new_line());
}

/// Whether the text ends in a `\` that does not itself stand behind one.
fn ends_in_backslash(text: &str) -> bool {
    text.chars().rev().take_while(|c| *c == '\\').count() % 2 == 1
}

/// Whether a block was begun and not ended.
fn is_open(text: &str) -> bool {
    text.trim_start().strip_prefix(FENCE).is_some_and(|rest| !rest.trim_end().ends_with(FENCE))
}

/// The text within the marks of a block, or as it is.
fn unfenced(text: &str) -> &str {
    let inner = text.trim().strip_prefix(FENCE).and_then(|rest| rest.strip_suffix(FENCE));
    inner.map_or(text, |inner| inner.trim_matches('\n'))
}

/// Completion, and whether Enter sends.
#[derive(Default)]
struct Keys {
    kind: Option<Kind>,
}

impl Completer for Keys {
    type Candidate = Pair;

    fn complete(&self, line: &str, pos: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let before = &line[..pos];
        let is_command =
            self.kind == Some(Kind::Talk) && before.starts_with('/') && !before.starts_with("//");
        if !is_command {
            return Ok((pos, Vec::new()));
        }
        match command::completions(before) {
            Some((at, words)) => {
                let pair = |word: String| Pair { display: word.trim_end().to_owned(), replacement: word };
                Ok((at, words.into_iter().map(pair).collect()))
            }
            None => FilenameCompleter::new().complete_path(line, pos),
        }
    }
}

impl Validator for Keys {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(if is_open(context.input()) {
            ValidationResult::Incomplete
        } else {
            ValidationResult::Valid(None)
        })
    }
}

impl Hinter for Keys {
    type Hint = String;
}

impl Highlighter for Keys {}

impl Helper for Keys {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_open_until_its_last_mark() {
        assert!(is_open("\"\"\""));
        assert!(is_open("  \"\"\"a\nb"));
        assert!(!is_open("\"\"\"a\nb\"\"\""));
        assert!(!is_open("a \"\"\""));
        assert_eq!(unfenced("\"\"\"\na\n b\n\"\"\" "), "a\n b");
        assert_eq!(unfenced(" a "), " a ");
        assert_eq!(unfenced("\"\"\"\"\"\""), "");
    }

    #[test]
    fn a_backslash_counts_unless_another_one_means_it() {
        assert!(ends_in_backslash("a\\"));
        assert!(!ends_in_backslash("a\\\\"));
        assert!(!ends_in_backslash("a"));
    }
}
