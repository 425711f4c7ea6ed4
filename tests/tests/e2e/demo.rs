//! The built-in demo model does its job. Its full table is made by `cargo bench --bench demo`.

use futures_util::stream::{self, StreamExt as _};
use hearth_client::{ChatRequest, v1};
use hearth_tests::TestDaemon;
use hearth_tests::answer::{answer, greedy};
use hearth_tests::heldout::{self, Score, Way};

/// Cases of each category that are asked here.
const EACH: usize = 12;

#[tokio::test]
async fn held_out_questions_are_answered_in_form_and_mostly_word_for_word() {
    let daemon = TestDaemon::start().await;
    daemon.import_demo().await;
    let client = daemon.client();
    let mut chosen: Vec<(Way, heldout::Case)> = Vec::new();
    for way in Way::ALL {
        for case in heldout::cases().into_iter().filter(|case| case.suits(way)) {
            let same =
                |(other, known): &&(Way, heldout::Case)| *other == way && known.category == case.category;
            if chosen.iter().filter(same).count() < EACH {
                chosen.push((way, case));
            }
        }
    }
    let scores: Vec<(Way, String, Score)> = stream::iter(chosen)
        .map(|(way, case)| {
            let client = client.clone();
            async move { (way, case.category.clone(), case.ask(&client, way).await.expect("an answer")) }
        })
        .buffer_unordered(8)
        .collect()
        .await;
    let right = |way: Way, category: &str| {
        scores.iter().filter(|(w, c, score)| *w == way && c == category && score.whole).count()
    };
    let formed = scores.iter().filter(|(_, _, score)| score.format).count();
    assert!(formed * 100 >= scores.len() * 98, "{formed} of {} have the right form", scores.len());
    assert_eq!(right(Way::Auto, "greeting"), EACH);
    for (way, category) in [
        (Way::Auto, "fact"),
        (Way::Auto, "tool_response"),
        (Way::Auto, "unknown"),
        (Way::Auto, "arithmetic"),
        (Way::Auto, "call_known"),
        (Way::Required, "call_known"),
        (Way::Converse, "tool_response"),
    ] {
        let right = right(way, category);
        assert!(right * 3 >= EACH * 2, "{way:?}, {category}: {right} of {EACH}");
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
