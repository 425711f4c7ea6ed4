//! What an object says of itself before it is whole: whether it can still be a call, and to whom.

use super::super::json::scan::{ObjectScan, Step, Within};
use super::shape::KEYS;

/// Longest key or name that is looked at: more than `parameters` with every letter escaped.
const MAX_STRING: usize = 256;

/// Reads an object that may be a call, or an array of such.
#[derive(Debug, Clone)]
pub(super) struct Outline {
    scan: ObjectScan,
    /// How deep the members of calls stand.
    level: usize,
    /// Bytes so far.
    len: usize,
    /// The string being read, as it is written, if it stands at the level.
    string: String,
    /// The last key at the level.
    key: String,
    /// Keys at the level so far.
    keys: usize,
    head: Head,
    refuted: bool,
}

/// How the object begins.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Head {
    /// No value yet.
    Start,
    /// The type, `function`.
    Typed,
    /// Perhaps the type, then a name; and so many bytes up to the quote that ends it.
    Named(String, usize),
    /// In some other way.
    Other,
}

impl Outline {
    /// Of an object, its opening brace included.
    pub(super) fn of_object() -> Self {
        let mut scan = ObjectScan::new();
        let step = scan.push('{');
        debug_assert_eq!(step, Step::More, "an object begins with a brace");
        Self::new(scan, 1)
    }

    /// Of an array of objects, its opening bracket included.
    pub(super) fn of_array() -> Self {
        Self::new(ObjectScan::in_array(), 2)
    }

    fn new(scan: ObjectScan, level: usize) -> Self {
        Self {
            scan,
            level,
            len: 1,
            string: String::new(),
            key: String::new(),
            keys: 0,
            head: Head::Start,
            refuted: false,
        }
    }

    /// Whether it is certain that this is no call and no array of calls.
    pub(super) fn is_refuted(&self) -> bool {
        self.refuted
    }

    /// The name of an object that begins as a call does, and the bytes up to the end of the name.
    pub(super) fn named(&self) -> Option<(&str, usize)> {
        match &self.head {
            Head::Named(name, at) if self.level == 1 => Some((name, *at)),
            _ => None,
        }
    }

    pub(super) fn push(&mut self, c: char) -> Step {
        let (before, depth) = (self.scan.within(), self.scan.depth());
        let step = self.scan.push(c);
        self.len += c.len_utf8();
        if depth + 1 == self.level && !(c == '{' || c == ',' || c.is_whitespace()) {
            self.refuted = true;
        }
        if depth == self.level && step == Step::More {
            self.read_string(c, before);
        }
        step
    }

    fn read_string(&mut self, c: char, before: Option<Within>) {
        match (before, self.scan.within()) {
            (None, Some(_)) => self.string.clear(),
            (Some(within), Some(_)) if self.string.len() < MAX_STRING => {
                self.string.push(c);
                self.refuted |= within == Within::Key && self.string.len() >= MAX_STRING;
            }
            (Some(Within::Key), None) => self.end_key(),
            (Some(Within::Value), None) => self.end_value(),
            _ => {}
        }
    }

    fn end_key(&mut self) {
        self.key = unescape(&self.string).unwrap_or_default();
        self.keys += 1;
        self.refuted |= !KEYS.contains(&self.key.as_str());
        let goes_on = match (&self.head, self.key.as_str()) {
            (Head::Start, "type" | "name") => self.keys == 1,
            (Head::Typed, key) => self.keys == 2 && key == "name",
            (Head::Named(..), _) => true,
            _ => false,
        };
        if !goes_on {
            self.head = Head::Other;
        }
    }

    fn end_value(&mut self) {
        let value = unescape(&self.string);
        match (&self.head, self.key.as_str(), value) {
            (Head::Start, "type", Some(value)) if value == "function" => self.head = Head::Typed,
            (Head::Start | Head::Typed, "name", Some(name)) => self.head = Head::Named(name, self.len),
            (Head::Named(..), _, _) => {}
            _ => self.head = Head::Other,
        }
    }
}

/// The text of a string whose inside is written like this.
fn unescape(inside: &str) -> Option<String> {
    serde_json::from_str(&format!("\"{inside}\"")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Outline {
        let mut outline = Outline::of_object();
        for c in text.chars().skip(1) {
            assert_ne!(outline.push(c), Step::Invalid, "{text}");
        }
        outline
    }

    #[test]
    fn a_call_is_named_as_soon_as_its_name_is_whole() {
        let named =
            |text: &str| read(text).named().map(|(name, at)| (name.to_owned(), text[at..].to_owned()));
        let some = |rest: &str| Some(("f".to_owned(), rest.to_owned()));
        assert_eq!(named(r#"{"name": "f"#), None);
        assert_eq!(named(r#"{"name": "f""#), some(""));
        assert_eq!(named(r#"{ "type": "function", "name":"f", "par"#), some(r#", "par"#));
        assert_eq!(named(r#"{"\u006eame": "\u0066", "id": "x", "#), some(r#", "id": "x", "#));
        for other in [
            r#"{"type": "object", "name": "f""#,
            r#"{"id": "1", "name": "f""#,
            r#"{"type": 1, "name": "f""#,
            r#"{"name": {"name": "f""#,
            r#"{"parameters": {}, "name": "f""#,
        ] {
            assert_eq!(named(other), None, "{other}");
        }
    }

    #[test]
    fn a_key_that_no_call_has_refutes_at_once() {
        assert!(read(r#"{"city""#).is_refuted());
        assert!(!read(r#"{"name": "f", "parameters": {"city": [{"x": 1}]}"#).is_refuted());
        assert!(read(&format!("{{\"{}", "n".repeat(MAX_STRING))).is_refuted());
    }
}
