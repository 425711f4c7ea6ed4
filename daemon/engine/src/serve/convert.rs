//! The link's messages as the engine's own types, and back.

use std::path::PathBuf;
use std::time::Duration;

use hearth_proto::engine as pb;
use tonic::Status;

use super::failure::invalid;
use super::millis;
use crate::batch::event::{AnswerDelta, Ended, Event, Why};
use crate::batch::pace::StepTargets;
use crate::batch::resize::Size;
use crate::chat::{
    Conversation, Date, Delta, Dialect, Message, Output, Role, Sampling as ChatSampling, Thinking, Tool,
    ToolCall, ToolChoice,
};
use crate::gpu::GpuLayers;
use crate::inspect::Inspected;
use crate::llama::{ContextOptions, KvType, Memory, Token};
use crate::prompt::chain;
use crate::sample::{Logprob, Sampling};
use crate::worker::{LoadSpec, Loaded};

/// What to answer.
#[derive(Debug)]
pub(super) enum Prompt {
    Conversation(Box<Conversation>),
    Raw(String),
}

/// A request to generate.
#[derive(Debug)]
pub(super) struct Generate {
    pub(super) request_id: String,
    pub(super) traceparent: String,
    pub(super) prompt: Prompt,
    pub(super) sampling: Wishes,
    pub(super) stop: Vec<String>,
    pub(super) max_tokens: Option<u32>,
    pub(super) logprobs: Option<usize>,
    pub(super) deadline: Option<Duration>,
    pub(super) output: Option<Output>,
}

/// The request's own sampling; what is absent comes from the model, then from the defaults.
#[derive(Debug)]
pub(super) struct Wishes {
    wanted: pb::Sampling,
    seed: u64,
}

impl Prompt {
    pub(super) fn thinking(&self) -> Thinking {
        match self {
            Self::Conversation(conversation) => conversation.thinking,
            Self::Raw(_) => Thinking::ModelDefault,
        }
    }

    /// Whether the request says that there shall be one call at most.
    pub(super) fn wants_one_call(&self) -> bool {
        matches!(self, Self::Conversation(conversation) if conversation.parallel == Some(false))
    }
}

impl Wishes {
    /// The request over the model over the defaults.
    pub(super) fn over(self, model: ChatSampling, vocabulary_size: i32) -> Result<Sampling, Status> {
        let Self { wanted, seed } = self;
        let default = Sampling::default();
        let mut logit_bias = Vec::with_capacity(wanted.logit_bias.len());
        for (at, bias) in wanted.logit_bias.iter().enumerate() {
            let token = Token::try_from(bias.token).ok().filter(|&token| token < vocabulary_size);
            let token = token.ok_or_else(|| {
                let why = format!("{} is not a token id: the model has {vocabulary_size}", bias.token);
                invalid(format!("sampling.logit_bias[{at}].token"), why)
            })?;
            logit_bias.push((token, bias.bias));
        }
        Ok(Sampling {
            temperature: wanted.temperature.or(model.temperature).unwrap_or(default.temperature),
            top_p: wanted.top_p.or(model.top_p).unwrap_or(default.top_p),
            top_k: wanted.top_k.or(model.top_k).unwrap_or(default.top_k),
            min_p: wanted.min_p.or(model.min_p).unwrap_or(default.min_p),
            repeat_penalty: wanted.repeat_penalty.unwrap_or(default.repeat_penalty),
            presence_penalty: wanted.presence_penalty.unwrap_or(default.presence_penalty),
            frequency_penalty: wanted.frequency_penalty.unwrap_or(default.frequency_penalty),
            penalty_window: wanted.penalty_window.unwrap_or(default.penalty_window),
            logit_bias,
            seed,
        })
    }
}

