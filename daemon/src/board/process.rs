//! What the daemon's own process uses.

use std::path::PathBuf;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::units::Bytes;

/// Reads figures of this process below a root folder.
#[derive(Clone, Debug)]
pub struct ProcessReader {
    root: PathBuf,
}

/// What this process uses now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Memory that is really there.
    pub resident: Bytes,
    /// Processor time since the start, in user and kernel mode.
    pub cpu: Duration,
    /// Threads.
    pub threads: u32,
}

impl ProcessReader {
    /// A reader of the board whose file system is at `root`, `/` for the real one.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The figures as they are now; `None` where the board does not say.
    pub fn read(&self) -> Option<Usage> {
        let status = std::fs::read_to_string(self.root.join("proc/self/status")).ok()?;
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let kib: u64 = field("VmRSS:")?.strip_suffix("kB")?.trim().parse().ok()?;
        let threads = field("Threads:")?.parse().ok()?;
        let time = clock_gettime(ClockId::ProcessCPUTime);
        let cpu = Duration::try_from(time).unwrap_or_default();
        Some(Usage { resident: Bytes(kib.saturating_mul(1024)), cpu, threads })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        let usage = ProcessReader::new("/").read().expect("the kernel says");
        assert!(usage.resident > Bytes(0) && usage.threads > 0 && !usage.cpu.is_zero());
    }

    #[test]
    fn a_board_that_does_not_say_has_no_figures() {
        let root = tempfile::tempdir().expect("a temporary folder");
        assert_eq!(ProcessReader::new(root.path()).read(), None);
    }
}
