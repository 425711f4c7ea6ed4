//! Many models and clients over a long time, in a world with a clock.

use std::collections::BTreeMap;

use super::*;

/// Models that are asked for.
const MODELS: u64 = 20;
/// What happens in all.
const EVENTS: usize = 100_000;
/// What all engines may use.
const BUDGET: u64 = 100;
/// The longest answer, load and end of an engine, in milliseconds.
const ANSWER: u64 = 5_000;
const LOAD: u64 = 2_000;
const END: u64 = 300;

/// **The bound.** Each load ahead in the line, and the own one, costs at most the turn of the models that are in the
/// way (twice their load), the longest answer, their end and the load itself; a line has at most one load for each
/// model. Those that are let past take [`PATIENCE`](super::super::admission) at most, and are in the way for a turn.
const LONGEST_WAIT: u64 = (MODELS + 1) * (2 * LOAD + ANSWER + END + LOAD) + 10_000;

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
    LeaseOver(ModelName, InstanceId),
    Gone(InstanceId),
}

struct Crowd {
    world: World,
    dice: Dice,
    due: BTreeMap<(u64, u64), Due>,
    number: u64,
    /// When each waiter began to wait.
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
}

impl Crowd {
    fn new(seed: u64) -> Self {
        let mut crowd = Self {
            world: World::with(BUDGET),
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
        };
        crowd.world.core.pin([name("m0")].into());
        crowd.plan(0, Due::Arrival);
        crowd
    }

    fn plan(&mut self, after: u64, due: Due) {
        self.number += 1;
        self.due.insert((self.world.now + after, self.number), due);
    }

    /// 3 to 60 of 100; the pinned one is small.
    fn size(model: &ModelName) -> u64 {
        let number: u64 =
            model.as_str().trim_start_matches('m').split(':').next().unwrap_or("").parse().unwrap_or(0);
        3 + (number * 37) % 58
    }

    fn happen(&mut self, due: Due) {
        match due {
            Due::Arrival => self.arrive(),
            Due::Estimate(instance) => {
                if let Some(alive) = self.world.alive.get(&instance).filter(|alive| !alive.stopped) {
                    let need = Self::size(&alive.model);
                    self.world.step(instance, need);
                }
            }
            Due::Ready(instance) => {
                let is_starting = |alive: &&Alive| alive.stage == Stage::Starting && !alive.stopped;
                if self.world.alive.get(&instance).filter(is_starting).is_some() {
                    // One load in thirty fails.
                    if self.dice.below(30) == 0 {
                        self.world.end(instance, End::Failed(AcquireError::Unloaded));
                    } else {
                        self.world.step(instance, 0);
                    }
                }
            }
            Due::LeaseOver(model, instance) => {
                let at = self.world.leases.iter().position(|(m, i)| *m == model && *i == instance);
                if let Some(at) = at {
                    self.world.give_back(at, Outcome::Good);
                    self.leases_seen -= 1;
                }
            }
            Due::Gone(instance) => {
                if self.world.alive.contains_key(&instance) {
                    self.world.end(instance, End::Stopped);
                }
            }
        }
        self.follow();
    }

    fn arrive(&mut self) {
        let after = self.dice.below(800);
        self.plan(after, Due::Arrival);
        // Some models are asked for much more than others.
        let model = format!("m{}", self.dice.below(MODELS).min(self.dice.below(MODELS)));
        match self.dice.below(40) {
            0 => {
                self.world.unload(&model, UnloadMode::Wait);
            }
            1 => {
                if let Some((waiter, (_, model))) = self.since.pop_first() {
                    self.world.waiting.remove(&waiter);
                    self.world.feed(Input::Abandon { model, waiter });
                }
            }
            2 => {
                let ready = self.world.alive.iter().find(|(_, a)| a.stage == Stage::Ready && !a.stopped);
                if let Some(instance) = ready.map(|(instance, _)| *instance) {
                    self.world.leases.retain(|(_, of)| *of != instance);
                    self.leases_seen = self.world.leases.len();
                    self.world.end(instance, End::Crashed("x".to_owned()));
                }
            }
            _ => {
                self.acquires += 1;
                let intent = if self.dice.below(10) == 0 { Intent::Load } else { Intent::Answer };
                let waiter = self.world.acquire(&model, intent);
                self.note(waiter, &model);
            }
        }
    }

    fn note(&mut self, waiter: WaiterId, model: &str) {
        if self.world.waiting.contains(&waiter) {
            self.since.insert(waiter, (self.world.now, name(model)));
        }
    }

    /// Plans what follows from what the core has ordered.
    fn follow(&mut self) {
        for at in self.answers_seen..self.world.answers.len() {
            let (waiter, answer) = self.world.answers[at];
            if let Some((since, _)) = self.since.remove(&waiter) {
                self.longest = self.longest.max(self.world.now - since);
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
            self.plan(after, Due::LeaseOver(model, instance));
        }
        self.leases_seen = self.world.leases.len();
        let alive: Vec<(InstanceId, Stage, bool, u64)> = self
            .world
            .alive
            .iter()
            .map(|(instance, alive)| (*instance, alive.stage, alive.stopped, Self::size(&alive.model)))
            .collect();
        for (instance, stage, stopped, size) in alive {
            if stopped {
                let after = self.dice.below(END);
                self.plan(after, Due::Gone(instance));
                self.world.alive.get_mut(&instance).expect("alive").lost = true;
                continue;
            }
            if self.stages.insert(instance, stage) == Some(stage) {
                continue;
            }
            match stage {
                Stage::Estimating => self.plan(1, Due::Estimate(instance)),
                Stage::Starting => {
                    self.loads += 1;
                    self.plan((size * 30).min(LOAD), Due::Ready(instance));
                }
                Stage::Waiting | Stage::Ready => {}
            }
        }
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
        let overdue = self.since.values().map(|(since, _)| self.world.now - since).max().unwrap_or(0);
        self.longest = self.longest.max(overdue);
        assert!(overdue <= LONGEST_WAIT, "somebody starves: {overdue} ms at {}", self.world.now);
    }
}

/// `World::check` holds the budget after each of them.
#[test]
fn a_hundred_thousand_events_over_twenty_models() {
    let mut crowd = Crowd::new(0x9E37_79B9_7F4A_7C15);
    for _ in 0..EVENTS {
        crowd.step();
    }
    let Crowd { longest, acquires, loads, granted, refused, .. } = &crowd;
    assert!(*longest <= LONGEST_WAIT, "{longest}");
    // Each load answers somebody: nothing is loaded and driven out again unused.
    assert!(loads <= granted, "{loads} loads for {granted} answers");
    assert!(*granted > acquires / 2, "{granted} of {acquires}, refused: {refused:?}");
    // Only what was asked for unloaded, failed to load, or stood in a full line was refused.
    for word in refused.keys() {
        assert!(["unloaded", "queue full", "quarantined", "failed"].contains(word), "{refused:?}");
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
    crowd.world.budget = Crowd::size(&a).max(Crowd::size(&b));
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
