//! Answers, from the domain to the wire.

use std::time::{Duration, SystemTime};

use hearth_proto::v1 as pb;
use tokio::time::Instant;

use crate::engines::event::{Delta, DeltaKind, FinishReason, Finished, TokenAlternative, TokenLogprob};
use crate::engines::request::{Message, Role, ToolCall};
use crate::engines::{LoadProgress, ModelState, ModelStatus};
use crate::metrics::{Answered, Stage};
use crate::store::{FileRole, Manifest, ModelFile};

/// The events of one answer, or of a tool loop: numbers them, names its calls, and takes its times.
#[derive(Debug)]
pub(crate) struct Answer {
    request_id: String,
    /// Makes the ids of calls unique beyond this request.
    nonce: u64,
    model: String,
    seed: u64,
    sequence: u64,
    accepted: bool,
    spoken: bool,
    turn: Turn,
    /// Calls of the turns before, whose ids are taken.
    calls: u32,
    /// What all turns took.
    usage: pb::Usage,
    timings: pb::Timings,
}

/// A turn of the model: the answer itself, or one of several in a tool loop.
#[derive(Debug)]
struct Turn {
    /// The request, or the results of the calls before, came.
    arrived: Instant,
    first_delta: Option<Duration>,
    /// How long it waited for the model.
    load: Duration,
    calls: u32,
}

impl Answer {
    pub(crate) fn new(request_id: String, nonce: u64, model: String, seed: u64, arrived: Instant) -> Self {
        Self {
            request_id,
            nonce,
            model,
            seed,
            sequence: 0,
            accepted: false,
            spoken: false,
            turn: Turn::begun(arrived),
            calls: 0,
            usage: pb::Usage::default(),
            timings: pb::Timings::default(),
        }
    }

    /// Whether the client knows that it was accepted.
    pub(crate) fn is_accepted(&self) -> bool {
        self.accepted
    }

    /// Whether the client has seen a part of the answer.
    pub(crate) fn has_spoken(&self) -> bool {
        self.spoken
    }

    /// The load that the turn waited for is over.
    pub(crate) fn loaded(&mut self) {
        self.turn.load = self.turn.arrived.elapsed();
    }

    pub(crate) fn accepted(&mut self, queue_position: u32) -> pb::Event {
        self.accepted = true;
        let (seed, model) = (self.seed, self.model.clone());
        self.event(pb::event::Event::Accepted(pb::Accepted { queue_position, seed, model }))
    }

    pub(crate) fn progress(&mut self, stage: pb::progress::Stage, done: u64, total: u64) -> pb::Event {
        let progress = pb::Progress { stage: stage.into(), done, total, expected_ms: None };
        self.event(pb::event::Event::Progress(progress))
    }

    /// How far a load is.
    pub(crate) fn loading(&mut self, progress: LoadProgress) -> pb::Event {
        let LoadProgress { permille, short, expected } = progress;
        let (stage, done, total) = match short {
            true => (pb::progress::Stage::Memory, 0, 0),
            false => (pb::progress::Stage::Load, permille.into(), 1000),
        };
        let expected_ms = expected.map(milliseconds);
        self.event(pb::event::Event::Progress(pb::Progress { stage: stage.into(), done, total, expected_ms }))
    }

    /// What there is to show of it, in order. Log probabilities are shown beside text only: those of a call come
    /// with an empty one ahead of it.
    pub(crate) fn delta(&mut self, delta: Delta) -> impl Iterator<Item = pb::Event> + use<> {
        let Delta { kind, logprobs } = delta;
        let logprobs: Vec<_> = logprobs.into_iter().map(logprob_of).collect();
        let (text, call) = match kind {
            DeltaKind::Reasoning(text) => {
                (Some(pb::event::Event::Reasoning(pb::TextDelta { text, logprobs })), None)
            }
            DeltaKind::Text(text) => (Some(pb::event::Event::Text(pb::TextDelta { text, logprobs })), None),
            DeltaKind::Nothing => (without_text(logprobs), None),
            DeltaKind::ToolStarted { index, name } => {
                let started = pb::ToolCallStarted { id: self.call_id(index), name };
                let call = self.call(index, pb::tool_call_delta::Delta::Started(started));
                (without_text(logprobs), Some(call))
            }
            DeltaKind::ToolArguments { index, json } => {
                let call = self.call(index, pb::tool_call_delta::Delta::Arguments(json));
                (without_text(logprobs), Some(call))
            }
            DeltaKind::ToolComplete { index, call: ToolCall { id: _, name, arguments } } => {
                let call = pb::ToolCall { id: self.call_id(index), name, arguments };
                let call = self.call(index, pb::tool_call_delta::Delta::Complete(call));
                (without_text(logprobs), Some(call))
            }
        };
        let events = [text, call].map(|event| event.map(|event| self.event(event)));
        if events.iter().any(Option::is_some) {
            self.spoken = true;
            self.turn.first_delta.get_or_insert_with(|| self.turn.arrived.elapsed());
        }
        events.into_iter().flatten()
    }

