//! Arbitrary histories keep the invariants of the registry.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

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
