//! Many models and clients over a long time, in a world with a clock, where everything happens that may happen.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

const MIB: u64 = 1 << 20;
/// Models that are asked for.
const MODELS: u64 = 20;
/// What happens in all.
const EVENTS: usize = 100_000;
/// What all engines may use, in MiB; at times a quarter less.
const BUDGET: u64 = 100;
/// The longest answer, load, change of a context and end of an engine, in milliseconds.
const ANSWER: u64 = 5_000;
const LOAD: u64 = 2_000;
const RESIZE: u64 = 200;
const END: u64 = 300;
/// The longest time for which the board is short of memory, the budget small, or an inspector there.
const SPELL: u64 = 3_000;

/// The longest answer that needs a longer context in the middle: it is told something else of it first, or unused
/// models go for it, and then it is made.
const LONG_ANSWER: u64 = ANSWER + 2 * (END + RESIZE);

/// **The bound.** Each load ahead in the line, and the own one, costs at most the turn of the models that are in the
/// way (twice their load), the longest answer, their end and the load itself; a line has at most one load for each
/// model. Those that are let past take [`PATIENCE`](super::super::admission) at most, and are in the way for a turn.
/// Time in which the board is so short of memory that nothing is loaded does not count.
const LONGEST_WAIT: u64 = (MODELS + 1) * (2 * LOAD + LONG_ANSWER + END + LOAD) + 10_000;

/// What must have happened for the history to say something: orders of contexts, why models went, and the rest.
const EVERYTHING: [&str; 14] = [
    "Grow",
    "Refuse",
    "Shed",
    "evicted to make",
    "its turn is",
    "unloaded on request",
    "loaded anew with",
    "nobody used it",
    "the memory budget",
    "the board is",
    "took too much",
    "was out of memory",
    "was abandoned",
    "let an inspector in",
];

/// xorshift64*: the histories are the same in every run (Vigna 2016, <https://arxiv.org/abs/1402.6246>).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % end
    }
}

/// What will happen at a time.
#[derive(Clone, Debug)]
enum Due {
    Arrival,
    Estimate(InstanceId),
    Ready(InstanceId),
    /// An answer has filled its context, and has so long to go.
    Full(ModelName, InstanceId, u64),
    Resized(InstanceId),
    LeaseOver(ModelName, InstanceId, Outcome),
    Gone(InstanceId),
    /// What was so for a while is over.
    Pressed,
    Shrunk,
    Passed,
}

/// An answer that waits for a longer context.
struct Held {
    model: ModelName,
    instance: InstanceId,
    tokens: u32,
    to_go: u64,
}

/// What is seen of an engine from outside.
#[derive(Clone, Copy, Default)]
struct Life {
    admitted_at: u64,
    ready_at: Option<u64>,
    idle_since: Option<u64>,
    is_leaving: bool,
}

impl Life {
    fn load(&self) -> u64 {
        self.ready_at.map_or(0, |at| at - self.admitted_at)
    }

    /// When its turn is over, as docs/memory.md has it.
    fn turn_ends(&self) -> u64 {
        self.ready_at.unwrap_or(0) + (2 * self.load()).clamp(500, 60_000)
    }

    /// Until when it is waited for within its turn.
    fn waited_for(&self) -> u64 {
        (self.idle_since.unwrap_or(0) + (self.load() / 8).clamp(20, 1_000)).min(self.turn_ends())
    }
}

struct Crowd {
    world: World,
    dice: Dice,
    due: BTreeMap<(u64, u64), Due>,
    number: u64,
    /// When each waiter began to wait, on the clock that stands still under pressure.
    since: BTreeMap<WaiterId, (u64, ModelName)>,
    longest: u64,
    acquires: u64,
    loads: u64,
    granted: u64,
    refused: BTreeMap<&'static str, u64>,
    /// How far effects were looked at.
    answers_seen: usize,
    stages: BTreeMap<InstanceId, Stage>,
    leases_seen: usize,
    lives: BTreeMap<InstanceId, Life>,
    held: Vec<Held>,
    told: BTreeSet<InstanceId>,
    /// For how long the board was too short of memory to load anything, and since when it is.
    pressed: u64,
    pressed_since: Option<u64>,
    /// Memory and time that loads took, in MiB and milliseconds.
    loading: u64,
    /// What happened, and why models went.
    seen: BTreeMap<String, u64>,
}

