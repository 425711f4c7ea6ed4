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

/// What an engine takes beside weights, context and compute buffers: its vocabulary (about 60 MB for
/// 150,000 tokens), the executable's own pages, stacks and link buffers.
pub const ENGINE_PROCESS: Bytes = Bytes(96 << 20);

/// How the budget is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// A fixed size. Absent: found at start.
    pub budget: Option<Bytes>,
    /// What a budget found at start leaves free.
    pub reserve: Bytes,
}

impl Default for Config {
    fn default() -> Self {
        Self { budget: None, reserve: DEFAULT_RESERVE }
    }
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
    /// The control group's limit minus the reserve.
    Cgroup,
    /// What was available at start minus the reserve.
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
    /// The configured size; else the least that the board allows, minus the reserve.
    pub fn find(config: &Config, cgroup_limit: Option<Bytes>, available: Option<Bytes>) -> Self {
        if let Some(bytes) = config.budget {
            return Self { bytes, source: BudgetSource::Configured };
        }
        let group = cgroup_limit.map(|bytes| (bytes, BudgetSource::Cgroup));
        let board = available.map(|bytes| (bytes, BudgetSource::Available));
        match group.into_iter().chain(board).min_by_key(|(bytes, _)| *bytes) {
            Some((bytes, source)) => Self { bytes: bytes.saturating_sub(config.reserve), source },
            None => Self { bytes: Bytes(0), source: BudgetSource::Unknown },
        }
    }
}

impl fmt::Display for BudgetSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Configured => "configured",
            Self::Cgroup => "limit of the control group minus the reserve",
            Self::Available => "memory available at start minus the reserve",
            Self::Unknown => "unknown: the board does not say, set memory.budget",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_limit_is_the_budget() {
        let auto = Config { budget: None, reserve: Bytes(10) };
        let find = |group, board| Budget::find(&auto, group, board);
        let found = |bytes, source| Budget { bytes: Bytes(bytes), source };
        assert_eq!(find(Some(Bytes(50)), Some(Bytes(100))), found(40, BudgetSource::Cgroup));
        assert_eq!(find(Some(Bytes(500)), Some(Bytes(100))), found(90, BudgetSource::Available));
        assert_eq!(find(None, Some(Bytes(5))), found(0, BudgetSource::Available));
        assert_eq!(find(None, None), found(0, BudgetSource::Unknown));
        let fixed = Config { budget: Some(Bytes(7)), reserve: Bytes(10) };
        assert_eq!(Budget::find(&fixed, Some(Bytes(1)), None), found(7, BudgetSource::Configured));
    }
}
