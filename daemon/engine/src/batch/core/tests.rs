//! The scheduler against a model of the cache that llama.cpp would keep.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const LIMITS: Limits =
    Limits { running: 3, sequences: 6, cells: 64, ceiling: 0, micro_batch: 8, queue: 4, can_rewind: true };
/// A context that may grow to four times its size.
const GROWING: Limits = Limits { ceiling: 256, ..LIMITS };

/// What llama.cpp would hold: tokens by sequence. Applies operations and steps as the driver does and
/// checks that they make sense.
#[derive(Debug, Default)]
struct Cache {
    sequences: HashMap<SeqId, Vec<Token>>,
}

impl Cache {
    fn apply(&mut self, ops: &[KvOp]) {
        for op in ops {
            match *op {
                KvOp::Cut(seq, from) => {
                    self.sequences.entry(seq).or_default().truncate(usize::try_from(from).unwrap());
                }
                KvOp::Share { from, to, length } => {
                    let source = self.sequences.entry(from).or_default().clone();
                    let length = usize::try_from(length).unwrap();
                    assert!(length <= source.len(), "shares more than there is");
                    let target = self.sequences.entry(to).or_default();
                    assert!(target.is_empty(), "the target of a share is empty");
                    *target = source[..length].to_vec();
                }
            }
        }
    }

    fn compute(&mut self, step: &Step) {
        assert!(step.entries.len() <= LIMITS.micro_batch as usize);
        for entry in &step.entries {
            let tokens = self.sequences.entry(entry.seq).or_default();
            assert_eq!(tokens.len(), usize::try_from(entry.position).unwrap(), "positions follow on");
            tokens.push(entry.token);
        }
    }
}

/// Runs the scheduler as the driver does. The next token is a function of all tokens before it, so any
/// mistake in the cache shows in the text.
struct Driver {
    scheduler: Scheduler,
    cache: Cache,
    prompts: HashMap<JobId, Vec<Token>>,
    written: HashMap<JobId, Vec<Token>>,
    full: Vec<JobId>,
    /// Whether some tokens force others behind them.
    forced: bool,
}

fn next_token(tokens: &[Token]) -> Token {
    let sum = tokens.iter().fold(17i64, |sum, &t| (sum * 31 + i64::from(t)) % 100_003);
    Token::try_from(sum).unwrap()
}

impl Driver {
    fn new(limits: Limits) -> Self {
        Self {
            scheduler: Scheduler::new(limits),
            cache: Cache::default(),
            prompts: HashMap::new(),
            written: HashMap::new(),
            full: Vec::new(),
            forced: false,
        }
    }

    fn submit(&mut self, id: u64, prompt: Vec<Token>) -> Result<usize, Refusal> {
        self.submit_for(id, prompt, None)
    }

    fn submit_for(&mut self, id: u64, prompt: Vec<Token>, most: Option<u32>) -> Result<usize, Refusal> {
        let need = Need::of(prompt.len(), most, 256);
        let taken = self.scheduler.submit(JobId(id), prompt.clone(), need);
        if taken.is_ok() {
            self.prompts.insert(JobId(id), prompt);
            self.written.insert(JobId(id), Vec::new());
        }
        taken
    }

    /// One step; `abort` discards it after planning. Returns whether anything was computed.
    fn step(&mut self, chunk: u32, abort: bool) -> bool {
        while let (ops, Some(_)) = self.scheduler.admit() {
            self.cache.apply(&ops);
        }
        let step = self.scheduler.plan(chunk);
        self.cache.apply(&step.ops);
        for &id in &step.context_full {
            self.full.push(id);
            self.scheduler.finish(id);
        }
        if abort || step.entries.is_empty() {
            return !step.entries.is_empty() || !step.context_full.is_empty();
        }
        self.cache.compute(&step);
        self.scheduler.committed(&step);
        for entry in step.entries.iter().filter(|entry| entry.logits) {
            let context = self.cache.sequences[&entry.seq].clone();
            let mut expected = self.prompts[&entry.job].clone();
            expected.extend(&self.written[&entry.job]);
            assert_eq!(context, expected, "the cache holds exactly the request's text");
            // Some tokens force others behind them.
            let mut text = context.clone();
            let forced = if self.forced { next_token(&text) % 4 } else { 0 };
            for _ in 0..=forced {
                text.push(next_token(&text));
            }
            let new = text.split_off(context.len());
            self.written.get_mut(&entry.job).unwrap().extend(&new);
            self.scheduler.sampled(entry.job, &new);
        }
        self.check();
        true
    }

