//! Keeps request text from becoming control tokens.
//!
//! The prompt is one text when it leaves the template, and then nobody can tell the `<|im_end|>` of
//! the template from one that a user typed. So request text is marked *before* it goes in: every
//! look-alike of a control token is cut by a *guard*, a private-use character that comes out again
//! when the prompt is split (see [`super::segment`]). A control token in the rendered prompt without
//! a guard is then the template's own.
//!
//! A control token could also be put together at a border, half from the request and half from the
//! template or from another text. So an end of a text that begins a control token, and a beginning
//! that ends one, are guarded too, behind and before white space that the template may strip.
//!
//! Only control tokens are guarded. Templates look for `<think>` and `<tool_response>` in contents,
//! and as user-defined tokens these match in plain text anyway.
//!
//! The two private-use characters may be in the request already. They, and control tokens of a
//! single character, which cannot be cut, are written as an escape character and a number.

use std::borrow::Cow;
use std::collections::HashMap;

/// Cuts a look-alike. Means nothing by itself.
const GUARD: char = '\u{10FA00}';

/// Begins an escaped character; the next character says which.
const ESCAPE: char = '\u{10FA01}';

/// The first of the characters that number the escaped ones.
const FIRST_NUMBER: u32 = 0x10_FA02;

/// The control tokens of a vocabulary and how to guard text against them.
#[derive(Debug)]
pub struct Shield {
    /// Control tokens longer than one character, by first character, longest first.
    by_first: HashMap<char, Vec<String>>,
    /// The same by last character.
    by_last: HashMap<char, Vec<String>>,
    /// Bytes of the longest.
    longest: usize,
    /// Characters that cannot stand for themselves.
    escaped: Vec<char>,
}

impl Shield {
    /// A shield for a vocabulary with these control tokens.
    pub fn new(control_tokens: Vec<String>) -> Self {
        let mut shield = Self {
            by_first: HashMap::new(),
            by_last: HashMap::new(),
            longest: 0,
            escaped: vec![GUARD, ESCAPE],
        };
        for token in control_tokens {
            shield.add(token);
        }
        for tokens in shield.by_first.values_mut() {
            tokens.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        }
        shield
    }

    fn add(&mut self, token: String) {
        let mut chars = token.chars();
        match (chars.next(), chars.next_back()) {
            (Some(first), Some(last)) => {
                self.longest = self.longest.max(token.len());
                self.by_last.entry(last).or_default().push(token.clone());
                self.by_first.entry(first).or_default().push(token);
            }
            (Some(single), None) if !self.escaped.contains(&single) => self.escaped.push(single),
            _ => {}
        }
    }

    /// Marks a text of the request.
    pub fn guard(&self, text: &str) -> String {
        let start = text.len() - text.trim_start().len();
        let end = text.trim_end().len();
        let mut out = String::with_capacity(text.len());
        for (at, c) in text.char_indices() {
            if at == start && self.ends_control_in_front(&text[at..]) {
                out.push(GUARD);
            }
            self.push_escaped(c, &mut out);
            let tail = text.get(at..end).unwrap_or_default();
            if self.control_at(&text[at..]).is_some() || self.begins_control(tail) {
                out.push(GUARD);
            }
        }
        out
    }

    /// The text that was guarded.
    pub fn restore<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if !Self::is_marked(text) {
            return Cow::Borrowed(text);
        }
        let mut out = String::with_capacity(text.len());
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match c {
                GUARD => {}
                ESCAPE => out.extend(chars.next().and_then(|number| self.unescape(number))),
                other => out.push(other),
            }
        }
        Cow::Owned(out)
    }

    /// Whether something of the text was marked.
    pub(crate) fn is_marked(text: &str) -> bool {
        text.contains([GUARD, ESCAPE])
    }

    /// Length of the control token that the text begins with. A guarded one is none.
    pub(crate) fn control_at(&self, text: &str) -> Option<usize> {
        let first = text.chars().next()?;
        if self.escaped[2..].contains(&first) {
            return Some(first.len_utf8());
        }
        let tokens = self.by_first.get(&first)?;
        tokens.iter().find(|t| text.starts_with(t.as_str())).map(String::len)
    }

    fn push_escaped(&self, c: char, out: &mut String) {
        let numbers = FIRST_NUMBER..;
        match numbers.zip(&self.escaped).find(|(_, e)| **e == c) {
            Some((number, _)) => out.extend([Some(ESCAPE), char::from_u32(number)].iter().flatten()),
            None => out.push(c),
        }
    }

    fn unescape(&self, number: char) -> Option<char> {
        let place = u32::from(number).checked_sub(FIRST_NUMBER)?;
        self.escaped.get(usize::try_from(place).ok()?).copied()
    }

    /// Whether the whole text is the beginning of a control token.
    fn begins_control(&self, text: &str) -> bool {
        let tokens = text.chars().next().and_then(|first| self.by_first.get(&first));
        let mut tokens = tokens.into_iter().flatten();
        tokens.any(|t| t.len() > text.len() && t.starts_with(text))
    }

    /// Whether the text starts with the end of a control token.
    fn ends_control_in_front(&self, text: &str) -> bool {
        text.char_indices()
            .take_while(|(at, _)| *at < self.longest)
            .filter_map(|(at, c)| Some((at + c.len_utf8(), self.by_last.get(&c)?)))
            .any(|(end, tokens)| {
                let mut tokens = tokens.iter();
                tokens.any(|t| t.len() > end && t.ends_with(&text[..end]))
            })
    }
}

#[cfg(test)]
mod tests;
