//! Configurations, from text to values.

use super::show::KEYS;
use super::*;

fn parse(text: &str) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("config.toml");
    std::fs::write(&path, text).expect("write the file");
    Config::read(Some(&path), Flags::default())
}

fn faults(text: &str) -> Vec<Fault> {
    match parse(text) {
        Err(ConfigError::Faults { faults: Faults(faults), .. }) => faults,
        other => panic!("expected faults, got {other:?}"),
    }
}

fn shipped() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/config.toml");
    std::fs::read_to_string(&path).expect("deploy/config.toml is there")
}

/// A line of the shipped file that is a key or a table, without its `# `.
fn key_line(line: &str) -> Option<&str> {
    let line = line.trim_start_matches("# ");
    let is_key = line.split_once(" = ").is_some_and(|(key, _)| {
        !key.is_empty() && key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    });
    (line.starts_with('[') || is_key).then_some(line)
}

/// Takes the `# ` off each commented key, as a reader of the file would. The part with examples apart.
fn uncommented(text: &str) -> (String, String) {
    let lines: Vec<&str> = text.lines().filter_map(key_line).collect();
    let examples = lines.iter().position(|line| *line == "[[access.tokens]]").expect("it shows a token");
    (lines[..examples].join("\n"), lines[examples..].join("\n"))
}

#[test]
fn the_shipped_file_is_the_default() {
    let text = shipped();
    assert_eq!(parse(&text).expect("it is valid as it is"), Config::default());
    let (defaults, examples) = uncommented(&text);
    assert_eq!(parse(&defaults).expect("it is valid uncommented"), Config::default());
    let whole = parse(&examples).expect("so are the examples");
    assert_eq!((whole.models.len(), whole.access.tokens.len()), (1, 1));
}

/// Each key with its comment, and the word (live) in the comment of those that a reload applies.
#[test]
fn the_shipped_file_explains_every_key() {
    let mut section = String::new();
    let mut comment = String::new();
    let mut explained = BTreeMap::new();
    for line in shipped().lines() {
        match key_line(line) {
            Some(table) if table.starts_with('[') => {
                section = table.trim_matches(['[', ']']).split(".\"").next().unwrap_or_default().to_owned();
                section.push('.');
            }
            Some(key) => {
                let key = key.split(' ').next().unwrap_or_default();
                explained.insert(format!("{section}{key}"), comment.contains("(live)"));
            }
            None if line.is_empty() => comment.clear(),
            None => comment.push_str(line),
        }
    }
    for (key, live) in KEYS {
        if let Some(name) = key.strip_prefix("sampling.") {
            // It has no default of its own, so the comment of the table shows an example.
            assert!(shipped().lines().any(|line| line.starts_with(&format!("#   {name} = "))), "{key}");
        } else if key != "access.tokens" {
            assert_eq!(explained.get(key), Some(&live), "{key}: whether a reload applies it");
        }
    }
}

#[test]
fn every_key_is_shown() {
    let entries = Config::default().entries();
    let shown: Vec<&str> = entries.iter().map(|(key, _)| key.as_str()).collect();
    for (key, _) in KEYS.into_iter().filter(|(key, _)| !key.starts_with("models.")) {
        assert!(shown.contains(&key), "{key}");
    }
    assert_eq!(shown.len(), KEYS.iter().filter(|(key, _)| !key.starts_with("models.")).count());
}

#[test]
fn all_faults_are_named_with_their_keys_and_lines() {
    let found = faults(
        "listen = ['x', 7]\ndrain_deadline = '5 parsecs'\n[memory]\nbudget = 'much'\n[engine]\nsequences = 0\n\
         kv_type = 'f64'\nthreads = 'many'\n[models.'a b']\nsequences = 1\n\
         [models.'m']\nsequences = 129\ndialect = 'qwen33'\nforced_one_by_one = 1\n\
         gpu_layers = 514\n[models.m.sampling]\ntop_p = 1.5\n[log]\nlevel = '=,='\n\
         target = 'printer'\n[access]\nuse = ['bob']\n[[access.tokens]]\nname = 'x'\nrole = 'admin'\n\
         [tls]\nkey = '/k'\n[metrics]\nlisten = 'tcp:1.2.3.4:5'",
    );
    let keys: Vec<(usize, &str)> =
        found.iter().map(|fault| (fault.line.expect("a line"), fault.key.as_str())).collect();
    let wanted = [
        (1, "listen[0]"),
        (1, "listen[1]"),
        (2, "drain_deadline"),
        (4, "memory.budget"),
        (6, "engine.sequences"),
        (7, "engine.kv_type"),
        (8, "engine.threads"),
        (9, "models.\"a b\""),
        (12, "models.\"m\".sequences"),
        (13, "models.\"m\".dialect"),
        (14, "models.\"m\".forced_one_by_one"),
        (15, "models.\"m\".gpu_layers"),
        (17, "models.\"m\".sampling.top_p"),
        (19, "log.level"),
        (20, "log.target"),
        (22, "access.use[0]"),
        (25, "access.tokens[0].role"),
        (29, "metrics.listen"),
    ];
    for wanted in wanted {
        assert!(keys.contains(&wanted), "{wanted:?} is not in {keys:?}");
    }
    for absent in ["access.tokens[0].sha256", "tls.certificate"] {
        assert!(keys.iter().any(|(_, key)| *key == absent), "{absent} is not in {keys:?}");
    }
    assert_eq!(keys.len(), wanted.len() + 2, "{keys:?}");
}

