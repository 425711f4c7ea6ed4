//! Templates render as Hugging Face does, and hostile ones end.

use super::*;
use crate::testing::on_a_large_stack;

fn render(source: &str, context: Context) -> Result<String, RenderError> {
    let shield = Arc::new(Shield::new(Vec::new()));
    Template::compile(source, shield).unwrap().render(context)
}

fn refusal(source: &str) -> CompileError {
    Template::compile(source, Arc::new(Shield::new(Vec::new()))).unwrap_err()
}

#[test]
fn a_template_that_is_too_long_is_refused() {
    let error = refusal(&"x".repeat(65 * 1024));
    assert_eq!(error.to_string(), "chat template of 66560 bytes, at most 65536 are taken");
}

#[test]
fn chains_that_would_overflow_the_stack_are_refused_with_their_line() {
    let chains = [
        "not ".repeat(30_000),
        format!("{}true", "not ".repeat(15_000)),
        format!("1{}", "+1".repeat(20_000)),
        format!("a{}", ".a".repeat(20_000)),
        format!("a{}", "|trim".repeat(10_000)),
        format!("a{}", " if a else a".repeat(5_000)),
        format!("a{}", " and a".repeat(10_000)),
        "-".repeat(60_000),
    ];
    for chain in chains {
        let source = format!("one\ntwo {{{{ {chain} }}}}");
        match refusal(&source) {
            CompileError::TooLong { .. } => {}
            error => assert_eq!(error.to_string(), "chat template nests too deep at line 2"),
        }
    }
    let branches = format!("{{% if a %}}{}{{% endif %}}", "{% elif a %}".repeat(5_000));
    assert!(matches!(refusal(&branches), CompileError::TooDeep { line: 1 }));
}

#[test]
fn what_the_limits_let_through_does_not_overflow_the_stack() {
    on_a_large_stack(|| {
        let chains = [
            format!("{}true", "not ".repeat(990)),
            format!("1{}", "+1".repeat(490)),
            format!("[]{}", "|list".repeat(490)),
            format!("{}{}", "(".repeat(490), ")".repeat(490)),
            format!("{}{}", "[".repeat(490), "]".repeat(490)),
        ];
        for chain in chains {
            let source = format!("{{{{ {chain} }}}}");
            // Whether it is taken is the compiler's business.
            drop(
                Template::compile(&source, Arc::new(Shield::new(Vec::new())))
                    .map(|t| t.render(Context::new())),
            );
        }
        let blocks = format!("{}{}", "{% if a %}".repeat(3_000), "{% endif %}".repeat(3_000));
        assert!(matches!(refusal(&blocks), CompileError::Syntax { .. }));
        let sets = "{% set a %}".repeat(5_000);
        assert!(matches!(refusal(&sets), CompileError::Syntax { .. }));
        let branches = format!("{{% if a %}}{}{{% endif %}}", "{% elif a %}".repeat(400));
        assert_eq!(render(&branches, Context::new()).unwrap(), "");
    });
}

#[test]
fn broken_syntax_names_its_line() {
    let error = refusal("one\n{% if %}");
    assert!(error.to_string().starts_with("chat template, line 2: syntax error"), "{error}");
}

#[test]
fn endless_work_is_stopped() {
    let bombs = [
        "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}",
        "{% set n = namespace(s='xxxxxxxxxxxxxxxx') %}{% for a in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}",
        "{% for a in range(9999) %}{% for b in range(9999) %}{{ 'x' * 99999 }}{% endfor %}{% endfor %}",
    ];
    for bomb in bombs {
        let error = render(bomb, Context::new()).unwrap_err();
        assert!(
            matches!(error, RenderError::TooMuchWork { line: 1 } | RenderError::Failed { .. }),
            "{error}"
        );
    }
}

