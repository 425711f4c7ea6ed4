//! Figures for Prometheus: counters and histograms that the daemon's parts write, and what is looked up when
//! somebody asks.
//!
//! Counters come in pairs where a rate is of interest; nothing here is needed for the daemon's own decisions.
//! Models are named only once they are found in the store, so that no caller can invent labels.

mod gauges;
mod serve;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

pub use self::gauges::Gauges;
pub use self::serve::serve;
use crate::config::Endpoint;
use crate::units::ModelName;

/// Seconds; from a cached first token to a prompt of ten thousand tokens on the slowest board.
const STAGES: [f64; 16] =
    [0.001, 0.003, 0.01, 0.03, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0, 600.0, 1800.0];

/// Where figures can be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// A Unix socket or an address on loopback. Absent: nowhere.
    pub listen: Option<Endpoint>,
}

/// What is counted. Clones share the counters.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    calls: Family<CallLabels, Counter>,
    refusals: Family<ReasonLabels, Counter>,
    answers: Family<OutcomeLabels, Counter>,
    tokens: Family<TokenLabels, Counter>,
    stages: Family<StageLabels, Histogram>,
    cancels: Family<ModelLabels, Counter>,
    loads: Family<OutcomeLabels, Counter>,
    load_times: Family<ModelLabels, Histogram>,
    crashes: Family<ModelLabels, Counter>,
    over_reservations: Family<ModelLabels, Counter>,
    imports: Family<ReasonLabels, Counter>,
    reloads: Family<ReasonLabels, Counter>,
}

/// How an answer was made.
#[derive(Clone, Copy, Debug)]
pub struct Answered {
    /// Tokens of the prompt.
    pub prompt: u32,
    /// Of these, taken from the cache.
    pub cached: u32,
    /// Tokens written.
    pub generated: u32,
    /// Time from the request to the first piece, and by stage.
    pub times: [(Stage, Duration); 5],
}