impl Crowd {
    fn new(seed: u64) -> Self {
        let mut crowd = Self {
            world: World::with(BUDGET * MIB),
            dice: Dice(seed),
            due: BTreeMap::new(),
            number: 0,
            since: BTreeMap::new(),
            longest: 0,
            acquires: 0,
            loads: 0,
            granted: 0,
            refused: BTreeMap::new(),
            answers_seen: 0,
            stages: BTreeMap::new(),
            leases_seen: 0,
            lives: BTreeMap::new(),
            held: Vec::new(),
            told: BTreeSet::new(),
            pressed: 0,
            pressed_since: None,
            loading: 0,
            seen: BTreeMap::new(),
        };
        crowd.world.core.pin([name("m0")].into());
        crowd.plan(0, Due::Arrival);
        crowd
    }

    fn plan(&mut self, after: u64, due: Due) {
        self.number += 1;
        self.due.insert((self.world.now + after, self.number), due);
    }

    fn soon(&mut self, within: u64, due: Due) {
        let after = self.dice.below(within);
        self.plan(after, due);
    }

    fn count(&mut self, what: &str) {
        *self.seen.entry(what.to_owned()).or_default() += 1;
    }

    /// 3 to 60 MiB of 100; the pinned one is small.
    fn size(model: &ModelName) -> u64 {
        let number: u64 =
            model.as_str().trim_start_matches('m').split(':').next().unwrap_or("").parse().unwrap_or(0);
        3 + (number * 37) % 58
    }

    /// The clock of those who wait: it stands still while nothing is loaded.
    fn clock(&self) -> u64 {
        let now = self.pressed_since.unwrap_or(self.world.now);
        now - self.pressed
    }

    fn happen(&mut self, due: Due) {
        match due {
            Due::Arrival => {
                self.soon(800, Due::Arrival);
                self.arrive();
            }
            Due::Estimate(instance) => {
                if let Some(alive) = self.world.alive.get(&instance).filter(|alive| !alive.stopped) {
                    let options = growing(Self::size(&alive.model), alive.skip, alive.explicit);
                    self.world.estimate(instance, options);
                }
            }
            Due::Ready(instance) => self.come(instance),
            Due::Full(model, instance, to_go) => self.fill(model, instance, to_go),
            Due::Resized(instance) => self.resize(instance),
            Due::LeaseOver(model, instance, outcome) => {
                let at = self.world.leases.iter().position(|(m, i)| *m == model && *i == instance);
                if let Some(at) = at {
                    self.world.give_back(at, outcome);
                    self.leases_seen -= 1;
                }
            }
            Due::Gone(instance) => self.end(instance, End::Stopped),
            Due::Pressed => self.press(Level::None),
            Due::Shrunk => self.world.shrink(BUDGET * MIB),
            Due::Passed => self.world.passed(),
        }
        self.follow();
    }

    fn come(&mut self, instance: InstanceId) {
        let is_starting = |alive: &&Alive| alive.stage == Stage::Starting && !alive.stopped;
        if self.world.alive.get(&instance).filter(is_starting).is_none() {
            return;
        }
        // One load in thirty fails.
        if self.dice.below(30) == 0 {
            self.end(instance, End::Failed(AcquireError::Unloaded));
        } else {
            self.world.step(instance, 0);
        }
    }

    fn end(&mut self, instance: InstanceId, end: End) {
        if self.world.alive.contains_key(&instance) {
            self.world.leases.retain(|(_, of)| *of != instance);
            self.leases_seen = self.world.leases.len();
            self.held.retain(|held| held.instance != instance);
            self.told.remove(&instance);
            self.world.end(instance, end);
        }
    }

    /// An answer needs a longer context, if it goes on at all.
    fn fill(&mut self, model: ModelName, instance: InstanceId, to_go: u64) {
        if !self.world.leases.iter().any(|(_, of)| *of == instance) {
            return;
        }
        let tokens = self.world.tokens(instance) + 1 + u32::try_from(self.dice.below(1500)).expect("few");
        self.held.push(Held { model, instance, tokens, to_go });
        self.want(instance);
    }

    /// Says what those need who are held. Once: an engine that stands still says nothing new.
    fn want(&mut self, instance: InstanceId) {
        let held = self.held.iter().filter(|held| held.instance == instance);
        let (Some(tokens), Some(alive)) =
            (held.map(|held| held.tokens).max(), self.world.alive.get(&instance))
        else {
            return;
        };
        let model = alive.model.clone();
        self.world.feed(Input::Wants { model, instance, tokens });
    }

