//! Memory control groups of the test's own, where it may make them.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A control group of our own; it is removed at the end.
#[derive(Debug)]
pub struct Group {
    folder: PathBuf,
    limit_file: &'static str,
}

impl Group {
    /// Of version 2 where memory is governed by that, else of version 1.
    ///
    /// # Errors
    /// Where that is not allowed.
    pub fn make(limit: u64) -> std::io::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("hearth-test-{}-{number}", std::process::id());
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

    /// What a command is started through to be in it: a shell that moves itself there, and becomes the command.
    pub fn enter(&self) -> Vec<String> {
        let enter = format!("echo $$ > {}/cgroup.procs && exec \"$0\" \"$@\"", self.folder.display());
        ["sh", "-c", &enter].map(str::to_owned).to_vec()
    }

    /// Moves a process into it. What it has already stays where it is counted.
    ///
    /// # Errors
    /// Where there is no such process.
    pub fn take(&self, pid: u32) -> std::io::Result<()> {
        std::fs::write(self.folder.join("cgroup.procs"), pid.to_string())
    }

    /// The most that it had, pages of files included; 0 where the kernel does not say.
    pub fn peak(&self) -> u64 {
        let files = ["memory.peak", "memory.max_usage_in_bytes"];
        let text = files.iter().find_map(|file| std::fs::read_to_string(self.folder.join(file)).ok());
        text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    /// Processes that the kernel killed in it.
    pub fn kills(&self) -> u64 {
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
