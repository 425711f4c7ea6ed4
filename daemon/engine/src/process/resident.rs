//! How much memory this process has.

use std::io;

/// Resident bytes of this process: anonymous, shared, and pages of files that it has mapped.
///
/// # Errors
/// Where the system does not say.
pub fn resident() -> io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    sum(&status).ok_or_else(|| io::Error::other("no resident sizes in /proc/self/status"))
}

/// The three parts, which the kernel gives in KiB.
fn sum(status: &str) -> Option<u64> {
    let of = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse().ok()
    };
    let parts = [of("RssAnon")?, of("RssFile")?, of("RssShmem")?];
    parts.iter().try_fold(0, |sum: u64, part| sum.checked_add(part.checked_mul(1024)?))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_parts_are_added() {
        let status = "Name:\tx\nVmRSS:\t  99 kB\nRssAnon:\t   5 kB\nRssFile:\t 7 kB\nRssShmem:\t 0 kB\n";
        assert_eq!(super::sum(status), Some(12 * 1024));
        assert_eq!(super::sum("VmRSS:\t  99 kB\n"), None);
        assert!(super::resident().is_ok_and(|bytes| bytes > 0));
    }
}