    /// An engine does what it was told of its context; who was held goes on, ends, or is held still.
    fn resize(&mut self, instance: InstanceId) {
        self.told.remove(&instance);
        let Some(told) = self.world.told.get(&instance).copied() else { return };
        // What runs keeps its context; and one in ten cannot grow.
        let can = match told {
            Told::Shed(_) => !self.world.leases.iter().any(|(_, of)| *of == instance),
            Told::Grow(_) | Told::Refuse => self.dice.below(10) > 0,
        };
        self.count(&format!("{told:?}").chars().take_while(|c| c.is_alphabetic()).collect::<String>());
        self.world.obey(instance, can);
        let tokens = self.world.alive.get(&instance).map_or(0, |_| self.world.tokens(instance));
        let fails = told == Told::Refuse || (matches!(told, Told::Grow(_)) && !can);
        let (of_it, rest): (Vec<Held>, Vec<Held>) =
            std::mem::take(&mut self.held).into_iter().partition(|h| h.instance == instance);
        self.held = rest;
        for held in of_it {
            if tokens >= held.tokens {
                self.plan(held.to_go, Due::LeaseOver(held.model, instance, Outcome::Good));
            } else if fails {
                self.plan(0, Due::LeaseOver(held.model, instance, Outcome::Neutral));
            } else {
                self.held.push(held);
            }
        }
        self.want(instance);
    }

    fn press(&mut self, level: Level) {
        if let Some(since) = self.pressed_since.take() {
            self.pressed += self.world.now - since;
        }
        if level == Level::Full {
            self.pressed_since = Some(self.world.now);
        }
        self.world.feed(Input::Pressure(level));
    }

    /// One of the engines that serve.
    fn some(&mut self) -> Option<(InstanceId, ModelName)> {
        let serving: Vec<_> = self.world.alive.iter().filter(|(_, alive)| alive.serves()).collect();
        let at = usize::try_from(self.dice.below(serving.len().max(1) as u64)).expect("few");
        serving.get(at).map(|(instance, alive)| (**instance, alive.model.clone()))
    }

    fn arrive(&mut self) {
        // Some models are asked for much more than others.
        let model = format!("m{}", self.dice.below(MODELS).min(self.dice.below(MODELS)));
        match self.dice.below(80) {
            0 | 1 => {
                self.world.unload(&model, UnloadMode::Wait);
            }
            2 | 3 => {
                if let Some((waiter, (_, model))) = self.since.pop_first() {
                    self.count("was abandoned");
                    self.world.cancel(&model, waiter);
                }
            }
            4 | 5 => {
                if let Some((instance, _)) = self.some() {
                    self.end(instance, End::Crashed("x".to_owned()));
                }
            }
            6 => self.out_of_memory(),
            7 => {
                if let Some((instance, model)) = self.some() {
                    self.world.feed(Input::Unused { model, instance, reason: "nobody used it".to_owned() });
                }
            }
            8 => self.exceed(),
            9 => {
                let level = if self.dice.below(2) == 0 { Level::Some } else { Level::Full };
                self.press(level);
                self.soon(SPELL, Due::Pressed);
            }
            10 => {
                let budget = BUDGET - self.dice.below(BUDGET / 4);
                self.world.shrink(budget * MIB);
                self.soon(SPELL, Due::Shrunk);
            }
            11 if self.world.passing == 0 => {
                let need = 1 + self.dice.below(8);
                self.world.pass(need * MIB);
                if self.world.passing > 0 {
                    self.count("let an inspector in");
                }
                self.soon(SPELL, Due::Passed);
            }
            _ => self.ask(&model),
        }
    }

    fn ask(&mut self, model: &str) {
        self.acquires += 1;
        let intent = if self.dice.below(10) == 0 { Intent::Load } else { Intent::Answer };
        let exactly = Explicit { context_tokens: Some(2048), kv_type: None };
        let explicit = (intent == Intent::Load && self.dice.below(5) == 0).then_some(exactly);
        let waiter = self.world.acquire_as(model, intent, explicit);
        if self.world.waiting.contains(&waiter) {
            let clock = self.clock();
            self.since.insert(waiter, (clock, name(model)));
        }
    }

