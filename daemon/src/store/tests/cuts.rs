//! The store's real code on a file system that loses, reorders and tears whatever it may.
//!
//! ```text
//!  Disk ──lay_out──► real directory ──Store::open, a few steps──► record of all acts
//!    ▲                                                                  │ up to a random act
//!    └──── cut: any state that a disk may be left in ◄──── Disk ◄───────┘
//! ```
//!
//! A history is a chain of such lives of one store. Each life opens what the last one left, checks it
//! against the `Ledger`, imports and removes, and ends at a random act, be it in the middle of opening.
//! Most lives end with the power; in some the process is killed, and the machine goes on with all that
//! is not on the disk yet, until the power ends a later one.
//!
//! All chance comes from the number of the history, which a finding names with the acts before it.

use std::fmt;

mod aside;
mod chance;
mod ledger;
mod life;
mod model;

use chance::Chance;
use disk::record::{self, Done};
use ledger::Ledger;
use life::{Life, Mark};
use model::Disk;

use super::*;

/// How many histories a run has, and how many power cuts a history.
const HISTORIES: u64 = 100;
const CUTS: usize = 10;

/// Acts that a disk claims to have done and does not.
type Lies = fn(&Done) -> bool;

/// What was wrong at a start, and how to find it again.
struct Finding {
    seed: u64,
    start: usize,
    what: String,
    /// The last acts before the life that found it.
    acts: Vec<String>,
}

/// A life that was not cut short yet.
struct Lived {
    acts: Vec<Done>,
    marks: Vec<Mark>,
    dir: TempDir,
}

/// A store, the disk it lies on, and what it owes.
struct History {
    seed: u64,
    chance: Chance,
    disk: Disk,
    ledger: Ledger,
    lies: Lies,
    starts: usize,
    acts: Vec<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, start, what, acts } = self;
        write!(f, "history {seed}, start {start}: {what}\nbefore it: {}", acts.join(", "))
    }
}

impl History {
    fn of(seed: u64, lies: Lies) -> Self {
        let (chance, disk, ledger) = (Chance::of(seed), Disk::empty(), Ledger::default());
        Self { seed, chance, disk, ledger, lies, starts: 0, acts: Vec::new() }
    }

    /// Lives until the power was cut so often, and starts once more. One life in five ends because the
    /// process is killed. Says how often the store started.
    fn run(seed: u64, cuts: usize, lies: Lies) -> Result<usize, Finding> {
        let mut history = Self::of(seed, lies);
        let mut done = 0;
        while done < cuts {
            let life = history.live()?;
            let end = history.somewhere_in(&life);
            history.remember(&life, end);
            if history.chance.once_in(5) {
                history.kill();
            } else {
                history.cut();
                done += 1;
            }
        }
        history.live()?;
        Ok(history.starts)
    }

    /// A first life that ends by a kill after so many acts, and a second that ends by a power cut. Says
    /// whether the first was longer.
    fn run_killed(seed: u64, end: usize) -> Result<bool, Finding> {
        let mut history = Self::of(seed, |_| false);
        let first = history.live()?;
        history.remember(&first, end);
        history.kill();
        let second = history.live()?;
        history.remember(&second, second.acts.len());
        history.cut();
        history.live()?;
        Ok(end < first.acts.len())
    }

    fn live(&mut self) -> Result<Lived, Finding> {
        self.starts += 1;
        let live = |path: &Path| Life::live(&path.join("state"), &self.ledger, &mut self.chance);
        let (lived, acts, dir) = recorded(&self.disk, live);
        match lived {
            Ok(marks) => Ok(Lived { acts, marks, dir }),
            Err(what) => Err(Finding { seed: self.seed, start: self.starts, what, acts: self.acts.clone() }),
        }
    }

    /// After how many acts a life ends. All its calls are as likely to be cut, however long they are.
    fn somewhere_in(&mut self, life: &Lived) -> usize {
        let mark = self.chance.one_of(&life.marks);
        self.chance.within(mark.from..=mark.to)
    }

