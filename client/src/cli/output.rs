//! The only place that writes to stdout and stderr.
//!
//! A model writes what it likes: on a terminal, control characters are shown and not obeyed. Thoughts are
//! for people who watch: they are dimmed on a terminal and left out of a pipe. Progress lives on one line
//! of a terminal's stderr and goes away before anything else is written.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

use anstyle::Style;
use serde::Serialize;

use super::exit::{Exit, Failure};
use super::hint;
use super::json::Line;
use super::progress::{Progress, Step};
use super::style::{self, Colours, When, painted};

const CLEAR_SCREEN: &str = "\x1b[H\x1b[2J";

/// What stdout is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Human,
    Json,
}

/// Where the cursor of stdout is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cursor {
    LineStart,
    InAnswer,
    InThought,
}

/// The two output streams.
#[derive(Debug)]
pub(super) struct Output {
    format: Format,
    stdout: io::Stdout,
    stderr: io::Stderr,
    /// Whether a person watches stdout.
    watched: bool,
    /// Whether the cursor of stdout can be moved.
    movable: bool,
    colours: Colours,
    /// The bar on stderr; none where nobody would see it.
    progress: Option<Progress>,
    cursor: Cursor,
    /// Whether the last character on stdout ended its line.
    newline: bool,
}

impl Output {
    pub(super) fn new(format: Format, colour: When) -> Self {
        let (stdout, stderr) = (io::stdout(), io::stderr());
        let human = format == Format::Human;
        let watched = human && stdout.is_terminal();
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self {
            format,
            watched,
            movable: watched && !dumb,
            colours: Colours::choose(if human { colour } else { When::Never }),
            progress: (human && stderr.is_terminal() && !dumb).then(Progress::default),
            stdout,
            stderr,
            cursor: Cursor::LineStart,
            newline: true,
        }
    }

    /// Whether a person reads stdout and can write to stdin.
    pub(super) fn is_interactive(&self) -> bool {
        self.watched && io::stdin().is_terminal()
    }

    /// Whether stdout is a terminal whose whole screen can be drawn on.
    pub(super) fn has_screen(&self) -> bool {
        self.movable
    }

    /// Whether stdout takes colours.
    pub(super) fn has_colour(&self) -> bool {
        self.colours.stdout
    }

    pub(super) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// One line of JSON; nothing for people.
    pub(super) fn json(&mut self, line: &Line<'_>) -> Result<(), Failure> {
        self.json_value(line)
    }

    fn json_value(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let mut text = serde_json::to_vec(value).map_err(|error| Failure::Write(error.into()))?;
        text.push(b'\n');
        self.write(&text)
    }

    /// More of an answer.
    pub(super) fn text(&mut self, text: &str) -> Result<(), Failure> {
        self.turn_to(Cursor::InAnswer)?;
        self.piece(text)
    }

    /// More of a thought.
    pub(super) fn thought(&mut self, text: &str) -> Result<(), Failure> {
        if !self.watched {
            return Ok(());
        }
        self.turn_to(Cursor::InThought)?;
        self.piece(text)
    }

    /// A line of its own.
    pub(super) fn line(&mut self, text: &str) -> Result<(), Failure> {
        self.end_answer()?;
        self.piece(text)?;
        self.end_answer()
    }

    /// A line of its own in a style.
    pub(super) fn styled(&mut self, text: &str, style: Style) -> Result<(), Failure> {
        self.end_answer()?;
        let text = painted(&printable(text, self.watched), style, self.colours.stdout);
        self.write(format!("{text}\n").as_bytes())
    }

    /// Bytes for a program or a file, as they are.
    pub(super) fn raw(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.end_answer()?;
        self.write(bytes)
    }

    /// Ends the line and the dimming that an answer left open.
    pub(super) fn end_answer(&mut self) -> Result<(), Failure> {
        self.turn_to(Cursor::LineStart)
    }

    /// An empty screen for the next picture of a watch.
    pub(super) fn clear_screen(&mut self) -> Result<(), Failure> {
        if self.movable { self.write(CLEAR_SCREEN.as_bytes()) } else { Ok(()) }
    }

    /// Shows how far something is.
    pub(super) fn progress(&mut self, step: &Step<'_>) -> Result<(), Failure> {
        if self.progress.is_some() {
            // The bar erases the line that it stands on.
            self.end_answer()?;
            let what = printable(step.what, true);
            if let Some(progress) = &mut self.progress {
                progress.show(&Step { what: &what, ..step.clone() });
            }
        }
        Ok(())
    }

