//! Memory: who waits for whom, contexts that grow, pressure, and what was too much.

use super::super::Action;
use super::*;

#[test]
fn a_model_in_use_takes_nothing_new_once_its_turn_is_over() {
    let mut world = World::with(10);
    world.load("a", 6);
    let waiting = world.load("b", 6);
    let beside = world.acquire("a", Intent::Answer);
    assert_eq!(world.answer_of(beside), Some(Answer::Granted), "it is its turn");
    world.wait(10_000);
    let late = world.acquire("a", Intent::Answer);
    assert_eq!((world.answer_of(late), world.state("a")), (None, ModelState::Unloading));
    let first = world.instance("a");
    assert!(!world.alive[&first].stopped, "its answers end first");
    world.give_back(0, Outcome::Good);
    world.give_back(0, Outcome::Good);
    assert!(world.alive[&first].stopped);
    world.end(first, End::Stopped);
    let instance = world.instance("b");
    world.step(instance, 6);
    assert_eq!(world.answer_of(waiting), Some(Answer::Granted));
    // And back again, for those who asked in the meantime.
    let again = world.instance("a");
    world.step(again, 6);
    world.give_back(0, Outcome::Good);
    world.wait(10_000);
    world.end(instance, End::Stopped);
    world.step(again, 6);
    assert_eq!(world.answer_of(late), Some(Answer::Granted));
}

#[test]
fn what_does_not_wait_goes_past_one_that_does_for_a_while() {
    let mut world = World::with(10);
    world.load("a", 6);
    let large = world.load("b", 8);
    let small = world.load("c", 2);
    assert_eq!((world.answer_of(large), world.answer_of(small)), (None, Some(Answer::Granted)));
    world.wait(11_000);
    let late = world.load("d", 2);
    assert_eq!(world.answer_of(late), None, "it has waited for long enough");
}

#[test]
fn a_load_whose_memory_an_inspector_took_keeps_its_place_in_line() {
    let mut world = World::with(10);
    let first = world.acquire("a", Intent::Load);
    let instance = world.instance("a");
    world.quicker = 6;
    world.step(instance, 6);
    assert_eq!((world.passing, world.answer_of(first)), (6, None), "it waits");
    let second = world.load("b", 6);
    assert_eq!(world.answer_of(second), None);
    world.passed();
    assert_eq!(world.alive[&instance].stage, Stage::Starting, "it is the first");
    world.step(instance, 6);
    assert_eq!((world.answer_of(first), world.answer_of(second)), (Some(Answer::Granted), None));
}

/// Brings a model of many ways up to `Ready`.
fn load_ways(world: &mut World, model: &str) -> InstanceId {
    world.acquire(model, Intent::Answer);
    let instance = world.instance(model);
    world.estimate(instance, many_ways());
    if world.alive[&instance].stage == Stage::Starting {
        world.step(instance, 0);
    }
    instance
}

const MIB: u64 = 1 << 20;

/// That model with exactly so many tokens of context.
fn exactly(tokens: u32) -> Arc<Options> {
    let mut options = Arc::into_inner(many_ways()).expect("nobody else has it");
    let sizes = Sizes { tokens, ..options.wish.sizes };
    options.wish = Wish { sizes, may_shorten: false, ..options.wish };
    options.choices = options.footprint.choices(&options.wish, 0);
    options.ceiling = tokens;
    Arc::new(options)
}

#[test]
fn a_model_that_does_not_fit_is_loaded_shorter() {
    let mut world = World::with(140 * MIB);
    let instance = load_ways(&mut world, "a");
    let choice = world.core.models[&name("a")].choice.expect("loaded");
    assert_eq!((choice.sizes.tokens, world.reserved[&instance]), (512, 132 * MIB));
}

#[test]
fn a_context_grows_by_doubling_and_the_ledger_comes_first() {
    let mut world = World::with(500 * MIB);
    let a = load_ways(&mut world, "a");
    assert_eq!(world.reserved[&a], 164 * MIB);
    world.feed(Input::Wants { model: name("a"), instance: a, tokens: 1500 });
    assert_eq!(world.contexts, [(a, Ok(2048))]);
    // The old one's content is in memory, too, for a moment.
    assert_eq!(world.reserved[&a], (100 + 128 + 64) * MIB);
    world.feed(Input::Resized { model: name("a"), instance: a, tokens: 2048 });
    assert_eq!(world.reserved[&a], 228 * MIB);
    world.feed(Input::Wants { model: name("a"), instance: a, tokens: 9000 });
    assert!(
        matches!(world.contexts.last(), Some((_, Err(reason))) if reason.contains("8192")),
        "the ceiling"
    );
}

