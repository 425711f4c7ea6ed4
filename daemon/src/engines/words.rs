//! What an engine says on standard error: lines of its log, and whatever llama.cpp, a panic or an abort writes.
//!
//! Lines of the log are JSON, each with its level, and go on into the daemon's log as what they are, under the
//! engine's span and so with the model's name. Anything else is evidence: a warning where it says what went wrong.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

/// How much of an engine's standard error is kept as evidence of a crash.
const TAIL_LINES: usize = 30;

/// Longer lines are cut: an engine's log is evidence, not a data path.
const LINE_BYTES: usize = 2048;

/// Target of llama.cpp's own lines.
const LLAMA: &str = "llama.cpp";

/// One line of an engine's log.
#[derive(Debug, Deserialize)]
struct Said {
    level: Level,
    #[serde(default)]
    target: String,
    #[serde(flatten)]
    fields: Map<String, Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// Copies standard error into the log, line by line, until it is closed.
pub(super) async fn pump(stderr: &mut pipe::Receiver, tail: &Tail) {
    let mut line = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let count = match stderr.read(&mut chunk).await {
            Ok(0) | Err(_) => break,
            Ok(count) => count,
        };
        for byte in &chunk[..count] {
            match byte {
                b'\n' => tail.take_line(&mut line),
                _ if line.len() < LINE_BYTES => line.push(*byte),
                _ => {}
            }
        }
    }
    tail.take_line(&mut line);
}

/// The last lines of an engine's standard error.
#[derive(Debug, Default)]
pub(super) struct Tail {
    /// Short sections only.
    lines: Mutex<VecDeque<Kept>>,
}

#[derive(Debug)]
struct Kept {
    text: String,
    is_reason: bool,
}

impl Tail {
    fn take_line(&self, line: &mut Vec<u8>) {
        let text = String::from_utf8_lossy(line).trim_end().to_owned();
        line.clear();
        if text.is_empty() {
            return;
        }
        let kept = match serde_json::from_str::<Said>(&text) {
            Ok(said) => said.hand_on(),
            Err(_) => evidence(text),
        };
        let Some(kept) = kept else { return };
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == TAIL_LINES {
            lines.pop_front();
        }
        lines.push_back(kept);
    }

    /// The last line that says what went wrong.
    pub(super) fn last_words(&self) -> Option<String> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().rev().find(|line| line.is_reason).map(|line| line.text.clone())
    }
}

impl fmt::Display for Tail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().try_for_each(|line| write!(f, "\n  {}", line.text))
    }
}

/// Says a line again with the level and fields that it came with; each level is its own place in the program.
macro_rules! say_again {
    ($level:ident, $target:expr, $line:expr, $request:expr, $trace:expr, $message:expr) => {
        tracing::event!(
            target: $target,
            tracing::Level::$level,
            request.id = $request,
            trace.id = $trace,
            engine.target = %$line.target,
            "{}",
            $message
        )
    };
}

impl Said {
    /// Hands the line on into the daemon's log. What is above INFO is kept as evidence too.
    fn hand_on(mut self) -> Option<Kept> {
        let request = self.text("request.id");
        let trace = self.text("trace.id");
        let (request, trace) = (request.as_deref(), trace.as_deref());
        let message = self.sentence();
        match (self.target == LLAMA, self.level) {
            (true, Level::Error) => say_again!(ERROR, "llama.cpp", self, request, trace, message),
            (true, Level::Warn) => say_again!(WARN, "llama.cpp", self, request, trace, message),
            (true, Level::Info) => say_again!(INFO, "llama.cpp", self, request, trace, message),
            (true, Level::Debug) => say_again!(DEBUG, "llama.cpp", self, request, trace, message),
            (true, Level::Trace) => say_again!(TRACE, "llama.cpp", self, request, trace, message),
            (false, Level::Error) => say_again!(ERROR, "hearth_engine", self, request, trace, message),
            (false, Level::Warn) => say_again!(WARN, "hearth_engine", self, request, trace, message),
            (false, Level::Info) => say_again!(INFO, "hearth_engine", self, request, trace, message),
            (false, Level::Debug) => say_again!(DEBUG, "hearth_engine", self, request, trace, message),
            (false, Level::Trace) => say_again!(TRACE, "hearth_engine", self, request, trace, message),
        }
        let is_reason = self.level == Level::Error;
        let is_evidence = is_reason || self.level == Level::Warn;
        is_evidence.then_some(Kept { text: message, is_reason })
    }

