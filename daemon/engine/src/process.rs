//! What an engine process does to itself before it has threads and before it opens the model file, and what it
//! knows of itself later.

pub mod limits;
pub mod resident;
pub mod sandbox;
pub mod slice;

use std::path::PathBuf;

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
