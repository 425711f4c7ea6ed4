//! How well the demo model does its job, asked through Hearth: every held-out case, greedily.
//!
//! `cargo bench -p hearth-tests --bench demo` prints the table that `tests/demo-model/README.md` shows.

use std::collections::BTreeMap;

use futures_util::stream::{self, StreamExt as _};
use hearth_tests::TestDaemon;
use hearth_tests::heldout::{self, Score, Way};

/// Requests under way at once.
const AT_ONCE: usize = 8;

#[derive(Default)]
struct Tally {
    cases: u32,
    format: u32,
    tool: u32,
    whole: u32,
}

impl Tally {
    fn add(&mut self, score: Score) {
        self.cases += 1;
        self.format += u32::from(score.format);
        self.tool += u32::from(score.tool);
        self.whole += u32::from(score.whole);
    }

    fn cells(&self) -> String {
        let percent = |count: u32| f64::from(count) * 100.0 / f64::from(self.cases.max(1));
        let (form, tool, whole) = (percent(self.format), percent(self.tool), percent(self.whole));
        format!("{} | {form:.0} | {tool:.0} | {whole:.0}", self.cases)
    }
}

#[tokio::main]
async fn main() {
    let daemon = TestDaemon::start().await;
    daemon.import_demo().await;
    let client = daemon.client();
    let asked = Way::ALL.into_iter().flat_map(|way| {
        heldout::cases().into_iter().filter(move |case| case.suits(way)).map(move |case| (way, case))
    });
    let mut answers = stream::iter(asked)
        .map(|(way, case)| {
            let client = client.clone();
            async move { (way, case.category.clone(), case.thinking, case.ask(&client, way).await) }
        })
        .buffer_unordered(AT_ONCE);
    let mut tallies: BTreeMap<(Way, String, &str), Tally> = BTreeMap::new();
    while let Some((way, category, thinking, outcome)) = answers.next().await {
        let score = outcome.expect("an answer");
        let how = if thinking { "on" } else { "off" };
        tallies.entry((way, category.clone(), how)).or_default().add(score);
        tallies.entry((way, category, "both")).or_default().add(score);
        tallies.entry((way, "all".to_owned(), "both")).or_default().add(score);
    }
    let mut table = String::from(
        "| asked by | category | thinking | cases | form % | tool % | whole answer % |\n|---|---|---|---|---|---|---|\n",
    );
    for ((way, category, thinking), tally) in &tallies {
        table.push_str(&format!("| {} | {category} | {thinking} | {} |\n", way.name(), tally.cells()));
    }
    #[expect(clippy::print_stdout, reason = "the table is the result")]
    {
        print!("{table}");
    }
}
