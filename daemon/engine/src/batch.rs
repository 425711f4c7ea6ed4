//! The batch loop: the one thread that owns llama.cpp's context.
//!
//! ```text
//!   commands ──► [ scheduler core ] ──► step ──► llama decode ──► logits ──► answers ──► readers
//!                       ▲                            │ aborted: nothing was computed
//!                       └────────────────────────────┘ plan again without the cancelled ones
//! ```
//!
//! The loop never waits for a reader and never blocks while there is something to compute. Commands are
//! looked at between steps; a cancel also reaches into a running step through the abort callback, if that
//! step computes prompt tokens (a step that only decodes is over soon anyway).
//!
//! **Invariant:** async code talks to this thread through its bounded command queue and the streams of
//! [`reader`]; nothing else touches the context.

pub mod answer;
pub mod core;
pub mod event;
pub mod growth;
pub mod guide;
pub mod kv;
pub mod pace;
pub mod reader;
pub mod resize;
pub mod window;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError};
use std::time::{Duration, Instant};

use answer::{Answer, AnswerOptions};
use core::{JobId, KvOp, Refusal, Scheduler, Step};
use event::{Event, Failure};
use growth::Need;
use pace::Pace;
use reader::Outlet;
use resize::Size;
use tokio::sync::oneshot;
use window::{Turn, Window};

use crate::llama::{Batch, Context, DecodeError, Token};

/// Commands that may wait for the loop. A step takes at most seconds, and each request sends one.
pub const COMMANDS: usize = 256;
/// A request whose steps fail without a reason of ours is tried so often before it ends.
const DECODE_RETRIES: u32 = 2;

/// What the loop is told.
#[derive(Debug)]
pub enum Command {
    /// A new request.
    Submit(Box<Submission>),
    /// What the context's size shall be. Answered with the tokens that it has then.
    Resize(Size, oneshot::Sender<u32>),
    /// Something changed that the loop looks at anyway.
    Wake,
}

/// A request, rendered and tokenized.
#[derive(Debug)]
pub struct Submission {
    /// Tokens of the prompt.
    pub prompt: Vec<Token>,
    /// How to answer.
    pub options: AnswerOptions,
    /// Where the events go.
    pub outlet: Outlet,
    /// When the request must be over.
    pub deadline: Option<Instant>,
}

/// Forced tokens from which a step is long enough to be discarded at a cancel.
const LONG_FORCED: usize = 8;

/// The loop's load, published after every change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Requests that run.
    pub running: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// Cells of the cache in use.
    pub cells_used: usize,
    /// Tokens of the context; 0 before there is one.
    pub context_tokens: u32,
    /// Tokens of the context that somebody waits for; 0: nobody does.
    pub wanted_tokens: usize,
    /// Tokens written since the start.
    pub generated: u64,
    /// Prompt tokens computed since the start.
    pub prefilled: u64,
    /// Whether any request can go on: paused ones wait for their readers.
    pub computing: bool,
    /// Bytes of the board's memory that a GPU has, which the kernel counts to no process.
    pub on_gpu: u64,
}

impl Load {
    /// Whether there are requests.
    pub const fn is_busy(&self) -> bool {
        self.running + self.waiting > 0
    }
}

/// One request in the loop.
#[derive(Debug)]
struct Job {
    answer: Answer,
    outlet: Outlet,
    deadline: Option<Instant>,
    paused: bool,
    /// Steps that failed since its last token.
    failures: u32,
    /// It needs a stretched context.
    long: bool,
    /// Answers that it was told it waits for.
    told_ahead: Option<usize>,
}

/// The loop's state.
#[derive(Debug)]
pub struct BatchLoop {
    context: Context,
    window: Window,
    scheduler: Scheduler,
    pace: Pace,
    micro_batch: u32,
    batch: Batch,
    jobs: HashMap<JobId, Job>,
    /// Requests that are over but whose readers have not taken everything.
    leaving: Vec<Outlet>,
    next_id: u64,
    /// Tokens that the context may have at most.
    ceiling: u32,
    /// Tokens written since the start.
    generated: u64,
    /// Prompt tokens computed since the start.
    prefilled: u64,
    /// The last round found nothing to compute: only news can change that.
    starved: bool,
    /// Bytes of the board's memory that a GPU has, weights and context.
    on_gpu: u64,
    load: tokio::sync::watch::Sender<Load>,
}

