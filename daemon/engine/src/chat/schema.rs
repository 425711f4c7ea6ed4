//! JSON Schemas that are enforced: checked before they are compiled, so that what cannot be enforced is
//! refused with the path of the keyword instead of being ignored.
//!
//! ```text
//!  schema ── keywords, references, cycles, size ──► annotations dropped, open objects closed ──► grammar
//! ```
//!
//! **Closed objects.** An object that lists its properties and does not say whether it has others may have any
//! others, by the letter of JSON Schema. Nobody means that who describes a tool, and a small model would make
//! some up; so such an object gets its listed properties only. That is narrower, so every value still
//! validates. Schemas that put objects together (`allOf`, or properties beside a reference or a choice) are
//! left as they are: closing a part would exclude the others.

mod conjunction;
mod finite;

use serde_json::{Map, Value};

/// Bytes of a schema.
const MAX_BYTES: usize = 256 << 10;
/// Schemas within a schema, counted one by one.
const MAX_SCHEMAS: usize = 4_000;
/// Properties of one object: the grammar has an alternative for each that may come next, so 500 take 50 ms to
/// compile on a desktop core, and 10,000 take 16 s.
const MAX_PROPERTIES: usize = 500;
/// Values of one enumeration.
const MAX_VALUES: usize = 5_000;
/// References, each of which is followed to see where it ends.
const MAX_REFERENCES: usize = 1_000;
/// Schemas within each other.
const MAX_DEPTH: usize = 64;

/// A keyword that cannot be enforced, or is used wrongly.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub(crate) struct SchemaFault {
    /// Where in the schema, such as `.properties.a.not`; empty for the whole.
    pub(crate) path: String,
    /// What is wrong.
    pub(crate) why: String,
}

/// Keywords whose value is one schema.
const ONE: [&str; 3] = ["additionalProperties", "additionalItems", "items"];
/// Keywords whose value is a list of schemas.
const LIST: [&str; 4] = ["prefixItems", "anyOf", "oneOf", "allOf"];
/// Keywords whose value is an object of schemas.
const NAMED: [&str; 4] = ["properties", "patternProperties", "$defs", "definitions"];
/// Keywords whose value is a count.
const COUNTS: [&str; 6] =
    ["minItems", "maxItems", "minProperties", "maxProperties", "minLength", "maxLength"];
/// Keywords whose value is a number.
const NUMBERS: [&str; 4] = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"];
/// Formats that the grammar knows (llguidance 1.9, `lookup_format`).
const FORMATS: [&str; 10] =
    ["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"];
const TYPES: [&str; 7] = ["null", "boolean", "number", "integer", "string", "array", "object"];

/// Keywords that change what is valid and that no grammar of ours can enforce.
const UNENFORCEABLE: [&str; 19] = [
    "not",
    "if",
    "then",
    "else",
    "dependentSchemas",
    "dependentRequired",
    "dependencies",
    "contains",
    "minContains",
    "maxContains",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
    "$dynamicRef",
    "$recursiveRef",
    "$dynamicAnchor",
    "$recursiveAnchor",
    "contentSchema",
    "divisibleBy",
];

/// Checks a schema and makes it ready to be compiled.
///
/// # Errors
/// [`SchemaFault`] with the path of the keyword at fault.
pub(crate) fn prepare(schema: &Value) -> Result<Value, SchemaFault> {
    let mut walk = Walk {
        root: schema,
        path: String::new(),
        schemas: 0,
        references: 0,
        depth: 0,
        closing: may_close(schema),
    };
    let bytes = schema.to_string().len();
    if bytes > MAX_BYTES {
        return walk.fault(format!("the schema has {bytes} bytes; at most {MAX_BYTES} are taken"));
    }
    let prepared = walk.schema(schema)?;
    finite::check(schema)?;
    conjunction::check(schema)?;
    Ok(prepared)
}

/// Whether the references of a schema lead to one that is of objects only. One that leads nowhere is told of
/// elsewhere.
pub(crate) fn leads_to_object(root: &Value) -> bool {
    let mut schema = root;
    for _ in 0..MAX_DEPTH {
        match schema.get("$ref").and_then(Value::as_str).map(|reference| target(root, reference)) {
            Some(Some(next)) => schema = next,
            Some(None) => return true,
            None => return schema.get("type").is_some_and(|name| name == "object"),
        }
    }
    true
}

