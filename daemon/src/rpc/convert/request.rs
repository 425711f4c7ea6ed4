//! Requests, from the wire to the domain.

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hearth_proto::v1 as pb;
use serde_json::Value;

use super::super::status::Invalid;
use super::{model_name, model_ref};
use crate::engines::request::{
    Conversation, Message, PENALTY_WINDOW, Prompt, Role, Sampling, Thinking, Tool, ToolCall, ToolUse,
};
use crate::store::ModelRef;
use crate::units::{Bytes, Digest, ModelName};

/// Bounds of the API, as its comments state them.
const STOPS: usize = 16;
const STOP_BYTES: usize = 256;
const LOGPROBS: u32 = 20;
const LOGIT_BIASES: usize = 1024;
const TOOL_NAME: RangeInclusive<usize> = 1..=64;
const WATCH_INTERVAL: Duration = Duration::from_millis(1000);
const LEAST_WATCH_INTERVAL_MS: u32 = 100;

/// A request for an answer, without what the call adds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Generate {
    pub(crate) model: ModelRef,
    pub(crate) prompt: Prompt,
    pub(crate) sampling: Sampling,
    pub(crate) seed: Option<u64>,
    pub(crate) stop: Vec<String>,
    pub(crate) max_tokens: Option<u32>,
    pub(crate) logprobs: Option<u32>,
}

/// What is to be imported.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ImportHead {
    pub(crate) name: ModelName,
    pub(crate) sha256: Option<Digest>,
    pub(crate) source: ImportSource,
}

/// Where an import comes from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ImportSource {
    /// The client sends so many bytes.
    Sent(Bytes),
    /// A file of this machine.
    Path(String),
}

impl TryFrom<pb::GenerateRequest> for Generate {
    type Error = Invalid;

    fn try_from(request: pb::GenerateRequest) -> Result<Self, Invalid> {
        let pb::GenerateRequest { model, prompt, sampling, stop, max_tokens, logprobs } = request;
        let model = model_ref(&model)?;
        let prompt = prompt_of(prompt)?;
        let (sampling, seed) = sampling_of(sampling.unwrap_or_default())?;
        check_stops(&stop)?;
        if max_tokens == Some(0) {
            return Err(Invalid::new("max_tokens", "must be at least 1"));
        }
        within("logprobs", logprobs, LOGPROBS)?;
        Ok(Self { model, prompt, sampling, seed, stop, max_tokens, logprobs })
    }
}

fn check_stops(stop: &[String]) -> Result<(), Invalid> {
    if stop.len() > STOPS {
        return Err(Invalid::new("stop", format!("has {} texts, at most {STOPS} are allowed", stop.len())));
    }
    for (i, text) in stop.iter().enumerate() {
        if !(1..=STOP_BYTES).contains(&text.len()) {
            return Err(Invalid::new(format!("stop[{i}]"), format!("must have 1 to {STOP_BYTES} bytes")));
        }
    }
    Ok(())
}

/// A prompt, which is required.
pub(crate) fn prompt_of(prompt: Option<pb::Prompt>) -> Result<Prompt, Invalid> {
    use pb::prompt::Kind;
    let missing = || Invalid::new("prompt", "is required");
    match prompt.and_then(|pb::Prompt { kind }| kind).ok_or_else(missing)? {
        Kind::Raw(text) if text.is_empty() => Err(Invalid::new("prompt.raw", "is empty")),
        Kind::Raw(text) => Ok(Prompt::Raw(text)),
        Kind::Conversation(conversation) => conversation_of(conversation).map(Prompt::Conversation),
    }
}

