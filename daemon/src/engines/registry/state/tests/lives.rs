//! What becomes of a model, its engine, and those who wait for it.

use super::*;

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
