//! Arbitrary histories keep the invariants of the registry.

mod crowd;
mod memory;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::engines::AcquireError;
use crate::memory::need::{Choice, Estimate, Footprint, KvType, Point, Sizes, Weights, Wish};
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

#[test]
fn one_load_serves_all_who_wait() {
    let mut world = World::with(10);
    let first = world.acquire("a", Intent::Answer);
    let second = world.acquire("a", Intent::Answer);
    let instance = world.instance("a");
    world.step(instance, 5);
    assert_eq!(world.answer_of(first), None);
    world.step(instance, 5);
    assert_eq!(world.answer_of(first), Some(Answer::Granted));
    assert_eq!(world.answer_of(second), Some(Answer::Granted));
    assert_eq!((world.leases.len(), world.state("a")), (2, ModelState::Ready));
}

#[test]
fn the_line_is_bounded() {
    let mut world = World::with(10);
    for _ in 0..MAX_WAITERS {
        world.acquire("a", Intent::Answer);
    }
    let late = world.acquire("a", Intent::Answer);
    assert_eq!(world.answer_of(late), Some(Answer::Failed("queue full")));
}

#[test]
fn an_idle_model_makes_room_and_a_busy_one_is_waited_for() {
    let mut world = World::with(10);
    world.load("a", 6);
    let granted = world.load("b", 6);
    assert_eq!((world.answer_of(granted), world.state("a")), (None, ModelState::Ready), "it is in use");
    world.give_back(0, Outcome::Neutral);
    world.wait(1000);
    assert_eq!((world.answer_of(granted), world.state("a")), (None, ModelState::Unloading));
    let evicted = world.instance("a");
    world.end(evicted, End::Stopped);
    let instance = world.instance("b");
    world.step(instance, 6);
    assert_eq!(world.answer_of(granted), Some(Answer::Granted));
}

#[test]
fn a_pinned_model_makes_no_room() {
    let mut world = World::with(10);
    world.core.pin([name("a")].into());
    world.load("a", 6);
    world.give_back(0, Outcome::Neutral);
    let refused = world.load("b", 6);
    assert_eq!(world.answer_of(refused), Some(Answer::Failed("full now")));
    world.unused("a");
    world.shrink(5);
    assert_eq!(world.state("a"), ModelState::Ready);
    let unloader = world.unload("a", UnloadMode::Wait);
    let instance = world.instance("a");
    world.end(instance, End::Stopped);
    assert_eq!(world.answer_of(unloader), Some(Answer::Unloaded(true)), "on request it goes");
}

#[test]
fn a_model_that_nobody_used_for_long_goes_but_not_from_under_an_answer() {
    let mut world = World::with(10);
    world.load("a", 6);
    world.unused("a");
    assert_eq!(world.state("a"), ModelState::Ready, "it is in use");
    world.give_back(0, Outcome::Neutral);
    world.unused("a");
    assert_eq!(world.state("a"), ModelState::Unloading);
}

#[test]
fn a_budget_that_shrinks_drives_out_what_is_idle_oldest_first() {
    let mut world = World::with(12);
    for model in ["a", "b", "c"] {
        world.load(model, 4);
        world.give_back(0, Outcome::Neutral);
    }
    world.acquire("b", Intent::Answer);
    world.shrink(8);
    let states = |world: &World| ["a", "b", "c"].map(|model| world.state(model));
    assert_eq!(states(&world), [ModelState::Unloading, ModelState::Ready, ModelState::Ready]);
    world.shrink(2);
    assert_eq!(states(&world), [ModelState::Unloading, ModelState::Ready, ModelState::Unloading]);
    let refused = world.load("d", 3);
    assert_eq!(world.answer_of(refused), Some(Answer::Failed("never fits")));
}

#[test]
fn a_model_beyond_the_budget_is_refused_for_good() {
    let mut world = World::with(10);
    let refused = world.load("a", 11);
    assert_eq!(world.answer_of(refused), Some(Answer::Failed("never fits")));
}

#[test]
fn three_crashes_in_a_row_are_a_quarantine_that_a_load_lifts() {
    let mut world = World::with(10);
    for _ in 0..3 {
        assert_ne!(world.state("a"), ModelState::Quarantined);
        world.load("a", 5);
        world.crash("a");
    }
    assert_eq!(world.state("a"), ModelState::Quarantined);
    let refused = world.acquire("a", Intent::Answer);
    assert_eq!(world.answer_of(refused), Some(Answer::Failed("quarantined")));
    let granted = world.load("a", 5);
    assert_eq!(world.answer_of(granted), Some(Answer::Granted));
}

