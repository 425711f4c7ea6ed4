//! A request that reads like the conversation it carries.

use std::time::Duration;

use crate::v1::{self, content_part, output, prompt, tool_choice};
use crate::{Call, CallOptions, KeepAlive};

/// A conversation to answer, built part by part, oldest message first.
///
/// ```
/// use hearth_client::{ChatRequest, v1};
///
/// let request = ChatRequest::new("qwen3:8b")
///     .system("You run a weather station.")
///     .user("How warm is it?")
///     .tool(v1::Tool {
///         name: "read_sensor".to_owned(),
///         description: Some("Reads a sensor.".to_owned()),
///         parameters: Some(r#"{"type":"object","properties":{"sensor":{"type":"string"}}}"#.to_owned()),
///     })
///     .thinking(v1::Thinking::Off)
///     .max_tokens(200);
/// # drop(request);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChatRequest {
    model: String,
    conversation: v1::Conversation,
    sampling: Option<v1::Sampling>,
    stop: Vec<String>,
    max_tokens: Option<u32>,
    logprobs: Option<u32>,
    output: Option<v1::Output>,
    keep_alive: Option<KeepAlive>,
    options: CallOptions,
}

impl ChatRequest {
    /// An empty conversation with a model: `name[:tag]`, or the first digits of its digest.
    pub fn new(model: impl Into<String>) -> Self {
        Self { model: model.into(), ..Self::default() }
    }

    /// Adds instructions.
    #[must_use]
    pub fn system(self, text: impl Into<String>) -> Self {
        self.message(said(v1::Role::System, text))
    }

    /// Adds what the person or program asks.
    #[must_use]
    pub fn user(self, text: impl Into<String>) -> Self {
        self.message(said(v1::Role::User, text))
    }

    /// Adds what the model answered before. An [`Answer`](crate::Answer) with thoughts or calls is added
    /// by its [`message`](crate::Answer::message).
    #[must_use]
    pub fn assistant(self, text: impl Into<String>) -> Self {
        self.message(said(v1::Role::Assistant, text))
    }

    /// Adds the result of the call with this id.
    #[must_use]
    pub fn tool_result(self, call_id: impl Into<String>, text: impl Into<String>) -> Self {
        self.message(v1::Message { tool_call_id: Some(call_id.into()), ..said(v1::Role::Tool, text) })
    }

    /// Adds any message.
    #[must_use]
    pub fn message(mut self, message: v1::Message) -> Self {
        self.conversation.messages.push(message);
        self
    }

    /// Lets the model call one more tool.
    #[must_use]
    pub fn tool(mut self, tool: v1::Tool) -> Self {
        self.conversation.tools.push(tool);
        self
    }

    /// Lets the model call these tools too.
    #[must_use]
    pub fn tools(mut self, tools: impl IntoIterator<Item = v1::Tool>) -> Self {
        self.conversation.tools.extend(tools);
        self
    }

    /// Says whether the model may call its tools. A tool is named by [`named_tool`](Self::named_tool).
    #[must_use]
    pub fn tool_choice(mut self, mode: tool_choice::Mode) -> Self {
        let choice = self.choice();
        choice.mode = mode.into();
        choice.name.clear();
        self
    }

    /// Has the model call at least one of its tools, and say nothing else.
    #[must_use]
    pub fn required_tools(self) -> Self {
        self.tool_choice(tool_choice::Mode::Required)
    }

    /// Has the model call this one of its tools, and say nothing else.
    #[must_use]
    pub fn named_tool(self, name: impl Into<String>) -> Self {
        let mut request = self.tool_choice(tool_choice::Mode::Named);
        request.choice().name = name.into();
        request
    }

    /// Says whether one answer may make several calls. Without it, a model does what it was trained to.
    #[must_use]
    pub fn parallel_tools(mut self, allowed: bool) -> Self {
        self.choice().parallel = Some(allowed);
        self
    }

    /// Says whether the model thinks before it answers.
    #[must_use]
    pub fn thinking(mut self, thinking: v1::Thinking) -> Self {
        self.conversation.thinking = thinking.into();
        self
    }

    /// Bounds the thought; it is closed in good order then, and the answer follows.
    #[must_use]
    pub fn thinking_budget(mut self, tokens: u32) -> Self {
        self.conversation.thinking_budget = Some(tokens);
        self
    }

    /// Has the answer be a JSON object.
    #[must_use]
    pub fn json(self) -> Self {
        self.output(output::Kind::Json(v1::JsonObject {}))
    }

    /// Has the answer be JSON that this JSON Schema, itself JSON as text, allows.
    #[must_use]
    pub fn json_schema(self, schema: impl Into<String>) -> Self {
        self.output(output::Kind::JsonSchema(schema.into()))
    }

