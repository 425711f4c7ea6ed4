//! How fast a model is refused that never fits.

use std::path::PathBuf;
use std::time::Instant;

use hearth_tests::TestDaemon;
use rustix::process::Signal;

use super::import::import;
use super::say;

/// Refusals that are timed.
const TIMES: usize = 50;

/// A refusal may take so long, in milliseconds.
const BAR: f64 = 50.0;

/// Whether it is quick enough.
pub(crate) async fn run(files: &[PathBuf]) -> bool {
    let file = files.first().expect("a model file");
    let daemon = TestDaemon::start().await;
    let name = import(&daemon, file).await;
    let client = daemon.client();
    let need = client.plan(&name, hearth_client::LoadOptions::default()).await.expect("a plan");
    let need = need.need.expect("what it needs");
    // Too little even for the shortest context.
    daemon.write_config(&format!("[memory]\nbudget = \"{}\"\n", need.weights_bytes / 2));
    daemon.signal(Signal::HUP);
    daemon.logs("source=configured", 1).await;
    let mut times = Vec::new();
    let mut words = String::new();
    for _ in 0..TIMES {
        let began = Instant::now();
        let mut loading = client.load(&name).await.expect("the stream opens");
        let error = loop {
            match loading.next().await.expect("an end") {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        times.push(began.elapsed().as_secs_f64() * 1000.0);
        words = error.to_string();
    }
    times.sort_by(f64::total_cmp);
    say(&words);
    say(&format!(
        "refused in {:.1} ms (median), {:.1} ms at most, over {TIMES}",
        times[TIMES / 2],
        times[TIMES - 1]
    ));
    times[TIMES / 2] < BAR
}
