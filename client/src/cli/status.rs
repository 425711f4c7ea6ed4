//! `status`: what the daemon is doing.

mod engines;

use std::time::{Duration, SystemTime};

use clap::Args;
use hearth_client::Client;
use hearth_client::v1::{self, pressure::Level};

use super::exit::Failure;
use super::json::{self, Line};
use super::output::Output;
use super::style;
use super::table;
pub(super) use engines::sum as measured_sum;

/// Shows what the daemon is doing.
#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Show it again whenever it changes.
    #[arg(long)]
    watch: bool,
}

pub(super) async fn run(args: StatusArgs, client: &Client, out: &mut Output) -> Result<(), Failure> {
    if !args.watch {
        return show(&client.status().await?, out);
    }
    let mut changes = client.watch_status(None).await?;
    while let Some(status) = changes.next().await {
        out.clear_screen()?;
        show(&status?, out)?;
    }
    Ok(())
}

fn show(status: &v1::GetStatusResponse, out: &mut Output) -> Result<(), Failure> {
    if out.is_json() {
        return out.json(&Line::Status(Box::new(json::Status::of(status))));
    }
    let now = SystemTime::now();
    out.styled(&daemon(status, now), style::HEAD)?;
    let sensors = sensors(&status.sensors).map(|shown| format!("sensors  {shown}"));
    let facts = status.memory.iter().flat_map(memory).chain(status.storage.iter().map(storage));
    for line in facts.chain(sensors) {
        out.line(&line)?;
    }
    for line in status.gone.iter().map(|engine| gone(engine, now)) {
        out.line(&line)?;
    }
    if status.engines.is_empty() {
        return out.line("engines  none: a model is loaded when it is first asked");
    }
    out.raw(b"\n")?;
    engines::table(&status.engines, now).show(out)
}

/// Why a model is not in memory any more, and what it takes to have it back.
fn gone(engine: &v1::Engine, now: SystemTime) -> String {
    let mut facts = vec![engine.state_reason.clone()];
    facts.extend(engine.expected_load_ms.map(|ms| format!("loads in about {}", table::millis(ms))));
    let used = engine.last_used_at.and_then(|time| SystemTime::try_from(time).ok());
    facts.extend(used.map(|at| format!("used {} ago", since(at, now))));
    facts.retain(|fact| !fact.is_empty());
    format!("gone     {}: {}", engine.model, facts.join(", "))
}

/// One line on the daemon itself.
pub(super) fn daemon(status: &v1::GetStatusResponse, now: SystemTime) -> String {
    let version = status.version.as_ref().map_or("", |version| version.package.as_str());
    let up = status.started_at.and_then(|time| SystemTime::try_from(time).ok());
    let up = up.map_or_else(String::new, |start| format!(", up {}", since(start, now)));
    format!("hearthd {version}, {}{up}", json::phase(status.phase()))
}

/// Which of the limits is the budget: the least one.
pub(super) fn holding(limits: &[v1::BudgetLimit]) -> Option<usize> {
    limits.iter().enumerate().min_by_key(|(_, limit)| limit.bytes).map(|(at, _)| at)
}

fn memory(memory: &v1::Memory) -> Vec<String> {
    let v1::Memory { budget_bytes, budget_source, reserved_bytes, lines, limits, pressure } = memory;
    let (reserved, budget) = (table::size(*reserved_bytes), table::size(*budget_bytes));
    let sum = format!("memory   {reserved} of {budget} reserved ({budget_source})");
    let lines =
        lines.iter().map(|line| format!("           {:<28}{:>11}", line.label, table::size(line.bytes)));
    std::iter::once(sum).chain(lines).chain(budgets(limits)).chain(pressure.iter().map(short)).collect()
}

/// Everything that limits the budget; a star marks what holds.
fn budgets(limits: &[v1::BudgetLimit]) -> Vec<String> {
    let held = holding(limits);
    let head = (!limits.is_empty()).then(|| "budget   the least of these, marked *".to_owned());
    let width = limits.iter().map(|limit| limit.source.chars().count()).max().unwrap_or(0);
    let limits = limits.iter().enumerate().map(|(at, v1::BudgetLimit { source, bytes, reckoning })| {
        let mark = if held == Some(at) { '*' } else { ' ' };
        let line = format!("         {mark} {source:<width$}{:>11}  {reckoning}", table::size(*bytes));
        line.trim_end().to_owned()
    });
    head.into_iter().chain(limits).collect()
}

fn short(short: &v1::Pressure) -> String {
    format!("pressure {}", pressure(short))
}

/// How short of memory the board is, in a few words.
pub(super) fn pressure(short: &v1::Pressure) -> String {
    let v1::Pressure { level: _, source, some_percent, full_percent } = short;
    let share = |what: &str, percent: &Option<f64>| percent.map(|percent| format!("{what} {percent:.1} %"));
    let waited: Vec<_> =
        [share("some", some_percent), share("full", full_percent)].into_iter().flatten().collect();
    let waited = if waited.is_empty() { String::new() } else { format!(", {}", waited.join(", ")) };
    let does = match short.level() {
        Level::None => "none",
        Level::Some => "some: gives back what is cached, then models that nobody uses",
        Level::Full => "full: loads nothing more, and gives back what it can",
        Level::Unspecified => "not known",
    };
    format!("{does} ({source}{waited})")
}

fn storage(storage: &v1::Storage) -> String {
    let v1::Storage { models_bytes, free_bytes } = storage;
    format!("disk     {} of models, {} free", table::size(*models_bytes), table::size(*free_bytes))
}

/// All temperatures in one line; none where there are no sensors.
pub(super) fn sensors(sensors: &[v1::Sensor]) -> Option<String> {
    let shown: Vec<_> =
        sensors.iter().map(|v1::Sensor { name, celsius }| format!("{name} {celsius:.1} °C")).collect();
    (!shown.is_empty()).then(|| shown.join(", "))
}

/// Whole seconds; a clock that was set back counts as now.
pub(super) fn since(then: SystemTime, now: SystemTime) -> String {
    let elapsed = now.duration_since(then).unwrap_or_default();
    humantime::format_duration(Duration::from_secs(elapsed.as_secs())).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_limit_is_marked() {
        let limit = |source: &str, bytes| v1::BudgetLimit {
            source: source.to_owned(),
            bytes,
            reckoning: "all of it".to_owned(),
        };
        let lines = budgets(&[limit("configured", 2 << 30), limit("/system.slice", 1 << 30)]);
        assert_eq!(lines[0], "budget   the least of these, marked *");
        assert_eq!(lines[1], "           configured       2.0 GiB  all of it");
        assert_eq!(lines[2], "         * /system.slice    1.0 GiB  all of it");
        assert!(budgets(&[]).is_empty());
    }

    #[test]
    fn pressure_says_what_is_done_about_it() {
        let short = v1::Pressure {
            level: Level::Some.into(),
            source: "psi".to_owned(),
            some_percent: Some(3.25),
            full_percent: None,
        };
        let told = "some: gives back what is cached, then models that nobody uses (psi, some 3.2 %)";
        assert_eq!(pressure(&short), told);
    }

    #[test]
    fn a_time_in_the_future_is_now() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        assert_eq!(since(now - Duration::from_millis(61_500), now), "1m 1s");
        assert_eq!(since(now + Duration::from_secs(5), now), "0s");
    }
}