    /// Has the answer be a text that this regular expression matches as a whole.
    #[must_use]
    pub fn regex(self, regex: impl Into<String>) -> Self {
        self.output(output::Kind::Regex(regex.into()))
    }

    /// Has the answer be a text of this grammar, in the Lark syntax of llguidance.
    #[must_use]
    pub fn grammar(self, grammar: impl Into<String>) -> Self {
        self.output(output::Kind::Grammar(grammar.into()))
    }

    /// Gives the answer a form; the last one that was given holds.
    #[must_use]
    pub fn output(mut self, form: output::Kind) -> Self {
        self.output = Some(v1::Output { kind: Some(form) });
        self
    }

    /// Says how tokens are chosen.
    #[must_use]
    pub fn sampling(mut self, sampling: v1::Sampling) -> Self {
        self.sampling = Some(sampling);
        self
    }

    /// Ends the answer before this text too.
    #[must_use]
    pub fn stop(mut self, text: impl Into<String>) -> Self {
        self.stop.push(text.into());
        self
    }

    /// Bounds the answer, thoughts included.
    #[must_use]
    pub fn max_tokens(mut self, tokens: u32) -> Self {
        self.max_tokens = Some(tokens);
        self
    }

    /// Asks for the log probability of each token and of this many alternatives.
    #[must_use]
    pub fn logprobs(mut self, alternatives: u32) -> Self {
        self.logprobs = Some(alternatives);
        self
    }

    /// Says how long the model stays in memory once nobody uses it; holds until a later request says otherwise or
    /// the model is unloaded.
    #[must_use]
    pub fn keep_alive(mut self, keep_alive: KeepAlive) -> Self {
        self.keep_alive = Some(keep_alive);
        self
    }

    /// Bounds the time from the call to the end of the answer.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.options.deadline = Some(deadline);
        self
    }

    /// Names the request in events and logs.
    #[must_use]
    pub fn request_id(mut self, id: impl Into<String>) -> Self {
        self.options.request_id = Some(id.into());
        self
    }

    /// Says which trace the request belongs to, as W3C Trace Context writes it.
    #[must_use]
    pub fn traceparent(mut self, trace: impl Into<String>) -> Self {
        self.options.traceparent = Some(trace.into());
        self
    }

    /// The messages so far, oldest first.
    pub fn messages(&self) -> &[v1::Message] {
        &self.conversation.messages
    }

    /// The same once its calls have their results: who had to call need not call again.
    pub(crate) fn answered(self) -> Self {
        match self.conversation.tool_choice.as_ref().map(v1::ToolChoice::mode) {
            Some(tool_choice::Mode::Required | tool_choice::Mode::Named) => {
                self.tool_choice(tool_choice::Mode::Auto)
            }
            _ => self,
        }
    }

    fn choice(&mut self) -> &mut v1::ToolChoice {
        self.conversation.tool_choice.get_or_insert_default()
    }

    fn into_prompt(self) -> (String, Option<v1::Prompt>, CallOptions) {
        let kind = prompt::Kind::Conversation(self.conversation);
        (self.model, Some(v1::Prompt { kind: Some(kind) }), self.options)
    }
}

impl From<ChatRequest> for Call<v1::GenerateRequest> {
    fn from(mut request: ChatRequest) -> Self {
        let sampling = request.sampling.take();
        let stop = std::mem::take(&mut request.stop);
        let (max_tokens, logprobs) = (request.max_tokens, request.logprobs);
        let output = request.output.take();
        let keep_alive_ms = request.keep_alive.map(KeepAlive::to_ms);
        let (model, prompt, options) = request.into_prompt();
        let message = v1::GenerateRequest {
            model,
            prompt,
            sampling,
            stop,
            max_tokens,
            logprobs,
            output,
            keep_alive_ms,
        };
        Self { message, options }
    }
}

impl From<ChatRequest> for Call<v1::RenderRequest> {
    fn from(request: ChatRequest) -> Self {
        let (model, prompt, options) = request.into_prompt();
        Self { message: v1::RenderRequest { model, prompt, with_tokens: false }, options }
    }
}

impl From<ChatRequest> for Call<v1::CountTokensRequest> {
    fn from(request: ChatRequest) -> Self {
        let (model, prompt, options) = request.into_prompt();
        Self { message: v1::CountTokensRequest { model, prompt }, options }
    }
}

