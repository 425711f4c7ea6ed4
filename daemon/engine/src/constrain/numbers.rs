//! Numbers in JSON that is being written: no schema bounds their length, and a number beyond what a double
//! holds is JSON that no program can read.

/// Longest number whose value is looked at; a longer one is refused.
const MAX_NUMBER: usize = 400;

/// Follows JSON text, as far as strings and numbers go.
#[derive(Clone, Debug, Default)]
pub(super) struct Numbers {
    in_string: bool,
    escaped: bool,
    number: String,
}

impl Numbers {
    /// Takes more text. False where a number in it is out of range.
    pub(super) fn push(&mut self, bytes: &[u8]) -> bool {
        bytes.iter().all(|&byte| self.step(byte))
    }

    /// Whether the text ends inside a string.
    pub(super) const fn in_string(&self) -> bool {
        self.in_string
    }

    fn step(&mut self, byte: u8) -> bool {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return true;
        }
        match byte {
            b'"' => {
                self.in_string = true;
                self.number.clear();
            }
            b'0'..=b'9' | b'.' | b'-' | b'+' | b'e' | b'E' => {
                self.number.push(char::from(byte));
                return self.is_in_range();
            }
            _ => self.number.clear(),
        }
        true
    }

    /// What is no number yet is in range.
    fn is_in_range(&self) -> bool {
        self.number.len() <= MAX_NUMBER && self.number.parse::<f64>().map_or(true, f64::is_finite)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_outside_of_strings_count() {
        let fits = |text: &str| Numbers::default().push(text.as_bytes());
        assert!(fits(r#"{"a":1e308,"b":-1E-999,"1e999":"1e999 \" 1e999"}"#));
        assert!(!fits(r#"{"a":1e999"#));
        assert!(!fits(&format!("[{}", "9".repeat(310))));
        assert!(fits(&format!("[{}", "0.".to_owned() + &"0".repeat(300))));
        assert!(!fits(&format!("[{}", "0.".to_owned() + &"0".repeat(400))));
        assert!(fits(r#""true" "#));
    }

    #[test]
    fn strings_are_followed() {
        let mut numbers = Numbers::default();
        assert!(numbers.push(br#"{"a": "x\""#) && numbers.in_string());
        assert!(numbers.push(b"\"") && !numbers.in_string());
    }
}
