//! Models in the store: imported whole or not at all, whatever happens.

use std::time::Duration;

use hearth_client::{Code, v1};
use hearth_tests::TestDaemon;
use hearth_tests::answer::{answer, ask, refusal};
use hearth_tests::eventually::eventually;
use hearth_tests::fixture::{self, Arch, Options};

#[tokio::test]
async fn an_imported_model_is_listed_with_its_facts_and_survives_a_restart() {
    let daemon = TestDaemon::start().await;
    let imported = daemon.import("tiny:v1", &fixture::tiny(Arch::Glm4)).await;
    let facts = imported.facts.clone().expect("facts");
    assert_eq!((facts.architecture.as_str(), facts.context_length), ("glm4", 32_768));
    assert!(facts.vocabulary_size > 256 && facts.parameters > 10_000);
    let daemon = daemon.kill_and_restart().await;
    let models = daemon.client().models().await.expect("a list");
    assert_eq!(models.len(), 1);
    assert_eq!(models[0].name, "tiny:v1");
    assert_eq!(models[0].files, imported.files);
    assert_eq!(models[0].facts, imported.facts);
    answer(&daemon.client(), ask("tiny:v1", "hello", 2)).await.expect("it answers");
    let digest = &imported.files[0].sha256;
    answer(&daemon.client(), ask(&digest[..16], "hello", 2)).await.expect("it answers by digest");
}

#[tokio::test]
async fn a_model_whose_entry_the_card_has_damaged_is_set_aside_and_told_of() {
    let mut daemon = TestDaemon::start().await;
    for name in ["whole", "torn"] {
        daemon.import(name, &fixture::tiny(Arch::Qwen3)).await;
    }
    daemon.kill().await;
    let manifests = daemon.folder().join("state/models/manifests");
    let torn = std::fs::read_dir(manifests)
        .expect("the manifests")
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with("torn"));
    std::fs::write(torn.expect("its manifest").path(), "{\"name\": \"to").expect("write a part of it");
    let daemon = daemon.restart().await;
    let models = daemon.client().models().await.expect("a list");
    assert_eq!(models.iter().map(|model| model.name.as_str()).collect::<Vec<_>>(), ["whole:latest"]);
    daemon.logs("Set a damaged model aside", 1).await;
}