    fn out_of_memory(&mut self) {
        let up = |alive: &Alive| matches!(alive.stage, Stage::Starting | Stage::Ready) && !alive.stopped;
        let up: Vec<_> = self.world.alive.iter().filter(|(_, alive)| up(alive)).collect();
        let at = usize::try_from(self.dice.below(up.len().max(1) as u64)).expect("few");
        if let Some(instance) = up.get(at).map(|(instance, _)| **instance) {
            self.count("was out of memory");
            self.end(instance, End::OutOfMemory("x".to_owned()));
        }
    }

    /// An engine is found to take more than its line, once in its life.
    fn exceed(&mut self) {
        if let Some((instance, model)) = self.some().filter(|(i, _)| self.world.alive[i].excess == 0) {
            let bytes = Bytes(self.world.reserved[&instance] + MIB / 2);
            self.count("took too much");
            self.world.feed(Input::Takes { model, instance, bytes });
        }
    }

    /// Plans what follows from what the core has ordered.
    fn follow(&mut self) {
        for at in self.answers_seen..self.world.answers.len() {
            let (waiter, answer) = self.world.answers[at];
            if let Some((since, _)) = self.since.remove(&waiter) {
                self.longest = self.longest.max(self.clock() - since);
            }
            match answer {
                Answer::Granted => self.granted += 1,
                Answer::Failed(word) => *self.refused.entry(word).or_default() += 1,
                Answer::Unloaded(_) => {}
            }
        }
        self.answers_seen = self.world.answers.len();
        for at in self.leases_seen..self.world.leases.len() {
            let (model, instance) = self.world.leases[at].clone();
            let after = self.dice.below(ANSWER);
            if self.dice.below(8) == 0 {
                self.plan(after / 2, Due::Full(model, instance, after / 2));
            } else {
                self.plan(after, Due::LeaseOver(model, instance, Outcome::Good));
            }
        }
        self.leases_seen = self.world.leases.len();
        let told: Vec<_> = self.world.told.keys().filter(|i| !self.told.contains(i)).copied().collect();
        for instance in told {
            self.told.insert(instance);
            self.soon(RESIZE, Due::Resized(instance));
        }
        self.follow_engines();
        self.watch();
    }

    fn follow_engines(&mut self) {
        let alive: Vec<(InstanceId, Stage, bool, u64)> = self
            .world
            .alive
            .iter()
            .map(|(instance, alive)| (*instance, alive.stage, alive.stopped, Self::size(&alive.model)))
            .collect();
        for (instance, stage, stopped, size) in alive {
            if stopped
                && !std::mem::replace(&mut self.world.alive.get_mut(&instance).expect("alive").lost, true)
            {
                self.soon(END, Due::Gone(instance));
            }
            if stopped || self.stages.insert(instance, stage) == Some(stage) {
                continue;
            }
            match stage {
                Stage::Estimating => self.plan(1, Due::Estimate(instance)),
                Stage::Starting => {
                    self.loads += 1;
                    let load = (size * 30).min(LOAD);
                    self.loading += size * load;
                    self.lives.insert(instance, Life { admitted_at: self.world.now, ..Life::default() });
                    self.plan(load, Due::Ready(instance));
                }
                Stage::Waiting | Stage::Ready => {}
            }
        }
    }

    /// Sees that each model has had its turn, or was waited for after its last answer, before it goes for another.
    fn watch(&mut self) {
        let now = self.world.now;
        let mut gone: Vec<String> = Vec::new();
        for (instance, life) in &mut self.lives {
            let Some(model) =
                self.world.alive.get(instance).map(|alive| &self.world.core.models[&alive.model])
            else {
                continue;
            };
            match model.phase {
                Phase::Ready { leases, .. } => {
                    life.ready_at.get_or_insert(now);
                    let since = life.idle_since.unwrap_or(now);
                    life.idle_since = (leases == 0).then_some(since);
                }
                Phase::Unloading { .. } if life.ready_at.is_some() && !life.is_leaving => {
                    life.is_leaving = true;
                    let reason = &model.reason;
                    if reason.starts_with("its turn is over") {
                        assert!(life.turn_ends() <= now, "{reason}: it is not over");
                    } else if reason.starts_with("evicted") && !reason.contains("longer context") {
                        // Its last answer may have ended in this very event.
                        life.idle_since.get_or_insert(now);
                        assert!(life.waited_for() <= now, "{reason}: it was not waited for");
                    }
                    gone.push(reason.split(' ').take(3).collect::<Vec<_>>().join(" "));
                }
                _ => {}
            }
        }
        gone.iter().for_each(|reason| self.count(reason));
    }