impl BatchLoop {
    /// An idle loop over `context`.
    pub fn new(
        context: Context,
        limits: core::Limits,
        window: Window,
        pace: Pace,
        load: tokio::sync::watch::Sender<Load>,
    ) -> Self {
        Self {
            on_gpu: on_gpu(&context),
            context,
            window,
            scheduler: Scheduler::new(limits),
            pace,
            micro_batch: limits.micro_batch,
            batch: Batch::with_capacity(limits.micro_batch as usize),
            jobs: HashMap::new(),
            leaving: Vec::new(),
            next_id: 0,
            ceiling: limits.ceiling,
            generated: 0,
            prefilled: 0,
            starved: false,
            load,
        }
    }

    /// Runs until the other end of `commands` is gone.
    pub fn run(mut self, commands: &Receiver<Command>) {
        self.publish();
        while self.take_commands(commands) {
            self.tend_readers(Instant::now());
            self.admit();
            self.step();
            self.publish();
        }
    }

    /// Takes the commands that are there; waits for one if there is nothing to compute. False: no more
    /// will come.
    fn take_commands(&mut self, commands: &Receiver<Command>) -> bool {
        if !self.can_compute() {
            let received = match self.next_alarm() {
                None => commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(at) => commands.recv_timeout(at.saturating_duration_since(Instant::now())),
            };
            match received {
                Ok(command) => self.take(command),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return false,
            }
            self.starved = false;
        }
        loop {
            match commands.try_recv() {
                Ok(command) => self.take(command),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// A request that waits for the place of a paused one can no more go on than that.
    fn can_compute(&self) -> bool {
        !self.starved && self.jobs.values().any(|job| !job.paused)
    }

    /// When a deadline or a stall is due, while nothing can be computed.
    fn next_alarm(&self) -> Option<Instant> {
        let of_jobs = self.jobs.values().flat_map(|job| [job.deadline, job.outlet.stalls_at()]);
        let of_leaving = self.leaving.iter().map(Outlet::stalls_at);
        of_jobs.chain(of_leaving).flatten().min()
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Submit(submission) => self.submit(*submission),
            Command::Resize(size, done) => self.on_size(size, done),
            Command::Wake => {}
        }
    }

    fn submit(&mut self, submission: Submission) {
        let Submission { prompt, options, mut outlet, deadline } = submission;
        let now = Instant::now();
        if outlet.is_cancelled() {
            return;
        }
        let long = self.window.is_long(prompt.len(), options.max_tokens);
        let room = self.context.capacity().max(self.ceiling);
        let tokens = self.window.tokens(long, room as usize);
        let need = Need::of(prompt.len(), options.max_tokens, tokens);
        let mut answer = Answer::new(options, self.context.model(), &prompt, tokens, now);
        let id = JobId(self.next_id);
        self.next_id += 1;
        let submitted = if prompt.len() >= tokens {
            Err(Refusal::PromptTooLong { prompt: prompt.len(), context: tokens })
        } else {
            self.scheduler.submit(id, prompt, need)
        };
        match submitted {
            Err(refusal) => {
                outlet.send(Err(refusal.into()), now);
                self.leave(outlet);
            }
            Ok(ahead) => {
                outlet.send(Ok(Event::Accepted { ahead }), now);
                if answer.wants_nothing() {
                    self.scheduler.finish(id);
                    let mut events = Vec::new();
                    answer.length_reached(now, &mut events);
                    events.into_iter().for_each(|event| outlet.send(Ok(event), now));
                    self.leave(outlet);
                } else {
                    let job =
                        Job { answer, outlet, deadline, paused: false, failures: 0, long, told_ahead: None };
                    self.jobs.insert(id, job);
                }
            }
        }
    }

    // ---- readers

    /// Ends what is cancelled, late or stalled, and lets paused requests go on whose readers read again.
    fn tend_readers(&mut self, now: Instant) {
        let ids: Vec<JobId> = self.jobs.keys().copied().collect();
        for id in ids {
            self.tend(id, now);
        }
        self.leaving.retain_mut(|outlet| {
            let stalled = outlet.stalls_at().is_some_and(|at| at <= now);
            if stalled {
                outlet.give_up();
            }
            !outlet.flush(now) && !stalled
        });
    }

    fn tend(&mut self, id: JobId, now: Instant) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if job.outlet.is_cancelled() {
            self.forget(id);
        } else if job.deadline.is_some_and(|at| at <= now) {
            self.fail(id, Failure::Deadline, now);
        } else if job.outlet.stalls_at().is_some_and(|at| at <= now) {
            job.outlet.give_up();
            self.forget(id);
        } else if job.paused && job.outlet.flush(now) {
            job.paused = false;
            self.scheduler.set_paused(id, false);
        }
    }

    /// Drops a request without a word.
    fn forget(&mut self, id: JobId) {
        self.scheduler.finish(id);
        self.jobs.remove(&id);
    }

    fn fail(&mut self, id: JobId, failure: Failure, now: Instant) {
        self.scheduler.finish(id);
        if let Some(mut job) = self.jobs.remove(&id) {
            job.outlet.send(Err(failure), now);
            self.leave(job.outlet);
        }
    }

    fn leave(&mut self, outlet: Outlet) {
        if outlet.is_blocked() {
            self.leaving.push(outlet);
        }
    }

    /// Hands events to a request's reader; pauses the request if the reader is slow.
    fn deliver(&mut self, id: JobId, events: Vec<Event>, now: Instant) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let over = matches!(events.last(), Some(Event::Ended(_)));
        for event in events {
            job.outlet.send(Ok(event), now);
        }
        if over {
            self.scheduler.finish(id);
            if let Some(job) = self.jobs.remove(&id) {
                self.leave(job.outlet);
            }
        } else if job.outlet.is_blocked() && !job.paused {
            job.paused = true;
            self.scheduler.set_paused(id, true);
        }
    }