    fn check(&self) {
        for (seq, last) in self.scheduler.last_positions() {
            let held = self.cache.sequences.get(&seq).map_or(0, Vec::len);
            assert_eq!(position(held) - 1, last, "both books agree on sequence {seq}");
        }
        assert!(self.scheduler.cells_used() <= self.scheduler.kv.capacity());
        assert!(self.scheduler.running() <= LIMITS.running);
    }

    /// The front says no: what cannot begin is ended, as the driver does.
    fn refuse(&mut self) -> Vec<JobId> {
        let ended = self.scheduler.refuse();
        ended.iter().for_each(|&id| self.scheduler.finish(id));
        ended
    }

    /// Forgets what is kept, and gives the context as few cells as it may have.
    fn shed(&mut self, cells: u32) {
        let ops = self.scheduler.forget_kept();
        self.cache.apply(&ops);
        let needed = u32::try_from(self.scheduler.cells_needed()).unwrap();
        self.scheduler.resize(cells.max(needed)).expect("what is needed has room");
        self.check();
    }

    fn run(&mut self, id: u64, tokens: usize) -> Vec<Token> {
        for _ in 0..10_000 {
            if self.written[&JobId(id)].len() >= tokens {
                break;
            }
            self.step(8, false);
        }
        self.scheduler.finish(JobId(id));
        self.written[&JobId(id)].iter().copied().take(tokens).collect()
    }
}

fn alone(prompt: &[Token], tokens: usize) -> Vec<Token> {
    let mut text = prompt.to_vec();
    for _ in 0..tokens {
        text.push(next_token(&text));
    }
    text.split_off(prompt.len())
}

#[test]
fn a_request_alone_is_prefilled_in_chunks_and_then_decoded() {
    let mut driver = Driver::new(LIMITS);
    let prompt: Vec<Token> = (0..20).collect();
    driver.submit(1, prompt.clone()).unwrap();
    assert_eq!(driver.run(1, 5), alone(&prompt, 5));
}

#[test]
fn forced_tokens_are_computed_with_the_one_before_them() {
    let prompt: Vec<Token> = (0..10).collect();
    let mut driver = Driver::new(LIMITS);
    driver.forced = true;
    driver.submit(1, prompt.clone()).unwrap();
    let mut steps = 0;
    while driver.written[&JobId(1)].len() < 40 {
        assert!(driver.step(16, false));
        steps += 1;
    }
    assert_eq!(driver.run(1, 40), alone(&prompt, 40));
    assert!(steps < 30, "{steps} steps for 40 tokens");
}

#[test]
fn a_second_request_with_the_same_beginning_computes_only_the_rest() {
    let mut driver = Driver::new(LIMITS);
    driver.submit(1, (0..20).collect()).unwrap();
    driver.run(1, 3);
    driver.submit(2, (0..20).chain([99, 98]).collect()).unwrap();
    let (ops, admitted) = driver.scheduler.admit();
    driver.cache.apply(&ops);
    assert_eq!(admitted, Some(Admitted { job: JobId(2), cached: 20 }));
}

#[test]
fn the_same_prompt_again_computes_its_last_token_anew() {
    let mut driver = Driver::new(LIMITS);
    driver.submit(1, (0..20).collect()).unwrap();
    let first = driver.run(1, 3);
    driver.submit(2, (0..20).collect()).unwrap();
    let (ops, admitted) = driver.scheduler.admit();
    driver.cache.apply(&ops);
    assert_eq!(admitted.unwrap().cached, 19);
    assert_eq!(driver.run(2, 3), first);
}

#[test]
fn a_running_request_shares_its_prefix() {
    let mut driver = Driver::new(LIMITS);
    driver.submit(1, (0..20).collect()).unwrap();
    for _ in 0..4 {
        driver.step(8, false);
    }
    driver.submit(2, (0..10).chain([50]).collect()).unwrap();
    let (ops, admitted) = driver.scheduler.admit();
    driver.cache.apply(&ops);
    assert_eq!(admitted.unwrap().cached, 10);
    assert_eq!(driver.run(2, 4), alone(&(0..10).chain([50]).collect::<Vec<_>>(), 4));
}

#[test]
fn without_rewinding_only_a_whole_sequence_is_continued() {
    let limits = Limits { can_rewind: false, ..LIMITS };
    let mut driver = Driver::new(limits);
    driver.submit(1, (0..10).collect()).unwrap();
    let text = driver.run(1, 3);
    driver.submit(2, (0..10).chain([77]).collect()).unwrap();
    assert_eq!(driver.scheduler.admit().1.unwrap().cached, 0);
    driver.scheduler.finish(JobId(2));
    // The kept sequence ends before the last sampled token, which was never computed.
    let whole: Vec<Token> = (0..10).chain(text.iter().copied()).chain([5]).collect();
    driver.submit(3, whole).unwrap();
    assert_eq!(driver.scheduler.admit().1.unwrap().cached, 12);
}

