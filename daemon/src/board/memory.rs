//! How much memory there is to have.

use std::path::{Path, PathBuf};

use crate::memory::GROUP_MARGIN;
use crate::units::Bytes;

/// Reads memory figures below a root folder.
#[derive(Clone, Debug)]
pub struct MemoryReader {
    root: PathBuf,
}

/// What the board says about memory now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryReport {
    /// `MemAvailable`: what programs can take without swapping.
    pub available: Option<Bytes>,
    /// The daemon's control group and its parents, as far as they have a limit.
    pub groups: Vec<GroupReport>,
}

/// What a control group says about its memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupReport {
    /// Its path below the root of the control groups.
    pub path: String,
    /// What its processes may have in all, before they are slowed down or killed.
    pub limit: Bytes,
    /// What they have, pages of files left out: the kernel takes those back before it kills.
    pub used: Bytes,
}

/// Where one version of control groups keeps its figures.
struct Layout {
    mount: &'static str,
    limit: &'static str,
    /// Above this the kernel slows a group down until it is below again.
    throttle: Option<&'static str>,
    used: &'static str,
    /// In `memory.stat`: pages of files.
    files: [&'static str; 2],
}

const VERSION_2: Layout = Layout {
    mount: "sys/fs/cgroup",
    limit: "memory.max",
    throttle: Some("memory.high"),
    used: "memory.current",
    files: ["inactive_file", "active_file"],
};
const VERSION_1: Layout = Layout {
    mount: "sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    throttle: None,
    used: "memory.usage_in_bytes",
    files: ["total_inactive_file", "total_active_file"],
};

/// A board with less to be had is short of memory, however small a reserve was configured.
const LEAST_RESERVE: Bytes = Bytes(64 << 20);

/// Version 1 says "no limit" by the largest number of pages.
const NO_LIMIT: u64 = 1 << 60;

impl MemoryReader {
    /// A reader of the board whose file system is at `root`, `/` for the real one.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The figures as they are now.
    pub fn read(&self) -> MemoryReport {
        MemoryReport { available: self.available(), groups: self.groups() }
    }

    /// Whether there is as much memory to be had as the budget leaves on purpose, but for a quarter: of the board's the
    /// `reserve`, at most a tenth of it; of a control group's limit [`GROUP_MARGIN`]. Processes may wait for memory all
    /// the same: for pages of files that others' reading has driven out.
    pub fn is_ample(&self, reserve: Bytes) -> bool {
        let MemoryReport { available, groups } = self.read();
        let total = self.text("proc/meminfo").and_then(|text| kib(&text, "MemTotal:"));
        let three_quarters = |bytes: u64| bytes / 4 * 3;
        let board = available.zip(total).is_none_or(|(available, total)| {
            available.0 >= three_quarters(reserve.max(LEAST_RESERVE).0).min(total.0 / 10)
        });
        let has_margin = |group: &GroupReport| {
            group.limit.saturating_sub(group.used).0 >= three_quarters(group.limit.0 / GROUP_MARGIN)
        };
        board && groups.iter().all(has_margin)
    }

    /// Anonymous and shared memory of these processes. Pages of files are left out: they are among what is
    /// available. One that has just ended has none.
    pub fn held_by(&self, pids: impl IntoIterator<Item = u32>) -> Bytes {
        let held = |pid: u32| {
            let status = self.text(format!("proc/{pid}/status")).unwrap_or_default();
            let parts = ["RssAnon:", "RssShmem:"].into_iter();
            parts.filter_map(|name| kib(&status, name)).sum::<Bytes>()
        };
        pids.into_iter().map(held).sum()
    }

    fn available(&self) -> Option<Bytes> {
        kib(&self.text("proc/meminfo")?, "MemAvailable:")
    }

    /// Each group from the daemon's own up to the root.
    fn groups(&self) -> Vec<GroupReport> {
        let groups = self.text("proc/self/cgroup").unwrap_or_default();
        let mut found = Vec::new();
        for line in groups.lines() {
            let mut parts = line.splitn(3, ':');
            let (_, Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
                continue;
            };
            let layout = match controllers {
                "" => VERSION_2,
                named if named.split(',').any(|name| name == "memory") => VERSION_1,
                _ => continue,
            };
            let own = Path::new(path.trim_start_matches('/'));
            found.extend(own.ancestors().filter_map(|group| self.group(&layout, group)));
        }
        found
    }

