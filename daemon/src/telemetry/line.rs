//! One line of the log with its fields, as the journal wants them: the event's own and those of the spans
//! around it.

use std::fmt::{self, Write as _};

use log::kv::{Error, Key, Source, Value, VisitSource};
use tracing::field::{Field, Visit};

/// Field that holds what happened, as `tracing` has it.
const MESSAGE: &str = "message";

/// Before every field's name, so that `journalctl HEARTH_…=` finds Hearth's lines alone.
const PREFIX: &str = "HEARTH_";

/// Names and values.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields(pub(super) Vec<(&'static str, String)>);

/// A line that is ready to be written.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) level: log::Level,
    pub(super) target: &'static str,
    pub(super) module: Option<&'static str>,
    pub(super) file: Option<&'static str>,
    pub(super) number: Option<u32>,
    pub(super) message: String,
    /// Journal fields.
    pub(super) fields: JournalFields,
}

/// Fields under the names that the journal has them under.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct JournalFields(pub(super) Vec<(String, String)>);

impl Fields {
    /// What happened, and the fields that say more about it in brackets: `journalctl` shows nothing else.
    pub(super) fn sentence(&self) -> String {
        let value =
            |wanted: &str| self.0.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.as_str());
        let mut sentence = value(MESSAGE).unwrap_or_default().to_owned();
        let others = self.0.iter().filter(|(name, _)| *name != MESSAGE);
        for (number, (name, value)) in others.enumerate() {
            let before = if number == 0 { " (" } else { ", " };
            // Writing into a String does not fail.
            write!(sentence, "{before}{name}={value}").ok();
        }
        if self.0.iter().any(|(name, _)| *name != MESSAGE) {
            sentence.push(')');
        }
        sentence
    }
}

impl JournalFields {
    /// Adds fields; the innermost of one name stays.
    pub(super) fn add(&mut self, fields: &Fields) {
        for (name, value) in fields.0.iter().filter(|(name, _)| *name != MESSAGE) {
            let name = journal_name(name);
            self.0.retain(|(known, _)| *known != name);
            self.0.push((name, value.clone()));
        }
    }
}

/// `model.name` is `HEARTH_MODEL`, `request.id` is `HEARTH_REQUEST_ID`.
fn journal_name(name: &str) -> String {
    let name = if name == "model.name" { "model" } else { name };
    PREFIX.to_owned() + &name.replace('.', "_").to_ascii_uppercase()
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.push((field.name(), value.to_owned()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.push((field.name(), format!("{value:?}")));
    }
}

impl Source for JournalFields {
    fn visit<'kvs>(&'kvs self, visitor: &mut dyn VisitSource<'kvs>) -> Result<(), Error> {
        self.0.iter().try_for_each(|(name, value)| {
            visitor.visit_pair(Key::from_str(name), Value::from(value.as_str()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&'static str, &str)]) -> Fields {
        Fields(pairs.iter().map(|(name, value)| (*name, (*value).to_owned())).collect())
    }

    #[test]
    fn a_sentence_says_all_the_event_says() {
        assert_eq!(fields(&[(MESSAGE, "Ready")]).sentence(), "Ready");
        let event = fields(&[(MESSAGE, "Changed state"), ("model.name", "a"), ("state.new", "Ready")]);
        assert_eq!(event.sentence(), "Changed state (model.name=a, state.new=Ready)");
    }

    #[test]
    fn the_innermost_field_of_a_name_stays() {
        let mut journal = JournalFields::default();
        journal.add(&fields(&[("model.name", "outer"), ("request.id", "7")]));
        journal.add(&fields(&[("model.name", "inner"), (MESSAGE, "x")]));
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(journal.0, [pair("HEARTH_REQUEST_ID", "7"), pair("HEARTH_MODEL", "inner")]);
    }
}
