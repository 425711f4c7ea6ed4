//! Regular expressions that must hold together.
//!
//! The compiler intersects them, and the work doubles with each: 10 take milliseconds, 20 a second and 240 MB,
//! 40 do not end (measured with llguidance 1.9.1).

use serde_json::Value;

use super::{SchemaFault, target};

/// Expressions for one value.
const MAX: usize = 8;
/// Schemas that are looked at for one value: a reference may be followed many times.
const MAX_VISITS: usize = 1_000;

/// Refuses values that too many expressions must match at once. The schema's references end.
pub(super) fn check(root: &Value) -> Result<(), SchemaFault> {
    check_part(root, root, String::new())
}

fn check_part(root: &Value, schema: &Value, path: String) -> Result<(), SchemaFault> {
    // What stands beside a reference holds as well, so chains of them add up like lists do.
    let together = ["allOf", "$ref"].into_iter().find(|key| schema.get(*key).is_some());
    if let Some(key) = together
        && expressions(root, schema, &mut 0).is_none_or(|count| count > MAX)
    {
        let why = format!("puts more than {MAX} patterns and formats on one value");
        return Err(SchemaFault { path: format!("{path}.{key}"), why });
    }
    for (step, child) in super::children(schema) {
        check_part(root, child, format!("{path}{step}"))?;
    }
    Ok(())
}

/// How many expressions the schema puts on one and the same value; `None` for too many to count.
fn expressions(root: &Value, schema: &Value, visits: &mut usize) -> Option<usize> {
    *visits += 1;
    if *visits > MAX_VISITS {
        return None;
    }
    let mut count = ["pattern", "format"].iter().filter(|key| schema.get(**key).is_some()).count();
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str)
        && let Some(schema) = target(root, reference)
    {
        count += expressions(root, schema, visits)?;
    }
    let parts = |key: &str| schema.get(key).and_then(Value::as_array).into_iter().flatten();
    for part in parts("allOf") {
        count += expressions(root, part, visits)?;
    }
    for key in ["anyOf", "oneOf"] {
        let mut most = 0;
        for part in parts(key) {
            most = most.max(expressions(root, part, visits)?);
        }
        count += most;
    }
    Some(count)
}
