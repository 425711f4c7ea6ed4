//! What `top` knows and what of it a frame shows.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use hearth_client::v1;

use super::rates::{Meter, Speed, Speeds};

/// What the labels of the ledger's lines for engines begin with.
const ENGINE_LABEL: &str = "engine ";

/// What may happen.
#[derive(Debug)]
pub(super) enum Event {
    /// The daemon says how it is.
    Status(Box<v1::GetStatusResponse>),
    Key(Key),
    /// An interval has passed.
    Tick,
    /// The terminal has another size.
    Resize,
}

/// What a person wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Quit,
    Sort,
    Pause,
}

/// Whether there is another frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    GoOn,
    End,
}

/// What comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sort {
    /// What takes the most.
    #[default]
    Memory,
    Name,
}

/// How the daemon is at one moment.
#[derive(Clone, Debug)]
struct Picture {
    status: v1::GetStatusResponse,
    speeds: Speeds,
}

/// A line of the ledger, and what was measured of it where it is an engine's.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Reserved<'a> {
    pub(super) label: &'a str,
    pub(super) bytes: u64,
    pub(super) measured: Option<u64>,
}

/// All that `top` knows.
#[derive(Debug)]
pub(super) struct Top {
    now: Picture,
    /// What is shown instead while a person looks at it.
    held: Option<Picture>,
    meter: Meter,
    sort: Sort,
}

impl Top {
    /// The daemon's first message; others follow at most once per interval.
    pub(super) fn new(status: v1::GetStatusResponse, interval: Duration, at: Instant) -> Self {
        let meter = Meter::new(interval, &status.engines, at);
        let now = Picture { status, speeds: Speeds::new() };
        Self { now, held: None, meter, sort: Sort::default() }
    }

    pub(super) fn on(&mut self, event: Event, at: Instant) -> Then {
        match event {
            Event::Status(status) => {
                let speeds = self.meter.on_status(&status.engines, at);
                self.now = Picture { status: *status, speeds };
            }
            Event::Tick if self.meter.is_quiet(at) => {
                self.now.speeds.values_mut().for_each(|speed| *speed = Speed::default());
            }
            Event::Tick | Event::Resize => {}
            Event::Key(Key::Quit) => return Then::End,
            Event::Key(Key::Sort) => {
                self.sort = match self.sort {
                    Sort::Memory => Sort::Name,
                    Sort::Name => Sort::Memory,
                };
            }
            Event::Key(Key::Pause) => {
                self.held = if self.held.is_some() { None } else { Some(self.now.clone()) };
            }
        }
        Then::GoOn
    }

    fn picture(&self) -> &Picture {
        self.held.as_ref().unwrap_or(&self.now)
    }

    pub(super) fn status(&self) -> &v1::GetStatusResponse {
        &self.picture().status
    }

    pub(super) fn speed(&self, model: &str) -> Option<Speed> {
        self.picture().speeds.get(model).copied()
    }

    pub(super) fn sort(&self) -> Sort {
        self.sort
    }

    pub(super) fn is_paused(&self) -> bool {
        self.held.is_some()
    }

    /// The engines in the order of the sort.
    pub(super) fn engines(&self) -> Vec<&v1::Engine> {
        let mut engines: Vec<_> = self.status().engines.iter().collect();
        match self.sort {
            Sort::Memory => engines.sort_by_key(|engine| (Reverse(engine.reserved_bytes), &engine.model)),
            Sort::Name => engines.sort_by_key(|engine| &engine.model),
        }
        engines
    }

