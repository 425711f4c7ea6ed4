//! Frames in a terminal that is none.

use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::super::state::{Event, Key};
use super::*;

const GIB: u64 = 1 << 30;

fn engine(model: &str, generated_tokens: u64) -> v1::Engine {
    v1::Engine {
        model: model.to_owned(),
        state: ModelState::Ready.into(),
        pid: 7,
        running: 1,
        waiting: 2,
        context_tokens: 4096,
        context_used: 100,
        reserved_bytes: 2 * GIB,
        measured: Some(v1::MeasuredMemory { anonymous_bytes: GIB, ..Default::default() }),
        generated_tokens,
        prefilled_tokens: generated_tokens * 10,
        ..v1::Engine::default()
    }
}

fn memory(budget_bytes: u64, lines: &[(&str, u64)]) -> v1::Memory {
    let ledger =
        lines.iter().map(|(label, bytes)| v1::LedgerLine { label: (*label).to_owned(), bytes: *bytes });
    let limit = |source: &str, bytes| v1::BudgetLimit {
        source: source.to_owned(),
        bytes,
        reckoning: "memory.max less 10 %".to_owned(),
    };
    v1::Memory {
        budget_bytes,
        reserved_bytes: lines.iter().map(|(_, bytes)| bytes).sum(),
        lines: ledger.collect(),
        limits: vec![limit("configured", u64::MAX), limit("/system.slice", budget_bytes)],
        pressure: Some(v1::Pressure {
            level: Level::None.into(),
            source: "psi".to_owned(),
            ..Default::default()
        }),
        ..v1::Memory::default()
    }
}

fn status(memory: v1::Memory, engines: Vec<v1::Engine>) -> v1::GetStatusResponse {
    v1::GetStatusResponse {
        version: Some(v1::Version { package: "1.2.3".to_owned(), ..Default::default() }),
        phase: v1::Phase::Serving.into(),
        memory: Some(memory),
        engines,
        ..v1::GetStatusResponse::default()
    }
}

fn top(status: v1::GetStatusResponse) -> Top {
    Top::new(status, Duration::from_secs(1), Instant::now())
}

fn usual() -> v1::GetStatusResponse {
    let lines = [("engine qwen3:8b", 2 * GIB), ("daemon", GIB / 8)];
    status(memory(4 * GIB, &lines), vec![engine("qwen3:8b", 0)])
}

/// The lines of a screen of this size.
fn screen(top: &Top, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("needs nothing");
    let view = View { top, time: SystemTime::UNIX_EPOCH, colour: true };
    terminal.draw(|frame| view.draw(frame.area(), frame.buffer_mut())).expect("cannot fail");
    let buffer = terminal.backend().buffer();
    buffer.area.rows().map(|row| text_of(&line_of(buffer, row))).collect()
}

fn line_of(buffer: &Buffer, row: Rect) -> Buffer {
    let mut line = Buffer::empty(Rect { y: 0, ..row });
    line.content = row.positions().map(|at| buffer[at].clone()).collect();
    line
}

#[test]
fn a_frame_has_the_budget_the_ledger_the_engines_and_the_keys() {
    let lines = screen(&top(usual()), 80, 20);
    assert_eq!(lines[0], "hearthd 1.2.3, serving   by memory");
    assert_eq!(
        lines[1],
        format!("budget    {}{}  53.1 %  2.1 GiB of 4.0 GiB", "█".repeat(22), "·".repeat(20))
    );
    assert_eq!(lines[2], "          set by /system.slice: memory.max less 10 %");
    assert_eq!(lines[3], "pressure  none (psi)");
    assert_eq!(lines[5], "RESERVED (█ measured, ▒ not used)");
    let bar = format!("{}{}{}", "█".repeat(7), "▒".repeat(8), "·".repeat(14));
    assert_eq!(lines[6], format!("engine qwen3:8b  {bar}    50.0 %     2.0 GiB     1.0 GiB"));
    assert!(lines[7].starts_with("daemon           █···"), "{lines:#?}");
    assert_eq!(lines[9], "MODEL     STATE              CONTEXT   RUN  WAIT  DECODE/S  PREFILL/S");
    assert_eq!(lines[10], "qwen3:8b  ready             100/4096     1     2         -          -");
    assert_eq!(lines[19], KEYS);
}

