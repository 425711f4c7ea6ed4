//! The scheduler's part in changes of the context's size: who wants more, who is refused, what must stay.

use super::{JobId, KvOp, Scheduler};
use crate::batch::growth;
use crate::batch::kv::NoCell;

impl Scheduler {
    /// Tokens of the context that is needed to go on; `None`: this one will do.
    pub fn wanted(&self) -> Option<usize> {
        self.wanted_by_first().max(self.wanted_by_held())
    }

    /// There is no memory for a context as large as the one that is wanted. Those that asked for it make do with
    /// this one; the ones returned cannot even begin in it, and are still to be ended.
    pub fn refuse(&mut self) -> Vec<JobId> {
        let Some(refused) = self.wanted() else { return Vec::new() };
        let cells = self.kv.capacity();
        if self.wanted_by_held() == Some(refused) {
            self.running.iter_mut().for_each(|run| run.job.refused = true);
            self.held = false;
        }
        let mut ended = Vec::new();
        // Who needs less than that asks for itself.
        for job in self.waiting.iter_mut().filter(|job| job.need.ask >= refused) {
            job.refused = true;
            // What has begun ends as full, and its reader keeps what was written.
            if job.tokens.len() == job.prompt && job.prompt >= cells {
                ended.push(job.id);
            }
        }
        ended
    }

    /// Forgets what no running request needs.
    pub fn forget_kept(&mut self) -> Vec<KvOp> {
        let kept: Vec<_> = self.kept().filter(|&seq| !self.kv.tokens(seq).is_empty()).collect();
        kept.into_iter()
            .map(|seq| {
                self.kv.cut(seq, 0);
                KvOp::Cut(seq, 0)
            })
            .collect()
    }

    /// Cells that running requests use together, and will for what they asked for; kept prefixes count as used.
    pub fn cells_needed(&self) -> usize {
        let still_to_come = self.running.iter().map(|run| {
            let whole = run.job.need.whole.max(run.job.tokens.len() + 1);
            whole - self.kv.tokens(run.seq).len().min(whole)
        });
        still_to_come.fold(self.kv.used(), usize::saturating_add)
    }

    /// The context has so many cells now; what is cached is still there. Who was refused may ask again.
    ///
    /// # Errors
    /// [`NoCell`] if more is cached than that; nothing is changed then.
    pub fn resize(&mut self, cells: u32) -> Result<(), NoCell> {
        self.kv.resize(cells)?;
        self.limits.cells = cells;
        self.held = false;
        let running = self.running.iter_mut().map(|run| &mut run.job);
        running.chain(self.waiting.iter_mut()).for_each(|job| job.refused = false);
        Ok(())
    }

    /// Whether answers without a cell may hope for a larger context.
    pub(super) fn may_grow(&self) -> bool {
        self.is_below_ceiling() && self.running.iter().any(|run| !run.job.refused)
    }

    /// Whether the request that is next in line waits for a larger context.
    pub(super) fn first_must_wait(&self) -> bool {
        self.wanted_by_first().is_some()
    }

    fn wanted_by_first(&self) -> Option<usize> {
        let job = self.waiting.front().filter(|job| !job.refused)?;
        let whole = job.need.whole.max(job.tokens.len() + 1);
        let ask = job.need.ask.max(whole).min(self.limits.ceiling as usize);
        (self.is_below_ceiling() && whole > self.kv.capacity()).then_some(ask)
    }

    fn wanted_by_held(&self) -> Option<usize> {
        self.held.then(|| growth::next_size(self.kv.capacity(), self.limits.ceiling as usize))
    }

    fn is_below_ceiling(&self) -> bool {
        self.kv.capacity() < self.limits.ceiling as usize
    }
}
