//! Finds markers such as `</think>` in text that comes one character at a time.

/// A search for several markers. Each begins with `<` and has no other, so after a miss nothing but
/// the last character can begin a marker.
#[derive(Debug, Clone)]
pub(super) struct Markers {
    markers: &'static [&'static str],
    /// Beginning of a marker, seen so far.
    partial: String,
}

/// What one character decides.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Text that is part of no marker, in order.
    pub(super) text: String,
    /// The marker that the character completes.
    pub(super) marker: Option<&'static str>,
}

impl Markers {
    pub(super) fn new(markers: &'static [&'static str]) -> Self {
        Self { markers, partial: String::new() }
    }

    pub(super) fn push(&mut self, c: char) -> Found {
        let mut text = String::new();
        self.partial.push(c);
        if !self.is_open() {
            self.partial.pop();
            text = self.take();
            self.partial.push(c);
        }
        if !self.is_open() {
            text.push_str(&self.take());
        }
        let partial = &self.partial;
        let marker = self.markers.iter().copied().find(|marker| marker == partial);
        if marker.is_some() {
            self.partial.clear();
        }
        Found { text, marker }
    }

    /// Whether the beginning of a marker is held.
    pub(super) fn is_partial(&self) -> bool {
        !self.partial.is_empty()
    }

    /// Gives up the beginning of a marker that does not go on.
    pub(super) fn take(&mut self) -> String {
        std::mem::take(&mut self.partial)
    }

    fn is_open(&self) -> bool {
        self.markers.iter().any(|marker| marker.starts_with(&self.partial))
    }
}
