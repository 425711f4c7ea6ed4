//! A frame of `top`: rows from the top to the bottom, as many as there is room for.
//!
//! It draws into a buffer and knows of no terminal. What the daemon says is text of others: control characters are
//! shown and not obeyed.

use std::time::SystemTime;

use hearth_client::v1::{self, ModelState, pressure::Level};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Widget;

use super::bar::{self, Bar};
use super::state::{Reserved, Sort, Top};
use crate::cli::json;
use crate::cli::output::Output;
use crate::cli::{status, table};

/// Spaces between two columns.
const GAP: u16 = 2;
/// The longest name that pushes bars aside.
const LONGEST_LABEL: u16 = 32;
/// The least that a name keeps, and a bar.
const SHORTEST: u16 = 8;
/// Share, reserved, measured.
const LEDGER_COLUMNS: [u16; 3] = [8, 10, 10];
/// State, context, running, waiting, decode, prefill.
const ENGINE_HEADS: [&str; 6] = ["STATE", "CONTEXT", "RUN", "WAIT", "DECODE/S", "PREFILL/S"];
const ENGINE_COLUMNS: [u16; 6] = [11, 13, 4, 4, 8, 9];
const KEYS: &str = "q quit   s sort   space pause";

/// A frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    pub(super) top: &'a Top,
    pub(super) time: SystemTime,
    pub(super) colour: bool,
}

/// One row of a frame.
#[derive(Debug)]
enum Row<'a> {
    Text(Line<'a>),
    /// A text, a bar, and texts in columns of their own, aligned to the right.
    Bar {
        label: Line<'a>,
        width: u16,
        bar: Bar,
        cells: Vec<Line<'a>>,
    },
    /// A text, and texts in columns of their own.
    Cells {
        label: Line<'a>,
        width: u16,
        cells: Vec<Line<'a>>,
    },
}