pub(super) fn load_spec(load: pb::LoadRequest, path: PathBuf, cores: usize) -> Result<LoadSpec, Status> {
    let kv_type = match load.kv_type() {
        pb::KvType::F16 => KvType::F16,
        pb::KvType::Q80 => KvType::Q8_0,
        pb::KvType::Q40 => KvType::Q4_0,
    };
    Ok(LoadSpec {
        path,
        context: ContextOptions {
            tokens: load.context_tokens,
            sequences: load.sequences.max(1),
            micro_batch: load.micro_batch.max(1),
            kv_type,
            threads: threads(load.threads, cores),
            yarn: None,
        },
        ceiling: load.context_ceiling,
        targets: StepTargets {
            busy: millis(load.step_busy_ms.into()),
            alone: millis(load.step_alone_ms.into()),
        },
        queue: load.queue as usize,
        reader_stall: millis(load.reader_stall_ms.into()),
        dialect: dialect(&load.dialect)?,
        copy_weights: load.copy_weights,
        forced_one_by_one: load.forced_one_by_one,
        gpu_layers: load.gpu_layers.map_or(GpuLayers::Auto, GpuLayers::Count),
    })
}

/// 0: one for each core that this process may use.
fn threads(wanted: u32, cores: usize) -> i32 {
    let count = if wanted == 0 { cores } else { wanted as usize };
    i32::try_from(count).unwrap_or(1).max(1)
}

pub(super) fn dialect(name: &str) -> Result<Option<Dialect>, Status> {
    if name.is_empty() {
        return Ok(None);
    }
    name.parse().map(Some).map_err(|error: crate::chat::UnknownDialect| invalid("dialect", error.to_string()))
}

pub(super) fn generate(request: pb::GenerateRequest) -> Result<Generate, Status> {
    Ok(Generate {
        request_id: request.request_id,
        traceparent: request.traceparent,
        prompt: prompt(request.prompt)?,
        sampling: Wishes { wanted: request.sampling.unwrap_or_default(), seed: request.seed },
        stop: request.stop,
        max_tokens: request.max_tokens,
        logprobs: request.logprobs.map(|count| count as usize),
        deadline: request.deadline_ms.map(millis),
        output: request.output.map(output).transpose()?,
    })
}

fn output(wire: pb::Output) -> Result<Output, Status> {
    use pb::output::Kind;
    match wire.kind {
        None => Err(invalid("output", "absent")),
        Some(Kind::JsonObject(_)) => Ok(Output::JsonObject),
        Some(Kind::JsonSchema(text)) => Ok(Output::JsonSchema(text)),
        Some(Kind::Regex(expression)) => Ok(Output::Regex(expression)),
        Some(Kind::Grammar(grammar)) => Ok(Output::Lark(grammar)),
    }
}

pub(super) fn prompt(prompt: Option<pb::Prompt>) -> Result<Prompt, Status> {
    match prompt.and_then(|prompt| prompt.kind) {
        None => Err(invalid("prompt", "absent")),
        Some(pb::prompt::Kind::Raw(text)) => Ok(Prompt::Raw(text)),
        Some(pb::prompt::Kind::Conversation(conversation)) => {
            Ok(Prompt::Conversation(Box::new(self::conversation(conversation)?)))
        }
    }
}

fn conversation(wire: pb::Conversation) -> Result<Conversation, Status> {
    let thinking = match wire.thinking() {
        pb::Thinking::Default => Thinking::ModelDefault,
        pb::Thinking::On => Thinking::On,
        pb::Thinking::Off => Thinking::Off,
    };
    let choice = wire.tool_choice.unwrap_or_default();
    let tools = wire.tools.iter().enumerate().map(|(index, tool)| {
        Tool::new(index, &tool.name, tool.description.as_deref(), tool.parameters.as_deref())
            .map_err(|error| invalid(format!("prompt.conversation.tools[{index}]"), chain(&error)))
    });
    Ok(Conversation {
        tools: tools.collect::<Result<_, _>>()?,
        messages: in_call_order(wire.messages.into_iter().map(message).collect()),
        tool_choice: tool_choice(&choice),
        parallel: choice.parallel,
        thinking,
        thinking_budget: wire.thinking_budget,
        add_generation_prompt: true,
        date: Date::parse(&wire.date).ok(),
    })
}

fn tool_choice(wire: &pb::ToolChoice) -> ToolChoice {
    use pb::tool_choice::Mode;
    match wire.mode() {
        Mode::Auto => ToolChoice::Auto,
        Mode::None => ToolChoice::None,
        Mode::Required => ToolChoice::Required,
        Mode::Named => ToolChoice::Named(wire.name.clone()),
    }
}

