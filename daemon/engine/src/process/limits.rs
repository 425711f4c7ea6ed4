//! The process's place in the world: it dies with the front, leaves no core file, and is the first that
//! the kernel kills when memory is short.

use std::io;

use rustix::process::{Resource, Rlimit, Signal};

use super::Spec;

/// Why the limits could not be set.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// The front died while this process started.
    #[error("the front (process {parent}) is gone")]
    ParentGone {
        /// Its process id.
        parent: i32,
    },
    /// A system call failed.
    #[error("set {what}")]
    System {
        /// What was being set.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// Sets the limits.
///
/// # Errors
/// [`LimitError`]; the process must end then.
pub fn apply(spec: &Spec) -> Result<(), LimitError> {
    let system = |what| move |errno: rustix::io::Errno| LimitError::System { what, source: errno.into() };
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(system("the parent death signal"))?;
    // The front may have died before the signal was set.
    let parent = rustix::process::getppid().map_or(0, rustix::process::Pid::as_raw_pid);
    if parent != spec.parent {
        return Err(LimitError::ParentGone { parent: spec.parent });
    }
    let no_core = Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(Resource::Core, no_core).map_err(system("the core file limit"))?;
    raise_oom_score(spec.oom_score_adj).map_err(|source| LimitError::System { what: "oom_score_adj", source })
}

/// Raising is always allowed; a higher value that a service manager gave stays, as lowering it is not.
fn raise_oom_score(wanted: i32) -> io::Result<()> {
    const FILE: &str = "/proc/self/oom_score_adj";
    let now = std::fs::read_to_string(FILE)?.trim().parse().unwrap_or(0);
    if wanted > now { std::fs::write(FILE, wanted.to_string()) } else { Ok(()) }
}
