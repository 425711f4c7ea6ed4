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
    excess: Excess,
    line: LineId,
}

/// By how much the next estimate is to be larger than this engine's was.
#[derive(Clone, Copy, Debug)]
struct Excess {
    /// What this one was corrected by, at its start and in its work.
    corrected: i64,
    in_use: Bytes,
    /// What was found out right after the load, which the next one has from its start on.
    at_start: Bytes,
    /// What it took beyond its line while it worked, in all: the line has been raised each time.
    over: Bytes,
}

impl Excess {
    fn new(correction: Correction, mapped: bool) -> Self {
        let Correction { at_start, in_use } = correction;
        Self { corrected: at_start.of(mapped), in_use, at_start: Bytes(0), over: Bytes(0) }
    }

    fn found_at_start(&mut self, at_start: i64) {
        let rise = at_start.saturating_sub(self.corrected);
        self.at_start = Bytes(u64::try_from(rise).unwrap_or(0));
    }

    /// What the next one is to be given for its work.
    fn found_in_use(&mut self, over: Bytes) -> Bytes {
        self.over = self.over + over;
        self.in_use + self.over.saturating_sub(self.at_start)
    }
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
            excess: Excess::new(correction, admission.choice.estimate.mapped),
            line: admission.reservation.line(),
        }
    }

    pub(super) fn line(&self) -> LineId {
        self.line
    }

    /// Keeps how long the load took, and by how much the process is larger or smaller than its inspector was: all
    /// but the compute buffers is there.
    pub(super) async fn loaded(&mut self, engine: &Engine, load_time: Duration) {
        let Some(charge) = self.measure(engine).await else { return };
        let estimate = self.choice.estimate;
        let process = difference(charge.total(), estimate.weights + estimate.kv);
        let inspected = difference(estimate.from_start, Bytes(0)).saturating_sub(self.excess.corrected);
        let at_start = process.saturating_sub(inspected);
        // Pages of the file come and go: of those less says nothing.
        let at_start = if estimate.mapped { at_start.max(0) } else { at_start };
        self.excess.found_at_start(at_start);
        let (store, program) = (self.store.clone(), Arc::clone(&self.program));
        let (gpu_layers, digest, model) = (self.gpu_layers, self.digest, self.model.clone());
        let keep = move || {
            let at_start = (estimate.mapped, at_start);
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
            // The line may change while the pages are counted: a context grows, and is there twice for a moment.
            let before = self.ledger.size(self.line);
            if let Some(charge) = self.measure(engine).await
                && let Some(over) = over(charge, before.max(self.ledger.size(self.line)))
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

    /// What the next load is to reserve is corrected at once.
    async fn complain(&mut self, charge: Charge, over: Bytes) {
        self.metrics.over_reservation(&self.model);
        let reserved = self.ledger.size(self.line);
        tracing::warn!(measured = %charge.total(), reserved = %reserved, anonymous = %charge.anonymous,
            file = %charge.file, "Engine takes more memory than was reserved for it");
        let in_use = self.excess.found_in_use(over);
        let (store, program) = (self.store.clone(), Arc::clone(&self.program));
        let (gpu_layers, digest, model) = (self.gpu_layers, self.digest, self.model.clone());
        let keep = move || footprint::keep_use(&store, &program, gpu_layers, &digest, &model, in_use);
        tokio::task::spawn_blocking(keep).await.ok();
    }
}

fn difference(measured: Bytes, expected: Bytes) -> i64 {
    let signed = |bytes: Bytes| i64::try_from(bytes.0).unwrap_or(i64::MAX);
    signed(measured).saturating_sub(signed(expected))
}

/// What an engine takes beyond a line of this size.
fn over(charge: Charge, reserved: Bytes) -> Option<Bytes> {
    let over = charge.total().saturating_sub(reserved);
    (reserved > Bytes(0) && over > SLACK).then_some(over)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::need::AtStart;

    const MIB: u64 = 1 << 20;

    fn excess(at_start: i64, in_use: u64) -> Excess {
        let at_start = AtStart { repacked: at_start, mapped: 0 };
        Excess::new(Correction { at_start, in_use: Bytes(in_use) }, false)
    }

    #[test]
    fn what_the_load_has_shown_is_not_counted_again_while_the_engine_works() {
        let mut excess = excess(0, 3);
        excess.found_at_start(100);
        assert_eq!(excess.found_in_use(Bytes(100)), Bytes(3));
        assert_eq!(excess.found_in_use(Bytes(20)), Bytes(23), "what comes on top is");
    }

    #[test]
    fn what_the_estimate_had_already_explains_nothing() {
        let mut excess = excess(100, 0);
        excess.found_at_start(100);
        assert_eq!(excess.found_in_use(Bytes(7)), Bytes(7));
        excess.found_at_start(-50);
        assert_eq!(excess.found_in_use(Bytes(1)), Bytes(8), "a smaller one neither");
    }

    #[test]
    fn a_little_over_the_line_is_nothing() {
        let charge = |bytes| Charge { anonymous: Bytes(bytes), ..Charge::default() };
        assert_eq!(over(charge(12 * MIB), Bytes(10 * MIB)), None);
        assert_eq!(over(charge(13 * MIB), Bytes(10 * MIB)), Some(Bytes(3 * MIB)));
        assert_eq!(over(charge(13 * MIB), Bytes(0)), None, "the line is gone");
    }
}
