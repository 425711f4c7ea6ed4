//! How much memory this process has.

use std::io;

/// Resident bytes of this process: anonymous, shared, and pages of files that it has mapped. Pages that it shares with
/// other processes are parted among them, as the front counts an engine's.
///
/// # Errors
/// Where the system does not say.
pub fn resident() -> io::Result<u64> {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup")?;
    proportional(&rollup).ok_or_else(|| io::Error::other("no proportional size in /proc/self/smaps_rollup"))
}

/// The kernel gives it in KiB.
fn proportional(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    #[test]
    fn shared_pages_are_parted() {
        let rollup = "55-7f ---p 00 00:00 0 [rollup]\nRss:\t  99 kB\nPss:\t  12 kB\nPss_Anon:\t  5 kB\n";
        assert_eq!(super::proportional(rollup), Some(12 * 1024));
        assert_eq!(super::proportional("Rss:\t  99 kB\n"), None);
        assert!(super::resident().is_ok_and(|bytes| bytes > 0));
    }
}
