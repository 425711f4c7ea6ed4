//! Completions and the manual, made of the arguments themselves.

use serde_json::Value;

use crate::daemon::Daemon;
use crate::run;

const COMMANDS: [&str; 16] = [
    "chat",
    "completions",
    "count",
    "import",
    "load",
    "log",
    "man",
    "models",
    "pin",
    "plan",
    "render",
    "rm",
    "status",
    "top",
    "unload",
    "unpin",
];

async fn stdout(args: &[&str]) -> String {
    let output = run(&Daemon::start(), args, "").await;
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_shell_has_completions_of_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = stdout(&["completions", shell]).await;
        for command in COMMANDS {
            assert!(script.contains(command), "{shell} does not know {command}");
        }
        assert!(script.contains("--tool-cmd") || script.contains("tool-cmd"), "{shell}");
    }
    let line: Value = serde_json::from_str(&stdout(&["completions", "bash", "--json"]).await).expect("JSON");
    assert_eq!((&line["type"], &line["shell"]), (&"completions".into(), &"bash".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_has_its_page() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let folder = dir.path().join("man1");
    let written = stdout(&["man", "--out", folder.to_str().expect("a plain path")]).await;
    let pages = COMMANDS.map(|command| format!("hearth-{command}.1"));
    assert_eq!(written.lines().count(), pages.len() + 1, "{written}");
    for page in pages.iter().map(String::as_str).chain(["hearth.1"]) {
        let text = std::fs::read_to_string(folder.join(page)).expect(page);
        assert!(text.contains(".TH "), "{page}");
        assert!(text.contains("\\-\\-endpoint"), "{page} lists the options of the program");
    }
    let all = stdout(&["man"]).await;
    assert_eq!(all.matches(".TH ").count(), COMMANDS.len() + 1);
    let json = stdout(&["man", "--json"]).await;
    assert!(json.lines().all(|line| line.starts_with(r#"{"type":"man_page","name":"hearth"#)));
}
