//! Reads vectors: JSON whose fields may be missing or wrong.

use std::path::Path;

use crate::chat::json::{Json, JsonError};
use crate::chat::{Conversation, Date, Message, Role, Thinking, Tool, ToolCall, ToolChoice};

/// Why a vector cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum VectorError {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Read(#[from] std::io::Error),
    /// It is no JSON.
    #[error("is not JSON: {0}")]
    Json(#[from] JsonError),
    /// A field is missing or of another kind.
    #[error("`{field}` must be {wanted}")]
    Field {
        /// Its name.
        field: String,
        /// What it should be.
        wanted: &'static str,
    },
    /// A template or vocabulary is missing.
    #[error("there is no {path}, neither in the folder nor beside it, nor in {inside}/")]
    NoFile {
        /// What was looked for.
        path: String,
        /// Where it would be, too.
        inside: String,
    },
    /// A template or vocabulary cannot be used.
    #[error("{0}")]
    Unusable(String),
}

type Read<T> = Result<T, VectorError>;

pub(crate) fn read(path: &Path) -> Read<Json> {
    Ok(Json::parse(&std::fs::read_to_string(path)?)?)
}

fn wrong<T>(field: &str, wanted: &'static str) -> Read<T> {
    Err(VectorError::Field { field: field.to_owned(), wanted })
}

/// A member that is there and not null.
pub(crate) fn get<'a>(json: &'a Json, field: &str) -> Option<&'a Json> {
    json.member(field).filter(|value| **value != Json::Null)
}

pub(crate) fn text<'a>(json: &'a Json, field: &str) -> Read<&'a str> {
    match get(json, field) {
        Some(Json::String(text)) => Ok(text),
        _ => wrong(field, "text"),
    }
}

pub(crate) fn optional_text<'a>(json: &'a Json, field: &str) -> Read<Option<&'a str>> {
    get(json, field).map(|_| text(json, field)).transpose()
}

/// An array; an absent one is empty.
pub(crate) fn items<'a>(json: &'a Json, field: &str) -> Read<&'a [Json]> {
    match get(json, field) {
        None => Ok(&[]),
        Some(Json::Array(items)) => Ok(items),
        Some(_) => wrong(field, "an array"),
    }
}

/// An object; an absent one is empty.
pub(crate) fn members<'a>(json: &'a Json, field: &str) -> Read<&'a [(String, Json)]> {
    match get(json, field) {
        None => Ok(&[]),
        Some(Json::Object(members)) => Ok(members),
        Some(_) => wrong(field, "an object"),
    }
}

/// The architecture and the control tokens of the model that a vector is for.
pub(crate) fn family(model: &str) -> (&'static str, Vec<String>) {
    let owned = |tokens: &[&str]| tokens.iter().map(|&token| token.to_owned()).collect::<Vec<_>>();
    if model.starts_with("qwen3") {
        let tokens = [
            "<|endoftext|>",
            "<|im_start|>",
            "<|im_end|>",
            "<|object_ref_start|>",
            "<|object_ref_end|>",
            "<|box_start|>",
            "<|box_end|>",
            "<|quad_start|>",
            "<|quad_end|>",
            "<|vision_start|>",
            "<|vision_end|>",
            "<|vision_pad|>",
            "<|image_pad|>",
            "<|video_pad|>",
        ];
        ("qwen3", owned(&tokens))
    } else if model.starts_with("glm-4") {
        let tokens = [
            "<|endoftext|>",
            "[MASK]",
            "[gMASK]",
            "[sMASK]",
            "<sop>",
            "<eop>",
            "<|system|>",
            "<|user|>",
            "<|assistant|>",
            "<|observation|>",
            "<|begin_of_image|>",
            "<|end_of_image|>",
            "<|begin_of_video|>",
            "<|end_of_video|>",
        ];
        ("glm4", owned(&tokens))
    } else {
        let named = [
            "<|begin_of_text|>",
            "<|end_of_text|>",
            "<|finetune_right_pad_id|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|eom_id|>",
            "<|eot_id|>",
            "<|python_tag|>",
        ];
        let reserved = (0..248).map(|at| format!("<|reserved_special_token_{at}|>"));
        ("llama", owned(&named).into_iter().chain(reserved).collect())
    }
}

/// The request of a render vector.
pub(crate) fn conversation(json: &Json) -> Read<Conversation> {
    let date =
        get(json, "template_kwargs").map_or(Ok(None), |kwargs| optional_text(kwargs, "date_string"))?;
    let date = date.map(Date::parse).transpose();
    Ok(Conversation {
        messages: items(json, "messages")?.iter().map(message).collect::<Read<_>>()?,
        tools: items(json, "tools")?.iter().map(tool).collect::<Read<_>>()?,
        tool_choice: ToolChoice::Auto,
        parallel: None,
        thinking_budget: None,
        thinking: match get(json, "enable_thinking") {
            Some(Json::Bool(true)) => Thinking::On,
            Some(_) => Thinking::Off,
            None => Thinking::ModelDefault,
        },
        add_generation_prompt: get(json, "add_generation_prompt") != Some(&Json::Bool(false)),
        date: date.or_else(|_| wrong("date_string", "a date such as 26 Jul 2024"))?,
    })
}

fn message(json: &Json) -> Read<Message> {
    let owned = |field| Ok::<_, VectorError>(optional_text(json, field)?.map(str::to_owned));
    Ok(Message {
        role: role(text(json, "role")?)?,
        parts: parts(json)?,
        reasoning: owned("reasoning_content")?,
        tool_calls: items(json, "tool_calls")?.iter().map(call).collect::<Read<_>>()?,
        tool_call_id: owned("tool_call_id")?,
        name: owned("name")?,
    })
}

fn role(name: &str) -> Read<Role> {
    Ok(match name {
        "system" => Role::System,
        "developer" => Role::Developer,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "tool" => Role::Tool,
        _ => return wrong("role", "system, developer, user, assistant or tool"),
    })
}

fn parts(json: &Json) -> Read<Vec<String>> {
    match get(json, "content") {
        None => Ok(Vec::new()),
        Some(Json::String(text)) => Ok(vec![text.clone()]),
        Some(_) => items(json, "content")?.iter().map(|part| Ok(text(part, "text")?.to_owned())).collect(),
    }
}

fn call(json: &Json) -> Read<ToolCall> {
    let Some(function) = get(json, "function") else { return wrong("function", "an object") };
    Ok(ToolCall {
        id: optional_text(json, "id")?.unwrap_or_default().to_owned(),
        name: text(function, "name")?.to_owned(),
        arguments: match get(function, "arguments") {
            Some(Json::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => String::new(),
        },
    })
}

fn tool(json: &Json) -> Read<Tool> {
    let Some(function) = get(json, "function") else { return wrong("function", "an object") };
    let parameters = get(function, "parameters").map(Json::to_string);
    let description = optional_text(function, "description")?;
    Tool::new(0, text(function, "name")?, description, parameters.as_deref())
        .or_else(|_| wrong("tools", "tools with a name and a schema"))
}
