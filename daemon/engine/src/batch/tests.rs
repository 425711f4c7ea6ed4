//! The loop over the demo model, with contexts that change their size under it.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::watch;

use super::answer::AnswerOptions;
use super::core::Limits;
use super::event::{Event, Failure, Why};
use super::pace::{Pace, StepTargets};
use super::reader::Answers;
use super::resize::Size;
use super::window::Window;
use super::{BatchLoop, Load, Submitter};
use crate::inspect;
use crate::llama::{Context, ContextOptions, KvType, LoadMode, LoadOptions, Model, Pulse, Token};
use crate::prompt::{Prompter, Purpose};
use crate::sample::Sampling;
use crate::testing::{backend, demo, on_a_large_stack};

const CEILING: u32 = 2048;
const STALL: Duration = Duration::from_secs(60);

struct Bench {
    submitter: Submitter,
    load: watch::Receiver<Load>,
    prompter: Prompter,
    thread: JoinHandle<()>,
}

/// A loop over a context of 256 tokens that may grow.
fn bench() -> Bench {
    let checked = inspect::check(&demo()).expect("the demo's header");
    let options = LoadOptions { path: &demo(), mode: LoadMode::Mapped, repack: false, gpu_layers: 0 };
    let model = Arc::new(Model::load(backend(), &options, &mut |_| true).expect("the demo"));
    let sizes = ContextOptions {
        tokens: 256,
        sequences: 4,
        micro_batch: 64,
        kv_type: KvType::F16,
        threads: 1,
        yarn: None,
    };
    let context = Context::new(Arc::clone(&model), &sizes, Arc::new(Pulse::default())).expect("a context");
    let limits = Limits {
        running: 2,
        sequences: 4,
        cells: context.capacity(),
        ceiling: CEILING,
        micro_batch: 64,
        queue: 4,
        can_rewind: true,
    };
    let (commands, received) = sync_channel(super::COMMANDS);
    let (load, load_now) = watch::channel(Load::default());
    let pace = Pace::new(StepTargets { busy: STALL, alone: STALL });
    let window = Window::of(&checked.facts, CEILING);
    let thread =
        std::thread::spawn(move || BatchLoop::new(context, limits, window, pace, load).run(&received));
    let prompter = inspect::prompter(model, &checked, None);
    Bench { submitter: Submitter::new(commands, STALL), load: load_now, prompter, thread }
}

impl Bench {
    /// A prompt of so many tokens.
    fn submit(&self, tokens: usize, max_tokens: Option<u32>) -> Answers {
        let text = "The river was low. ".repeat(tokens);
        let made = on_a_large_stack(|| self.prompter.raw(&text, Purpose::Answer(None)));
        let mut prepared = made.expect("a prompt");
        prepared.tokens.truncate(tokens);
        let options = AnswerOptions {
            sampling: Sampling { temperature: 0.0, ..Sampling::default() },
            parser: prepared.parser,
            stop: Vec::new(),
            max_tokens,
            logprobs: None,
            extra_ends: Vec::new(),
            visible: Vec::new(),
            guide: prepared.guide,
            one_by_one: false,
            one_call: false,
        };
        self.submitter.submit(prepared.tokens, options, None).expect("room in the queue")
    }

    async fn wanted(&mut self) -> u32 {
        let load = self.load.wait_for(|load| load.wanted_tokens > 0).await.expect("a loop");
        u32::try_from(load.wanted_tokens).expect("a size")
    }

    async fn resize(&self, size: Size) -> u32 {
        self.submitter.resize(size).await.expect("a loop")
    }

    fn end(self) {
        drop(self.submitter);
        self.thread.join().expect("the loop ends");
    }
}

/// Tokens of an answer and why it ended.
async fn read(mut answers: Answers) -> Result<(Vec<Token>, Why), Failure> {
    let mut tokens = Vec::new();
    while let Some(event) = answers.next().await {
        match event? {
            Event::Delta(delta) => tokens.extend(delta.tokens),
            Event::Ended(ended) => return Ok((tokens, ended.why)),
            _ => {}
        }
    }
    panic!("a stream without an end");
}

#[tokio::test]
async fn a_long_prompt_and_running_answers_move_into_a_larger_context() {
    let mut bench = bench();
    let alone = {
        let bench = self::bench();
        assert_eq!(bench.resize(Size::Tokens(1024)).await, 1024);
        let first = read(bench.submit(60, Some(150))).await.expect("an answer");
        bench.end();
        first
    };
    // An answer is being written when a prompt comes that does not fit.
    let first = bench.submit(60, Some(150));
    let second = bench.submit(400, Some(40));
    assert_eq!(bench.wanted().await, 440);
    assert_eq!(bench.resize(Size::Tokens(1000)).await, 1024);
    let (first, second) = tokio::join!(read(first), read(second));
    assert_eq!(first.expect("an answer"), alone, "the move changes nothing");
    assert!(!second.expect("an answer").0.is_empty());
    // The loop says so after the step in which they ended. Nothing was computed twice.
    let load = *bench.load.wait_for(|load| !load.is_busy()).await.expect("a loop");
    assert!(
        load.generated > 0 && (300..460).contains(&load.prefilled) && load.wanted_tokens == 0,
        "{load:?}"
    );
    assert_eq!(bench.resize(Size::Tokens(1024)).await, 1024);
    assert!(bench.load.borrow().cells_used > 400, "what is kept stays");
    // Nothing runs: all of it can go.
    assert_eq!(bench.resize(Size::Shed(0)).await, 256);
    bench.end();
}

#[tokio::test]
async fn a_refusal_fails_who_waits_and_ends_who_is_full() {
    let mut bench = bench();
    let long = bench.submit(400, Some(40));
    bench.wanted().await;
    let refused = Size::Refused { reason: "no room on this board".to_owned() };
    assert_eq!(bench.resize(refused.clone()).await, 256);
    assert_eq!(read(long).await, Err(Failure::NoMemory("no room on this board".to_owned())));
    // This one fits for now, though it may become longer than the context.
    let shorter = bench.submit(250, Some(1000));
    assert_eq!(bench.wanted().await, 1250);
    bench.resize(refused).await;
    let (tokens, why) = read(shorter).await.expect("an answer");
    assert!(!tokens.is_empty() && why == if tokens.len() < 7 { Why::Stop } else { Why::ContextFull });
    bench.end();
}