#[test]
fn crashes_of_loads_count_and_tell_who_waits() {
    let mut world = World::with(10);
    for wanted in ["crashed", "crashed", "quarantined"] {
        let waiter = world.acquire("a", Intent::Answer);
        world.crash("a");
        assert_eq!(world.answer_of(waiter), Some(Answer::Failed(wanted)));
    }
}

#[test]
fn a_good_answer_ends_a_row_of_crashes() {
    let mut world = World::with(10);
    for _ in 0..6 {
        world.load("a", 5);
        let last = world.leases.len() - 1;
        world.give_back(last, Outcome::Good);
        world.crash("a");
    }
    assert_eq!(world.state("a"), ModelState::Absent);
}

#[test]
fn an_unload_waits_for_answers_unless_it_aborts_them() {
    for (mode, told) in [(UnloadMode::Wait, false), (UnloadMode::Abort, true)] {
        let mut world = World::with(10);
        world.load("a", 5);
        let unloader = world.unload("a", mode);
        let instance = world.instance("a");
        assert_eq!(world.alive[&instance].stopped, told);
        let next = world.acquire("a", Intent::Answer);
        world.give_back(0, Outcome::Neutral);
        assert!(world.alive[&instance].stopped);
        world.end(instance, End::Stopped);
        assert_eq!(world.answer_of(unloader), Some(Answer::Unloaded(true)));
        assert_eq!((world.answer_of(next), world.state("a")), (None, ModelState::Loading));
    }
    let mut world = World::with(10);
    let unloader = world.unload("a", UnloadMode::Wait);
    assert_eq!(world.answer_of(unloader), Some(Answer::Unloaded(false)));
}

#[test]
fn a_model_in_memory_cannot_be_held_and_a_held_one_not_loaded() {
    let mut world = World::with(10);
    assert_eq!(world.core.hold(&name("a")), Ok(()));
    let refused = world.acquire("a", Intent::Load);
    assert_eq!(world.answer_of(refused), Some(Answer::Failed("held")));
    world.core.release(&name("a"), Change::None);
    world.load("a", 5);
    assert_eq!(world.core.hold(&name("a")), Err(InUse));
}

#[test]
fn who_asks_between_an_engines_end_and_its_report_gets_the_next_one() {
    let mut world = World::with(10);
    world.load("a", 5);
    let dead = world.instance("a");
    world.lose(dead);
    let waiter = world.acquire("a", Intent::Answer);
    assert_eq!((world.answer_of(waiter), world.state("a")), (None, ModelState::Unloading));
    world.end(dead, End::Crashed("it was killed".to_owned()));
    let next = world.instance("a");
    assert_ne!(next, dead);
    world.step(next, 5);
    world.step(next, 5);
    assert_eq!(world.answer_of(waiter), Some(Answer::Granted));
    assert_eq!(world.core.models[&name("a")].crashes, 1);
}

#[test]
fn a_late_word_on_an_old_engine_does_not_touch_the_next() {
    let mut world = World::with(10);
    world.load("a", 5);
    let dead = world.instance("a");
    world.crash("a");
    world.load("a", 5);
    world.feed(Input::Lost { model: name("a"), instance: dead });
    assert_eq!(world.state("a"), ModelState::Ready);
}

#[test]
fn names_that_lead_to_nothing_are_forgotten() {
    let mut world = World::with(10);
    for i in 0..1000 {
        let model = format!("m{i}");
        world.unload(&model, UnloadMode::Wait);
        world.hold(&model);
        world.acquire(&model, Intent::Answer);
        world.release(0, Change::None);
    }
    world.acquire("gone", Intent::Answer);
    let gone = world.instance("gone");
    let missing = LookupError::NotFound { model: "gone".parse().expect("a reference") };
    world.end(gone, End::Failed(AcquireError::Lookup(std::sync::Arc::new(missing))));
    assert_eq!(world.core.models.len(), 0);
}

