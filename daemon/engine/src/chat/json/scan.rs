//! A strict JSON reader that takes one character at a time and says at once when the text cannot be
//! JSON any more. It finds where a value ends without keeping the value.

use super::MAX_DEPTH;

/// What is known after one more character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// So far so good.
    More,
    /// The character ended the value.
    Done,
    /// This is no JSON, or nested more than [`MAX_DEPTH`] deep.
    Invalid,
}

/// Which string of an object is being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Within {
    /// The name of a member.
    Key,
    /// A value, or an item of an array.
    Value,
}

/// Reads one JSON object, or an array.
#[derive(Debug, Clone)]
pub(crate) struct ObjectScan {
    expect: Expect,
    /// The open objects and arrays, outermost first.
    open: Vec<Bracket>,
    /// The literal or number being read.
    scalar: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bracket {
    Object,
    Array,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// The object itself.
    Start,
    Value,
    ValueOrEnd,
    Key,
    KeyOrEnd,
    Colon,
    CommaOrEnd,
    Scalar,
    /// More of a string, then what comes behind it.
    Text(Next),
    Escaped(Next),
    /// So many hex digits of a `\u` escape, then more of the string.
    Hex(u8, Next),
}

/// What comes behind a string: a key is followed by a colon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Colon,
    CommaOrEnd,
}

/// Longest literal or number that is taken as one.
const MAX_SCALAR: usize = 4096;

impl ObjectScan {
    pub(crate) fn new() -> Self {
        Self { expect: Expect::Start, open: Vec::new(), scalar: String::new() }
    }

    /// A reader of what follows the opening bracket of an array.
    pub(crate) fn in_array() -> Self {
        Self { expect: Expect::ValueOrEnd, open: vec![Bracket::Array], scalar: String::new() }
    }

    /// How many objects and arrays are open.
    pub(crate) fn depth(&self) -> usize {
        self.open.len()
    }

    /// The string that the last character belongs to, its closing quote left out.
    pub(crate) fn within(&self) -> Option<Within> {
        match self.expect {
            Expect::Text(next) | Expect::Escaped(next) | Expect::Hex(_, next) => Some(match next {
                Next::Colon => Within::Key,
                Next::CommaOrEnd => Within::Value,
            }),
            _ => None,
        }
    }

    pub(crate) fn push(&mut self, c: char) -> Step {
        match self.expect {
            Expect::Text(next) => self.in_text(c, next),
            Expect::Escaped(next) => self.escaped(c, next),
            Expect::Hex(left, next) => self.hex(c, left, next),
            Expect::Scalar => self.in_scalar(c),
            _ if is_space(c) => Step::More,
            _ => self.structural(c),
        }
    }

    fn structural(&mut self, c: char) -> Step {
        match (self.expect, c) {
            (Expect::Start | Expect::Value | Expect::ValueOrEnd, '{') => {
                self.enter(Bracket::Object, Expect::KeyOrEnd)
            }
            (Expect::Value | Expect::ValueOrEnd, '[') => self.enter(Bracket::Array, Expect::ValueOrEnd),
            (Expect::Value | Expect::ValueOrEnd, '"') => self.go(Expect::Text(Next::CommaOrEnd)),
            (Expect::Key | Expect::KeyOrEnd, '"') => self.go(Expect::Text(Next::Colon)),
            (Expect::Colon, ':') => self.go(Expect::Value),
            (Expect::CommaOrEnd, ',') => self.after_comma(),
            (Expect::CommaOrEnd | Expect::KeyOrEnd, '}') => self.leave(Bracket::Object),
            (Expect::CommaOrEnd | Expect::ValueOrEnd, ']') => self.leave(Bracket::Array),
            (Expect::Value | Expect::ValueOrEnd, _) if is_scalar(c) => {
                self.scalar.clear();
                self.expect = Expect::Scalar;
                self.in_scalar(c)
            }
            _ => Step::Invalid,
        }
    }

    fn go(&mut self, expect: Expect) -> Step {
        self.expect = expect;
        Step::More
    }

    fn enter(&mut self, bracket: Bracket, expect: Expect) -> Step {
        if self.open.len() == MAX_DEPTH {
            return Step::Invalid;
        }
        self.open.push(bracket);
        self.go(expect)
    }

    fn leave(&mut self, bracket: Bracket) -> Step {
        if self.open.pop() != Some(bracket) {
            return Step::Invalid;
        }
        self.expect = Expect::CommaOrEnd;
        if self.open.is_empty() { Step::Done } else { Step::More }
    }

    fn after_comma(&mut self) -> Step {
        match self.open.last() {
            Some(Bracket::Object) => self.go(Expect::Key),
            _ => self.go(Expect::Value),
        }
    }

    fn in_text(&mut self, c: char, next: Next) -> Step {
        match c {
            '"' => self.go(next.into()),
            '\\' => self.go(Expect::Escaped(next)),
            '\0'..'\u{20}' => Step::Invalid,
            _ => Step::More,
        }
    }

    fn escaped(&mut self, c: char, next: Next) -> Step {
        match c {
            'u' => self.go(Expect::Hex(4, next)),
            '"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't' => self.go(Expect::Text(next)),
            _ => Step::Invalid,
        }
    }

    fn hex(&mut self, c: char, left: u8, next: Next) -> Step {
        match (c.is_ascii_hexdigit(), left) {
            (false, _) => Step::Invalid,
            (true, 1) => self.go(Expect::Text(next)),
            (true, _) => self.go(Expect::Hex(left - 1, next)),
        }
    }

    /// Scalars have no end of their own: the character behind tells.
    fn in_scalar(&mut self, c: char) -> Step {
        if is_scalar(c) && self.scalar.len() < MAX_SCALAR {
            self.scalar.push(c);
            return Step::More;
        }
        if serde_json::from_str::<serde::de::IgnoredAny>(&self.scalar).is_err() {
            return Step::Invalid;
        }
        self.expect = Expect::CommaOrEnd;
        self.push(c)
    }
}

impl From<Next> for Expect {
    fn from(next: Next) -> Self {
        match next {
            Next::Colon => Self::Colon,
            Next::CommaOrEnd => Self::CommaOrEnd,
        }
    }
}

pub(crate) fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

fn is_scalar(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.')
}

/// How deep the brackets of a text nest, strings left out. Right for JSON, harmless for the rest.
pub(crate) fn depth(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_text, mut escaped) = (false, false);
    for c in text.bytes() {
        match c {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => depth += 1,
            b'}' | b']' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}