#[test]
fn a_context_that_grows_drives_out_what_is_idle_and_nothing_else() {
    let mut world = World::with(400 * MIB);
    let a = load_ways(&mut world, "a");
    let b = load_ways(&mut world, "b");
    let wants = |tokens| Input::Wants { model: name("a"), instance: a, tokens };
    world.feed(wants(2000));
    assert!(matches!(world.contexts.last(), Some((_, Err(reason))) if reason.contains("in use")));
    world.feed(Input::Resized { model: name("a"), instance: a, tokens: 1024 });
    let lease = world.leases.iter().position(|(_, instance)| *instance == b).expect("leased");
    world.give_back(lease, Outcome::Good);
    world.feed(wants(2000));
    assert_eq!(world.state("b"), ModelState::Unloading);
    world.end(b, End::Stopped);
    assert_eq!(world.contexts.last(), Some(&(a, Ok(2048))));
}

#[test]
fn pressure_takes_caches_then_idle_models_and_lets_nothing_new_in() {
    let mut world = World::with(400 * MIB);
    let a = load_ways(&mut world, "a");
    world.give_back(0, Outcome::Good);
    world.feed(Input::Wants { model: name("a"), instance: a, tokens: 1500 });
    world.feed(Input::Resized { model: name("a"), instance: a, tokens: 2048 });
    world.feed(Input::Pressure(Level::Some));
    assert_eq!((world.contexts.last(), world.state("a")), (Some(&(a, Ok(1024))), ModelState::Ready));
    world.feed(Input::Pressure(Level::Full));
    assert_eq!(world.state("a"), ModelState::Unloading);
    let refused = world.acquire("b", Intent::Answer);
    assert_eq!(world.answer_of(refused), Some(Answer::Failed("pressure")));
    world.feed(Input::Pressure(Level::None));
    let waits = world.acquire("b", Intent::Answer);
    assert_eq!(world.answer_of(waits), None);
}

#[test]
fn what_the_kernel_took_for_lack_of_memory_is_tried_again_smaller_and_then_no_more() {
    let mut world = World::with(400 * MIB);
    let a = load_ways(&mut world, "a");
    world.end(a, End::OutOfMemory("taken".to_owned()));
    assert_eq!(world.core.models[&name("a")].too_much, 1);
    // A load that is taken is tried again for those who wait.
    let waiter = world.acquire("a", Intent::Answer);
    let again = world.instance("a");
    world.end(again, End::OutOfMemory("taken".to_owned()));
    assert_eq!((world.answer_of(waiter), world.state("a")), (None, ModelState::Loading));
    let last = world.instance("a");
    world.feed(Input::Estimated { model: name("a"), instance: last, options: one_way(5) });
    world.end(last, End::OutOfMemory("taken".to_owned()));
    assert_eq!(world.answer_of(waiter), Some(Answer::Failed("quarantined")));
}

#[test]
fn a_context_that_grew_too_large_grows_less_and_the_model_is_loaded_as_before() {
    let mut world = World::with(400 * MIB);
    let a = load_ways(&mut world, "a");
    world.feed(Input::Wants { model: name("a"), instance: a, tokens: 1500 });
    world.feed(Input::Resized { model: name("a"), instance: a, tokens: 2048 });
    let (before, ceiling) =
        (world.core.models[&name("a")].began_with, world.core.models[&name("a")].ceiling());
    assert!(ceiling >= 2048, "{ceiling}");
    world.end(a, End::OutOfMemory("taken".to_owned()));
    assert_eq!((world.state("a"), world.core.models[&name("a")].too_much), (ModelState::Absent, 0));
    let again = load_ways(&mut world, "a");
    let model = &world.core.models[&name("a")];
    assert_eq!((model.began_with, model.ceiling()), (before, 1024), "as before, and no further than half");
    // A life that lasts says that the board is another one.
    world.wait(FORGIVEN_AFTER);
    world.give_back(1, Outcome::Good);
    assert_eq!(world.core.models[&name("a")].ceiling(), ceiling);
    assert_ne!(again, a);
}

