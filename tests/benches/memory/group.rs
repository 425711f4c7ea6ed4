//! A daemon in a memory control group that is smaller than the machine.

use std::path::PathBuf;

use futures_util::StreamExt as _;
use hearth_client::{ChatRequest, Code, v1};
use hearth_tests::TestDaemon;
use hearth_tests::answer::{answer, greedy};
use hearth_tests::daemon::Launch;
use hearth_tests::fixture::{self, Arch};
use hearth_tests::group::Group;

use super::import::import;
use super::say;

/// Requests in all, and clients at a time.
const REQUESTS: u32 = 1000;
const CLIENTS: u32 = 6;

/// Beside the largest model: what is left of the budget for others, and for pages of files.
const BESIDE: u64 = 256 << 20;

/// Whether all was answered, and nothing killed.
pub(crate) async fn run(files: &[PathBuf]) -> bool {
    // Room for some of the models only.
    let largest = files.iter().map(|file| std::fs::metadata(file).expect("a model file").len()).max();
    let limit = largest.map_or(100 << 20, |largest| largest * 3 / 2 + BESIDE);
    let group = match Group::make(limit) {
        Ok(group) => group,
        Err(error) => {
            say(&format!("no control group can be made here: {error}"));
            return false;
        }
    };
    let through = group.enter();
    let daemon = TestDaemon::launch(Launch { through, ..Launch::default() }).await;
    let mut names = Vec::new();
    for arch in Arch::ALL {
        daemon.import(arch.name(), &fixture::tiny(arch)).await;
        names.push(arch.name().to_owned());
    }
    for file in files {
        names.push(import(&daemon, file).await);
    }
    let memory = daemon.client().status().await.expect("a status").memory.expect("memory");
    say(&format!(
        "limit {} MiB, budget {} MiB from: {}",
        limit >> 20,
        memory.budget_bytes >> 20,
        memory.budget_source
    ));
    let clients = (0..CLIENTS).map(|client| ask(&daemon, &names, client));
    let counts: Vec<(usize, usize)> =
        futures_util::stream::iter(clients).buffer_unordered(CLIENTS as usize).collect().await;
    let (answered, full) = counts.iter().fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1));
    say(&format!(
        "{answered} of {REQUESTS} mixed requests answered, {full} asked again since memory was full"
    ));
    say(&format!(
        "most memory of the group: {} MiB (files in the page cache included); processes that the kernel killed: {}",
        group.peak() >> 20,
        group.kills()
    ));
    let status = daemon.client().status().await.expect("a status");
    say(&format!("models in memory at the end: {} of {}", loaded(&status), names.len()));
    let kills = group.kills();
    assert!(daemon.stop().await.success());
    answered == REQUESTS as usize && kills == 0
}

fn loaded(status: &v1::GetStatusResponse) -> usize {
    status.engines.iter().filter(|engine| engine.pid != 0).count()
}

/// Answered, and how often it was asked again.
async fn ask(daemon: &TestDaemon, names: &[String], client: u32) -> (usize, usize) {
    let connection = daemon.new_client().await;
    let (mut answered, mut full) = (0, 0);
    for number in (client..REQUESTS).step_by(CLIENTS as usize) {
        let name = &names[(number * 7 + client) as usize % names.len()];
        loop {
            let request = ChatRequest::new(name.as_str()).sampling(greedy()).max_tokens(1 + number % 24);
            let text = "tell me more of it ".repeat((1 + number % 30) as usize);
            let request = match number % 4 {
                0 => request.user(text).output(v1::output::Kind::Json(v1::JsonObject {})),
                _ => request.user(text),
            };
            match answer(&connection, request).await {
                Ok(_) => {
                    answered += 1;
                    break;
                }
                Err(error)
                    if error.refusal().is_some_and(|refusal| refusal.code == Code::ResourceExhausted) =>
                {
                    full += 1;
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
                Err(error) => panic!("request {number} of {name}: {error}"),
            }
        }
    }
    (answered, full)
}
