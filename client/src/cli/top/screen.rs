//! The terminal: taken for a while, given back on every way out.

use std::io;
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::sync::mpsc;

use super::state::{Event, Key};
use super::view::View;

/// How long the reader of keys waits before it looks whether it is still needed.
const PATIENCE: Duration = Duration::from_secs(1);
/// Keys that may wait for the next frame.
const KEYS: usize = 16;

/// The whole screen. It is as it was before once this is dropped, and after a panic too.
#[derive(Debug)]
pub(super) struct Screen(DefaultTerminal);

impl Screen {
    pub(super) fn open() -> io::Result<Self> {
        ratatui::try_init().map(Self).inspect_err(|_| give_back())
    }

    pub(super) fn draw(&mut self, view: View<'_>) -> io::Result<()> {
        self.0.draw(|frame| view.draw(frame.area(), frame.buffer_mut())).map(drop)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// A terminal that is gone need not be as it was.
fn give_back() {
    drop(ratatui::try_restore());
}

/// What a person does at the terminal.
#[derive(Debug)]
pub(super) struct Keys(mpsc::Receiver<io::Result<Event>>);

impl Keys {
    /// Reads on a thread of its own, which ends once this is dropped.
    pub(super) fn listen() -> Self {
        let (sender, receiver) = mpsc::channel(KEYS);
        std::thread::spawn(move || {
            while !sender.is_closed() {
                let Some(read) = read().transpose() else { continue };
                let failed = read.is_err();
                if sender.blocking_send(read).is_err() || failed {
                    return;
                }
            }
        });
        Self(receiver)
    }

    pub(super) async fn next(&mut self) -> io::Result<Event> {
        self.0.recv().await.unwrap_or_else(|| Err(io::ErrorKind::UnexpectedEof.into()))
    }
}

/// What came at the terminal, if it means anything.
fn read() -> io::Result<Option<Event>> {
    if !event::poll(PATIENCE)? {
        return Ok(None);
    }
    Ok(match event::read()? {
        event::Event::Key(pressed) => key(pressed).map(Event::Key),
        event::Event::Resize(..) => Some(Event::Resize),
        _ => None,
    })
}

fn key(KeyEvent { code, modifiers, kind, .. }: KeyEvent) -> Option<Key> {
    if kind == KeyEventKind::Release {
        return None;
    }
    match code {
        KeyCode::Char('c') if modifiers.contains(KeyModifiers::CONTROL) => Some(Key::Quit),
        _ if modifiers.intersects(KeyModifiers::CONTROL | KeyModifiers::ALT) => None,
        KeyCode::Char('q') | KeyCode::Esc => Some(Key::Quit),
        KeyCode::Char('s') => Some(Key::Sort),
        KeyCode::Char(' ') => Some(Key::Pause),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_mean_what_the_last_line_of_a_frame_says() {
        let pressed = |code, modifiers| key(KeyEvent::new(code, modifiers));
        for quits in [KeyCode::Char('q'), KeyCode::Esc] {
            assert_eq!(pressed(quits, KeyModifiers::NONE), Some(Key::Quit));
        }
        assert_eq!(pressed(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Key::Quit));
        assert_eq!(pressed(KeyCode::Char('c'), KeyModifiers::NONE), None);
        assert_eq!(pressed(KeyCode::Char('s'), KeyModifiers::NONE), Some(Key::Sort));
        assert_eq!(pressed(KeyCode::Char('s'), KeyModifiers::CONTROL), None);
        assert_eq!(pressed(KeyCode::Char(' '), KeyModifiers::NONE), Some(Key::Pause));
    }
}
