//! Signs of life for the front: while there is work two a second, then silence.

use std::time::Duration;

use futures_util::Stream;
use hearth_proto::engine as pb;

use crate::worker::Signs;

const INTERVAL: Duration = Duration::from_millis(500);

struct Beats {
    signs: Signs,
    /// What the last beat said; `None` before the first.
    last_busy: Option<bool>,
    /// Added to the pulse while nothing is there to compute, so that a paused reader is not a hang.
    idle_turns: u64,
}

/// One beat at once, one at every change between busy and idle, and two a second while busy.
pub(super) fn beats(signs: Signs) -> impl Stream<Item = pb::Beat> {
    let beats = Beats { signs, last_busy: None, idle_turns: 0 };
    futures_util::stream::unfold(beats, |mut beats| async move {
        let beat = beats.next().await?;
        Some((beat, beats))
    })
}

impl Beats {
    /// `None` when the worker is gone.
    async fn next(&mut self) -> Option<pb::Beat> {
        if let Some(was_busy) = self.last_busy {
            if was_busy {
                tokio::time::sleep(INTERVAL).await;
            } else {
                self.until_busy().await?;
            }
        }
        Some(self.beat())
    }

    async fn until_busy(&mut self) -> Option<()> {
        loop {
            if *self.signs.loading.borrow_and_update() || self.signs.load.borrow_and_update().is_busy() {
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
        self.last_busy = Some(busy);
        let small = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        pb::Beat {
            busy,
            progress: self.signs.pulse.count().wrapping_add(self.idle_turns),
            running: small(load.running),
            waiting: small(load.waiting),
            context_used: small(load.cells_used),
        }
    }
}
