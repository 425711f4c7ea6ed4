//! Wire messages to domain words and back. Every field of a request is named here, so that a new one is
//! not forgotten, and every limit that the API states is kept here. A fault names the field's path.

mod conversation;
mod memory;
mod request;
mod response;
#[cfg(test)]
mod tests;

pub(crate) use conversation::{Calls, Next};
pub(crate) use memory::{engine_of, kv_type, memory_of, plan_of};
pub(crate) use request::{
    Generate, ImportHead, ImportSource, explicit_of, keep_alive_of, prompt_of, watch_interval,
};
pub(crate) use response::{Answer, ModelWords, Said, Summary, model_of, timestamp};

use crate::store::ModelRef;
use crate::units::ModelName;

use super::status::Invalid;

/// A reference to a model.
pub(crate) fn model_ref(text: &str) -> Result<ModelRef, Invalid> {
    if text.is_empty() {
        return Err(Invalid::new("model", "is required"));
    }
    text.parse().map_err(|error: crate::store::BadModelRef| Invalid::new("model", error.to_string()))
}

/// A model's name.
pub(crate) fn model_name(field: &str, text: &str) -> Result<ModelName, Invalid> {
    if text.is_empty() {
        return Err(Invalid::new(field, "is required"));
    }
    text.parse().map_err(|error: crate::units::BadModelName| Invalid::new(field, error.to_string()))
}
