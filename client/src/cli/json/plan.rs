//! What a load would do, as JSON.

use hearth_client::v1;
use serde::Serialize;

use super::{kv_type, snake};

#[derive(Debug, Serialize)]
pub(in crate::cli) struct Plan<'a> {
    model: &'a str,
    action: String,
    reason: &'a str,
    need: Option<Need>,
    evictions: Vec<Eviction<'a>>,
    context_tokens: u32,
    context_ceiling: u32,
    kv_type: Option<String>,
    repacked: bool,
    largest_context_tokens: u32,
    budget_bytes: u64,
    free_bytes: u64,
    expected_load_ms: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Need {
    weights_bytes: u64,
    kv_bytes: u64,
    compute_bytes: u64,
    process_bytes: u64,
    loaded_bytes: u64,
    peak_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Eviction<'a> {
    model: &'a str,
    bytes: u64,
    reload_ms: Option<f64>,
}

impl<'a> Plan<'a> {
    pub(in crate::cli) fn of(model: &'a str, plan: &'a v1::PlanModelResponse) -> Self {
        Self {
            model,
            action: snake(plan.action().as_str_name(), "ACTION_"),
            reason: &plan.reason,
            need: plan.need.map(Need::of),
            evictions: plan.evictions.iter().map(Eviction::of).collect(),
            context_tokens: plan.context_tokens,
            context_ceiling: plan.context_ceiling,
            kv_type: kv_type(plan.kv_type()),
            repacked: plan.repacked,
            largest_context_tokens: plan.largest_context_tokens,
            budget_bytes: plan.budget_bytes,
            free_bytes: plan.free_bytes,
            expected_load_ms: plan.expected_load_ms,
        }
    }
}

impl Need {
    fn of(need: v1::MemoryNeed) -> Self {
        let v1::MemoryNeed {
            weights_bytes,
            kv_bytes,
            compute_bytes,
            process_bytes,
            loaded_bytes,
            peak_bytes,
        } = need;
        Self { weights_bytes, kv_bytes, compute_bytes, process_bytes, loaded_bytes, peak_bytes }
    }
}

impl<'a> Eviction<'a> {
    fn of(eviction: &'a v1::PlannedEviction) -> Self {
        let v1::PlannedEviction { model, bytes, reload_ms } = eviction;
        Self { model, bytes: *bytes, reload_ms: *reload_ms }
    }
}