fn message(wire: pb::Message) -> Message {
    let role = match wire.role() {
        pb::Role::System => Role::System,
        pb::Role::User => Role::User,
        pb::Role::Assistant => Role::Assistant,
        pb::Role::Tool => Role::Tool,
    };
    let call = |call: pb::ToolCall| ToolCall { id: call.id, name: call.name, arguments: call.arguments };
    Message {
        role,
        parts: wire.parts,
        reasoning: wire.reasoning,
        tool_calls: wire.tool_calls.into_iter().map(call).collect(),
        tool_call_id: wire.tool_call_id,
        name: wire.name,
    }
}

/// Messages with the results behind several calls in the order of those calls: not every prompt has ids, so the
/// order may be all that pairs them. The front has checked that each result has its call.
fn in_call_order(mut messages: Vec<Message>) -> Vec<Message> {
    let is_result = |message: &Message| message.role == Role::Tool;
    for at in 0..messages.len() {
        let (before, behind) = messages.split_at_mut(at + 1);
        let calls = &before[at].tool_calls;
        let results = behind.iter().take_while(|message| is_result(message)).count();
        if calls.len() > 1 {
            behind[..results].sort_by_key(|result| {
                calls.iter().position(|call| Some(call.id.as_str()) == result.tool_call_id.as_deref())
            });
        }
    }
    messages
}

pub(super) fn size(request: pb::ResizeRequest) -> Size {
    let pb::ResizeRequest { context_tokens, refused, reason, shed } = request;
    match (refused, shed) {
        (true, _) => Size::Refused { reason },
        (false, true) => Size::Shed(context_tokens),
        (false, false) => Size::Tokens(context_tokens),
    }
}

// ---- the engine's types as messages

pub(super) fn inspected(inspected: &Inspected) -> pb::InspectResponse {
    let Inspected { facts, prompter, weights, contexts, process, grammar } = inspected;
    let small = |value: Option<u64>| value.and_then(|value| u32::try_from(value).ok()).unwrap_or(0);
    pb::InspectResponse {
        architecture: facts.architecture.clone(),
        title: facts.title.clone().unwrap_or_default(),
        parameters: facts.parameters,
        quantization: facts.quantization.clone(),
        context_length: small(facts.context_length),
        vocabulary_size: small(Some(facts.vocabulary_size)),
        dialect: prompter.dialect().to_owned(),
        tools: prompter.knows_tools(),
        thinking: prompter.thinks(),
        weights: Some(pb::WeightBytes {
            mapped_bytes: weights.mapped,
            repacked_bytes: weights.rearranged,
            staging_bytes: weights.staging,
        }),
        contexts: contexts.iter().map(|(sizes, memory)| context_bytes(sizes, memory)).collect(),
        process_bytes: *process,
        grammar_bytes: *grammar,
    }
}

fn context_bytes(sizes: &ContextOptions, memory: &Memory) -> pb::ContextBytes {
    let kv_type = match sizes.kv_type {
        KvType::F16 => pb::KvType::F16,
        KvType::Q8_0 => pb::KvType::Q80,
        KvType::Q4_0 => pb::KvType::Q40,
    };
    pb::ContextBytes {
        tokens: sizes.tokens,
        sequences: sizes.sequences,
        micro_batch: sizes.micro_batch,
        kv_type: kv_type.into(),
        kv_bytes: memory.kv,
        compute_bytes: memory.compute,
    }
}

fn estimate(memory: &Memory, mapped: bool) -> pb::MemoryEstimate {
    let weights = memory.weights_plain + memory.weights_repacked;
    pb::MemoryEstimate {
        weights_mapped_bytes: if mapped { weights } else { 0 },
        weights_copied_bytes: if mapped { 0 } else { weights },
        kv_bytes: memory.kv,
        compute_bytes: memory.compute,
    }
}

pub(super) fn load_progress(permille: u32) -> pb::LoadEvent {
    pb::LoadEvent { event: Some(pb::load_event::Event::ProgressPermille(permille)) }
}

pub(super) fn loaded(loaded: &Loaded) -> pb::LoadEvent {
    let done = pb::Loaded {
        context_tokens: loaded.context_tokens,
        sequences: loaded.sequences,
        memory: Some(estimate(&loaded.memory, loaded.mapped)),
        gpu_layers: loaded.gpu_layers,
    };
    pb::LoadEvent { event: Some(pb::load_event::Event::Loaded(done)) }
}

