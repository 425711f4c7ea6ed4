//! The TOML file: which keys there are, and their way to [`Config`].

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::reader::{Document, Table, Text};
use super::{Config, ConfigError, DIALECTS, Endpoint, Faults};
use crate::access::{self, Token};
use crate::engines::request::{PENALTY_WINDOW, Sampling};
use crate::engines::{self, LoadParams, ModelOverrides};
use crate::memory;
use crate::metrics;
use crate::telemetry;
use crate::tls;
use crate::units::{Bytes, ModelName};

/// A size that says it is none: the daemon finds its own budget.
const AUTO: &str = "auto";

/// Reads a whole file; with everything that is wrong with it where anything is.
pub(super) fn read(text: &str) -> Result<Config, Faults> {
    let document = Document::new(text);
    let entries = document.parse();
    let root = document.root(&entries);
    let config = Reader { document: &document }.config(root);
    let faults = document.faults();
    if faults.0.is_empty() { Ok(config) } else { Err(faults) }
}

struct Reader<'d> {
    document: &'d Document<'d>,
}

impl<'d> Reader<'d> {
    fn config(&self, root: Table<'d>) -> Config {
        let default = Config::default();
        let tls = tls_of(root.table("tls"));
        let listen = self.listen(&root, tls.is_some()).unwrap_or(default.listen);
        let config = Config {
            listen,
            state_dir: root.path_of("state_dir").unwrap_or(default.state_dir),
            import_dirs: self.import_dirs(&root),
            drain_deadline: root.time("drain_deadline").unwrap_or(default.drain_deadline),
            memory: memory_of(root.table("memory")),
            engine: self.engine(root.table("engine")),
            sampling: sampling_of(root.table("sampling")),
            models: self.models(&root),
            access: self.access(root.table("access")),
            tls,
            metrics: metrics_of(root.table("metrics")),
            log: log_of(root.table("log")),
        };
        root.end();
        config
    }

    fn listen(&self, root: &Table<'d>, encrypted: bool) -> Option<Vec<Endpoint>> {
        let texts = root.texts("listen")?;
        if texts.is_empty() {
            root.fault("listen", "at least one address is needed");
        }
        let mut endpoints: Vec<Endpoint> = Vec::new();
        for text in &texts {
            let Some(endpoint) = self.document.parsed(text) else { continue };
            match endpoint {
                Endpoint::Tcp(address) if !encrypted && !address.ip().is_loopback() => {
                    self.document.fault_of(text, ConfigError::NotLoopback(address));
                }
                _ if endpoints.contains(&endpoint) => self.document.fault_of(text, "is there twice"),
                _ => endpoints.push(endpoint),
            }
        }
        Some(endpoints)
    }

    fn import_dirs(&self, root: &Table<'d>) -> Vec<PathBuf> {
        let absolute = |text: Text| {
            let path = PathBuf::from(&text.text);
            if !path.is_absolute() {
                self.document.fault_of(&text, format_args!("{} is not absolute", path.display()));
            }
            path
        };
        root.texts("import_dirs").unwrap_or_default().into_iter().map(absolute).collect()
    }

