//! Who may do what: real processes of other users, tokens, certificates.

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use hearth_tests::cli::{Run, command, ended, hearth};
use hearth_tests::eventually::eventually;
use hearth_tests::user::{can_be_others, let_others_through};
use hearth_tests::{Launch, TestDaemon};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustix::process::Signal;
use tempfile::TempDir;

/// Users and groups that no system has.
const PANEL: u32 = 61001;
const OUTSIDER: u32 = 61002;
const ENGINEER: u32 = 61003;
const CREW: u32 = 61010;

/// `hearth` under another user and group. The program is copied to where others can run it.
async fn as_user(daemon: &TestDaemon, uid: u32, gid: u32, args: &[&str]) -> Run {
    let copy = daemon.folder().join("hearth-copy");
    if !copy.exists() {
        // By a process of its own: a child of another test could hold the copy open for writing.
        let mut run = tokio::process::Command::new("cp");
        run.arg(hearth_tests::daemon::program("hearth")).arg(&copy);
        assert!(run.status().await.expect("run cp").success());
    }
    let ready = command(daemon, args);
    let mut run = tokio::process::Command::new(&copy);
    run.args(args)
        .env("HEARTH_ENDPOINT", format!("unix:{}", daemon.socket().display()))
        .env("HOME", "/nonexistent")
        .uid(uid)
        .gid(gid)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    drop(ready);
    ended(run.spawn().expect("start hearth as another user")).await
}

#[track_caller]
fn refused(run: &Run, code: &str, reason: &str) {
    let error = run.of_type("error").pop().unwrap_or_else(|| panic!("no error: {run:?}"));
    assert_eq!((&error["code"], &error["reason"]), (&code.into(), &reason.into()), "{error}");
    assert_eq!(run.code, Some(1), "{run:?}");
}

#[tokio::test]
async fn users_and_groups_have_the_roles_of_the_configuration() {
    if !can_be_others() {
        return;
    }
    let config = format!("[access]\nuse = ['uid:{PANEL}', 'gid:{CREW}']\nmanage = ['uid:{ENGINEER}']\n");
    let daemon = TestDaemon::with(&config).await;
    let_others_through(daemon.folder());
    daemon.import_demo().await;
    let run = async |uid, gid, args: &[&str]| as_user(&daemon, uid, gid, args).await;

    assert_eq!(run(PANEL, PANEL, &["models", "--json"]).await.code, Some(0));
    let answer = run(PANEL, PANEL, &["chat", "demo", "-p", "Hello!", "--json"]).await;
    assert_eq!(answer.code, Some(0), "{answer:?}");
    assert_eq!(run(OUTSIDER, CREW, &["status", "--json"]).await.code, Some(0), "by its group");
    refused(&run(PANEL, PANEL, &["unload", "demo", "--json"]).await, "permission_denied", "ROLE_NEEDED");
    refused(&run(PANEL, PANEL, &["rm", "demo", "--json"]).await, "permission_denied", "ROLE_NEEDED");
    assert_eq!(run(ENGINEER, ENGINEER, &["unload", "demo", "--json"]).await.code, Some(0));
    assert_eq!(run(ENGINEER, ENGINEER, &["status", "--json"]).await.code, Some(0), "who may manage may use");

    for _ in 0..3 {
        refused(&run(OUTSIDER, OUTSIDER, &["status", "--json"]).await, "permission_denied", "ROLE_NEEDED");
    }
    let warned = daemon
        .log()
        .lines()
        .filter(|line| line.contains("WARN") && line.contains(&format!("uid {OUTSIDER}")))
        .count();
    assert_eq!(warned, 1, "logged once:\n{}", daemon.log());

    // The door closes while the daemon runs.
    daemon.write_config(&format!("[access]\nuse = ['uid:{OUTSIDER}']\n"));
    daemon.signal(Signal::HUP);
    daemon.logs("Read the configuration again", 1).await;
    refused(&run(PANEL, PANEL, &["status", "--json"]).await, "permission_denied", "ROLE_NEEDED");
    assert_eq!(run(OUTSIDER, OUTSIDER, &["status", "--json"]).await.code, Some(0));
}

#[tokio::test]
async fn by_default_others_cannot_even_connect() {
    if !can_be_others() {
        return;
    }
    let daemon = TestDaemon::start().await;
    let_others_through(daemon.folder());
    let run = as_user(&daemon, OUTSIDER, OUTSIDER, &["status", "--json"]).await;
    assert_eq!(run.code, Some(69), "{run:?}");
    assert!(run.stdout.to_lowercase().contains("permission denied"), "{run:?}");
}

