//! Stop strings are found wherever the pieces are cut.

use super::*;
use proptest::prelude::*;

fn read(stops: &[&str], pieces: &[&str]) -> (String, Option<usize>) {
    let mut watch = StopStrings::new(stops.iter().map(|&s| s.to_owned()).collect());
    let mut text = String::new();
    for piece in pieces {
        let (safe, matched) = watch.push(piece);
        text.push_str(&safe);
        if matched.is_some() {
            return (text + &watch.flush(), matched);
        }
    }
    (text + &watch.flush(), None)
}

#[test]
fn text_before_a_stop_string_passes_and_the_stop_string_does_not() {
    assert_eq!(read(&["END"], &["one E", "N", "D two"]), ("one ".to_owned(), Some(0)));
}

#[test]
fn a_beginning_that_does_not_go_on_is_text() {
    assert_eq!(read(&["END"], &["EN", "EN", "x"]), ("ENENx".to_owned(), None));
}

#[test]
fn text_that_cannot_begin_a_stop_string_is_not_held() {
    let mut watch = StopStrings::new(vec!["END".to_owned()]);
    assert_eq!(watch.push("abcE"), ("abc".to_owned(), None));
    assert_eq!(watch.push("x"), ("Ex".to_owned(), None));
}

#[test]
fn the_one_that_ends_first_wins_and_of_these_the_longest() {
    assert_eq!(read(&["abcd", "bc", "abc"], &["xabcd"]), ("x".to_owned(), Some(2)));
}

#[test]
fn empty_stop_strings_are_ignored() {
    assert_eq!(read(&["", "b"], &["ab"]), ("a".to_owned(), Some(1)));
}

#[test]
fn after_a_match_everything_is_swallowed() {
    let mut watch = StopStrings::new(vec!["b".to_owned()]);
    assert_eq!(watch.push("ab"), ("a".to_owned(), Some(0)));
    assert_eq!(watch.push("c"), (String::new(), Some(0)));
    assert_eq!(watch.flush(), "");
}

proptest! {
    #[test]
    fn any_split_gives_the_same(
        stops in prop::collection::vec("[abü]{0,4}", 0..4),
        pieces in prop::collection::vec("[abcü]{0,5}", 0..12),
    ) {
        let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
        let whole = pieces.concat();
        let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
        prop_assert_eq!(read(&stops, &pieces), read(&stops, &[&whole]));
    }

    #[test]
    fn without_a_match_the_text_is_whole(stops in prop::collection::vec("[xy]{1,4}", 0..4), text in "[abc]*") {
        let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
        prop_assert_eq!(read(&stops, &[&text]), (text, None));
    }
}
