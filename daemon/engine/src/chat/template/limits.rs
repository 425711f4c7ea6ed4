//! Refuses templates that the compiler would recurse into until its stack ends.
//!
//! minijinja guards statements and brackets, but walks a chain of `not`, of operators or of `elif`
//! by recursion without a limit. Each link takes at least one word or sign of its tag, so counting
//! these bounds the depth. Honest templates have at most some dozens in a tag.

use super::CompileError;

/// The longest template seen in a public model is about 17 KiB.
const MAX_BYTES: usize = 64 * 1024;

/// Words and signs in one tag.
const MAX_WORDS: usize = 1000;

/// `elif` branches in the whole template, since each is one level deeper than the one before.
const MAX_ELIFS: usize = 500;

pub(super) fn check(source: &str) -> Result<(), CompileError> {
    if source.len() > MAX_BYTES {
        return Err(CompileError::TooLong { len: source.len(), max: MAX_BYTES });
    }
    match first_too_deep(source) {
        Some(at) => Err(CompileError::TooDeep { line: source[..at].matches('\n').count() + 1 }),
        None => Ok(()),
    }
}

/// Byte of the first tag that is too much.
fn first_too_deep(source: &str) -> Option<usize> {
    let mut elifs = 0;
    let mut at = 0;
    while let Some(open) = find_tag(source, at) {
        let tag = Tag::read(&source[open..]);
        elifs += tag.elifs;
        if tag.words > MAX_WORDS || elifs > MAX_ELIFS {
            return Some(open);
        }
        at = open + tag.len;
    }
    None
}

/// The next `{{` or `{%`. A tag inside a comment or a raw block is counted too, which can only
/// refuse more.
fn find_tag(source: &str, from: usize) -> Option<usize> {
    let rest = source.as_bytes().get(from..)?;
    let found = rest.windows(2).position(|pair| matches!(pair, b"{{" | b"{%"))?;
    Some(from + found)
}

/// What counts of one tag.
struct Tag {
    len: usize,
    words: usize,
    elifs: usize,
}

impl Tag {
    /// Reads from the opening braces to the closing ones, strings skipped.
    fn read(text: &str) -> Self {
        let close: &[u8] = if text.starts_with("{{") { b"}}" } else { b"%}" };
        let bytes = text.as_bytes();
        let mut tag = Self { len: 2, words: 0, elifs: 0 };
        while tag.len < bytes.len() && !bytes[tag.len..].starts_with(close) {
            let rest = &bytes[tag.len..];
            let len = word_len(rest);
            tag.elifs += usize::from(&rest[..len] == b"elif");
            tag.words += usize::from(!rest[0].is_ascii_whitespace());
            tag.len += len;
        }
        tag
    }
}

/// Length of the string, word or single byte at the start of a text that is not empty.
fn word_len(bytes: &[u8]) -> usize {
    match bytes[0] {
        quote @ (b'"' | b'\'') => string_len(bytes, quote),
        first if is_word(first) => bytes.iter().take_while(|b| is_word(**b)).count(),
        _ => 1,
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii()
}

fn string_len(bytes: &[u8], quote: u8) -> usize {
    let mut escaped = false;
    for (at, byte) in bytes.iter().enumerate().skip(1) {
        match *byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b if b == quote => return at + 1,
            _ => {}
        }
    }
    bytes.len()
}