#[test]
fn refusals_carry_their_numbers() {
    let mut driver = Driver::new(LIMITS);
    assert_eq!(driver.submit(1, vec![]), Err(Refusal::EmptyPrompt));
    assert_eq!(driver.submit(1, vec![1; 64]), Err(Refusal::PromptTooLong { prompt: 64, context: 64 }));
    for id in 0..7 {
        assert!(driver.submit(id, vec![1, 2, 3]).is_ok());
    }
    assert_eq!(driver.submit(9, vec![1]), Err(Refusal::QueueFull { waiting: 7 }));
}

#[test]
fn an_answer_that_fills_the_context_alone_ends_there() {
    let mut driver = Driver::new(LIMITS);
    driver.submit(1, (0..20).collect()).unwrap();
    while driver.full.is_empty() {
        assert!(driver.step(8, false));
    }
    // 64 cells hold the prompt and 44 tokens; the 45th was sampled but has no cell any more.
    assert_eq!(driver.written[&JobId(1)], alone(&(0..20).collect::<Vec<_>>(), 45));
}

#[test]
fn a_paused_request_holds_only_itself() {
    let mut driver = Driver::new(LIMITS);
    driver.submit(1, (0..5).collect()).unwrap();
    driver.submit(2, (5..10).collect()).unwrap();
    driver.step(8, false);
    driver.step(8, false);
    driver.scheduler.set_paused(JobId(1), true);
    let before = driver.written[&JobId(1)].len();
    for _ in 0..10 {
        driver.step(8, false);
    }
    assert_eq!(driver.written[&JobId(1)].len(), before);
    assert!(driver.written[&JobId(2)].len() >= 10);
    driver.scheduler.set_paused(JobId(1), false);
    assert_eq!(driver.run(1, 6), alone(&(0..5).collect::<Vec<_>>(), 6));
}

#[test]
fn a_prompt_that_does_not_fit_asks_and_waits_in_its_place() {
    let mut driver = Driver::new(GROWING);
    let long: Vec<Token> = (0..100).collect();
    driver.submit_for(1, long.clone(), Some(20)).unwrap();
    driver.submit(2, (200..210).collect()).unwrap();
    assert!(!driver.step(8, false), "nobody overtakes it");
    assert_eq!(driver.scheduler.wanted(), Some(120));
    assert_eq!(driver.submit(3, vec![1; 256]), Err(Refusal::PromptTooLong { prompt: 256, context: 256 }));
    driver.scheduler.resize(256).unwrap();
    assert_eq!(driver.scheduler.wanted(), None);
    assert_eq!(driver.run(1, 20), alone(&long, 20));
    assert_eq!(driver.run(2, 5), alone(&(200..210).collect::<Vec<_>>(), 5));
}

#[test]
fn a_refusal_ends_who_cannot_begin_and_holds_for_those_who_asked() {
    let mut driver = Driver::new(GROWING);
    driver.submit_for(1, (0..100).collect(), Some(20)).unwrap();
    driver.submit_for(2, (0..10).collect(), Some(200)).unwrap();
    driver.submit_for(3, (0..90).collect(), Some(1)).unwrap();
    assert_eq!(driver.refuse(), [JobId(1)]);
    // The second fits for now, though it asked for more; the third asks for less than was refused.
    assert_eq!(driver.scheduler.wanted(), None);
    assert!(driver.step(8, false));
    assert_eq!(driver.scheduler.wanted(), Some(91));
    assert_eq!(driver.refuse(), [JobId(3)]);
    driver.submit_for(4, (0..100).collect(), Some(20)).unwrap();
    assert_eq!(driver.scheduler.wanted(), Some(120), "a later request asks again");
}

#[test]
fn answers_that_fill_the_context_stand_still_until_it_grows() {
    let mut driver = Driver::new(GROWING);
    driver.submit(1, (0..20).collect()).unwrap();
    driver.submit(2, (50..70).collect()).unwrap();
    while driver.step(8, false) {}
    assert_eq!(driver.scheduler.wanted(), Some(256));
    assert_eq!((driver.scheduler.running(), driver.full.len()), (2, 0), "neither preempted nor ended");
    driver.scheduler.resize(128).unwrap();
    assert!(driver.step(8, false));
    assert_eq!(driver.scheduler.wanted(), None);
    while driver.step(8, false) {}
    driver.refuse();
    assert_eq!(driver.scheduler.wanted(), None);
    while driver.full.len() < 2 {
        assert!(driver.step(8, false), "as with a context that cannot grow");
    }
    for (id, prompt) in [(1, 0..20), (2, 50..70)] {
        let written = driver.written[&JobId(id)].clone();
        assert_eq!(written, alone(&prompt.collect::<Vec<_>>(), written.len()));
    }
}

