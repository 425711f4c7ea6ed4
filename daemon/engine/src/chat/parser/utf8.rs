//! Bytes to text: characters cut by tokens are put together, what is no UTF-8 becomes U+FFFD.

/// A decoder that keeps the beginning of a character until the rest comes.
#[derive(Debug, Clone, Default)]
pub(super) struct Utf8 {
    /// At most three bytes.
    partial: Vec<u8>,
}

impl Utf8 {
    pub(super) fn push(&mut self, bytes: &[u8]) -> String {
        self.partial.extend_from_slice(bytes);
        let mut text = String::with_capacity(self.partial.len());
        let mut rest = self.partial.as_slice();
        while let Some((valid, after)) = next_run(rest) {
            text.push_str(valid);
            match after {
                Run::Invalid(len) => {
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[valid.len() + len..];
                }
                Run::Cut => {
                    rest = &rest[valid.len()..];
                    break;
                }
            }
        }
        self.partial = rest.to_vec();
        text
    }

    /// A character that was begun and not ended is one replacement.
    pub(super) fn finish(&mut self) -> String {
        let cut = std::mem::take(&mut self.partial);
        String::from_utf8_lossy(&cut).into_owned()
    }
}

/// What follows a valid run.
enum Run {
    /// So many bytes that are no UTF-8.
    Invalid(usize),
    /// The end of the bytes, perhaps in a character.
    Cut,
}

fn next_run(bytes: &[u8]) -> Option<(&str, Run)> {
    if bytes.is_empty() {
        return None;
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Some((text, Run::Cut)),
        Err(error) => {
            let valid = bytes.get(..error.valid_up_to())?;
            let run = error.error_len().map_or(Run::Cut, Run::Invalid);
            Some((std::str::from_utf8(valid).ok()?, run))
        }
    }
}
