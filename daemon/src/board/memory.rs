//! How much memory there is to have.

use std::path::{Path, PathBuf};

use crate::units::Bytes;

/// Reads memory figures below a root folder.
#[derive(Clone, Debug)]
pub struct MemoryReader {
    root: PathBuf,
}

/// What the board says about memory now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryReport {
    /// `MemAvailable`: what programs can take without swapping.
    pub available: Option<Bytes>,
    /// The tightest limit of the daemon's control group and its parents.
    pub cgroup_limit: Option<Bytes>,
}

impl MemoryReader {
    /// A reader of the board whose file system is at `root`, `/` for the real one.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The figures as they are now.
    pub fn read(&self) -> MemoryReport {
        MemoryReport { available: self.available(), cgroup_limit: self.cgroup_limit() }
    }

    fn available(&self) -> Option<Bytes> {
        let meminfo = self.text("proc/meminfo")?;
        let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kib.checked_mul(1024).map(Bytes)
    }

    /// Version 2: the limit of each group from the daemon's own up to the root.
    fn cgroup_limit(&self) -> Option<Bytes> {
        let groups = self.text("proc/self/cgroup")?;
        let own = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
        let own = Path::new(own.trim_start_matches('/'));
        own.ancestors().filter_map(|group| self.limit_of(group)).min()
    }

    fn limit_of(&self, group: &Path) -> Option<Bytes> {
        let file = Path::new("sys/fs/cgroup").join(group).join("memory.max");
        self.text(file)?.trim().parse().ok().map(Bytes)
    }

    fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        std::fs::read_to_string(self.root.join(path)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board(files: &[(&str, &str)]) -> (tempfile::TempDir, MemoryReader) {
        let root = tempfile::tempdir().expect("a temporary folder");
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("make folders");
            std::fs::write(path, text).expect("write a file");
        }
        let reader = MemoryReader::new(root.path());
        (root, reader)
    }

    #[test]
    fn the_tightest_group_counts() {
        let (_root, reader) = board(&[
            ("proc/meminfo", "MemTotal: 9 kB\nMemAvailable:    2048 kB\n"),
            ("proc/self/cgroup", "0::/system.slice/hearth.service\n"),
            ("sys/fs/cgroup/system.slice/hearth.service/memory.max", "max\n"),
            ("sys/fs/cgroup/system.slice/memory.max", "4096\n"),
        ]);
        let report = MemoryReport { available: Some(Bytes(2 << 20)), cgroup_limit: Some(Bytes(4096)) };
        assert_eq!(reader.read(), report);
    }

    #[test]
    fn a_board_without_the_files_says_nothing() {
        let (_root, reader) = board(&[]);
        assert_eq!(reader.read(), MemoryReport { available: None, cgroup_limit: None });
    }
}
