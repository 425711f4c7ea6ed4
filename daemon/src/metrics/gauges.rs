//! What is looked up when somebody reads the figures: engines, memory, the disk, the daemon itself.

use std::time::{SystemTime, UNIX_EPOCH};

use hearth_proto::BUILD_ID;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;

use tokio::sync::watch;

use crate::board::charge::Charge;
use crate::board::pressure::Report;
use crate::board::process::{ProcessReader, Usage};
use crate::engines::{Engines, ModelState};
use crate::memory::Level;
use crate::store::Store;
use crate::units::Bytes;

/// The parts that are asked.
#[derive(Debug)]
pub struct Gauges {
    /// Engines and memory.
    pub engines: Engines,
    /// The disk.
    pub store: Store,
    /// When the daemon started.
    pub started: SystemTime,
    /// The daemon's own process.
    pub process: ProcessReader,
    /// How short of memory the board is.
    pub pressure: watch::Receiver<Report>,
}

/// One figure for each of several labels.
type Labelled<'a> = (&'a [(&'a str, &'a str)], f64);

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let info = Info::new([("version", env!("CARGO_PKG_VERSION")), ("build_id", BUILD_ID)]);
        info.encode(encoder.encode_descriptor("hearth_build", "The build", None, MetricType::Info)?)?;
        self.engines(&mut encoder)?;
        self.memory(&mut encoder)?;
        self.disk(&mut encoder)?;
        self.process(&mut encoder)
    }
}

