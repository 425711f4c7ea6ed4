//! The way out: few tokens that complete an answer.
//!
//! A grammar says what may come next, not what ends soonest, so the way is looked for by walking: end strings,
//! objects and arrays wherever that is allowed, give numbers one digit, and take what is forced. Patterns want
//! more than that (`[a-z]+@[a-z]+` never ends if letters always come first), so there are several walks, each
//! with other habits, and the shortest that arrives counts.

use llguidance::Matcher;
use llguidance::toktrie::{SimpleVob, TokTrie, TokenId};

use crate::llama::Token;

/// Walks that choose at random, after the orderly ones.
const RANDOM_WALKS: u64 = 4;
/// Choices of all walks of one search, each of which costs up to some 50 µs on a desktop core: the other answers
/// wait meanwhile.
const MAX_CHOICES: usize = 600;

/// Tokens of single characters, in the order in which walks try them.
#[derive(Debug)]
pub(super) struct Closers {
    /// Outside of strings.
    structure: Vec<TokenId>,
    /// Inside of strings, and in text that is no JSON: signs first.
    signs_first: Vec<TokenId>,
    /// The same with letters first.
    letters_first: Vec<TokenId>,
    /// Tokens of many letters, for texts that have a least length.
    long: Vec<TokenId>,
    quote: Option<TokenId>,
}

/// How a walk chooses inside of strings.
#[derive(Clone, Copy, Debug)]
enum Habit {
    Signs,
    Letters,
    Long,
    Random(u64),
}

impl Closers {
    /// From the tokens of a vocabulary.
    pub(super) fn new(trie: &TokTrie) -> Self {
        let ids = |text: &str| -> Vec<TokenId> {
            text.bytes().filter_map(|byte| trie.token_id_at_bytes(&[byte])).collect()
        };
        let words = ["null", "true", "false"];
        let mut structure = ids("}]");
        structure.extend(words.iter().filter_map(|word| trie.token_id_at_bytes(word.as_bytes())));
        // A number ends rather than getting another digit.
        structure.extend(ids(",:0123456789\"-[{.\n"));
        let long = (0..u32::try_from(trie.vocab_size()).unwrap_or(0))
            .filter(|&id| {
                let word = trie.token(id);
                word.len() >= 8 && word.iter().all(u8::is_ascii_lowercase)
            })
            .take(64)
            .collect();
        Self {
            structure,
            signs_first: ids(
                "\"@.-_:/+# ,;=?!%&*()~|0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
            ),
            letters_first: ids(
                "\"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .-_:/@+#,;=?!%&*()~|",
            ),
            long,
            quote: ids("\"").first().copied(),
        }
    }

    /// At most `most` tokens that complete the answer. `in_string` says where JSON stands; `None`: no JSON.
    pub(super) fn plan(
        &self,
        matcher: &Matcher,
        trie: &TokTrie,
        in_string: Option<bool>,
        most: usize,
    ) -> Option<Vec<Token>> {
        let orderly = [Habit::Signs, Habit::Letters, Habit::Long].into_iter();
        let mut best: Option<Vec<TokenId>> = None;
        let mut choices = MAX_CHOICES;
        for habit in orderly.chain((0..RANDOM_WALKS).map(Habit::Random)) {
            // The first walk that arrives is nearly always the shortest; random ones are for when none did.
            if matches!(habit, Habit::Random(_)) && best.is_some() {
                break;
            }
            let limit = best.as_ref().map_or(most, |plan| plan.len().saturating_sub(1)).min(most);
            let walk = Walk { closers: self, trie, habit, in_string, escaped: false, steps: 0 };
            if let Some(plan) = walk.run(matcher.clone(), limit, &mut choices) {
                let short = plan.len() <= 4;
                best = Some(plan);
                if short {
                    break;
                }
            }
        }
        Some(best?.into_iter().map(u32::cast_signed).collect())
    }
}

struct Walk<'a> {
    closers: &'a Closers,
    trie: &'a TokTrie,
    habit: Habit,
    in_string: Option<bool>,
    escaped: bool,
    steps: u64,
}

impl Walk<'_> {
    fn run(mut self, mut matcher: Matcher, most: usize, choices: &mut usize) -> Option<Vec<TokenId>> {
        let mut plan = Vec::new();
        loop {
            if matcher.is_stopped() {
                return matcher.stop_reason().is_ok().then_some(plan);
            }
            if matcher.is_accepting().ok()? {
                return Some(plan);
            }
            let mut next = matcher.compute_ff_tokens();
            if next.is_empty() {
                *choices = choices.checked_sub(1)?;
                let mask = matcher.compute_mask().ok()?;
                next.push(self.choose(&mask)?);
            }
            if plan.len() + next.len() > most {
                return None;
            }
            matcher.consume_tokens(&next).ok()?;
            next.iter().for_each(|&token| self.follow(token));
            plan.extend(next);
        }
    }

    fn choose(&mut self, mask: &SimpleVob) -> Option<TokenId> {
        self.steps += 1;
        let closers = self.closers;
        let first = |list: &[TokenId]| list.iter().copied().find(|&token| mask.is_allowed(token));
        let fallback = || mask.first_bit_set().and_then(|bit| u32::try_from(bit).ok());
        if self.in_string == Some(false) {
            let random =
                if let Habit::Random(seed) = self.habit { self.random_digit(seed, mask) } else { None };
            return random.or_else(|| first(&closers.structure)).or_else(fallback);
        }
        if let Some(quote) = closers.quote.filter(|&quote| self.in_string.is_some() && mask.is_allowed(quote))
        {
            return Some(quote);
        }
        let chosen = match self.habit {
            Habit::Signs => first(&closers.signs_first),
            Habit::Letters => first(&closers.letters_first),
            Habit::Long => first(&closers.long).or_else(|| first(&closers.letters_first)),
            Habit::Random(seed) => self.random_of(seed, &closers.letters_first, mask),
        };
        chosen.or_else(fallback)
    }

    /// A number that must be a multiple or within bounds is not always reached by zeros. What closes still
    /// comes first.
    fn random_digit(&self, seed: u64, mask: &SimpleVob) -> Option<TokenId> {
        let closing = self.closers.structure.iter().take(2);
        if closing.copied().any(|token| mask.is_allowed(token)) {
            return None;
        }
        let digits: Vec<TokenId> =
            (b'0'..=b'9').filter_map(|digit| self.trie.token_id_at_bytes(&[digit])).collect();
        self.random_of(seed, &digits, mask)
    }

    fn random_of(&self, seed: u64, list: &[TokenId], mask: &SimpleVob) -> Option<TokenId> {
        let allowed: Vec<TokenId> = list.iter().copied().filter(|&token| mask.is_allowed(token)).collect();
        let count = u64::try_from(allowed.len()).ok().filter(|&count| count > 0)?;
        // Any mixing will do; the same walk must come out the same each time.
        let mixed =
            (self.steps + 1).wrapping_mul(seed.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15)) >> 33;
        allowed.get(usize::try_from(mixed % count).ok()?).copied()
    }

    /// Whether JSON stands inside of a string after the token.
    fn follow(&mut self, token: TokenId) {
        let Some(in_string) = &mut self.in_string else { return };
        for &byte in self.trie.token(token) {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if *in_string => self.escaped = true,
                b'"' => *in_string = !*in_string,
                _ => {}
            }
        }
    }
}
