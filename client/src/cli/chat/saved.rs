//! A conversation in a file: `/save` and `/load`.
//!
//! JSON that a person can read and another program can make: `{"hearth_conversation": 1, "model", "system",
//! "messages": [{"role", "content", "reasoning", "tool_calls", "tool_call_id"}]}`. Only its owner can read
//! the file.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use hearth_client::v1::{self, content_part};
use serde::{Deserialize, Serialize};

use super::talk::text_of;

/// Counts up with every change that an older program could not read.
const FORMAT: u32 = 1;

/// What the file holds.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Saved {
    hearth_conversation: u32,
    pub(super) model: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) system: Option<String>,
    messages: Vec<Message>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Message {
    role: Role,
    content: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reasoning: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Call>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Role {
    System,
    User,
    Assistant,
    Tool,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    id: String,
    name: String,
    /// JSON text, as the model wrote it.
    arguments: String,
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum SaveError {
    #[error("{} is not a saved conversation", .0.display())]
    NotOurs(PathBuf, #[source] serde_json::Error),
    #[error("{} is of a newer version of hearth (format {})", .0.display(), .1)]
    Newer(PathBuf, u32),
    #[error("{} is there already and is no saved conversation: choose another name", .0.display())]
    InTheWay(PathBuf),
    #[error("cannot {} {}", .doing, path.display())]
    File { doing: &'static str, path: PathBuf, source: io::Error },
}

impl Saved {
    pub(super) fn of(model: &str, system: Option<&str>, said: &[v1::Message]) -> Self {
        Self {
            hearth_conversation: FORMAT,
            model: model.to_owned(),
            system: system.map(str::to_owned),
            messages: said.iter().map(Message::of).collect(),
        }
    }

    /// What was said, oldest first.
    pub(super) fn messages(&self) -> Vec<v1::Message> {
        self.messages.iter().map(Message::to_wire).collect()
    }

    /// Writes it whole or not at all. Another conversation is replaced, any other file is not.
    pub(super) fn write(&self, path: &Path) -> Result<(), SaveError> {
        if path.exists() && Self::read(path).is_err() {
            return Err(SaveError::InTheWay(path.to_owned()));
        }
        let failed = |source| SaveError::File { doing: "write", path: path.to_owned(), source };
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.new", std::process::id()));
        let fresh = path.with_file_name(name);
        let written = self.write_new(&fresh).and_then(|()| fs::rename(&fresh, path));
        written.inspect_err(|_| drop(fs::remove_file(&fresh))).map_err(failed)
    }

    fn write_new(&self, path: &Path) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(&text)?;
        file.sync_all()
    }

    pub(super) fn read(path: &Path) -> Result<Self, SaveError> {
        let failed = |source| SaveError::File { doing: "read", path: path.to_owned(), source };
        let text = fs::read(path).map_err(failed)?;
        let saved: Self =
            serde_json::from_slice(&text).map_err(|source| SaveError::NotOurs(path.to_owned(), source))?;
        match saved.hearth_conversation {
            0..=FORMAT => Ok(saved),
            newer => Err(SaveError::Newer(path.to_owned(), newer)),
        }
    }
}

impl Message {
    fn of(message: &v1::Message) -> Self {
        let call = |call: &v1::ToolCall| Call {
            id: call.id.clone(),
            name: call.name.clone(),
            arguments: call.arguments.clone(),
        };
        Self {
            role: match message.role() {
                v1::Role::System => Role::System,
                v1::Role::Assistant => Role::Assistant,
                v1::Role::Tool => Role::Tool,
                v1::Role::User | v1::Role::Unspecified => Role::User,
            },
            content: text_of(message),
            reasoning: message.reasoning.clone(),
            tool_calls: message.tool_calls.iter().map(call).collect(),
            tool_call_id: message.tool_call_id.clone(),
        }
    }

    fn to_wire(&self) -> v1::Message {
        let role = match self.role {
            Role::System => v1::Role::System,
            Role::User => v1::Role::User,
            Role::Assistant => v1::Role::Assistant,
            Role::Tool => v1::Role::Tool,
        };
        let call = |Call { id, name, arguments }: &Call| v1::ToolCall {
            id: id.clone(),
            name: name.clone(),
            arguments: arguments.clone(),
        };
        // An answer of nothing but calls has no content; everything else has, even if it is empty.
        let is_empty = self.content.is_empty() && !self.tool_calls.is_empty();
        let part = v1::ContentPart { part: Some(content_part::Part::Text(self.content.clone())) };
        v1::Message {
            role: role.into(),
            parts: if is_empty { Vec::new() } else { vec![part] },
            tool_calls: self.tool_calls.iter().map(call).collect(),
            tool_call_id: self.tool_call_id.clone(),
            reasoning: self.reasoning.clone(),
            name: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn conversation() -> Vec<v1::Message> {
        let text = |role: v1::Role, text: &str| v1::Message {
            role: role.into(),
            parts: vec![v1::ContentPart { part: Some(content_part::Part::Text(text.to_owned())) }],
            ..v1::Message::default()
        };
        let call = v1::ToolCall { id: "c".to_owned(), name: "n".to_owned(), arguments: "{ }".to_owned() };
        vec![
            text(v1::Role::User, "hi\n"),
            v1::Message {
                role: v1::Role::Assistant.into(),
                reasoning: Some("hm".to_owned()),
                tool_calls: vec![call],
                ..v1::Message::default()
            },
            v1::Message { tool_call_id: Some("c".to_owned()), ..text(v1::Role::Tool, "42") },
            text(v1::Role::Assistant, "it is 42"),
        ]
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("talk.json");
        let saved = Saved::of("demo", Some("be brief"), &conversation());
        saved.write(&path).expect("written");
        saved.write(&path).expect("written over the first");
        let loaded = Saved::read(&path).expect("read");
        assert_eq!(loaded, saved);
        assert_eq!(loaded.messages(), conversation());
        let mode = fs::metadata(&path).expect("is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 1, "nothing is left beside it");
    }

    #[test]
    fn another_file_is_neither_replaced_nor_loaded() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("notes.txt");
        fs::write(&path, "mine").expect("written");
        assert!(matches!(Saved::of("m", None, &[]).write(&path), Err(SaveError::InTheWay(_))));
        assert!(matches!(Saved::read(&path), Err(SaveError::NotOurs(..))));
        assert_eq!(fs::read_to_string(&path).expect("still there"), "mine");
        fs::write(&path, r#"{"hearth_conversation":2,"model":"m","messages":[]}"#).expect("written");
        assert!(matches!(Saved::read(&path), Err(SaveError::Newer(_, 2))));
    }
}
