//! The shape of the TOML file, and its way to [`Config`].

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;

use super::{Config, DIALECTS, Fault, Faults};
use crate::engines::{self, KvType, LoadParams, ModelOverrides};
use crate::memory;
use crate::telemetry;
use crate::units::{Bytes, ModelName};

/// Every key, for the test that the shipped file names each.
#[cfg(test)]
pub(super) const KEYS: [&str; 20] = [
    "listen",
    "state_dir",
    "import_dirs",
    "drain_deadline",
    "budget",
    "reserve",
    "executable",
    "context_tokens",
    "sequences",
    "micro_batch",
    "kv_type",
    "threads",
    "step_busy",
    "step_alone",
    "queue",
    "reader_stall",
    "heartbeat_timeout",
    "load_stall",
    "stop_grace",
    "level",
];

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Root {
    listen: Option<Vec<String>>,
    state_dir: Option<PathBuf>,
    import_dirs: Vec<PathBuf>,
    drain_deadline: Option<String>,
    memory: Memory,
    engine: Engine,
    models: BTreeMap<String, Model>,
    log: Log,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Memory {
    budget: Option<String>,
    reserve: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Engine {
    executable: Option<PathBuf>,
    context_tokens: Option<u32>,
    sequences: Option<u32>,
    micro_batch: Option<u32>,
    kv_type: Option<String>,
    threads: Option<u32>,
    step_busy: Option<String>,
    step_alone: Option<String>,
    queue: Option<u32>,
    reader_stall: Option<String>,
    heartbeat_timeout: Option<String>,
    load_stall: Option<String>,
    stop_grace: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Model {
    context_tokens: Option<u32>,
    sequences: Option<u32>,
    kv_type: Option<String>,
    threads: Option<u32>,
    dialect: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Log {
    level: Option<String>,
}

/// A size that says it is none: the daemon finds its own budget.
const AUTO: &str = "auto";

impl TryFrom<Root> for Config {
    type Error = Faults;

    fn try_from(raw: Root) -> Result<Self, Faults> {
        let Root { listen, state_dir, import_dirs, drain_deadline, memory, engine, models, log } = raw;
        let default = Self::default();
        let mut checks = Checks::default();
        let config = Self {
            listen: listen.map_or(default.listen, |texts| checks.listen(texts)),
            state_dir: state_dir.unwrap_or(default.state_dir),
            import_dirs: checks.absolute("import_dirs", import_dirs),
            drain_deadline: checks.time("drain_deadline", drain_deadline, default.drain_deadline),
            memory: checks.memory(memory),
            engine: checks.engine(engine),
            models: checks.models(models),
            log: checks.log(log),
        };
        if checks.faults.0.is_empty() { Ok(config) } else { Err(checks.faults) }
    }
}

/// Collects faults while values are read; a faulty value becomes its default and is never used.
#[derive(Default)]
struct Checks {
    faults: Faults,
}

impl Checks {
    fn fault(&mut self, key: &str, why: impl Display) {
        self.faults.0.push(Fault { key: key.to_owned(), why: why.to_string() });
    }

    fn read<T: FromStr<Err: Display>>(&mut self, key: &str, text: &str) -> Option<T> {
        text.parse().map_err(|error| self.fault(key, error)).ok()
    }

    fn time(&mut self, key: &str, text: Option<String>, default: Duration) -> Duration {
        let Some(text) = text else { return default };
        match humantime::parse_duration(&text) {
            Ok(time) if !time.is_zero() => time,
            Ok(_) => {
                self.fault(key, "must be longer than nothing");
                default
            }
            Err(error) => {
                self.fault(key, format_args!("`{text}` is not a time such as 30s or 250ms: {error}"));
                default
            }
        }
    }

    fn within(&mut self, key: &str, value: Option<u32>, range: std::ops::RangeInclusive<u32>) -> Option<u32> {
        if let Some(number) = value.filter(|number| !range.contains(number)) {
            self.fault(key, format_args!("{number} is not within {} to {}", range.start(), range.end()));
        }
        value
    }

    fn listen(&mut self, texts: Vec<String>) -> Vec<super::Endpoint> {
        if texts.is_empty() {
            self.fault("listen", "at least one address is needed");
        }
        let numbered = texts.iter().enumerate();
        numbered.filter_map(|(i, text)| self.read(&format!("listen[{i}]"), text)).collect()
    }

    fn absolute(&mut self, key: &str, paths: Vec<PathBuf>) -> Vec<PathBuf> {
        for (i, path) in paths.iter().enumerate().filter(|(_, path)| !path.is_absolute()) {
            self.fault(&format!("{key}[{i}]"), format_args!("{} is not absolute", path.display()));
        }
        paths
    }

    fn memory(&mut self, raw: Memory) -> memory::Config {
        let Memory { budget, reserve } = raw;
        let budget = budget.filter(|text| text != AUTO);
        memory::Config {
            budget: budget.and_then(|text| self.read("memory.budget", &text)),
            reserve: reserve
                .and_then(|text| self.read::<Bytes>("memory.reserve", &text))
                .unwrap_or(memory::DEFAULT_RESERVE),
        }
    }

    fn engine(&mut self, raw: Engine) -> engines::Config {
        let Engine {
            executable,
            context_tokens,
            sequences,
            micro_batch,
            kv_type,
            threads,
            step_busy,
            step_alone,
            queue,
            reader_stall,
            heartbeat_timeout,
            load_stall,
            stop_grace,
        } = raw;
        let default = engines::Config::default();
        let load = default.load;
        engines::Config {
            executable: executable.filter(|path| !path.as_os_str().is_empty()),
            load: LoadParams {
                context_tokens: self
                    .within("engine.context_tokens", context_tokens, engines::CONTEXT_TOKENS)
                    .unwrap_or(load.context_tokens),
                sequences: self
                    .within("engine.sequences", sequences, engines::SEQUENCES)
                    .unwrap_or(load.sequences),
                micro_batch: self
                    .within("engine.micro_batch", micro_batch, engines::MICRO_BATCH)
                    .unwrap_or(load.micro_batch),
                kv_type: self.kv_type("engine.kv_type", kv_type).unwrap_or(load.kv_type),
                threads: self.within("engine.threads", threads, engines::THREADS).unwrap_or(load.threads),
                step_busy: self.time("engine.step_busy", step_busy, load.step_busy),
                step_alone: self.time("engine.step_alone", step_alone, load.step_alone),
                queue: self.within("engine.queue", queue, engines::QUEUE).unwrap_or(load.queue),
                reader_stall: self.time("engine.reader_stall", reader_stall, load.reader_stall),
                dialect: None,
            },
            heartbeat_timeout: self.time(
                "engine.heartbeat_timeout",
                heartbeat_timeout,
                default.heartbeat_timeout,
            ),
            load_stall: self.time("engine.load_stall", load_stall, default.load_stall),
            stop_grace: self.time("engine.stop_grace", stop_grace, default.stop_grace),
        }
    }

    fn kv_type(&mut self, key: &str, text: Option<String>) -> Option<KvType> {
        text.and_then(|text| self.read(key, &text))
    }

    fn dialect(&mut self, key: &str, name: Option<String>) -> Option<String> {
        if let Some(name) = name.as_deref().filter(|name| !DIALECTS.contains(name)) {
            self.fault(key, format_args!("`{name}` is not a dialect: there are {}", DIALECTS.join(" and ")));
        }
        name
    }

    fn models(&mut self, raw: BTreeMap<String, Model>) -> BTreeMap<ModelName, ModelOverrides> {
        raw.into_iter().filter_map(|(name, model)| self.model(&name, model)).collect()
    }

    fn model(&mut self, name: &str, raw: Model) -> Option<(ModelName, ModelOverrides)> {
        let Model { context_tokens, sequences, kv_type, threads, dialect } = raw;
        let path = format!("models.{name:?}");
        let key = |field: &str| format!("{path}.{field}");
        let overrides = ModelOverrides {
            context_tokens: self.within(&key("context_tokens"), context_tokens, engines::CONTEXT_TOKENS),
            sequences: self.within(&key("sequences"), sequences, engines::SEQUENCES),
            kv_type: self.kv_type(&key("kv_type"), kv_type),
            threads: self.within(&key("threads"), threads, engines::THREADS),
            dialect: self.dialect(&key("dialect"), dialect),
        };
        Some((self.read(&path, name)?, overrides))
    }

    fn log(&mut self, raw: Log) -> telemetry::Config {
        let default = telemetry::Config::default();
        let level = raw.level.unwrap_or(default.level);
        if let Err(error) = telemetry::check_level(&level) {
            self.fault("log.level", error);
        }
        telemetry::Config { level }
    }
}
