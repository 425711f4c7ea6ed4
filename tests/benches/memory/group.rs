//! A daemon in a memory control group that is smaller than the machine.

use std::path::{Path, PathBuf};

use futures_util::StreamExt as _;
use hearth_client::{ChatRequest, Code, v1};
use hearth_tests::TestDaemon;
use hearth_tests::answer::{answer, greedy};
use hearth_tests::daemon::Launch;
use hearth_tests::fixture::{self, Arch};

use super::import::import;
use super::say;

/// Requests in all, and clients at a time.
const REQUESTS: usize = 1000;
const CLIENTS: usize = 6;

/// A control group of our own; it is removed at the end.
struct Group {
    folder: PathBuf,
    limit_file: &'static str,
}

impl Group {
    /// Of version 2 where memory is governed by that, else of version 1.
    fn make(limit: u64) -> std::io::Result<Self> {
        let name = format!("hearth-bench-{}", std::process::id());
        let unified = Path::new("/sys/fs/cgroup/cgroup.controllers");
        let governed = std::fs::read_to_string(unified).is_ok_and(|names| names.contains("memory"));
        let group = if governed {
            std::fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+memory")?;
            Self { folder: Path::new("/sys/fs/cgroup").join(name), limit_file: "memory.max" }
        } else {
            Self {
                folder: Path::new("/sys/fs/cgroup/memory").join(name),
                limit_file: "memory.limit_in_bytes",
            }
        };
        std::fs::create_dir(&group.folder)?;
        std::fs::write(group.folder.join(group.limit_file), limit.to_string())?;
        Ok(group)
    }

    fn number(&self, files: [&str; 2]) -> u64 {
        let text = files.iter().find_map(|file| std::fs::read_to_string(self.folder.join(file)).ok());
        text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    /// Processes that the kernel killed in it.
    fn kills(&self) -> u64 {
        let texts = ["memory.events", "memory.oom_control"]
            .map(|file| std::fs::read_to_string(self.folder.join(file)));
        let line = texts
            .iter()
            .flatten()
            .flat_map(|text| text.lines())
            .find_map(|line| line.strip_prefix("oom_kill "));
        line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Its processes may take a moment to go.
        for _ in 0..100 {
            if std::fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

pub async fn run(files: &[PathBuf]) {
    let limit = if files.is_empty() { 320 << 20 } else { 1400 << 20 };
    let group = match Group::make(limit) {
        Ok(group) => group,
        Err(error) => return say(&format!("no control group can be made here: {error}")),
    };
    // A shell moves itself into the group and becomes the daemon.
    let enter = format!("echo $$ > {}/cgroup.procs && exec \"$0\" \"$@\"", group.folder.display());
    let through = ["sh", "-c", &enter].map(str::to_owned).to_vec();
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
        futures_util::stream::iter(clients).buffer_unordered(CLIENTS).collect().await;
    let (answered, full) = counts.iter().fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1));
    say(&format!(
        "{answered} of {REQUESTS} mixed requests answered, {full} asked again since memory was full"
    ));
    say(&format!(
        "most memory of the group: {} MiB (files in the page cache included); processes that the kernel killed: {}",
        group.number(["memory.peak", "memory.max_usage_in_bytes"]) >> 20,
        group.kills()
    ));
    assert!(daemon.stop().await.success());
}

/// Answered, and how often it was asked again.
async fn ask(daemon: &TestDaemon, names: &[String], client: usize) -> (usize, usize) {
    let connection = daemon.new_client().await;
    let (mut answered, mut full) = (0, 0);
    for number in (client..REQUESTS).step_by(CLIENTS) {
        let name = &names[(number * 7 + client) % names.len()];
        loop {
            let request =
                ChatRequest::new(name.as_str()).sampling(greedy()).max_tokens(1 + (number % 24) as u32);
            let text = "tell me more of it ".repeat(1 + number % 30);
            let request = match number % 4 {
                0 => request
                    .user(text)
                    .output(v1::Output { kind: Some(v1::output::Kind::Json(v1::JsonObject {})) }),
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
