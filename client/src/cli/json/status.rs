//! What the daemon is doing, as JSON.

use hearth_client::v1;
use serde::Serialize;

use super::{kv_type, model_state, phase, pressure};
use crate::cli::status::holding;

#[derive(Debug, Serialize)]
pub(in crate::cli) struct Status<'a> {
    version: Option<Version<'a>>,
    started_at: Option<String>,
    phase: String,
    memory: Option<Memory<'a>>,
    engines: Vec<Engine<'a>>,
    gone: Vec<Engine<'a>>,
    storage: Option<Storage>,
    sensors: Vec<Sensor<'a>>,
}

/// How fast a model reads and writes; null where that is not known yet.
#[derive(Debug, Serialize)]
pub(in crate::cli) struct Rate<'a> {
    pub(in crate::cli) model: &'a str,
    pub(in crate::cli) decode_tokens_per_second: Option<f64>,
    pub(in crate::cli) prefill_tokens_per_second: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Version<'a> {
    api_revision: u32,
    package: &'a str,
    build_id: &'a str,
}

#[derive(Debug, Serialize)]
struct Memory<'a> {
    budget_bytes: u64,
    budget_source: &'a str,
    reserved_bytes: u64,
    lines: Vec<LedgerLine<'a>>,
    limits: Vec<Limit<'a>>,
    pressure: Option<Pressure<'a>>,
}

#[derive(Debug, Serialize)]
struct LedgerLine<'a> {
    label: &'a str,
    bytes: u64,
}

/// `holds` is true for the one that is the budget.
#[derive(Debug, Serialize)]
struct Limit<'a> {
    source: &'a str,
    bytes: u64,
    reckoning: &'a str,
    holds: bool,
}

#[derive(Debug, Serialize)]
struct Pressure<'a> {
    level: String,
    source: &'a str,
    some_percent: Option<f64>,
    full_percent: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Engine<'a> {
    model: &'a str,
    state: String,
    state_reason: &'a str,
    pid: Option<u32>,
    running: u32,
    waiting: u32,
    context_tokens: u32,
    context_used: u32,
    crashes_in_a_row: u32,
    last_used_at: Option<String>,
    cpu_level: &'a str,
    reserved_bytes: u64,
    measured: Option<Measured>,
    context_ceiling: u32,
    kv_type: Option<String>,
    repacked: bool,
    load_ms: Option<f64>,
    expected_load_ms: Option<f64>,
    generated_tokens: u64,
    prefilled_tokens: u64,
    pinned: bool,
    unload_at: Option<String>,
    load_permille: Option<u32>,
    sandbox: &'a str,
    gpu: &'a str,
    gpu_layers: u32,
}

#[derive(Debug, Serialize)]
struct Measured {
    anonymous_bytes: u64,
    file_bytes: u64,
    shared_bytes: u64,
    peak_bytes: u64,
    estimated_bytes: u64,
    gpu_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Storage {
    models_bytes: u64,
    free_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Sensor<'a> {
    name: &'a str,
    celsius: f64,
}

impl<'a> Status<'a> {
    pub(in crate::cli) fn of(status: &'a v1::GetStatusResponse) -> Self {
        Self {
            version: status.version.as_ref().map(Version::of),
            started_at: status.started_at.as_ref().map(ToString::to_string),
            phase: phase(status.phase()),
            memory: status.memory.as_ref().map(Memory::of),
            engines: status.engines.iter().map(Engine::of).collect(),
            gone: status.gone.iter().map(Engine::of).collect(),
            storage: status.storage.map(Storage::of),
            sensors: status.sensors.iter().map(Sensor::of).collect(),
        }
    }
}

impl<'a> Version<'a> {
    fn of(version: &'a v1::Version) -> Self {
        let v1::Version { api_revision, package, build_id } = version;
        Self { api_revision: *api_revision, package, build_id }
    }
}

impl<'a> Memory<'a> {
    fn of(memory: &'a v1::Memory) -> Self {
        let v1::Memory { budget_bytes, budget_source, reserved_bytes, lines, limits, pressure } = memory;
        let lines = lines.iter().map(|line| LedgerLine { label: &line.label, bytes: line.bytes }).collect();
        let held = holding(limits);
        let limits =
            limits.iter().enumerate().map(|(at, limit)| Limit::of(limit, held == Some(at))).collect();
        let pressure = pressure.as_ref().map(Pressure::of);
        let (budget_bytes, reserved_bytes) = (*budget_bytes, *reserved_bytes);
        Self { budget_bytes, budget_source, reserved_bytes, lines, limits, pressure }
    }
}

impl<'a> Limit<'a> {
    fn of(limit: &'a v1::BudgetLimit, holds: bool) -> Self {
        let v1::BudgetLimit { source, bytes, reckoning } = limit;
        Self { source, bytes: *bytes, reckoning, holds }
    }
}

impl<'a> Pressure<'a> {
    fn of(short: &'a v1::Pressure) -> Self {
        let v1::Pressure { level: _, source, some_percent, full_percent } = short;
        let level = pressure(short.level());
        Self { level, source, some_percent: *some_percent, full_percent: *full_percent }
    }
}

impl<'a> Engine<'a> {
    fn of(engine: &'a v1::Engine) -> Self {
        Self {
            model: &engine.model,
            state: model_state(engine.state()),
            state_reason: &engine.state_reason,
            pid: Some(engine.pid).filter(|pid| *pid != 0),
            running: engine.running,
            waiting: engine.waiting,
            context_tokens: engine.context_tokens,
            context_used: engine.context_used,
            crashes_in_a_row: engine.crashes_in_a_row,
            last_used_at: engine.last_used_at.as_ref().map(ToString::to_string),
            cpu_level: &engine.cpu_level,
            reserved_bytes: engine.reserved_bytes,
            measured: engine.measured.map(Measured::of),
            context_ceiling: engine.context_ceiling,
            kv_type: kv_type(engine.kv_type()),
            repacked: engine.repacked,
            load_ms: engine.load_ms,
            expected_load_ms: engine.expected_load_ms,
            generated_tokens: engine.generated_tokens,
            prefilled_tokens: engine.prefilled_tokens,
            pinned: engine.pinned,
            unload_at: engine.unload_at.as_ref().map(ToString::to_string),
            load_permille: engine.load_permille,
            sandbox: &engine.sandbox,
            gpu: &engine.gpu,
            gpu_layers: engine.gpu_layers,
        }
    }
}

impl Measured {
    fn of(measured: v1::MeasuredMemory) -> Self {
        let v1::MeasuredMemory {
            anonymous_bytes,
            file_bytes,
            shared_bytes,
            peak_bytes,
            estimated_bytes,
            gpu_bytes,
        } = measured;
        Self { anonymous_bytes, file_bytes, shared_bytes, peak_bytes, estimated_bytes, gpu_bytes }
    }
}

impl Storage {
    fn of(storage: v1::Storage) -> Self {
        let v1::Storage { models_bytes, free_bytes } = storage;
        Self { models_bytes, free_bytes }
    }
}

impl<'a> Sensor<'a> {
    fn of(sensor: &'a v1::Sensor) -> Self {
        let v1::Sensor { name, celsius } = sensor;
        Self { name, celsius: *celsius }
    }
}
