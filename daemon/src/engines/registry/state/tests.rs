//! The registry in a world of its own: a ledger, engines and clients that are only noted down, and a clock.

mod crowd;
mod histories;
mod lives;
mod memory;

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::engines::AcquireError;
use crate::memory::need::{Choice, Estimate, Footprint, KvType, Point, Sizes, Weights, Wish};
use crate::memory::plan::Refusal;
use crate::store::LookupError;

fn name(text: &str) -> ModelName {
    text.parse().expect("a name")
}

fn sizes(tokens: u32) -> Sizes {
    Sizes { tokens, sequences: 1, micro_batch: 64, kv_type: KvType::F16 }
}

/// One way to load a model, which takes so much.
fn one_way(need: u64) -> Arc<Options> {
    let estimate = Estimate { weights: Bytes(need), ..Estimate::default() };
    let choices = vec![Choice { sizes: sizes(1024), repack: false, estimate }];
    let wish = Wish { sizes: sizes(1024), may_shorten: false, may_quantize: false, repack: false };
    Arc::new(Options { choices, footprint: Footprint::default(), wish, ceiling: 1024, load_ms: None })
}

/// One that takes so much more while it is loaded.
fn staged(need: u64, staging: u64) -> Arc<Options> {
    let mut options = Arc::into_inner(one_way(need)).expect("nobody else has it");
    options.choices[0].estimate.staging = Bytes(staging);
    Arc::new(options)
}

/// A model of 100 MiB whose context takes 1 MiB for 16 tokens, and can be loaded shorter.
fn many_ways() -> Arc<Options> {
    const MIB: u64 = 1 << 20;
    let point = |tokens: u32| Point {
        sizes: sizes(tokens),
        kv: Bytes(u64::from(tokens) / 16 * MIB),
        compute: Bytes(0),
    };
    let footprint = Footprint {
        weights: Weights { mapped: Bytes(96 * MIB), ..Weights::default() },
        points: [512, 8192].map(point).to_vec(),
        process: Bytes(3 * MIB),
        ..Footprint::default()
    };
    let wish = Wish { sizes: sizes(1024), may_shorten: true, may_quantize: false, repack: false };
    let choices = footprint.choices(&wish, 0);
    Arc::new(Options { choices, footprint, wish, ceiling: 8192, load_ms: Some(1000) })
}

/// A model that takes so many MiB with 1,024 tokens of context, 2 MiB for each 1,024, and one more while it is loaded.
/// It can be loaded without that and shorter, and grow.
fn growing(mib: u64, skip: usize, explicit: Option<Explicit>) -> Arc<Options> {
    const MIB: u64 = 1 << 20;
    let point =
        |tokens: u32| Point { sizes: sizes(tokens), kv: Bytes(u64::from(tokens) * 2048), compute: Bytes(0) };
    let weights = Bytes((mib - 3) * MIB);
    let footprint = Footprint {
        weights: Weights { mapped: weights, repacked: Some(weights), staging: Bytes(3 * MIB) },
        points: [512, 8192].map(point).to_vec(),
        ..Footprint::default()
    };
    let tokens = explicit.and_then(|explicit| explicit.context_tokens);
    let sizes = sizes(tokens.unwrap_or(1024));
    let wish = Wish { sizes, may_shorten: tokens.is_none(), may_quantize: false, repack: true };
    let choices = footprint.choices(&wish, skip);
    Arc::new(Options { choices, footprint, wish, ceiling: tokens.unwrap_or(8192), load_ms: None })
}

/// The world around the core: a ledger, engines that do as they are told, and waiters.
#[derive(Default)]
struct World {
    core: State,
    budget: u64,
    /// What the lines added up to the last time: beyond the budget they only get less.
    before: u64,
    reserved: BTreeMap<InstanceId, u64>,
    /// Instances that were started and have not reported `Gone`.
    alive: BTreeMap<InstanceId, Alive>,
    leases: Vec<(ModelName, InstanceId)>,
    /// Waiters without an answer.
    waiting: BTreeSet<WaiterId>,
    answers: Vec<(WaiterId, Answer)>,
    next_waiter: u64,
    now: u64,
    /// An engine was measured to take more.
    measures: bool,
    /// What the core ordered of contexts.
    contexts: Vec<(InstanceId, Result<u32, String>)>,
    /// The last of it where an engine has not answered.
    told: BTreeMap<InstanceId, Told>,
    /// What is reserved for what is no engine.
    passing: u64,
    /// So much of that comes between the next plan and its reservation.
    quicker: u64,
    held: BTreeSet<ModelName>,
}