#[derive(Clone, Debug)]
enum Action {
    Acquire { model: u8, load: bool },
    Unload { model: u8, abort: bool },
    Step { which: Index, need: u64 },
    End { which: Index, crash: bool },
    Return { which: Index, good: bool },
    Lose { which: Index },
    Hold { model: u8 },
    Release { which: Index, changed: bool },
    Exactly { model: u8, tokens: u32 },
    Cancel { which: Index },
    OutOfMemory { which: Index },
    Wants { which: Index, tokens: u32 },
    Obey { which: Index, can: bool },
    Takes { which: Index, more: u64 },
    Unused { which: Index },
    Budget { mib: u64 },
    Pressure { level: Level },
    Pass { mib: u64 },
    Passed,
    Wait { ms: u64 },
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        3 => (0u8..4, any::<bool>()).prop_map(|(model, load)| Action::Acquire { model, load }),
        1 => (0u8..4, any::<bool>()).prop_map(|(model, abort)| Action::Unload { model, abort }),
        9 => (any::<Index>(), 3u64..12).prop_map(|(which, need)| Action::Step { which, need }),
        2 => (any::<Index>(), any::<bool>()).prop_map(|(which, crash)| Action::End { which, crash }),
        3 => (any::<Index>(), any::<bool>()).prop_map(|(which, good)| Action::Return { which, good }),
        1 => any::<Index>().prop_map(|which| Action::Lose { which }),
        1 => (0u8..4).prop_map(|model| Action::Hold { model }),
        1 => (any::<Index>(), any::<bool>()).prop_map(|(which, changed)| Action::Release { which, changed }),
        1 => (0u8..4, 1u32..4).prop_map(|(model, k)| Action::Exactly { model, tokens: k * 512 }),
        1 => any::<Index>().prop_map(|which| Action::Cancel { which }),
        1 => any::<Index>().prop_map(|which| Action::OutOfMemory { which }),
        4 => (any::<Index>(), 1u32..9000).prop_map(|(which, tokens)| Action::Wants { which, tokens }),
        4 => (any::<Index>(), any::<bool>()).prop_map(|(which, can)| Action::Obey { which, can }),
        1 => (any::<Index>(), 1u64..4).prop_map(|(which, more)| Action::Takes { which, more }),
        1 => any::<Index>().prop_map(|which| Action::Unused { which }),
        1 => (4u64..30).prop_map(|mib| Action::Budget { mib }),
        1 => prop_oneof![Just(Level::None), Just(Level::Some), Just(Level::Full)]
            .prop_map(|level| Action::Pressure { level }),
        1 => (1u64..8).prop_map(|mib| Action::Pass { mib }),
        1 => Just(Action::Passed),
        3 => (0u64..5_000).prop_map(|ms| Action::Wait { ms }),
    ]
}

fn act(world: &mut World, action: &Action) {
    match action {
        Action::Acquire { model, load } => {
            let intent = if *load { Intent::Load } else { Intent::Answer };
            world.acquire(&format!("m{model}"), intent);
        }
        Action::Unload { model, abort } => {
            let mode = if *abort { UnloadMode::Abort } else { UnloadMode::Wait };
            world.unload(&format!("m{model}"), mode);
        }
        Action::Step { which, need } => {
            if let Some(instance) = pick(world, which) {
                step_growing(world, instance, *need);
            }
        }
        Action::End { which, crash } => {
            if let Some(instance) = pick(world, which) {
                let stopped = world.alive[&instance].stopped;
                if stopped || *crash {
                    let end = if stopped { End::Stopped } else { End::Crashed("x".to_owned()) };
                    world.end(instance, end);
                }
            }
        }
        Action::Return { which, good } => {
            if !world.leases.is_empty() {
                let outcome = if *good { Outcome::Good } else { Outcome::Neutral };
                world.give_back(which.index(world.leases.len()), outcome);
            }
        }
        Action::Lose { which } => {
            if let Some(instance) = pick(world, which) {
                let Alive { stage, stopped, .. } = world.alive[&instance];
                if stage == Stage::Ready && !stopped {
                    world.lose(instance);
                }
            }
        }
        Action::Hold { model } => world.hold(&format!("m{model}")),
        Action::Release { which, changed } => {
            if !world.held.is_empty() {
                let change = if *changed { Change::Made } else { Change::None };
                world.release(which.index(world.held.len()), change);
            }
        }
        Action::Exactly { model, tokens } => {
            let explicit = Explicit { context_tokens: Some(*tokens), kv_type: None };
            world.acquire_as(&format!("m{model}"), Intent::Load, Some(explicit));
        }
        Action::Wait { ms } => world.wait(*ms),
        _ => act_on_memory(world, action),
    }
}