    /// The last event, and what its turn says for the figures.
    pub(crate) fn finished(&mut self, finished: Finished) -> (pb::Event, Summary) {
        let (turn, summary) = self.end_turn(finished);
        let finished = pb::Finished { usage: Some(self.usage), timings: Some(self.timings), ..turn };
        (self.event(pb::event::Event::Finished(finished)), summary)
    }

    /// The model called tools and waits for their results.
    pub(crate) fn turn(&mut self, finished: Finished) -> (pb::Event, Summary) {
        let (turn, summary) = self.end_turn(finished);
        (self.event(pb::event::Event::Turn(turn)), summary)
    }

    /// The last event of a tool loop whose calls get no results.
    pub(crate) fn given_up(&mut self) -> pb::Event {
        let reason = pb::FinishReason::ToolCalls.into();
        let (usage, timings) = (Some(self.usage), Some(self.timings));
        let finished = pb::Finished { reason, usage, timings, stop_string: String::new() };
        self.event(pb::event::Event::Finished(finished))
    }

    /// The results of the last turn's calls came at this time.
    pub(crate) fn begin_turn(&mut self, arrived: Instant) {
        self.calls = self.calls.saturating_add(self.turn.calls);
        self.turn = Turn::begun(arrived);
    }

    fn end_turn(&mut self, finished: Finished) -> (pb::Finished, Summary) {
        let Finished {
            reason,
            stop_string,
            prompt_tokens,
            cached_tokens,
            generated_tokens,
            forced_tokens,
            queue_ms,
            prefill_ms,
            decode_ms,
        } = finished;
        let usage = pb::Usage { prompt_tokens, cached_tokens, generated_tokens, forced_tokens };
        let timings = pb::Timings {
            queue_ms,
            load_ms: milliseconds(self.turn.load),
            prefill_ms,
            decode_ms,
            first_delta_ms: self.turn.first_delta.map_or(0.0, milliseconds),
        };
        self.add(usage, timings);
        let times = [
            (Stage::Queue, queue_ms),
            (Stage::Load, timings.load_ms),
            (Stage::Prefill, prefill_ms),
            (Stage::Decode, decode_ms),
            (Stage::FirstDelta, timings.first_delta_ms),
        ];
        let times = times.map(|(stage, ms)| (stage, seconds(ms)));
        let answered =
            Answered { prompt: prompt_tokens, cached: cached_tokens, generated: generated_tokens, times };
        let reason = finish_reason_of(reason);
        let turn =
            pb::Finished { reason: reason.into(), usage: Some(usage), timings: Some(timings), stop_string };
        (turn, Summary { reason: reason.as_str_name(), answered })
    }

    /// Adds a turn to the whole, whose first delta is that of the first turn.
    fn add(&mut self, usage: pb::Usage, timings: pb::Timings) {
        let pb::Usage { prompt_tokens, cached_tokens, generated_tokens, forced_tokens } = &mut self.usage;
        for (sum, part) in [
            (prompt_tokens, usage.prompt_tokens),
            (cached_tokens, usage.cached_tokens),
            (generated_tokens, usage.generated_tokens),
            (forced_tokens, usage.forced_tokens),
        ] {
            *sum = sum.saturating_add(part);
        }
        let pb::Timings { queue_ms, load_ms, prefill_ms, decode_ms, first_delta_ms } = &mut self.timings;
        *queue_ms += timings.queue_ms;
        *load_ms += timings.load_ms;
        *prefill_ms += timings.prefill_ms;
        *decode_ms += timings.decode_ms;
        if *first_delta_ms == 0.0 {
            *first_delta_ms = timings.first_delta_ms;
        }
    }

