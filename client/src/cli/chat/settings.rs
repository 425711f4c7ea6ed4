//! What `/set` sets: how tokens are chosen, and how long the model stays, by the names that the API has.

use std::fmt::Display;
use std::str::FromStr;

use hearth_client::KeepAlive;

use crate::cli::keep_alive;
use crate::cli::setup::Setup;

/// A name and the value that it shall have. None: what the model's own default says.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Change {
    setting: &'static Setting,
    value: Option<String>,
}

/// Why nothing can be set.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(super) enum BadChange {
    #[error("there is no setting {0}; /set lists them")]
    Unknown(String),
    #[error("write /set {0} VALUE, or /set {0} default")]
    NoValue(&'static str),
    #[error("{name} takes {takes}, not {value}")]
    Value { name: &'static str, takes: &'static str, value: String },
}

/// A setting: where it is, and what it takes.
#[derive(Debug)]
struct Setting {
    name: &'static str,
    takes: &'static str,
    slot: Slot,
}

impl PartialEq for Setting {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

#[derive(Debug)]
enum Slot {
    Real(fn(&mut Setup) -> &mut Option<f32>),
    Whole(fn(&mut Setup) -> &mut Option<u32>),
    Long(fn(&mut Setup) -> &mut Option<u64>),
    Stay(fn(&mut Setup) -> &mut Option<KeepAlive>),
}

static SETTINGS: [Setting; 11] = [
    Setting { name: "temperature", takes: "0 to 2", slot: Slot::Real(|s| &mut s.sampling.temperature) },
    Setting { name: "top_p", takes: "0 to 1", slot: Slot::Real(|s| &mut s.sampling.top_p) },
    Setting { name: "top_k", takes: "a whole number", slot: Slot::Whole(|s| &mut s.sampling.top_k) },
    Setting { name: "min_p", takes: "0 to 1", slot: Slot::Real(|s| &mut s.sampling.min_p) },
    Setting { name: "repeat_penalty", takes: "0 to 2", slot: Slot::Real(|s| &mut s.sampling.repeat_penalty) },
    Setting {
        name: "presence_penalty",
        takes: "-2 to 2",
        slot: Slot::Real(|s| &mut s.sampling.presence_penalty),
    },
    Setting {
        name: "frequency_penalty",
        takes: "-2 to 2",
        slot: Slot::Real(|s| &mut s.sampling.frequency_penalty),
    },
    Setting {
        name: "penalty_window",
        takes: "a whole number",
        slot: Slot::Whole(|s| &mut s.sampling.penalty_window),
    },
    Setting { name: "seed", takes: "a whole number", slot: Slot::Long(|s| &mut s.sampling.seed) },
    Setting { name: "max_tokens", takes: "a whole number", slot: Slot::Whole(|s| &mut s.max_tokens) },
    Setting { name: "keep_alive", takes: "a time, or forever", slot: Slot::Stay(|s| &mut s.keep_alive) },
];

/// All names, for completion.
pub(super) fn names() -> [&'static str; 11] {
    SETTINGS.each_ref().map(|setting| setting.name)
}

/// Reads `NAME VALUE`.
pub(super) fn parse(text: &str) -> Result<Change, BadChange> {
    let (name, value) = text.split_once([' ', '=']).unwrap_or((text, ""));
    let setting = SETTINGS.iter().find(|setting| setting.name == name);
    let setting = setting.ok_or_else(|| BadChange::Unknown(name.to_owned()))?;
    let change = match value.trim() {
        "" => return Err(BadChange::NoValue(setting.name)),
        "default" => Change { setting, value: None },
        value => Change { setting, value: Some(value.to_owned()) },
    };
    // A wrong value is told now, and changes nothing.
    change.apply(&mut Setup::default()).map(|()| change)
}

impl Change {
    /// Sets it.
    pub(super) fn apply(&self, setup: &mut Setup) -> Result<(), BadChange> {
        let Setting { name, takes, slot } = self.setting;
        let value = self.value.as_deref();
        let set = match slot {
            Slot::Real(of) => {
                fill(of(setup), value, |text| number(text).filter(|number: &f32| number.is_finite()))
            }
            Slot::Whole(of) => fill(of(setup), value, number),
            Slot::Long(of) => fill(of(setup), value, number),
            Slot::Stay(of) => fill(of(setup), value, |text| keep_alive::parse(text).ok()),
        };
        set.ok_or_else(|| BadChange::Value { name, takes, value: value.unwrap_or_default().to_owned() })
    }
}

/// None, and nothing changed: the value cannot be read.
fn fill<T>(slot: &mut Option<T>, value: Option<&str>, read: impl Fn(&str) -> Option<T>) -> Option<()> {
    *slot = match value {
        Some(text) => Some(read(text)?),
        None => None,
    };
    Some(())
}

fn number<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

/// One line for each setting.
pub(super) fn shown(setup: &Setup) -> Vec<String> {
    let mut setup = setup.clone();
    SETTINGS.iter().map(|setting| format!("{:<18}  {}", setting.name, value(setting, &mut setup))).collect()
}

fn value(Setting { takes, slot, .. }: &Setting, setup: &mut Setup) -> String {
    fn text(value: Option<impl Display>, takes: &str) -> String {
        value.map_or_else(|| format!("default  ({takes})"), |value| value.to_string())
    }
    match slot {
        Slot::Real(of) => text(*of(setup), takes),
        Slot::Whole(of) => text(*of(setup), takes),
        Slot::Long(of) => text(*of(setup), takes),
        Slot::Stay(of) => text(of(setup).map(keep_alive::shown), takes),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn set(setup: &mut Setup, text: &str) {
        parse(text).expect("can be read").apply(setup).expect("can be set");
    }

    #[test]
    fn values_are_set_and_given_back_to_the_default() {
        let mut setup = Setup::default();
        set(&mut setup, "temperature 0.5");
        set(&mut setup, "seed=18446744073709551615");
        set(&mut setup, "max_tokens  7");
        assert_eq!((setup.sampling.temperature, setup.sampling.seed), (Some(0.5), Some(u64::MAX)));
        assert_eq!(setup.max_tokens, Some(7));
        set(&mut setup, "keep_alive 10m");
        assert_eq!(setup.keep_alive, Some(KeepAlive::For(Duration::from_secs(600))));
        set(&mut setup, "keep_alive forever");
        assert!(shown(&setup).iter().any(|line| line.ends_with("  forever")));
        set(&mut setup, "temperature default");
        assert_eq!(setup.sampling.temperature, None);
    }

    #[test]
    fn what_cannot_be_set_says_why() {
        let told = |text: &str| parse(text).expect_err("is wrong").to_string();
        assert_eq!(told("heat 1"), "there is no setting heat; /set lists them");
        assert_eq!(told("top_k"), "write /set top_k VALUE, or /set top_k default");
        assert_eq!(told("top_k 1.5"), "top_k takes a whole number, not 1.5");
        assert_eq!(told("keep_alive soon"), "keep_alive takes a time, or forever, not soon");
        assert_eq!(told("temperature NaN"), "temperature takes 0 to 2, not NaN");
    }

    #[test]
    fn every_setting_is_shown() {
        let mut setup = Setup::default();
        set(&mut setup, "top_p 0.9");
        let lines = shown(&setup);
        assert_eq!(lines.len(), names().len());
        assert!(lines[1].ends_with("  0.9"), "{lines:?}");
        assert!(lines[2].ends_with("default  (a whole number)"), "{lines:?}");
    }
}