#[test]
fn speeds_and_a_pause_are_shown() {
    let start = Instant::now();
    let mut top = Top::new(usual(), Duration::from_secs(1), start);
    let mut later = usual();
    later.engines = vec![engine("qwen3:8b", 25)];
    top.on(Event::Status(Box::new(later)), start + Duration::from_secs(2));
    top.on(Event::Key(Key::Pause), start);
    top.on(Event::Key(Key::Sort), start);
    let lines = screen(&top, 80, 20);
    assert_eq!(lines[0], "hearthd 1.2.3, serving   by name   paused");
    assert!(lines[10].ends_with("12.5      125.0"), "{lines:#?}");
}

#[test]
fn an_overfull_budget_and_one_of_nothing_are_drawn() {
    let full = screen(&top(status(memory(GIB, &[("engine a", 2 * GIB)]), Vec::new())), 60, 10);
    assert!(full[1].contains("██  200.0 %  2.0 GiB of 1.0 GiB") && !full[1].contains('·'), "{full:#?}");
    assert!(full[6].contains("200.0 %"), "{full:#?}");
    let nothing = screen(&top(status(memory(0, &[]), Vec::new())), 60, 10);
    assert!(nothing[1].contains("·  -  0 B of 0 B"), "{nothing:#?}");
    let owing = screen(&top(status(memory(0, &[("engine a", 1)]), Vec::new())), 60, 10);
    assert!(owing[1].contains("█  -  1 B of 0 B"), "{owing:#?}");
}

#[test]
fn no_engines_are_said_to_be_none() {
    let lines = screen(&top(status(memory(GIB, &[]), Vec::new())), 80, 10);
    assert!(lines[5].starts_with("no engines"), "{lines:#?}");
    let unknown = screen(&top(v1::GetStatusResponse::default()), 80, 10);
    assert!(unknown[2].starts_with("no engines"), "{unknown:#?}");
}

#[test]
fn a_long_name_is_cut_and_moves_no_cursor() {
    let long = format!("\u{1b}[2J模{}", "x".repeat(300));
    let label = format!("engine {long}");
    let lines = screen(&top(status(memory(4 * GIB, &[(&label, GIB)]), vec![engine(&long, 0)])), 80, 20);
    assert!(lines[6].starts_with("engine ␛[2J模xxx") && lines[6].contains("…  █"), "{lines:#?}");
    assert!(lines[6].ends_with("1.0 GiB"), "{lines:#?}");
    assert!(
        lines[9].starts_with("␛[2J") && lines[9].contains('…') && lines[9].contains("ready"),
        "{lines:#?}"
    );
}

#[test]
fn why_an_engine_is_as_it_is_stands_below_it() {
    let loading = v1::Engine {
        state: ModelState::Loading.into(),
        state_reason: "waits for memory".to_owned(),
        load_permille: Some(420),
        pinned: true,
        ..engine("a", 0)
    };
    let lines = screen(&top(status(memory(GIB, &[]), vec![loading])), 80, 12);
    assert!(lines[6].contains("loading 42%"), "{lines:#?}");
    assert_eq!(lines[7], "  pinned, waits for memory");
}

#[test]
fn any_size_of_a_terminal_will_do() {
    let mut many = usual();
    many.engines = (0..50).map(|n| engine(&format!("model-{n}:with-a-long-tag"), n)).collect();
    many.sensors = vec![v1::Sensor { name: "cpu-thermal".to_owned(), celsius: 51.5 }];
    let top = top(many);
    for (width, height) in [(20, 5), (0, 0), (1, 1), (5, 2), (13, 60), (200, 3), (300, 100)] {
        let lines = screen(&top, width, height);
        assert_eq!(lines.len(), usize::from(height));
    }
    assert_eq!(screen(&top, 20, 5)[4], "q quit   s sort   sp");
}

#[test]
fn text_has_every_row_and_no_keys() {
    let mut many = usual();
    many.engines = (0..50).map(|n| engine(&format!("m{n}"), n)).collect();
    let top = top(many);
    let view = View { top: &top, time: SystemTime::UNIX_EPOCH, colour: false };
    let text = view.text(100);
    assert_eq!(text.iter().filter(|line| line.contains("100/4096")).count(), 50);
    assert!(!text.iter().any(|line| line.contains(KEYS)), "{text:#?}");
}