    fn call(&mut self, index: u32, delta: pb::tool_call_delta::Delta) -> pb::event::Event {
        self.turn.calls = self.turn.calls.max(index.saturating_add(1));
        pb::event::Event::ToolCall(pb::ToolCallDelta { index, delta: Some(delta) })
    }

    fn call_id(&self, index: u32) -> String {
        format!("call_{:016x}_{}", self.nonce, self.calls.saturating_add(index))
    }

    fn event(&mut self, event: pb::event::Event) -> pb::Event {
        let sequence = self.sequence;
        self.sequence += 1;
        pb::Event { request_id: self.request_id.clone(), sequence, event: Some(event) }
    }
}

impl Turn {
    fn begun(arrived: Instant) -> Self {
        Self { arrived, first_delta: None, load: Duration::ZERO, calls: 0 }
    }
}

/// What a model said in a turn, gathered from its events.
#[derive(Debug, Default)]
pub(crate) struct Said {
    reasoning: String,
    text: String,
    calls: Vec<ToolCall>,
}

impl Said {
    /// Adds an event.
    pub(crate) fn hear(&mut self, event: &pb::Event) {
        use pb::tool_call_delta::Delta::Complete;
        match &event.event {
            Some(pb::event::Event::Reasoning(delta)) => self.reasoning.push_str(&delta.text),
            Some(pb::event::Event::Text(delta)) => self.text.push_str(&delta.text),
            Some(pb::event::Event::ToolCall(pb::ToolCallDelta { index: _, delta: Some(Complete(call)) })) => {
                let pb::ToolCall { id, name, arguments } = call.clone();
                self.calls.push(ToolCall { id, name, arguments });
            }
            _ => {}
        }
    }

    /// Whole calls, in their order.
    pub(crate) fn calls(&self) -> &[ToolCall] {
        &self.calls
    }

    /// As a message of the conversation.
    pub(crate) fn message(self) -> Message {
        let Self { reasoning, text, calls } = self;
        Message {
            role: Role::Assistant,
            parts: Some(text).filter(|text| !text.is_empty()).into_iter().collect(),
            tool_calls: calls,
            tool_call_id: None,
            reasoning: Some(reasoning).filter(|thought| !thought.is_empty()),
            name: None,
        }
    }
}

/// How an answer ended and what it took.
#[derive(Debug)]
pub(crate) struct Summary {
    /// Name of the finish reason, as the API has it.
    pub(crate) reason: &'static str,
    pub(crate) answered: Answered,
}

fn seconds(milliseconds: f64) -> Duration {
    Duration::try_from_secs_f64(milliseconds / 1000.0).unwrap_or_default()
}

pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn finish_reason_of(reason: FinishReason) -> pb::FinishReason {
    match reason {
        FinishReason::Stop => pb::FinishReason::Stop,
        FinishReason::StopString => pb::FinishReason::StopString,
        FinishReason::Length => pb::FinishReason::Length,
        FinishReason::ContextFull => pb::FinishReason::ContextFull,
        FinishReason::ToolCalls => pb::FinishReason::ToolCalls,
    }
}

/// Tokens that no text stands for, where there are some.
fn without_text(logprobs: Vec<pb::TokenLogprob>) -> Option<pb::event::Event> {
    let text = pb::TextDelta { text: String::new(), logprobs };
    (!text.logprobs.is_empty()).then_some(pb::event::Event::Text(text))
}

fn logprob_of(logprob: TokenLogprob) -> pb::TokenLogprob {
    let TokenLogprob { token: TokenAlternative { token, bytes, logprob }, top } = logprob;
    let top = top.into_iter().map(|TokenAlternative { token, bytes, logprob }| pb::TokenAlternative {
        token,
        bytes,
        logprob,
    });
    pb::TokenLogprob { token, bytes, logprob, top: top.collect() }
}

/// What a model is doing, in the words of the API.
#[derive(Debug)]
pub(crate) struct ModelWords {
    state: pb::ModelState,
    reason: String,
    pinned: bool,
    expected_load: Option<Duration>,
}

impl ModelWords {
    /// With what is known of loads from before, where nothing newer is.
    pub(crate) fn after(self, expected_load: Option<Duration>) -> Self {
        Self { expected_load: self.expected_load.or(expected_load), ..self }
    }

