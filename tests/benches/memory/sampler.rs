//! What processes take, sampled again and again beside the work.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Between two samples.
const EVERY: Duration = Duration::from_millis(50);

/// Bytes of one process, or of several.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sample {
    pub(crate) anonymous: u64,
    pub(crate) file: u64,
    pub(crate) shared: u64,
}

/// The most that a process took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Peak {
    /// Of all at a time.
    pub(crate) total: u64,
    /// Of each part, at times of their own.
    parts: Sample,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// The largest sum over all processes.
    pub(crate) peak: u64,
    /// Of each process.
    pub(crate) peaks: BTreeMap<u32, Peak>,
    pub(crate) samples: u64,
    /// The most processes at a time.
    pub(crate) processes: usize,
    /// The largest gap between two samples.
    pub(crate) gap: Duration,
}

/// Samples a process and all its children until it is stopped.
pub(crate) struct Sampler {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    thread: JoinHandle<()>,
}

impl Sample {
    pub(crate) fn total(&self) -> u64 {
        self.anonymous + self.file + self.shared
    }

    /// Of a process that is there.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
        };
        Some(Self { anonymous: field("Pss_Anon:")?, file: field("Pss_File:")?, shared: field("Pss_Shmem:")? })
    }
}

impl Peak {
    fn note(&mut self, sample: Sample) {
        self.total = self.total.max(sample.total());
        let Sample { anonymous, file, shared } = &mut self.parts;
        *anonymous = (*anonymous).max(sample.anonymous);
        *file = (*file).max(sample.file);
        *shared = (*shared).max(sample.shared);
    }

    /// What it would have taken had the kernel taken no page of a file back, as it does where others read files: for a
    /// process whose files stay mapped.
    pub(crate) fn with_files(&self) -> u64 {
        self.parts.total()
    }
}

impl Sampler {
    /// Of the daemon with this process id, and its engines.
    pub(crate) fn start(daemon: u32) -> Self {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Seen::default())));
        let (until, to) = (Arc::clone(&stop), Arc::clone(&seen));
        let thread = std::thread::spawn(move || {
            let mut last = Instant::now();
            while !until.load(Ordering::Relaxed) {
                sample(daemon, &to, last.elapsed());
                last = Instant::now();
                std::thread::sleep(EVERY);
            }
        });
        Self { stop, seen, thread }
    }

    /// What was seen in all.
    pub(crate) fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the sampler ends");
        Arc::try_unwrap(self.seen)
            .expect("nobody else has it")
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn sample(daemon: u32, to: &Mutex<Seen>, gap: Duration) {
    let samples: Vec<(u32, Sample)> =
        with_children(daemon).into_iter().filter_map(|pid| Some((pid, Sample::of(pid)?))).collect();
    let mut seen = to.lock().unwrap_or_else(PoisonError::into_inner);
    seen.peak = seen.peak.max(samples.iter().map(|(_, sample)| sample.total()).sum());
    seen.samples += 1;
    seen.processes = seen.processes.max(samples.len());
    seen.gap = seen.gap.max(gap);
    for (pid, sample) in samples {
        let known = seen.peaks.entry(pid).or_default();
        known.note(sample);
    }
}

fn with_children(daemon: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{daemon}/task")).into_iter().flatten().flatten();
    let children = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let children: Vec<u32> = children
        .flat_map(|pids| pids.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect();
    std::iter::once(daemon).chain(children).collect()
}