fn act_on_memory(world: &mut World, action: &Action) {
    const MIB: u64 = 1 << 20;
    match action {
        Action::Cancel { which } => {
            let waiting: Vec<(ModelName, WaiterId)> = world.lines_of_waiters();
            if !waiting.is_empty() {
                let (model, waiter) = &waiting[which.index(waiting.len())];
                world.cancel(model, *waiter);
            }
        }
        Action::OutOfMemory { which } => {
            let is_up = |alive: &Alive| matches!(alive.stage, Stage::Starting | Stage::Ready);
            if let Some(instance) = pick(world, which).filter(|instance| is_up(&world.alive[instance])) {
                world.end(instance, End::OutOfMemory("x".to_owned()));
            }
        }
        Action::Wants { which, tokens } => {
            if let Some((instance, model)) = pick_serving(world, which) {
                world.feed(Input::Wants { model, instance, tokens: *tokens });
            }
        }
        Action::Obey { which, can } => {
            let told: Vec<InstanceId> = world.told.keys().copied().collect();
            if !told.is_empty() {
                world.obey(told[which.index(told.len())], *can);
            }
        }
        Action::Takes { which, more } => {
            if let Some((instance, model)) = pick_serving(world, which) {
                let bytes = Bytes(world.reserved[&instance] + more * MIB / 2);
                world.feed(Input::Takes { model, instance, bytes });
            }
        }
        Action::Unused { which } => {
            if let Some((instance, model)) = pick_serving(world, which) {
                world.feed(Input::Unused { model, instance, reason: "nobody used it".to_owned() });
            }
        }
        Action::Budget { mib } => world.shrink(mib * MIB),
        Action::Pressure { level } => world.feed(Input::Pressure(*level)),
        Action::Pass { mib } => world.pass(mib * MIB),
        Action::Passed => world.passed(),
        other => panic!("{other:?} is not about memory"),
    }
}

/// One step on the way up of an engine whose context can grow.
fn step_growing(world: &mut World, instance: InstanceId, mib: u64) {
    let Alive { stage, skip, explicit, .. } = world.alive[&instance];
    if stage == Stage::Estimating {
        world.estimate(instance, growing(mib, skip, explicit));
    } else {
        world.step(instance, 0);
    }
}

fn pick_serving(world: &World, which: &Index) -> Option<(InstanceId, ModelName)> {
    let instance = pick(world, which)?;
    let alive = &world.alive[&instance];
    alive.serves().then(|| (instance, alive.model.clone()))
}

fn pick(world: &World, which: &Index) -> Option<InstanceId> {
    let alive: Vec<_> = world.alive.keys().copied().collect();
    (!alive.is_empty()).then(|| alive[which.index(alive.len())])
}

proptest! {
    /// Over any history: one engine per model, never over budget, never less in the ledger than an engine takes, one
    /// order of a context at a time, a lease only on a ready engine that lives,
    /// one answer for each waiter and none forgotten once everything has come to rest, and nothing kept of a
    /// model of which there is nothing to say.
    #[test]
    fn every_waiter_gets_one_answer(
        budget in 4u64..30,
        actions in proptest::collection::vec(action(), 0..160),
    ) {
        let mut world = World::with(budget << 20);
        actions.iter().for_each(|action| act(&mut world, action));
        world.feed(Input::Pressure(Level::None));
        world.passed();
        world.shrink(30 << 20);
        while !world.leases.is_empty() {
            world.give_back(0, Outcome::Neutral);
        }
        for _ in 0..200 {
            let Some(instance) = world.alive.keys().copied().next() else { break };
            let alive = &world.alive[&instance];
            match (alive.stopped, alive.stage) {
                (true, _) | (false, Stage::Ready | Stage::Waiting) => {
                    let (model, stopped) = (alive.model.clone(), alive.stopped);
                    if !stopped {
                        let waiter = world.waiter();
                        world.feed(Input::Unload { model, waiter, mode: UnloadMode::Abort });
                    }
                    world.end(instance, End::Stopped);
                }
                (false, _) => step_growing(&mut world, instance, 3),
            }
            while !world.leases.is_empty() {
                world.give_back(0, Outcome::Neutral);
            }
        }
        prop_assert!(world.alive.is_empty());
        prop_assert!(world.waiting.is_empty());
        prop_assert!(world.reserved.is_empty());
    }
}