#[tokio::test]
async fn wrong_sizes_and_digests_are_refused_and_leave_nothing() {
    let daemon = TestDaemon::start().await;
    let client = daemon.client();
    let bytes = fixture::tiny(Arch::Qwen3).to_bytes();
    let size = bytes.len() as u64;
    let wrong = "0".repeat(64);
    for (announced, digest) in
        [(size + 1, None), (size - 1, None), (size, Some(wrong.as_str())), (u64::MAX / 2, None)]
    {
        let reader = std::io::Cursor::new(bytes.clone());
        let outcome = async {
            let mut events = client.import("tiny", reader, announced, digest).await?;
            while let Some(event) = events.next().await {
                event?;
            }
            Ok::<(), hearth_client::Error>(())
        };
        outcome.await.expect_err("a refusal");
    }
    assert!(client.models().await.expect("a list").is_empty());
    eventually("the files are gone", || async {
        let mut left = std::fs::read_dir(daemon.state().join("models/tmp")).expect("the folder");
        left.next().is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_model_in_memory_is_neither_removed_nor_replaced() {
    let daemon = TestDaemon::start().await;
    daemon.import("tiny", &fixture::tiny(Arch::Qwen3)).await;
    daemon.load("tiny").await;
    let error = daemon.client().remove("tiny").await.expect_err("a refusal");
    assert_eq!(refusal(&error).code, Code::FailedPrecondition, "{error}");
    let again = daemon.try_import("tiny", fixture::tiny(Arch::Llama).to_bytes()).await;
    assert_eq!(refusal(&again.expect_err("a refusal")).code, Code::FailedPrecondition);
    assert!(daemon.client().unload("tiny", false).await.expect("unloaded"));
    assert!(daemon.client().remove("tiny").await.expect("removed") > 10_000);
    assert!(daemon.client().models().await.expect("a list").is_empty());
}

#[tokio::test]
async fn loading_and_unloading_show_in_the_watch() {
    let daemon = TestDaemon::start().await;
    daemon.import("tiny", &fixture::tiny(Arch::Qwen3)).await;
    let mut watch = daemon.client().watch_models().await.expect("a watch");
    let states = async {
        let mut states = Vec::new();
        while let Some(change) = watch.next().await {
            if let hearth_client::ModelChange::Changed(model) = change.expect("no error") {
                states.push(model.state());
                if states.len() > 1 && model.state() == v1::ModelState::Absent {
                    return states;
                }
            }
        }
        panic!("the watch ended");
    };
    let work = async {
        daemon.load("tiny").await;
        daemon.client().unload("tiny", false).await.expect("unloaded");
    };
    let (states, ()) = futures_util::future::join(states, work).await;
    assert_eq!(states.first(), Some(&v1::ModelState::Absent));
    assert!(states.contains(&v1::ModelState::Ready), "{states:?}");
    assert!(daemon.engine("tiny").await.is_none());
}

#[tokio::test]
async fn a_path_is_imported_only_from_a_configured_folder() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let file = folder.path().join("model.gguf");
    fixture::tiny(Arch::Qwen3).write(&file).expect("write the model");
    let outside = TestDaemon::start().await;
    let refused = async {
        let mut events = outside.client().import_path("tiny", &file, None).await?;
        while let Some(event) = events.next().await {
            event?;
        }
        Ok::<(), hearth_client::Error>(())
    };
    refused.await.expect_err("a refusal");
    let daemon = TestDaemon::with(&format!("import_dirs = [\"{}\"]\n", folder.path().display())).await;
    let mut events = daemon.client().import_path("tiny", &file, None).await.expect("a stream");
    while let Some(event) = events.next().await {
        event.expect("no error");
    }
    answer(&daemon.client(), ask("tiny", "hello", 2)).await.expect("it answers");
}

/// Kills the daemon at many instants of an import that replaces a model: afterwards the name has the old
/// model or the new one, whole, and it answers.
#[tokio::test]
async fn a_daemon_killed_at_any_instant_of_an_import_has_the_old_model_or_the_new_one() {
    let mut daemon = TestDaemon::start().await;
    let old = daemon.import("tiny", &fixture::tiny(Arch::Qwen3)).await;
    let other =
        fixture::tiny_with(Arch::Llama, &Options { width: 256, layers: 6, ..Options::default() }).to_bytes();
    let (mut kept, mut replaced) = (0, 0);
    for instant in 0..24u64 {
        {
            let import = daemon.try_import("tiny", other.clone());
            // Ends early where the import is done before; both are interesting.
            drop(tokio::time::timeout(Duration::from_millis(instant * 12), import).await);
        }
        daemon = daemon.kill_and_restart().await;
        let models = daemon.client().models().await.expect("a list");
        assert_eq!(models.len(), 1, "killed after {} ms", instant * 12);
        if models[0].files == old.files {
            kept += 1;
        } else {
            assert_eq!(models[0].files[0].size_bytes, other.len() as u64);
            replaced += 1;
            daemon.import("tiny", &fixture::tiny(Arch::Qwen3)).await;
        }
        let left = std::fs::read_dir(daemon.state().join("models/tmp")).expect("the folder").count();
        assert_eq!(left, 0, "no temporary file is left");
    }
    answer(&daemon.client(), ask("tiny", "hello", 2)).await.expect("it answers");
    assert!(kept > 0 && kept + replaced == 24);
}

#[tokio::test]
async fn two_daemons_on_one_state_directory_are_refused() {
    let daemon = TestDaemon::start().await;
    let output = tokio::process::Command::new(hearth_tests::daemon::program("hearthd"))
        .args(["serve", "--state"])
        .arg(daemon.state())
        .args(["--listen", &format!("unix:{}", daemon.folder().join("second.sock").display())])
        .output()
        .await
        .expect("run hearthd");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains(&daemon.pid().as_raw_nonzero().to_string()), "{said}");
}

#[tokio::test]
async fn an_import_whose_events_are_dropped_is_given_up() {
    let daemon = TestDaemon::start().await;
    let client = daemon.client();
    let bytes = fixture::tiny(Arch::Qwen3).to_bytes();
    let (mut here, there) = tokio::io::duplex(1 << 20);
    let mut events = client.import("tiny", there, bytes.len() as u64, None).await.expect("it begins");
    let half = bytes.len() / 2;
    tokio::io::AsyncWriteExt::write_all(&mut here, &bytes[..half]).await.expect("half of it");
    let begun = tokio::time::timeout(std::time::Duration::from_millis(300), events.next()).await;
    assert!(!matches!(begun, Ok(Some(Err(_)) | None)), "{begun:?}");
    drop(events);
    // The rest would be there to be read, and must not be.
    tokio::io::AsyncWriteExt::write_all(&mut here, &bytes[half..]).await.ok();
    eventually("the file is gone", || async {
        let mut left = std::fs::read_dir(daemon.state().join("models/tmp")).expect("the folder");
        left.next().is_none().then_some(())
    })
    .await;
    assert!(client.models().await.expect("a list").is_empty());
}
