//! The memory budget: how much the engines may use, who uses it, and what must go for a model to come.
//!
//! **Invariant:** pure arithmetic and policy. No paths, processes, clocks or async code here, and the
//! ledger is the only place that says what is free.

pub mod ledger;
pub mod plan;

use std::fmt;

use crate::units::Bytes;

/// What an automatic budget leaves to the rest of the board: the front itself and the system's daemons.
pub const DEFAULT_RESERVE: Bytes = Bytes(256 << 20);

/// What the front may still grow by in a control group that it shares with the engines.
pub const FRONT_SLACK: Bytes = Bytes(32 << 20);

/// What an engine takes beside weights, context and compute buffers: its vocabulary (about 60 MB for
/// 150,000 tokens), the executable's own pages, stacks and link buffers.
pub const ENGINE_PROCESS: Bytes = Bytes(96 << 20);

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
    /// Of each control group around the daemon: its limit, and what its processes use of it.
    pub groups: Vec<(Bytes, Bytes)>,
}

/// What the engines may use in all.
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
    /// The control group's limit less what others in it use.
    Cgroup,
    /// What is available or held by engines, minus the reserve.
    Available,
    /// The board says nothing and nobody set it.
    Unknown,
}

/// Bytes that a load needs, as far as llama.cpp itself can say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Weights that stay pages of the file.
    pub weights_mapped: Bytes,
    /// Weights copied into anonymous memory.
    pub weights_copied: Bytes,
    /// The context.
    pub kv: Bytes,
    /// Compute buffers.
    pub compute: Bytes,
}

impl Estimate {
    /// What the ledger reserves for an engine with this estimate.
    pub fn charge(&self) -> Bytes {
        let Self { weights_mapped, weights_copied, kv, compute } = *self;
        [weights_mapped, weights_copied, kv, compute, ENGINE_PROCESS].into_iter().sum()
    }
}

impl Budget {
    /// The least of what is configured, what each control group allows and what the board has. `held` is what
    /// engines have of it already.
    pub fn find(config: &Config, limits: &Limits, held: Bytes) -> Self {
        let configured = config.budget.map(|bytes| (bytes, BudgetSource::Configured));
        let board = limits
            .available
            .map(|available| ((available + held).saturating_sub(config.reserve), BudgetSource::Available));
        let groups = limits.groups.iter().map(|(limit, used)| {
            let others = used.saturating_sub(held) + FRONT_SLACK;
            (limit.saturating_sub(others), BudgetSource::Cgroup)
        });
        let least = configured.into_iter().chain(board).chain(groups).min_by_key(|(bytes, _)| *bytes);
        match least {
            Some((bytes, source)) => Self { bytes, source },
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

impl fmt::Display for BudgetSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Configured => "configured",
            Self::Cgroup => "limit of the control group less what others in it use",
            Self::Available => "memory that is available or held by engines, minus the reserve",
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
        let limits = |groups: &[(u64, u64)], available: Option<u64>| Limits {
            available: available.map(mib),
            groups: groups.iter().map(|(limit, used)| (mib(*limit), mib(*used))).collect(),
        };
        let auto = Config { budget: None, reserve: mib(10) };
        let find = |limits: &Limits, held| Budget::find(&auto, limits, mib(held));
        let found = |bytes, source| Budget { bytes: mib(bytes), source };
        assert_eq!(find(&limits(&[(500, 8)], Some(800)), 0), found(460, BudgetSource::Cgroup));
        assert_eq!(
            find(&limits(&[(500, 108), (300, 200)], Some(800)), 100),
            found(168, BudgetSource::Cgroup)
        );
        assert_eq!(find(&limits(&[(5000, 8)], Some(100)), 0), found(90, BudgetSource::Available));
        assert_eq!(
            find(&limits(&[], Some(60)), 40),
            found(90, BudgetSource::Available),
            "held is available too"
        );
        assert_eq!(find(&limits(&[], Some(5)), 0), found(0, BudgetSource::Available));
        assert_eq!(find(&limits(&[], None), 0), found(0, BudgetSource::Unknown));
        let fixed = Config { budget: Some(mib(70)), reserve: mib(10) };
        let find = |limits: &Limits| Budget::find(&fixed, limits, mib(0));
        assert_eq!(find(&limits(&[], Some(800))), found(70, BudgetSource::Configured));
        assert_eq!(find(&limits(&[], Some(50))), found(40, BudgetSource::Available), "a promise that holds");
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
