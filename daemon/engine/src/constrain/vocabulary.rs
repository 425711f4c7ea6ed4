//! The model's vocabulary as llguidance reads it.

use std::sync::Arc;

use llguidance::toktrie::{TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};

use crate::llama::{Model, Token};

/// Longer tokens than this are left out of the tables; no vocabulary has any that matter.
const MAX_TOKEN: usize = 255;

struct Vocabulary {
    model: Arc<Model>,
    trie: TokTrie,
}

/// The tables of a vocabulary. Control tokens stand apart from text: no grammar takes one for text that spells
/// it.
pub(super) fn environment(model: &Arc<Model>, extra_ends: &[Token]) -> Result<TokEnv, String> {
    let size = model.vocabulary_size();
    let ids = 0..size;
    let mut words: Vec<Vec<u8>> = ids.clone().map(|token| word(model, token)).collect();
    let ends: Vec<TokenId> = ids
        .filter(|&token| model.is_end(token) || extra_ends.contains(&token))
        .map(Token::unsigned_abs)
        .collect();
    let Some(&first) = ends.first() else { return Err("the model has no end token".to_owned()) };
    for &end in &ends {
        if let Some(word) = words.get_mut(end as usize)
            && word.first() != Some(&TokTrie::SPECIAL_TOKEN_MARKER)
        {
            word.insert(0, TokTrie::SPECIAL_TOKEN_MARKER);
        }
    }
    let info = TokRxInfo::new(size.unsigned_abs(), first);
    let trie = TokTrie::from(&info, &words).with_eos_tokens(&ends);
    Ok(Arc::new(Vocabulary { model: Arc::clone(model), trie }))
}

/// What a token is in the tables: its bytes, a control token marked as such, nothing for what is unusable.
fn word(model: &Model, token: Token) -> Vec<u8> {
    let mut word = Vec::new();
    if model.is_control(token) {
        word.push(TokTrie::SPECIAL_TOKEN_MARKER);
        word.extend_from_slice(model.token_text(token).as_bytes());
    } else {
        model.piece(token, &mut word);
        // Never part of UTF-8, and the mark of control tokens.
        if word.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER) {
            word.clear();
        }
    }
    if word.len() > MAX_TOKEN {
        word.clear();
    }
    word
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    /// As the model's own tokenizer cuts a text; bytes that are no text are cut greedily.
    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        let mut tokens = Vec::new();
        match std::str::from_utf8(bytes) {
            Ok(text) if self.model.tokenize(text, false, &mut tokens).is_ok() => {
                tokens.into_iter().map(Token::unsigned_abs).collect()
            }
            _ => self.trie.greedy_tokenize(bytes),
        }
    }
}
