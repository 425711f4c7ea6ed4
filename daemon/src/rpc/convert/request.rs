//! Requests, from the wire to the domain.

use std::ops::RangeInclusive;
use std::time::Duration;

use hearth_proto::v1 as pb;
use serde_json::Value;

use super::super::status::Invalid;
use super::conversation::conversation_of;
use super::{model_name, model_ref};
use crate::engines::request::{Output, PENALTY_WINDOW, Prompt, Sampling};
use crate::engines::{CONTEXT_TOKENS, Explicit, KeepAlive, KvType};
use crate::memory::need::LEAST_CONTEXT;
use crate::store::ModelRef;
use crate::units::{Bytes, Digest, ModelName};

/// Bounds of the API, as its comments state them.
const STOPS: usize = 16;
const STOP_BYTES: usize = 256;
const LOGPROBS: u32 = 20;
const LOGIT_BIASES: usize = 1024;
/// A schema of a large API has tens of KiB.
const SCHEMA_BYTES: usize = 256 << 10;
/// What the engine compiles at most: larger ones would take minutes on a board.
const REGEX_BYTES: usize = 16 << 10;
const GRAMMAR_BYTES: usize = 32 << 10;
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
    pub(crate) output: Option<Output>,
    pub(crate) keep_alive: Option<KeepAlive>,
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
        let pb::GenerateRequest {
            model,
            prompt,
            sampling,
            stop,
            max_tokens,
            logprobs,
            output,
            keep_alive_ms,
        } = request;
        let model = model_ref(&model)?;
        let prompt = prompt_of(prompt)?;
        let (sampling, seed) = sampling_of(sampling.unwrap_or_default())?;
        check_stops(&stop)?;
        if max_tokens == Some(0) {
            return Err(Invalid::new("max_tokens", "must be at least 1"));
        }
        within("logprobs", logprobs, LOGPROBS)?;
        let output = output.map(output_of).transpose()?;
        let keep_alive = keep_alive_of(keep_alive_ms)?;
        Ok(Self { model, prompt, sampling, seed, stop, max_tokens, logprobs, output, keep_alive })
    }
}

/// How long a model stays that nobody uses.
pub(crate) fn keep_alive_of(milliseconds: Option<i64>) -> Result<Option<KeepAlive>, Invalid> {
    match milliseconds {
        None => Ok(None),
        Some(-1) => Ok(Some(KeepAlive::Forever)),
        Some(time) => match u64::try_from(time) {
            Ok(time) => Ok(Some(KeepAlive::For(Duration::from_millis(time)))),
            Err(_) => Err(Invalid::new("keep_alive_ms", format!("{time} is neither -1 nor a time"))),
        },
    }
}

/// How a model is to be loaded, whatever the configuration says.
pub(crate) fn explicit_of(context_tokens: Option<u32>, kv_type: i32) -> Result<Explicit, Invalid> {
    let most = *CONTEXT_TOKENS.end();
    if context_tokens.is_some_and(|tokens| !(LEAST_CONTEXT..=most).contains(&tokens)) {
        let why = format!("must be within {LEAST_CONTEXT} and {most}; left out, the configuration says");
        return Err(Invalid::new("context_tokens", why));
    }
    let kv_type = match pb::KvType::try_from(kv_type) {
        Ok(pb::KvType::Unspecified) => None,
        Ok(pb::KvType::F16) => Some(KvType::F16),
        Ok(pb::KvType::Q80) => Some(KvType::Q8_0),
        Ok(pb::KvType::Q40) => Some(KvType::Q4_0),
        Err(_) => {
            return Err(Invalid::new("kv_type", format!("{kv_type} is no type that this daemon knows")));
        }
    };
    Ok(Explicit { context_tokens, kv_type })
}

fn output_of(output: pb::Output) -> Result<Output, Invalid> {
    use pb::output::Kind;
    match output.kind {
        Some(Kind::Json(pb::JsonObject {})) => Ok(Output::JsonObject),
        Some(Kind::JsonSchema(schema)) => {
            check_size("output.json_schema", &schema, SCHEMA_BYTES)?;
            check_schema("output.json_schema", &schema)?;
            Ok(Output::JsonSchema(schema))
        }
        Some(Kind::Regex(regex)) => {
            check_size("output.regex", &regex, REGEX_BYTES)?;
            Ok(Output::Regex(regex))
        }
        Some(Kind::Grammar(grammar)) => {
            check_size("output.grammar", &grammar, GRAMMAR_BYTES)?;
            Ok(Output::Grammar(grammar))
        }
        None => Err(Invalid::new("output", "has no form that this daemon knows")),
    }
}

fn check_size(field: &str, text: &str, most: usize) -> Result<(), Invalid> {
    match text.len() {
        0 => Err(Invalid::new(field, "is empty")),
        bytes if bytes > most => {
            Err(Invalid::new(field, format!("has {bytes} bytes, at most {most} are allowed")))
        }
        _ => Ok(()),
    }
}

/// A schema is an object, or says yes or no to everything. What its keywords mean is the engine's to check.
fn check_schema(field: &str, text: &str) -> Result<(), Invalid> {
    match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(_) | Value::Bool(_)) => Ok(()),
        Ok(_) => Err(Invalid::new(field, "is JSON but neither an object nor true or false")),
        Err(error) => Err(Invalid::new(field, format!("is not JSON: {error}"))),
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

pub(super) fn unknown(field: impl Into<String>, value: i32) -> Invalid {
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
