//! What is refused, with which path, and what a schema becomes.

use serde_json::json;

use super::*;

fn fault(schema: Value) -> (String, String) {
    let fault = prepare(&schema).expect_err("a fault");
    (fault.path, fault.why)
}

#[test]
fn a_keyword_that_cannot_be_enforced_is_refused_with_its_path() {
    let cases = [
        (json!({"not": {}}), ".not"),
        (json!({"properties": {"a": {"uniqueItems": true}}}), ".properties.a.uniqueItems"),
        (json!({"items": {"if": true}}), ".items.if"),
        (json!({"anyOf": [{}, {"contains": {}}]}), ".anyOf[1].contains"),
        (json!({"$defs": {"a": {"propertyNames": {}}}}), ".$defs.a.propertyNames"),
        (json!({"format": "credit-card"}), ".format"),
        (json!({"type": "text"}), ".type"),
        (json!({"minLength": -1}), ".minLength"),
        (json!({"minimum": "1"}), ".minimum"),
        (json!({"minProperties": 2}), ".minProperties"),
        (json!({"enum": [1, {"a": [9_007_199_254_740_993_u64]}]}), ".enum"),
        (json!({"const": 1e300}), ".const"),
        (json!({"maximum": 9_007_199_254_740_993_u64}), ".maximum"),
        (json!({"enum": []}), ".enum"),
        (json!({"properties": {"a": 1}}), ".properties.a"),
        (json!({"$ref": "#/$defs/b", "$defs": {}}), ".$ref"),
        (json!({"$ref": "https://example.com/a"}), ".$ref"),
    ];
    for (schema, path) in cases {
        assert_eq!(fault(schema).0, path);
    }
}

#[test]
fn annotations_are_dropped_and_counts_made_whole() {
    let schema = json!({"title": "t", "x-own": 1, "type": "array", "maxItems": 2.0, "uniqueItems": false});
    assert_eq!(prepare(&schema).unwrap(), json!({"type": "array", "maxItems": 2}));
    // A property may be called like a keyword.
    let schema = json!({"properties": {"title": {"type": "string"}}, "additionalProperties": true});
    assert_eq!(prepare(&schema).unwrap(), schema);
}

#[test]
fn an_object_that_lists_its_properties_has_no_others() {
    let schema = json!({"properties": {"a": {"properties": {}}}});
    let closed = json!({"properties": {"a": {"properties": {}, "additionalProperties": false}},
        "additionalProperties": false});
    assert_eq!(prepare(&schema).unwrap(), closed);
    for open in [
        json!({"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]}),
        json!({"properties": {"a": {}}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}),
        json!({"type": "object"}),
        json!({"properties": {"a": {}}, "required": ["b"]}),
        json!({"properties": {"a": {}}, "patternProperties": {"^x": {}}}),
    ] {
        assert_eq!(prepare(&open).unwrap(), open);
    }
}

#[test]
fn cycles_are_refused_where_no_value_can_end_them() {
    let back =
        json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}});
    assert!(fault(back).1.contains("leads back to itself"));
    let own = json!({"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"$ref": "#/$defs/a"}}});
    assert_eq!(fault(own).0, ".allOf[0].$ref");
    assert!(fault(json!({"$ref": "#"})).1.contains("leads back to itself"));
    let endless = json!({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]});
    assert_eq!(fault(endless).0, ".properties.a.$ref");
    let full = json!({"type": "array", "minItems": 1, "items": {"$ref": "#"}});
    assert!(fault(full).1.contains("no value ever ends"));
    let tree = json!({"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#"}}},
        "required": ["children"]});
    assert!(prepare(&tree).is_ok());
    let list = json!({"$ref": "#/$defs/list", "$defs": {"list": {"anyOf": [{"type": "null"},
        {"type": "object", "properties": {"next": {"$ref": "#/$defs/list"}}, "required": ["next"]}]}}});
    assert!(prepare(&list).is_ok());
}

#[test]
fn huge_and_deep_schemas_are_refused() {
    let mut deep = json!({});
    for _ in 0..80 {
        deep = json!({"items": deep});
    }
    assert!(fault(deep).1.contains("64 deep"));
    let wide = |count: usize| -> Value { (0..count).map(|at| (at.to_string(), json!({}))).collect() };
    assert_eq!(fault(json!({"properties": wide(501)})).0, ".properties");
    let wide = json!({"properties": wide(500)});
    assert!(fault(json!({"prefixItems": vec![wide; 10]})).1.contains("4000 parts"));
    assert_eq!(fault(json!({"enum": vec![0; 5_001]})).0, ".enum");
    assert!(fault(json!({"const": "x".repeat(300_000)})).1.contains("262144"));
    let many: Vec<Value> = vec![json!({"$ref": "#/$defs/a"}); 1_001];
    assert!(fault(json!({"$defs": {"a": {}}, "prefixItems": many})).1.contains("1000 references"));
}

#[test]
fn too_many_expressions_for_one_value_are_refused_however_they_come_together() {
    let pattern = |at: usize| json!({"pattern": format!("a{at}")});
    let side_by_side: Vec<Value> = (0..9).map(pattern).collect();
    assert_eq!(fault(json!({"items": {"allOf": side_by_side}})).0, ".items.allOf");
    assert!(prepare(&json!({"allOf": side_by_side[..8]})).is_ok());
    let doubling: Map<String, Value> = (0..20)
        .map(|at| {
            let next = json!({"$ref": format!("#/$defs/{}", at + 1)});
            (at.to_string(), json!({"allOf": [next, next]}))
        })
        .chain([("20".to_owned(), pattern(0))])
        .collect();
    assert!(fault(json!({"$ref": "#/$defs/0", "$defs": doubling})).1.contains("more than 8"));
    let chain: Map<String, Value> = (0..40)
        .map(|at| {
            (at.to_string(), json!({"pattern": format!("a{at}"), "$ref": format!("#/$defs/{}", at + 1)}))
        })
        .chain([("40".to_owned(), json!({}))])
        .collect();
    assert_eq!(fault(json!({"$ref": "#/$defs/0", "$defs": chain})).0, ".$ref");
    // One pattern for each of many values is nothing special.
    let apart: Vec<Value> = (0..40).map(|at| json!({"allOf": [pattern(at)]})).collect();
    assert!(prepare(&json!({"prefixItems": apart})).is_ok());
}

#[test]
fn a_complaint_without_a_path_gets_one() {
    let schema =
        json!({"properties": {"a": {"anyOf": [{"type": "string"}, {"pattern": "(?=x)", "type": "string"}]}}});
    let complaint = |schema: &Value| schema.to_string().contains("(?=").then(|| "look-ahead".to_owned());
    let fault = locate(&schema, &complaint).unwrap();
    assert_eq!(fault.path, ".properties.a.anyOf[1].pattern");
    assert_eq!(locate(&json!({}), &complaint), None);
}
