//! How short of memory the board is, as the kernel's pressure stall information (PSI) says: the share of time in
//! which processes wait for memory instead of getting on.
//!
//! Reading large files makes processes wait, too, for pages that it has driven out. So it counts only where memory is
//! short as well: less is to be had than the budget leaves on purpose.
//!
//! Where the kernel has triggers, it wakes the daemon when there is pressure, and nothing is looked at before.
//! Else, and until a pressure is over, the figures are read every few seconds, but only while a model is in memory.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use super::memory::MemoryReader;
use crate::config::live::Live;
use crate::engines::{Engines, ModelState, Snapshot};
use crate::memory::Level;
use crate::units::Bytes;

/// How often the figures are read where the kernel does not wake the daemon, and while there is pressure.
const EVERY: Duration = Duration::from_secs(5);

/// From here on there is pressure: percent of the last ten seconds in which some process waited.
const SOME: f64 = 20.0;

/// From here on the board does little else: percent of the last ten seconds in which all waited.
const FULL: f64 = 10.0;

/// The kernel wakes the daemon at the same shares of two seconds, in microseconds. Windows of whole seconds times two
/// are what a process without privileges may ask for (Linux 6.3 on).
const TRIGGERS: [(&str, Level); 2] =
    [("some 400000 2000000", Level::Some), ("full 200000 2000000", Level::Full)];

/// Share of time that processes waited for memory in the last ten seconds, in percent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stall {
    /// Some process did.
    pub some: f64,
    /// All did.
    pub full: f64,
}

/// What is known.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Report {
    /// How short of memory the board is.
    pub level: Level,
    /// Where that comes from.
    pub source: Source,
    /// The figures.
    pub stall: Option<Stall>,
}

/// Where a report comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// The kernel does not say.
    #[default]
    Nowhere,
    /// The figures are read.
    Figures,
    /// The kernel wakes the daemon.
    Triggers,
}

/// Reads pressure below a root folder.
#[derive(Clone, Debug)]
pub struct PressureReader {
    root: PathBuf,
}

/// Something that the kernel wakes us for.
struct Trigger {
    file: AsyncFd<File>,
    level: Level,
}

impl PressureReader {
    /// A reader of the board whose file system is at `root`, `/` for the real one.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The figures as they are now: the worst of the board's and those of the daemon's control group. `None` where
    /// the kernel does not say.
    pub fn read(&self) -> Option<Stall> {
        let stalls = self.files().into_iter().filter_map(|file| parse(&std::fs::read_to_string(file).ok()?));
        stalls.reduce(|a, b| Stall { some: a.some.max(b.some), full: a.full.max(b.full) })
    }

    /// Whether there is memory to be had, whatever processes wait for.
    fn is_ample(&self, reserve: Bytes) -> bool {
        MemoryReader::new(&self.root).is_ample(reserve)
    }

    fn files(&self) -> Vec<PathBuf> {
        let groups = std::fs::read_to_string(self.root.join("proc/self/cgroup")).unwrap_or_default();
        let group = groups.lines().find_map(|line| line.strip_prefix("0::"));
        let own = group.map(|group| {
            let folder = self.root.join("sys/fs/cgroup").join(group.trim_start_matches('/'));
            folder.join("memory.pressure")
        });
        std::iter::once(self.root.join("proc/pressure/memory"))
            .chain(own)
            .filter(|file| file.exists())
            .collect()
    }

    /// Asks the kernel to wake us, of each file; and whether it will for all of them. The file of a control group is
    /// often another's to write.
    fn triggers(&self) -> (Vec<Trigger>, bool) {
        let (mut triggers, mut all) = (Vec::new(), true);
        for file in self.files() {
            match triggers_of(&file) {
                Ok(of_file) => triggers.extend(of_file),
                Err(error) => {
                    let file = file.display();
                    tracing::debug!(%error, %file, "The kernel does not tell of memory pressure by itself");
                    all = false;
                }
            }
        }
        (triggers, all)
    }
}

fn triggers_of(file: &Path) -> io::Result<Vec<Trigger>> {
    let set = |(words, level)| trigger(file, words).map(|file| Trigger { file, level });
    TRIGGERS.into_iter().map(set).collect()
}

#[expect(deprecated, reason = "unsound only for a type that does not own its descriptor, as this one does")]
fn trigger(file: &Path, words: &str) -> io::Result<AsyncFd<File>> {
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let mut file = OpenOptions::new().read(true).write(true).custom_flags(nonblocking).open(file)?;
    // The kernel takes the last byte for the end of the text, whatever it is.
    file.write_all(format!("{words}\0").as_bytes())?;
    AsyncFd::with_interest(file, Interest::PRIORITY)
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same for `full`.
fn parse(text: &str) -> Option<Stall> {
    let average = |kind: &str| -> Option<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
        line.split_whitespace().find_map(|field| field.strip_prefix("avg10="))?.parse().ok()
    };
    // A kernel may say nothing of `full` for the whole board.
    Some(Stall { some: average("some ")?, full: average("full ").unwrap_or(0.0) })
}