fn conversation_of(conversation: pb::Conversation) -> Result<Conversation, Invalid> {
    const PATH: &str = "prompt.conversation";
    let tool_use = tool_use_of(conversation.tool_choice)?;
    let thinking = match pb::Thinking::try_from(conversation.thinking) {
        Ok(pb::Thinking::Unspecified) => Thinking::Default,
        Ok(pb::Thinking::On) => Thinking::On,
        Ok(pb::Thinking::Off) => Thinking::Off,
        Err(_) => return Err(unknown(format!("{PATH}.thinking"), conversation.thinking)),
    };
    let pb::Conversation { messages, tools, tool_choice: _, thinking: _ } = conversation;
    if messages.is_empty() {
        return Err(Invalid::new(format!("{PATH}.messages"), "is required"));
    }
    let mut calls = Calls::default();
    let messages = messages.into_iter().enumerate();
    let messages =
        messages.map(|(i, message)| message_of(&format!("{PATH}.messages[{i}]"), message, &mut calls));
    let messages = messages.collect::<Result<_, _>>()?;
    let mut names = HashSet::new();
    let tools = tools.into_iter().enumerate();
    let tools = tools.map(|(i, tool)| tool_of(&format!("{PATH}.tools[{i}]"), tool, &mut names));
    let tools = tools.collect::<Result<_, _>>()?;
    Ok(Conversation { messages, tools, tool_use, thinking, date: date(SystemTime::now()) })
}

fn tool_use_of(choice: Option<pb::ToolChoice>) -> Result<ToolUse, Invalid> {
    use pb::tool_choice::Mode;
    let pb::ToolChoice { mode } = choice.unwrap_or_default();
    match Mode::try_from(mode) {
        Ok(Mode::Unspecified | Mode::Auto) => Ok(ToolUse::Allowed),
        Ok(Mode::None) => Ok(ToolUse::Forbidden),
        Err(_) => Err(unknown("prompt.conversation.tool_choice.mode", mode)),
    }
}

/// The ids of the calls so far.
#[derive(Default)]
struct Calls {
    ids: HashSet<String>,
}

fn message_of(path: &str, message: pb::Message, calls: &mut Calls) -> Result<Message, Invalid> {
    let field = |name: &str| format!("{path}.{name}");
    let role = match pb::Role::try_from(message.role) {
        Ok(pb::Role::System) => Role::System,
        Ok(pb::Role::User) => Role::User,
        Ok(pb::Role::Assistant) => Role::Assistant,
        Ok(pb::Role::Tool) => Role::Tool,
        Ok(pb::Role::Unspecified) => return Err(Invalid::new(field("role"), "is required")),
        Err(_) => return Err(unknown(field("role"), message.role)),
    };
    let pb::Message { role: _, parts, tool_calls, tool_call_id, reasoning, name } = message;
    only(role == Role::Assistant || tool_calls.is_empty(), field("tool_calls"), "an assistant")?;
    only(role == Role::Assistant || reasoning.is_none(), field("reasoning"), "an assistant")?;
    only(role == Role::Tool || tool_call_id.is_none(), field("tool_call_id"), "a tool")?;
    if parts.is_empty() && tool_calls.is_empty() {
        return Err(Invalid::new(field("parts"), "is required"));
    }
    if let Some(id) = tool_call_id.as_ref().filter(|id| !calls.ids.contains(*id)) {
        return Err(Invalid::new(field("tool_call_id"), format!("no call before has the id `{id}`")));
    }
    let parts = parts.into_iter().enumerate();
    let parts = parts.map(|(i, part)| part_of(&format!("{path}.parts[{i}]"), part));
    let parts = parts.collect::<Result<_, _>>()?;
    let tool_calls = tool_calls.into_iter().enumerate();
    let tool_calls = tool_calls.map(|(i, call)| call_of(&format!("{path}.tool_calls[{i}]"), call, calls));
    let tool_calls = tool_calls.collect::<Result<_, _>>()?;
    Ok(Message { role, parts, tool_calls, tool_call_id, reasoning, name })
}

fn only(fits: bool, field: String, who: &str) -> Result<(), Invalid> {
    if fits { Ok(()) } else { Err(Invalid::new(field, format!("is only for a message of {who}"))) }
}

fn part_of(path: &str, part: pb::ContentPart) -> Result<String, Invalid> {
    use pb::content_part::Part;
    match part.part {
        Some(Part::Text(text)) => Ok(text),
        None => Err(Invalid::new(path, "has no content that this daemon knows")),
    }
}

fn call_of(path: &str, call: pb::ToolCall, calls: &mut Calls) -> Result<ToolCall, Invalid> {
    let pb::ToolCall { id, name, arguments } = call;
    if id.is_empty() {
        return Err(Invalid::new(format!("{path}.id"), "is required"));
    }
    if !calls.ids.insert(id.clone()) {
        return Err(Invalid::new(format!("{path}.id"), format!("`{id}` is the id of a call before")));
    }
    check_tool_name(&format!("{path}.name"), &name)?;
    check_object(&format!("{path}.arguments"), &arguments)?;
    Ok(ToolCall { id, name, arguments })
}

