//! Is the memory budget kept, and are the estimates behind it true?
//!
//! `make bench-memory RUN="estimates a.gguf b.gguf…"`: loads each model with many contexts, fills them, and sets what
//! the kernel counts beside what was estimated.
//!
//! `make bench-memory RUN="swap a.gguf b.gguf [small.gguf]"`: two models under a budget that holds one are asked in
//! turn, fifty times; the third one is pinned. The memory of all processes is sampled every 50 ms.
//!
//! `make bench-memory RUN="group"`: a daemon in a memory control group that is smaller than the machine answers a
//! thousand mixed requests. Needs the right to make control groups.
//!
//! `make bench-memory RUN="refusal a.gguf"`: how fast a model is refused that never fits.
//!
//! Each says whether what it is to show holds, and ends with 1 where it does not.
//!
//! What a process takes is the sum of `Pss_Anon`, `Pss_File` and `Pss_Shmem` in `/proc/PID/smaps_rollup`: over all
//! processes each page counts once.

mod estimates;
mod group;
mod import;
mod refusal;
mod sampler;
mod swap;

use std::path::PathBuf;
use std::process::ExitCode;

fn say(line: &str) {
    #[expect(clippy::print_stdout, reason = "the table is the result")]
    {
        println!("{line}");
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let what = arguments.next().unwrap_or_default();
    let files: Vec<PathBuf> = arguments.map(PathBuf::from).collect();
    let holds = match what.as_str() {
        "estimates" => estimates::run(&files).await,
        "swap" => swap::run(&files).await,
        "group" => group::run(&files).await,
        "refusal" => refusal::run(&files).await,
        // Every benchmark is started by `cargo test --workspace` too.
        "" => {
            say("one of: estimates FILES, swap FILE FILE [FILE], group [FILES], refusal FILE");
            true
        }
        other => {
            say(&format!("{other} is none of: estimates, swap, group, refusal"));
            false
        }
    };
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