/// What figures mean. Pressure that is there ends only once it has fallen to half of where it begins.
fn judge(stall: Option<Stall>, woken: Level, before: Level) -> Level {
    let Some(Stall { some, full }) = stall else { return woken };
    let ease = |level: Level| if before >= level { 0.5 } else { 1.0 };
    let read = if full >= FULL * ease(Level::Full) {
        Level::Full
    } else if some >= SOME * ease(Level::Some) {
        Level::Some
    } else {
        Level::None
    };
    read.max(woken)
}

/// Watches the pressure, and tells the engines as long as there is some.
pub async fn run(engines: Engines, config: Live, reader: PressureReader, report: watch::Sender<Report>) {
    let (triggers, all) = reader.triggers();
    let source = match (triggers.is_empty(), reader.read()) {
        (false, _) => Source::Triggers,
        (true, Some(_)) => Source::Figures,
        (true, None) => Source::Nowhere,
    };
    if source == Source::Nowhere {
        tracing::warn!("The kernel does not tell of memory pressure: start it with psi=1");
    }
    let mut states = engines.watch();
    let mut level = Level::None;
    loop {
        let used = is_used(&states.borrow_and_update());
        let polls = level > Level::None || (used && !all && source != Source::Nowhere);
        let woken = tokio::select! {
            woken = woken(&triggers) => woken,
            () = tokio::time::sleep(EVERY), if polls => Level::None,
            changed = states.changed() => match changed {
                // A look at the figures is due when a model comes or goes, too.
                Ok(()) => Level::None,
                Err(_) => return,
            },
        };
        let stall = reader.read();
        let judged = judge(stall, woken, level);
        let (before, now) =
            (level, if reader.is_ample(config.now().memory.reserve) { Level::None } else { judged });
        level = now;
        report.send_replace(Report { level, source, stall });
        if now != before {
            tracing::warn!(
                ?level,
                some = stall.map(|s| s.some),
                full = stall.map(|s| s.full),
                "Memory pressure"
            );
        }
        if now != before || (now > Level::None && used) {
            engines.pressure(level).await;
            // What was given back shows in the figures only after a while.
            tokio::time::sleep(EVERY / 2).await;
        }
    }
}

fn is_used(states: &Snapshot) -> bool {
    let kinds = [ModelState::Loading, ModelState::Ready, ModelState::Unloading];
    states.values().any(|status| kinds.contains(&status.state))
}

/// Resolves when the kernel says that there is pressure.
async fn woken(triggers: &[Trigger]) -> Level {
    let waits = triggers.iter().map(|trigger| {
        Box::pin(async {
            match trigger.file.ready(Interest::PRIORITY).await {
                Ok(mut ready) => {
                    ready.clear_ready();
                    trigger.level
                }
                Err(_) => std::future::pending().await,
            }
        })
    });
    let waits: Vec<_> = waits.collect();
    if waits.is_empty() {
        return std::future::pending().await;
    }
    futures_util::future::select_all(waits).await.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "some avg10=12.50 avg60=1.00 avg300=0.10 total=2719626\n\
                        full avg10=3.25 avg60=0.00 avg300=0.00 total=1366637\n";

    fn board(files: &[(&str, &str)]) -> (tempfile::TempDir, PressureReader) {
        let root = tempfile::tempdir().expect("a temporary folder");
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("make folders");
            std::fs::write(path, text).expect("write a file");
        }
        let reader = PressureReader::new(root.path());
        (root, reader)
    }

    #[test]
    fn the_worst_of_board_and_control_group_counts() {
        let (_root, reader) = board(&[("proc/pressure/memory", TEXT)]);
        assert_eq!(reader.read(), Some(Stall { some: 12.5, full: 3.25 }));
        let (_root, reader) = board(&[
            ("proc/pressure/memory", TEXT),
            ("proc/self/cgroup", "0::/system.slice/hearth.service\n"),
            ("sys/fs/cgroup/system.slice/hearth.service/memory.pressure", "some avg10=40.00 total=1\n"),
        ]);
        assert_eq!(reader.read(), Some(Stall { some: 40.0, full: 3.25 }));
        let (_root, reader) = board(&[]);
        assert_eq!(reader.read(), None);
        assert!(reader.triggers().0.is_empty());
    }

    #[tokio::test]
    async fn the_kernel_takes_our_triggers_where_it_has_any() {
        let file = "/proc/pressure/memory";
        if OpenOptions::new().read(true).write(true).open(file).is_err() {
            eprintln!("not run: {file} is not there or not ours to write");
            return;
        }
        let (triggers, _) = PressureReader::new("/").triggers();
        assert!(triggers.len() >= TRIGGERS.len(), "{} triggers", triggers.len());
    }

    #[test]
    fn pressure_ends_later_than_it_begins() {
        let stall = |some, full| Some(Stall { some, full });
        assert_eq!(judge(stall(19.0, 0.0), Level::None, Level::None), Level::None);
        assert_eq!(judge(stall(20.0, 0.0), Level::None, Level::None), Level::Some);
        assert_eq!(judge(stall(11.0, 0.0), Level::None, Level::Some), Level::Some);
        assert_eq!(judge(stall(9.0, 0.0), Level::None, Level::Some), Level::None);
        assert_eq!(judge(stall(90.0, 12.0), Level::None, Level::Some), Level::Full);
        assert_eq!(judge(stall(0.0, 0.0), Level::Full, Level::None), Level::Full, "the kernel said so");
        assert_eq!(judge(None, Level::None, Level::Full), Level::None);
    }
}