    fn engine(&self, table: Table<'d>) -> engines::Config {
        let default = engines::Config::default();
        let load = default.load;
        let engine = engines::Config {
            executable: table.path_of("executable"),
            load: LoadParams {
                context_tokens: table
                    .number("context_tokens", engines::CONTEXT_TOKENS)
                    .unwrap_or(load.context_tokens),
                context_ceiling: table
                    .number("context_ceiling", engines::CONTEXT_TOKENS)
                    .unwrap_or(load.context_ceiling),
                repack: table.flag("repack").unwrap_or(load.repack),
                may_shorten: table.flag("may_shorten").unwrap_or(load.may_shorten),
                may_quantize: table.flag("may_quantize").unwrap_or(load.may_quantize),
                sequences: table.number("sequences", engines::SEQUENCES).unwrap_or(load.sequences),
                micro_batch: table.number("micro_batch", engines::MICRO_BATCH).unwrap_or(load.micro_batch),
                kv_type: table.parsed("kv_type").unwrap_or(load.kv_type),
                threads: table.number("threads", engines::THREADS).unwrap_or(load.threads),
                step_busy: table.time("step_busy").unwrap_or(load.step_busy),
                step_alone: table.time("step_alone").unwrap_or(load.step_alone),
                queue: table.number("queue", engines::QUEUE).unwrap_or(load.queue),
                reader_stall: table.time("reader_stall").unwrap_or(load.reader_stall),
                dialect: None,
                forced_one_by_one: table.flag("forced_one_by_one").unwrap_or(load.forced_one_by_one),
                gpu_layers: table.parsed_or_number("gpu_layers").unwrap_or(load.gpu_layers),
            },
            date: table.parsed("date").unwrap_or(default.date),
            keep_alive: table.parsed("keep_alive").unwrap_or(default.keep_alive),
            heartbeat_timeout: table.time("heartbeat_timeout").unwrap_or(default.heartbeat_timeout),
            load_stall: table.time("load_stall").unwrap_or(default.load_stall),
            stop_grace: table.time("stop_grace").unwrap_or(default.stop_grace),
            reply_wait: table.time("reply_wait").unwrap_or(default.reply_wait),
        };
        table.end();
        engine
    }

    fn models(&self, root: &Table<'d>) -> BTreeMap<ModelName, ModelOverrides> {
        let mut models = BTreeMap::new();
        for (text, table) in root.named("models") {
            let overrides = self.model(table);
            let Some(name) = self.document.parsed::<ModelName>(&text) else { continue };
            let shown = name.to_string();
            if models.insert(name, overrides).is_some() {
                self.document.fault_of(&text, format_args!("{shown} has a table already"));
            }
        }
        models
    }

    fn model(&self, table: Table<'d>) -> ModelOverrides {
        let model = ModelOverrides {
            context_tokens: table.number("context_tokens", engines::CONTEXT_TOKENS),
            context_ceiling: table.number("context_ceiling", engines::CONTEXT_TOKENS),
            repack: table.flag("repack"),
            may_shorten: table.flag("may_shorten"),
            may_quantize: table.flag("may_quantize"),
            sequences: table.number("sequences", engines::SEQUENCES),
            kv_type: table.parsed("kv_type"),
            threads: table.number("threads", engines::THREADS),
            dialect: self.dialect(&table),
            forced_one_by_one: table.flag("forced_one_by_one"),
            gpu_layers: table.parsed_or_number("gpu_layers"),
            date: table.parsed("date"),
            keep_alive: table.parsed("keep_alive"),
            pinned: table.flag("pinned").unwrap_or_default(),
            preload: table.flag("preload").unwrap_or_default(),
            sampling: sampling_of(table.table("sampling")),
        };
        table.end();
        model
    }

    fn dialect(&self, table: &Table<'d>) -> Option<String> {
        let text = table.text("dialect")?;
        if !DIALECTS.contains(&text.text.as_str()) {
            let why = format!("`{}` is not a dialect: there are {}", text.text, DIALECTS.join(", "));
            self.document.fault_of(&text, why);
        }
        Some(text.text)
    }

    fn tokens(&self, table: &Table<'d>) -> Vec<Token> {
        let mut tokens = Vec::new();
        for table in table.tables("tokens") {
            tokens.extend(token_of(table, &tokens));
        }
        tokens
    }

    fn access(&self, table: Table<'d>) -> access::Config {
        let default = access::Config::default();
        let grantees = |key| {
            let texts = table.texts(key)?;
            Some(texts.iter().filter_map(|text| self.document.parsed(text)).collect())
        };
        let config = access::Config {
            using: grantees("use").unwrap_or(default.using),
            managing: grantees("manage").unwrap_or(default.managing),
            tokens: self.tokens(&table),
        };
        table.end();
        config
    }
}