    /// With what the configuration and callers say of models that are not there.
    pub(crate) fn pinned(self, pinned: bool) -> Self {
        Self { pinned: self.pinned || pinned, ..self }
    }
}

impl From<Option<&ModelStatus>> for ModelWords {
    fn from(status: Option<&ModelStatus>) -> Self {
        match status {
            Some(status) => Self {
                state: state_of(status.state),
                reason: status.reason.clone(),
                pinned: status.pinned,
                expected_load: status.expected_load,
            },
            None => Self {
                state: pb::ModelState::Absent,
                reason: String::new(),
                pinned: false,
                expected_load: None,
            },
        }
    }
}

pub(crate) fn state_of(state: ModelState) -> pb::ModelState {
    match state {
        ModelState::Absent => pb::ModelState::Absent,
        ModelState::Loading => pb::ModelState::Loading,
        ModelState::Ready => pb::ModelState::Ready,
        ModelState::Unloading => pb::ModelState::Unloading,
        ModelState::Quarantined => pb::ModelState::Quarantined,
    }
}

/// A model of the store with its state.
pub(crate) fn model_of(manifest: &Manifest, words: ModelWords) -> pb::Model {
    let Manifest { name, files, imported_at, facts } = manifest;
    let ModelWords { state, reason, pinned, expected_load } = words;
    pb::Model {
        name: name.to_string(),
        files: files.iter().map(file_of).collect(),
        imported_at: Some(timestamp(*imported_at)),
        facts: Some(facts_of(facts)),
        state: state.into(),
        state_reason: reason,
        expected_load_ms: expected_load.map(milliseconds),
        pinned,
    }
}

fn file_of(file: &ModelFile) -> pb::ModelFile {
    let ModelFile { role, digest, size } = file;
    let role = match role {
        FileRole::Weights => pb::FileRole::Weights,
    };
    pb::ModelFile { role: role.into(), sha256: digest.to_string(), size_bytes: size.0 }
}

fn facts_of(facts: &crate::store::Facts) -> pb::ModelFacts {
    let crate::store::Facts {
        architecture,
        title,
        parameters,
        quantization,
        context_length,
        vocabulary_size,
        dialect,
        tools,
        thinking,
    } = facts;
    pb::ModelFacts {
        architecture: architecture.clone(),
        title: title.clone(),
        parameters: *parameters,
        quantization: quantization.clone(),
        context_length: *context_length,
        vocabulary_size: *vocabulary_size,
        dialect: dialect.clone(),
        tools: *tools,
        thinking: *thinking,
    }
}

