//! Whether the kernel has killed processes for lack of memory.

use std::path::PathBuf;

/// Reads the kernel's count below a root folder.
#[derive(Clone, Debug)]
pub struct OomReader {
    root: PathBuf,
}

impl OomReader {
    /// A reader of the board whose file system is at `root`, `/` for the real one.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Processes killed since the board was started, those of control groups included; 0 where the kernel does not
    /// count (before 4.13).
    pub fn kills(&self) -> u64 {
        let text = std::fs::read_to_string(self.root.join("proc/vmstat")).unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_count_is_read() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let reader = OomReader::new(root.path());
        assert_eq!(reader.kills(), 0, "it does not say");
        std::fs::create_dir(root.path().join("proc")).expect("make a folder");
        std::fs::write(root.path().join("proc/vmstat"), "pgfault 7\noom_kill 3\n").expect("write a file");
        assert_eq!(reader.kills(), 3);
    }
}
