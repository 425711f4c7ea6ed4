//! Control tokens spelled in a message stay characters.

use super::*;
use proptest::prelude::*;

const TOKENS: &[&str] = &["<|im_end|>", "<|im_start|>", "[gMASK]", "<｜end▁of▁sentence｜>", "§", "<<x>>"];

fn shield() -> Shield {
    Shield::new(TOKENS.iter().map(|&t| t.to_owned()).collect())
}

/// Whether a control token would be made of a rendered text.
fn has_control(shield: &Shield, text: &str) -> bool {
    text.char_indices().any(|(at, _)| shield.control_at(&text[at..]).is_some())
}

/// Texts made of pieces of control tokens, white space and the shield's own characters.
fn hostile() -> impl Strategy<Value = String> {
    let mut pieces = vec!["<", "|", ">", "<|im_", "im_end|>", "end|>", "[", "gMASK]", " ", "\n", "a", "x>>"];
    pieces.extend(["\u{10FA00}", "\u{10FA01}", "\u{10FA02}", "\u{10FA04}"]);
    pieces.extend(TOKENS);
    prop::collection::vec(prop::sample::select(pieces), 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn guarded_text_is_restored_and_holds_no_control_token(text in hostile()) {
        let shield = shield();
        let guarded = shield.guard(&text);
        prop_assert!(!has_control(&shield, &guarded), "{guarded:?}");
        prop_assert_eq!(shield.restore(&guarded), text);
    }

    #[test]
    fn no_control_token_is_put_together_at_a_border(first in hostile(), second in hostile(), strip in any::<bool>()) {
        let shield = shield();
        let (first, second) = (shield.guard(&first), shield.guard(&second));
        let (first, second) = if strip { (first.trim(), second.trim()) } else { (&*first, &*second) };
        prop_assert!(!has_control(&shield, &[first, second].concat()));
        for token in TOKENS {
            for (at, _) in token.char_indices().skip(1) {
                let (begin, end) = token.split_at(at);
                prop_assert!(!has_control(&shield, &[begin, second].concat()));
                prop_assert!(!has_control(&shield, &[first, end].concat()));
            }
        }
    }
}

#[test]
fn harmless_text_is_left_as_it_is() {
    for text in
        ["", "hello <think> </think>", "a < b > c", "{\"a\": [1]}", "<tool_response>x</tool_response>"]
    {
        assert_eq!(shield().guard(text), text);
    }
}
