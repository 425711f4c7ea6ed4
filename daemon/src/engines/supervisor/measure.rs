//! What an engine really takes, beside what was estimated.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use super::{Admission, Parts};
use crate::board::charge::{Charge, ChargeReader};
use crate::engines::config::GpuLayers;
use crate::engines::footprint::{self, Target};
use crate::engines::lease::{Engine, Measured};
use crate::engines::program::Program;
use crate::memory::ledger::{Ledger, LineId};
use crate::memory::need::{Choice, Correction};
use crate::metrics::Metrics;
use crate::store::Store;
use crate::units::{Bytes, Digest, ModelName};

/// How often a busy engine is measured.
const EVERY: Duration = Duration::from_secs(5);

/// How much more than its line an engine may take before anybody is told: pages that others let go are counted as
/// its own for a while.
const SLACK: Bytes = Bytes(2 << 20);

/// Measures one engine.
pub(super) struct Meter {
    charges: ChargeReader,
    store: Store,
    program: Arc<Program>,
    ledger: Ledger,
    metrics: Metrics,
    model: ModelName,
    digest: Digest,
    gpu_layers: GpuLayers,
    choice: Choice,
    /// What its estimate was corrected by.
    correction: Correction,
    line: LineId,
}

impl Meter {
    pub(super) fn new(parts: &Parts, target: &Target, admission: &Admission, correction: Correction) -> Self {
        Self {
            charges: parts.charges.clone(),
            store: parts.store.clone(),
            program: Arc::clone(parts.spawner.program()),
            ledger: parts.ledger.clone(),
            metrics: parts.metrics.clone(),
            model: target.model.clone(),
            digest: target.digest,
            gpu_layers: target.params.gpu_layers,
            choice: admission.choice,
            correction,
            line: admission.reservation.line(),
        }
    }

    pub(super) fn line(&self) -> LineId {
        self.line
    }

    /// Keeps how long the load took, and by how much the process is larger or smaller than its inspector was: all
    /// but the compute buffers is there.
    pub(super) async fn loaded(&self, engine: &Engine, load_time: Duration) {
        let Some(charge) = self.measure(engine).await else { return };
        let estimate = self.choice.estimate;
        let process = difference(charge.total(), estimate.weights + estimate.kv);
        let inspected = difference(estimate.from_start, Bytes(0)).saturating_sub(self.correction.at_start);
        let at_start = process.saturating_sub(inspected);
        // Pages of the file come and go: of those less says nothing.
        let at_start = if estimate.mapped { at_start.max(0) } else { at_start };
        let (store, program) = (self.store.clone(), Arc::clone(&self.program));
        let (gpu_layers, digest, model) = (self.gpu_layers, self.digest, self.model.clone());
        let keep = move || {
            footprint::keep_load(&store, &program, gpu_layers, &digest, &model, load_time, at_start);
        };
        tokio::task::spawn_blocking(keep).await.ok();
    }

    /// Measures whenever the engine has worked, and tells when it takes more than it may.
    pub(super) async fn run<F: Future<Output = ()>>(
        &mut self,
        engine: &Engine,
        tell: impl Fn(Bytes) -> F,
    ) -> Infallible {
        let mut leases = engine.leases.subscribe();
        loop {
            // An engine that nobody uses takes no more than before; once more after its last answer.
            let busy = *leases.borrow_and_update() > 0;
            if busy {
                tokio::time::sleep(EVERY).await;
            } else if leases.changed().await.is_err() {
                return std::future::pending().await;
            }
            if let Some(charge) = self.measure(engine).await
                && let Some(over) = self.over(charge)
            {
                self.complain(charge, over).await;
                tell(charge.total()).await;
            }
        }
    }

    async fn measure(&self, engine: &Engine) -> Option<Charge> {
        let (charges, pid) = (self.charges.clone(), engine.pid);
        let charge = tokio::task::spawn_blocking(move || charges.of(pid)).await.ok()??;
        let charge = Charge { gpu: engine.beat().on_gpu, ..charge };
        engine.measured.send_modify(|known| {
            *known = Measured { now: charge, peak: known.peak.max(charge.total()) };
        });
        Some(charge)
    }

    /// What it takes beyond its line.
    fn over(&self, charge: Charge) -> Option<Bytes> {
        let reserved = self.ledger.size(self.line);
        let over = charge.total().saturating_sub(reserved);
        (reserved > Bytes(0) && over > SLACK).then_some(over)
    }

    /// What the next load is to reserve is corrected at once.
    async fn complain(&mut self, charge: Charge, over: Bytes) {
        self.metrics.over_reservation(&self.model);
        let reserved = self.ledger.size(self.line);
        tracing::warn!(measured = %charge.total(), reserved = %reserved, anonymous = %charge.anonymous,
            file = %charge.file, "Engine takes more memory than was reserved for it");
        self.correction.in_use = self.correction.in_use + over;
        let (store, program) = (self.store.clone(), Arc::clone(&self.program));
        let (gpu_layers, digest, model) = (self.gpu_layers, self.digest, self.model.clone());
        let in_use = self.correction.in_use;
        let keep = move || footprint::keep_use(&store, &program, gpu_layers, &digest, &model, in_use);
        tokio::task::spawn_blocking(keep).await.ok();
    }
}

fn difference(measured: Bytes, expected: Bytes) -> i64 {
    let signed = |bytes: Bytes| i64::try_from(bytes.0).unwrap_or(i64::MAX);
    signed(measured).saturating_sub(signed(expected))
}
