//! What any gRPC client finds: reflection, health, the status.

use hearth_tests::TestDaemon;
use hearth_tests::answer::{answer, ask};
use hearth_tests::eventually::eventually;
use hearth_tests::fixture::{self, Arch};
use tokio_stream::StreamExt as _;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

async fn channel(daemon: &TestDaemon) -> Channel {
    let uri = format!("unix:{}", daemon.socket().display());
    Endpoint::from_shared(uri).expect("an address").connect().await.expect("connect")
}

#[tokio::test]
async fn a_reflection_client_lists_the_services_and_reads_their_descriptors() {
    let daemon = TestDaemon::start().await;
    let mut client = ServerReflectionClient::new(channel(&daemon).await);
    let ask = |message| ServerReflectionRequest { host: String::new(), message_request: Some(message) };
    let requests = tokio_stream::iter([
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("hearth.v1.Inference".to_owned())),
    ]);
    let mut replies = client.server_reflection_info(requests).await.expect("a stream").into_inner();
    let listed = replies.next().await.expect("a reply").expect("no error").message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = listed else { panic!("{listed:?}") };
    let names: Vec<&str> = list.service.iter().map(|service| service.name.as_str()).collect();
    for name in ["hearth.v1.Inference", "hearth.v1.Models", "hearth.v1.Node", "grpc.health.v1.Health"] {
        assert!(names.contains(&name), "{names:?}");
    }
    let file = replies.next().await.expect("a reply").expect("no error").message_response;
    assert!(matches!(file, Some(MessageResponse::FileDescriptorResponse(_))), "{file:?}");
}

#[tokio::test]
async fn the_health_service_says_serving() {
    let daemon = TestDaemon::start().await;
    let mut client = HealthClient::new(channel(&daemon).await);
    for service in ["", "hearth.v1.Inference", "hearth.v1.Models", "hearth.v1.Node"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let status = client.check(request).await.expect(service).into_inner().status();
        assert_eq!(status, tonic_health::pb::health_check_response::ServingStatus::Serving, "{service}");
    }
}

#[tokio::test]
async fn the_status_shows_versions_memory_and_engines() {
    let daemon = TestDaemon::start().await;
    daemon.import("tiny", &fixture::tiny(Arch::Qwen3)).await;
    let before = daemon.client().status().await.expect("a status");
    assert!(before.engines.is_empty());
    let memory = before.memory.expect("memory");
    assert!(memory.budget_bytes > 0 && !memory.budget_source.is_empty());
    let front: Vec<&str> = memory.lines.iter().map(|line| line.label.as_str()).collect();
    assert_eq!(front, ["hearthd"], "nothing else is in memory");
    answer(&daemon.client(), ask("tiny", "hello", 3)).await.expect("an answer");
    let after = daemon.client().status().await.expect("a status");
    let memory = after.memory.expect("memory");
    assert_eq!(memory.lines.len(), 2);
    assert_eq!(memory.lines[0].bytes + memory.lines[1].bytes, memory.reserved_bytes);
    assert_eq!(memory.lines[1].bytes, after.engines[0].reserved_bytes);
    assert_eq!(after.engines[0].model, "tiny:latest");
    assert!(!after.engines[0].cpu_level.is_empty());
    assert_eq!(after.version.expect("a version").api_revision, 2);
    assert!(daemon.client().unload("tiny", false).await.expect("unloaded"));
    let end = daemon.client().status().await.expect("a status");
    assert_eq!(end.memory.expect("memory").lines.len(), 1);
}

#[tokio::test]
async fn sigterm_lets_a_running_answer_finish() {
    let daemon = TestDaemon::start().await;
    daemon.import("tiny", &fixture::tiny(Arch::Qwen3)).await;
    daemon.load("tiny").await;
    let mut stream = daemon.client().generate(ask("tiny", "hello", 300)).await.expect("a stream");
    stream.next().await.expect("an event").expect("accepted");
    let (status, said) = futures_util::future::join(daemon.stop(), stream.answer()).await;
    assert!(status.success(), "{status:?}");
    let said = said.expect("the answer is whole");
    assert_eq!(said.finished.expect("an end").usage.expect("usage").generated_tokens, 300);
}

#[tokio::test]
async fn ctrl_c_on_a_terminal_lets_a_running_answer_finish_too() {
    let daemon = TestDaemon::with("[engine]\ncontext_tokens = 4096\n").await;
    daemon.import("tiny", &fixture::tiny(Arch::Qwen3)).await;
    daemon.load("tiny").await;
    let mut stream = daemon.client().generate(ask("tiny", "hello", 400)).await.expect("a stream");
    stream.next().await.expect("an event").expect("accepted");
    // A terminal signals every process of the foreground group.
    rustix::process::kill_process_group(daemon.pid(), rustix::process::Signal::INT)
        .expect("signal the group");
    let said = stream.answer().await.expect("the whole answer");
    assert_eq!(hearth_tests::answer::usage(&said).generated_tokens, 400);
}

#[tokio::test]
async fn a_budget_that_holds_one_model_swaps_them() {
    let daemon = TestDaemon::start().await;
    for (name, arch) in [("a", Arch::Qwen3), ("b", Arch::Llama)] {
        daemon.import(name, &fixture::tiny(arch)).await;
        daemon.load(name).await;
    }
    let status = daemon.client().status().await.expect("a status");
    let larger = status.engines.iter().map(|engine| engine.reserved_bytes).max().expect("two engines");
    let front = status.memory.expect("memory").lines[0].bytes;
    daemon.write_config(&format!("[memory]\nbudget = \"{}\"\n", front + larger + (8 << 20)));
    daemon.signal(rustix::process::Signal::HUP);
    daemon.logs("source=configured", 1).await;
    eventually("one of them goes", || async {
        let engines = daemon.client().status().await.expect("a status").engines;
        (engines.iter().filter(|engine| engine.pid != 0).count() == 1).then_some(())
    })
    .await;
    for name in ["a", "b", "a", "b"] {
        answer(&daemon.client(), ask(name, "hello", 3)).await.expect("an answer");
        let status = daemon.client().status().await.expect("a status");
        let memory = status.memory.expect("memory");
        assert!(memory.reserved_bytes <= memory.budget_bytes);
        assert_eq!(status.engines.iter().filter(|engine| engine.pid != 0).count(), 1, "{:?}", status.engines);
    }
    daemon.write_config("[memory]\nbudget = \"1MiB\"\n");
    daemon.signal(rustix::process::Signal::HUP);
    daemon.logs("source=configured", 2).await;
    let error =
        eventually("it is refused", || async { answer(&daemon.client(), ask("a", "hello", 3)).await.err() })
            .await;
    let refused = error.refusal().expect("a refusal");
    assert_eq!(refused.code, hearth_client::Code::FailedPrecondition, "{error}");
}
