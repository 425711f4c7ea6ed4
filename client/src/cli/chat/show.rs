//! The events of an answer as they appear.

use hearth_client::GenerationEvent;
use hearth_client::v1::{self, FinishReason, progress::Stage};

use crate::cli::exit::Failure;
use crate::cli::json::Line;
use crate::cli::load::loading;
use crate::cli::output::Output;
use crate::cli::progress::{Step, Unit};
use crate::cli::style;
use crate::cli::table;

/// Shows an event of an answer.
pub(super) fn event(event: &GenerationEvent, out: &mut Output) -> Result<(), Failure> {
    if out.is_json() { json(event, out) } else { human(event, out) }
}

/// Shows the result that goes back to the model; a program knows it already.
pub(super) fn tool_result(text: &str, out: &mut Output) -> Result<(), Failure> {
    if out.is_json() { Ok(()) } else { out.styled(&format!("← {text}"), style::CALL) }
}

fn json(event: &GenerationEvent, out: &mut Output) -> Result<(), Failure> {
    match event {
        GenerationEvent::Accepted { request_id, model, queue_position, seed } => {
            out.json(&Line::Accepted { request_id, model, queue_position: *queue_position, seed: *seed })
        }
        GenerationEvent::Progress(progress) => out.json(&Line::progress(progress)),
        GenerationEvent::Reasoning(delta) => out.json(&Line::Reasoning { text: &delta.text }),
        GenerationEvent::Text(delta) => out.json(&Line::Text { text: &delta.text }),
        // A call is one line, once it is whole.
        GenerationEvent::ToolCallStarted { .. } | GenerationEvent::ToolCallArguments { .. } => Ok(()),
        GenerationEvent::ToolCall { call, .. } => out.json(&Line::tool_call(call)),
        GenerationEvent::Turn(turn) => out.json(&Line::turn(turn)),
        GenerationEvent::Finished(finished) => out.json(&Line::finished(finished)),
    }
}

fn human(event: &GenerationEvent, out: &mut Output) -> Result<(), Failure> {
    match event {
        GenerationEvent::Accepted { queue_position: 0, .. } => Ok(()),
        GenerationEvent::Accepted { queue_position, .. } => waiting(u64::from(*queue_position), out),
        GenerationEvent::Progress(progress) => show_progress(progress, out),
        GenerationEvent::Reasoning(delta) => out.thought(&delta.text),
        GenerationEvent::Text(delta) => out.text(&delta.text),
        GenerationEvent::ToolCallStarted { name, .. } => {
            out.progress(&Step { what: &format!("calling {name}"), unit: Unit::Nothing, done: 0, total: 0 })
        }
        GenerationEvent::ToolCallArguments { .. } => Ok(()),
        GenerationEvent::ToolCall { call, .. } => {
            out.styled(&format!("→ {} {}", call.name, call.arguments), style::CALL)
        }
        GenerationEvent::Turn(ended) | GenerationEvent::Finished(ended) => end(ended.reason(), out),
    }
}

fn show_progress(progress: &v1::Progress, out: &mut Output) -> Result<(), Failure> {
    let v1::Progress { done, total, expected_ms, stage: _ } = *progress;
    match progress.stage() {
        Stage::Load => {
            let what = loading("the model", expected_ms);
            out.progress(&Step { what: &what, unit: Unit::Permille, done, total })
        }
        Stage::Memory => {
            let what = waiting_for_memory(expected_ms);
            out.progress(&Step { what: &what, unit: Unit::Nothing, done: 0, total: 0 })
        }
        Stage::Prefill => out.progress(&Step { what: "reading the prompt", unit: Unit::Tokens, done, total }),
        Stage::Queue => waiting(total, out),
        Stage::Context => {
            let what = "waiting for a context of another length";
            out.progress(&Step { what, unit: Unit::Nothing, done: 0, total: 0 })
        }
        Stage::Unspecified => Ok(()),
    }
}

fn waiting_for_memory(expected_ms: Option<f64>) -> String {
    match expected_ms {
        Some(ms) => format!("waiting for memory, then loading for about {}", table::millis(ms)),
        None => "waiting for memory".to_owned(),
    }
}

fn waiting(ahead: u64, out: &mut Output) -> Result<(), Failure> {
    let what = format!("waiting, {ahead} ahead");
    out.progress(&Step { what: &what, unit: Unit::Nothing, done: 0, total: 0 })
}

/// Says where the answer is not whole.
fn end(reason: FinishReason, out: &mut Output) -> Result<(), Failure> {
    out.end_answer()?;
    match reason {
        FinishReason::Length => out.note("[cut at the token limit]"),
        FinishReason::ContextFull => out.note("[cut: the context of the model is full]"),
        FinishReason::Stop
        | FinishReason::StopString
        | FinishReason::ToolCalls
        | FinishReason::Unspecified => Ok(()),
    }
}
