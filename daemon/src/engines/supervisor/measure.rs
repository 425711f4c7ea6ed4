//! What an engine really takes, beside what was estimated.

use std::convert::Infallible;
use std::time::Duration;

use super::{Admission, Parts};
use crate::board::charge::{Charge, ChargeReader};
use crate::engines::footprint::{self, Target};
use crate::engines::lease::{Engine, Measured};
use crate::memory::ledger::{Ledger, LineId};
use crate::memory::need::Choice;
use crate::metrics::Metrics;
use crate::store::Store;
use crate::units::{Bytes, Digest, ModelName};

/// How often a busy engine is measured.
const EVERY: Duration = Duration::from_secs(5);

/// How much more than its line an engine may take before anybody is told: pages that others let go are counted as
/// its own for a while.
const SLACK: Bytes = Bytes(4 << 20);

/// Measures one engine.
pub(super) struct Meter {
    charges: ChargeReader,
    store: Store,
    ledger: Ledger,
    metrics: Metrics,
    model: ModelName,
    digest: Digest,
    choice: Choice,
    line: LineId,
    /// The most by which it took more than its line, as far as it was told.
    told: Bytes,
}

impl Meter {
    pub(super) fn new(parts: &Parts, target: &Target, admission: &Admission) -> Self {
        Self {
            charges: parts.charges.clone(),
            store: parts.store.clone(),
            ledger: parts.ledger.clone(),
            metrics: parts.metrics.clone(),
            model: target.model.clone(),
            digest: target.digest,
            choice: admission.choice,
            line: admission.reservation.line(),
            told: SLACK,
        }
    }

    pub(super) fn line(&self) -> LineId {
        self.line
    }

    /// Keeps how long the load took, and corrects the next estimate by what the engine takes now: all but the
    /// compute buffers is there.
    pub(super) async fn loaded(&self, engine: &Engine, load_time: Duration) {
        let Some(charge) = self.measure(engine).await else { return };
        let estimate = self.choice.estimate;
        let known = estimate.weights + estimate.kv;
        let process = charge.total().saturating_sub(known);
        let difference = difference(process, estimate.from_start);
        // Pages of the file come and go: of those less says nothing.
        let difference = if estimate.mapped { difference.max(0) } else { difference };
        let (store, digest, model) = (self.store.clone(), self.digest, self.model.clone());
        let keep = move || {
            footprint::keep_load_time(&store, &digest, &model, load_time);
            footprint::keep_correction(&store, &digest, &model, difference);
        };
        tokio::task::spawn_blocking(keep).await.ok();
    }

    /// Measures whenever the engine has worked, and tells when it takes more than it may.
    pub(super) async fn run(&mut self, engine: &Engine) -> Infallible {
        let mut leases = engine.leases.subscribe();
        loop {
            // An engine that nobody uses takes no more than before; once more after its last answer.
            let busy = *leases.borrow_and_update() > 0;
            if busy {
                tokio::time::sleep(EVERY).await;
            } else if leases.changed().await.is_err() {
                return std::future::pending().await;
            }
            if let Some(charge) = self.measure(engine).await {
                self.compare(charge).await;
            }
        }
    }

    async fn measure(&self, engine: &Engine) -> Option<Charge> {
        let (charges, pid) = (self.charges.clone(), engine.pid);
        let charge = tokio::task::spawn_blocking(move || charges.of(pid)).await.ok()??;
        engine.measured.send_modify(|known| {
            *known = Measured { now: charge, peak: known.peak.max(charge.total()) };
        });
        Some(charge)
    }

    /// What the next load is to reserve is corrected at once.
    async fn compare(&mut self, charge: Charge) {
        let (reserved, total) = (self.ledger.size(self.line), charge.total());
        let over = total.saturating_sub(reserved);
        if reserved == Bytes(0) || over <= self.told {
            return;
        }
        let more = difference(over, if self.told == SLACK { Bytes(0) } else { self.told });
        self.told = over;
        self.metrics.over_reservation(&self.model);
        tracing::warn!(measured = %total, reserved = %reserved, anonymous = %charge.anonymous, file = %charge.file,
            "Engine takes more memory than was reserved for it");
        let (store, digest, model) = (self.store.clone(), self.digest, self.model.clone());
        let keep = move || footprint::keep_correction(&store, &digest, &model, more);
        tokio::task::spawn_blocking(keep).await.ok();
    }
}

fn difference(measured: Bytes, expected: Bytes) -> i64 {
    let signed = |bytes: Bytes| i64::try_from(bytes.0).unwrap_or(i64::MAX);
    signed(measured).saturating_sub(signed(expected))
}
