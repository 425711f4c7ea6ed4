//! Reads calls of Llama 3.1.
//!
//! ```text
//!         ┌── { or [ ──────────► Value ────┐
//!  Text ──┼── <function= ──────► Function ─┼── a call, or text ──► Text
//!         ├── <|python_tag|> ──► Python ───┘
//!         └── ``` at the start of the message ──► Fence ── at the end ──► calls, or text
//! ```
//!
//! A call is an object anywhere in the text but in code (P10), an array of objects at the start, the
//! other forms behind the control token, and a whole message that is one fence of these. JSON that
//! is no call is text as a whole: what is nested in it is no call either. As soon as a key shows
//! that, the rest of it is said as it comes.
//!
//! When a candidate fails, what it took is text, and reading goes on with the character that it
//! failed at. Only the few characters of a marker or a name are read again, and a fence, of which
//! there is one. So the time is linear.

use super::super::delta::{Delta, End};
use super::super::json::scan::Step;
use super::MAX_HELD;
use super::code::Code;
use super::fence::Fence;
use super::function::{FUNCTION, Function, Verdict as FunctionVerdict};
use super::markers::Markers;
use super::outline::Outline;
use super::prose::Prose;
use super::python::{Builtin, Verdict as BuiltinVerdict, code_call, code_tool};
use super::shape::{Call, Missing, read_call, read_calls};

/// Begins a call; never text itself (P1).
const PYTHON_TAG: &str = "<|python_tag|>";

/// The content of one answer.
#[derive(Debug, Clone)]
pub(super) struct JsonCalls {
    /// Declared names. Without any, there are no calls.
    tools: Vec<String>,
    state: State,
    markers: &'static [&'static str],
    prose: Prose,
    code: Code,
    /// Characters to read before any new one, the next one last.
    pending: Vec<char>,
    /// Whether a fence may still be the whole message.
    may_fence: bool,
}

#[derive(Debug, Clone)]
enum State {
    Text(Markers),
    Value(Box<Value>),
    Function(Function),
    Python(Python),
    Fence(Fence),
}

/// An object or array.
#[derive(Debug, Clone)]
struct Value {
    /// Everything of it that was not said.
    text: String,
    /// White space at the start of the text.
    lead: usize,
    outline: Outline,
    array: bool,
    /// The tool that takes code, if this stands where code may be.
    code_tool: Option<&'static str>,
    /// It may still be a call.
    alive: bool,
    /// The Markdown state if this turns out to be text.
    code: Code,
    /// Takes the control token out of what is text.
    tags: Markers,
}

/// What stands behind the control token.
#[derive(Debug, Clone)]
struct Python {
    part: Part,
    tag: Tag,
}

/// What the control token means.
#[derive(Debug, Clone, Copy)]
struct Tag {
    /// The tool that takes code, if code may follow.
    code_tool: Option<&'static str>,
}

#[derive(Debug, Clone)]
enum Part {
    /// White space so far.
    Head(String),
    Builtin(String, Builtin),
    /// Code lasts until the end or the next control token.
    Code(String, Markers),
}

impl JsonCalls {
    pub(super) fn new(tools: Vec<String>) -> Self {
        let markers: &[&str] = if tools.is_empty() { &[PYTHON_TAG] } else { &[PYTHON_TAG, FUNCTION] };
        let may_fence = !tools.is_empty();
        Self {
            state: State::Text(Markers::new(markers)),
            markers,
            prose: Prose::new(!tools.is_empty()),
            tools,
            code: Code::new(),
            pending: Vec::new(),
            may_fence,
        }
    }

    /// For the inside of a fence, where no control token belongs.
    pub(super) fn fenced(tools: Vec<String>) -> Self {
        let mut calls = Self::new(tools);
        calls.markers = &[FUNCTION];
        calls.may_fence = false;
        calls.read_on();
        calls
    }

    /// Calls so far.
    pub(super) fn made(&self) -> u32 {
        self.prose.made()
    }

    /// Whether anything but calls and separators came.
    pub(super) fn has_text(&self) -> bool {
        self.prose.said()
    }

    /// Whether nothing is open.
    pub(super) fn is_idle(&self) -> bool {
        matches!(&self.state, State::Text(markers) if !markers.is_partial())
    }

