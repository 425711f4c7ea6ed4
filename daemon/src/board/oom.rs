//! Whom the kernel kills for lack of memory, and whether it has.

use std::path::PathBuf;

/// The daemon is among the last that the kernel should kill: without it the board has no models, and its engines,
/// which are among the first, give back far more. Engines set their own value.
const SCORE_ADJ: i32 = -500;

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

    /// Asks the kernel to kill this process late. It may refuse: that takes a privilege, which a service manager has
    /// (`OOMScoreAdjust=`).
    pub fn spare_this_process(&self) {
        let file = self.root.join("proc/self/oom_score_adj");
        let is_spared = std::fs::read_to_string(&file).ok().and_then(|text| text.trim().parse::<i32>().ok());
        if is_spared.is_some_and(|now| now <= SCORE_ADJ) {
            return;
        }
        if let Err(error) = std::fs::write(file, SCORE_ADJ.to_string()) {
            tracing::debug!(%error, "The kernel does not spare the daemon when memory runs out");
        }
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
        std::fs::create_dir(root.path().join("proc/self")).expect("make a folder");
        reader.spare_this_process();
        let adjusted = std::fs::read_to_string(root.path().join("proc/self/oom_score_adj"));
        assert_eq!(adjusted.expect("written"), "-500");
    }
}
