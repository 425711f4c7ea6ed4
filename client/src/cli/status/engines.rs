//! The engines: a row of numbers for each, and below it what else there is to say.

use std::time::SystemTime;

use hearth_client::v1;

use super::since;
use crate::cli::json;
use crate::cli::table::{self, Table};

/// Where the lines below a row begin.
const INDENT: &str = "  ";
/// How wide they get, unless one thing alone is wider.
const WIDTH: usize = 98;

pub(super) fn table(engines: &[v1::Engine], now: SystemTime) -> Table<8> {
    let mut table =
        Table::new(["MODEL", "STATE", "RUNNING", "WAITING", "CONTEXT", "KV", "RESERVED", "MEASURED"]);
    engines.iter().for_each(|engine| table.row_over(row(engine), below(engine, now)));
    table
}

fn row(engine: &v1::Engine) -> [String; 8] {
    let size_or_none = |bytes: u64| if bytes == 0 { "-".to_owned() } else { table::size(bytes) };
    [
        engine.model.clone(),
        json::model_state(engine.state()),
        engine.running.to_string(),
        engine.waiting.to_string(),
        format!("{}/{}", engine.context_used, engine.context_tokens),
        json::kv_type(engine.kv_type()).unwrap_or_else(|| "-".to_owned()),
        size_or_none(engine.reserved_bytes),
        engine.measured.as_ref().map_or_else(|| "-".to_owned(), |measured| table::size(sum(measured))),
    ]
}

/// What an engine really uses.
pub(in crate::cli) fn sum(measured: &v1::MeasuredMemory) -> u64 {
    let v1::MeasuredMemory { anonymous_bytes, file_bytes, shared_bytes, gpu_bytes, .. } = *measured;
    [anonymous_bytes, file_bytes, shared_bytes, gpu_bytes].into_iter().fold(0, u64::saturating_add)
}

fn below(engine: &v1::Engine, now: SystemTime) -> Vec<String> {
    let reason = Some(&engine.state_reason).filter(|reason| !reason.is_empty());
    let mut lines: Vec<_> = reason.iter().map(|reason| format!("{INDENT}{reason}")).collect();
    lines.extend(wrapped(&facts(engine, now)));
    lines.extend(engine.measured.as_ref().map(measured));
    lines
}

fn facts(engine: &v1::Engine, now: SystemTime) -> Vec<String> {
    let mut facts = Vec::new();
    if engine.pinned {
        facts.push("pinned".to_owned());
    }
    if engine.context_ceiling > engine.context_tokens {
        facts.push(format!("context up to {}", engine.context_ceiling));
    }
    facts.extend(load_time(engine));
    if engine.pid != 0 {
        facts.push(format!("pid {}", engine.pid));
    }
    if !engine.cpu_level.is_empty() {
        facts.push(engine.cpu_level.clone());
        facts.push(if engine.repacked { "weights rearranged" } else { "weights as in the file" }.to_owned());
    }
    if engine.gpu_layers > 0 {
        facts.push(format!("{} layers on {}", engine.gpu_layers, engine.gpu));
    }
    if !engine.sandbox.is_empty() {
        facts.push(format!("sandbox: {}", engine.sandbox));
    }
    if engine.crashes_in_a_row > 0 {
        facts.push(format!("{} crashes in a row", engine.crashes_in_a_row));
    }
    let used = engine.last_used_at.and_then(|time| SystemTime::try_from(time).ok());
    facts.push(used.map_or_else(|| "never used".to_owned(), |at| format!("used {} ago", since(at, now))));
    if let Some(at) = engine.unload_at.and_then(|time| SystemTime::try_from(time).ok()) {
        facts.push(format!("goes in {}", since(now, at)));
    }
    facts
}

