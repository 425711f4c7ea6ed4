//! The vocabulary: its lists must fit each other, and every text must be writable with it.

use super::{Fault, MAX_TOKEN, Warning};
use crate::gguf::header::Header;
use crate::gguf::known;
use crate::gguf::shown;
use crate::gguf::value::{Strings, ValueError, optional};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

/// `LLAMA_TOKEN_TYPE_BYTE`.
const BYTE: u64 = 6;

/// Keys that name a token.
const SPECIAL: &[&str] = &[
    "tokenizer.ggml.bos_token_id",
    "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.eot_token_id",
    "tokenizer.ggml.eom_token_id",
    "tokenizer.ggml.unknown_token_id",
    "tokenizer.ggml.seperator_token_id",
    "tokenizer.ggml.padding_token_id",
    "tokenizer.ggml.mask_token_id",
    "tokenizer.ggml.fim_pre_token_id",
    "tokenizer.ggml.fim_suf_token_id",
    "tokenizer.ggml.fim_mid_token_id",
    "tokenizer.ggml.fim_pad_token_id",
    "tokenizer.ggml.fim_rep_token_id",
    "tokenizer.ggml.fim_sep_token_id",
    "tokenizer.ggml.prefix_token_id",
    "tokenizer.ggml.suffix_token_id",
    "tokenizer.ggml.middle_token_id",
];

/// How text becomes tokens.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scheme {
    /// SentencePiece: `tokenizer.ggml.model` is `llama`.
    Pieces,
    /// Pairs of bytes written as letters: `gpt2`.
    BytePairs,
    /// Pairs of characters, with byte tokens for the rest: `gemma4`.
    CharacterPairs,
}

/// A token's text as llama.cpp sees it, and where it stands.
type Places<'a> = HashMap<Cow<'a, str>, usize>;

pub(super) fn check(header: &Header) -> Result<Vec<Warning>, Fault> {
    let tokens = header.strings("tokenizer.ggml.tokens")?;
    lengths(header, tokens)?;
    let places = places(tokens)?;
    let model = header.str("tokenizer.ggml.model")?;
    byte_tokens(header, tokens, model)?;
    let scheme = match model {
        "llama" => Scheme::Pieces,
        "gpt2" => Scheme::BytePairs,
        "gemma4" => Scheme::CharacterPairs,
        other => return Err(Fault::Tokenizer { found: shown(other) }),
    };
    special_tokens(header, tokens)?;
    let pre = optional(header.str("tokenizer.ggml.pre"))?.unwrap_or("default");
    added_tokens(header, scheme, pre)?;
    match scheme {
        Scheme::Pieces => every_byte(&places).map(|()| Vec::new()),
        Scheme::BytePairs => pairs(header, pre).map(|()| warnings(pre, &places)),
        Scheme::CharacterPairs => pairs(header, pre).map(|()| Vec::new()),
    }
}

/// llama.cpp reads each list up to the number of tokens.
fn lengths(header: &Header, tokens: &Strings) -> Result<(), Fault> {
    if tokens.is_empty() {
        return Err(Fault::Length { key: "tokenizer.ggml.tokens".to_owned(), found: 0, wanted: 1 });
    }
    for key in ["tokenizer.ggml.token_type", "tokenizer.ggml.scores"] {
        let Some(numbers) = optional(header.numbers(key))? else { continue };
        if numbers.len() != tokens.len() {
            return Err(Fault::Length { key: key.to_owned(), found: numbers.len(), wanted: tokens.len() });
        }
    }
    Ok(())
}

/// Finds tokens with the same text. llama.cpp reads texts up to a zero byte and gives empty ones a name.
fn places(tokens: &Strings) -> Result<Places<'_>, Fault> {
    let mut places = HashMap::with_capacity(tokens.len());
    for (id, text) in tokens.iter().enumerate() {
        if text.len() > MAX_TOKEN {
            return Err(Fault::TokenLength { id, bytes: text.len() });
        }
        let seen = match until_zero(text) {
            "" => Cow::Owned(format!("[EMPTY_{id}]")),
            text => Cow::Borrowed(text),
        };
        if let Some(first) = places.get(&seen).copied() {
            return Err(Fault::DuplicateToken { text: shown(&seen), first, second: id });
        }
        places.insert(seen, id);
    }
    Ok(places)
}

fn until_zero(text: &str) -> &str {
    text.split_once('\0').map_or(text, |(seen, _)| seen)
}

