//! The held-out cases of the demo model, asked through Hearth.

use std::path::Path;

use hearth_client::{Answer, ChatRequest, Client, Error, Reply, v1};
use serde_json::Value;

use crate::answer::greedy;

/// One question with its one right answer.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it tests, e.g. `fact`.
    pub category: String,
    /// Whether the model thinks first.
    pub thinking: bool,
    /// Without the messages.
    request: ChatRequest,
    messages: Vec<v1::Message>,
    expected: Expected,
}

/// How a case is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// One request; the model decides whether it calls.
    Auto,
    /// One request that demands a call.
    Required,
    /// The model makes the call that leads to the result, and answers, on one stream.
    Converse,
}

impl Way {
    /// Every way.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Required, Self::Converse];

    /// Its name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Required => "required",
            Self::Converse => "Converse",
        }
    }
}

#[derive(Clone, Debug)]
enum Expected {
    Text(String),
    Call { tool: String, arguments: Value },
}

/// What an answer got right.
#[derive(Clone, Copy, Debug, Default)]
pub struct Score {
    /// A thought where one was asked for, and only there; calls in the right frame with JSON inside.
    pub format: bool,
    /// The right tool; the same as `whole` where no call is right.
    pub tool: bool,
    /// All of it, word for word.
    pub whole: bool,
}

/// Every case of the file, in its order.
///
/// # Panics
/// When the file is missing or damaged.
pub fn cases() -> Vec<Case> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo-model/eval/heldout.jsonl");
    let text = std::fs::read_to_string(file).expect("the held-out cases");
    text.lines().map(|line| case(&serde_json::from_str(line).expect("a line of JSON"))).collect()
}

fn case(line: &Value) -> Case {
    let thinking = line["thinking"].as_bool().expect("thinking");
    let how = if thinking { v1::Thinking::On } else { v1::Thinking::Off };
    let mut request = ChatRequest::new("demo").thinking(how).sampling(greedy()).max_tokens(256);
    for tool in line["tools"].as_array().expect("tools") {
        request = request.tool(v1::Tool {
            name: text(tool, "name"),
            description: tool["description"].as_str().map(str::to_owned),
            parameters: Some(tool["parameters"].to_string()),
        });
    }
    let messages = line["messages"].as_array().expect("messages").iter().map(said).collect();
    let expect = &line["expect"];
    let expected = match expect["tool"].as_str() {
        Some(tool) => Expected::Call { tool: tool.to_owned(), arguments: expect["arguments"].clone() },
        None => Expected::Text(text(expect, "text")),
    };
    Case { category: text(line, "category"), thinking, request, messages, expected }
}

fn said(message: &Value) -> v1::Message {
    let role = match message["role"].as_str() {
        Some("system") => v1::Role::System,
        Some("user") => v1::Role::User,
        Some("assistant") => v1::Role::Assistant,
        Some("tool") => v1::Role::Tool,
        other => panic!("a role: {other:?}"),
    };
    let content = message["content"].as_str().filter(|text| !text.is_empty());
    let content =
        content.map(|text| v1::ContentPart { part: Some(v1::content_part::Part::Text(text.to_owned())) });
    let calls = message["tool_calls"].as_array().map(Vec::as_slice).unwrap_or_default();
    let call = |call: &Value| v1::ToolCall {
        id: text(call, "id"),
        name: text(call, "name"),
        arguments: text(call, "arguments"),
    };
    v1::Message {
        role: role.into(),
        parts: content.into_iter().collect(),
        tool_calls: calls.iter().map(call).collect(),
        tool_call_id: message["tool_call_id"].as_str().map(str::to_owned),
        ..v1::Message::default()
    }
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_else(|| panic!("{key} in {value}")).to_owned()
}

impl Case {
    /// Whether it can be asked so: a call is demanded only where one is right, and a stream needs a result.
    pub fn suits(&self, way: Way) -> bool {
        match way {
            Way::Auto => true,
            Way::Required => matches!(self.expected, Expected::Call { .. }),
            Way::Converse => self.loop_ahead().is_some(),
        }
    }

    /// Asks it greedily.
    ///
    /// # Errors
    /// What the daemon says.
    ///
    /// # Panics
    /// When the case does not suit the way.
    pub async fn ask(&self, client: &Client, way: Way) -> Result<Score, Error> {
        let answer = match way {
            Way::Auto => client.generate(self.request()).await?.answer().await?,
            Way::Required => client.generate(self.request().required_tools()).await?.answer().await?,
            Way::Converse => return self.converse(client).await,
        };
        Ok(self.score(&answer))
    }

    /// What is asked, the call that is right, and what the tool says.
    fn loop_ahead(&self) -> Option<(&[v1::Message], &v1::ToolCall, &v1::Message)> {
        let [before @ .., assistant, result] = &self.messages[..] else { return None };
        match &assistant.tool_calls[..] {
            [call] if result.role() == v1::Role::Tool => Some((before, call, result)),
            _ => None,
        }
    }

    /// The question as one request.
    pub fn request(&self) -> ChatRequest {
        self.with(&self.messages)
    }

    fn with(&self, messages: &[v1::Message]) -> ChatRequest {
        messages.iter().cloned().fold(self.request.clone(), ChatRequest::message)
    }

    async fn converse(&self, client: &Client) -> Result<Score, Error> {
        let (before, right, result) = self.loop_ahead().expect("a case with a result");
        let mut talk = client.converse(self.with(before)).await?;
        let turn = talk.turn().await?.expect("a turn");
        let arguments = |text: &str| serde_json::from_str::<Value>(text).ok();
        match &turn.tool_calls[..] {
            [call]
                if call.name == right.name && arguments(&call.arguments) == arguments(&right.arguments) =>
            {
                let said = result.parts.iter().filter_map(|part| match &part.part {
                    Some(v1::content_part::Part::Text(text)) => Some(text.as_str()),
                    _ => None,
                });
                talk.reply(Reply::new().result(&call.id, said.collect::<String>())).await?;
                let answer = talk.turn().await?.expect("an answer");
                Ok(self.score(&answer))
            }
            _ => Ok(Score { format: true, ..Score::default() }),
        }
    }

    fn score(&self, answer: &Answer) -> Score {
        let json =
            answer.tool_calls.iter().all(|call| serde_json::from_str::<Value>(&call.arguments).is_ok());
        let framed = !answer.text.contains("tool_call>") && !answer.text.contains("think>");
        let ended = answer
            .finished
            .as_ref()
            .is_some_and(|end| matches!(end.reason(), v1::FinishReason::Stop | v1::FinishReason::ToolCalls));
        let format = json && framed && ended && answer.reasoning.is_empty() != self.thinking;
        let (tool, whole) = match &self.expected {
            Expected::Text(text) => {
                let right = answer.tool_calls.is_empty() && answer.text.trim() == text;
                (right, right)
            }
            Expected::Call { tool, arguments } => match &answer.tool_calls[..] {
                [call] => {
                    let given = serde_json::from_str::<Value>(&call.arguments).ok();
                    (call.name == *tool, call.name == *tool && given.as_ref() == Some(arguments))
                }
                _ => (false, false),
            },
        };
        Score { format, tool, whole }
    }
}