    /// Takes over what was done until the end, and what was acknowledged by then.
    fn remember(&mut self, life: &Lived, end: usize) {
        let (acts, base, lies) = (&life.acts[..end], life.dir.path(), self.lies);
        acts.iter().filter(|done| !lies(done)).for_each(|done| self.disk.apply(base, done));
        self.acts = acts.iter().rev().take(30).rev().map(|done| life::brief(done, base)).collect();
        for mark in life.marks.iter().filter(|mark| mark.from < end) {
            if mark.to <= end {
                self.ledger.acknowledge(&mark.change);
            } else {
                self.ledger.begin(&mark.change);
            }
        }
    }

    fn kill(&mut self) {
        self.disk.close_all();
        self.acts.push("killed".to_owned());
    }

    fn cut(&mut self) {
        self.disk = self.disk.cut(&mut self.chance);
        self.acts.push("cut".to_owned());
    }
}

/// Does something on a disk, of which it says every act. Checks that these are all there were.
fn recorded<T>(disk: &Disk, what: impl FnOnce(&Path) -> T) -> (T, Vec<Done>, TempDir) {
    let dir = scratch();
    disk.lay_out(dir.path());
    record::start();
    let result = what(dir.path());
    let acts = record::take();
    let mut after = disk.clone();
    acts.iter().for_each(|done| after.apply(dir.path(), done));
    after.assert_is(dir.path());
    (result, acts, dir)
}

/// A directory in memory, where there is one: this file system forgets on its own, and need not wait
/// for a real one.
fn scratch() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap()
}

#[test]
fn a_thousand_power_cuts_leave_a_store_that_opens_with_all_it_owes() {
    let mut starts = 0;
    for seed in 0..HISTORIES {
        starts += History::run(seed, CUTS, |_| false).unwrap_or_else(|finding| panic!("{finding}"));
    }
    println!("{} power cuts, {starts} clean starts", HISTORIES * CUTS as u64);
}

/// What a killed daemon left in the caches is what the next one finds, and may build on.
#[test]
fn what_a_start_finds_behind_a_killed_daemon_outlives_a_power_cut() {
    for seed in 0..6 {
        let killed = |end| History::run_killed(seed, end).unwrap_or_else(|finding| panic!("{finding}"));
        assert!((0..).find(|end| !killed(*end)).is_some());
    }
}

/// All that the store waits for, with how a disk would not.
const WAITS: [(&str, Lies); 8] = [
    ("the content of files", |done| matches!(done, Done::SyncAll(_) | Done::SyncData(_))),
    ("any name", |done| syncs(done, |_| true)),
    ("the name of the state directory", |done| syncs(done, |path| !is_in_state(path))),
    ("the name of the store", |done| syncs(done, |path| path.ends_with("state"))),
    ("the names in the store", |done| syncs(done, |path| path.ends_with("models"))),
    ("the names of blobs", |done| syncs(done, |path| path.ends_with("blobs"))),
    ("the names of manifests", |done| syncs(done, |path| path.ends_with("manifests"))),
    ("the names of inspections", |done| syncs(done, is_of_one_blob)),
];

fn syncs(done: &Done, is_it: impl Fn(&Path) -> bool) -> bool {
    matches!(done, Done::SyncDir(path) if is_it(path))
}

fn is_in_state(path: &Path) -> bool {
    path.ancestors().any(|above| above.ends_with("state"))
}

fn is_of_one_blob(path: &Path) -> bool {
    path.parent().is_some_and(|above| above.ends_with("inspections"))
}

/// Shows that the thousand cuts above would have found it.
#[test]
fn a_store_that_does_not_wait_for_the_disk_is_found_out() {
    for (what, lies) in WAITS {
        let mut runs = (0..HISTORIES).map(|seed| History::run(seed, CUTS, lies));
        assert!(runs.any(|run| run.is_err()), "nobody missed {what}");
    }
}