/// A message of nothing but text.
pub(crate) fn said(role: v1::Role, text: impl Into<String>) -> v1::Message {
    let part = v1::ContentPart { part: Some(content_part::Part::Text(text.into())) };
    v1::Message { role: role.into(), parts: vec![part], ..v1::Message::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conversation(call: &Call<v1::GenerateRequest>) -> &v1::Conversation {
        match call.message.prompt.as_ref().and_then(|p| p.kind.as_ref()) {
            Some(prompt::Kind::Conversation(conversation)) => conversation,
            other => panic!("not a conversation: {other:?}"),
        }
    }

    #[test]
    fn parts_keep_their_order() {
        let request = ChatRequest::new("m").system("s").user("u").assistant("a").tool_result("c1", "42");
        let call: Call<v1::GenerateRequest> = request.into();
        let roles: Vec<_> = conversation(&call).messages.iter().map(v1::Message::role).collect();
        assert_eq!(roles, [v1::Role::System, v1::Role::User, v1::Role::Assistant, v1::Role::Tool]);
        assert_eq!(conversation(&call).messages[3].tool_call_id.as_deref(), Some("c1"));
    }

    #[test]
    fn what_was_not_said_is_absent() {
        let call: Call<v1::GenerateRequest> = ChatRequest::new("m").user("u").into();
        assert_eq!(call.options, CallOptions::default());
        assert_eq!(call.message.sampling, None);
        assert_eq!((call.message.max_tokens, call.message.keep_alive_ms), (None, None));
        assert_eq!(conversation(&call).tool_choice, None);
        assert_eq!(conversation(&call).thinking(), v1::Thinking::Unspecified);
    }

    #[test]
    fn options_reach_the_wire() {
        let sampling = v1::Sampling { temperature: Some(0.0), ..v1::Sampling::default() };
        let request = ChatRequest::new("m")
            .sampling(sampling.clone())
            .stop("END")
            .max_tokens(5)
            .logprobs(2)
            .thinking(v1::Thinking::On)
            .keep_alive(KeepAlive::For(Duration::from_secs(2)))
            .tool_choice(tool_choice::Mode::None)
            .deadline(Duration::from_secs(1))
            .request_id("id");
        let call: Call<v1::GenerateRequest> = request.into();
        assert_eq!(call.message.sampling, Some(sampling));
        assert_eq!(call.message.stop, ["END"]);
        assert_eq!((call.message.max_tokens, call.message.logprobs), (Some(5), Some(2)));
        assert_eq!(call.message.keep_alive_ms, Some(2000));
        assert_eq!(conversation(&call).thinking(), v1::Thinking::On);
        assert_eq!(
            conversation(&call).tool_choice.as_ref().map(v1::ToolChoice::mode),
            Some(tool_choice::Mode::None)
        );
        assert_eq!(call.options.deadline, Some(Duration::from_secs(1)));
        assert_eq!(call.options.request_id.as_deref(), Some("id"));
    }

    #[test]
    fn the_last_choice_of_a_tool_holds_and_keeps_whether_several_may_be_called() {
        let chosen = |request: ChatRequest| {
            let call: Call<v1::GenerateRequest> = request.into();
            conversation(&call).tool_choice.clone().expect("was chosen")
        };
        let choice = chosen(ChatRequest::new("m").parallel_tools(false).named_tool("a"));
        assert_eq!((choice.mode(), choice.name.as_str()), (tool_choice::Mode::Named, "a"));
        assert_eq!(choice.parallel, Some(false));
        let choice = chosen(ChatRequest::new("m").named_tool("a").required_tools());
        assert_eq!((choice.mode(), choice.name.as_str()), (tool_choice::Mode::Required, ""));
        let choice = chosen(ChatRequest::new("m").parallel_tools(false).named_tool("a").answered());
        assert_eq!((choice.mode(), choice.name.as_str()), (tool_choice::Mode::Auto, ""));
        assert_eq!(choice.parallel, Some(false));
        let choice = chosen(ChatRequest::new("m").tool_choice(tool_choice::Mode::None).answered());
        assert_eq!(choice.mode(), tool_choice::Mode::None);
    }

    #[test]
    fn the_form_of_the_answer_reaches_the_wire() {
        let form = |request: ChatRequest| Call::<v1::GenerateRequest>::from(request).message.output?.kind;
        let new = || ChatRequest::new("m");
        assert_eq!(form(new()), None);
        assert_eq!(form(new().json()), Some(output::Kind::Json(v1::JsonObject {})));
        assert_eq!(form(new().json_schema("{}")), Some(output::Kind::JsonSchema("{}".to_owned())));
        assert_eq!(form(new().json().regex("a")), Some(output::Kind::Regex("a".to_owned())));
        assert_eq!(
            form(new().grammar("start: \"a\"")),
            Some(output::Kind::Grammar("start: \"a\"".to_owned()))
        );
    }

    #[test]
    fn the_same_conversation_is_generated_rendered_and_counted() {
        let request = ChatRequest::new("m").user("u");
        let generate: Call<v1::GenerateRequest> = request.clone().into();
        let render: Call<v1::RenderRequest> = request.clone().into();
        let count: Call<v1::CountTokensRequest> = request.into();
        assert_eq!(generate.message.prompt, render.message.prompt);
        assert_eq!(generate.message.prompt, count.message.prompt);
    }
}
