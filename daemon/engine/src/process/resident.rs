//! How much memory this process has.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// The kernel's own count of this process's memory, kept open: the sandbox lets nobody open it later.
#[derive(Debug)]
pub struct Resident(io::Result<File>);

/// Far more than the kernel writes.
const ROLLUP_BYTES: usize = 4096;

impl Resident {
    /// Opens it. Where that fails, every look says so.
    pub fn open() -> Self {
        Self(File::open("/proc/self/smaps_rollup"))
    }

    /// Resident bytes of this process: anonymous, shared, and pages of files that it has mapped. Pages that it shares
    /// with other processes are parted among them, as the front counts an engine's.
    ///
    /// # Errors
    /// Where the system does not say.
    pub fn bytes(&self) -> io::Result<u64> {
        let file = self.0.as_ref().map_err(|error| io::Error::new(error.kind(), error.to_string()))?;
        let mut rollup = [0; ROLLUP_BYTES];
        // Read from the start the kernel counts anew, and gives all of it at once.
        let length = file.read_at(&mut rollup, 0)?;
        let rollup = String::from_utf8_lossy(&rollup[..length]);
        proportional(&rollup)
            .ok_or_else(|| io::Error::other("no proportional size in /proc/self/smaps_rollup"))
    }
}

/// The kernel gives it in KiB.
fn proportional(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_pages_are_parted() {
        let rollup = "55-7f ---p 00 00:00 0 [rollup]\nRss:\t  99 kB\nPss:\t  12 kB\nPss_Anon:\t  5 kB\n";
        assert_eq!(proportional(rollup), Some(12 * 1024));
        assert_eq!(proportional("Rss:\t  99 kB\n"), None);
    }

    #[test]
    fn each_look_counts_anew() {
        const MORE: usize = 64 << 20;
        let resident = Resident::open();
        let before = resident.bytes().unwrap();
        let more = vec![1u8; MORE];
        let after = resident.bytes().unwrap();
        drop(std::hint::black_box(more));
        assert!(after >= before + MORE as u64 / 2, "{before}, {after}");
    }
}
