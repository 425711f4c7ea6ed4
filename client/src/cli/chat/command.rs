//! The commands of a conversation: lines that begin with one `/`.

use std::path::PathBuf;

use clap::ValueEnum;

use super::settings::{self, Change};
use crate::cli::prompt::Think;

/// What a person gave at the prompt.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Said {
    Nothing,
    Text(String),
    Command(Command),
}

/// A command.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Command {
    /// Instructions from now on. None: no instructions.
    System(Option<String>),
    Think(Think),
    /// Tools from a file. None: no tools.
    Tools(Option<PathBuf>),
    Save(PathBuf),
    Load(PathBuf),
    Clear,
    Retry,
    /// None: show what is set.
    Set(Option<Change>),
    Help,
    Quit,
}

/// What a command is called, what follows it, and what it does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Name {
    pub(super) name: &'static str,
    pub(super) follows: &'static str,
    pub(super) does: &'static str,
}

pub(super) const NAMES: [Name; 10] = [
    Name { name: "/help", follows: "", does: "this list" },
    Name { name: "/system", follows: "TEXT|off", does: "instructions from now on" },
    Name { name: "/think", follows: "on|off|auto", does: "whether the model thinks before it answers" },
    Name { name: "/tools", follows: "FILE|off", does: "tools that the model may call" },
    Name {
        name: "/set",
        follows: "[NAME VALUE|default]",
        does: "how tokens are chosen and how long the model stays; alone: what is set",
    },
    Name { name: "/retry", follows: "", does: "ask the last question again" },
    Name { name: "/clear", follows: "", does: "forget what was said" },
    Name { name: "/save", follows: "FILE", does: "write the conversation to a file" },
    Name { name: "/load", follows: "FILE", does: "go on from a saved conversation" },
    Name { name: "/quit", follows: "", does: "end, as Ctrl-D does" },
];

/// Other words for commands, which older versions had.
const ALIASES: [(&str, &str); 2] = [("/reset", "/clear"), ("/exit", "/quit")];

/// Why a line is no command.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(super) enum BadCommand {
    #[error("there is no command {name}{}; /help lists them, /{name} says it to the model", did_you_mean(*near))]
    Unknown { name: String, near: Option<&'static str> },
    #[error("write {name} {follows}")]
    Usage { name: &'static str, follows: &'static str },
    #[error("{0} takes nothing behind it")]
    TooMuch(&'static str),
    #[error(transparent)]
    Set(#[from] settings::BadChange),
}

fn did_you_mean(near: Option<&str>) -> String {
    near.map(|name| format!(" (did you mean {name}?)")).unwrap_or_default()
}

/// Reads what was given. `//x` says `/x`.
pub(super) fn parse(input: &str) -> Result<Said, BadCommand> {
    let trimmed = input.trim();
    if trimmed.is_empty() {
        return Ok(Said::Nothing);
    }
    match trimmed.strip_prefix('/') {
        None => Ok(Said::Text(input.to_owned())),
        Some(rest) if rest.starts_with('/') => Ok(Said::Text(rest.to_owned())),
        Some(_) => {
            let (name, rest) = trimmed.split_once(char::is_whitespace).unwrap_or((trimmed, ""));
            command(find(name)?, rest.trim()).map(Said::Command)
        }
    }
}

fn find(name: &str) -> Result<Name, BadCommand> {
    let name = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, name)| name);
    let known = NAMES.iter().find(|known| known.name == name);
    known.copied().ok_or_else(|| BadCommand::Unknown { name: name.to_owned(), near: near(name) })
}

/// The command that a wrong one may have meant.
fn near(name: &str) -> Option<&'static str> {
    let names = NAMES.iter().map(|known| known.name);
    let begun = names.clone().find(|known| name.len() > 1 && known.starts_with(name));
    let close = names.map(|known| (strsim::damerau_levenshtein(known, name), known)).min();
    begun.or_else(|| close.filter(|(steps, _)| *steps <= 2).map(|(_, known)| known))
}

fn command(Name { name, follows, .. }: Name, rest: &str) -> Result<Command, BadCommand> {
    let usage = BadCommand::Usage { name, follows };
    let off = rest == "off";
    let file = || if rest.is_empty() { Err(usage.clone()) } else { Ok(path(rest)) };
    let alone = |command| if rest.is_empty() { Ok(command) } else { Err(BadCommand::TooMuch(name)) };
    match name {
        "/system" if rest.is_empty() => Err(usage),
        "/system" => Ok(Command::System((!off).then(|| rest.to_owned()))),
        "/think" => Think::from_str(rest, true).map(Command::Think).map_err(|_| usage),
        "/tools" if off => Ok(Command::Tools(None)),
        "/tools" => file().map(Some).map(Command::Tools),
        "/save" => file().map(Command::Save),
        "/load" => file().map(Command::Load),
        "/set" if rest.is_empty() => Ok(Command::Set(None)),
        "/set" => Ok(Command::Set(Some(settings::parse(rest)?))),
        "/clear" => alone(Command::Clear),
        "/retry" => alone(Command::Retry),
        "/quit" => alone(Command::Quit),
        _ => alone(Command::Help),
    }
}

