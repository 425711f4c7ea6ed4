//! Assorted JSON Schemas, and an independent judge of what is said to follow them.

use serde_json::Value;

/// A schema with its name.
#[derive(Clone, Debug)]
pub struct Schema {
    /// What it is about.
    pub name: String,
    /// Whether its values have texts or lists of any length.
    pub endless: bool,
    schema: Value,
}

/// The schemas of the project's vectors: twenty, of which more than half have no bound.
///
/// # Panics
/// When the file is damaged.
pub fn assorted() -> Vec<Schema> {
    let text = include_str!("../../daemon/engine/vectors/schemas.json");
    let list: Vec<Value> = serde_json::from_str(text).expect("the schemas");
    list.iter()
        .map(|entry| Schema {
            name: entry["name"].as_str().expect("a name").to_owned(),
            endless: entry["endless"] == true,
            schema: entry["schema"].clone(),
        })
        .collect()
}

/// One of them.
///
/// # Panics
/// When there is none of this name.
pub fn named(name: &str) -> Schema {
    assorted().into_iter().find(|schema| schema.name == name).expect("a schema of this name")
}

impl Schema {
    /// As a request has it.
    pub fn text(&self) -> String {
        self.schema.to_string()
    }

    /// Whether a text is JSON that the schema allows, by a validator that knows nothing of grammars.
    ///
    /// # Errors
    /// What is wrong.
    ///
    /// # Panics
    /// When the schema itself is none.
    pub fn check(&self, text: &str) -> Result<(), String> {
        let value: Value = serde_json::from_str(text).map_err(|error| format!("{error}: {text}"))?;
        let validator = jsonschema::validator_for(&self.schema).expect("a schema");
        validator.validate(&value).map_err(|error| format!("{error}: {text}"))
    }
}