#[test]
fn a_very_long_conversation_is_not_too_much_work() {
    let message = || {
        Value::from_pairs([("role", Value::from("user")), ("content", Value::from("word ".repeat(2_000)))])
    };
    let mut context = Context::new();
    context.set("messages", (0..1_000).map(|_| message()).collect::<Vec<_>>());
    let source = "{% for m in messages[::-1] %}{% if m.content.startswith('<a>') and '</a>' in m.content %}\
        {{ m.role }}{% endif %}{% endfor %}{% for m in messages %}{{ '<' + m.role + '>' + m.content }}{% endfor %}";
    assert_eq!(render(source, context).unwrap().len(), 1_000 * (10_000 + 6));
}

#[test]
fn a_templates_own_refusal_is_told_from_its_failures() {
    let refused = render("{{ raise_exception('only one call') }}", Context::new()).unwrap_err();
    assert!(matches!(refused, RenderError::Refused(ref message) if message == "only one call"));
    let nested = "{% macro m() %}{{ raise_exception('deep') }}{% endmacro %}{{ m() }}";
    assert!(
        matches!(render(nested, Context::new()), Err(RenderError::Refused(message)) if message == "deep")
    );
    let failed = render("\n{{ missing.field }}", Context::new()).unwrap_err();
    assert!(matches!(failed, RenderError::Failed { line: 2, .. }), "{failed:?}");
}

#[test]
fn the_date_is_an_argument_and_absent_without_one() {
    let source = "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y, %Y-%m-%d %B %%') }}{% else %}none{% endif %}";
    assert_eq!(render(source, Context::new()).unwrap(), "none");
    let mut context = Context::new();
    context.set_date(Date::parse("6 Jul 2024").unwrap());
    assert_eq!(render(source, context).unwrap(), "06 Jul 2024, 2024-07-06 July %");
    assert!(Date::parse("2024-07-06").is_err());
    assert!(Date::parse("32 Jul 2024").is_err());
    assert!(Date::parse("1 Ärz 2024").is_err());
}

#[test]
fn tojson_is_json_dumps() {
    let json = r#"{"b":[1,-2.50,1E5,1e-7,1e16,12345678901234567890123,-0.0,true,null],"a":"<ü & \"\\/\n\u0001>","e":{},"l":[]}"#;
    let shield = Shield::new(Vec::new());
    let with = |source: &str| {
        let mut context = Context::new();
        context.set("v", guarded(&crate::chat::json::Json::parse(json).unwrap(), &shield));
        render(source, context).unwrap()
    };
    assert_eq!(
        with("{{ v | tojson }}"),
        r#"{"b": [1, -2.5, 100000.0, 1e-07, 1e+16, 12345678901234567890123, -0.0, true, null], "a": "<ü & \"\\/\n\u0001>", "e": {}, "l": []}"#
    );
    assert_eq!(with("{{ v.a | tojson(ensure_ascii=True) }}"), r#""<\u00fc & \"\\/\n\u0001>""#);
    assert_eq!(
        with("{{ {'x': [1], 'e': {}} | tojson(indent=2) }}"),
        "{\n  \"x\": [\n    1\n  ],\n  \"e\": {}\n}"
    );
    assert_eq!(with("{{ v.b[5] }}"), "12345678901234567890123");
}

#[test]
fn a_look_alike_cannot_hide_in_json_escapes() {
    let shield = Arc::new(Shield::new(vec!["<｜e｜>".to_owned(), "\\u00fc".to_owned()]));
    let source = "{{ v | tojson(ensure_ascii=True) }}";
    let template = Template::compile(source, Arc::clone(&shield)).unwrap();
    let mut context = Context::new();
    context.set("v", shield.guard("<｜e｜>ü"));
    let text = template.render(context).unwrap();
    assert_eq!(shield.restore(&text), "\"<\\uff5ce\\uff5c>\\u00fc\"");
    assert!((0..text.len()).filter_map(|at| text.get(at..)).all(|rest| shield.control_at(rest).is_none()));
}