/// Finds the smallest part of a schema that does not compile, for the path of a compiler's complaint that has
/// none. `complaint` compiles a schema and gives its error.
pub(crate) fn locate(schema: &Value, complaint: &dyn Fn(&Value) -> Option<String>) -> Option<SchemaFault> {
    let why = complaint(schema)?;
    let mut fault = SchemaFault { path: String::new(), why };
    let mut part = schema;
    // Each turn goes one level deeper, and depth is bounded.
    while let Some((step, child, why)) = children(part).into_iter().find_map(|(step, child)| {
        let why = complaint(&with_definitions(child, schema))?;
        Some((step, child, why))
    }) {
        fault.path.push_str(&step);
        fault.why = why;
        part = child;
    }
    let keyword = part.as_object().and_then(|members| {
        // Without its type nearly everything compiles, so that is blamed last.
        let (types, others): (Vec<_>, Vec<_>) = members.keys().partition(|key| *key == "type");
        others.into_iter().chain(types).find(|key| {
            let rest = without(members, key);
            complaint(&with_definitions(&rest, schema)).is_none()
        })
    });
    if let Some(keyword) = keyword {
        fault.path.push('.');
        fault.path.push_str(keyword);
    }
    Some(fault)
}

fn without(members: &Map<String, Value>, key: &str) -> Value {
    let others = members.iter().filter(|(name, _)| *name != key);
    Value::Object(others.map(|(name, value)| (name.clone(), value.clone())).collect())
}

/// A part of a schema that can stand alone: its references find their targets.
fn with_definitions(part: &Value, root: &Value) -> Value {
    let mut part = part.clone();
    for key in ["$defs", "definitions"] {
        if let (Some(members), Some(definitions)) = (part.as_object_mut(), root.get(key)) {
            members.entry(key).or_insert_with(|| definitions.clone());
        }
    }
    part
}

/// The schemas right inside a schema, with the steps of the path to them.
fn children(schema: &Value) -> Vec<(String, &Value)> {
    let Value::Object(members) = schema else { return Vec::new() };
    let mut found = Vec::new();
    for (key, value) in members {
        match value {
            Value::Object(named) if NAMED.contains(&key.as_str()) => {
                found.extend(named.iter().map(|(name, child)| (format!(".{key}.{name}"), child)));
            }
            Value::Array(list) if LIST.contains(&key.as_str()) || key == "items" => {
                found.extend(list.iter().enumerate().map(|(at, child)| (format!(".{key}[{at}]"), child)));
            }
            Value::Object(_) if ONE.contains(&key.as_str()) => found.push((format!(".{key}"), value)),
            _ => {}
        }
    }
    found
}

/// Whether objects that list their properties may be closed everywhere in this schema.
fn may_close(schema: &Value) -> bool {
    let Value::Object(members) = schema else { return true };
    let combined = ["anyOf", "oneOf", "$ref"].iter().any(|key| members.contains_key(*key));
    let beside_reference = members.contains_key("$ref") && has_constraints(members);
    let put_together = members.contains_key("allOf") || (combined && members.contains_key("properties"));
    !put_together && !beside_reference && children(schema).iter().all(|(_, child)| may_close(child))
}

/// Whether an object lists its properties, all that it requires among them, and says nothing of others.
fn is_listed(members: &Map<String, Value>) -> bool {
    let Some(properties) = members.get("properties").and_then(Value::as_object) else { return false };
    let mut required = members.get("required").and_then(Value::as_array).into_iter().flatten();
    !members.contains_key("additionalProperties")
        && !members.contains_key("patternProperties")
        && required.all(|name| name.as_str().is_some_and(|name| properties.contains_key(name)))
}

/// Whether there is a keyword beside a reference that is not just a definition or an annotation.
fn has_constraints(members: &Map<String, Value>) -> bool {
    members.keys().any(|key| {
        let key = key.as_str();
        !matches!(key, "$ref" | "$defs" | "definitions") && is_enforced(key)
    })
}

fn is_enforced(key: &str) -> bool {
    ONE.contains(&key)
        || LIST.contains(&key)
        || NAMED.contains(&key)
        || COUNTS.contains(&key)
        || NUMBERS.contains(&key)
        || matches!(
            key,
            "$ref" | "const" | "enum" | "type" | "required" | "pattern" | "format" | "multipleOf"
        )
}

/// One walk over a schema.
struct Walk<'a> {
    root: &'a Value,
    path: String,
    schemas: usize,
    references: usize,
    depth: usize,
    closing: bool,
}