fn load_time(engine: &v1::Engine) -> Option<String> {
    let expected = engine.expected_load_ms.map(table::millis);
    if let Some(permille) = engine.load_permille {
        let of = expected.map_or_else(String::new, |time| format!(" of about {time}"));
        return Some(format!("loaded by {} %{of}", permille / 10));
    }
    match (engine.load_ms, expected) {
        (Some(ms), _) => Some(format!("loaded in {}", table::millis(ms))),
        (None, Some(time)) => Some(format!("loads in about {time}")),
        (None, None) => None,
    }
}

fn measured(measured: &v1::MeasuredMemory) -> String {
    let v1::MeasuredMemory {
        anonymous_bytes,
        file_bytes,
        shared_bytes,
        peak_bytes,
        estimated_bytes,
        gpu_bytes,
    } = *measured;
    let [own, file, shared, peak, estimated] =
        [anonymous_bytes, file_bytes, shared_bytes, peak_bytes, estimated_bytes].map(table::size);
    let gpu = if gpu_bytes > 0 { format!(" + {} of a GPU", table::size(gpu_bytes)) } else { String::new() };
    format!(
        "{INDENT}{own} of its own + {file} of files + {shared} shared{gpu}; peak {peak}, estimate {estimated}"
    )
}

/// The facts side by side, in as few lines as they fit into.
fn wrapped(facts: &[String]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for fact in facts {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 2 + fact.chars().count() <= WIDTH => {
                line.push_str(", ");
                line.push_str(fact);
            }
            _ => lines.push(format!("{INDENT}{fact}")),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn engine() -> v1::Engine {
        v1::Engine {
            model: "qwen3:8b".to_owned(),
            state: v1::ModelState::Ready.into(),
            state_reason: "ready since it was asked".to_owned(),
            pid: 12,
            context_tokens: 4096,
            context_used: 100,
            context_ceiling: 8192,
            kv_type: v1::KvType::Q80.into(),
            cpu_level: "armv8.2".to_owned(),
            sandbox: "landlock 7, seccomp".to_owned(),
            reserved_bytes: 4 << 30,
            measured: Some(v1::MeasuredMemory {
                anonymous_bytes: 1 << 30,
                file_bytes: 2 << 30,
                shared_bytes: 0,
                peak_bytes: 4 << 30,
                estimated_bytes: 5 << 30,
                gpu_bytes: 0,
            }),
            load_ms: Some(12_345.0),
            pinned: true,
            ..v1::Engine::default()
        }
    }

    #[test]
    fn an_engine_has_its_numbers_in_one_row() {
        let row = row(&engine());
        assert_eq!(row, ["qwen3:8b", "ready", "0", "0", "100/4096", "q8_0", "4.0 GiB", "3.0 GiB"]);
    }

    #[test]
    fn what_else_there_is_to_say_stands_below_and_is_not_too_wide() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let at = |secs| SystemTime::UNIX_EPOCH + Duration::from_secs(secs);
        let engine =
            v1::Engine { last_used_at: Some(at(990).into()), unload_at: Some(at(1060).into()), ..engine() };
        let lines = below(&engine, now);
        assert_eq!(lines[0], "  ready since it was asked");
        assert_eq!(
            lines[1],
            "  pinned, context up to 8192, loaded in 12 s, pid 12, armv8.2, weights as in the file"
        );
        assert_eq!(lines[2], "  sandbox: landlock 7, seccomp, used 10s ago, goes in 1m");
        assert_eq!(
            lines[3],
            "  1.0 GiB of its own + 2.0 GiB of files + 0 B shared; peak 4.0 GiB, estimate 5.0 GiB"
        );
    }

    #[test]
    fn a_load_says_how_far_it_is() {
        let loading =
            v1::Engine { load_permille: Some(420), expected_load_ms: Some(3000.0), ..v1::Engine::default() };
        assert_eq!(load_time(&loading).as_deref(), Some("loaded by 42 % of about 3.0 s"));
        let absent = v1::Engine { expected_load_ms: Some(3000.0), ..v1::Engine::default() };
        assert_eq!(load_time(&absent).as_deref(), Some("loads in about 3.0 s"));
    }
}
