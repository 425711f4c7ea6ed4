//! The built-in demo model does its job. Its full table is made by `cargo bench --bench demo`.

use futures_util::stream::{self, StreamExt as _};
use hearth_client::{ChatRequest, v1};
use hearth_tests::TestDaemon;
use hearth_tests::answer::{answer, greedy};
use hearth_tests::heldout::{self, Score};

/// Cases of each category that are asked here.
const EACH: usize = 12;

#[tokio::test]
async fn held_out_questions_are_answered_in_form_and_mostly_word_for_word() {
    let daemon = TestDaemon::start().await;
    daemon.import_demo().await;
    let client = daemon.client();
    let mut chosen: Vec<heldout::Case> = Vec::new();
    for case in heldout::cases() {
        if chosen.iter().filter(|other| other.category == case.category).count() < EACH {
            chosen.push(case);
        }
    }
    let scores: Vec<(String, Score)> = stream::iter(chosen)
        .map(|case| {
            let client = client.clone();
            async move { (case.category.clone(), case.ask(&client).await.expect("an answer")) }
        })
        .buffer_unordered(8)
        .collect()
        .await;
    let right = |category: &str| scores.iter().filter(|(c, score)| c == category && score.whole).count();
    let formed = scores.iter().filter(|(_, score)| score.format).count();
    assert!(formed * 100 >= scores.len() * 98, "{formed} of {} have the right form", scores.len());
    assert_eq!(right("greeting"), EACH);
    for category in ["fact", "tool_response", "unknown", "arithmetic", "call_known"] {
        let right = right(category);
        assert!(right * 3 >= EACH * 2, "{category}: {right} of {EACH}");
    }
}

#[tokio::test]
async fn it_thinks_when_asked_to_and_only_then() {
    let daemon = TestDaemon::start().await;
    daemon.import_demo().await;
    for (thinking, thinks) in [(v1::Thinking::On, true), (v1::Thinking::Off, false)] {
        let request = ChatRequest::new("demo").user("What is 7 + 5?").thinking(thinking).sampling(greedy());
        let said = answer(&daemon.client(), request).await.expect("an answer");
        assert_eq!(!said.reasoning.is_empty(), thinks, "{said:?}");
        assert!(said.text.contains("12"), "{said:?}");
    }
}