    /// The declared tool that an object names at its start, and the text behind the name.
    pub(super) fn open_call(&self) -> Option<(&str, &str)> {
        let State::Value(value) = &self.state else { return None };
        let (name, at) = value.outline.named().filter(|_| value.alive)?;
        let is_declared = self.tools.iter().any(|tool| tool == name);
        is_declared.then(|| (name, &value.text[value.lead + at..]))
    }

    /// Whether the value that is read is an object, not a list.
    pub(super) fn is_alone(&self) -> bool {
        matches!(&self.state, State::Value(value) if value.text[value.lead..].starts_with('{'))
    }

    pub(super) fn push(&mut self, c: char, out: &mut Vec<Delta>) {
        self.pending.push(c);
        self.read_pending(out);
    }

    /// Decides what is open.
    pub(super) fn finish(&mut self, end: End, out: &mut Vec<Delta>) {
        if let State::Fence(fence) = &mut self.state {
            match fence.finish(end) {
                Some(calls) => {
                    self.prose.adopt(fence.made(), calls, out);
                    self.read_on();
                }
                None => self.reject_fence(out),
            }
        }
        let text = State::Text(Markers::new(self.markers));
        match std::mem::replace(&mut self.state, text) {
            State::Text(mut markers) => self.say_all(&markers.take(), out),
            State::Value(value) => self.finish_value(value, end, out),
            State::Function(function) => match function.finish() {
                (_, Some(call)) => self.prose.call(call, out),
                (text, None) => self.release(&format!("{FUNCTION}{text}"), out),
            },
            State::Python(python) => self.finish_python(python, end, out),
            // It was decided above, and there is no second one.
            State::Fence(fence) => self.say_all(&fence.into_text(), out),
        }
        self.prose.finish(out);
    }

    fn read_pending(&mut self, out: &mut Vec<Delta>) {
        while let Some(c) = self.pending.pop() {
            self.step(c, out);
        }
    }

    fn step(&mut self, c: char, out: &mut Vec<Delta>) {
        match &mut self.state {
            State::Text(markers) => {
                let found = markers.push(c);
                for c in found.text.chars() {
                    self.text(c, out);
                }
                match found.marker {
                    Some(PYTHON_TAG) => self.begin_python(),
                    Some(_) => self.begin_function(out),
                    None => {}
                }
            }
            State::Value(_) => self.value(c, out),
            State::Function(function) => match function.push(c, &self.tools) {
                FunctionVerdict::Undecided => {}
                FunctionVerdict::Whole(call) => self.call(call, out),
                FunctionVerdict::NoCall(again) => self.reject_function(again, out),
            },
            State::Python(_) => self.python(c, out),
            State::Fence(fence) => {
                if !fence.push(c) {
                    self.reject_fence(out);
                }
            }
        }
    }

    /// Whether nothing but white space and the control token came.
    fn is_start(&self) -> bool {
        !self.prose.said() && self.prose.made() == 0
    }

    fn read_on(&mut self) {
        self.state = State::Text(Markers::new(self.markers));
    }

    fn call(&mut self, call: Call, out: &mut Vec<Delta>) {
        self.code.end_value();
        self.prose.call(call, out);
        self.read_on();
    }

    /// Reads a character that is part of no marker.
    fn text(&mut self, c: char, out: &mut Vec<Delta>) {
        if matches!(c, '`' | '~') && self.may_fence && self.is_start() {
            self.may_fence = false;
            self.state = State::Fence(Fence::new(c, &self.tools));
            return;
        }
        let before = self.code.clone();
        self.code.push(c);
        let may_call = !self.tools.is_empty() && !self.code.is_code();
        match c {
            '{' if may_call => self.begin_value("{", None, before, out),
            '[' if may_call => self.begin_value("[", None, before, out),
            ';' if may_call && self.prose.after_call() => {}
            _ => self.prose.say(c, out),
        }
    }

    /// `text` ends in the opening bracket; `code` is the Markdown state in front of it.
    fn begin_value(&mut self, text: &str, tag: Option<Tag>, code: Code, out: &mut Vec<Delta>) {
        let array = text.ends_with('[');
        let mut value = Value {
            text: text.to_owned(),
            lead: text.len() - 1,
            outline: if array { Outline::of_array() } else { Outline::of_object() },
            array,
            code_tool: tag.and_then(|tag| tag.code_tool),
            alive: !array || tag.is_some() || self.is_start(),
            code,
            tags: Markers::new(&[PYTHON_TAG]),
        };
        for c in text.chars() {
            value.code.push(c);
        }
        let alive = value.alive;
        self.state = State::Value(Box::new(value));
        if !alive {
            self.say_value(out);
        }
    }

