//! What a process really takes, page by page, as the kernel counts it.

use std::path::PathBuf;

use crate::units::Bytes;

/// Reads figures of processes below a root folder.
#[derive(Clone, Debug)]
pub struct ChargeReader {
    root: PathBuf,
}

/// Memory of a process. A page that several processes share is parted among them, so that over all of them each page
/// counts once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Charge {
    /// Its own, in memory or swapped out.
    pub anonymous: Bytes,
    /// Pages of files.
    pub file: Bytes,
    /// Shared memory.
    pub shared: Bytes,
    /// Memory of the board that a GPU's driver has for it. The kernel counts that to no process; an engine tells.
    pub gpu: Bytes,
}

impl Charge {
    /// All of it.
    pub fn total(&self) -> Bytes {
        self.anonymous + self.file + self.shared + self.gpu
    }
}

impl ChargeReader {
    /// A reader of the board whose file system is at `root`, `/` for the real one.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The figures as they are now; `None` for a process that has ended. Walks the page tables of the process: some
    /// milliseconds for each gigabyte. Kernels before 5.9 do not part the sum by kind, and count as its own all
    /// that is not a file's.
    pub fn of(&self, pid: u32) -> Option<Charge> {
        let text = std::fs::read_to_string(self.root.join(format!("proc/{pid}/smaps_rollup"))).ok()?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
            Some(Bytes(kib.saturating_mul(1024)))
        };
        // What was swapped out comes back.
        let swapped = field("SwapPss:").unwrap_or_default();
        let (all, anonymous) = (field("Pss:")?, field("Pss_Anon:"));
        let Some(anonymous) = anonymous else {
            let own = field("Anonymous:")?;
            let file = all.saturating_sub(own);
            return Some(Charge { anonymous: own + swapped, file, ..Charge::default() });
        };
        Some(Charge {
            anonymous: anonymous + swapped,
            file: field("Pss_File:")?,
            shared: field("Pss_Shmem:")?,
            gpu: Bytes(0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(text: &str) -> (tempfile::TempDir, ChargeReader) {
        let root = tempfile::tempdir().expect("a temporary folder");
        let folder = root.path().join("proc/7");
        std::fs::create_dir_all(&folder).expect("make folders");
        std::fs::write(folder.join("smaps_rollup"), text).expect("write a file");
        let reader = ChargeReader::new(root.path());
        (root, reader)
    }

    #[test]
    fn the_parts_are_told_apart() {
        let text = "5581-7ffd ---p 00000000 00:00 0 [rollup]\nRss:  99 kB\nPss:  60 kB\nPss_Anon:  40 kB\n\
                    Pss_File:  18 kB\nPss_Shmem:  2 kB\nAnonymous:  40 kB\n";
        let (_root, reader) = reader(text);
        let charge = reader.of(7).expect("it runs");
        assert_eq!(
            charge,
            Charge {
                anonymous: Bytes(40 << 10),
                file: Bytes(18 << 10),
                shared: Bytes(2 << 10),
                gpu: Bytes(0)
            }
        );
        assert_eq!(charge.total(), Bytes(60 << 10));
        assert_eq!(reader.of(8), None);
    }

    #[test]
    fn an_old_kernel_says_less() {
        let (_root, reader) = reader("x\nRss:  99 kB\nPss:  60 kB\nAnonymous:  40 kB\n");
        let charge = reader.of(7).expect("it runs");
        assert_eq!((charge.anonymous, charge.file), (Bytes(40 << 10), Bytes(20 << 10)));
    }

    #[test]
    fn this_process_takes_something() {
        let charge = ChargeReader::new("/").of(std::process::id()).expect("the kernel says");
        assert!(charge.anonymous > Bytes(0) && charge.file > Bytes(0));
    }
}