#[test]
fn an_unknown_key_is_refused_and_a_near_one_suggested() {
    let found = faults("sockets = 1\n[engine]\nsequence = 1\n[modells]\n");
    let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert!(lines[0].starts_with("line 1: sockets: there is no such key; here are "), "{lines:?}");
    assert_eq!(lines[1], "line 3: engine.sequence: there is no such key; `sequences` is meant?");
    assert_eq!(lines[2], "line 4: modells: there is no such key; `models` is meant?");
}

#[test]
fn text_that_is_not_toml_is_told_with_its_lines_and_the_rest_is_still_checked() {
    let found = faults("listen = [\n[engine]\nsequences = 0\nthreads = = 1\n");
    assert!(found.iter().any(|fault| fault.key.is_empty() && fault.line.is_some()), "{found:?}");
    assert!(found.len() >= 2, "{found:?}");
}

#[test]
fn flags_outrank_the_file_and_models_outrank_the_engine_table() {
    let mut config = parse(
        "state_dir = '/a'\n[engine]\nsequences = 4\n[sampling]\ntop_k = 7\ntop_p = 0.5\n[models.'m']\nsequences = 2\n\
         dialect = 'qwen3'\nforced_one_by_one = true\n[models.m.sampling]\ntop_k = 9\n[memory]\nbudget = '1GiB'",
    )
    .expect("a valid file");
    config.overlay(Flags { state_dir: Some("/b".into()), ..Flags::default() });
    assert_eq!(config.state_dir, Path::new("/b"));
    assert_eq!(config.memory.budget, Some(Bytes(1 << 30)));
    let name = |name: &str| name.parse::<ModelName>().expect("a name");
    let model = |of: &str| config.load_params(&name(of));
    assert_eq!((model("m").sequences, model("m").dialect.as_deref()), (2, Some("qwen3")));
    assert_eq!((model("other").sequences, model("other").dialect), (4, None));
    assert!(model("m").forced_one_by_one && !model("other").forced_one_by_one);
    let sampling = |of: &str| (config.sampling(&name(of)).top_k, config.sampling(&name(of)).top_p);
    assert_eq!((sampling("m"), sampling("other")), ((Some(9), Some(0.5)), (Some(7), Some(0.5))));
}

#[test]
fn the_day_that_templates_are_told_is_today_none_or_a_fixed_one() {
    let name = |name: &str| name.parse::<ModelName>().expect("a name");
    let config =
        parse("[engine]\ndate = '26 Jul 2024'\n[models.m]\ndate = 'none'\n[models.n]\ndate = 'today'\n")
            .expect("a valid file");
    let told = |of: &str| config.date(&name(of)).to_string();
    assert_eq!((told("m"), told("n"), told("o")), ("none".into(), "today".into(), "26 Jul 2024".into()));
    let shown = |key: &str| config.entries().into_iter().find(|(of, _)| of == key).map(|(_, value)| value);
    assert_eq!(shown("engine.date").as_deref(), Some("26 Jul 2024"));
    assert_eq!(shown("models.\"m:latest\".date").as_deref(), Some("none"));
    assert_eq!(Config::default().date(&name("m")), PromptDate::Today);
    let found =
        faults("[engine]\ndate = 2024-07-26\n[models.m]\ndate = '31 Feb 2024'\n[models.n]\ndate = false\n");
    let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
    let wanted = [
        "line 2: engine.date: must be text in quotes, not a date",
        "line 4: models.\"m\".date: `31 Feb 2024` is not today, none or a day such as 26 Jul 2024",
        "line 6: models.\"n\".date: must be text in quotes, not true or false",
    ];
    assert_eq!(lines, wanted);
}

#[test]
fn plain_tcp_stays_on_loopback() {
    let listen = |address: &str, tls: &str| parse(&format!("listen = ['{address}']\n{tls}"));
    assert!(listen("tcp:127.0.0.1:0", "").is_ok());
    assert!(listen("tcp:[::1]:50051", "").is_ok());
    assert_eq!(faults("drain_deadline = 1\nlisten = ['tcp:10.0.0.1:1', 'tcp:[::]:1']").len(), 3);
    let flags = Flags { listen: vec!["tcp:10.0.0.1:1".parse().expect("an address")], ..Flags::default() };
    assert!(matches!(Config::read(None, flags), Err(ConfigError::NotLoopback(_))));
    assert!(listen("tcp:10.0.0.1:1", "[tls]\ncertificate = '/c'\nkey = '/k'").is_ok());
    assert!(matches!("unix:".parse::<Endpoint>(), Err(BadEndpoint::Form(_))));
}

#[test]
fn what_is_there_twice_is_a_fault() {
    let token = |name: &str| {
        format!("[[access.tokens]]\nname = '{name}'\nrole = 'use'\nsha256 = '{}'\n", "0".repeat(64))
    };
    let keys = |text: &str| faults(text).into_iter().map(|fault| fault.key).collect::<Vec<_>>();
    assert_eq!(keys(&(token("a") + &token("b") + &token("a"))), ["access.tokens[2].name"]);
    assert_eq!(keys(&token("")), ["access.tokens[0].name"]);
    assert_eq!(keys("[models.m]\n[models.'m:latest']\n").len(), 1);
    assert_eq!(keys("listen = ['unix:/a', 'unix:/a']\n"), ["listen[1]"]);
}