/// Byte tokens must say which byte they are. A tokenizer for PLaMo 2 once wrote outside its table for
/// `<0x-1>`, and it goes by the text alone.
fn byte_tokens(header: &Header, tokens: &Strings, model: &str) -> Result<(), Fault> {
    let kinds = optional(header.numbers("tokenizer.ggml.token_type"))?;
    let by_kind = kinds.into_iter().flat_map(|kinds| kinds.iter()).map(|kind| kind.unsigned() == Some(BYTE));
    for ((id, text), is_byte) in tokens.iter().enumerate().zip(by_kind.chain(std::iter::repeat(false))) {
        let looks_like_byte = model == "plamo2" && text.starts_with("<0x");
        if (is_byte || looks_like_byte) && !is_byte_text(text) {
            return Err(Fault::ByteToken { id, text: shown(text) });
        }
    }
    Ok(())
}

fn is_byte_text(text: &str) -> bool {
    let digits = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

fn special_tokens(header: &Header, tokens: &Strings) -> Result<(), Fault> {
    for key in SPECIAL {
        let Some(id) = optional(header.u64(key))? else { continue };
        if usize::try_from(id).map_or(true, |id| id >= tokens.len()) {
            return Err(Fault::SpecialToken { key: (*key).to_owned(), id, tokens: tokens.len() });
        }
    }
    Ok(())
}

/// A token that is put before or after every text must be named. SentencePiece vocabularies have
/// customary places for them; others have none that makes sense.
fn added_tokens(header: &Header, scheme: Scheme, pre: &str) -> Result<(), Fault> {
    let pieces = scheme == Scheme::Pieces;
    let by_itself = scheme == Scheme::CharacterPairs || (scheme == Scheme::BytePairs && known::adds_bos(pre));
    let wanted = [
        ("tokenizer.ggml.add_bos_token", "tokenizer.ggml.bos_token_id", by_itself),
        ("tokenizer.ggml.add_eos_token", "tokenizer.ggml.eos_token_id", false),
    ];
    for (switch, key, default) in wanted {
        let on = optional(header.bool(switch))?.unwrap_or(default);
        let named = optional(header.u64(key))?.is_some();
        if on && !named && !pieces {
            return Err(Fault::NoSuchToken { switch, key });
        }
    }
    Ok(())
}

/// SentencePiece spells what it has no piece for byte by byte.
fn every_byte(places: &Places<'_>) -> Result<(), Fault> {
    for byte in u8::MIN..=u8::MAX {
        let spelled = places.contains_key(format!("<0x{byte:02X}>").as_str());
        let plain =
            byte.is_ascii() && byte != 0 && places.contains_key(char::from(byte).to_string().as_str());
        if !spelled && !plain {
            return Err(Fault::MissingByte { byte });
        }
    }
    Ok(())
}

fn pairs(header: &Header, pre: &str) -> Result<(), Fault> {
    let merges = match header.strings("tokenizer.ggml.merges") {
        Err(ValueError::Missing { .. }) if pre == "kimi-k2" => return Ok(()),
        found => found?,
    };
    for (index, text) in merges.iter().enumerate() {
        // The first character may itself be a space.
        let split = text.char_indices().skip(1).find(|(_, letter)| *letter == ' ');
        if split.is_none_or(|(at, _)| at.saturating_add(1) >= until_zero(text).len()) {
            return Err(Fault::Merge { index, text: shown(text) });
        }
    }
    Ok(())
}

fn warnings(pre: &str, places: &Places<'_>) -> Vec<Warning> {
    let mut warnings = Vec::new();
    if !known::loops_over_text(pre) {
        warnings.push(Warning::LongRuns { pre: shown(pre) });
    }
    let lost = byte_letters().find(|(_, letter)| !places.contains_key(letter.to_string().as_str()));
    warnings.extend(lost.map(|(byte, _)| Warning::LosesByte { byte }));
    warnings
}

/// The letter that stands for each byte in vocabularies of byte pairs: itself where it can be seen, or
/// else one from 256 on.
pub(in crate::gguf) fn byte_letters() -> impl Iterator<Item = (u8, char)> {
    let seen: HashSet<u8> = (b'!'..=b'~').chain(0xA1..=0xAC).chain(0xAE..=0xFF).collect();
    let mut others = '\u{100}'..;
    (u8::MIN..=u8::MAX).map(move |byte| {
        let letter = if seen.contains(&byte) { char::from(byte) } else { others.next().unwrap_or('\u{100}') };
        (byte, letter)
    })
}
