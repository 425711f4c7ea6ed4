//! What the kernel knows of a process.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Pid;

fn folder(pid: Pid) -> PathBuf {
    Path::new("/proc").join(pid.as_raw_pid().to_string())
}

/// A file of each thread; threads that end meanwhile are left out.
fn of_threads(pid: Pid, name: &str) -> Vec<String> {
    let tasks = std::fs::read_dir(folder(pid).join("task")).into_iter().flatten();
    tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join(name)).ok()).collect()
}

/// The number behind `key:` in a status file.
fn field(status: &str, key: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Time on a core, of all threads that are alive.
pub(crate) fn cpu_time(pid: Pid) -> Duration {
    let nanos = |text: &String| text.split_whitespace().next()?.parse::<u64>().ok();
    Duration::from_nanos(of_threads(pid, "schedstat").iter().filter_map(nanos).sum())
}

/// How often threads went to sleep by themselves, which is how often they were woken.
pub(crate) fn voluntary_switches(pid: Pid) -> u64 {
    of_threads(pid, "status").iter().filter_map(|status| field(status, "voluntary_ctxt_switches")).sum()
}

/// Resident memory in bytes, file pages included.
pub(crate) fn resident(pid: Pid) -> u64 {
    let status = std::fs::read_to_string(folder(pid).join("status")).unwrap_or_default();
    field(&status, "VmRSS").unwrap_or(0) * 1024
}

/// What the kernel calls the processor.
pub(crate) fn cpu_name() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let of =
        |key: &str| text.lines().find(|line| line.starts_with(key))?.split_once(':').map(|(_, name)| name);
    of("model name").or_else(|| of("Model")).unwrap_or("unknown").trim().to_owned()
}

/// Cores that this program may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