    // ---- steps

    fn admit(&mut self) {
        // One by one, since each may need another context than the one before.
        while let Some(first) = self.scheduler.first_waiting() {
            match self.turn(first) {
                Turn::Begin => {}
                Turn::Wait => return self.tell_waiting(first),
                Turn::Switch => {
                    self.switch(first);
                    continue;
                }
            }
            if !self.admit_first() {
                return;
            }
        }
    }

    fn turn(&self, first: JobId) -> Turn {
        let first_is_long = self.jobs.get(&first).is_some_and(|job| job.long);
        let any_long = self.jobs.values().any(|job| job.long);
        self.window.turn(first_is_long, any_long, self.scheduler.running())
    }

    /// Makes the other context. Everything that is cached is forgotten.
    fn switch(&mut self, first: JobId) {
        self.compute_anew();
        let started = Instant::now();
        match self.context.stretch(self.window.other()) {
            Ok(()) => {
                self.window.switched();
                self.on_gpu = on_gpu(&self.context);
                let stretched = self.window.is_stretched();
                tracing::info!(stretched, ms = started.elapsed().as_millis(), "Context changed");
            }
            Err(error) => self.fail(first, Failure::NoMemory(error.to_string()), Instant::now()),
        }
    }

    /// Tells the first in line how many answers it waits for, whenever that changes.
    fn tell_waiting(&mut self, first: JobId) {
        let ahead = self.scheduler.running();
        if let Some(job) = self.jobs.get_mut(&first)
            && job.told_ahead.replace(ahead) != Some(ahead)
            && !job.outlet.is_blocked()
        {
            self.deliver(first, vec![Event::ContextWait { ahead }], Instant::now());
        }
    }

    /// False: there is no place for it now.
    fn admit_first(&mut self) -> bool {
        let (ops, admitted) = self.scheduler.admit();
        self.apply(&ops);
        let now = Instant::now();
        let any = admitted.is_some();
        if let Some(place) = admitted
            && let Some(job) = self.jobs.get_mut(&place.job)
        {
            job.answer.admitted(place.cached, now);
        }
        any
    }

