//! `status`: what the daemon is doing.

use std::time::{Duration, SystemTime};

use clap::Args;
use hearth_client::{Client, v1};

use super::exit::Failure;
use super::json::{self, Line};
use super::output::Output;
use super::style;
use super::table::{self, Table};

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
    let facts = status.memory.iter().flat_map(memory).chain(status.storage.iter().map(storage));
    for line in facts {
        out.line(&line)?;
    }
    if status.engines.is_empty() {
        return out.line("engines  none: a model is loaded when it is first asked");
    }
    out.raw(b"\n")?;
    engines(&status.engines, now).show(out)
}

fn daemon(status: &v1::GetStatusResponse, now: SystemTime) -> String {
    let version = status.version.as_ref().map_or("", |version| version.package.as_str());
    let up = status.started_at.and_then(|time| SystemTime::try_from(time).ok());
    let up = up.map_or_else(String::new, |start| format!(", up {}", since(start, now)));
    format!("hearthd {version}, {}{up}", json::phase(status.phase()))
}

fn memory(memory: &v1::Memory) -> Vec<String> {
    let v1::Memory { budget_bytes, budget_source, reserved_bytes, lines } = memory;
    let (reserved, budget) = (table::size(*reserved_bytes), table::size(*budget_bytes));
    let sum = format!("memory   {reserved} of {budget} reserved ({budget_source})");
    let lines =
        lines.iter().map(|line| format!("           {:<28}{:>11}", line.label, table::size(line.bytes)));
    std::iter::once(sum).chain(lines).collect()
}

fn storage(storage: &v1::Storage) -> String {
    let v1::Storage { models_bytes, free_bytes } = storage;
    format!("disk     {} of models, {} free", table::size(*models_bytes), table::size(*free_bytes))
}

fn engines(engines: &[v1::Engine], now: SystemTime) -> Table<8> {
    let mut table =
        Table::new(["MODEL", "STATE", "PID", "RUNNING", "WAITING", "CONTEXT", "CPU", "LAST USED"]);
    engines.iter().for_each(|engine| table.row(row(engine, now)));
    table
}

fn row(engine: &v1::Engine, now: SystemTime) -> [String; 8] {
    let state = json::model_state(engine.state());
    let used = engine.last_used_at.and_then(|time| SystemTime::try_from(time).ok());
    [
        engine.model.clone(),
        if engine.state_reason.is_empty() { state } else { format!("{state}: {}", engine.state_reason) },
        if engine.pid == 0 { "-".to_owned() } else { engine.pid.to_string() },
        engine.running.to_string(),
        engine.waiting.to_string(),
        format!("{}/{}", engine.context_used, engine.context_tokens),
        engine.cpu_level.clone(),
        used.map_or_else(|| "never".to_owned(), |time| format!("{} ago", since(time, now))),
    ]
}

/// Whole seconds; a clock that was set back counts as now.
fn since(then: SystemTime, now: SystemTime) -> String {
    let elapsed = now.duration_since(then).unwrap_or_default();
    humantime::format_duration(Duration::from_secs(elapsed.as_secs())).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_in_the_future_is_now() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        assert_eq!(since(now - Duration::from_millis(61_500), now), "1m 1s");
        assert_eq!(since(now + Duration::from_secs(5), now), "0s");
    }
}