impl Gauges {
    fn engines(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let states = self.engines.watch();
        let states = states.borrow().clone();
        let engines: Vec<_> = states
            .iter()
            .filter_map(|(name, status)| Some((name.to_string(), status, status.engine.as_ref()?)))
            .collect();
        let figure = |value: fn(&crate::engines::Engine) -> u32| {
            engines
                .iter()
                .map(|(name, _, engine)| (name.clone(), f64::from(value(engine))))
                .collect::<Vec<_>>()
        };
        let by_model = |encoder: &mut DescriptorEncoder<'_>, name, help, values: Vec<(String, f64)>| {
            let labels: Vec<_> =
                values.iter().map(|(model, value)| ([("model", model.as_str())], *value)).collect();
            let labelled: Vec<Labelled<'_>> =
                labels.iter().map(|(labels, value)| (&labels[..], *value)).collect();
            gauges(encoder, name, help, &labelled)
        };
        by_model(encoder, "hearth_answers_running", "Answers being written", figure(|e| e.beat().running))?;
        let waiting = states.iter().map(|(name, status)| {
            let in_engine = status.engine.as_ref().map_or(0, |engine| engine.beat().waiting);
            let for_load = u32::try_from(status.waiting).unwrap_or(u32::MAX);
            (name.to_string(), f64::from(in_engine) + f64::from(for_load))
        });
        by_model(
            encoder,
            "hearth_requests_waiting",
            "Requests that wait for a place or a load",
            waiting.collect(),
        )?;
        by_model(
            encoder,
            "hearth_context_tokens",
            "Context of loaded models",
            figure(|e| e.beat().context_tokens),
        )?;
        by_model(encoder, "hearth_context_used_tokens", "Context in use", figure(|e| e.beat().context_used))?;
        let crashes = states.iter().map(|(name, status)| (name.to_string(), f64::from(status.crashes)));
        by_model(
            encoder,
            "hearth_crashes_in_a_row",
            "Crashes since the last good answer",
            crashes.collect(),
        )?;
        let states: Vec<_> =
            states.iter().map(|(name, status)| (name.to_string(), state_name(status.state))).collect();
        let labels: Vec<_> =
            states.iter().map(|(name, state)| [("model", name.as_str()), ("state", *state)]).collect();
        let labelled: Vec<Labelled<'_>> = labels.iter().map(|labels| (&labels[..], 1.0)).collect();
        gauges(encoder, "hearth_model_state", "1 for the state that a model is in", &labelled)
    }

    fn memory(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let ledger = self.engines.ledger();
        gauge(
            encoder,
            "hearth_memory_budget_bytes",
            "What the engines may use",
            float(ledger.budget().bytes.0),
        )?;
        self.engine_memory(encoder)?;
        let level = match self.pressure.borrow().level {
            Level::None => 0.0,
            Level::Some => 1.0,
            Level::Full => 2.0,
        };
        let help =
            "How short of memory the board is: 0 not at all, 1 some processes wait for it, 2 nearly all do";
        gauge(encoder, "hearth_memory_pressure_level", help, level)?;
        let lines = ledger.lines();
        let labels: Vec<_> =
            lines.iter().map(|line| ([("line", line.label.as_str())], float(line.bytes.0))).collect();
        let labelled: Vec<Labelled<'_>> =
            labels.iter().map(|(labels, value)| (&labels[..], *value)).collect();
        gauges(encoder, "hearth_memory_reserved_bytes", "Reservations", &labelled)
    }

    /// What engines were measured to take.
    fn engine_memory(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let states = self.engines.watch();
        let states = states.borrow().clone();
        let engines = states.iter().filter_map(|(name, status)| {
            let measured = status.engine.as_ref()?.measured();
            let estimate = status.choice.map(|choice| choice.estimate.loaded()).unwrap_or_default();
            let Charge { anonymous, file, shared, gpu } = measured.now;
            let kinds = [
                ("anonymous", anonymous),
                ("file", file),
                ("shared", shared),
                ("gpu", gpu),
                ("peak", measured.peak),
                ("estimate", estimate),
            ];
            (measured.peak > Bytes(0)).then(|| (name.to_string(), kinds))
        });
        let engines: Vec<_> = engines.collect();
        let labels: Vec<_> = engines
            .iter()
            .flat_map(|(name, kinds)| {
                kinds.map(|(kind, bytes)| ([("model", name.as_str()), ("kind", kind)], float(bytes.0)))
            })
            .collect();
        let labelled: Vec<Labelled<'_>> =
            labels.iter().map(|(labels, value)| (&labels[..], *value)).collect();
        let help =
            "What engines were measured to take, by kind; the most of it since the start; and the estimate";
        gauges(encoder, "hearth_engine_memory_bytes", help, &labelled)
    }

    /// A disk that cannot be read has no figures.
    fn disk(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Ok(usage) = self.store.usage() else { return Ok(()) };
        gauge(encoder, "hearth_store_models_bytes", "Models on disk", float(usage.models.0))?;
        gauge(encoder, "hearth_store_free_bytes", "Free on the disk of the models", float(usage.free.0))
    }

    fn process(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        gauge(encoder, "process_start_time_seconds", "Start of the daemon", started.as_secs_f64())?;
        let Some(Usage { resident, cpu, threads }) = self.process.read() else { return Ok(()) };
        gauge(encoder, "process_resident_memory_bytes", "Memory of the daemon", float(resident.0))?;
        gauge(encoder, "process_threads", "Threads of the daemon", f64::from(threads))?;
        let help = "Processor time of the daemon";
        let counter = prometheus_client::metrics::counter::ConstCounter::new(cpu.as_secs_f64());
        counter.encode(encoder.encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?)
    }
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: f64,
) -> Result<(), std::fmt::Error> {
    ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
}

fn gauges(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: &[Labelled<'_>],
) -> Result<(), std::fmt::Error> {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in values {
        let labels: Vec<(&str, &str)> = labels.to_vec();
        ConstGauge::new(*value).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

fn state_name(state: ModelState) -> &'static str {
    match state {
        ModelState::Absent => "absent",
        ModelState::Loading => "loading",
        ModelState::Ready => "ready",
        ModelState::Unloading => "unloading",
        ModelState::Quarantined => "quarantined",
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures of boards are far below 2^53")]
fn float(number: u64) -> f64 {
    number as f64
}