struct Alive {
    model: ModelName,
    stage: Stage,
    /// How it is to be loaded.
    explicit: Option<Explicit>,
    skip: usize,
    options: Option<Arc<Options>>,
    /// The size of its context, and what it was measured to take beyond the estimate.
    choice: Option<Choice>,
    excess: u64,
    stopped: bool,
    /// Its process has ended, and the core knows.
    lost: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Estimating,
    Waiting,
    Starting,
    Ready,
}

/// What an engine was told of its context.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Told {
    Grow(u32),
    Refuse,
    Shed(u32),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Answer {
    Granted,
    Failed(&'static str),
    Unloaded(bool),
}

impl Phase {
    /// What its engine has in the ledger.
    fn holds(&self) -> Bytes {
        match self {
            Self::Ready { charge, .. } | Self::Unloading { charge, .. } => *charge,
            Self::Loading { step, .. } => step.charge(),
            Self::Absent | Self::Quarantined => Bytes(0),
        }
    }
}

impl Alive {
    fn new(model: ModelName, explicit: Option<Explicit>, skip: usize) -> Self {
        Self {
            model,
            stage: Stage::Estimating,
            explicit,
            skip,
            options: None,
            choice: None,
            excess: 0,
            stopped: false,
            lost: false,
        }
    }

    /// What it takes in memory once it is ready, as far as it was told.
    fn takes(&self) -> Option<u64> {
        let choice = self.choice.filter(|_| self.stage == Stage::Ready)?;
        let estimate = self.options.as_ref()?.footprint.estimate(&choice.sizes, choice.repack)?;
        Some(estimate.loaded().0 + self.excess)
    }

    /// Ready, and not on its way out.
    fn serves(&self) -> bool {
        self.stage == Stage::Ready && !self.stopped && !self.lost
    }
}

impl World {
    fn with(budget: u64) -> Self {
        Self { budget, ..Self::default() }
    }

    fn lines(&self) -> u64 {
        self.reserved.values().sum::<u64>() + self.passing
    }

    fn free(&self) -> u64 {
        self.budget.saturating_sub(self.lines())
    }

    fn books(&self) -> Books {
        Books {
            free: Bytes(self.free()),
            budget: Bytes(self.budget),
            over: Bytes(self.lines().saturating_sub(self.budget)),
            passing: Bytes(self.passing),
        }
    }

    fn feed(&mut self, input: Input) {
        let books = self.books();
        let now = Now { ms: self.now, wall: SystemTime::UNIX_EPOCH };
        self.measures = matches!(input, Input::Takes { .. });
        if let Input::Resized { instance, tokens, .. } = &input {
            self.told.remove(instance);
            if let Some(choice) = &mut self.alive.get_mut(instance).expect("alive").choice {
                choice.sizes.tokens = *tokens;
            }
        }
        let effects = self.core.on(input, books, now);
        effects.into_iter().for_each(|effect| self.perform(effect));
        self.check();
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Start { model, instance, explicit, skip } => {
                assert!(self.alive.values().all(|alive| alive.model != model), "one engine per model");
                self.alive.insert(instance, Alive::new(model, explicit, skip));
            }
            Effect::Admit { instance, choice, .. } => {
                let need = choice.estimate.peak().0;
                assert!(need <= self.free(), "never over budget");
                self.passing += std::mem::take(&mut self.quicker);
                if need > self.free() {
                    let model = self.alive[&instance].model.clone();
                    return self.feed(Input::NotReserved { model, instance });
                }
                self.reserved.insert(instance, need);
                let alive = self.alive.get_mut(&instance).expect("admitted while alive");
                (alive.stage, alive.choice) = (Stage::Starting, Some(choice));
            }
            Effect::Settle { instance, bytes } => {
                let line = self.reserved.get_mut(&instance).expect("settled while it is there");
                let more = bytes.0.saturating_sub(*line);
                assert!(more == 0 || self.measures, "what is there only gets less when it is settled");
                *line = bytes.0;
                self.before += more;
                self.alive.get_mut(&instance).expect("alive").excess += more;
            }
            Effect::Grow { instance, bytes, tokens, .. } => {
                let extra = bytes.0 - self.reserved[&instance];
                assert!(extra <= self.free(), "never over budget");
                self.reserved.insert(instance, bytes.0);
                self.tell(instance, Told::Grow(tokens), Ok(tokens));
            }
            Effect::RefuseGrowth { instance, reason } => self.tell(instance, Told::Refuse, Err(reason)),
            Effect::Shed { instance, tokens } => self.tell(instance, Told::Shed(tokens), Ok(tokens)),
            Effect::Stop { instance } => {
                self.told.remove(&instance);
                let alive = self.alive.get_mut(&instance).expect("stopped while alive");
                assert!(!std::mem::replace(&mut alive.stopped, true), "told to stop once");
                assert!(!alive.lost, "the dead are not told to stop");
            }
            Effect::Abort { instance } => assert!(self.alive.contains_key(&instance)),
            Effect::Grant { waiter, instance } => {
                let alive = &self.alive[&instance];
                assert_eq!(alive.stage, Stage::Ready, "granted when ready");
                assert!(!alive.lost, "nobody gets a dead engine");
                self.leases.push((alive.model.clone(), instance));
                self.answer(waiter, Answer::Granted);
            }
            Effect::Fail { waiter, error } => self.answer(waiter, Answer::Failed(word(&error))),
            Effect::Unloaded { waiter, was_loaded } => self.answer(waiter, Answer::Unloaded(was_loaded)),
        }
    }

    /// One that was told to stop listens no more.
    fn tell(&mut self, instance: InstanceId, what: Told, size: Result<u32, String>) {
        if !self.alive[&instance].stopped {
            assert_eq!(self.told.insert(instance, what), None, "it is told one thing at a time");
        }
        self.contexts.push((instance, size));
    }

    /// An engine does what it was told of its context, or finds that it cannot.
    fn obey(&mut self, instance: InstanceId, can: bool) {
        let (model, now) = (self.alive[&instance].model.clone(), self.tokens(instance));
        let tokens = match self.told[&instance] {
            Told::Grow(tokens) if can => tokens,
            Told::Shed(tokens) if can => tokens.min(now),
            _ => now,
        };
        self.feed(Input::Resized { model, instance, tokens });
    }

    fn tokens(&self, instance: InstanceId) -> u32 {
        self.alive[&instance].choice.map_or(0, |choice| choice.sizes.tokens)
    }

    fn answer(&mut self, waiter: WaiterId, answer: Answer) {
        assert!(self.waiting.remove(&waiter), "answered once");
        self.answers.push((waiter, answer));
    }

    fn check(&mut self) {
        let sum = self.lines();
        assert!(sum <= self.budget.max(self.before), "never over budget, and never more so");
        self.before = sum;
        for (instance, line) in &self.reserved {
            let model = &self.core.models[&self.alive[instance].model];
            assert_eq!(model.phase.holds(), Bytes(*line), "the core counts what the ledger has");
            let takes = self.alive[instance].takes();
            assert!(takes.is_none_or(|takes| takes <= *line), "{takes:?} of {line} at {instance:?}");
        }
        assert!(self.core.models.values().all(|model| model.waiters.len() <= MAX_WAITERS));
        assert!(!self.core.models.values().any(Model::is_blank), "nothing is kept of a name without a tale");
    }

    fn hold(&mut self, model: &str) {
        if self.core.hold(&name(model)).is_ok() {
            assert!(self.held.insert(name(model)), "held once");
        }
        self.check();
    }

    fn release(&mut self, which: usize, change: Change) {
        let model = self.held.iter().nth(which).expect("it is held").clone();
        self.held.remove(&model);
        self.core.release(&model, change);
        self.check();
    }

    fn lose(&mut self, instance: InstanceId) {
        let alive = self.alive.get_mut(&instance).expect("alive");
        alive.lost = true;
        let model = alive.model.clone();
        self.feed(Input::Lost { model, instance });
    }

    fn shrink(&mut self, budget: u64) {
        self.budget = budget;
        self.feed(Input::Budget);
    }

    fn unused(&mut self, model: &str) {
        let (model, instance) = (name(model), self.instance(model));
        self.feed(Input::Unused { model, instance, reason: "nobody used it".to_owned() });
    }

    fn wait(&mut self, ms: u64) {
        self.now += ms;
        self.feed(Input::Tick);
    }

    fn waiter(&mut self) -> WaiterId {
        let waiter = WaiterId(self.next_waiter);
        self.next_waiter += 1;
        self.waiting.insert(waiter);
        waiter
    }

    fn acquire(&mut self, model: &str, intent: Intent) -> WaiterId {
        self.acquire_as(model, intent, None)
    }

    fn acquire_as(&mut self, model: &str, intent: Intent, explicit: Option<Explicit>) -> WaiterId {
        let waiter = self.waiter();
        self.feed(Input::Acquire { model: name(model), waiter, intent, explicit, keep_alive: None });
        waiter
    }

    /// Who waits for a lease, and on which model.
    fn lines_of_waiters(&self) -> Vec<(ModelName, WaiterId)> {
        let lines = self.core.models.iter();
        lines.flat_map(|(name, model)| model.waiters.iter().map(|waiter| (name.clone(), *waiter))).collect()
    }

    fn cancel(&mut self, model: &ModelName, waiter: WaiterId) {
        self.waiting.remove(&waiter);
        self.feed(Input::Abandon { model: model.clone(), waiter });
    }

    /// Something that is no engine takes memory for a moment, if there is any.
    fn pass(&mut self, need: u64) {
        self.feed(Input::MakeRoom { need: Bytes(need), purpose: "an inspector".to_owned() });
        if need <= self.free() {
            self.passing += need;
            self.before = self.lines();
        }
    }

    fn passed(&mut self) {
        self.passing = 0;
        self.feed(Input::Budget);
    }

    fn unload(&mut self, model: &str, mode: UnloadMode) -> WaiterId {
        let waiter = self.waiter();
        self.feed(Input::Unload { model: name(model), waiter, mode });
        waiter
    }

    fn instance(&self, model: &str) -> InstanceId {
        let mut alive = self.alive.iter().filter(|(_, alive)| alive.model == name(model));
        *alive.next().expect("the model has an engine").0
    }

    /// What it takes to load it is known.
    fn estimate(&mut self, instance: InstanceId, options: Arc<Options>) {
        let alive = self.alive.get_mut(&instance).expect("alive");
        (alive.stage, alive.options) = (Stage::Waiting, Some(Arc::clone(&options)));
        let model = alive.model.clone();
        self.feed(Input::Estimated { model, instance, options });
    }

    /// Lets an engine go one step on its way up.
    fn step(&mut self, instance: InstanceId, need: u64) {
        let alive = self.alive.get_mut(&instance).expect("alive");
        let model = alive.model.clone();
        match alive.stage {
            Stage::Estimating => self.estimate(instance, one_way(need)),
            Stage::Starting => {
                alive.stage = Stage::Ready;
                self.feed(Input::Ready { model, instance });
            }
            Stage::Waiting | Stage::Ready => {}
        }
    }

    fn end(&mut self, instance: InstanceId, end: End) {
        let model = self.alive.remove(&instance).expect("alive").model;
        self.reserved.remove(&instance);
        self.told.remove(&instance);
        self.before = self.lines();
        self.feed(Input::Gone { model, instance, end });
    }

    fn load(&mut self, model: &str, need: u64) -> WaiterId {
        let waiter = self.acquire(model, Intent::Load);
        let instance = self.instance(model);
        self.step(instance, need);
        if self.alive[&instance].stage == Stage::Starting {
            self.step(instance, need);
        }
        waiter
    }

    fn give_back(&mut self, lease: usize, outcome: Outcome) {
        let (model, instance) = self.leases.swap_remove(lease);
        self.feed(Input::Return { model, instance, outcome });
    }

    fn crash(&mut self, model: &str) {
        let instance = self.instance(model);
        self.end(instance, End::Crashed("it crashed".to_owned()));
    }

    fn answer_of(&self, waiter: WaiterId) -> Option<Answer> {
        self.answers.iter().find(|(id, _)| *id == waiter).map(|(_, answer)| *answer)
    }

    fn takes(&mut self, model: &str, bytes: u64) {
        let (model, instance) = (name(model), self.instance(model));
        self.feed(Input::Takes { model, instance, bytes: Bytes(bytes) });
    }

    fn wants(&mut self, model: &str, tokens: u32) {
        let (model, instance) = (name(model), self.instance(model));
        self.feed(Input::Wants { model, instance, tokens });
    }

    fn resized(&mut self, model: &str, tokens: u32) {
        let (model, instance) = (name(model), self.instance(model));
        self.feed(Input::Resized { model, instance, tokens });
    }

    fn state(&self, model: &str) -> ModelState {
        self.core.models.get(&name(model)).map_or(ModelState::Absent, |model| model.phase.public())
    }
}

fn word(error: &AcquireError) -> &'static str {
    match error {
        AcquireError::Refused(Refusal::NeverFits { .. }) => "never fits",
        AcquireError::Refused(Refusal::FullNow { .. }) => "full now",
        AcquireError::QueueFull { .. } => "queue full",
        AcquireError::Quarantined { .. } => "quarantined",
        AcquireError::Crashed { .. } => "crashed",
        AcquireError::Unloaded => "unloaded",
        AcquireError::Held => "held",
        AcquireError::Draining => "draining",
        AcquireError::Pressure => "pressure",
        AcquireError::Lookup(_)
        | AcquireError::LoadRefused(_)
        | AcquireError::BadModel { .. }
        | AcquireError::CannotStart { .. } => "failed",
    }
}