fn tool_of(path: &str, tool: pb::Tool, names: &mut HashSet<String>) -> Result<Tool, Invalid> {
    let pb::Tool { name, description, parameters } = tool;
    check_tool_name(&format!("{path}.name"), &name)?;
    if !names.insert(name.clone()) {
        return Err(Invalid::new(format!("{path}.name"), format!("`{name}` is declared twice")));
    }
    if let Some(parameters) = &parameters {
        check_object(&format!("{path}.parameters"), parameters)?;
    }
    Ok(Tool { name, description, parameters })
}

fn check_tool_name(path: &str, name: &str) -> Result<(), Invalid> {
    let known = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
    if TOOL_NAME.contains(&name.len()) && name.bytes().all(known) {
        return Ok(());
    }
    Err(Invalid::new(path, "must have 1 to 64 characters out of A-Z a-z 0-9 _ - ."))
}

/// JSON whose outermost value is an object. serde_json bounds its depth.
fn check_object(path: &str, text: &str) -> Result<(), Invalid> {
    match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(_)) => Ok(()),
        Ok(_) => Err(Invalid::new(path, "is JSON but not an object")),
        Err(error) => Err(Invalid::new(path, format!("is not JSON: {error}"))),
    }
}

fn sampling_of(sampling: pb::Sampling) -> Result<(Sampling, Option<u64>), Invalid> {
    let pb::Sampling {
        temperature,
        top_p,
        top_k,
        min_p,
        repeat_penalty,
        presence_penalty,
        frequency_penalty,
        penalty_window,
        seed,
        logit_bias,
    } = sampling;
    in_range("temperature", temperature, 0.0..=2.0)?;
    above_zero("top_p", top_p, 1.0)?;
    in_range("min_p", min_p, 0.0..=1.0)?;
    above_zero("repeat_penalty", repeat_penalty, 2.0)?;
    in_range("presence_penalty", presence_penalty, -2.0..=2.0)?;
    in_range("frequency_penalty", frequency_penalty, -2.0..=2.0)?;
    within("sampling.penalty_window", penalty_window, PENALTY_WINDOW)?;
    let logit_bias = biases_of(logit_bias)?;
    let sampling = Sampling {
        temperature,
        top_p,
        top_k,
        min_p,
        repeat_penalty,
        presence_penalty,
        frequency_penalty,
        penalty_window,
        logit_bias,
    };
    Ok((sampling, seed))
}

fn biases_of(biases: Vec<pb::LogitBias>) -> Result<Vec<(u32, f32)>, Invalid> {
    if biases.len() > LOGIT_BIASES {
        let why = format!("has {} entries, at most {LOGIT_BIASES} are allowed", biases.len());
        return Err(Invalid::new("sampling.logit_bias", why));
    }
    let biases = biases.into_iter().enumerate().map(|(i, pb::LogitBias { token, bias })| {
        in_range(&format!("logit_bias[{i}].bias"), Some(bias), -100.0..=100.0)?;
        Ok((token, bias))
    });
    biases.collect()
}

fn in_range(name: &str, value: Option<f32>, range: RangeInclusive<f32>) -> Result<(), Invalid> {
    match value {
        // Not a number is in no range.
        Some(number) if !range.contains(&number) => {
            let why = format!("{number} is not within {} to {}", range.start(), range.end());
            Err(Invalid::new(format!("sampling.{name}"), why))
        }
        _ => Ok(()),
    }
}

fn above_zero(name: &str, value: Option<f32>, most: f32) -> Result<(), Invalid> {
    match value {
        Some(number) if !(number > 0.0 && number <= most) => {
            let why = format!("{number} is not above 0 and up to {most}");
            Err(Invalid::new(format!("sampling.{name}"), why))
        }
        _ => Ok(()),
    }
}

fn within(field: &str, value: Option<u32>, most: u32) -> Result<(), Invalid> {
    match value {
        Some(number) if number > most => {
            Err(Invalid::new(field, format!("{number} is not within 0 to {most}")))
        }
        _ => Ok(()),
    }
}

