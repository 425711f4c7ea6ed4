//! Where the daemon is, who asks, and how long it is waited for.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use hearth_client::{Client, Endpoint, Error, Retry, Tls, Token};

use super::exit::Failure;

/// The connection.
#[derive(Debug, Args)]
#[command(next_help_heading = "Connection")]
pub(super) struct ConnectArgs {
    /// Where the daemon listens: unix:PATH, http://HOST:PORT or https://HOST:PORT [default:
    /// $HEARTH_ENDPOINT, else unix:/run/hearth/hearth.sock].
    #[arg(long, global = true, value_name = "ENDPOINT")]
    pub(super) endpoint: Option<Endpoint>,
    /// Keep trying for so long while the daemon cannot be reached or says to come back later, as in 30s.
    #[arg(long, global = true, value_name = "TIME", value_parser = humantime::parse_duration)]
    wait: Option<Duration>,
    /// File with the token that says who asks; $HEARTH_TOKEN holds the token itself.
    #[arg(long, global = true, value_name = "FILE", env = "HEARTH_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// Trust the authorities in this PEM file instead of those that the system trusts.
    #[arg(long, global = true, value_name = "FILE", env = "HEARTH_TLS_CA")]
    tls_ca: Option<PathBuf>,
    /// Show this certificate, a PEM file.
    #[arg(long, global = true, value_name = "FILE", env = "HEARTH_TLS_CERT")]
    tls_cert: Option<PathBuf>,
    /// The key of that certificate, a PEM file.
    #[arg(long, global = true, value_name = "FILE", env = "HEARTH_TLS_KEY")]
    tls_key: Option<PathBuf>,
    /// The name that the daemon's certificate must be for [default: HOST].
    #[arg(long, global = true, value_name = "NAME", env = "HEARTH_TLS_NAME")]
    tls_name: Option<String>,
}

impl ConnectArgs {
    /// The connection that was asked for.
    pub(super) fn connect(self) -> Result<impl Future<Output = Result<Client, Error>>, Failure> {
        let retry = self.wait.map_or(Retry::never(), Retry::for_at_most);
        let builder = Client::builder().retry(retry);
        let builder = match self.token()? {
            Some(token) => builder.token(token),
            None => builder,
        };
        let endpoint = match &self.endpoint {
            Some(endpoint) => endpoint.clone(),
            None => Endpoint::from_env().map_err(|bad| Failure::Usage(bad.to_string()))?,
        };
        Ok(builder.endpoint(endpoint).tls(self.tls()).connect())
    }

    /// What was said on the command line comes before the environment.
    fn token(&self) -> Result<Option<Token>, Failure> {
        match &self.token_file {
            Some(path) => Ok(Some(Token::from_file(path)?)),
            None => Ok(Token::from_env().map_err(Error::from)?),
        }
    }

    fn tls(self) -> Tls {
        let mut tls = Tls::new();
        if let Some(path) = self.tls_ca {
            tls = tls.ca_file(path);
        }
        if let Some(path) = self.tls_cert {
            tls = tls.certificate_file(path);
        }
        if let Some(path) = self.tls_key {
            tls = tls.key_file(path);
        }
        match self.tls_name {
            Some(name) => tls.server_name(name),
            None => tls,
        }
    }
}