/// The name of a file: as completion quotes it, or as a person writes it, blanks and all.
fn path(text: &str) -> PathBuf {
    let word = match shlex::split(text).as_deref() {
        Some([word]) => word.clone(),
        _ => text.to_owned(),
    };
    match (word.strip_prefix("~/"), std::env::home_dir()) {
        (Some(below), Some(home)) => home.join(below),
        _ => word.into(),
    }
}

/// The words that may follow what stands before the cursor, and where the unfinished word begins. None:
/// the name of a file.
pub(super) fn completions(before: &str) -> Option<(usize, Vec<String>)> {
    let matching = |words: &[&str], begun: &str| {
        let fits = words.iter().filter(|word| word.starts_with(begun));
        fits.map(|word| format!("{word} ")).collect()
    };
    let Some((name, rest)) = before.split_once(' ') else {
        return Some((0, matching(&NAMES.map(|known| known.name), before)));
    };
    let at = before.len() - rest.len();
    match name {
        "/think" => Some((at, matching(&["on", "off", "auto"], rest))),
        "/set" => Some((at, matching(&settings::names(), rest))),
        "/tools" | "/save" | "/load" => None,
        _ => Some((at, Vec::new())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(input: &str) -> Command {
        match parse(input) {
            Ok(Said::Command(command)) => command,
            other => panic!("{input}: {other:?}"),
        }
    }

    #[test]
    fn text_is_said_as_it_is() {
        assert_eq!(parse("  \n "), Ok(Said::Nothing));
        assert_eq!(parse(" a\nb"), Ok(Said::Text(" a\nb".to_owned())));
        assert_eq!(parse("//clear"), Ok(Said::Text("/clear".to_owned())));
        assert_eq!(parse("1/2"), Ok(Said::Text("1/2".to_owned())));
    }

    #[test]
    fn commands_are_read_with_what_follows_them() {
        assert_eq!(
            done("/system You run\na station."),
            Command::System(Some("You run\na station.".to_owned()))
        );
        assert_eq!(done("/system off"), Command::System(None));
        assert_eq!(done(" /think OFF "), Command::Think(Think::Off));
        assert_eq!(done("/tools my tools.json"), Command::Tools(Some("my tools.json".into())));
        assert_eq!(done("/tools my\\ tools.json"), Command::Tools(Some("my tools.json".into())));
        assert_eq!(done("/tools it's.json"), Command::Tools(Some("it's.json".into())));
        assert_eq!(done("/tools off"), Command::Tools(None));
        assert_eq!(done("/save x"), Command::Save("x".into()));
        assert_eq!(done("/set"), Command::Set(None));
        assert!(matches!(done("/set top_k 5"), Command::Set(Some(_))));
        assert_eq!((done("/reset"), done("/exit")), (Command::Clear, Command::Quit));
        assert_eq!(done("/help"), Command::Help);
    }

    #[test]
    fn a_wrong_command_suggests_the_near_one() {
        let near = |input: &str| match parse(input) {
            Err(BadCommand::Unknown { near, .. }) => near,
            other => panic!("{input}: {other:?}"),
        };
        assert_eq!(near("/hlep"), Some("/help"));
        assert_eq!(near("/sys"), Some("/system"));
        assert_eq!(near("/qiut now"), Some("/quit"));
        assert_eq!(near("/usr/bin/hearth"), None);
        let told = parse("/hlep").expect_err("is wrong").to_string();
        assert_eq!(
            told,
            "there is no command /hlep (did you mean /help?); /help lists them, //hlep says it to the model"
        );
    }

    #[test]
    fn a_command_with_the_wrong_rest_says_how_it_is_written() {
        assert_eq!(parse("/think maybe").expect_err("is wrong").to_string(), "write /think on|off|auto");
        assert_eq!(parse("/save").expect_err("is wrong").to_string(), "write /save FILE");
        assert_eq!(parse("/clear all").expect_err("is wrong").to_string(), "/clear takes nothing behind it");
    }

    #[test]
    fn every_name_is_read_and_completed() {
        for Name { name, .. } in NAMES {
            assert!(!matches!(parse(name), Err(BadCommand::Unknown { .. })), "{name}");
            assert_eq!(completions(name), Some((0, vec![format!("{name} ")])));
        }
        assert_eq!(completions("/s").map(|(_, words)| words.len()), Some(3));
        assert_eq!(completions("/think o"), Some((7, vec!["on ".to_owned(), "off ".to_owned()])));
        assert_eq!(completions("/set top_k"), Some((5, vec!["top_k ".to_owned()])));
        assert_eq!(completions("/save "), None);
    }
}
