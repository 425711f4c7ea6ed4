//! What an engine process does to itself before it has threads and before it opens the model file, and what it
//! knows of itself later.

pub mod limits;
pub mod resident;
pub mod sandbox;
pub mod slice;

use std::num::NonZero;
use std::path::PathBuf;

use resident::Resident;

/// What the front told this process on its command line.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The model file.
    pub model: PathBuf,
    /// Process id of the front.
    pub parent: i32,
    /// How willingly the kernel kills this process when memory is short, -1000 to 1000.
    pub oom_score_adj: i32,
}

/// What the process looked up while it could still look around.
#[derive(Debug)]
pub struct Surroundings {
    /// Cores that it may use, by its affinity and its control group.
    pub cores: usize,
    /// How much memory it has.
    pub memory: Resident,
    /// What became of its sandbox.
    pub sandbox: String,
}

impl Surroundings {
    /// Looks around, and then lets the sandbox `close`.
    pub fn before(close: impl FnOnce() -> sandbox::Report) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let memory = Resident::open();
        Self { cores, memory, sandbox: close().to_string() }
    }
}