#[tokio::test]
async fn a_role_that_is_none_is_a_fault_of_the_configuration() {
    let folder = TempDir::new().expect("a temporary folder");
    let digest = "0".repeat(64);
    let text = format!("[[access.tokens]]\nname = 'panel'\nrole = 'admin'\nsha256 = '{digest}'\n");
    std::fs::write(folder.path().join("config.toml"), text).expect("write the configuration");
    let mut daemon = hearth_tests::daemon::spawn(folder.path(), &Launch::default(), None);
    assert_eq!(daemon.wait().await.expect("wait").code(), Some(78));
    let log = std::fs::read_to_string(folder.path().join("log")).expect("its log");
    let said =
        log.lines().filter(|line| line.contains("access.tokens[0].role: `admin` is not a role")).count();
    assert_eq!(said, 1, "{log}");
}

#[tokio::test]
async fn plain_tcp_is_for_loopback_and_for_those_with_a_name() {
    let folder = TempDir::new().expect("a temporary folder");
    std::fs::write(folder.path().join("config.toml"), "").expect("write the configuration");
    let arguments = ["--listen", "tcp:0.0.0.0:0"].map(str::to_owned).to_vec();
    let launch = Launch { arguments, ..Launch::default() };
    let mut open = hearth_tests::daemon::spawn(folder.path(), &launch, None);
    assert_eq!(open.wait().await.expect("wait").code(), Some(78));

    let outside = TempDir::new().expect("a temporary folder");
    let (token_file, table) = token(outside.path(), "panel", "use").await;
    let port = free_port();
    let arguments = vec!["--listen".to_owned(), format!("tcp:127.0.0.1:{port}")];
    let daemon = TestDaemon::launch(Launch { arguments, config: table, ..Launch::default() }).await;
    let endpoint = format!("http://127.0.0.1:{port}");
    let run = async |more: &[&str]| {
        let args = [&["--json", "--endpoint", &endpoint], more].concat();
        hearth(&daemon, &args).await
    };
    refused(&run(&["status"]).await, "unauthenticated", "NAME_NEEDED");
    let token = token_file.display().to_string();
    assert_eq!(run(&["--token-file", &token, "status"]).await.code, Some(0));
    refused(&run(&["--token-file", &token, "unload", "x"]).await, "permission_denied", "ROLE_NEEDED");
    let wrong = outside.path().join("wrong");
    std::fs::write(&wrong, "guess\n").expect("write a token");
    let wrong = wrong.display().to_string();
    for _ in 0..2 {
        refused(&run(&["--token-file", &wrong, "status"]).await, "unauthenticated", "UNKNOWN_TOKEN");
    }
    let log = daemon.log();
    let warned =
        log.lines().filter(|line| line.contains("WARN") && line.contains("does not know this token"));
    assert_eq!(warned.count(), 1, "logged once:\n{log}");
    assert!(!log.contains("guess"), "what was shown is not logged");
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    listener.local_addr().expect("an address").port()
}

/// A token as `hearthd new-token` makes it: its file, and the table for the configuration.
async fn token(folder: &Path, name: &str, role: &str) -> (PathBuf, String) {
    let file = folder.join(format!("token-{name}"));
    let mut command = tokio::process::Command::new(hearth_tests::daemon::program("hearthd"));
    command.args(["new-token", name, "--role", role, "--out"]).arg(&file);
    let made = command.output().await.expect("run hearthd");
    assert!(made.status.success(), "{made:?}");
    let table = String::from_utf8(made.stdout).expect("UTF-8");
    let secret = std::fs::read_to_string(&file).expect("the token");
    assert!(!table.contains(secret.trim()));
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&file).expect("the file"));
    assert_eq!(mode & 0o777, 0o600);
    (file, table)
}

/// An authority and what it signs, as files.
struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    ca: PathBuf,
}

impl Authority {
    fn new(folder: &Path, name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.self_signed(&key).expect("a certificate");
        let ca = folder.join(format!("{name}.pem"));
        std::fs::write(&ca, certificate.pem()).expect("write a certificate");
        Self { folder: folder.to_owned(), issuer: Issuer::new(params, key), ca }
    }

