//! The scheduler of one context: which request computes what in the next step. Pure: tokens and numbers
//! in, decisions out; no clock, no llama.cpp.
//!
//! ```text
//!            submit            admit (longest cached prefix)        first token sampled
//!  (none) ──────────► Waiting ─────────────────────────────► Prefill ─────────────────► Decode
//!                        ▲                                      │                          │
//!                        └────────── preempted: cells needed by an older request ──────────┤
//!                                                                                          ▼ finish
//!                                               its sequence stays as a kept prefix  ◄── (gone)
//! ```
//!
//! Sequences are places in the cache. A request owns one while it runs; afterwards the place keeps its
//! tokens, for requests that begin alike, until somebody needs the place or the cells.
//!
//! While the context may still grow, nobody is preempted for want of cells, and nobody ends: who finds no cell is
//! held until the context's size changes or the growth is refused ([`Scheduler::wanted`]).
//!
//! **Invariant:** the oldest running request is never preempted, so some request always gets on.

mod size;

use std::collections::VecDeque;

use super::growth::Need;
use super::kv::{KvBook, common_prefix};
use crate::llama::{Pos, SeqId, Token};

/// Tokens of a kept prefix that may be given up without a thought: they are computed again in one step.
const SMALL_LOSS: usize = 64;

/// Names a request inside the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

/// Sizes of the scheduler.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests that run at the same time.
    pub running: usize,
    /// Sequences, those of running requests included; more than `running`, for kept prefixes.
    pub sequences: usize,
    /// Cells of the cache: tokens of all sequences together.
    pub cells: u32,
    /// Cells that the cache may have at most. No more than `cells`: it never grows.
    pub ceiling: u32,
    /// Most tokens in a step.
    pub micro_batch: u32,
    /// Requests that may wait.
    pub queue: usize,
    /// Whether a sequence can be cut back to any length.
    pub can_rewind: bool,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Too many wait already.
    QueueFull {
        /// How many wait.
        waiting: usize,
    },
    /// The prompt and one token more do not fit the context.
    PromptTooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens of the context.
        context: usize,
    },
    /// There is nothing to compute.
    EmptyPrompt,
}

/// What is to be done to llama.cpp's cache, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvOp {
    /// Forget the tokens of a sequence from a position on.
    Cut(SeqId, Pos),
    /// Let an empty sequence share the first tokens of another.
    Share {
        /// Whose tokens.
        from: SeqId,
        /// For whom.
        to: SeqId,
        /// How many.
        length: Pos,
    },
}

/// A waiting request got its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// Which request.
    pub job: JobId,
    /// Tokens that were found in the cache.
    pub cached: usize,
}

/// One token of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whose.
    pub job: JobId,
    /// Its sequence.
    pub seq: SeqId,
    /// What to compute.
    pub token: Token,
    /// Where in the sequence.
    pub position: Pos,
    /// Whether the next token is sampled from here.
    pub logits: bool,
}

/// What to compute next.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// First, in order.
    pub ops: Vec<KvOp>,
    /// Then these together.
    pub entries: Vec<Entry>,
    /// How many of the entries are prompt tokens.
    pub prefill: u32,
    /// How many requests get their next token from it.
    pub decoding: usize,
    /// How many of the entries are tokens that were forced behind a chosen one.
    pub forced: usize,
    /// Requests whose sequence fills the whole context: they end here.
    pub context_full: Vec<JobId>,
}

#[derive(Clone, Debug)]
struct Job {
    id: JobId,
    /// Everything that is to be in the cache: the prompt, then every sampled token.
    tokens: Vec<Token>,
    /// Length of the request's own prompt.
    prompt: usize,
    /// What it needs of the context.
    need: Need,
    /// A reader that takes nothing holds only its own request.
    paused: bool,
    /// It asked for a larger context, and there is none.
    refused: bool,
}

#[derive(Clone, Debug)]
struct Running {
    job: Job,
    seq: SeqId,
    /// A token was sampled, and it and the tokens forced behind it are the only ones not yet in the cache.
    decoding: bool,
}

impl Running {
    fn wants_prefill(&self) -> bool {
        !self.decoding && !self.job.paused
    }
}