    /// Takes a field out, its own or one of the spans around it, the innermost first.
    fn text(&mut self, name: &str) -> Option<String> {
        let own = self.fields.remove(name);
        let spans = self.fields.get("spans").and_then(Value::as_array);
        let outer = spans.and_then(|spans| spans.iter().rev().find_map(|span| span.get(name)));
        own.or_else(|| outer.cloned()).as_ref().and_then(Value::as_str).map(str::to_owned)
    }

    /// The message, and the fields that say more about it in brackets.
    fn sentence(&self) -> String {
        let message = self.fields.get("message").and_then(Value::as_str).unwrap_or_default();
        let others = self.fields.iter().filter(|(name, value)| {
            !["message", "spans", "span"].contains(&name.as_str()) && !value.is_null()
        });
        let others: Vec<_> = others.map(|(name, value)| format!("{name}={}", plain(value))).collect();
        if others.is_empty() { message.to_owned() } else { format!("{message} ({})", others.join(", ")) }
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A line that is none of the log's.
fn evidence(text: String) -> Option<Kept> {
    let is_reason = is_reason(&text);
    if is_reason {
        tracing::warn!(engine.line = %text, "Engine complained");
    } else {
        tracing::debug!(engine.line = %text, "Engine said");
    }
    Some(Kept { text, is_reason })
}

/// Whether a line that no log wrote says what went wrong.
fn is_reason(line: &str) -> bool {
    const SIGNS: [&str; 7] =
        ["ERROR", "GGML_ASSERT", "GGML_ABORT", "panicked at", "terminate called", "what():", "error:"];
    SIGNS.iter().any(|sign| line.contains(sign))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(tail: &Tail, text: &str) {
        tail.take_line(&mut text.as_bytes().to_vec());
    }

    #[test]
    fn the_last_reason_is_kept_and_the_rest_forgotten() {
        let tail = Tail::default();
        say(&tail, "GGML_ASSERT first");
        (0..100).for_each(|i| say(&tail, &format!("noise {i}")));
        assert_eq!(tail.last_words(), None);
        say(&tail, "panicked at second");
        say(&tail, "noise");
        assert_eq!(tail.last_words().as_deref(), Some("panicked at second"));
    }

    #[test]
    fn a_line_of_the_log_is_a_reason_by_its_level() {
        let tail = Tail::default();
        let line = |level: &str| {
            format!(r#"{{"level":"{level}","message":"Engine ends","error":"no","target":"hearth_engine"}}"#)
        };
        say(&tail, &line("INFO"));
        assert_eq!(tail.to_string(), "");
        say(&tail, &line("WARN"));
        assert_eq!((tail.last_words(), tail.to_string().as_str()), (None, "\n  Engine ends (error=no)"));
        say(&tail, &line("ERROR"));
        assert_eq!(tail.last_words().as_deref(), Some("Engine ends (error=no)"));
    }

    #[test]
    fn the_request_is_found_in_the_spans() {
        let line = r#"{"level":"WARN","message":"Slow","spans":[{"request.id":"outer"},{"request.id":"7","trace.id":"ab"}]}"#;
        let mut said: Said = serde_json::from_str(line).expect("a line");
        assert_eq!(
            (said.text("request.id").as_deref(), said.text("trace.id").as_deref()),
            (Some("7"), Some("ab"))
        );
        assert_eq!(said.sentence(), "Slow");
    }
}
