//! Medians.

/// The median; of an even number the mean of the two in the middle, 0 of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match (sorted.len(), sorted.len() % 2) {
        (0, _) => 0.0,
        (_, 1) => sorted[half],
        _ => f64::midpoint(sorted[half - 1], sorted[half]),
    }
}

/// Measurements of the same thing, one of each round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Series(Vec<f64>);

impl Series {
    /// Another round.
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// All of them, in order.
    pub(crate) fn all(&self) -> &[f64] {
        &self.0
    }

    pub(crate) fn median(&self) -> f64 {
        median(&self.0)
    }

    /// Round by round, this over `other`.
    pub(crate) fn over(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| a / b).collect())
    }

    /// Each value by a factor.
    pub(crate) fn times(&self, factor: f64) -> Self {
        Self(self.0.iter().map(|value| value * factor).collect())
    }
}