impl View<'_> {
    /// Draws as much as there is room for, with the keys at the bottom.
    pub(super) fn draw(self, area: Rect, buffer: &mut Buffer) {
        let area = area.intersection(buffer.area);
        if area.is_empty() {
            return;
        }
        let body = Rect { height: area.height - 1, ..area };
        self.rows(area.width).into_iter().zip(body.rows()).for_each(|(row, area)| row.draw(area, buffer));
        let keys = Rect { y: area.bottom() - 1, height: 1, ..area };
        Line::styled(KEYS, self.style(Style::new().add_modifier(Modifier::DIM))).render(keys, buffer);
    }

    /// All of it as text, a line for each row.
    pub(super) fn text(self, width: u16) -> Vec<String> {
        let rows = self.rows(width).into_iter();
        let lines = rows.map(|row| {
            let mut buffer = Buffer::empty(Rect::new(0, 0, width, 1));
            row.draw(buffer.area, &mut buffer);
            text_of(&buffer)
        });
        lines.collect()
    }

    fn rows(&self, width: u16) -> Vec<Row<'_>> {
        let status = self.top.status();
        let mut rows = vec![Row::Text(self.head())];
        if let Some(memory) = &status.memory {
            rows.push(self.budget(memory));
            rows.extend(limit(memory).map(|text| Row::Text(self.faint(text))));
            rows.extend(memory.pressure.as_ref().map(|short| Row::Text(self.pressure(short))));
        }
        let sensors = status::sensors(&status.sensors);
        rows.extend(sensors.map(|shown| Row::Text(Line::raw(safe(&format!("sensors   {shown}"))))));
        rows.extend(self.ledger(width));
        rows.extend(self.engines(width));
        rows
    }

    fn head(&self) -> Line<'static> {
        let sorted = match self.top.sort() {
            Sort::Memory => "by memory",
            Sort::Name => "by name",
        };
        let bold = self.style(Style::new().add_modifier(Modifier::BOLD));
        let mut spans = vec![
            Span::styled(safe(&status::daemon(self.top.status(), self.time)), bold),
            Span::styled(format!("   {sorted}"), self.style(Style::new().add_modifier(Modifier::DIM))),
        ];
        if self.top.is_paused() {
            spans.push(Span::styled("   paused", self.style(Style::new().fg(Color::Yellow))));
        }
        Line::from(spans)
    }

    fn budget(&self, memory: &v1::Memory) -> Row<'static> {
        let v1::Memory { budget_bytes: whole, reserved_bytes: used, .. } = *memory;
        let style = self.style(Style::new().fg(fullness(used, whole)));
        let bar = Bar { used, reserved: used, whole, style };
        let sum = format!("{} of {}", table::size(used), table::size(whole));
        let cells = vec![Line::styled(bar::percent(used, whole), style), Line::raw(sum)];
        Row::Bar { label: Line::raw("budget"), width: SHORTEST, bar, cells }
    }

    fn pressure(&self, short: &v1::Pressure) -> Line<'static> {
        let colour = match short.level() {
            Level::Some => Color::Yellow,
            Level::Full => Color::Red,
            Level::None | Level::Unspecified => Color::Reset,
        };
        let text = safe(&status::pressure(short));
        Line::from(vec![Span::raw("pressure  "), Span::styled(text, self.style(Style::new().fg(colour)))])
    }

    fn ledger(&self, width: u16) -> Vec<Row<'_>> {
        let Some(memory) = &self.top.status().memory else { return Vec::new() };
        let lines = self.top.ledger();
        if lines.is_empty() {
            return Vec::new();
        }
        let labels = lines.iter().map(|line| line.label);
        let taken = LEDGER_COLUMNS.iter().map(|column| column + GAP).sum::<u16>() + GAP + SHORTEST;
        let label = widest(labels).min(width.saturating_sub(taken)).clamp(SHORTEST, LONGEST_LABEL);
        let key = format!("RESERVED ({} measured, {} not used)", bar::USED, bar::RESERVED);
        let head = vec![Row::Text(Line::raw("")), Row::Text(self.bold(key))];
        let rows = lines.iter().map(|line| self.reserved(line, memory.budget_bytes, label));
        head.into_iter().chain(rows).collect()
    }

    fn reserved(&self, line: &Reserved<'_>, whole: u64, width: u16) -> Row<'static> {
        let Reserved { label, bytes, measured } = *line;
        // What nobody measures is taken as used.
        let used = measured.unwrap_or(bytes);
        let over = used > bytes || bytes > whole;
        let style = self.style(Style::new().fg(if over { Color::Red } else { Color::Reset }));
        let bar = Bar { used, reserved: bytes, whole, style };
        let measured = measured.map_or_else(|| "-".to_owned(), table::size);
        let cells = [bar::percent(bytes, whole), table::size(bytes), measured];
        let cells = cells.into_iter().zip(LEDGER_COLUMNS).map(|(cell, width)| to_the_right(cell, width));
        Row::Bar { label: Line::raw(fitted(label, width)), width, bar, cells: cells.collect() }
    }

    fn engines(&self, width: u16) -> Vec<Row<'_>> {
        let engines = self.top.engines();
        if engines.is_empty() {
            let none = "no engines: a model is loaded when it is first asked".to_owned();
            return vec![Row::Text(Line::raw("")), Row::Text(self.faint(none))];
        }
        let taken = ENGINE_COLUMNS.iter().map(|column| column + GAP).sum::<u16>();
        let names = widest(engines.iter().map(|engine| engine.model.as_str()));
        let name = names.min(width.saturating_sub(taken)).max(SHORTEST);
        let heads = ENGINE_HEADS.iter().zip(ENGINE_COLUMNS).zip(0..);
        let heads = heads.map(|((head, width), at)| self.bold(aligned(at, (*head).to_owned(), width)));
        let head = Row::Cells { label: self.bold("MODEL".to_owned()), width: name, cells: heads.collect() };
        let rows = engines.iter().flat_map(|engine| self.engine(engine, name));
        [Row::Text(Line::raw("")), head].into_iter().chain(rows).collect()
    }

    /// Its numbers, and below them why it is as it is.
    fn engine(&self, engine: &v1::Engine, width: u16) -> Vec<Row<'static>> {
        let speed = self.top.speed(&engine.model);
        let rate = |rate: Option<f64>| rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.1}"));
        let cells = [
            doing(engine),
            format!("{}/{}", engine.context_used, engine.context_tokens),
            engine.running.to_string(),
            engine.waiting.to_string(),
            rate(speed.map(|speed| speed.decode)),
            rate(speed.map(|speed| speed.prefill)),
        ];
        let state = self.style(Style::new().fg(state_colour(engine.state())));
        let cells = cells.into_iter().zip(ENGINE_COLUMNS).zip(0..).map(|((cell, width), at)| {
            let cell = aligned(at, cell, width);
            if at == 0 { Line::styled(cell, state) } else { Line::raw(cell) }
        });
        let label = Line::raw(fitted(&engine.model, width));
        let mut rows = vec![Row::Cells { label, width, cells: cells.collect() }];
        let pinned = engine.pinned.then_some("pinned");
        let reason = Some(engine.state_reason.as_str()).filter(|reason| !reason.is_empty());
        let below: Vec<&str> = pinned.into_iter().chain(reason).collect();
        if !below.is_empty() {
            rows.push(Row::Text(self.faint(format!("  {}", below.join(", ")))));
        }
        rows
    }

    fn bold(&self, text: String) -> Line<'static> {
        Line::styled(text, self.style(Style::new().add_modifier(Modifier::BOLD)))
    }

    fn faint(&self, text: String) -> Line<'static> {
        Line::styled(safe(&text), self.style(Style::new().add_modifier(Modifier::DIM)))
    }

    fn style(&self, style: Style) -> Style {
        if self.colour { style } else { Style::new() }
    }
}