    fn apply(&mut self, ops: &[KvOp]) {
        for op in ops {
            match *op {
                KvOp::Cut(seq, from) => {
                    // A model that cannot cut there is only ever asked to forget the whole sequence.
                    if !self.context.cut(seq, from) {
                        tracing::warn!(seq, from, "Cache cut refused");
                    }
                }
                KvOp::Share { from, to, length } => self.context.share(from, to, length),
            }
        }
    }

    fn step(&mut self) {
        // Forced tokens of an answer that is alone keep nobody waiting.
        let others = if self.jobs.len() == 1 { 0 } else { self.decoding() };
        let chunk = self.pace.chunk(others, self.micro_batch);
        let step = self.scheduler.plan(chunk);
        self.apply(&step.ops);
        let now = Instant::now();
        for &id in &step.context_full {
            let mut events = Vec::new();
            if let Some(job) = self.jobs.get_mut(&id) {
                job.answer.context_full(now, &mut events);
            }
            self.deliver(id, events, now);
        }
        if step.entries.is_empty() {
            // Who ended here made room, perhaps.
            self.starved = step.context_full.is_empty();
            return;
        }
        self.batch.clear();
        for entry in &step.entries {
            self.batch.push(entry.token, entry.position, entry.seq, entry.logits);
        }
        let abort_on = self.abort_flags(&step);
        let started = Instant::now();
        match self.context.decode(&mut self.batch, abort_on) {
            Ok(()) => {
                // A step with forced tokens says little about either.
                if step.forced == 0 {
                    self.pace.measured(step.prefill, step.decoding, started.elapsed());
                }
                self.scheduler.committed(&step);
                self.prefilled += u64::from(step.prefill);
                self.sample(&step);
            }
            // The cancelled ones leave before the next step is planned.
            Err(DecodeError::Aborted) => self.compare_books(),
            Err(error) => self.decode_failed(&step, &error),
        }
    }

    /// Number of answers that will get a token in the next step.
    fn decoding(&self) -> usize {
        self.jobs.values().filter(|job| !job.paused && job.answer.has_begun()).count()
    }

    /// The flags that discard a step: those of its requests, if it takes longer than one token.
    fn abort_flags(&self, step: &Step) -> Vec<Arc<AtomicBool>> {
        if step.prefill == 0 && step.forced < LONG_FORCED {
            return Vec::new();
        }
        let mut jobs: Vec<JobId> = step.entries.iter().map(|entry| entry.job).collect();
        jobs.dedup();
        jobs.iter().filter_map(|id| self.jobs.get(id)).map(|job| Arc::clone(job.outlet.cancelled())).collect()
    }

    fn sample(&mut self, step: &Step) {
        for (index, entry) in step.entries.iter().enumerate() {
            let now = Instant::now();
            if !entry.logits {
                continue;
            }
            let Some(job) = self.jobs.get_mut(&entry.job) else { continue };
            let Some(logits) = self.context.logits(&self.batch, index) else {
                self.fail(entry.job, Failure::Compute("no logits were computed".to_owned()), now);
                continue;
            };
            let mut events = Vec::new();
            let before = job.answer.generated();
            let stepped = job.answer.step(self.context.model(), logits, now, &mut events);
            self.generated += u64::from(job.answer.generated() - before);
            match stepped {
                Ok(next) => {
                    job.failures = 0;
                    if !next.is_empty() {
                        self.scheduler.sampled(entry.job, &next);
                    }
                    self.deliver(entry.job, events, now);
                }
                Err(error) => self.fail(entry.job, Failure::Compute(error.to_string()), now),
            }
        }
        self.report_prefill(step);
    }