/// The scheduler.
#[derive(Clone, Debug)]
pub struct Scheduler {
    limits: Limits,
    kv: KvBook,
    waiting: VecDeque<Job>,
    /// Oldest admission first.
    running: Vec<Running>,
    /// When each sequence was last used, in `ticks`.
    used_at: Vec<u64>,
    ticks: u64,
    /// The last plan found no cell for some running request, and the context may still grow.
    held: bool,
}

impl Scheduler {
    /// An idle scheduler.
    pub fn new(limits: Limits) -> Self {
        Self {
            kv: KvBook::new(limits.sequences, limits.cells),
            limits,
            waiting: VecDeque::new(),
            running: Vec::new(),
            used_at: vec![0; limits.sequences],
            ticks: 0,
            held: false,
        }
    }

    /// Takes a request; returns how many are ahead of it in the queue.
    ///
    /// # Errors
    /// [`Refusal`]; nothing is kept of the request then.
    pub fn submit(&mut self, id: JobId, prompt: Vec<Token>, need: Need) -> Result<usize, Refusal> {
        if prompt.is_empty() {
            return Err(Refusal::EmptyPrompt);
        }
        let most = self.kv.capacity().max(self.limits.ceiling as usize);
        if prompt.len() >= most {
            return Err(Refusal::PromptTooLong { prompt: prompt.len(), context: most });
        }
        let ahead = self.waiting.len();
        // Those that will be admitted at once do not count as waiting.
        if ahead + self.running.len() >= self.limits.running + self.limits.queue {
            return Err(Refusal::QueueFull { waiting: ahead });
        }
        let length = prompt.len();
        let job = Job { id, tokens: prompt, prompt: length, need, paused: false, refused: false };
        self.waiting.push_back(job);
        Ok(ahead)
    }

    /// Requests that run.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The request that is next in line.
    pub fn first_waiting(&self) -> Option<JobId> {
        self.waiting.front().map(|job| job.id)
    }

    /// Cells in use, kept prefixes included.
    pub fn cells_used(&self) -> usize {
        self.kv.used()
    }

    /// Prompt tokens of a request that are computed, and all of them.
    pub fn prefill_progress(&self, id: JobId) -> Option<(usize, usize)> {
        let run = self.running.iter().find(|run| run.job.id == id)?;
        Some((self.kv.tokens(run.seq).len().min(run.job.prompt), run.job.prompt))
    }

    /// A sampled token and those forced behind it: the request's next entries.
    pub fn sampled(&mut self, id: JobId, tokens: &[Token]) {
        if let Some(run) = self.running.iter_mut().find(|run| run.job.id == id) {
            run.job.tokens.extend_from_slice(tokens);
            run.decoding = true;
        }
    }

    /// Leaves a request out of the steps, or takes it in again.
    pub fn set_paused(&mut self, id: JobId, paused: bool) {
        let running = self.running.iter_mut().map(|run| &mut run.job);
        if let Some(job) = running.chain(self.waiting.iter_mut()).find(|job| job.id == id) {
            job.paused = paused;
        }
    }

    /// Ends a request in any state. What it computed stays as a kept prefix.
    pub fn finish(&mut self, id: JobId) {
        self.waiting.retain(|job| job.id != id);
        if let Some(at) = self.running.iter().position(|run| run.job.id == id) {
            let run = self.running.remove(at);
            self.touch(run.seq);
        }
    }

    /// Admits the request that is next in line, if places and cells allow it. The operations belong before the
    /// next step's.
    pub fn admit(&mut self) -> (Vec<KvOp>, Option<Admitted>) {
        let mut ops = Vec::new();
        let admitted = self.admit_into(&mut ops);
        (ops, admitted)
    }

    fn admit_into(&mut self, ops: &mut Vec<KvOp>) -> Option<Admitted> {
        if self.running.len() >= self.limits.running || self.first_must_wait() {
            return None;
        }
        let found = self.find_place(&self.waiting.front()?.tokens)?;
        let job = self.waiting.pop_front()?;
        let cached = self.take_place(&found, ops);
        self.touch(found.target);
        let admitted = Admitted { job: job.id, cached: cached.min(job.prompt) };
        self.running.push(Running { job, seq: found.target, decoding: false });
        Some(admitted)
    }

