//! The figures: what was measured, beside what, and what is wanted.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::busy::fair_share;
use super::idle::Idle;
use super::options::Options;
use super::procfs;
use super::rounds::{BUSY, CLIENTS, Records};
use super::stats::Series;

/// A line of the table.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    pub(crate) what: String,
    measured: bool,
    unit: &'static str,
    hearth: f64,
    /// What it stands beside, and its value.
    beside: Option<(String, f64)>,
    /// Hearth over the other, the median of the rounds.
    pub(crate) share: Option<f64>,
    pub(crate) wanted: Option<Wanted>,
}

/// What the project promises.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wanted {
    /// Of the share.
    ShareAtLeast(f64),
    /// Of the value itself.
    AtMost(f64),
}

/// Everything.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) figures: Vec<Figure>,
    records: Records,
    machine: String,
    model: String,
    rounds: usize,
}

impl Figure {
    fn new(what: impl Into<String>, unit: &'static str, hearth: &Series) -> Self {
        let measured = !hearth.all().is_empty();
        Self {
            what: what.into(),
            measured,
            unit,
            hearth: hearth.median(),
            beside: None,
            share: None,
            wanted: None,
        }
    }

    fn beside(mut self, what: impl Into<String>, hearth: &Series, other: &Series) -> Self {
        self.beside = Some((what.into(), other.median()));
        self.share = Some(hearth.over(other).median());
        self
    }

    fn wanted(mut self, wanted: Wanted) -> Self {
        self.wanted = Some(wanted);
        self
    }

    /// Whether the promise is kept; `None` where there is none.
    pub(crate) fn holds(&self) -> Option<bool> {
        Some(match self.wanted? {
            Wanted::ShareAtLeast(least) => self.share? >= least,
            Wanted::AtMost(most) => self.hearth <= most,
        })
    }

    fn row(&self) -> String {
        let number = |value: f64| if value < 10.0 { format!("{value:.2}") } else { format!("{value:.1}") };
        let beside = self.beside.as_ref();
        let beside = beside.map_or(String::new(), |(what, value)| format!("{what}: {}", number(*value)));
        let share = self.share.map_or(String::new(), |share| format!("{share:.3}"));
        let wanted = match self.wanted {
            None => String::new(),
            Some(Wanted::ShareAtLeast(least)) => format!("≥ {least}"),
            Some(Wanted::AtMost(most)) => format!("≤ {}", number(most)),
        };
        let holds = self.holds().map_or("", |holds| if holds { "yes" } else { "**no**" });
        let (what, unit, hearth) = (&self.what, self.unit, number(self.hearth));
        format!("| {what} | {hearth} {unit} | {beside} | {share} | {wanted} | {holds} |")
    }

    fn json(&self) -> Value {
        let (least, most) = match self.wanted {
            Some(Wanted::ShareAtLeast(least)) => (Some(least), None),
            Some(Wanted::AtMost(most)) => (None, Some(most)),
            None => (None, None),
        };
        json!({
            "what": self.what, "unit": self.unit, "hearth": self.hearth,
            "beside": self.beside.as_ref().map(|(what, value)| json!({"what": what, "value": value})),
            "share": self.share, "share_at_least": least, "at_most": most, "holds": self.holds(),
        })
    }
}

impl Report {
    pub(crate) fn new(records: Records, idle: Option<Idle>, options: &Options) -> Self {
        let mut figures = one_client(&records, options);
        figures.extend(CLIENTS[1..].iter().map(|&clients| several(&records, clients)));
        figures.extend(BUSY.iter().flat_map(|&busy| loaded(&records, busy)));
        figures.extend(overhead(&records));
        figures.extend(idle.into_iter().flat_map(idle_figures));
        // What was left out is no figure.
        figures.retain(|figure| figure.measured);
        let machine = format!("{} cores, {}", procfs::cores(), procfs::cpu_name());
        let model =
            options.model.as_ref().map_or("random, half a billion weights, Q8_0".to_owned(), |path| {
                path.file_name().unwrap_or_default().to_string_lossy().into_owned()
            });
        Self { figures, records, machine, model, rounds: options.rounds }
    }

    /// A line that says what was measured on what.
    pub(crate) fn title(&self) -> String {
        format!("{}; model: {}; medians of {} rounds", self.machine, self.model, self.rounds)
    }

    /// As a table in Markdown.
    pub(crate) fn table(&self) -> String {
        let mut text = format!("\n{}\n\n", self.title());
        text.push_str("| what | Hearth | beside | share | wanted | holds |\n|---|---|---|---|---|---|\n");
        for figure in &self.figures {
            writeln!(text, "{}", figure.row()).expect("text takes everything");
        }
        text
    }