    /// Tells readers how far their prompts are. Lossy: a reader that is behind is not told.
    fn report_prefill(&mut self, step: &Step) {
        let now = Instant::now();
        let mut last = None;
        for entry in step.entries.iter().filter(|entry| !entry.logits) {
            if last.replace(entry.job) == Some(entry.job) {
                continue;
            }
            let Some((done, total)) = self.scheduler.prefill_progress(entry.job) else { continue };
            if let Some(job) = self.jobs.get_mut(&entry.job)
                && !job.outlet.is_blocked()
                && !job.answer.has_begun()
            {
                self.deliver(entry.job, vec![Event::Prefill { done, total }], now);
            }
        }
    }

    /// The cache may be inconsistent after an error that is not ours: everything is computed anew. A request
    /// whose steps fail again and again without a token in between ends; the others do not.
    fn decode_failed(&mut self, step: &Step, error: &DecodeError) {
        tracing::warn!(%error, tokens = step.entries.len(), "Step failed");
        self.compute_anew();
        let now = Instant::now();
        let mut jobs: Vec<JobId> = step.entries.iter().map(|entry| entry.job).collect();
        jobs.dedup();
        for id in jobs {
            let Some(job) = self.jobs.get_mut(&id) else { continue };
            job.failures += 1;
            if job.failures > DECODE_RETRIES {
                let failure = match error {
                    DecodeError::NoMemory(_) => Failure::NoMemory(error.to_string()),
                    _ => Failure::Compute(error.to_string()),
                };
                self.fail(id, failure, now);
            }
        }
    }

    /// llama.cpp's cache must be as it was before a discarded step or a change of the context's size; if it is not,
    /// everything is computed anew.
    fn compare_books(&mut self) {
        let differs = |(seq, last)| self.context.last_position(seq) != last;
        if self.scheduler.last_positions().any(differs) {
            tracing::warn!("The cache is not as it was before");
            self.compute_anew();
        }
    }

    fn compute_anew(&mut self) {
        let ops = self.scheduler.reset_cache();
        self.apply(&ops);
    }

    fn publish(&self) {
        let load = Load {
            running: self.scheduler.running(),
            waiting: self.scheduler.waiting(),
            cells_used: self.scheduler.cells_used(),
            context_tokens: self.context.capacity(),
            wanted_tokens: self.scheduler.wanted().unwrap_or(0),
            generated: self.generated,
            prefilled: self.prefilled,
            computing: self.can_compute(),
            on_gpu: self.on_gpu,
        };
        self.load.send_if_modified(|known| {
            let changed = *known != load;
            *known = load;
            changed
        });
    }
}

/// Bytes of the board's memory that a GPU has for a model and its context.
fn on_gpu(context: &Context) -> u64 {
    context.memory().map_or(0, |memory| memory.on_gpu)
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::QueueFull { waiting } => Self::QueueFull { waiting },
            Refusal::PromptTooLong { prompt, context } => Self::PromptTooLong { prompt, context },
            Refusal::EmptyPrompt => Self::EmptyPrompt,
        }
    }
}

/// A handle to the loop's command queue.
#[derive(Clone, Debug)]
pub struct Submitter {
    commands: SyncSender<Command>,
    stall: Duration,
}

impl Submitter {
    /// A handle; readers that take nothing for `stall` lose their request.
    pub const fn new(commands: SyncSender<Command>, stall: Duration) -> Self {
        Self { commands, stall }
    }

    /// Submits a request.
    ///
    /// # Errors
    /// [`Failure::QueueFull`] when the loop is behind, [`Failure::Ending`] when it is gone.
    pub fn submit(
        &self,
        prompt: Vec<Token>,
        options: AnswerOptions,
        deadline: Option<Instant>,
    ) -> Result<reader::Answers, Failure> {
        let (outlet, answers) = reader::stream(self.commands.clone(), self.stall, deadline);
        let submission = Submission { prompt, options, outlet, deadline };
        self.send(Command::Submit(Box::new(submission)))?;
        Ok(answers)
    }

    fn send(&self, command: Command) -> Result<(), Failure> {
        self.commands.try_send(command).map_err(|unsent| match unsent {
            TrySendError::Full(_) => Failure::QueueFull { waiting: COMMANDS },
            TrySendError::Disconnected(_) => Failure::Ending,
        })
    }
}

#[cfg(test)]
mod tests;