#[test]
fn what_was_in_use_gives_its_context_back_as_long_as_the_pressure_lasts() {
    let mut world = World::with(400 * MIB);
    let a = load_ways(&mut world, "a");
    world.feed(Input::Pressure(Level::Some));
    world.feed(Input::Resized { model: name("a"), instance: a, tokens: 1024 });
    let shed = world.contexts.len();
    world.feed(Input::Wants { model: name("a"), instance: a, tokens: 1500 });
    world.feed(Input::Resized { model: name("a"), instance: a, tokens: 2048 });
    world.feed(Input::Pressure(Level::Some));
    assert_eq!((world.contexts.last(), world.contexts.len()), (Some(&(a, Ok(1024))), shed + 2));
    assert_eq!(world.state("a"), ModelState::Ready, "it is in use");
}

#[test]
fn room_is_made_for_what_is_no_engine() {
    let mut world = World::with(10);
    world.load("a", 6);
    world.give_back(0, Outcome::Good);
    world.feed(Input::MakeRoom { need: Bytes(3), purpose: "x".to_owned() });
    assert_eq!(world.state("a"), ModelState::Ready, "there is room");
    world.wait(1000);
    world.feed(Input::MakeRoom { need: Bytes(5), purpose: "x".to_owned() });
    assert_eq!(world.state("a"), ModelState::Unloading);
}

#[test]
fn a_model_is_loaded_anew_as_somebody_wants_it() {
    let mut world = World::with(400 * MIB);
    let a = load_ways(&mut world, "a");
    world.give_back(0, Outcome::Good);
    let explicit = |tokens| Some(Explicit { context_tokens: Some(tokens), kv_type: None });
    let ask = |world: &mut World, tokens| {
        let waiter = world.acquire_as("a", Intent::Load, explicit(tokens));
        world.answer_of(waiter)
    };
    assert_eq!((ask(&mut world, 2048), world.state("a")), (None, ModelState::Unloading));
    world.end(a, End::Stopped);
    assert_eq!(world.core.models[&name("a")].explicit, explicit(2048));
    let again = world.instance("a");
    world.estimate(again, exactly(2048));
    world.step(again, 0);
    world.give_back(0, Outcome::Good);
    assert_eq!(ask(&mut world, 2048), Some(Answer::Granted), "it is like that");
}

#[test]
fn what_was_settled_is_free_for_who_waits() {
    let mut world = World::with(10);
    let waiter = world.acquire("a", Intent::Answer);
    let a = world.instance("a");
    world.estimate(a, staged(4, 2));
    let second = world.load("b", 6);
    assert_eq!(world.answer_of(second), None, "six are reserved and four free");
    world.step(a, 0);
    assert_eq!(world.answer_of(waiter), Some(Answer::Granted));
    let b = world.instance("b");
    assert_eq!(world.alive[&b].stage, Stage::Starting, "six are free now");
}

#[test]
fn an_engine_is_told_one_thing_at_a_time() {
    let mut world = World::with(200 * MIB);
    let a = load_ways(&mut world, "a");
    let wants = |tokens| Input::Wants { model: name("a"), instance: a, tokens };
    world.feed(wants(2000));
    assert!(matches!(world.contexts.as_slice(), [(_, Err(_))]));
    // Memory comes free before the engine has answered.
    world.budget = 400 * MIB;
    world.feed(wants(2000));
    assert_eq!(world.contexts.len(), 1, "what it says now may be older than the refusal");
    world.feed(Input::Resized { model: name("a"), instance: a, tokens: 1024 });
    world.feed(wants(2000));
    assert_eq!(world.contexts.last(), Some(&(a, Ok(2048))));
    world.feed(Input::Resized { model: name("a"), instance: a, tokens: 2048 });
    assert_eq!(world.reserved[&a], 228 * MIB);
}

#[test]
fn a_budget_that_shrank_drives_out_what_becomes_idle_later() {
    let mut world = World::with(10);
    world.load("a", 6);
    world.shrink(5);
    assert_eq!(world.state("a"), ModelState::Ready, "it is in use");
    world.give_back(0, Outcome::Good);
    assert_eq!(world.state("a"), ModelState::Unloading);
}

#[test]
fn what_is_measured_is_counted() {
    let mut world = World::with(10);
    world.load("a", 4);
    let a = world.instance("a");
    world.feed(Input::Takes { model: name("a"), instance: a, bytes: Bytes(6) });
    assert_eq!(world.reserved[&a], 6);
    world.feed(Input::Takes { model: name("a"), instance: a, bytes: Bytes(5) });
    assert_eq!(world.reserved[&a], 6, "it has had it");
}

#[test]
fn a_load_that_nobody_waits_for_any_more_drives_nobody_out() {
    let mut world = World::with(10);
    world.load("a", 6);
    let waiter = world.load("b", 6);
    world.waiting.remove(&waiter);
    world.feed(Input::Abandon { model: name("b"), waiter });
    world.wait(60_000);
    assert_eq!(world.state("a"), ModelState::Ready);
}