#[test]
fn shedding_keeps_what_runs_and_what_it_asked_for() {
    let mut driver = Driver::new(GROWING);
    driver.submit(1, (0..30).collect()).unwrap();
    driver.run(1, 3);
    driver.submit_for(2, (100..110).collect(), Some(15)).unwrap();
    for _ in 0..4 {
        driver.step(8, false);
    }
    driver.shed(5);
    assert_eq!(driver.scheduler.kv.capacity(), 25);
    assert_eq!(driver.run(2, 15), alone(&(100..110).collect::<Vec<_>>(), 15));
}

#[derive(Clone, Debug)]
enum Act {
    Grow(u32),
    Refuse,
    Shed(u32),
    Submit { alike: usize, own: usize },
    Step { chunk: u32, abort: bool },
    Finish(usize),
    Pause(usize, bool),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        2 => (0..30usize, 1..25usize).prop_map(|(alike, own)| Act::Submit { alike, own }),
        8 => (1..9u32, prop::bool::weighted(0.2)).prop_map(|(chunk, abort)| Act::Step { chunk, abort }),
        1 => (0..20usize).prop_map(Act::Finish),
        1 => (64..256u32).prop_map(Act::Grow),
        1 => Just(Act::Refuse),
        1 => (0..200u32).prop_map(Act::Shed),
        1 => (0..20usize, any::<bool>()).prop_map(|(at, paused)| Act::Pause(at, paused)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever is submitted, aborted, paused, preempted or ended, and whatever size the context gets: every
    /// request's text is the one it would write alone, and the cache is never overfull (both asserted in `step`).
    #[test]
    fn neighbours_never_change_a_text(
        acts in prop::collection::vec(act(), 1..120),
        ceiling in prop_oneof![Just(0u32), 64..256u32],
    ) {
        let mut driver = Driver::new(Limits { ceiling, ..LIMITS });
        driver.forced = true;
        let mut id = 0;
        for act in acts {
            match act {
                Act::Submit { alike, own } => {
                    id += 1;
                    let own = (0..own).map(|at| Token::try_from(1000 * id + at as u64).unwrap());
                    let prompt = (0..Token::try_from(alike).unwrap()).chain(own).collect();
                    // A refusal is fine: nothing is kept of the request then.
                    let _refused = driver.submit(id, prompt).is_err();
                }
                Act::Step { chunk, abort } => {
                    driver.step(chunk, abort);
                }
                Act::Finish(at) => driver.scheduler.finish(JobId(at as u64)),
                Act::Grow(cells) => {
                    let now = driver.scheduler.kv.capacity();
                    driver.scheduler.resize(cells.max(u32::try_from(now).unwrap())).unwrap();
                }
                Act::Refuse => drop(driver.refuse()),
                Act::Shed(cells) => driver.shed(cells),
                Act::Pause(at, paused) => driver.scheduler.set_paused(JobId(at as u64), paused),
            }
        }
        for (job, written) in &driver.written {
            prop_assert_eq!(written, &alone(&driver.prompts[job], written.len()));
        }
    }

    /// Nobody waits for ever: with readers that read, every request gets its tokens.
    #[test]
    fn every_request_gets_its_tokens(
        prompts in prop::collection::vec((0..30usize, 1..20usize), 1..7),
        cells in 16..64u32,
        granted in prop::collection::vec(any::<bool>(), 20),
    ) {
        let mut driver = Driver::new(Limits { cells, ..GROWING });
        let mut granted = granted.into_iter();
        driver.forced = true;
        for (id, &(alike, own)) in prompts.iter().enumerate() {
            let own = (0..own).map(|at| Token::try_from(1000 * (id + 1) + at).unwrap());
            let prompt = (0..Token::try_from(alike).unwrap()).chain(own).collect();
            prop_assert!(driver.submit(id as u64, prompt).is_ok());
        }
        let mut open: Vec<u64> = (0..prompts.len() as u64).collect();
        for _ in 0..4000 {
            driver.step(8, false);
            match driver.scheduler.wanted().map(|wanted| (wanted, granted.next())) {
                Some((wanted, Some(true))) => {
                    driver.scheduler.resize(u32::try_from(wanted).unwrap()).unwrap();
                }
                Some(_) => {
                    let ended = driver.refuse();
                    open.retain(|&id| !ended.contains(&JobId(id)));
                }
                None => {}
            }
            open.retain(|&id| {
                let done = driver.written[&JobId(id)].len() >= 8 || driver.full.contains(&JobId(id));
                if done {
                    driver.scheduler.finish(JobId(id));
                }
                !done
            });
            if open.is_empty() {
                break;
            }
        }
        prop_assert!(open.is_empty(), "still open: {:?}", open);
    }
}
