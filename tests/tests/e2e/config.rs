//! Configuration files as an operator meets them: checked, shown, refused.

use std::path::Path;
use std::process::{Command, Output};

use hearth_tests::daemon::{program, spawn};
use hearth_tests::{Launch, TestDaemon};
use tempfile::TempDir;

fn check(file: &Path) -> Output {
    Command::new(program("hearthd"))
        .args(["check-config", "--config"])
        .arg(file)
        .output()
        .expect("run hearthd")
}

fn written(text: &str) -> (TempDir, std::path::PathBuf) {
    let folder = TempDir::new().expect("a temporary folder");
    let file = folder.path().join("config.toml");
    std::fs::write(&file, text).expect("write the configuration");
    (folder, file)
}

#[test]
fn the_shipped_file_has_no_faults_and_is_shown_with_what_it_means() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/config.toml");
    let checked = check(&file);
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
    let said = String::from_utf8(checked.stdout).expect("UTF-8");
    for line in
        ["listen = [unix:/run/hearth/hearth.sock]", "engine.sequences = 8", "access.use = [group:hearth]"]
    {
        assert!(said.lines().any(|found| found == line), "{line}: {said}");
    }
    assert!(said.trim_end().ends_with("no faults"), "{said}");
}

#[test]
fn every_fault_is_told_at_once_with_key_and_line() {
    let (_folder, file) = written(
        "listen = ['nowhere']\ndrain_deadlin = '1s'\n\n[engine]\nsequences = 'eight'\nkv_type = 'f64'\n\
         [tls]\ncertificate = '/nonexistent/cert.pem'\n",
    );
    let checked = check(&file);
    assert_eq!(checked.status.code(), Some(78), "{checked:?}");
    let said = String::from_utf8(checked.stderr).expect("UTF-8");
    for words in [
        "line 1: listen[0]: `nowhere` is not an address",
        "line 2: drain_deadlin: there is no such key; `drain_deadline` is meant?",
        "line 5: engine.sequences: must be a whole number, not text",
        "line 6: engine.kv_type: `f64` is not f16, q8_0 or q4_0",
        "tls.key: is needed",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(said.contains(file.to_str().expect("UTF-8")), "{said}");
}

#[test]
fn certificates_are_checked_too_and_unknown_names_warned_of() {
    let (_folder, file) = written("[tls]\ncertificate = '/nonexistent/c.pem'\nkey = '/nonexistent/k.pem'\n");
    let checked = check(&file);
    assert_eq!(checked.status.code(), Some(78), "{checked:?}");
    assert!(String::from_utf8_lossy(&checked.stderr).contains("tls.certificate: read /nonexistent/c.pem"));
    let (_folder, file) = written("[access]\nuse = ['group:no-such-group-here']\n");
    let checked = check(&file);
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(said.contains("warning: access.use: this system knows no group:no-such-group-here"), "{said}");
    let missing = check(Path::new("/nonexistent/config.toml"));
    assert_eq!(missing.status.code(), Some(78), "{missing:?}");
}

#[tokio::test]
async fn a_daemon_does_not_start_on_a_fault() {
    let (folder, _file) = written("[engine]\nsequences = 0\n");
    let mut daemon = spawn(folder.path(), &Launch::default(), None);
    assert_eq!(daemon.wait().await.expect("wait").code(), Some(78));
    let log = std::fs::read_to_string(folder.path().join("log")).expect("its log");
    assert!(log.contains("line 2: engine.sequences: 0 is not within 1 to 128"), "{log}");
    assert!(!folder.path().join("state").exists(), "nothing was touched");
}

#[tokio::test]
async fn the_effective_configuration_is_logged_once() {
    let digest = "ab".repeat(32);
    let daemon = TestDaemon::with(&format!(
        "drain_deadline = '7s'\n[models.big.sampling]\ntop_k = 3\n\
         [[access.tokens]]\nname = 'panel'\nsha256 = '{digest}'\nrole = 'use'\n"
    ))
    .await;
    let log = daemon.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("Effective configuration")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    for words in ["drain_deadline=7s", "models.\\\"big:latest\\\".sampling.top_k=3", "panel: use"] {
        let plain = words.replace('\\', "");
        assert!(lines[0].contains(words) || lines[0].contains(&plain), "{words}: {}", lines[0]);
    }
    assert!(!log.contains(&digest), "secrets are not logged, nor their digests");
}

/// Request over model over default: seen in what a model writes without randomness.
#[tokio::test]
async fn sampling_of_the_configuration_holds_where_a_request_does_not_say() {
    use hearth_client::ChatRequest;
    use hearth_tests::fixture::{self, Arch};

    let daemon = TestDaemon::with("[models.tiny.sampling]\ntemperature = 0.0\n").await;
    daemon.import("tiny", &fixture::tiny(Arch::Qwen3)).await;
    daemon.import("hot", &fixture::tiny(Arch::Qwen3)).await;
    let said = async |model: &str, seed: u64| {
        let sampling = hearth_client::v1::Sampling { seed: Some(seed), ..Default::default() };
        let request = ChatRequest::new(model).user("hello").sampling(sampling).max_tokens(12);
        daemon.client().generate(request).await.expect("a stream").answer().await.expect("an answer").text
    };
    assert_eq!(said("tiny", 1).await, said("tiny", 2).await, "no randomness is left");
    assert_ne!(said("hot", 1).await, said("hot", 2).await, "the other model keeps its own");
}
