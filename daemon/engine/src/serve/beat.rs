//! Signs of life for the front: while there is work two a second and one at every change of what runs and
//! waits and of the context's sizes, then silence.

use std::time::Duration;

use futures_util::Stream;
use hearth_proto::engine as pb;

use crate::batch;
use crate::worker::Signs;

const INTERVAL: Duration = Duration::from_millis(500);
/// Between two beats: changes come in bursts.
const LEAST_GAP: Duration = Duration::from_millis(5);

struct Beats {
    signs: Signs,
    /// What the last beat said; `None` before the first.
    last: Option<pb::Beat>,
    /// Added to the pulse while nothing is there to compute, so that a paused reader is not a hang.
    idle_turns: u64,
}

/// One beat at once, one at every change between busy and idle, of the numbers of requests and of the context's
/// sizes, and two a second while busy.
pub(super) fn beats(signs: Signs) -> impl Stream<Item = pb::Beat> {
    let beats = Beats { signs, last: None, idle_turns: 0 };
    futures_util::stream::unfold(beats, |mut beats| async move {
        let beat = beats.next().await?;
        Some((beat, beats))
    })
}

impl Beats {
    /// `None` when the worker is gone.
    async fn next(&mut self) -> Option<pb::Beat> {
        match self.last {
            Some(last) if last.busy => {
                tokio::time::sleep(LEAST_GAP).await;
                tokio::select! {
                    () = tokio::time::sleep(INTERVAL - LEAST_GAP) => {}
                    () = self.until_other_than(last) => {}
                }
            }
            Some(_) => self.until_busy().await?,
            None => {}
        }
        Some(self.beat())
    }

    /// Waits until other numbers of requests run or wait than a beat said, or the context's sizes are others.
    async fn until_other_than(&mut self, last: pb::Beat) {
        let is_other = |load: &batch::Load| {
            let said = (last.running, last.waiting, last.context_tokens, last.wanted_context_tokens);
            said != (small(load.running), small(load.waiting), load.context_tokens, small(load.wanted_tokens))
        };
        if self.signs.load.wait_for(is_other).await.is_err() {
            // The worker is gone; the next beat says so by not coming.
            std::future::pending().await
        }
    }

    /// Or until the context has another size than was said.
    async fn until_busy(&mut self) -> Option<()> {
        let said = self.last.map_or(0, |last| last.context_tokens);
        loop {
            let load = *self.signs.load.borrow_and_update();
            if *self.signs.loading.borrow_and_update() || load.is_busy() || load.context_tokens != said {
                return Some(());
            }
            tokio::select! {
                changed = self.signs.loading.changed() => changed.ok()?,
                changed = self.signs.load.changed() => changed.ok()?,
            }
        }
    }

    fn beat(&mut self) -> pb::Beat {
        let load = *self.signs.load.borrow_and_update();
        let loading = *self.signs.loading.borrow_and_update();
        let busy = loading || load.is_busy();
        if !loading && !load.computing {
            self.idle_turns += 1;
        }
        let beat = pb::Beat {
            busy,
            progress: self.signs.pulse.count().wrapping_add(self.idle_turns),
            running: small(load.running),
            waiting: small(load.waiting),
            context_used: small(load.cells_used),
            context_tokens: load.context_tokens,
            wanted_context_tokens: small(load.wanted_tokens),
            generated_tokens: load.generated,
            prefilled_tokens: load.prefilled,
            on_gpu_bytes: load.on_gpu,
        };
        self.last = Some(beat);
        beat
    }
}

fn small(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
