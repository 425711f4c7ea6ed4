//! Schemas that lead back to themselves: fine for trees, hopeless where every value would contain another one
//! of its kind.

use std::cell::Cell;
use std::collections::HashSet;

use serde_json::{Map, Value};

use super::{SchemaFault, target};

/// Parts of schemas that are looked at in all: an honest schema needs some hundreds.
const MAX_WORK: usize = 2_000_000;

/// Refuses references that come back to themselves without anything in between, and schemas of which no value
/// ever ends.
pub(super) fn check(root: &Value) -> Result<(), SchemaFault> {
    let mut references = Vec::new();
    collect(root, String::new(), &mut references);
    // Each target once, where it is named first.
    let mut known = HashSet::new();
    references.retain(|(_, reference)| known.insert(reference.clone()));
    let work = Cell::new(0);
    for (path, reference) in &references {
        if comes_back(root, reference) {
            let why = format!("`{reference}` leads back to itself with nothing in between");
            return Err(SchemaFault { path: path.clone(), why });
        }
    }
    // Grows from "none ends" until nothing more is found to end.
    let mut ends = HashSet::new();
    loop {
        let news: Vec<&str> = references
            .iter()
            .map(|(_, reference)| reference.as_str())
            .filter(|reference| !ends.contains(reference))
            .filter(|reference| target(root, reference).is_some_and(|schema| is_finite(schema, &ends, &work)))
            .collect();
        if work.get() > MAX_WORK {
            let why = "references of this schema are too tangled to be followed".to_owned();
            return Err(SchemaFault { path: String::new(), why });
        }
        if news.is_empty() {
            break;
        }
        ends.extend(news);
    }
    if is_finite(root, &ends, &work) {
        return Ok(());
    }
    let endless = references.iter().find(|(_, reference)| !ends.contains(reference.as_str()));
    let path = endless.map(|(path, _)| path.clone()).unwrap_or_default();
    Err(SchemaFault { path, why: "no value ever ends: each contains another of its kind".to_owned() })
}

/// All references below a schema, with their paths.
fn collect(schema: &Value, path: String, found: &mut Vec<(String, String)>) {
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        found.push((format!("{path}.$ref"), reference.to_owned()));
    }
    for (step, child) in super::children(schema) {
        collect(child, format!("{path}{step}"), found);
    }
}

/// Whether a reference comes back to itself through references and choices alone.
fn comes_back(root: &Value, start: &str) -> bool {
    let mut seen = HashSet::new();
    let mut open = vec![start.to_owned()];
    while let Some(reference) = open.pop() {
        let Some(schema) = target(root, &reference) else { continue };
        for next in in_place(schema) {
            if next == start {
                return true;
            }
            if seen.insert(next.clone()) {
                open.push(next);
            }
        }
    }
    false
}

/// References that apply to the very same value as the schema.
fn in_place(schema: &Value) -> Vec<String> {
    let mut found: Vec<String> =
        schema.get("$ref").and_then(Value::as_str).map(str::to_owned).into_iter().collect();
    for key in ["allOf", "anyOf", "oneOf"] {
        let parts = schema.get(key).and_then(Value::as_array).into_iter().flatten();
        found.extend(parts.flat_map(in_place));
    }
    found
}

/// Whether the schema has a value that ends, given which references have one.
fn is_finite(schema: &Value, ends: &HashSet<&str>, work: &Cell<usize>) -> bool {
    work.set(work.get() + 1);
    if work.get() > MAX_WORK {
        return false;
    }
    let Value::Object(members) = schema else { return *schema != Value::Bool(false) };
    if members.contains_key("const") || members.contains_key("enum") {
        return true;
    }
    let reference = members.get("$ref").and_then(Value::as_str);
    let all =
        |key: &str| parts(members, key).is_none_or(|mut parts| parts.all(|part| is_finite(part, ends, work)));
    let any =
        |key: &str| parts(members, key).is_none_or(|mut parts| parts.any(|part| is_finite(part, ends, work)));
    reference.is_none_or(|reference| ends.contains(reference))
        && all("allOf")
        && any("anyOf")
        && any("oneOf")
        && (!must_be(members, "object") || object_ends(members, ends, work))
        && (!must_be(members, "array") || array_ends(members, ends, work))
}

fn parts<'a>(members: &'a Map<String, Value>, key: &str) -> Option<impl Iterator<Item = &'a Value>> {
    members.get(key).and_then(Value::as_array).map(|parts| parts.iter())
}

/// Whether every value is of this type.
fn must_be(members: &Map<String, Value>, name: &str) -> bool {
    match members.get("type") {
        Some(Value::String(only)) => only == name,
        Some(Value::Array(types)) => types.iter().all(|one| one == name),
        _ => false,
    }
}

fn object_ends(members: &Map<String, Value>, ends: &HashSet<&str>, work: &Cell<usize>) -> bool {
    let mut required = members.get("required").and_then(Value::as_array).into_iter().flatten();
    required.all(|name| {
        let properties = members.get("properties").and_then(Value::as_object);
        let property = name.as_str().and_then(|name| properties?.get(name));
        property.is_none_or(|property| is_finite(property, ends, work))
    })
}

fn array_ends(members: &Map<String, Value>, ends: &HashSet<&str>, work: &Cell<usize>) -> bool {
    let least = members.get("minItems").and_then(Value::as_u64).unwrap_or(0);
    let first = parts(members, "prefixItems").map_or(0, Iterator::count);
    let mut given =
        parts(members, "prefixItems").into_iter().flatten().take(usize::try_from(least).unwrap_or(0));
    let given_end = given.all(|item| is_finite(item, ends, work));
    let rest_end =
        least <= first as u64 || members.get("items").is_none_or(|items| is_finite(items, ends, work));
    given_end && rest_end
}
