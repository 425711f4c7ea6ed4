//! `plan`: what a load would do, without doing it.

use clap::Args;
use hearth_client::v1::{self, plan_model_response::Action};
use hearth_client::{Client, KvType};

use super::exit::Failure;
use super::json::{self, Line};
use super::load::ContextArgs;
use super::output::Output;
use super::style;
use super::table::{self, Table};

/// Says what loading a model would do now, without doing it.
///
/// It shows what the model takes, which others would go for it, and how long its context may be. That it would
/// be refused is an answer too: the exit code is 0 then.
#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    /// Model: `name[:tag]`.
    model: String,
    #[command(flatten)]
    context: ContextArgs,
}

pub(super) async fn run(args: PlanArgs, client: &Client, out: &mut Output) -> Result<(), Failure> {
    let plan = client.plan(&args.model, args.context.options()).await?;
    if out.is_json() {
        return out.json(&Line::Plan(Box::new(json::Plan::of(&args.model, &plan))));
    }
    out.styled(&format!("{} {}", args.model, action(plan.action())), style::HEAD)?;
    if !plan.reason.is_empty() {
        out.line(&plan.reason)?;
    }
    if let Some(need) = &plan.need {
        out.raw(b"\n")?;
        needs(need).show(out)?;
    }
    if !plan.evictions.is_empty() {
        out.raw(b"\n")?;
        evictions(&plan.evictions).show(out)?;
    }
    out.raw(b"\n")?;
    facts(&plan).iter().try_for_each(|(name, value)| out.line(&format!("{name:<9}{value}")))
}

fn action(action: Action) -> &'static str {
    match action {
        Action::None => "is in memory already: nothing would be done",
        Action::Load => "would be loaded: it fits",
        Action::Evict => "would be loaded once others are out of memory",
        Action::Wait => "would wait for memory that others use",
        Action::Refuse => "would be refused",
        Action::Unspecified => "would do something that this program is too old to know",
    }
}

fn needs(need: &v1::MemoryNeed) -> Table<6> {
    let v1::MemoryNeed { weights_bytes, kv_bytes, compute_bytes, process_bytes, loaded_bytes, peak_bytes } =
        *need;
    let mut table = Table::new(["WEIGHTS", "KV", "COMPUTE", "PROCESS", "LOADED", "PEAK"]);
    let sizes = [weights_bytes, kv_bytes, compute_bytes, process_bytes, loaded_bytes, peak_bytes];
    table.row(sizes.map(table::size));
    table
}

fn evictions(evictions: &[v1::PlannedEviction]) -> Table<3> {
    let mut table = Table::new(["GOES FIRST", "GIVES BACK", "TO LOAD IT AGAIN"]);
    for v1::PlannedEviction { model, bytes, reload_ms } in evictions {
        table.row([model.clone(), table::size(*bytes), about(*reload_ms)]);
    }
    table
}

fn facts(plan: &v1::PlanModelResponse) -> [(&'static str, String); 5] {
    let cache = match json::kv_type(plan.kv_type()) {
        Some(name) => format!("{name}{}", remark(plan.kv_type())),
        None => "as the configuration says".to_owned(),
    };
    let weights = if plan.repacked {
        "rearranged for the CPU, in memory of their own"
    } else {
        "used as the file has them"
    };
    let (free, budget) = (table::size(plan.free_bytes), table::size(plan.budget_bytes));
    [
        ("context", context(plan)),
        ("cache", cache),
        ("weights", weights.to_owned()),
        ("budget", format!("{free} of {budget} not reserved")),
        ("load", about(plan.expected_load_ms)),
    ]
}

fn context(plan: &v1::PlanModelResponse) -> String {
    let v1::PlanModelResponse { context_tokens: now, context_ceiling: ceiling, .. } = plan;
    let grows = if ceiling > now { format!(", up to {ceiling} where needed") } else { String::new() };
    let largest = match plan.largest_context_tokens {
        0 => "the whole budget does not hold the model".to_owned(),
        tokens => format!("the whole budget holds {tokens}"),
    };
    format!("{now} tokens{grows}; {largest}")
}

fn remark(kv_type: KvType) -> &'static str {
    match kv_type {
        KvType::Q80 => ", about half the memory of f16",
        KvType::Q40 => ", about a quarter of the memory of f16",
        KvType::F16 | KvType::Unspecified => "",
    }
}

fn about(ms: Option<f64>) -> String {
    ms.map_or_else(|| "not known yet".to_owned(), |ms| format!("about {}", table::millis(ms)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_says_what_it_is_and_what_it_may_be() {
        let plan = v1::PlanModelResponse {
            context_tokens: 4096,
            context_ceiling: 8192,
            largest_context_tokens: 16384,
            ..v1::PlanModelResponse::default()
        };
        assert_eq!(context(&plan), "4096 tokens, up to 8192 where needed; the whole budget holds 16384");
        let never = v1::PlanModelResponse::default();
        assert_eq!(context(&never), "0 tokens; the whole budget does not hold the model");
    }
}