#[test]
fn a_wish_that_cannot_be_leaves_a_model_where_it_is() {
    let mut world = World::with(300 * MIB);
    load_ways(&mut world, "a");
    let waiter = world.waiter();
    let explicit = Some(Explicit { context_tokens: Some(8192), kv_type: None });
    let (model, intent) = (name("a"), Intent::Load);
    world.feed(Input::Acquire { model, waiter, intent, explicit, keep_alive: None });
    assert_eq!(world.answer_of(waiter), Some(Answer::Failed("never fits")));
    assert_eq!(world.state("a"), ModelState::Ready);
}

/// The engine holds what it was measured to hold at every size of its context.
#[test]
fn what_is_measured_stays_counted_when_the_context_changes() {
    let mut world = World::with(500 * MIB);
    let a = load_ways(&mut world, "a");
    world.takes("a", 174 * MIB);
    world.wants("a", 1500);
    assert_eq!(world.reserved[&a], (100 + 128 + 64 + 10) * MIB, "while it grows");
    world.resized("a", 2048);
    assert_eq!(world.reserved[&a], 238 * MIB, "and after it");
    world.wants("a", 9000);
    world.resized("a", 2048);
    assert_eq!(world.reserved[&a], 238 * MIB, "a growth that was refused");
    world.takes("a", 240 * MIB);
    world.feed(Input::Pressure(Level::Some));
    world.resized("a", 1024);
    assert_eq!(world.reserved[&a], 176 * MIB, "what was given back");
    world.end(a, End::Stopped);
    let next = load_ways(&mut world, "a");
    assert_eq!(world.reserved[&next], 164 * MIB, "the next one is not this one");
}

#[test]
fn what_is_found_taken_is_not_given_away_in_the_same_breath() {
    let mut world = World::with(10);
    world.load("a", 4);
    let b = world.load("b", 8);
    // Two come free, and are found taken, before anybody was told of them.
    world.budget = 12;
    world.takes("a", 6);
    let a = world.instance("a");
    assert_eq!((world.answer_of(b), world.reserved[&a], world.free()), (None, 6, 6));
}

/// What comes back pays for what is over the budget first.
#[test]
fn what_is_settled_over_budget_is_not_free() {
    let mut world = World::with(20);
    let a = world.acquire("a", Intent::Answer);
    let first = world.instance("a");
    world.estimate(first, staged(10, 4));
    world.shrink(11);
    let (one, three) = (world.load("b", 1), world.load("c", 3));
    assert_eq!((world.answer_of(one), world.free()), (None, 0), "14 of 11 are reserved");
    // Four come back: three are owed.
    world.step(first, 0);
    assert_eq!((world.answer_of(a), world.answer_of(three)), (Some(Answer::Granted), None));
    let stages = ["b", "c"].map(|model| world.alive[&world.instance(model)].stage);
    assert_eq!(stages, [Stage::Starting, Stage::Waiting], "one is free");
}

#[test]
fn nobody_goes_for_memory_that_is_back_already() {
    let mut world = World::with(20);
    world.load("idle", 6);
    world.give_back(0, Outcome::Good);
    world.acquire("a", Intent::Answer);
    let a = world.instance("a");
    world.estimate(a, staged(10, 4));
    // A budget that shrinks by what the load gives back when it is over, just before it is.
    world.budget = 16;
    world.step(a, 0);
    assert_eq!(world.state("idle"), ModelState::Ready);
}

#[test]
fn a_context_goes_back_to_what_it_began_with_not_to_what_was_wished() {
    let mut world = World::with(140 * MIB);
    let a = load_ways(&mut world, "a");
    world.budget = 500 * MIB;
    world.wants("a", 600);
    world.resized("a", 1024);
    world.feed(Input::Pressure(Level::Some));
    assert_eq!(world.contexts.last(), Some(&(a, Ok(512))), "it was loaded shortened");
}

/// What `plan` says, and whether `load` then finds the model as it is wanted.
fn plan_and_load(world: &mut World, explicit: Option<Explicit>, options: &Options) -> (Action, bool) {
    let said =
        world.core.preview(&name("a"), explicit.unwrap_or_default(), options, world.books(), world.now);
    let waiter = world.acquire_as("a", Intent::Load, explicit);
    (said.action, world.answer_of(waiter) == Some(Answer::Granted))
}