impl Row<'_> {
    /// Draws it into one line; what finds no room is left out.
    fn draw(self, area: Rect, buffer: &mut Buffer) {
        match self {
            Row::Text(line) => line.render(area, buffer),
            Row::Cells { label, width, cells } => {
                label.render(head_of(area, width), buffer);
                let mut rest = tail_of(area, width + GAP);
                for cell in cells {
                    let width = cell_width(&cell);
                    cell.render(head_of(rest, width), buffer);
                    rest = tail_of(rest, width + GAP);
                }
            }
            Row::Bar { label, width, bar, cells } => {
                label.render(head_of(area, width), buffer);
                let rest = tail_of(area, width + GAP);
                let taken = cells.iter().map(|cell| cell_width(cell) + GAP).sum::<u16>();
                let length = rest.width.saturating_sub(taken).max(SHORTEST).min(rest.width);
                bar.render(head_of(rest, length), buffer);
                let mut rest = tail_of(rest, length + GAP);
                for cell in cells {
                    let width = cell_width(&cell);
                    cell.render(head_of(rest, width), buffer);
                    rest = tail_of(rest, width + GAP);
                }
            }
        }
    }
}

/// The limit that is the budget.
fn limit(memory: &v1::Memory) -> Option<String> {
    let held = status::holding(&memory.limits)?;
    let v1::BudgetLimit { source, reckoning, .. } = memory.limits.get(held)?;
    let reckoning = if reckoning.is_empty() { String::new() } else { format!(": {reckoning}") };
    Some(format!("          set by {source}{reckoning}"))
}

fn doing(engine: &v1::Engine) -> String {
    match engine.load_permille {
        Some(permille) => format!("loading {}%", permille / 10),
        None => json::model_state(engine.state()),
    }
}

fn fullness(used: u64, whole: u64) -> Color {
    match u128::from(used) * 100 {
        _ if used > whole => Color::Red,
        share if share >= u128::from(whole) * 90 => Color::Yellow,
        _ => Color::Green,
    }
}

fn state_colour(state: ModelState) -> Color {
    match state {
        ModelState::Ready => Color::Green,
        ModelState::Quarantined => Color::Red,
        _ => Color::Yellow,
    }
}

/// The widest of the texts, as a terminal shows them.
fn widest<'a>(texts: impl Iterator<Item = &'a str>) -> u16 {
    texts.map(|text| span_width(&safe(text))).max().unwrap_or(0)
}

fn span_width(text: &str) -> u16 {
    u16::try_from(Span::raw(text).width()).unwrap_or(u16::MAX)
}

fn cell_width(cell: &Line<'_>) -> u16 {
    u16::try_from(cell.width()).unwrap_or(u16::MAX)
}

/// The text, or as much of its begin as there is room for, with a mark where it was cut.
fn fitted(text: &str, width: u16) -> String {
    let text = safe(text);
    if span_width(&text) <= width {
        return text;
    }
    let mut short = String::new();
    for char in text.chars() {
        short.push(char);
        if span_width(&short) >= width {
            short.pop();
            short.push('…');
            break;
        }
    }
    short
}

/// Numbers to the right, words to the left.
fn aligned(column: usize, text: String, width: u16) -> String {
    let width = usize::from(width);
    if column == 0 { format!("{text:<width$}") } else { format!("{text:>width$}") }
}

fn to_the_right(text: String, width: u16) -> Line<'static> {
    Line::raw(aligned(1, text, width))
}

fn safe(text: &str) -> String {
    Output::shown(text).into_owned()
}

fn head_of(area: Rect, width: u16) -> Rect {
    Rect { width: width.min(area.width), ..area }
}

fn tail_of(area: Rect, from: u16) -> Rect {
    let from = from.min(area.width);
    Rect { x: area.x + from, width: area.width - from, ..area }
}

/// A row of cells as text; a wide character has the cell behind it too.
fn text_of(row: &Buffer) -> String {
    let mut text = String::new();
    let mut skipped = 0;
    for cell in &row.content {
        if skipped == 0 {
            text.push_str(cell.symbol());
            skipped = span_width(cell.symbol()).max(1);
        }
        skipped -= 1;
    }
    text.truncate(text.trim_end().len());
    text
}

#[cfg(test)]
mod tests;
