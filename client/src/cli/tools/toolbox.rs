//! What answers the calls of a model without a person having to write the result.

use hearth_client::v1;

use super::command::{Program, ToolCommand};
use super::{CannedResult, result_of};

/// Whether programs run without being asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::cli) enum Consent {
    /// The person is asked each time.
    #[default]
    Ask,
    /// `--yes`.
    Given,
}

/// Canned results and programs, by the name of the tool.
#[derive(Clone, Debug, Default)]
pub(in crate::cli) struct Toolbox {
    pub(in crate::cli) canned: Vec<CannedResult>,
    pub(in crate::cli) commands: Vec<ToolCommand>,
    pub(in crate::cli) consent: Consent,
}

/// How a call can be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Means<'a> {
    Said(&'a str),
    Program(&'a Program),
}

impl Toolbox {
    /// Of several means for one tool, a canned result, else the last command.
    pub(in crate::cli) fn means(&self, call: &v1::ToolCall) -> Option<Means<'_>> {
        let command = || self.commands.iter().rev().find(|command| command.name == call.name);
        match result_of(&self.canned, call) {
            Some(text) => Some(Means::Said(text)),
            None => command().map(|command| Means::Program(&command.program)),
        }
    }

    /// Whether nobody need be asked about this call.
    pub(in crate::cli) fn answers(&self, call: &v1::ToolCall) -> bool {
        match self.means(call) {
            Some(Means::Said(_)) => true,
            Some(Means::Program(_)) => self.consent == Consent::Given,
            None => false,
        }
    }

    /// Whether it answers no call at all.
    pub(in crate::cli) fn is_empty(&self) -> bool {
        self.canned.is_empty() && self.commands.is_empty()
    }

    /// Whether somebody must be there to say yes.
    pub(in crate::cli) fn asks(&self) -> bool {
        !self.commands.is_empty() && self.consent == Consent::Ask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(name: &str) -> v1::ToolCall {
        v1::ToolCall { name: name.to_owned(), ..v1::ToolCall::default() }
    }

    fn toolbox(consent: Consent) -> Toolbox {
        let canned = vec![CannedResult::parse("a=1").expect("a result")];
        let commands = vec![
            ToolCommand::parse("a=x").expect("a command"),
            ToolCommand::parse("b=y").expect("a command"),
            ToolCommand::parse("b=z").expect("a command"),
        ];
        Toolbox { canned, commands, consent }
    }

    #[test]
    fn a_canned_result_comes_before_a_program_and_the_last_program_counts() {
        let toolbox = toolbox(Consent::Ask);
        assert_eq!(toolbox.means(&call("a")), Some(Means::Said("1")));
        assert!(matches!(toolbox.means(&call("b")), Some(Means::Program(p)) if p.text() == "z"));
        assert_eq!(toolbox.means(&call("c")), None);
    }

    #[test]
    fn a_program_runs_by_itself_only_with_consent() {
        assert!(!toolbox(Consent::Ask).answers(&call("b")));
        assert!(toolbox(Consent::Given).answers(&call("b")));
        assert!(toolbox(Consent::Ask).answers(&call("a")));
        assert!(toolbox(Consent::Ask).asks() && !toolbox(Consent::Given).asks());
    }
}