    fn value(&mut self, c: char, out: &mut Vec<Delta>) {
        let State::Value(value) = &mut self.state else { return };
        let step = value.outline.push(c);
        if step == Step::Invalid {
            self.pending.push(c);
            self.reject_value(out);
            return;
        }
        value.code.push(c);
        value.text.push(c);
        if step == Step::Done {
            self.end_value(out);
        } else if !value.alive || value.outline.is_refuted() || value.text.len() > MAX_HELD {
            self.refute_value(out);
        }
    }

    /// It is JSON, but no call: it is said as it comes.
    fn refute_value(&mut self, out: &mut Vec<Delta>) {
        if let State::Value(value) = &mut self.state {
            if value.array && value.is_code() {
                self.value_is_code();
                return;
            }
            value.alive = false;
            self.say_value(out);
        }
    }

    fn end_value(&mut self, out: &mut Vec<Delta>) {
        let State::Value(value) = &self.state else { return };
        let text = value.text[..].trim();
        let calls = match (value.alive, value.array) {
            (false, _) => None,
            (true, true) => read_calls(text, &self.tools),
            (true, false) => read_call(text, &self.tools, Missing::NoCall).map(|call| vec![call]),
        };
        match calls {
            Some(calls) => {
                for call in calls {
                    self.call(call, out);
                }
            }
            None if value.array && value.is_code() => self.value_is_code(),
            None => {
                self.say_value(out);
                self.end_of_text(out);
                self.code.end_value();
                self.read_on();
            }
        }
    }

    /// It is no JSON: text, or code if it cannot be a broken call.
    fn reject_value(&mut self, out: &mut Vec<Delta>) {
        let State::Value(value) = &self.state else { return };
        if value.is_code() {
            self.value_is_code();
            return;
        }
        let code = value.code.clone();
        self.say_value(out);
        self.end_of_text(out);
        self.code = code;
        self.read_on();
    }

    fn value_is_code(&mut self) {
        if let State::Value(value) = &mut self.state {
            let part = Part::Code(std::mem::take(&mut value.text), Markers::new(&[PYTHON_TAG]));
            let tag = Tag { code_tool: value.code_tool };
            self.state = State::Python(Python { part, tag });
        }
    }

    /// Says what the value holds.
    fn say_value(&mut self, out: &mut Vec<Delta>) {
        if let State::Value(value) = &mut self.state {
            for c in std::mem::take(&mut value.text).chars() {
                let found = value.tags.push(c);
                self.prose.say_all(&found.text, out);
            }
            value.lead = 0;
        }
    }

    fn end_of_text(&mut self, out: &mut Vec<Delta>) {
        if let State::Value(value) = &mut self.state {
            self.prose.say_all(&value.tags.take(), out);
        }
    }

    fn finish_value(&mut self, value: Box<Value>, end: End, out: &mut Vec<Delta>) {
        if let Some(tool) = value.code_tool.filter(|_| end == End::Natural && value.is_code()) {
            self.prose.call(code_call(tool, &value.text), out);
            return;
        }
        self.state = State::Value(value);
        self.say_value(out);
        self.end_of_text(out);
        self.read_on();
    }

    /// In code the marker is text like any other.
    fn begin_function(&mut self, out: &mut Vec<Delta>) {
        let mut code = self.code.clone();
        FUNCTION.chars().for_each(|c| code.push(c));
        if code.is_code() {
            self.say_all(FUNCTION, out);
            self.read_on();
        } else {
            self.state = State::Function(Function::new());
        }
    }

    fn reject_function(&mut self, again: usize, out: &mut Vec<Delta>) {
        let text = State::Text(Markers::new(self.markers));
        if let State::Function(function) = std::mem::replace(&mut self.state, text) {
            let (text, _) = function.finish();
            let (taken, again) = text.split_at(text.len() - again);
            self.release(&format!("{FUNCTION}{taken}"), out);
            self.pending.extend(again.chars().rev());
        }
    }

    /// The fence and what it holds is text; it is read again as such.
    fn reject_fence(&mut self, out: &mut Vec<Delta>) {
        let text = State::Text(Markers::new(self.markers));
        if let State::Fence(fence) = std::mem::replace(&mut self.state, text) {
            self.pending.extend(fence.into_text().chars().rev());
            self.read_pending(out);
        }
    }

