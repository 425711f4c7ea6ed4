//! Reads vectors. The shared folder lies beside the repository, or where `HEARTH_SHARED` says.

use crate::chat::json::Json;
use crate::chat::{Conversation, Date, Message, Role, Thinking, Tool, ToolCall, ToolChoice};
use std::path::{Path, PathBuf};

/// One vector file.
pub(crate) struct Vector {
    pub(crate) name: String,
    pub(crate) json: Json,
}

/// The folder of shared data, if this machine has it.
pub(crate) fn shared() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let folder = std::env::var_os("HEARTH_SHARED").map_or(beside, PathBuf::from);
    folder.join("vectors").is_dir().then_some(folder)
}

/// The project's own vectors of a kind, then the shared ones.
pub(crate) fn load(kind: &str) -> Vec<Vector> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors").join(kind);
    let mut vectors = load_folder(&own);
    assert!(!vectors.is_empty(), "no vectors in {}", own.display());
    if let Some(shared) = shared() {
        vectors.extend(load_folder(&shared.join("vectors").join(kind).join("dev")));
    }
    vectors
}

fn load_folder(folder: &Path) -> Vec<Vector> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = files.filter(|f| f.extension().is_some_and(|e| e == "json")).collect();
    files.sort();
    files.iter().map(|file| Vector::read(file)).collect()
}

impl Vector {
    /// Reads one file.
    pub(crate) fn read(file: &Path) -> Self {
        let text = std::fs::read_to_string(file).unwrap();
        Self {
            name: file.file_stem().unwrap().to_string_lossy().into_owned(),
            json: Json::parse(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display())),
        }
    }
}

/// A template, by the path that vectors give: relative to the shared folder, or to the own vectors.
pub(crate) fn template(path: &str) -> String {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors");
    let folders = [Some(own), shared()];
    let mut files = folders.into_iter().flatten().map(|folder| folder.join(path));
    let file = files.find(|file| file.is_file()).unwrap_or_else(|| panic!("no {path}"));
    std::fs::read_to_string(file).unwrap()
}

impl Json {
    /// A member that must be there.
    pub(crate) fn at(&self, key: &str) -> &Self {
        self.get(key).unwrap_or_else(|| panic!("no {key}"))
    }

    /// A member that is there and not null.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        let Self::Object(members) = self else { return None };
        let found = members.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| value).filter(|value| **value != Self::Null)
    }

    pub(crate) fn str(&self) -> &str {
        let Self::String(text) = self else { panic!("no string: {self:?}") };
        text
    }

    pub(crate) fn items(&self) -> &[Self] {
        let Self::Array(items) = self else { panic!("no array: {self:?}") };
        items
    }

    pub(crate) fn members(&self) -> &[(String, Self)] {
        let Self::Object(members) = self else { panic!("no object: {self:?}") };
        members
    }

    pub(crate) fn is_true(&self) -> bool {
        *self == Self::Bool(true)
    }

    /// Compact JSON text.
    pub(crate) fn write(&self) -> String {
        match self {
            Self::Null => "null".to_owned(),
            Self::Bool(value) => value.to_string(),
            Self::Number(digits) => digits.clone(),
            Self::String(text) => serde_json::to_string(text).unwrap(),
            Self::Array(items) => {
                let items: Vec<String> = items.iter().map(Self::write).collect();
                format!("[{}]", items.join(","))
            }
            Self::Object(members) => {
                let pairs = members
                    .iter()
                    .map(|(key, value)| format!("{}:{}", serde_json::to_string(key).unwrap(), value.write()));
                format!("{{{}}}", pairs.collect::<Vec<_>>().join(","))
            }
        }
    }
}

/// The request of a render vector.
pub(crate) fn conversation(vector: &Json) -> Conversation {
    let tools = vector.get("tools").map_or(&[][..], Json::items);
    let date = vector.get("template_kwargs").and_then(|kwargs| kwargs.get("date_string"));
    Conversation {
        messages: vector.at("messages").items().iter().map(message).collect(),
        tools: tools.iter().map(tool).collect(),
        tool_choice: ToolChoice::Auto,
        parallel: None,
        thinking_budget: None,
        thinking: match vector.get("enable_thinking") {
            Some(on) if on.is_true() => Thinking::On,
            Some(_) => Thinking::Off,
            None => Thinking::ModelDefault,
        },
        add_generation_prompt: vector.at("add_generation_prompt").is_true(),
        date: date.map(|date| Date::parse(date.str()).unwrap()),
    }
}

fn message(json: &Json) -> Message {
    let text = |key: &str| json.get(key).map(|value| value.str().to_owned());
    Message {
        role: role(json.at("role").str()),
        parts: json.get("content").map(parts).unwrap_or_default(),
        reasoning: text("reasoning_content"),
        tool_calls: json.get("tool_calls").map(calls).unwrap_or_default(),
        tool_call_id: text("tool_call_id"),
        name: text("name"),
    }
}

fn role(name: &str) -> Role {
    match name {
        "system" => Role::System,
        "developer" => Role::Developer,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "tool" => Role::Tool,
        other => panic!("no role {other}"),
    }
}

fn parts(content: &Json) -> Vec<String> {
    match content {
        Json::String(text) => vec![text.clone()],
        parts => parts.items().iter().map(|part| part.at("text").str().to_owned()).collect(),
    }
}

fn calls(json: &Json) -> Vec<ToolCall> {
    let call = |json: &Json| ToolCall {
        id: json.get("id").map_or("", Json::str).to_owned(),
        name: json.at("function").at("name").str().to_owned(),
        arguments: match json.at("function").at("arguments") {
            Json::String(text) => text.clone(),
            object => object.write(),
        },
    };
    json.items().iter().map(call).collect()
}

pub(crate) fn tool(json: &Json) -> Tool {
    let function = json.at("function");
    let parameters = function.get("parameters").map(Json::write);
    let description = function.get("description").map(Json::str);
    Tool::new(0, function.at("name").str(), description, parameters.as_deref()).unwrap()
}