    /// Plans the next step with at most `chunk` prompt tokens. Empty where nothing can be computed.
    pub fn plan(&mut self, chunk: u32) -> Step {
        let mut step = Step::default();
        self.held = false;
        loop {
            self.make_room_for_decode(&mut step);
            let chunk = chunk.saturating_sub(self.plan_decode(&mut step, chunk));
            self.plan_prefill(&mut step, chunk);
            // Prompts that starve each other: the younger ones wait.
            let mut starving = self.running.iter().filter(|run| run.wants_prefill()).map(|run| run.job.id);
            let Some(starved) = starving.next().filter(|_| step.entries.is_empty()) else { return step };
            if self.may_grow() {
                self.held = true;
                return step;
            }
            if !self.preempt_youngest(&mut step) {
                // Alone, and still without a cell: what it wrote before it was preempted fills the context.
                step.context_full.push(starved);
                return step;
            }
        }
    }

    /// The step was computed: its tokens are in the cache.
    pub fn committed(&mut self, step: &Step) {
        for entry in &step.entries {
            let booked = self.kv.append(entry.seq, &[entry.token]);
            debug_assert!(booked.is_ok(), "the plan made room");
            self.touch(entry.seq);
        }
        for run in &mut self.running {
            let computed = self.kv.tokens(run.seq).len();
            run.decoding = run.decoding && computed < run.job.tokens.len();
        }
    }