pub(super) fn event(event: Event) -> pb::GenerateEvent {
    use pb::generate_event::Event as Wire;
    let small = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let event = match event {
        Event::Accepted { ahead } => Wire::Accepted(pb::Accepted { queue_position: small(ahead) }),
        Event::Prefill { done, total } => {
            Wire::Progress(pb::Progress { done: small(done), total: small(total), context: false })
        }
        Event::ContextWait { ahead } => {
            Wire::Progress(pb::Progress { done: 0, total: small(ahead), context: true })
        }
        Event::Delta(delta) => Wire::Delta(self::delta(delta)),
        Event::Ended(ended) => Wire::Finished(finished(ended)),
    };
    pb::GenerateEvent { event: Some(event) }
}

fn delta(delta: AnswerDelta) -> pb::Delta {
    use pb::delta::Kind;
    let kind = match delta.delta {
        None => Kind::Nothing(true),
        Some(Delta::Reasoning(text)) => Kind::Reasoning(text),
        Some(Delta::Text(text)) => Kind::Text(text),
        Some(Delta::ToolCallStarted { index, name }) => Kind::ToolStarted(pb::ToolStarted { index, name }),
        Some(Delta::ToolCallArguments { index, json }) => {
            Kind::ToolArguments(pb::ToolArguments { index, json })
        }
        Some(Delta::ToolCallCompleted { index, name, arguments }) => {
            Kind::ToolComplete(pb::ToolComplete { index, name, arguments })
        }
    };
    pb::Delta {
        kind: Some(kind),
        tokens: delta.tokens.into_iter().map(i32::unsigned_abs).collect(),
        logprobs: delta.logprobs.into_iter().map(logprob).collect(),
    }
}

fn logprob((logprob, bytes): (Logprob, Vec<u8>)) -> pb::TokenLogprob {
    pb::TokenLogprob {
        token: logprob.token.unsigned_abs(),
        bytes,
        logprob: logprob.logprob,
        top: logprob
            .top
            .into_iter()
            .map(|alternative| pb::TokenAlternative {
                token: alternative.token.unsigned_abs(),
                bytes: alternative.bytes,
                logprob: alternative.logprob,
            })
            .collect(),
    }
}

fn finished(ended: Ended) -> pb::Finished {
    let (reason, stop_string) = match ended.why {
        Why::Stop => (pb::FinishReason::Stop, String::new()),
        Why::StopString(text) => (pb::FinishReason::StopString, text),
        Why::Length => (pb::FinishReason::Length, String::new()),
        Why::ContextFull => (pb::FinishReason::ContextFull, String::new()),
        Why::ToolCalls => (pb::FinishReason::ToolCalls, String::new()),
    };
    let small = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    pb::Finished {
        reason: reason.into(),
        stop_string,
        prompt_tokens: small(ended.prompt_tokens),
        cached_tokens: small(ended.cached_tokens),
        generated_tokens: ended.generated_tokens,
        queue_ms: ms(ended.queue),
        prefill_ms: ms(ended.prefill),
        decode_ms: ms(ended.decode),
        forced_tokens: ended.forced_tokens,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_the_order_of_their_calls() {
        let call =
            |id: &str| ToolCall { id: id.to_owned(), name: "f".to_owned(), arguments: "{}".to_owned() };
        let calls = |ids: &[&str]| Message {
            tool_calls: ids.iter().map(|id| call(id)).collect(),
            ..Message::text(Role::Assistant, "")
        };
        let result =
            |id: &str| Message { tool_call_id: Some(id.to_owned()), ..Message::text(Role::Tool, id) };
        let messages = vec![
            calls(&["a", "b"]),
            result("b"),
            result("a"),
            Message::text(Role::User, "go on"),
            calls(&["c", "d", "e"]),
            result("e"),
            result("c"),
            result("d"),
        ];
        let ids: Vec<Option<String>> =
            in_call_order(messages).into_iter().map(|message| message.tool_call_id).collect();
        let ids: Vec<&str> = ids.iter().flatten().map(String::as_str).collect();
        assert_eq!(ids, ["a", "b", "c", "d", "e"]);
    }
}
