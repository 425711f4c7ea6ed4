//! Engines, budget and plans, as the status and plans of loads say them.

use hearth_proto::v1 as pb;

use super::response::{milliseconds, state_of, timestamp};
use crate::board::pressure::{Report, Source};
use crate::engines::{Action, Engine, KvType, ModelStatus, Planned};
use crate::memory::ledger::Ledger;
use crate::memory::need::Estimate;
use crate::memory::{Level, Limit};
use crate::units::{Bytes, ModelName};

/// An engine, or a model on its way in or out.
pub(crate) fn engine_of(name: &ModelName, status: &ModelStatus, ledger: &Ledger) -> pb::Engine {
    let ModelStatus {
        state,
        reason,
        permille,
        waiting,
        crashes,
        last_used,
        engine,
        pid,
        short: _,
        choice,
        ceiling,
        expected_load,
        pinned,
        unload_at,
    } = status;
    let engine = engine.as_deref();
    let beat = engine.map(Engine::beat).unwrap_or_default();
    let waiting = u32::try_from(*waiting).unwrap_or(u32::MAX);
    let choice = choice.as_ref();
    let reserved = engine.map(|engine| ledger.size(engine.line()));
    pb::Engine {
        model: name.to_string(),
        state: state_of(*state).into(),
        state_reason: reason.clone(),
        pid: pid.unwrap_or(0),
        running: beat.running,
        waiting: waiting.saturating_add(beat.waiting),
        context_tokens: engine.map_or(0, |_| beat.context_tokens),
        context_used: beat.context_used,
        crashes_in_a_row: *crashes,
        last_used_at: last_used.map(timestamp),
        cpu_level: engine.map_or_else(String::new, |engine| engine.cpu_level().to_owned()),
        reserved_bytes: reserved.or(choice.map(|choice| choice.estimate.peak())).unwrap_or_default().0,
        measured: engine.and_then(|engine| measured(engine, choice.map(|choice| choice.estimate.loaded()))),
        context_ceiling: engine.and(*ceiling).unwrap_or(0),
        kv_type: choice.map_or(pb::KvType::Unspecified, |choice| kv_type(choice.sizes.kv_type)).into(),
        repacked: choice.is_some_and(|choice| choice.repack),
        load_ms: engine.map(|engine| milliseconds(engine.load_time())),
        expected_load_ms: expected_load.map(milliseconds),
        generated_tokens: beat.generated_tokens,
        prefilled_tokens: beat.prefilled_tokens,
        pinned: *pinned,
        unload_at: unload_at.map(timestamp),
        load_permille: *permille,
        sandbox: engine.map_or_else(String::new, |engine| engine.sandbox().to_owned()),
        gpu: engine.map_or_else(String::new, |engine| engine.gpu().to_owned()),
        gpu_layers: engine.map_or(0, |engine| engine.facts().gpu_layers),
    }
}

fn measured(engine: &Engine, estimate: Option<Bytes>) -> Option<pb::MeasuredMemory> {
    let measured = engine.measured();
    (measured.peak > Bytes(0)).then(|| pb::MeasuredMemory {
        anonymous_bytes: measured.now.anonymous.0,
        file_bytes: measured.now.file.0,
        shared_bytes: measured.now.shared.0,
        peak_bytes: measured.peak.0,
        estimated_bytes: estimate.unwrap_or_default().0,
        gpu_bytes: measured.now.gpu.0,
    })
}

pub(crate) fn kv_type(kv_type: KvType) -> pb::KvType {
    match kv_type {
        KvType::F16 => pb::KvType::F16,
        KvType::Q8_0 => pb::KvType::Q80,
        KvType::Q4_0 => pb::KvType::Q40,
    }
}

/// Budget and ledger.
pub(crate) fn memory_of(ledger: &Ledger, limits: &[Limit], pressure: &Report) -> pb::Memory {
    let lines = ledger.lines();
    pb::Memory {
        budget_bytes: ledger.budget().bytes.0,
        budget_source: ledger.budget().source.to_string(),
        reserved_bytes: lines.iter().map(|line| line.bytes.0).sum(),
        lines: lines
            .into_iter()
            .map(|line| pb::LedgerLine { label: line.label, bytes: line.bytes.0 })
            .collect(),
        limits: limits.iter().map(limit_of).collect(),
        pressure: Some(pressure_of(pressure)),
    }
}

fn limit_of(limit: &Limit) -> pb::BudgetLimit {
    let Limit { bytes, source: _, name, reckoning } = limit;
    pb::BudgetLimit { source: name.clone(), bytes: bytes.0, reckoning: reckoning.clone() }
}

fn pressure_of(report: &Report) -> pb::Pressure {
    let Report { level, source, stall } = report;
    let level = match level {
        Level::None => pb::pressure::Level::None,
        Level::Some => pb::pressure::Level::Some,
        Level::Full => pb::pressure::Level::Full,
    };
    let source = match source {
        Source::Nowhere => "none",
        Source::Figures => "psi",
        Source::Triggers => "psi trigger",
    };
    pb::Pressure {
        level: level.into(),
        source: source.to_owned(),
        some_percent: stall.map(|stall| stall.some),
        full_percent: stall.map(|stall| stall.full),
    }
}

/// What a load would do.
pub(crate) fn plan_of(planned: Planned) -> pb::PlanModelResponse {
    use pb::plan_model_response::Action as Wire;
    let Planned { action, choice, evictions, ceiling, largest, expected_load, budget, free } = planned;
    let need = choice.estimate.peak();
    let (wire, reason) = match action {
        Action::Nothing => (Wire::None, "it is in memory".to_owned()),
        Action::Load => (Wire::Load, format!("it needs {need} and {free} are free")),
        Action::Evict => (Wire::Evict, format!("it needs {need} and {free} are free: others go first")),
        Action::Wait => (
            Wire::Wait,
            format!("it needs {need} and {free} are free: it waits for models that are in use or leaving"),
        ),
        Action::Refuse(refusal) => (Wire::Refuse, refusal.to_string()),
    };
    pb::PlanModelResponse {
        action: wire.into(),
        reason,
        need: Some(need_of(&choice.estimate)),
        evictions: evictions
            .into_iter()
            .map(|(model, bytes, reload_ms)| pb::PlannedEviction {
                model: model.to_string(),
                bytes: bytes.0,
                reload_ms: reload_ms.map(|ms| milliseconds(std::time::Duration::from_millis(ms))),
            })
            .collect(),
        context_tokens: choice.sizes.tokens,
        context_ceiling: ceiling,
        kv_type: kv_type(choice.sizes.kv_type).into(),
        repacked: choice.repack,
        largest_context_tokens: largest.unwrap_or(0),
        budget_bytes: budget.0,
        free_bytes: free.0,
        expected_load_ms: expected_load.map(milliseconds),
    }
}

fn need_of(estimate: &Estimate) -> pb::MemoryNeed {
    let Estimate { weights, mapped: _, staging: _, kv, compute, process, from_start: _ } = estimate;
    pb::MemoryNeed {
        weights_bytes: weights.0,
        kv_bytes: kv.0,
        compute_bytes: compute.0,
        process_bytes: process.0,
        loaded_bytes: estimate.loaded().0,
        peak_bytes: estimate.peak().0,
    }
}
