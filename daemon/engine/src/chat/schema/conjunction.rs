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

/// Refuses a value that too many expressions must match at once.
pub(super) fn check(root: &Value, schema: &Value, path: &str) -> Result<(), SchemaFault> {
    let mut visits = 0;
    match expressions(root, schema, &mut visits) {
        Some(count) if count <= MAX => Ok(()),
        _ => Err(SchemaFault {
            path: format!("{path}.allOf"),
            why: format!("puts more than {MAX} patterns and formats on one value"),
        }),
    }
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