    /// The control token begins something new, whatever it stands in.
    fn begin_python(&mut self) {
        self.code = Code::new();
        self.read_on();
        if !self.tools.is_empty() {
            let part = Part::Head(String::new());
            let tag = Tag { code_tool: code_tool(&self.tools) };
            self.state = State::Python(Python { part, tag });
        }
    }

    fn python(&mut self, c: char, out: &mut Vec<Delta>) {
        let State::Python(python) = &mut self.state else { return };
        match &mut python.part {
            Part::Head(spaces) if c.is_whitespace() && spaces.len() < MAX_HELD => spaces.push(c),
            Part::Head(_) if c == ';' && self.prose.after_call() => {}
            Part::Head(spaces) if matches!(c, '{' | '[') => {
                let (text, tag) = (format!("{spaces}{c}"), python.tag);
                self.begin_value(&text, Some(tag), self.code.clone(), out);
            }
            Part::Head(spaces) => {
                let spaces = std::mem::take(spaces);
                python.part = Part::Builtin(spaces, Builtin::default());
                self.builtin(c, out);
            }
            Part::Builtin(..) => self.builtin(c, out),
            Part::Code(code, tags) => {
                let found = tags.push(c);
                code.push_str(&found.text);
                if found.marker.is_some() || code.len() > MAX_HELD {
                    self.end_code(found.marker.is_some(), out);
                }
            }
        }
    }

    fn builtin(&mut self, c: char, out: &mut Vec<Delta>) {
        let State::Python(Python { part: Part::Builtin(_, builtin), .. }) = &mut self.state else { return };
        match builtin.push(c, &self.tools) {
            BuiltinVerdict::Undecided => {}
            BuiltinVerdict::NoKeywords => self.reject_builtin(out),
            BuiltinVerdict::NoCall => {
                self.pending.push(c);
                self.reject_builtin(out);
            }
            BuiltinVerdict::Whole(call) => {
                self.call(call, out);
                // Another may follow, but text behind a call is no code.
                let part = Part::Head(String::new());
                self.state = State::Python(Python { part, tag: Tag { code_tool: None } });
            }
        }
    }

    /// It is code if a tool takes that, else text.
    fn reject_builtin(&mut self, out: &mut Vec<Delta>) {
        let text = State::Text(Markers::new(self.markers));
        let State::Python(python) = std::mem::replace(&mut self.state, text) else { return };
        let Part::Builtin(spaces, builtin) = python.part else { return };
        let text = spaces + &builtin.into_text();
        if python.tag.code_tool.is_some() {
            let part = Part::Code(text, Markers::new(&[PYTHON_TAG]));
            self.state = State::Python(Python { part, ..python });
        } else {
            self.release(&text, out);
        }
    }

    /// The next control token ends the code; too much of it is no call.
    fn end_code(&mut self, is_whole: bool, out: &mut Vec<Delta>) {
        let text = State::Text(Markers::new(self.markers));
        if let State::Python(python) = std::mem::replace(&mut self.state, text) {
            let end = if is_whole { End::Natural } else { End::Limit };
            self.finish_python(python, end, out);
            if is_whole {
                self.begin_python();
            }
        }
    }

    /// Code has no end of its own: at a limit nobody knows whether it is whole.
    fn finish_python(&mut self, python: Python, end: End, out: &mut Vec<Delta>) {
        let text = match python.part {
            Part::Head(spaces) => {
                self.release(&spaces, out);
                return;
            }
            Part::Builtin(spaces, builtin) => spaces + &builtin.into_text(),
            Part::Code(code, mut tags) => code + &tags.take(),
        };
        match python.tag.code_tool {
            Some(tool) if end == End::Natural => self.prose.call(code_call(tool, &text), out),
            _ => self.release(&text, out),
        }
    }

    /// Says text that a candidate took, the control token left out.
    fn release(&mut self, text: &str, out: &mut Vec<Delta>) {
        self.say_all(&text.replace(PYTHON_TAG, ""), out);
    }

    fn say_all(&mut self, text: &str, out: &mut Vec<Delta>) {
        for c in text.chars() {
            self.code.push(c);
            self.prose.say(c, out);
        }
    }
}

impl Value {
    /// Whether this is code rather than a broken call: a list, or braces that hold no key.
    fn is_code(&self) -> bool {
        let inside = self.text.trim_start().get(1..).unwrap_or_default();
        self.alive && self.code_tool.is_some() && (self.array || inside.trim().is_empty())
    }
}
