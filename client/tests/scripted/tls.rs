//! Encrypted connections, and who is trusted on them.

use std::path::PathBuf;

use hearth_client::{Client, ClientBuilder, Endpoint, Error, Tls, Token};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

use crate::daemon::Daemon;
use crate::hearth;

/// An authority of the test's own.
struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, as PEM.
struct Named {
    certificate: String,
    key: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("an authority"))
    }

    fn names(&self, name: &str) -> Named {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate").pem();
        Named { certificate, key: key.serialize_pem() }
    }

    async fn daemon(&self, name: &str) -> Daemon {
        Daemon::start_tcp(Some(self.server(name))).await
    }

    fn server(&self, name: &str) -> ServerTlsConfig {
        let Named { certificate, key } = self.names(name);
        ServerTlsConfig::new().identity(Identity::from_pem(certificate, key))
    }
}

fn with(daemon: &Daemon, tls: Tls) -> ClientBuilder {
    Client::builder().endpoint(daemon.endpoint.clone()).tls(tls)
}

fn written(dir: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, text).expect("written");
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_daemon_gets_the_token() {
    let authority = Authority::new("ours");
    let daemon = authority.daemon("127.0.0.1").await;
    let token = Token::new("s3cret").expect("a token");
    let client = with(&daemon, Tls::new().ca_pem(authority.0.pem())).token(token);
    let models = client.connect().await.expect("trusted").models().await.expect("listed");
    assert_eq!(models.len(), 1);
    assert_eq!(daemon.noted.header("authorization").as_deref(), Some("Bearer s3cret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_of_another_authority_or_name_is_not_trusted() {
    let (authority, other) = (Authority::new("ours"), Authority::new("theirs"));
    let daemon = authority.daemon("board").await;
    let distrusted = |failed: Result<Client, Error>, word: &str| match failed {
        Err(Error::Handshake { source, .. }) => assert!(source.to_string().contains(word), "{source}"),
        other => panic!("{other:?}"),
    };
    let tls = Tls::new().ca_pem(other.0.pem()).server_name("board");
    distrusted(with(&daemon, tls).connect().await, "UnknownIssuer");
    let tls = Tls::new().ca_pem(authority.0.pem());
    distrusted(with(&daemon, tls).connect().await, "not valid for name");
    let tls = Tls::new().ca_pem(authority.0.pem()).server_name("board");
    assert!(with(&daemon, tls).connect().await.is_ok());
    let tls = Tls::new().ca_pem("no certificate");
    assert!(with(&daemon, tls).connect().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_may_ask_for_a_certificate() {
    let authority = Authority::new("ours");
    let server = authority.server("127.0.0.1").client_ca_root(Certificate::from_pem(authority.0.pem()));
    let daemon = Daemon::start_tcp(Some(server)).await;
    let tls = Tls::new().ca_pem(authority.0.pem());
    let nameless = async { with(&daemon, tls.clone()).connect().await?.models().await };
    assert!(nameless.await.is_err());
    let Named { certificate, key } = authority.names("station");
    let named = with(&daemon, tls.identity_pem(certificate, key)).connect().await.expect("trusted");
    assert_eq!(named.models().await.expect("listed").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_and_encrypted_do_not_meet() {
    let plain = Daemon::start_tcp(None).await;
    let Endpoint::Http { host, port } = plain.endpoint.clone() else { panic!("it is plain") };
    let tls = Tls::new().ca_pem(Authority::new("ours").0.pem());
    let endpoint = Endpoint::Https { host, port };
    let failed = Client::builder().endpoint(endpoint).tls(tls).connect().await;
    assert!(failed.is_err(), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_takes_files_and_says_what_is_wrong_with_them() {
    let (authority, other) = (Authority::new("ours"), Authority::new("theirs"));
    let daemon = authority.daemon("board").await;
    let dir = tempfile::tempdir().expect("a temporary folder");
    let ca = written(&dir, "ca.pem", &authority.0.pem());
    let wrong = written(&dir, "wrong.pem", &other.0.pem());
    let run = async |args: &[&str]| {
        let output = hearth(&daemon, args).output().await.expect("it ran");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (ca, wrong) = (ca.to_str().expect("a plain path"), wrong.to_str().expect("a plain path"));
    let (code, told) = run(&["models", "--tls-ca", ca, "--tls-name", "board"]).await;
    assert_eq!(code, Some(0), "{told}");

    let (code, told) = run(&["models", "--tls-ca", wrong, "--tls-name", "board"]).await;
    assert_eq!(code, Some(69), "{told}");
    assert!(told.contains("no trust") && told.contains("--tls-ca FILE"), "{told}");
    let (_, told) = run(&["models", "--tls-ca", ca]).await;
    assert!(told.contains("--tls-name"), "{told}");
    let (_, told) = run(&["models", "--tls-ca", "/nowhere/ca.pem"]).await;
    assert!(told.contains("cannot read /nowhere/ca.pem"), "{told}");
    let (code, told) = run(&["models", "--tls-ca", ca, "--tls-cert", ca]).await;
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("both its certificate and its key"), "{told}");
}