fn unknown(field: impl Into<String>, value: i32) -> Invalid {
    Invalid::new(field, format!("this daemon does not know the value {value}"))
}

impl TryFrom<pb::ImportHeader> for ImportHead {
    type Error = Invalid;

    fn try_from(header: pb::ImportHeader) -> Result<Self, Invalid> {
        match pb::FileRole::try_from(header.role) {
            Ok(pb::FileRole::Unspecified | pb::FileRole::Weights) => {}
            Err(_) => return Err(unknown("header.role", header.role)),
        }
        let pb::ImportHeader { name, size_bytes, sha256, role: _, source_path } = header;
        let bad_digest = |error: crate::units::BadDigest| Invalid::new("header.sha256", error.to_string());
        let source = match source_path {
            Some(path) if path.starts_with('/') => ImportSource::Path(path),
            Some(_) => return Err(Invalid::new("header.source_path", "is not an absolute path")),
            None if size_bytes == 0 => {
                return Err(Invalid::new(
                    "header.size_bytes",
                    "must be the size of the file, which must not be empty",
                ));
            }
            None => ImportSource::Sent(Bytes(size_bytes)),
        };
        Ok(Self {
            name: model_name("header.name", &name)?,
            sha256: sha256.map(|digits| digits.parse().map_err(bad_digest)).transpose()?,
            source,
        })
    }
}

/// Least time between two messages of a watch.
pub(crate) fn watch_interval(request: pb::WatchStatusRequest) -> Result<Duration, Invalid> {
    let pb::WatchStatusRequest { min_interval_ms } = request;
    match min_interval_ms {
        None => Ok(WATCH_INTERVAL),
        Some(ms) if ms >= LEAST_WATCH_INTERVAL_MS => Ok(Duration::from_millis(ms.into())),
        Some(_) => {
            Err(Invalid::new("min_interval_ms", format!("must be at least {LEAST_WATCH_INTERVAL_MS}")))
        }
    }
}

