//! Threads that want all of a core, at the usual nice value.

use std::process::{Child, Command, Stdio};

/// What this program is started with to be one of them.
pub(crate) const FLAG: &str = "--spin";

/// So many busy threads, each a process of its own; they end with this value.
#[derive(Debug)]
pub(crate) struct Busy(Vec<Child>);

impl Busy {
    pub(crate) fn start(count: usize) -> Self {
        let program = std::env::current_exe().expect("the path of this program");
        let start =
            |_| Command::new(&program).arg(FLAG).stdin(Stdio::null()).spawn().expect("a busy process");
        Self((0..count).map(start).collect())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// Never sleeps, and ends only when the program that started it is gone.
pub(crate) fn spin() {
    let starter = std::os::unix::process::parent_id();
    let mut turns = 0u64;
    while turns % (1 << 30) != 1 || std::os::unix::process::parent_id() == starter {
        turns = std::hint::black_box(turns.wrapping_add(1));
    }
}

/// What is left of the quiet speed where the scheduler is fair: `cores` shared between `engine` threads
/// and `busy` ones, each of which wants a whole core.
pub(crate) fn fair_share(cores: usize, engine: usize, busy: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a handful of threads")]
    let share = |threads: usize| (cores as f64 / threads as f64).min(1.0);
    share(engine + busy) / share(engine)
}