    /// A remark beside the answer, for people.
    pub(super) fn note(&mut self, text: &str) -> Result<(), Failure> {
        if !self.is_json() {
            self.end_answer()?;
            self.clear_progress();
            let text = painted(&self.safe_for_stderr(text), style::FAINT, self.colours.stderr);
            self.tell(&format!("{text}\n"));
        }
        Ok(())
    }

    /// Something that a person did wrong, while the command goes on.
    pub(super) fn complain(&mut self, text: &str) -> Result<(), Failure> {
        self.end_answer()?;
        self.clear_progress();
        let text = self.safe_for_stderr(text).into_owned();
        let name = painted("hearth:", style::FAILURE, self.colours.stderr);
        self.tell(&format!("{name} {text}\n"));
        Ok(())
    }

    /// Says why the command failed, in the form that was asked for, and how to exit.
    pub(super) fn failure(&mut self, failure: &Failure) -> Exit {
        match failure {
            Failure::OutputClosed | Failure::Reported(_) => {}
            _ if self.is_json() => drop(self.json_value(&Line::error(failure))),
            Failure::Interrupted => drop(self.end_answer()),
            _ => self.tell_failure(failure),
        }
        self.clear_progress();
        failure.exit()
    }

    fn tell_failure(&mut self, failure: &Failure) {
        drop(self.complain(&failure.message()));
        if let Some(hint) = hint::of(failure) {
            let name = painted("hearth:", style::FAINT, self.colours.stderr);
            let hint = self.safe_for_stderr(&hint).into_owned();
            self.tell(&format!("{name} {hint}\n"));
        }
    }

    /// Closes what is open on the line and opens what comes next.
    fn turn_to(&mut self, next: Cursor) -> Result<(), Failure> {
        if self.cursor == next && (self.newline || next != Cursor::LineStart) {
            return Ok(());
        }
        let (thought, colour) = (style::FAINT, self.colours.stdout);
        let mut marks = String::new();
        if self.cursor == Cursor::InThought && colour {
            marks.push_str(&thought.render_reset().to_string());
        }
        if !self.newline {
            marks.push('\n');
            self.newline = true;
        }
        match (next, colour) {
            (Cursor::InThought, true) => marks.push_str(&thought.render().to_string()),
            (Cursor::InThought, false) => marks.push_str("[thinking]\n"),
            (Cursor::InAnswer, false) if self.cursor == Cursor::InThought => marks.push_str("[answer]\n"),
            (Cursor::InAnswer | Cursor::LineStart, _) => {}
        }
        self.cursor = next;
        if marks.is_empty() { Ok(()) } else { self.write(marks.as_bytes()) }
    }

    fn piece(&mut self, text: &str) -> Result<(), Failure> {
        let Some(last) = text.chars().last() else { return Ok(()) };
        self.newline = last == '\n';
        let text = printable(text, self.watched);
        self.write(text.as_bytes())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.clear_progress();
        let mut stdout = self.stdout.lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(Failure::write)
    }

    fn clear_progress(&mut self) {
        if let Some(progress) = &mut self.progress {
            progress.clear();
        }
    }

    /// Text of others for a prompt, without what would move the cursor.
    pub(super) fn shown(text: &str) -> Cow<'_, str> {
        printable(text, true)
    }

    fn safe_for_stderr<'a>(&self, text: &'a str) -> Cow<'a, str> {
        printable(text, self.stderr.is_terminal())
    }

    /// Stderr is for what may be lost: where it cannot be written, nobody is there to be told.
    fn tell(&mut self, text: &str) {
        let mut stderr = self.stderr.lock();
        drop(stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush()));
    }
}

/// On a terminal, control characters as symbols: a model or a file must not move the cursor, rename the
/// window or type for the user.
fn printable(text: &str, terminal: bool) -> Cow<'_, str> {
    let is_control = |c: char| c.is_control() && c != '\n' && c != '\t';
    if !terminal || !text.contains(is_control) {
        return Cow::Borrowed(text);
    }
    text.chars().map(|c| if is_control(c) { symbol(c) } else { c }).collect::<String>().into()
}

/// The picture of a control character, as `␛`.
fn symbol(control: char) -> char {
    match u32::from(control) {
        code @ 0..0x20 => char::from_u32(0x2400 + code).unwrap_or(char::REPLACEMENT_CHARACTER),
        0x7f => '\u{2421}',
        _ => char::REPLACEMENT_CHARACTER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_on_a_terminal() {
        assert_eq!(printable("a\x1b[2Jb\u{9b}c\n\td", true), "a␛[2Jb\u{fffd}c\n\td");
    }

    #[test]
    fn a_pipe_gets_the_bytes_as_they_are() {
        assert_eq!(printable("a\x1b[2J", false), "a\x1b[2J");
    }
}