#[test]
fn a_plan_says_that_nothing_is_done_where_a_load_does_nothing() {
    let tokens = |tokens| Some(Explicit { context_tokens: Some(tokens), kv_type: None });
    let kept = Some(Explicit { context_tokens: None, kv_type: Some(KvType::Q8_0) });
    // With 1,024 tokens that may become 8,192, or shortened to half.
    for (budget, explicit, options, stays) in [
        (400, None, many_ways(), true),
        (400, tokens(512), exactly(512), false),
        (400, tokens(1024), exactly(1024), false),
        (400, tokens(2048), exactly(2048), false),
        (400, kept, many_ways(), false),
        (140, None, many_ways(), true),
        (140, tokens(512), exactly(512), false),
    ] {
        let mut world = World::with(budget * MIB);
        load_ways(&mut world, "a");
        world.give_back(0, Outcome::Good);
        let (said, granted) = plan_and_load(&mut world, explicit, &options);
        assert_eq!(
            (matches!(said, Action::Nothing), granted),
            (stays, stays),
            "{budget} {explicit:?} {said:?}"
        );
    }
}

#[test]
fn a_plan_has_the_ceiling_of_what_is_there() {
    let mut world = World::with(400 * MIB);
    world.acquire_as("a", Intent::Load, Some(Explicit { context_tokens: Some(512), kv_type: None }));
    let a = world.instance("a");
    world.estimate(a, exactly(512));
    world.step(a, 0);
    let said = world.core.preview(&name("a"), Explicit::default(), &many_ways(), world.books(), 0);
    assert!(matches!(said.action, Action::Nothing));
    assert_eq!((said.choice.sizes.tokens, said.ceiling), (512, 512));
}

#[test]
fn a_plan_knows_that_nothing_is_loaded_under_pressure() {
    let mut world = World::with(400 * MIB);
    world.feed(Input::Pressure(Level::Full));
    let (said, granted) = plan_and_load(&mut world, None, &many_ways());
    assert!(matches!(said, Action::Refuse(AcquireError::Pressure)) && !granted, "{said:?}");
}

#[test]
fn a_plan_counts_what_a_model_gives_back_once() {
    let mut world = World::with(500 * MIB);
    world.core.pin([name("b")].into());
    load_ways(&mut world, "b");
    load_ways(&mut world, "a");
    world.unload("a", UnloadMode::Wait);
    assert_eq!((world.state("a"), world.free()), (ModelState::Unloading, 172 * MIB));
    // 400 MiB, of which there are 336 once it is gone.
    let said = world.core.preview(&name("a"), Explicit::default(), &exactly(4800), world.books(), 0);
    assert!(
        matches!(said.action, Action::Refuse(AcquireError::Refused(Refusal::FullNow { .. }))),
        "{said:?}"
    );
    let said = world.core.preview(&name("a"), Explicit::default(), &exactly(3584), world.books(), 0);
    assert!(matches!(said.action, Action::Wait), "{said:?}");
}

/// A wish for one thing says nothing of the other, which an earlier wish had fixed.
#[test]
fn a_wish_for_another_type_is_not_held_to_the_context_of_an_earlier_wish() {
    let mut world = World::with(300 * MIB);
    let long = Explicit { context_tokens: Some(2048), kv_type: None };
    world.acquire_as("a", Intent::Load, Some(long));
    let a = world.instance("a");
    world.estimate(a, exactly(2048));
    world.step(a, 0);
    world.shrink(220 * MIB);
    let kept = Explicit { context_tokens: None, kv_type: Some(KvType::F16) };
    let waiter = world.acquire_as("a", Intent::Load, Some(kept));
    assert_eq!(
        world.answer_of(waiter),
        Some(Answer::Granted),
        "228 of 220 MiB are too many, but it may be shorter"
    );
}

/// Its answer waits for a longer context, and it for its answer.
#[test]
fn a_model_that_is_to_go_tells_who_waits_for_a_longer_context() {
    let mut world = World::with(400 * MIB);
    let a = load_ways(&mut world, "a");
    let b = load_ways(&mut world, "b");
    let lease = world.leases.iter().position(|(_, instance)| *instance == b).expect("leased");
    world.give_back(lease, Outcome::Good);
    world.wants("a", 2000);
    assert_eq!((world.state("b"), world.contexts.len()), (ModelState::Unloading, 0), "b goes for it");
    world.unload("a", UnloadMode::Wait);
    world.end(b, End::Stopped);
    assert!(matches!(world.contexts.as_slice(), [(of, Err(_))] if *of == a), "{:?}", world.contexts);
}
