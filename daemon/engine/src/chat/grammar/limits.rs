//! Texts of regular expressions and Lark grammars that may be compiled: what the compiler itself does not bound
//! in time or memory (figures: llguidance 1.9.1 on a desktop core).

/// Bytes of a regular expression.
const MAX_REGEX: usize = 16 << 10;
/// Bytes of a Lark grammar.
const MAX_LARK: usize = 32 << 10;
/// Signs `|` in a Lark grammar: 1,000 alternatives of one rule take 0.2 s, ten times as many a hundred times as
/// long.
const MAX_ALTERNATIVES: usize = 1_000;
/// Signs `&` in a Lark grammar: ten expressions that must hold together take 0.1 s, twenty 3 s and 240 MB.
const MAX_CONJUNCTIONS: usize = 8;

/// What is wrong with a regular expression, if it is too much.
pub(super) fn regex(expression: &str) -> Result<(), String> {
    most(expression.len(), MAX_REGEX, "bytes")
}

/// What is wrong with a Lark grammar, if it is too much. Signs inside of strings count, too.
pub(super) fn lark(grammar: &str) -> Result<(), String> {
    most(grammar.len(), MAX_LARK, "bytes")?;
    most(grammar.matches('|').count(), MAX_ALTERNATIVES, "alternatives (`|`)")?;
    most(grammar.matches('&').count(), MAX_CONJUNCTIONS, "conjunctions (`&`)")
}

fn most(count: usize, most: usize, of: &str) -> Result<(), String> {
    if count > most { Err(format!("has {count} {of}; at most {most} are taken")) } else { Ok(()) }
}
