//! The shapes of `--json`: one object per line, fields and values are only ever added.
//!
//! Every line has a `type`. Enum values are in lower snake case, times in RFC 3339, sizes in bytes,
//! durations in milliseconds. JSON that a model wrote stays the text that it wrote.

mod plan;
mod status;

use std::collections::BTreeMap;

use hearth_client::v1::{self, progress::Stage};
use hearth_client::{Error, Refusal};
use serde::Serialize;

use super::exit::Failure;
pub(super) use plan::Plan;
pub(super) use status::{Rate, Status};

/// One line.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Line<'a> {
    /// A request has its place.
    Accepted { request_id: &'a str, model: &'a str, queue_position: u32, seed: u64 },
    /// Work before the result. `done` and `total` are permille for `load`, tokens for `prefill`,
    /// requests for `queue`, answers for `context`, bytes for `import`, both 0 for `memory`. `expected_ms` is how long
    /// the whole load will take, for `load` and `memory`, where that is known.
    Progress { stage: String, done: u64, total: u64, expected_ms: Option<f64> },
    /// More of a thought.
    Reasoning { text: &'a str },
    /// More of an answer.
    Text { text: &'a str },
    /// A whole tool call; `arguments` is JSON text.
    ToolCall { id: &'a str, name: &'a str, arguments: &'a str },
    /// The end of a turn that called tools, in a tool loop; the results of the calls follow, then more of the
    /// same answer. Usage and timings are those of the turn.
    Turn { reason: String, usage: Usage, timings: Timings },
    /// The end of an answer. After a tool loop usage and timings are those of all its turns.
    Finished { reason: String, stop_string: Option<&'a str>, usage: Usage, timings: Timings },
    /// A failure.
    Error { code: &'static str, reason: Option<&'a str>, message: String, details: Details<'a> },
    /// A model in the store.
    Model(Model<'a>),
    /// A model came into the store.
    Imported(Model<'a>),
    /// A model left the store.
    Removed { name: &'a str, freed_bytes: u64 },
    /// A model is in memory.
    Loaded {
        name: &'a str,
        context_tokens: u32,
        sequences: u32,
        load_ms: f64,
        context_ceiling: u32,
        kv_type: Option<String>,
        reserved_bytes: u64,
    },
    /// A model is not in memory.
    Unloaded { name: &'a str, was_loaded: bool },
    /// What a load would do.
    Plan(Box<Plan<'a>>),
    /// Whether a model stays in memory whatever others need.
    Pinned { name: &'a str, pinned: bool },
    /// What the daemon is doing.
    Status(Box<Status<'a>>),
    /// What the daemon is doing, and how fast its models read and write.
    Top {
        #[serde(flatten)]
        status: Box<Status<'a>>,
        rates: Vec<Rate<'a>>,
    },
    /// A prompt as the model would see it; `tokens` where asked for.
    Rendered { text: &'a str, tokens: Option<&'a [u32]> },
    /// The tokens of a prompt.
    Count { tokens: u32 },
    /// What the daemon logs from now on, and what it logged before.
    LogFilter { filter: &'a str, previous: &'a str },
    /// The completions of a shell, a script of it.
    Completions { shell: String, text: &'a str },
    /// A page of the manual, for troff.
    ManPage { name: &'a str, text: &'a str },
    /// A file that was written.
    Written { path: &'a str },
}

#[derive(Debug, Serialize)]
pub(super) struct Usage {
    prompt_tokens: u32,
    cached_tokens: u32,
    generated_tokens: u32,
    forced_tokens: u32,
}

#[derive(Debug, Serialize)]
pub(super) struct Timings {
    queue_ms: f64,
    load_ms: f64,
    prefill_ms: f64,
    decode_ms: f64,
    first_delta_ms: f64,
}

/// What stands behind a failure; empty where it was not the daemon that refused.
#[derive(Debug, Default, Serialize)]
pub(super) struct Details<'a> {
    numbers: BTreeMap<&'a str, &'a str>,
    fields: Vec<Field<'a>>,
    quotas: Vec<Quota<'a>>,
    retry_after_ms: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Field<'a> {
    field: &'a str,
    description: &'a str,
}

#[derive(Debug, Serialize)]
struct Quota<'a> {
    subject: &'a str,
    description: &'a str,
}

#[derive(Debug, Serialize)]
pub(super) struct Model<'a> {
    name: &'a str,
    state: String,
    state_reason: &'a str,
    imported_at: Option<String>,
    expected_load_ms: Option<f64>,
    pinned: bool,
    files: Vec<ModelFile<'a>>,
    facts: Option<Facts<'a>>,
}

#[derive(Debug, Serialize)]
struct ModelFile<'a> {
    role: String,
    sha256: &'a str,
    size_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Facts<'a> {
    architecture: &'a str,
    title: &'a str,
    parameters: u64,
    quantization: &'a str,
    context_length: u32,
    vocabulary_size: u32,
    dialect: &'a str,
    tools: bool,
    thinking: bool,
}

impl<'a> Line<'a> {
    pub(super) fn progress(progress: &v1::Progress) -> Self {
        let stage = stage(progress.stage());
        let v1::Progress { done, total, expected_ms, stage: _ } = *progress;
        Self::Progress { stage, done, total, expected_ms }
    }

    pub(super) fn tool_call(call: &'a v1::ToolCall) -> Self {
        let v1::ToolCall { id, name, arguments } = call;
        Self::ToolCall { id, name, arguments }
    }

    pub(super) fn finished(finished: &'a v1::Finished) -> Self {
        Self::Finished {
            reason: finish_reason(finished.reason()),
            stop_string: Some(finished.stop_string.as_str()).filter(|text| !text.is_empty()),
            usage: Usage::of(finished.usage.unwrap_or_default()),
            timings: Timings::of(finished.timings.unwrap_or_default()),
        }
    }

    pub(super) fn turn(turn: &v1::Finished) -> Self {
        Self::Turn {
            reason: finish_reason(turn.reason()),
            usage: Usage::of(turn.usage.unwrap_or_default()),
            timings: Timings::of(turn.timings.unwrap_or_default()),
        }
    }

    pub(super) fn error(failure: &'a Failure) -> Self {
        let refusal = match failure {
            Failure::Call(Error::Refused(refusal)) => Some(refusal.as_ref()),
            _ => None,
        };
        Self::Error {
            code: failure.code(),
            reason: refusal.and_then(|refusal| refusal.reason.as_deref()),
            message: refusal.map_or_else(|| failure.message(), |refusal| refusal.message.clone()),
            details: refusal.map(Details::of).unwrap_or_default(),
        }
    }

    pub(super) fn loaded(model: &'a v1::LoadedModel) -> Self {
        let v1::LoadedModel {
            name,
            context_tokens,
            sequences,
            load_ms,
            context_ceiling,
            kv_type: _,
            reserved_bytes,
        } = model;
        Self::Loaded {
            name,
            context_tokens: *context_tokens,
            sequences: *sequences,
            load_ms: *load_ms,
            context_ceiling: *context_ceiling,
            kv_type: kv_type(model.kv_type()),
            reserved_bytes: *reserved_bytes,
        }
    }
}

impl Usage {
    fn of(usage: v1::Usage) -> Self {
        let v1::Usage { prompt_tokens, cached_tokens, generated_tokens, forced_tokens } = usage;
        Self { prompt_tokens, cached_tokens, generated_tokens, forced_tokens }
    }
}

impl Timings {
    fn of(timings: v1::Timings) -> Self {
        let v1::Timings { queue_ms, load_ms, prefill_ms, decode_ms, first_delta_ms } = timings;
        Self { queue_ms, load_ms, prefill_ms, decode_ms, first_delta_ms }
    }
}

impl<'a> Details<'a> {
    fn of(refusal: &'a Refusal) -> Self {
        let fields = refusal.fields.iter();
        let quotas = refusal.quotas.iter();
        Self {
            numbers: refusal.numbers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect(),
            fields: fields.map(|v| Field { field: &v.field, description: &v.description }).collect(),
            quotas: quotas.map(|v| Quota { subject: &v.subject, description: &v.description }).collect(),
            retry_after_ms: refusal
                .retry_after
                .map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

impl<'a> Model<'a> {
    pub(super) fn of(model: &'a v1::Model) -> Self {
        Self {
            name: &model.name,
            state: model_state(model.state()),
            state_reason: &model.state_reason,
            imported_at: model.imported_at.as_ref().map(ToString::to_string),
            expected_load_ms: model.expected_load_ms,
            pinned: model.pinned,
            files: model.files.iter().map(ModelFile::of).collect(),
            facts: model.facts.as_ref().map(Facts::of),
        }
    }
}

impl<'a> ModelFile<'a> {
    fn of(file: &'a v1::ModelFile) -> Self {
        let role = snake(file.role().as_str_name(), "FILE_ROLE_");
        Self { role, sha256: &file.sha256, size_bytes: file.size_bytes }
    }
}

impl<'a> Facts<'a> {
    fn of(facts: &'a v1::ModelFacts) -> Self {
        Self {
            architecture: &facts.architecture,
            title: &facts.title,
            parameters: facts.parameters,
            quantization: &facts.quantization,
            context_length: facts.context_length,
            vocabulary_size: facts.vocabulary_size,
            dialect: &facts.dialect,
            tools: facts.tools,
            thinking: facts.thinking,
        }
    }
}

/// `tool_calls` of `FINISH_REASON_TOOL_CALLS`.
fn snake(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_ascii_lowercase()
}

pub(super) fn model_state(state: v1::ModelState) -> String {
    snake(state.as_str_name(), "MODEL_STATE_")
}

pub(super) fn phase(phase: v1::Phase) -> String {
    snake(phase.as_str_name(), "PHASE_")
}

/// None: not loaded.
pub(super) fn kv_type(kv_type: v1::KvType) -> Option<String> {
    (kv_type != v1::KvType::Unspecified).then(|| snake(kv_type.as_str_name(), "KV_TYPE_"))
}

pub(super) fn pressure(level: v1::pressure::Level) -> String {
    snake(level.as_str_name(), "LEVEL_")
}

fn finish_reason(reason: v1::FinishReason) -> String {
    snake(reason.as_str_name(), "FINISH_REASON_")
}

fn stage(stage: Stage) -> String {
    snake(stage.as_str_name(), "STAGE_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use hearth_client::{Code, FieldViolation};
    use std::time::Duration;

    fn check(line: &Line<'_>, expected: &str) {
        assert_eq!(serde_json::to_string(line).expect("plain data"), expected);
    }

    #[test]
    fn an_answer_has_these_lines() {
        check(
            &Line::Accepted { request_id: "r", model: "m:latest", queue_position: 0, seed: u64::MAX },
            r#"{"type":"accepted","request_id":"r","model":"m:latest","queue_position":0,"seed":18446744073709551615}"#,
        );
        let prefill = v1::Progress { stage: Stage::Prefill.into(), done: 1, total: 2, expected_ms: None };
        check(
            &Line::progress(&prefill),
            r#"{"type":"progress","stage":"prefill","done":1,"total":2,"expected_ms":null}"#,
        );
        let memory =
            v1::Progress { stage: Stage::Memory.into(), expected_ms: Some(1.5), ..Default::default() };
        check(
            &Line::progress(&memory),
            r#"{"type":"progress","stage":"memory","done":0,"total":0,"expected_ms":1.5}"#,
        );
        check(&Line::Reasoning { text: "hm" }, r#"{"type":"reasoning","text":"hm"}"#);
        check(&Line::Text { text: "a\n\u{1b}" }, r#"{"type":"text","text":"a\n\u001b"}"#);
    }

    #[test]
    fn arguments_stay_the_text_that_the_model_wrote() {
        let call = v1::ToolCall {
            id: "c".to_owned(),
            name: "add".to_owned(),
            arguments: r#"{"b": 1.0, "a":12345678901234567890}"#.to_owned(),
        };
        check(
            &Line::tool_call(&call),
            r#"{"type":"tool_call","id":"c","name":"add","arguments":"{\"b\": 1.0, \"a\":12345678901234567890}"}"#,
        );
    }

    #[test]
    fn an_end_has_reason_usage_and_timings() {
        let finished = v1::Finished {
            reason: v1::FinishReason::ToolCalls.into(),
            usage: Some(v1::Usage {
                prompt_tokens: 4,
                cached_tokens: 3,
                generated_tokens: 2,
                forced_tokens: 1,
            }),
            timings: None,
            stop_string: String::new(),
        };
        check(
            &Line::finished(&finished),
            concat!(
                r#"{"type":"finished","reason":"tool_calls","stop_string":null,"#,
                r#""usage":{"prompt_tokens":4,"cached_tokens":3,"generated_tokens":2,"forced_tokens":1},"#,
                r#""timings":{"queue_ms":0.0,"load_ms":0.0,"prefill_ms":0.0,"decode_ms":0.0,"first_delta_ms":0.0}}"#
            ),
        );
    }

    #[test]
    fn a_turn_has_usage_and_timings_too() {
        let turn = v1::Finished { reason: v1::FinishReason::ToolCalls.into(), ..v1::Finished::default() };
        check(
            &Line::turn(&turn),
            concat!(
                r#"{"type":"turn","reason":"tool_calls","#,
                r#""usage":{"prompt_tokens":0,"cached_tokens":0,"generated_tokens":0,"forced_tokens":0},"#,
                r#""timings":{"queue_ms":0.0,"load_ms":0.0,"prefill_ms":0.0,"decode_ms":0.0,"first_delta_ms":0.0}}"#
            ),
        );
    }

    #[test]
    fn a_refusal_has_its_numbers() {
        let refusal = Refusal {
            code: Code::ResourceExhausted,
            reason: Some("QUEUE_FULL".to_owned()),
            message: "the queue is full".to_owned(),
            numbers: [("waiting".to_owned(), "64".to_owned())].into(),
            fields: vec![FieldViolation { field: "f".to_owned(), description: "d".to_owned() }],
            quotas: Vec::new(),
            retry_after: Some(Duration::from_millis(1500)),
        };
        let failure = Failure::Call(Error::Refused(Box::new(refusal)));
        check(
            &Line::error(&failure),
            concat!(
                r#"{"type":"error","code":"resource_exhausted","reason":"QUEUE_FULL","message":"the queue is full","#,
                r#""details":{"numbers":{"waiting":"64"},"fields":[{"field":"f","description":"d"}],"#,
                r#""quotas":[],"retry_after_ms":1500}}"#
            ),
        );
    }

    #[test]
    fn a_failure_on_this_side_has_the_same_shape() {
        check(
            &Line::error(&Failure::Usage("no".to_owned())),
            concat!(
                r#"{"type":"error","code":"usage","reason":null,"message":"no","#,
                r#""details":{"numbers":{},"fields":[],"quotas":[],"retry_after_ms":null}}"#
            ),
        );
    }

    #[test]
    fn a_model_has_its_files_and_facts() {
        let file =
            v1::ModelFile { role: v1::FileRole::Weights.into(), sha256: "ab".to_owned(), size_bytes: 5 };
        let model = v1::Model {
            name: "m:latest".to_owned(),
            files: vec![file],
            state: v1::ModelState::Ready.into(),
            ..v1::Model::default()
        };
        check(
            &Line::Model(Model::of(&model)),
            concat!(
                r#"{"type":"model","name":"m:latest","state":"ready","state_reason":"","imported_at":null,"#,
                r#""expected_load_ms":null,"pinned":false,"files":[{"role":"weights","sha256":"ab","size_bytes":5}],"facts":null}"#
            ),
        );
    }
}