/// A stage of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Waiting for a place in the engine.
    Queue,
    /// Waiting for the model.
    Load,
    /// Reading the prompt.
    Prefill,
    /// Writing.
    Decode,
    /// From the request to the first piece of the answer.
    FirstDelta,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CallLabels {
    rpc: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabels {
    model: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct TokenLabels {
    model: String,
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StageLabels {
    model: String,
    stage: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ModelLabels {
    model: String,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new(Registry::with_prefix("hearth"))
    }
}

impl Metrics {
    /// Counters in a registry that holds what others have put there.
    fn new(mut registry: Registry) -> Self {
        let times = || Histogram::new(STAGES);
        let stages = Family::new_with_constructor(times as fn() -> Histogram);
        let load_times = Family::new_with_constructor(times as fn() -> Histogram);
        let (calls, refusals, answers) = (Family::default(), Family::default(), Family::default());
        let (tokens, cancels, loads) = (Family::default(), Family::default(), Family::default());
        let (crashes, imports, reloads) = (Family::default(), Family::default(), Family::default());
        let over_reservations = Family::default();
        registry.register("calls", "Calls by RPC and how they ended", calls.clone());
        registry.register("refusals", "Calls and connections refused at the door", refusals.clone());
        registry.register("answers", "Answers by model and how they ended", answers.clone());
        registry.register("tokens", "Tokens: prompt, cached (part of prompt), generated", tokens.clone());
        registry.register_with_unit("stage", "Stages of answers", Unit::Seconds, stages.clone());
        registry.register("cancels", "Answers that their client gave up", cancels.clone());
        registry.register("loads", "Loads of models and how they ended", loads.clone());
        registry.register_with_unit("load", "Time of good loads", Unit::Seconds, load_times.clone());
        registry.register(
            "engine_over_reservation",
            "Engines that were measured to take more memory than was reserved for them",
            over_reservations.clone(),
        );
        registry.register("crashes", "Engines that ended unasked", crashes.clone());
        registry.register("imports", "Imports and how they ended", imports.clone());
        registry.register("reloads", "Reloads of the configuration and how they ended", reloads.clone());
        Self {
            registry: Arc::new(registry),
            calls,
            refusals,
            answers,
            tokens,
            stages,
            cancels,
            loads,
            load_times,
            crashes,
            over_reservations,
            imports,
            reloads,
        }
    }

    /// Counters, and `gauges` looked up with each reading.
    pub fn with(&self, gauges: Gauges) -> Exposition {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(gauges));
        Exposition { counters: self.clone(), gauges: Arc::new(registry) }
    }

    /// A call ended; `outcome` is `ok` or the reason of its error.
    pub fn called(&self, rpc: &'static str, outcome: &'static str) {
        self.calls.get_or_create(&CallLabels { rpc, outcome }).inc();
    }

    /// A call or connection was refused at the door.
    pub fn refused(&self, reason: &'static str) {
        self.refusals.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// An answer ended; `outcome` is its finish reason or the reason of its error.
    pub fn answered(&self, model: &ModelName, outcome: &'static str) {
        self.answers.get_or_create(&OutcomeLabels { model: model.to_string(), outcome }).inc();
    }

    /// What an answer took.
    pub fn measured(&self, model: &ModelName, answered: &Answered) {
        let Answered { prompt, cached, generated, times } = answered;
        for (kind, count) in [("prompt", prompt), ("cached", cached), ("generated", generated)] {
            let labels = TokenLabels { model: model.to_string(), kind };
            self.tokens.get_or_create(&labels).inc_by(u64::from(*count));
        }
        for (stage, time) in times {
            let labels = StageLabels { model: model.to_string(), stage: stage.name() };
            self.stages.get_or_create(&labels).observe(time.as_secs_f64());
        }
    }

    /// A client gave an answer up.
    pub fn cancelled(&self, model: &ModelName) {
        self.cancels.get_or_create(&ModelLabels { model: model.to_string() }).inc();
    }

    /// A model was loaded.
    pub fn loaded(&self, model: &ModelName, time: Duration) {
        let name = model.to_string();
        self.loads.get_or_create(&OutcomeLabels { model: name.clone(), outcome: "ok" }).inc();
        // So that it is there from the start, and its first step is seen.
        drop(self.over_reservations.get_or_create(&ModelLabels { model: name.clone() }));
        self.load_times.get_or_create(&ModelLabels { model: name }).observe(time.as_secs_f64());
    }

    /// A load failed or was given up.
    pub fn not_loaded(&self, model: &ModelName) {
        self.loads.get_or_create(&OutcomeLabels { model: model.to_string(), outcome: "failed" }).inc();
    }

    /// An engine ended unasked.
    pub fn crashed(&self, model: &ModelName) {
        self.crashes.get_or_create(&ModelLabels { model: model.to_string() }).inc();
    }

    /// An engine takes more memory than was reserved for it.
    pub fn over_reservation(&self, model: &ModelName) {
        self.over_reservations.get_or_create(&ModelLabels { model: model.to_string() }).inc();
    }

    /// An import ended; `outcome` is `ok` or the reason of its error.
    pub fn imported(&self, outcome: &'static str) {
        self.imports.get_or_create(&ReasonLabels { reason: outcome }).inc();
    }

    /// The configuration was read again; `outcome` is `ok` or `failed`.
    pub fn reloaded(&self, outcome: &'static str) {
        self.reloads.get_or_create(&ReasonLabels { reason: outcome }).inc();
    }
}

/// All figures as text.
#[derive(Clone)]
pub struct Exposition {
    counters: Metrics,
    gauges: Arc<Registry>,
}

impl Exposition {
    /// `OpenMetrics` text, as Prometheus reads it.
    ///
    /// # Errors
    /// A name or value that the format cannot hold.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode_registry(&mut text, &self.counters.registry)?;
        text::encode_registry(&mut text, &self.gauges)?;
        text::encode_eof(&mut text)?;
        Ok(text)
    }
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Load => "load",
            Self::Prefill => "prefill",
            Self::Decode => "decode",
            Self::FirstDelta => "first_delta",
        }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl fmt::Debug for Exposition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exposition").finish_non_exhaustive()
    }
}