    /// Certificate and key of `name`.
    fn signs(&self, name: &str, purpose: ExtendedKeyUsagePurpose) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![purpose];
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let (cert_file, key_file) =
            (self.folder.join(format!("{name}.crt")), self.folder.join(format!("{name}.key")));
        std::fs::write(&cert_file, certificate.pem()).expect("write a certificate");
        std::fs::write(&key_file, key.serialize_pem()).expect("write a key");
        (cert_file, key_file)
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[tokio::test]
async fn tls_proves_both_ends() {
    let outside = TempDir::new().expect("a temporary folder");
    let ours = Authority::new(outside.path(), "ours");
    let other = Authority::new(outside.path(), "other");
    let (certificate, key) = ours.signs("localhost", ExtendedKeyUsagePurpose::ServerAuth);
    let kiosk = ours.signs("kiosk", ExtendedKeyUsagePurpose::ClientAuth);
    let stranger = ours.signs("stranger", ExtendedKeyUsagePurpose::ClientAuth);
    let forged = other.signs("forged", ExtendedKeyUsagePurpose::ClientAuth);
    let tls = format!(
        "[tls]\ncertificate = '{}'\nkey = '{}'\nclient_ca = '{}'\n",
        text(&certificate),
        text(&key),
        text(&ours.ca)
    );
    let config = format!("[access]\nuse = ['certificate:kiosk']\n{tls}");
    let port = free_port();
    let arguments = vec!["--listen".to_owned(), format!("tcp:0.0.0.0:{port}")];
    let daemon = TestDaemon::launch(Launch { arguments, config, ..Launch::default() }).await;
    let endpoint = format!("https://localhost:{port}");
    let run = async |ca: &Path, client: Option<&(PathBuf, PathBuf)>| {
        let mut args = vec!["--json", "--endpoint", endpoint.as_str(), "--tls-ca", text(ca)];
        if let Some((certificate, key)) = client {
            args.extend(["--tls-cert", text(certificate), "--tls-key", text(key)]);
        }
        args.push("status");
        hearth(&daemon, &args).await
    };
    let good = run(&ours.ca, Some(&kiosk)).await;
    assert_eq!(good.code, Some(0), "{good:?}");
    refused(&run(&ours.ca, Some(&stranger)).await, "permission_denied", "ROLE_NEEDED");
    for bad in [
        run(&other.ca, Some(&kiosk)).await,
        run(&ours.ca, Some(&forged)).await,
        run(&ours.ca, Some(&forged)).await,
        run(&ours.ca, None).await,
    ] {
        assert_eq!(bad.code, Some(69), "{bad:?}");
    }
    daemon.logs("Refused connection", 3).await;
    let log = daemon.log();
    let kinds: Vec<&str> =
        log.lines().filter(|line| line.contains("WARN") && line.contains("Refused connection")).collect();
    let distinct: std::collections::BTreeSet<&str> =
        kinds.iter().filter_map(|line| line.split("error=").nth(1)).collect();
    assert_eq!(kinds.len(), distinct.len(), "each kind logged once: {kinds:#?}");
    assert!(distinct.len() >= 2, "{kinds:#?}");
}

#[tokio::test]
async fn tokens_name_callers_over_tls_and_certificates_are_renewed_without_a_restart() {
    let outside = TempDir::new().expect("a temporary folder");
    let old = Authority::new(outside.path(), "old");
    let (certificate, key) = old.signs("localhost", ExtendedKeyUsagePurpose::ServerAuth);
    let (token_file, table) = token(outside.path(), "engineer", "manage").await;
    let config = format!("{table}\n[tls]\ncertificate = '{}'\nkey = '{}'\n", text(&certificate), text(&key));
    let port = free_port();
    let arguments = vec!["--listen".to_owned(), format!("tcp:127.0.0.1:{port}")];
    let daemon = TestDaemon::launch(Launch { arguments, config: config.clone(), ..Launch::default() }).await;
    let endpoint = format!("https://localhost:{port}");
    let run = async |ca: &Path, more: &[&str]| {
        let args = [&["--json", "--endpoint", &endpoint, "--tls-ca", text(ca)], more].concat();
        hearth(&daemon, &args).await
    };
    let shown = ["--token-file", text(&token_file)];
    let imported = run(&old.ca, &[&shown[..], &["import", "--demo"]].concat()).await;
    assert_eq!(imported.code, Some(0), "{imported:?}");
    refused(&run(&old.ca, &["status"]).await, "unauthenticated", "NAME_NEEDED");

    let new = Authority::new(outside.path(), "new");
    // The same files, as a renewal has it.
    new.signs("localhost", ExtendedKeyUsagePurpose::ServerAuth);
    daemon.signal(Signal::HUP);
    daemon.logs("Read the configuration again", 1).await;
    let status = [&shown[..], &["status"]].concat();
    assert_eq!(run(&new.ca, &status).await.code, Some(0));
    assert_eq!(run(&old.ca, &status).await.code, Some(69));

    std::fs::write(&certificate, "not a certificate").expect("spoil the file");
    daemon.signal(Signal::HUP);
    daemon.logs("Kept the old configuration", 1).await;
    assert_eq!(run(&new.ca, &status).await.code, Some(0));
    eventually("the fault names its key", || async {
        daemon.log().contains("tls.certificate").then_some(())
    })
    .await;
}
