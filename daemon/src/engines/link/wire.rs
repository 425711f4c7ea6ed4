//! Domain words to the link's messages and back. Every field is named, so that a new one is not
//! forgotten.

use std::time::Duration;

use hearth_proto::engine as pb;

use super::{FailureReason, LinkError, milliseconds};
use crate::engines::config::{GpuLayers, KvType, LoadParams};
use crate::engines::event::{
    Beat, Delta, DeltaKind, FinishReason, Finished, GenerateEvent, Inspection, LoadEvent, LoadedFacts,
    TokenAlternative, TokenLogprob,
};
use crate::engines::request::{
    Conversation, GenerateRequest, Message, Output, Prompt, Role, Sampling, Thinking, Tool, ToolCall,
    ToolChoice, ToolMode,
};
use crate::memory::need::{Correction, Footprint, Point, Sizes, Weights};
use crate::store::Facts;
use crate::units::Bytes;

impl From<&LoadParams> for pb::LoadRequest {
    fn from(load: &LoadParams) -> Self {
        let LoadParams {
            context_tokens,
            context_ceiling,
            repack: _,
            may_shorten: _,
            may_quantize: _,
            sequences,
            micro_batch,
            kv_type,
            threads,
            step_busy,
            step_alone,
            queue,
            reader_stall,
            dialect,
            forced_one_by_one,
            gpu_layers,
        } = load;
        Self {
            context_tokens: *context_tokens,
            sequences: *sequences,
            micro_batch: *micro_batch,
            kv_type: pb::KvType::from(*kv_type).into(),
            threads: *threads,
            step_busy_ms: short(*step_busy),
            step_alone_ms: short(*step_alone),
            queue: *queue,
            reader_stall_ms: short(*reader_stall),
            dialect: dialect.clone().unwrap_or_default(),
            copy_weights: None,
            forced_one_by_one: *forced_one_by_one,
            context_ceiling: *context_ceiling,
            gpu_layers: match gpu_layers {
                GpuLayers::Auto => None,
                GpuLayers::Count(layers) => Some(*layers),
            },
        }
    }
}

impl From<KvType> for pb::KvType {
    fn from(kv_type: KvType) -> Self {
        match kv_type {
            KvType::F16 => Self::F16,
            KvType::Q8_0 => Self::Q80,
            KvType::Q4_0 => Self::Q40,
        }
    }
}

impl From<pb::KvType> for KvType {
    fn from(kv_type: pb::KvType) -> Self {
        match kv_type {
            pb::KvType::F16 => Self::F16,
            pb::KvType::Q80 => Self::Q8_0,
            pb::KvType::Q40 => Self::Q4_0,
        }
    }
}

fn short(time: Duration) -> u32 {
    u32::try_from(milliseconds(time)).unwrap_or(u32::MAX)
}

impl From<GenerateRequest> for pb::GenerateRequest {
    fn from(request: GenerateRequest) -> Self {
        let GenerateRequest {
            request_id,
            prompt,
            sampling,
            stop,
            max_tokens,
            logprobs,
            seed,
            traceparent,
            output,
        } = request;
        Self {
            request_id,
            prompt: Some(prompt.into()),
            sampling: Some(sampling.into()),
            stop,
            max_tokens,
            logprobs,
            seed,
            deadline_ms: None,
            traceparent: traceparent.unwrap_or_default(),
            output: output.map(Into::into),
        }
    }
}

impl From<Output> for pb::Output {
    fn from(output: Output) -> Self {
        use pb::output::Kind;
        let kind = match output {
            Output::JsonObject => Kind::JsonObject(true),
            Output::JsonSchema(schema) => Kind::JsonSchema(schema),
            Output::Regex(regex) => Kind::Regex(regex),
            Output::Grammar(grammar) => Kind::Grammar(grammar),
        };
        Self { kind: Some(kind) }
    }
}

impl From<Prompt> for pb::Prompt {
    fn from(prompt: Prompt) -> Self {
        let kind = match prompt {
            Prompt::Conversation(conversation) => pb::prompt::Kind::Conversation(conversation.into()),
            Prompt::Raw(text) => pb::prompt::Kind::Raw(text),
        };
        Self { kind: Some(kind) }
    }
}

impl From<Conversation> for pb::Conversation {
    fn from(conversation: Conversation) -> Self {
        let Conversation { messages, tools, tool_choice, thinking, thinking_budget, date } = conversation;
        let thinking = match thinking {
            Thinking::Default => pb::Thinking::Default,
            Thinking::On => pb::Thinking::On,
            Thinking::Off => pb::Thinking::Off,
        };
        Self {
            messages: messages.into_iter().map(Into::into).collect(),
            tools: tools.into_iter().map(Into::into).collect(),
            tool_choice: Some(tool_choice.into()),
            thinking: thinking.into(),
            date: date.map(|day| day.to_string()).unwrap_or_default(),
            thinking_budget,
        }
    }
}

