//! Two models under a budget that holds one.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use hearth_client::LoadOptions;
use hearth_tests::TestDaemon;
use hearth_tests::answer::raw;
use rustix::process::Signal;

use super::import::import;
use super::sampler::Sampler;
use super::say;

/// Requests in all.
const REQUESTS: usize = 50;

const MIB: f64 = (1 << 20) as f64;

#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB
}

/// Whether the budget was kept, and nothing lost.
pub(crate) async fn run(files: &[PathBuf]) -> bool {
    assert!((2..=3).contains(&files.len()), "two models, and a small one that is pinned");
    let daemon = TestDaemon::start().await;
    let mut names = Vec::new();
    for file in files {
        names.push(import(&daemon, file).await);
    }
    let client = daemon.client();
    let mut needs = Vec::new();
    for name in &names {
        let plan = client.plan(name, LoadOptions::default()).await.expect("a plan");
        needs.push(plan.need.expect("what it needs").peak_bytes);
    }
    // What holds the larger one, the pinned one, and the daemon itself, with a hundredth to spare.
    let front = 32 << 20;
    let pinned = names.get(2);
    let budget = (needs[0].max(needs[1]) + needs.get(2).copied().unwrap_or(0) + front) / 100 * 101;
    let pin =
        pinned.map_or_else(String::new, |name| format!("[models.{name:?}]\npinned = true\npreload = true\n"));
    daemon.write_config(&format!("[memory]\nbudget = \"{budget}\"\n{pin}"));
    daemon.signal(Signal::HUP);
    daemon.logs("Read the configuration again", 1).await;
    if let Some(name) = pinned {
        daemon.load(name).await;
    }
    let pinned_pid = match pinned {
        Some(name) => Some(daemon.engine_pid(name).await),
        None => None,
    };
    let sampler = Sampler::start(daemon.pid().as_raw_nonzero().get().unsigned_abs());
    let (mut swaps, mut answered) = (Vec::new(), 0);
    for number in 0..REQUESTS {
        let name = &names[number % 2];
        let began = Instant::now();
        let mut generation = client.generate(raw(name, "Hello there", 4)).await.expect("accepted");
        let mut load_ms = 0.0;
        while let Some(event) = generation.next().await {
            let event = event.expect("no request is lost");
            if let hearth_client::GenerationEvent::Finished(finished) = event {
                answered += 1;
                load_ms = finished.timings.map_or(0.0, |timings| timings.load_ms);
            }
        }
        swaps.push((load_ms, began.elapsed()));
        if let Some(name) = pinned {
            assert_eq!(Some(daemon.engine_pid(name).await), pinned_pid, "the pinned one stays");
        }
    }
    let seen = sampler.stop();
    let mut times: Vec<f64> = swaps.iter().map(|(load_ms, _)| *load_ms).filter(|ms| *ms > 0.0).collect();
    times.sort_by(f64::total_cmp);
    let all: Duration = swaps.iter().map(|(_, time)| *time).sum();
    say(&format!(
        "budget {:.1} MiB, needs {:?} MiB",
        mib(budget),
        needs.iter().map(|need| mib(*need).round()).collect::<Vec<_>>()
    ));
    say(&format!("{answered} of {REQUESTS} requests answered in {:.1} s", all.as_secs_f64()));
    say(&format!(
        "{} swaps, each told its time: median {:.0} ms, longest {:.0} ms",
        times.len(),
        times.get(times.len() / 2).copied().unwrap_or(0.0),
        times.last().copied().unwrap_or(0.0)
    ));
    say(&format!(
        "all processes together: {:.1} MiB at most over {} samples (longest gap {} ms), {:.2}% of the budget: {}",
        mib(seen.peak),
        seen.samples,
        seen.gap.as_millis(),
        mib(seen.peak) / mib(budget) * 100.0,
        if seen.peak <= budget { "held" } else { "**broken**" }
    ));
    seen.peak <= budget && seen.processes > 1 && answered == REQUESTS && times.len() == swaps.len()
}