    fn group(&self, layout: &Layout, group: &Path) -> Option<GroupReport> {
        let folder = Path::new(layout.mount).join(group);
        let number = |file: &str| self.text(folder.join(file))?.trim().parse::<u64>().ok();
        let limits = std::iter::once(layout.limit).chain(layout.throttle);
        let limit = limits.filter_map(number).min().filter(|limit| *limit < NO_LIMIT)?;
        let stat = self.text(folder.join("memory.stat")).unwrap_or_default();
        let field = |name: &str| -> u64 {
            let mut lines = stat.lines().filter_map(|line| line.split_once(' '));
            lines.find(|(field, _)| *field == name).and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
        };
        let files: u64 = layout.files.iter().map(|name| field(name)).sum();
        let used = number(layout.used).unwrap_or(0).saturating_sub(files);
        let path = Path::new("/").join(group).display().to_string();
        Some(GroupReport { path, limit: Bytes(limit), used: Bytes(used) })
    }

    fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        std::fs::read_to_string(self.root.join(path)).ok()
    }
}

/// A line such as `MemAvailable:  2048 kB`.
fn kib(text: &str, name: &str) -> Option<Bytes> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024).map(Bytes)
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
    fn each_group_with_a_limit_is_told_without_its_file_pages() {
        let (_root, reader) = board(&[
            ("proc/meminfo", "MemTotal: 9 kB\nMemAvailable:    2048 kB\n"),
            ("proc/self/cgroup", "0::/system.slice/hearth.service\n"),
            ("sys/fs/cgroup/system.slice/hearth.service/memory.max", "max\n"),
            ("sys/fs/cgroup/system.slice/memory.max", "8192\n"),
            ("sys/fs/cgroup/system.slice/memory.high", "4096\n"),
            ("sys/fs/cgroup/system.slice/memory.current", "1500\n"),
            ("sys/fs/cgroup/system.slice/memory.stat", "anon 900\ninactive_file 300\nactive_file 200\n"),
        ]);
        let path = "/system.slice".to_owned();
        let group = GroupReport { path, limit: Bytes(4096), used: Bytes(1000) };
        assert_eq!(reader.read(), MemoryReport { available: Some(Bytes(2 << 20)), groups: vec![group] });
    }

    #[test]
    fn version_1_is_read_too() {
        let (_root, reader) = board(&[
            ("proc/self/cgroup", "12:cpu,cpuacct:/a\n9:memory:/docker/x\n"),
            ("sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes", "8192\n"),
            ("sys/fs/cgroup/memory/docker/x/memory.usage_in_bytes", "4096\n"),
            ("sys/fs/cgroup/memory/docker/x/memory.stat", "total_inactive_file 96\ntotal_active_file 0\n"),
            ("sys/fs/cgroup/memory/docker/memory.limit_in_bytes", "9223372036854771712\n"),
        ]);
        let path = "/docker/x".to_owned();
        assert_eq!(reader.read().groups, [GroupReport { path, limit: Bytes(8192), used: Bytes(4000) }]);
    }

    #[test]
    fn what_processes_hold_is_anonymous_or_shared() {
        let status = "VmRSS: 99 kB\nRssAnon:\t  10 kB\nRssFile:\t  80 kB\nRssShmem:\t   2 kB\n";
        let (_root, reader) = board(&[("proc/7/status", status), ("proc/8/status", status)]);
        assert_eq!(reader.held_by([7, 8, 9]), Bytes(24 << 10));
    }

    #[test]
    fn what_the_budget_leaves_is_ample() {
        let board = |total: u64, available: u64, used: u64| {
            board(&[
                ("proc/meminfo", &format!("MemTotal: {total} kB\nMemAvailable: {available} kB\n")),
                ("proc/self/cgroup", "0::/x\n"),
                ("sys/fs/cgroup/x/memory.max", "100000\n"),
                ("sys/fs/cgroup/x/memory.current", &format!("{used}\n")),
            ])
        };
        let (gib, reserve) = (1 << 20, 256 << 10);
        for (total, available, used, reserved, ample) in [
            (8 * gib, reserve * 3 / 4, 99_250, reserve, true),
            (8 * gib, reserve * 3 / 4 - 1, 99_250, reserve, false),
            (8 * gib, reserve, 99_251, reserve, false),
            (gib, gib / 10 + 1, 0, reserve, true),
            (gib, gib / 10, 0, reserve, false),
            (8 * gib, 48 << 10, 0, 0, true),
            (8 * gib, (48 << 10) - 1, 0, 0, false),
        ] {
            let (_root, reader) = board(total, available, used);
            assert_eq!(
                reader.is_ample(Bytes(reserved << 10)),
                ample,
                "{total} {available} {used} {reserved}"
            );
        }
        let (_root, reader) = self::board(&[]);
        assert!(reader.is_ample(Bytes(0)), "nothing is known");
    }

    #[test]
    fn a_board_without_the_files_says_nothing() {
        let (_root, reader) = board(&[]);
        assert_eq!(reader.read(), MemoryReport::default());
    }
}