    /// As JSON, every round included.
    pub(crate) fn json(&self) -> String {
        let rounds: serde_json::Map<String, Value> =
            self.records.all().iter().map(|(name, series)| (name.clone(), json!(series.all()))).collect();
        let figures: Vec<Value> = self.figures.iter().map(Figure::json).collect();
        let all = json!({
            "machine": self.machine, "cores": procfs::cores(), "model": self.model, "rounds": self.rounds,
            "figures": figures, "samples": rounds,
        });
        format!("{all:#}\n")
    }
}

fn one_client(records: &Records, options: &Options) -> Vec<Figure> {
    let of = |name: &str| records.of(name);
    let beside_bare = |what: String, unit, name: &str, factor: f64| {
        let hearth = of(&format!("{name}.hearth")).times(factor);
        let bare = of(&format!("{name}.bare")).times(factor);
        Figure::new(what, unit, &hearth).beside("bare loop", &hearth, &bare)
    };
    let tokens = options.sizes.prompt;
    let few = of("first.cached.tokens").median();
    let foreign = of("foreign.hearth");
    let share = of("foreign.share").median() * 100.0;
    vec![
        beside_bare("decode".to_owned(), "tokens/s", "decode", 1.0).wanted(Wanted::ShareAtLeast(0.97)),
        beside_bare(format!("prefill of {tokens} tokens"), "tokens/s", "prefill", 1.0)
            .wanted(Wanted::ShareAtLeast(0.97)),
        beside_bare(format!("first token, {tokens} new tokens"), "ms", "first.new", 1e3),
        beside_bare(format!("first token, prefix cached, {few:.0} new tokens"), "ms", "first.cached", 1e3),
        Figure::new(format!("decode, cache {share:.0}% full of foreign prefixes"), "tokens/s", &foreign)
            .beside("empty cache", &foreign, &of("decode.hearth"))
            .wanted(Wanted::ShareAtLeast(0.95)),
    ]
}

/// The rate of several clients together is a share of one client's.
fn several(records: &Records, clients: usize) -> Figure {
    let hearth = records.of(&format!("clients.{clients}.hearth"));
    let bare = records.of(&format!("clients.{clients}.bare"));
    let what = format!("decode, {clients} clients together (bare loop: {:.1})", bare.median());
    let figure =
        Figure::new(what, "tokens/s", &hearth).beside("one client", &hearth, &records.of("clients.1.hearth"));
    if clients == 4 { figure.wanted(Wanted::ShareAtLeast(1.3)) } else { figure }
}

/// Speeds beside busy threads as shares of the fair one; the text says the share of the quiet one, and the bare
/// loop's.
fn loaded(records: &Records, busy: usize) -> Vec<Figure> {
    let cores = procfs::cores();
    let fair = fair_share(cores, cores, busy);
    let figure = |kind: &str| {
        let of = |state: &str, whose: &str| records.of(&format!("{state}.{kind}.{whose}"));
        let state = format!("busy.{busy}");
        let (hearth, quiet) = (of(&state, "hearth"), of("quiet", "hearth"));
        let kept = hearth.over(&quiet).median();
        let others = ["bare", "plain"].map(|whose| of(&state, whose).over(&of("quiet", whose)).median());
        let bare = if kind == "decode" {
            format!("bare loop: {:.2}, as libgomp comes: {:.2}", others[0], others[1])
        } else {
            format!("bare loop: {:.2}", others[0])
        };
        let what = format!("{kind}, {busy} busy threads: {kept:.2} of quiet ({bare})");
        Figure::new(what, "tokens/s", &hearth).beside(
            format!("fair share, {fair:.2} of quiet"),
            &hearth,
            &quiet.times(fair),
        )
    };
    vec![
        figure("decode").wanted(Wanted::ShareAtLeast(0.8)),
        figure("prefill").wanted(Wanted::ShareAtLeast(0.8)),
    ]
}

fn overhead(records: &Records) -> Vec<Figure> {
    let micros = |name: &str| records.of(name).times(1e6);
    let engine = micros("cpu.engine");
    vec![
        Figure::new("CPU time of the front for a token", "µs", &micros("cpu.front")),
        Figure::new("CPU time of the client for a token", "µs", &micros("cpu.client")),
        Figure::new("CPU time of the engine for a token, its prompt included", "µs", &engine).beside(
            "bare loop, its prompt included",
            &engine,
            &micros("cpu.bare"),
        ),
        Figure::new("a token's way beyond the engine's own time", "µs", &micros("delay")),
    ]
}

fn idle_figures(idle: Idle) -> Vec<Figure> {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let float = |value: u64| value as f64;
    let one = |value: f64| {
        let mut series = Series::default();
        series.push(value);
        series
    };
    let mib = float(idle.resident) / f64::from(1 << 20);
    let Idle { switches, periods, pats, .. } = idle;
    let what = format!("wake-ups when idle in {periods:.0} watchdog periods ({pats} pats)");
    vec![
        Figure::new("memory when idle, no model", "MiB", &one(mib)).wanted(Wanted::AtMost(20.0)),
        Figure::new(what, "", &one(float(switches))).wanted(Wanted::AtMost(2.0 * periods)),
    ]
}
