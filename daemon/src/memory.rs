//! The memory budget: how much the engines may use, who uses it, and what must go for a model to come.
//!
//! **Invariant:** pure arithmetic and policy. No paths, processes, clocks or async code here, and the
//! ledger is the only place that says what is free.

pub mod ledger;
pub mod need;
pub mod plan;

use std::fmt;

use crate::units::Bytes;

/// What an automatic budget leaves to the rest of the board.
pub const DEFAULT_RESERVE: Bytes = Bytes(256 << 20);

/// Of the limit of a control group one part in so many is left: the kernel charges to it what it needs for its
/// processes, such as page tables, and a change below a hundredth is taken for noise.
pub const GROUP_MARGIN: u64 = 100;

/// How the budget is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The most that there may be. Absent: what the board allows.
    pub budget: Option<Bytes>,
    /// What the rest of the board is left.
    pub reserve: Bytes,
}

impl Default for Config {
    fn default() -> Self {
        Self { budget: None, reserve: DEFAULT_RESERVE }
    }
}

/// What the board allows, as it says itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// What programs can take without swapping.
    pub available: Option<Bytes>,
    /// Of each control group around the daemon: its path, its limit, and what its processes use of it.
    pub groups: Vec<(String, Bytes, Bytes)>,
}

/// Something that limits the budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What it leaves.
    pub bytes: Bytes,
    /// What it is.
    pub source: BudgetSource,
    /// Which one, where there are several.
    pub name: String,
    /// How that was reckoned.
    pub reckoning: String,
}

/// How short of memory the board is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Not at all.
    #[default]
    None,
    /// Some process waits for memory now and then.
    Some,
    /// The board does little else.
    Full,
}

/// What the daemon and its engines may use in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// The size.
    pub bytes: Bytes,
    /// Where it comes from.
    pub source: BudgetSource,
}

/// Where a budget comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BudgetSource {
    /// A person set it.
    Configured,
    /// The control group's limit less what others in it use, and a margin.
    Cgroup,
    /// What is available or held by engines, minus the reserve.
    Available,
    /// The board says nothing and nobody set it.
    Unknown,
}

impl Budget {
    /// The least of the limits.
    pub fn least(limits: &[Limit]) -> Self {
        match limits.iter().min_by_key(|limit| limit.bytes) {
            Some(limit) => Self { bytes: limit.bytes, source: limit.source },
            None => Self { bytes: Bytes(0), source: BudgetSource::Unknown },
        }
    }

    /// Whether it differs from another one: what is configured exactly, what was found by more than the noise of a
    /// running system, which is a hundredth.
    pub fn is_news_to(&self, known: &Self) -> bool {
        let is_wish = [self.source, known.source].contains(&BudgetSource::Configured);
        let apart = self.bytes.0.abs_diff(known.bytes.0);
        if is_wish { self != known } else { apart > known.bytes.0 / 100 }
    }
}

/// What limits the budget: what is configured, each control group, and what the board has. `held` is what the daemon
/// and its engines have of it already.
pub fn limits(config: &Config, limits: &Limits, held: Bytes) -> Vec<Limit> {
    let configured = config.budget.map(|bytes| Limit {
        bytes,
        source: BudgetSource::Configured,
        name: "configured".to_owned(),
        reckoning: "memory.budget".to_owned(),
    });
    let groups = limits.groups.iter().map(|(name, limit, used)| {
        let others = used.saturating_sub(held);
        let margin = Bytes(limit.0 / GROUP_MARGIN);
        Limit {
            bytes: limit.saturating_sub(others + margin),
            source: BudgetSource::Cgroup,
            name: format!("control group {name}"),
            reckoning: format!(
                "its limit of {limit} less {others} that others in it use and {margin} for the kernel"
            ),
        }
    });
    let board = limits.available.map(|available| Limit {
        bytes: (available + held).saturating_sub(config.reserve),
        source: BudgetSource::Available,
        name: "available".to_owned(),
        reckoning: format!(
            "{available} available and {held} held by Hearth, minus the reserve of {}",
            config.reserve
        ),
    });
    configured.into_iter().chain(groups).chain(board).collect()
}

impl fmt::Display for BudgetSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Configured => "configured",
            Self::Cgroup => "limit of the control group less what others in it use",
            Self::Available => "memory that is available or held by Hearth, minus the reserve",
            Self::Unknown => "unknown: the board does not say, set memory.budget",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_limit_is_the_budget() {
        const MIB: u64 = 1 << 20;
        let mib = |count: u64| Bytes(count * MIB);
        let board = |groups: &[(u64, u64)], available: Option<u64>| Limits {
            available: available.map(mib),
            groups: groups.iter().map(|(limit, used)| ("/x".to_owned(), mib(*limit), mib(*used))).collect(),
        };
        let auto = Config { budget: None, reserve: mib(10) };
        let find = |board: &Limits, held| Budget::least(&limits(&auto, board, mib(held)));
        let found = |bytes, source| Budget { bytes: mib(bytes), source };
        assert_eq!(find(&board(&[(500, 8)], Some(800)), 0), found(487, BudgetSource::Cgroup));
        assert_eq!(find(&board(&[(500, 108), (300, 200)], Some(800)), 100), found(197, BudgetSource::Cgroup));
        assert_eq!(find(&board(&[(5000, 8)], Some(100)), 0), found(90, BudgetSource::Available));
        assert_eq!(
            find(&board(&[], Some(60)), 40),
            found(90, BudgetSource::Available),
            "held is available too"
        );
        assert_eq!(find(&board(&[], Some(5)), 0), found(0, BudgetSource::Available));
        assert_eq!(find(&board(&[], None), 0), found(0, BudgetSource::Unknown));
        let fixed = Config { budget: Some(mib(70)), reserve: mib(10) };
        let find = |board: &Limits| Budget::least(&limits(&fixed, board, mib(0)));
        assert_eq!(find(&board(&[], Some(800))), found(70, BudgetSource::Configured));
        assert_eq!(find(&board(&[], Some(50))), found(40, BudgetSource::Available), "a promise that holds");
        let all = limits(&fixed, &board(&[(500, 8)], Some(800)), mib(0));
        assert_eq!(all.len(), 3);
        assert!(all[1].reckoning.contains("500.0 MiB") && all[1].name.contains("/x"), "{all:?}");
    }

    #[test]
    fn a_hundredth_is_noise() {
        let budget = |bytes| Budget { bytes: Bytes(bytes), source: BudgetSource::Available };
        assert!(!budget(1010).is_news_to(&budget(1000)) && budget(1011).is_news_to(&budget(1000)));
        assert!(!budget(990).is_news_to(&budget(1000)) && budget(989).is_news_to(&budget(1000)));
        let wish = |bytes| Budget { bytes: Bytes(bytes), source: BudgetSource::Configured };
        assert!(wish(1001).is_news_to(&wish(1000)) && !wish(1000).is_news_to(&wish(1000)));
    }
}