pub(crate) fn timestamp(time: SystemTime) -> prost_types::Timestamp {
    time.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_numbered_without_gaps() {
        let mut answer = Answer::new("r".to_owned(), 7, "m:latest".to_owned(), 1, Instant::now());
        let delta = |kind| Delta { kind, logprobs: Vec::new() };
        let mut events = vec![answer.accepted(0)];
        assert!(!answer.has_spoken());
        for kind in [
            DeltaKind::Text("a".to_owned()),
            DeltaKind::Nothing,
            DeltaKind::ToolStarted { index: 1, name: "f".to_owned() },
        ] {
            events.extend(answer.delta(delta(kind)));
        }
        assert!(answer.has_spoken());
        let numbers: Vec<_> = events.iter().map(|event| event.sequence).collect();
        assert_eq!(numbers, [0, 1, 2]);
        let Some(pb::event::Event::ToolCall(call)) = &events[2].event else { panic!("a call") };
        let Some(pb::tool_call_delta::Delta::Started(started)) = &call.delta else { panic!("its start") };
        assert_eq!(started.id, "call_0000000000000007_1");
    }

    #[test]
    fn every_token_has_its_log_probability_those_of_calls_too() {
        let mut answer = Answer::new("r".to_owned(), 7, "m:latest".to_owned(), 1, Instant::now());
        let delta = |kind, tokens: std::ops::Range<u32>| {
            let of = |token| TokenAlternative { token, bytes: Vec::new(), logprob: -1.0 };
            Delta {
                kind,
                logprobs: tokens.map(|token| TokenLogprob { token: of(token), top: vec![] }).collect(),
            }
        };
        let call = ToolCall { id: String::new(), name: "f".to_owned(), arguments: "{}".to_owned() };
        let mut events = Vec::new();
        for delta in [
            delta(DeltaKind::Reasoning("h".to_owned()), 0..1),
            delta(DeltaKind::Text("a".to_owned()), 1..2),
            delta(DeltaKind::ToolStarted { index: 0, name: "f".to_owned() }, 2..5),
            delta(DeltaKind::ToolArguments { index: 0, json: "{}".to_owned() }, 5..6),
            delta(DeltaKind::ToolComplete { index: 0, call }, 0..0),
            delta(DeltaKind::Nothing, 6..7),
        ] {
            events.extend(answer.delta(delta));
        }
        let numbers: Vec<_> = events.iter().map(|event| event.sequence).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6, 7]);
        let (mut shown, mut tokens) = (Vec::new(), Vec::new());
        for event in events {
            match event.event.expect("has one") {
                pb::event::Event::Reasoning(delta) | pb::event::Event::Text(delta) => {
                    shown.push(delta.text);
                    tokens.extend(delta.logprobs.into_iter().map(|logprob| logprob.token));
                }
                pb::event::Event::ToolCall(_) => shown.push("call".to_owned()),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(shown, ["h", "a", "", "call", "", "call", "call", ""]);
        assert_eq!(tokens, [0, 1, 2, 3, 4, 5, 6]);
    }

    fn finished(reason: FinishReason) -> Finished {
        Finished {
            reason,
            stop_string: String::new(),
            prompt_tokens: 10,
            cached_tokens: 4,
            generated_tokens: 3,
            forced_tokens: 1,
            queue_ms: 1.0,
            prefill_ms: 2.0,
            decode_ms: 3.0,
        }
    }

    #[test]
    fn a_loop_has_its_turns_and_the_sum_of_them() {
        let mut answer = Answer::new("r".to_owned(), 7, "m:latest".to_owned(), 1, Instant::now());
        let complete = || {
            let call = ToolCall { id: String::new(), name: "f".to_owned(), arguments: "{}".to_owned() };
            Delta { kind: DeltaKind::ToolComplete { index: 0, call }, logprobs: Vec::new() }
        };
        let mut ids = Vec::new();
        for _ in 0..2 {
            let mut said = Said::default();
            said.hear(&answer.delta(complete()).next().expect("it is shown"));
            ids.extend(said.calls().iter().map(|call| call.id.clone()));
            let (event, summary) = answer.turn(finished(FinishReason::ToolCalls));
            let Some(pb::event::Event::Turn(turn)) = event.event else { panic!("a turn") };
            assert_eq!(turn.usage.map(|usage| usage.prompt_tokens), Some(10));
            assert_eq!((summary.reason, summary.answered.prompt), ("FINISH_REASON_TOOL_CALLS", 10));
            answer.begin_turn(Instant::now());
        }
        assert_eq!(ids, ["call_0000000000000007_0", "call_0000000000000007_1"]);
        let (event, summary) = answer.finished(finished(FinishReason::Stop));
        let Some(pb::event::Event::Finished(whole)) = event.event else { panic!("the end") };
        let usage = pb::Usage { prompt_tokens: 30, cached_tokens: 12, generated_tokens: 9, forced_tokens: 3 };
        assert_eq!(whole.usage, Some(usage));
        assert_eq!(whole.timings.map(|timings| (timings.queue_ms, timings.decode_ms)), Some((3.0, 9.0)));
        assert_eq!(summary.answered.prompt, 10);
    }

    #[test]
    fn what_was_said_becomes_a_message() {
        let mut answer = Answer::new("r".to_owned(), 7, "m:latest".to_owned(), 1, Instant::now());
        let mut said = Said::default();
        for kind in [
            DeltaKind::Reasoning("h".to_owned()),
            DeltaKind::Reasoning("m".to_owned()),
            DeltaKind::Text("a".to_owned()),
            DeltaKind::Text("b".to_owned()),
        ] {
            said.hear(&answer.delta(Delta { kind, logprobs: Vec::new() }).next().expect("it is shown"));
        }
        let Message { parts, reasoning, .. } = said.message();
        assert_eq!((parts, reasoning.as_deref()), (vec!["ab".to_owned()], Some("hm")));
        assert_eq!(Said::default().message().parts, Vec::<String>::new());
    }
}