    /// Sequences with the positions of their last tokens, -1 where there is none: what llama.cpp's own books
    /// must say too.
    pub fn last_positions(&self) -> impl Iterator<Item = (SeqId, Pos)> + '_ {
        self.seqs().map(|seq| (seq, position(self.kv.tokens(seq).len()) - 1))
    }

    /// Forgets everything that is cached; running requests are computed anew.
    pub fn reset_cache(&mut self) -> Vec<KvOp> {
        let seqs: Vec<SeqId> = self.seqs().collect();
        for run in &mut self.running {
            run.decoding = false;
        }
        seqs.into_iter()
            .map(|seq| {
                self.kv.cut(seq, 0);
                KvOp::Cut(seq, 0)
            })
            .collect()
    }

    // ---- admission

    fn find_place(&self, tokens: &[Token]) -> Option<Place> {
        // The last token is always computed: its logits choose the next one.
        let (source, common) = self.best_prefix(&tokens[..tokens.len() - 1]);
        let place = self.choose_place(source, common)?;
        let need = tokens.len() - place.common + 1;
        // All that is kept can be dropped, but for the prefix that is used.
        let droppable: Vec<SeqId> = self.kept().filter(|&seq| Some(seq) != place.source).collect();
        let cut = if place.takes_over() { Some((place.target, place.common)) } else { None };
        let reclaimable = self.kv.freed_by_dropping(&droppable, cut);
        // Every running request must be able to go on for a while, or it would be preempted at once.
        let margin = self.running.len();
        (need + margin <= self.kv.free() + reclaimable || self.running.is_empty()).then_some(place)
    }

    /// The sequence that shares the longest usable prefix with `tokens`, and its length.
    fn best_prefix(&self, tokens: &[Token]) -> (Option<SeqId>, usize) {
        let usable = |seq: SeqId| {
            let cached = self.kv.tokens(seq);
            let common = common_prefix(cached, tokens);
            // Without rewinding only a whole kept sequence can be continued.
            let whole = common == cached.len() && !self.is_owned(seq);
            if self.limits.can_rewind || whole { common } else { 0 }
        };
        // Of equals a kept sequence that needs no cutting wins, then the newest.
        let rank = |seq: SeqId, common: usize| {
            (common, !self.is_owned(seq), common == self.kv.tokens(seq).len(), self.used_at(seq))
        };
        self.seqs()
            .map(|seq| (seq, usable(seq)))
            .filter(|&(_, common)| common > 0)
            .max_by_key(|&(seq, common)| rank(seq, common))
            .map_or((None, 0), |(seq, common)| (Some(seq), common))
    }

    /// Where a request goes: it continues a kept sequence that is nearly all its own prefix, else it shares
    /// the prefix in the place that was unused for longest, and the sequence stays whole for others.
    fn choose_place(&self, source: Option<SeqId>, common: usize) -> Option<Place> {
        let nearly = |seq: SeqId| {
            let lost = self.kv.tokens(seq).len() - common;
            (lost <= SMALL_LOSS && lost <= common) || lost * 8 <= common
        };
        match source {
            Some(seq) if !self.is_owned(seq) && (nearly(seq) || !self.limits.can_rewind) => {
                Some(Place { source: Some(seq), target: seq, common })
            }
            _ => {
                let oldest = |seq: &SeqId| (!self.kv.tokens(*seq).is_empty(), self.used_at(*seq));
                let target = self.kept().filter(|&seq| Some(seq) != source).min_by_key(oldest);
                match (target, source) {
                    (Some(target), _) => Some(Place { source, target, common }),
                    (None, Some(seq)) if !self.is_owned(seq) => {
                        Some(Place { source: Some(seq), target: seq, common })
                    }
                    (None, _) => None,
                }
            }
        }
    }

    fn take_place(&mut self, place: &Place, ops: &mut Vec<KvOp>) -> usize {
        let from = if place.takes_over() { place.common } else { 0 };
        if self.kv.tokens(place.target).len() > from {
            self.kv.cut(place.target, from);
            ops.push(KvOp::Cut(place.target, position(from)));
        }
        if let (Some(source), false) = (place.source, place.takes_over()) {
            self.kv.share(source, place.target, place.common);
            ops.push(KvOp::Share { from: source, to: place.target, length: position(place.common) });
        }
        place.common
    }

    // ---- planning

    /// Makes a cell free for every answer that gets its next token: kept prefixes go first, then the
    /// youngest requests. An answer that is alone and still finds no cell has filled the context. While the
    /// context may grow nobody goes: those without a cell stand still.
    fn make_room_for_decode(&mut self, step: &mut Step) {
        while self.kv.free() < self.forced_with_decode() && self.drop_oldest_kept(step) {}
        while self.kv.free() < self.decoders().count() {
            if self.drop_oldest_kept(step) {
                continue;
            }
            if self.may_grow() {
                self.held = true;
                return;
            }
            if self.preempt_youngest(step) {
                continue;
            }
            step.context_full.extend(self.decoders().map(|run| run.job.id));
            return;
        }
    }

    /// Tokens that the decoding requests wait for, forced ones included.
    fn forced_with_decode(&self) -> usize {
        self.decoders().map(|run| run.job.tokens.len() - self.kv.tokens(run.seq).len()).sum()
    }

    /// Running requests whose next token can be computed.
    fn decoders(&self) -> impl Iterator<Item = &Running> {
        self.running
            .iter()
            .filter(|run| run.decoding && !run.job.paused)
            .take(self.limits.micro_batch as usize)
    }

    /// One token for each decoding request, and of the forced ones behind it as many as there is room for once
    /// everybody has one, `chunk` at most: they take as long as prompt tokens. Returns how many.
    fn plan_decode(&self, step: &mut Step, chunk: u32) -> u32 {
        let room = self.kv.free().min(self.limits.micro_batch as usize);
        let goes_on = |run: &&Running| !step.context_full.contains(&run.job.id);
        // Oldest first; there is a cell for each unless some are held.
        let decoders: Vec<&Running> = self.decoders().filter(goes_on).take(room).collect();
        let mut spare = room.saturating_sub(decoders.len()).min(chunk as usize);
        for run in decoders {
            let start = self.kv.tokens(run.seq).len();
            let all = run.job.tokens.len();
            let forced = (all - start).saturating_sub(1).min(spare);
            spare -= forced;
            for (index, &token) in run.job.tokens.iter().enumerate().skip(start).take(1 + forced) {
                let logits = index + 1 == all;
                step.entries.push(Entry {
                    job: run.job.id,
                    seq: run.seq,
                    token,
                    position: position(index),
                    logits,
                });
            }
            step.decoding += 1;
            step.forced += forced;
        }
        u32::try_from(step.forced).unwrap_or(u32::MAX)
    }

    fn plan_prefill(&mut self, step: &mut Step, chunk: u32) {
        let room = self.limits.micro_batch as usize - step.entries.len();
        let mut budget = room.min((chunk as usize).max(usize::from(step.entries.is_empty())));
        let wanting: Vec<usize> =
            (0..self.running.len()).filter(|&at| self.running[at].wants_prefill()).collect();
        for (turn, &at) in wanting.iter().enumerate() {
            // An equal share each; what one does not need goes to those after it.
            let share = budget.div_ceil(wanting.len() - turn);
            budget -= self.plan_chunk(step, at, share);
        }
    }

    /// Plans up to `most` prompt tokens of the running request at `at`; returns how many.
    fn plan_chunk(&mut self, step: &mut Step, at: usize, most: usize) -> usize {
        let start = self.kv.tokens(self.running[at].seq).len();
        let all = self.running[at].job.tokens.len();
        let wanted = (all - start).min(most);
        let planned = step.entries.len();
        while self.kv.free() < planned + wanted && self.drop_oldest_kept(step) {}
        let count = wanted.min(self.kv.free().saturating_sub(planned));
        let run = &self.running[at];
        for index in start..start + count {
            let (token, position) = (run.job.tokens[index], position(index));
            let logits = index + 1 == all;
            step.entries.push(Entry { job: run.job.id, seq: run.seq, token, position, logits });
        }
        step.prefill += u32::try_from(count).unwrap_or(u32::MAX);
        count
    }

    /// Takes the place of the youngest running request; never that of the oldest.
    fn preempt_youngest(&mut self, step: &mut Step) -> bool {
        match self.running.last() {
            Some(youngest) if self.running.len() > 1 => {
                let id = youngest.job.id;
                self.preempt(id, step);
                true
            }
            _ => false,
        }
    }

    /// Takes the cells of a running request; it waits in front and is computed again later.
    fn preempt(&mut self, id: JobId, step: &mut Step) {
        let Some(at) = self.running.iter().position(|run| run.job.id == id) else { return };
        let run = self.running.remove(at);
        self.kv.cut(run.seq, 0);
        step.ops.push(KvOp::Cut(run.seq, 0));
        self.waiting.push_front(run.job);
    }

    fn drop_oldest_kept(&mut self, step: &mut Step) -> bool {
        let oldest =
            self.kept().filter(|&seq| !self.kv.tokens(seq).is_empty()).min_by_key(|&seq| self.used_at(seq));
        let Some(seq) = oldest else { return false };
        self.kv.cut(seq, 0);
        step.ops.push(KvOp::Cut(seq, 0));
        true
    }

    // ---- sequences

    fn seqs(&self) -> impl Iterator<Item = SeqId> + use<> {
        0..SeqId::try_from(self.kv.sequences()).unwrap_or(SeqId::MAX)
    }

    fn is_owned(&self, seq: SeqId) -> bool {
        self.running.iter().any(|run| run.seq == seq)
    }

    fn kept(&self) -> impl Iterator<Item = SeqId> + '_ {
        self.seqs().filter(|&seq| !self.is_owned(seq))
    }

    fn used_at(&self, seq: SeqId) -> u64 {
        usize::try_from(seq).ok().and_then(|at| self.used_at.get(at)).copied().unwrap_or(0)
    }

    fn touch(&mut self, seq: SeqId) {
        self.ticks += 1;
        if let Some(at) = usize::try_from(seq).ok().and_then(|at| self.used_at.get_mut(at)) {
            *at = self.ticks;
        }
    }
}

/// Where a request goes.
#[derive(Clone, Copy, Debug)]
struct Place {
    source: Option<SeqId>,
    target: SeqId,
    common: usize,
}

impl Place {
    fn takes_over(&self) -> bool {
        self.source == Some(self.target)
    }
}

fn position(length: usize) -> Pos {
    Pos::try_from(length).unwrap_or(Pos::MAX)
}

#[cfg(test)]
mod tests;