impl Walk<'_> {
    fn fault<T>(&self, why: impl Into<String>) -> Result<T, SchemaFault> {
        Err(SchemaFault { path: self.path.clone(), why: why.into() })
    }

    /// Goes one step down and comes back.
    fn within<T>(
        &mut self,
        step: &str,
        visit: impl FnOnce(&mut Self) -> Result<T, SchemaFault>,
    ) -> Result<T, SchemaFault> {
        let length = self.path.len();
        self.path.push_str(step);
        let visited = visit(self)?;
        self.path.truncate(length);
        Ok(visited)
    }

    fn schema(&mut self, schema: &Value) -> Result<Value, SchemaFault> {
        self.schemas += 1;
        if self.schemas > MAX_SCHEMAS {
            return self.fault(format!("the schema has more than {MAX_SCHEMAS} parts"));
        }
        if self.depth > MAX_DEPTH {
            return self.fault(format!("schemas nest more than {MAX_DEPTH} deep"));
        }
        let members = match schema {
            Value::Bool(_) => return Ok(schema.clone()),
            Value::Object(members) => members,
            other => return self.fault(format!("a schema is an object or a boolean, not {}", kind(other))),
        };
        self.depth += 1;
        let mut kept = Map::new();
        for (key, value) in members {
            let value = self.within(&format!(".{key}"), |walk| walk.keyword(key, value))?;
            if let Some(value) = value {
                kept.insert(key.clone(), value);
            }
        }
        self.depth -= 1;
        if self.closing && is_listed(&kept) {
            kept.insert("additionalProperties".to_owned(), Value::Bool(false));
        }
        self.least_properties(&kept)?;
        Ok(Value::Object(kept))
    }

    /// A grammar does not count keys: one that is written twice is one property, so a least number holds only
    /// where every key is listed, or required.
    fn least_properties(&self, members: &Map<String, Value>) -> Result<(), SchemaFault> {
        let least = members.get("minProperties").and_then(Value::as_u64).unwrap_or(0);
        let required = members.get("required").and_then(Value::as_array).map_or(0, Vec::len) as u64;
        let closed = members.get("additionalProperties") == Some(&Value::Bool(false))
            && !members.contains_key("patternProperties");
        if least > 1 && least > required && !closed {
            let why =
                "above 1 cannot be enforced where keys are not listed; set additionalProperties to false";
            return Err(SchemaFault { path: format!("{}.minProperties", self.path), why: why.to_owned() });
        }
        Ok(())
    }

    /// The value of a keyword as it is compiled; `None` for what says nothing of validity.
    fn keyword(&mut self, key: &str, value: &Value) -> Result<Option<Value>, SchemaFault> {
        match key {
            "$schema" if self.depth == 1 => {}
            "items" if value.is_array() => return self.list(value).map(Some),
            "type" => self.types(value)?,
            "$ref" => self.reference(value)?,
            "enum" => match value.as_array() {
                Some(values) if values.len() > MAX_VALUES => {
                    return self
                        .fault(format!("has {} values; at most {MAX_VALUES} are taken", values.len()));
                }
                Some(values) if !values.is_empty() => self.exact(value)?,
                _ => return self.fault("must be a list of at least one value"),
            },
            "const" => self.exact(value)?,
            "required" => match value.as_array() {
                Some(names) if names.iter().all(Value::is_string) => {}
                _ => return self.fault("must be a list of names"),
            },
            "pattern" if value.is_string() => {}
            "pattern" => return self.fault("must be a regular expression as text"),
            "format" => self.format(value)?,
            "multipleOf" if value.as_f64().is_some_and(|number| number > 0.0) => {}
            "multipleOf" => return self.fault("must be a number above 0"),
            "uniqueItems" if *value == Value::Bool(false) => return Ok(None),
            "uniqueItems" => return self.fault("cannot be enforced by a grammar; leave it out"),
            _ if ONE.contains(&key) => return self.schema(value).map(Some),
            _ if LIST.contains(&key) => return self.list(value).map(Some),
            _ if NAMED.contains(&key) => return self.named(value).map(Some),
            _ if COUNTS.contains(&key) => return self.count(value).map(Some),
            _ if NUMBERS.contains(&key) && value.is_number() => self.exact(value)?,
            _ if NUMBERS.contains(&key) => {
                return self.fault(format!("must be a number, not {}", kind(value)));
            }
            _ if UNENFORCEABLE.contains(&key) => {
                return self.fault("cannot be enforced by a grammar; leave it out");
            }
            // Titles, descriptions, defaults, examples, and whatever others made up: nothing to enforce.
            _ => return Ok(None),
        }
        Ok(Some(value.clone()))
    }

    /// The grammar's compiler reads numbers as doubles: a larger integer would be held to another one.
    fn exact(&self, value: &Value) -> Result<(), SchemaFault> {
        match value {
            Value::Number(number) if !is_exact(number) => {
                self.fault(format!("{number} is beyond the integers that can be enforced exactly (2^53)"))
            }
            Value::Array(items) => items.iter().try_for_each(|item| self.exact(item)),
            Value::Object(members) => members.values().try_for_each(|member| self.exact(member)),
            _ => Ok(()),
        }
    }

    fn list(&mut self, value: &Value) -> Result<Value, SchemaFault> {
        match value.as_array() {
            Some(schemas) if !schemas.is_empty() => {
                let schemas = schemas.iter().enumerate();
                schemas
                    .map(|(at, schema)| self.within(&format!("[{at}]"), |walk| walk.schema(schema)))
                    .collect()
            }
            _ => self.fault("must be a list of at least one schema"),
        }
    }

    fn named(&mut self, value: &Value) -> Result<Value, SchemaFault> {
        let Some(named) = value.as_object() else {
            return self.fault(format!("must be an object of schemas, not {}", kind(value)));
        };
        if named.len() > MAX_PROPERTIES {
            return self.fault(format!("has {} members; at most {MAX_PROPERTIES} are taken", named.len()));
        }
        let mut kept = Map::new();
        for (name, schema) in named {
            kept.insert(name.clone(), self.within(&format!(".{name}"), |walk| walk.schema(schema))?);
        }
        Ok(Value::Object(kept))
    }

    /// `2.0` is as good a count as `2`.
    fn count(&self, value: &Value) -> Result<Value, SchemaFault> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked to be whole and small"
        )]
        let whole =
            |number: f64| (number.fract() == 0.0 && (0.0..=1e9).contains(&number)).then_some(number as u64);
        match value.as_u64().or_else(|| value.as_f64().and_then(whole)) {
            Some(count) => Ok(Value::from(count)),
            None => self.fault("must be a whole number from 0 on"),
        }
    }

    fn types(&self, value: &Value) -> Result<(), SchemaFault> {
        let known = |value: &Value| value.as_str().is_some_and(|name| TYPES.contains(&name));
        match value {
            Value::Array(names) if !names.is_empty() && names.iter().all(known) => Ok(()),
            name if known(name) => Ok(()),
            _ => self.fault(format!("must be one of {}, or a list of them", TYPES.join(", "))),
        }
    }

    fn format(&self, value: &Value) -> Result<(), SchemaFault> {
        match value.as_str() {
            Some(name) if FORMATS.contains(&name) => Ok(()),
            _ => self.fault(format!(
                "{value} cannot be enforced; there are {}, and `pattern` for the rest",
                FORMATS.join(", ")
            )),
        }
    }

    fn reference(&mut self, value: &Value) -> Result<(), SchemaFault> {
        self.references += 1;
        if self.references > MAX_REFERENCES {
            return self.fault(format!("the schema has more than {MAX_REFERENCES} references"));
        }
        let Some(text) = value.as_str() else { return self.fault("must be text such as \"#/$defs/name\"") };
        match target(self.root, text) {
            Some(Value::Object(_) | Value::Bool(_)) => Ok(()),
            Some(_) => self.fault(format!("`{text}` is not a schema")),
            None if text.starts_with('#') => self.fault(format!("`{text}` is nowhere in the schema")),
            None => self.fault(format!("`{text}` is outside of the schema; only \"#/…\" can be followed")),
        }
    }
}

/// Whether a number is no integer, or one that a double holds for sure.
fn is_exact(number: &serde_json::Number) -> bool {
    const MOST: u64 = 1 << 53;
    match (number.as_i64(), number.as_u64()) {
        (Some(integer), _) => integer.unsigned_abs() <= MOST,
        (None, Some(_)) => false,
        #[expect(clippy::cast_precision_loss, reason = "a power of two")]
        (None, None) => {
            number.as_f64().is_some_and(|float| float.abs() <= MOST as f64 || float.fract() != 0.0)
        }
    }
}

/// What a reference of the form `#/a/b` leads to.
fn target<'a>(root: &'a Value, reference: &str) -> Option<&'a Value> {
    let pointer = reference.strip_prefix('#')?;
    root.pointer(&unescaped(pointer)?)
}

/// Percent signs of a URI fragment.
fn unescaped(pointer: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(pointer.len());
    let mut rest = pointer.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
            bytes.push(u8::try_from(digit()? * 16 + digit()?).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests;