impl From<ToolChoice> for pb::ToolChoice {
    fn from(choice: ToolChoice) -> Self {
        use pb::tool_choice::Mode;
        let ToolChoice { mode, parallel } = choice;
        let (mode, name) = match mode {
            ToolMode::Auto => (Mode::Auto, String::new()),
            ToolMode::None => (Mode::None, String::new()),
            ToolMode::Required => (Mode::Required, String::new()),
            ToolMode::Named(name) => (Mode::Named, name),
        };
        Self { mode: mode.into(), name, parallel }
    }
}

impl From<Message> for pb::Message {
    fn from(message: Message) -> Self {
        let Message { role, parts, tool_calls, tool_call_id, reasoning, name } = message;
        let role = match role {
            Role::System => pb::Role::System,
            Role::User => pb::Role::User,
            Role::Assistant => pb::Role::Assistant,
            Role::Tool => pb::Role::Tool,
        };
        let tool_calls = tool_calls.into_iter().map(Into::into).collect();
        Self { role: role.into(), parts, tool_calls, tool_call_id, reasoning, name }
    }
}

impl From<ToolCall> for pb::ToolCall {
    fn from(call: ToolCall) -> Self {
        let ToolCall { id, name, arguments } = call;
        Self { id, name, arguments }
    }
}

impl From<Tool> for pb::Tool {
    fn from(tool: Tool) -> Self {
        let Tool { name, description, parameters } = tool;
        Self { name, description, parameters }
    }
}

impl From<Sampling> for pb::Sampling {
    fn from(sampling: Sampling) -> Self {
        let Sampling {
            temperature,
            top_p,
            top_k,
            min_p,
            repeat_penalty,
            presence_penalty,
            frequency_penalty,
            penalty_window,
            logit_bias,
        } = sampling;
        let logit_bias = logit_bias.into_iter().map(|(token, bias)| pb::LogitBias { token, bias });
        Self {
            temperature,
            top_p,
            top_k,
            min_p,
            repeat_penalty,
            presence_penalty,
            frequency_penalty,
            penalty_window,
            logit_bias: logit_bias.collect(),
        }
    }
}

impl TryFrom<pb::GenerateEvent> for GenerateEvent {
    type Error = LinkError;

    fn try_from(event: pb::GenerateEvent) -> Result<Self, LinkError> {
        use pb::generate_event::Event;
        match event.event.ok_or(LinkError::Protocol("an event without content"))? {
            Event::Accepted(pb::Accepted { queue_position }) => Ok(Self::Accepted { queue_position }),
            Event::Progress(pb::Progress { done: _, total, context: true }) => {
                Ok(Self::Context { ahead: total })
            }
            Event::Progress(pb::Progress { done, total, context: false }) => {
                Ok(Self::Prefill { done, total })
            }
            Event::Delta(delta) => delta.try_into().map(Self::Delta),
            Event::Finished(finished) => Ok(Self::Finished(finished.into())),
        }
    }
}

impl TryFrom<pb::Delta> for Delta {
    type Error = LinkError;

    fn try_from(delta: pb::Delta) -> Result<Self, LinkError> {
        use pb::delta::Kind;
        // The token ids are for the replay that a later issue brings.
        let pb::Delta { tokens: _, logprobs, kind } = delta;
        let kind = match kind.ok_or(LinkError::Protocol("a delta without content"))? {
            Kind::Reasoning(text) => DeltaKind::Reasoning(text),
            Kind::Text(text) => DeltaKind::Text(text),
            Kind::ToolStarted(pb::ToolStarted { index, name }) => DeltaKind::ToolStarted { index, name },
            Kind::ToolArguments(pb::ToolArguments { index, json }) => {
                DeltaKind::ToolArguments { index, json }
            }
            Kind::ToolComplete(pb::ToolComplete { index, name, arguments }) => {
                DeltaKind::ToolComplete { index, call: ToolCall { id: String::new(), name, arguments } }
            }
            Kind::Nothing(_) => DeltaKind::Nothing,
        };
        Ok(Self { kind, logprobs: logprobs.into_iter().map(Into::into).collect() })
    }
}

impl From<pb::TokenLogprob> for TokenLogprob {
    fn from(token: pb::TokenLogprob) -> Self {
        let pb::TokenLogprob { token, bytes, logprob, top } = token;
        let token = TokenAlternative { token, bytes, logprob };
        let top = top.into_iter().map(|pb::TokenAlternative { token, bytes, logprob }| TokenAlternative {
            token,
            bytes,
            logprob,
        });
        Self { token, top: top.collect() }
    }
}