    /// The next thing that happens, or the core's own alarm if that is earlier.
    fn step(&mut self) {
        let ((at, number), _) = self.due.first_key_value().expect("somebody always comes");
        let (at, number) = (*at, *number);
        if let Some(alarm) = self.world.core.alarm().filter(|alarm| *alarm < at) {
            self.world.now = self.world.now.max(alarm);
            self.world.feed(Input::Tick);
            return self.follow();
        }
        let due = self.due.remove(&(at, number)).expect("it is there");
        self.world.now = at;
        self.happen(due);
        let overdue = self.since.values().map(|(since, _)| self.clock() - since).max().unwrap_or(0);
        self.longest = self.longest.max(overdue);
        assert!(overdue <= LONGEST_WAIT, "somebody starves: {overdue} ms at {}", self.world.now);
        self.lives.retain(|instance, _| self.world.alive.contains_key(instance));
    }
}

/// `World::check` holds the ledger after each of them, and `Crowd::watch` the turns.
#[test]
fn a_hundred_thousand_events_over_twenty_models() {
    let mut crowd = Crowd::new(0x9E37_79B9_7F4A_7C15);
    for _ in 0..EVENTS {
        crowd.step();
    }
    let Crowd { longest, acquires, loading, granted, refused, seen, .. } = &crowd;
    assert!(*longest <= LONGEST_WAIT, "{longest}");
    // Loads have memory for less than a third of what all of it is there for, though somebody waits at any time.
    let share = loading * 100 / (BUDGET * crowd.world.now);
    assert!(share <= 33, "{share}% of the time went into loads");
    assert!(*granted > acquires / 2, "{granted} of {acquires}, refused: {refused:?}");
    // Only what was asked for unloaded, failed to load or crashed too often, or came under pressure was refused.
    for word in refused.keys() {
        assert!(["unloaded", "quarantined", "pressure"].contains(word), "{refused:?}");
    }
    for what in EVERYTHING {
        assert!(seen.contains_key(what), "{what} in {seen:?}");
    }
}

/// Two clients that ask two models in turn, each over and over, with a pause that is shorter than a load: the models
/// take turns, they do not drive each other out at every request.
#[test]
fn two_models_that_are_both_wanted_take_turns() {
    let mut crowd = Crowd::new(7);
    crowd.due.clear();
    let (a, b) = (name("m10"), name("m9"));
    assert!(Crowd::size(&a) <= BUDGET && Crowd::size(&a) + Crowd::size(&b) > BUDGET / 2);
    crowd.world.budget = Crowd::size(&a).max(Crowd::size(&b)) * MIB;
    let load = (Crowd::size(&a).max(Crowd::size(&b)) * 30).min(LOAD);
    let mut asked: BTreeMap<&str, Option<WaiterId>> = BTreeMap::from([("m10", None), ("m9", None)]);
    let mut pause: BTreeMap<&str, u64> = BTreeMap::new();
    let time = 600_000;
    while crowd.world.now < time {
        for (model, waiter) in &mut asked {
            let over = waiter.is_none_or(|waiter| crowd.world.answer_of(waiter).is_some());
            let busy = crowd.world.leases.iter().any(|(of, _)| of.as_str() == format!("{model}:latest"));
            if over && !busy && *pause.get(model).unwrap_or(&0) <= crowd.world.now {
                *waiter = Some(crowd.world.acquire(model, Intent::Answer));
                pause.insert(model, crowd.world.now + 150);
                crowd.follow();
            }
        }
        crowd.world.now += 10;
        let now = crowd.world.now;
        crowd.world.feed(Input::Tick);
        crowd.follow();
        while let Some((&(at, number), _)) = crowd.due.first_key_value().filter(|((at, _), _)| *at <= now) {
            let due = crowd.due.remove(&(at, number)).expect("it is there");
            // Answers are short here.
            crowd.happen(due);
        }
    }
    // A turn is two loads long, and an answer may go on beyond it.
    let most = time / (load * 3) + 2;
    assert!(crowd.loads <= most, "{} loads, at most {most} in that time", crowd.loads);
    assert!(crowd.loads >= 10, "both get on: {} loads", crowd.loads);
}