    /// The lines of the ledger in the order of the sort.
    pub(super) fn ledger(&self) -> Vec<Reserved<'_>> {
        let lines = self.status().memory.iter().flat_map(|memory| &memory.lines);
        let mut lines: Vec<_> = lines.map(|line| self.reserved(line)).collect();
        match self.sort {
            Sort::Memory => lines.sort_by_key(|line| (Reverse(line.bytes), line.label)),
            Sort::Name => lines.sort_by_key(|line| line.label),
        }
        lines
    }

    fn reserved<'a>(&'a self, v1::LedgerLine { label, bytes }: &'a v1::LedgerLine) -> Reserved<'a> {
        let model = label.strip_prefix(ENGINE_LABEL);
        let engine = self.status().engines.iter().find(|engine| Some(engine.model.as_str()) == model);
        let measured = engine.and_then(|engine| engine.measured.as_ref());
        Reserved { label, bytes: *bytes, measured: measured.map(crate::cli::status::measured_sum) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn engine(model: &str, reserved_bytes: u64, generated_tokens: u64) -> v1::Engine {
        let measured = v1::MeasuredMemory { anonymous_bytes: 7, file_bytes: 2, ..Default::default() };
        v1::Engine {
            model: model.to_owned(),
            pid: 1,
            reserved_bytes,
            generated_tokens,
            measured: Some(measured),
            ..v1::Engine::default()
        }
    }

    fn status(generated: u64) -> v1::GetStatusResponse {
        let line = |label: &str, bytes| v1::LedgerLine { label: label.to_owned(), bytes };
        let lines = vec![line("daemon", 5), line("engine a", 10), line("engine b", 20)];
        v1::GetStatusResponse {
            engines: vec![engine("a", 10, generated), engine("b", 20, 0)],
            memory: Some(v1::Memory { lines, ..v1::Memory::default() }),
            ..v1::GetStatusResponse::default()
        }
    }

    fn names(top: &Top) -> Vec<&str> {
        top.engines().iter().map(|engine| engine.model.as_str()).collect()
    }

    #[test]
    fn what_takes_the_most_comes_first_until_names_are_asked_for() {
        let start = Instant::now();
        let mut top = Top::new(status(0), SECOND, start);
        let labels = |top: &Top| top.ledger().iter().map(|line| line.label.to_owned()).collect::<Vec<_>>();
        assert_eq!(names(&top), ["b", "a"]);
        assert_eq!(labels(&top), ["engine b", "engine a", "daemon"]);
        assert_eq!(top.on(Event::Key(Key::Sort), start), Then::GoOn);
        assert_eq!(names(&top), ["a", "b"]);
        assert_eq!(labels(&top), ["daemon", "engine a", "engine b"]);
        top.on(Event::Key(Key::Sort), start);
        assert_eq!(names(&top), ["b", "a"]);
    }

    #[test]
    fn a_line_of_an_engine_has_what_was_measured() {
        let top = Top::new(status(0), SECOND, Instant::now());
        let ledger = top.ledger();
        assert_eq!(ledger[0], Reserved { label: "engine b", bytes: 20, measured: Some(9) });
        assert_eq!(ledger[2].measured, None);
    }

    #[test]
    fn a_pause_holds_the_picture_and_its_end_shows_what_is() {
        let start = Instant::now();
        let mut top = Top::new(status(0), SECOND, start);
        top.on(Event::Status(status(10).into()), start + SECOND);
        top.on(Event::Key(Key::Pause), start + SECOND);
        top.on(Event::Status(status(30).into()), start + SECOND * 2);
        assert!(top.is_paused());
        assert_eq!(top.speed("a").map(|speed| speed.decode), Some(10.0));
        top.on(Event::Key(Key::Pause), start + SECOND * 2);
        assert!(!top.is_paused());
        assert_eq!(top.speed("a").map(|speed| speed.decode), Some(20.0));
    }

    #[test]
    fn a_quiet_daemon_reads_and_writes_nothing() {
        let start = Instant::now();
        let mut top = Top::new(status(0), SECOND, start);
        assert_eq!(top.speed("a"), None);
        top.on(Event::Status(status(10).into()), start + SECOND);
        top.on(Event::Tick, start + SECOND * 2);
        assert_eq!(top.speed("a").map(|speed| speed.decode), Some(10.0));
        top.on(Event::Tick, start + SECOND * 4);
        assert_eq!(top.speed("a"), Some(Speed::default()));
    }

    #[test]
    fn a_person_may_leave() {
        let start = Instant::now();
        assert_eq!(Top::new(status(0), SECOND, start).on(Event::Key(Key::Quit), start), Then::End);
    }
}