impl From<pb::Finished> for Finished {
    fn from(finished: pb::Finished) -> Self {
        let reason = match finished.reason() {
            pb::FinishReason::Stop => FinishReason::Stop,
            pb::FinishReason::StopString => FinishReason::StopString,
            pb::FinishReason::Length => FinishReason::Length,
            pb::FinishReason::ContextFull => FinishReason::ContextFull,
            pb::FinishReason::ToolCalls => FinishReason::ToolCalls,
        };
        let pb::Finished {
            reason: _,
            stop_string,
            prompt_tokens,
            cached_tokens,
            generated_tokens,
            queue_ms,
            prefill_ms,
            decode_ms,
            forced_tokens,
        } = finished;
        Self {
            reason,
            stop_string,
            prompt_tokens,
            cached_tokens,
            generated_tokens,
            forced_tokens,
            queue_ms,
            prefill_ms,
            decode_ms,
        }
    }
}

impl TryFrom<pb::LoadEvent> for LoadEvent {
    type Error = LinkError;

    fn try_from(event: pb::LoadEvent) -> Result<Self, LinkError> {
        use pb::load_event::Event;
        match event.event.ok_or(LinkError::Protocol("a load event without content"))? {
            Event::ProgressPermille(permille) => Ok(Self::Progress(permille.min(1000))),
            Event::Loaded(pb::Loaded { context_tokens, sequences, memory, gpu_layers }) => {
                let buffers = buffers(&memory.unwrap_or_default());
                Ok(Self::Loaded(LoadedFacts { context_tokens, sequences, buffers, gpu_layers }))
            }
        }
    }
}

fn buffers(memory: &pb::MemoryEstimate) -> Bytes {
    let pb::MemoryEstimate { weights_mapped_bytes, weights_copied_bytes, kv_bytes, compute_bytes } = *memory;
    [weights_mapped_bytes, weights_copied_bytes, kv_bytes, compute_bytes].map(Bytes).into_iter().sum()
}

impl From<pb::InspectResponse> for Inspection {
    fn from(inspected: pb::InspectResponse) -> Self {
        let pb::InspectResponse {
            architecture,
            title,
            parameters,
            quantization,
            context_length,
            vocabulary_size,
            dialect,
            tools,
            thinking,
            weights,
            contexts,
            process_bytes,
            grammar_bytes,
        } = inspected;
        let facts = Facts {
            architecture,
            title,
            parameters,
            quantization,
            context_length,
            vocabulary_size,
            dialect,
            tools,
            thinking,
        };
        let pb::WeightBytes { mapped_bytes, repacked_bytes, staging_bytes } = weights.unwrap_or_default();
        let footprint = Footprint {
            weights: Weights {
                mapped: Bytes(mapped_bytes),
                repacked: (repacked_bytes > 0).then_some(Bytes(repacked_bytes)),
                staging: Bytes(staging_bytes),
            },
            process: Bytes(process_bytes),
            // Whoever asked knows.
            process_sequences: 0,
            grammar: Bytes(grammar_bytes),
            vocabulary: vocabulary_size,
            points: contexts.iter().map(Into::into).collect(),
            correction: Correction::default(),
        };
        Self { facts, footprint }
    }
}

impl From<&pb::ContextBytes> for Point {
    fn from(context: &pb::ContextBytes) -> Self {
        let pb::ContextBytes { tokens, sequences, micro_batch, kv_type: _, kv_bytes, compute_bytes } =
            *context;
        let sizes = Sizes { tokens, sequences, micro_batch, kv_type: context.kv_type().into() };
        Self { sizes, kv: Bytes(kv_bytes), compute: Bytes(compute_bytes) }
    }
}

impl From<pb::Beat> for Beat {
    fn from(beat: pb::Beat) -> Self {
        let pb::Beat {
            busy,
            progress,
            running,
            waiting,
            context_used,
            context_tokens,
            wanted_context_tokens,
            generated_tokens,
            prefilled_tokens,
            on_gpu_bytes,
        } = beat;
        Self {
            busy,
            progress,
            running,
            waiting,
            context_used,
            context_tokens,
            wanted_context_tokens,
            generated_tokens,
            prefilled_tokens,
            on_gpu: Bytes(on_gpu_bytes),
        }
    }
}

impl From<pb::Reason> for FailureReason {
    fn from(reason: pb::Reason) -> Self {
        match reason {
            pb::Reason::Internal => Self::Internal,
            pb::Reason::Invalid => Self::Invalid,
            pb::Reason::PromptTooLong => Self::PromptTooLong,
            pb::Reason::QueueFull => Self::QueueFull,
            pb::Reason::Deadline => Self::Deadline,
            pb::Reason::ReaderStalled => Self::ReaderStalled,
            pb::Reason::Unsupported => Self::Unsupported,
            pb::Reason::BadModel => Self::BadModel,
            pb::Reason::BuildMismatch => Self::BuildMismatch,
            pb::Reason::Cancelled => Self::Cancelled,
            pb::Reason::NoMemory => Self::NoMemory,
        }
    }
}