/// `26 Jul 2024`, in UTC: boards rarely know better.
fn date(now: SystemTime) -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let days = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / 86_400;
    // Days are counted from 1 March of the year 0, so that a leap day is the last of its year.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let year = era * 400 + year_of_era + u64::from(month >= 10);
    let name = usize::try_from((month + 2) % 12).map_or("Jan", |month| MONTHS[month]);
    format!("{day:02} {name} {year}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(role: pb::Role, text: &str) -> pb::Message {
        let part = pb::content_part::Part::Text(text.to_owned());
        pb::Message {
            role: role.into(),
            parts: vec![pb::ContentPart { part: Some(part) }],
            ..pb::Message::default()
        }
    }

    fn call(id: &str, arguments: &str) -> pb::ToolCall {
        pb::ToolCall { id: id.to_owned(), name: "f".to_owned(), arguments: arguments.to_owned() }
    }

    fn request(messages: Vec<pb::Message>) -> pb::GenerateRequest {
        let conversation = pb::Conversation { messages, ..pb::Conversation::default() };
        let kind = pb::prompt::Kind::Conversation(conversation);
        pb::GenerateRequest {
            model: "demo".to_owned(),
            prompt: Some(pb::Prompt { kind: Some(kind) }),
            ..pb::GenerateRequest::default()
        }
    }

    fn field(request: pb::GenerateRequest) -> String {
        Generate::try_from(request).map(|_| String::new()).unwrap_or_else(|invalid| invalid.field)
    }

    fn sampled(change: impl FnOnce(&mut pb::Sampling)) -> String {
        let mut sampling = pb::Sampling::default();
        change(&mut sampling);
        field(pb::GenerateRequest { sampling: Some(sampling), ..request(vec![text(pb::Role::User, "hi")]) })
    }

    #[test]
    fn a_plain_question_passes() {
        assert_eq!(field(request(vec![text(pb::Role::User, "hi")])), "");
    }

    #[test]
    fn a_fault_names_its_path() {
        let ok = || text(pb::Role::User, "hi");
        let assistant = |calls| pb::Message {
            role: pb::Role::Assistant.into(),
            tool_calls: calls,
            ..pb::Message::default()
        };
        let result =
            |id: &str| pb::Message { tool_call_id: Some(id.to_owned()), ..text(pb::Role::Tool, "4") };
        let cases = [
            (vec![], "prompt.conversation.messages"),
            (vec![pb::Message::default()], "prompt.conversation.messages[0].role"),
            (vec![ok(), pb::Message { role: 99, ..ok() }], "prompt.conversation.messages[1].role"),
            (vec![pb::Message { parts: vec![], ..ok() }], "prompt.conversation.messages[0].parts"),
            (
                vec![pb::Message { parts: vec![pb::ContentPart { part: None }], ..ok() }],
                "prompt.conversation.messages[0].parts[0]",
            ),
            (
                vec![pb::Message { tool_calls: vec![call("1", "{}")], ..ok() }],
                "prompt.conversation.messages[0].tool_calls",
            ),
            (
                vec![assistant(vec![call("1", "{}"), call("2", "[1")])],
                "prompt.conversation.messages[0].tool_calls[1].arguments",
            ),
            (
                vec![assistant(vec![call("1", "{}"), call("1", "{}")])],
                "prompt.conversation.messages[0].tool_calls[1].id",
            ),
            (
                vec![assistant(vec![call("1", "{}")]), result("2")],
                "prompt.conversation.messages[1].tool_call_id",
            ),
            (vec![assistant(vec![call("1", "{}")]), result("1")], ""),
        ];
        for (messages, wanted) in cases {
            assert_eq!(field(request(messages)), wanted);
        }
        assert_eq!(field(pb::GenerateRequest::default()), "model");
        assert_eq!(field(pb::GenerateRequest { prompt: None, ..request(vec![]) }), "prompt");
    }

    #[test]
    fn numbers_keep_their_ranges() {
        assert_eq!(sampled(|s| s.temperature = Some(2.0)), "");
        assert_eq!(sampled(|s| s.temperature = Some(f32::NAN)), "sampling.temperature");
        assert_eq!(sampled(|s| s.top_p = Some(0.0)), "sampling.top_p");
        assert_eq!(sampled(|s| s.min_p = Some(-0.1)), "sampling.min_p");
        assert_eq!(sampled(|s| s.repeat_penalty = Some(f32::INFINITY)), "sampling.repeat_penalty");
        assert_eq!(sampled(|s| s.presence_penalty = Some(-2.1)), "sampling.presence_penalty");
        assert_eq!(sampled(|s| s.penalty_window = Some(5000)), "sampling.penalty_window");
        let bias = pb::LogitBias { token: 1, bias: 101.0 };
        assert_eq!(sampled(|s| s.logit_bias = vec![bias]), "sampling.logit_bias[0].bias");
        let user = || request(vec![text(pb::Role::User, "hi")]);
        assert_eq!(field(pb::GenerateRequest { max_tokens: Some(0), ..user() }), "max_tokens");
        assert_eq!(field(pb::GenerateRequest { logprobs: Some(21), ..user() }), "logprobs");
        assert_eq!(field(pb::GenerateRequest { stop: vec![String::new()], ..user() }), "stop[0]");
        assert_eq!(field(pb::GenerateRequest { stop: vec!["x".to_owned(); 17], ..user() }), "stop");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        let at = |seconds| date(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "01 Jan 1970");
        assert_eq!(at(951_782_400), "29 Feb 2000");
        assert_eq!(at(1_721_952_000), "26 Jul 2024");
        assert_eq!(at(1_735_689_599), "31 Dec 2024");
    }

    #[test]
    fn an_import_says_what_comes() {
        let head = |header: pb::ImportHeader| ImportHead::try_from(header).map_err(|invalid| invalid.field);
        let header =
            |name: &str| pb::ImportHeader { name: name.to_owned(), size_bytes: 1, ..Default::default() };
        assert!(head(header("a")).is_ok());
        assert_eq!(head(header("a/b")).err().as_deref(), Some("header.name"));
        let empty = pb::ImportHeader { size_bytes: 0, ..header("a") };
        assert_eq!(head(empty).err().as_deref(), Some("header.size_bytes"));
        let digest = pb::ImportHeader { sha256: Some("xyz".to_owned()), ..header("a") };
        assert_eq!(head(digest).err().as_deref(), Some("header.sha256"));
        let path = pb::ImportHeader { source_path: Some("../x".to_owned()), ..header("a") };
        assert_eq!(head(path).err().as_deref(), Some("header.source_path"));
    }
}
