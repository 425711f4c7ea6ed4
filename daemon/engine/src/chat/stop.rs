//! Stop strings across token borders.
//!
//! A stop string may be cut anywhere by tokens, so text that could be the beginning of one is held
//! back until the next text decides. What is held is always shorter than the longest stop string.

/// Watches a text for the first of several stop strings.
#[derive(Debug, Clone)]
pub struct StopStrings {
    stops: Vec<String>,
    /// End of the text so far that may still become a stop string.
    held: String,
    /// Which stop string was met; from then on everything is swallowed.
    matched: Option<usize>,
}

impl StopStrings {
    /// Empty strings are ignored: they would stop every answer before its first character.
    pub fn new(stops: Vec<String>) -> Self {
        Self { stops, held: String::new(), matched: None }
    }

    /// Takes more text. Returns the text that is safe to pass on and, once the text ended in a stop
    /// string, its position in the list; the stop string itself is not passed on.
    ///
    /// Of several, the one whose last character comes first wins, as it does when text arrives
    /// character by character; of those that end together the longest, then the first listed.
    pub fn push(&mut self, text: &str) -> (String, Option<usize>) {
        if self.matched.is_some() {
            return (String::new(), self.matched);
        }
        let mut window = std::mem::take(&mut self.held);
        let known = window.len();
        window.push_str(text);
        if let Some((start, index)) = self.find(&window, known) {
            self.matched = Some(index);
            window.truncate(start);
            return (window, self.matched);
        }
        let keep = self.undecided(&window);
        self.held = window.split_off(window.len() - keep);
        (window, None)
    }

    /// Gives up what is held, since no more text comes.
    pub fn flush(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// The stop string that ends first, if one ends after the first `known` bytes.
    fn find(&self, window: &str, known: usize) -> Option<(usize, usize)> {
        let stops = self.stops.iter().enumerate().filter(|(_, s)| !s.is_empty());
        stops
            .filter_map(|(index, stop)| {
                // A match ends in the new text, so older starts than this cannot be one.
                let from = floor_boundary(window, known.saturating_sub(stop.len()));
                let start = window[from..].find(stop.as_str())? + from;
                Some((start + stop.len(), start, index))
            })
            .min()
            .map(|(_, start, index)| (start, index))
    }

    /// Length of the longest end of the window that begins a stop string.
    fn undecided(&self, window: &str) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let from = floor_boundary(window, window.len().saturating_sub(longest));
        let tail = &window[from..];
        tail.char_indices().map(|(at, _)| &tail[at..]).find(|end| self.begins_stop(end)).map_or(0, str::len)
    }

    fn begins_stop(&self, end: &str) -> bool {
        self.stops.iter().any(|s| s.len() > end.len() && s.starts_with(end))
    }
}

fn floor_boundary(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

#[cfg(test)]
mod tests;