/// What a token is called tells its role, so no two are called the same.
fn name_of(table: &Table<'_>, known: &[Token]) -> Option<String> {
    let name = table.text("name")?.text;
    if name.is_empty() {
        table.fault("name", "must not be empty");
    }
    if known.iter().any(|token| token.name == name) {
        table.fault("name", format_args!("another token is called `{name}` already"));
    }
    Some(name)
}

fn memory_of(table: Table<'_>) -> memory::Config {
    let is_auto = table.text("budget").is_none_or(|text| text.text == AUTO);
    let memory = memory::Config {
        budget: if is_auto { None } else { table.parsed("budget") },
        reserve: table.parsed::<Bytes>("reserve").unwrap_or(memory::DEFAULT_RESERVE),
    };
    table.end();
    memory
}

/// Checked like the same fields of a request.
fn sampling_of(table: Table<'_>) -> Sampling {
    let penalty = |key| table.decimal(key, |value| (-2.0..=2.0).contains(&value), "within -2 to 2");
    let sampling = Sampling {
        temperature: table.decimal("temperature", |v| (0.0..=2.0).contains(&v), "within 0 to 2"),
        top_p: table.decimal("top_p", |v| v > 0.0 && v <= 1.0, "above 0 and at most 1"),
        top_k: table.number("top_k", 0..=u32::MAX),
        min_p: table.decimal("min_p", |v| (0.0..=1.0).contains(&v), "within 0 to 1"),
        repeat_penalty: table.decimal("repeat_penalty", |v| v > 0.0 && v <= 2.0, "above 0 and at most 2"),
        presence_penalty: penalty("presence_penalty"),
        frequency_penalty: penalty("frequency_penalty"),
        penalty_window: table.number("penalty_window", 0..=PENALTY_WINDOW),
        logit_bias: Vec::new(),
    };
    table.end();
    sampling
}

fn token_of(table: Table<'_>, known: &[Token]) -> Option<Token> {
    let (name, digest, role) = (name_of(&table, known), table.parsed("sha256"), table.parsed("role"));
    for key in ["name", "sha256", "role"] {
        if !table.has(key) {
            table.fault(key, "is needed: `hearthd new-token` prints a whole table");
        }
    }
    table.end();
    Some(Token { name: name?, digest: digest?, role: role? })
}

fn tls_of(table: Table<'_>) -> Option<tls::Config> {
    let (certificate, key) = (table.path_of("certificate"), table.path_of("key"));
    let client_ca = table.path_of("client_ca");
    if certificate.is_none() && (key.is_some() || client_ca.is_some()) {
        table.fault("certificate", "is needed where `key` or `client_ca` is given");
    }
    if key.is_none() && certificate.is_some() {
        table.fault("key", "is needed where `certificate` is given");
    }
    table.end();
    Some(tls::Config { certificate: certificate?, key: key?, client_ca })
}

fn metrics_of(table: Table<'_>) -> metrics::Config {
    let listen = table.text("listen").filter(|text| !text.text.is_empty());
    let metrics = metrics::Config { listen: listen.and_then(|_| table.parsed("listen")) };
    if let Some(Endpoint::Tcp(address)) = metrics.listen
        && !address.ip().is_loopback()
    {
        table.fault("listen", format_args!("{address} is not a loopback address: figures are not encrypted"));
    }
    table.end();
    metrics
}

fn log_of(table: Table<'_>) -> telemetry::Config {
    let default = telemetry::Config::default();
    let level = table.text("level").map_or(default.level, |text| text.text);
    if let Err(error) = telemetry::check_filter(&level) {
        table.fault("level", error);
    }
    let log = telemetry::Config { level, target: table.parsed("target").unwrap_or(default.target) };
    table.end();
    log
}
