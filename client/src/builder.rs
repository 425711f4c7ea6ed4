//! How a connection is made.

use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::transport::{self, Channel};
use tonic::{Request, Status};

use crate::retry::{Attempts, Retry, random};
#[cfg(feature = "tls")]
use crate::tls::Tls;
use crate::{Client, Endpoint, Error, Token};

/// How long a host may take to answer before it counts as unreachable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a quiet TCP connection with a running call is tested: a board that lost its power says nothing.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// What a reader may be behind before the daemon pauses its sequence: minutes of text, in little memory.
const STREAM_WINDOW_BYTES: u32 = 64 << 10;
/// Header of the token.
const AUTHORIZATION: &str = "authorization";

/// A connection to be made. What is not said has the default of [`Client::connect`].
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use hearth_client::{Client, Retry, Token};
///
/// let client = Client::builder()
///     .endpoint("http://127.0.0.1:7450".parse()?)
///     .token(Token::from_file("/etc/hearth/token".as_ref())?)
///     .retry(Retry::times(5))
///     .connect_timeout(Duration::from_secs(2))
///     .connect()
///     .await?;
/// # drop(client);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is connected before `connect`"]
pub struct ClientBuilder {
    endpoint: Endpoint,
    connect_timeout: Duration,
    call_timeout: Option<Duration>,
    retry: Retry,
    token: Option<Token>,
    #[cfg(feature = "tls")]
    tls: Tls,
}

/// What all calls of a connection share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Habits {
    /// Deadline of calls that have none of their own.
    pub(crate) call_timeout: Option<Duration>,
    pub(crate) retry: Retry,
}

/// Puts the token on every call.
#[derive(Clone, Debug)]
pub(crate) struct Signature(Option<AsciiMetadataValue>);

impl Default for ClientBuilder {
    fn default() -> Self {
        Self {
            endpoint: Endpoint::default(),
            connect_timeout: CONNECT_TIMEOUT,
            call_timeout: None,
            retry: Retry::never(),
            token: None,
            #[cfg(feature = "tls")]
            tls: Tls::default(),
        }
    }
}

impl ClientBuilder {
    /// Where the daemon listens. Absent: where a packaged one does.
    pub fn endpoint(self, endpoint: Endpoint) -> Self {
        Self { endpoint, ..self }
    }

    /// How long a host may take to answer before it counts as unreachable. Absent: 5 seconds.
    pub fn connect_timeout(self, connect_timeout: Duration) -> Self {
        Self { connect_timeout, ..self }
    }

    /// Deadline of calls that have none of their own, retries included. It holds for an answer up to its
    /// end, but neither for an import, a load nor a watch. Absent: they take as long as they take.
    pub fn call_timeout(self, timeout: Duration) -> Self {
        Self { call_timeout: Some(timeout), ..self }
    }

    /// When a call, and the connection itself, is tried again. Absent: never.
    pub fn retry(self, retry: Retry) -> Self {
        Self { retry, ..self }
    }

    /// Tells the daemon who calls. Over plain `http` a token is sent to this board only.
    pub fn token(self, token: Token) -> Self {
        Self { token: Some(token), ..self }
    }

    /// Certificates and keys for an `https` endpoint; of no meaning for others.
    #[cfg(feature = "tls")]
    pub fn tls(self, tls: Tls) -> Self {
        Self { tls, ..self }
    }

    /// Connects.
    ///
    /// # Errors
    /// Where there is no daemon, where certificates or keys cannot be used, and where a token would travel
    /// unencrypted to another host.
    pub async fn connect(self) -> Result<Client, Error> {
        if self.token.is_some() && is_overheard(&self.endpoint) {
            return Err(Error::TokenInClear { endpoint: self.endpoint });
        }
        let transport = self.transport()?;
        let channel = self.channel(&transport).await?;
        let signature = Signature(self.token.as_ref().map(Token::header));
        let habits = Habits { call_timeout: self.call_timeout, retry: self.retry };
        Ok(Client::over(channel, signature, self.endpoint, habits))
    }

    async fn channel(&self, transport: &transport::Endpoint) -> Result<Channel, Error> {
        let (start, mut attempts) = (Instant::now(), Attempts::new(self.retry));
        loop {
            let error = match transport.connect().await {
                Ok(channel) => return Ok(channel),
                Err(error) => Error::not_connected(&self.endpoint, &error),
            };
            match attempts.next(&error, start.elapsed(), random()) {
                Some(wait) => tokio::time::sleep(wait).await,
                None => return Err(error),
            }
        }
    }

    fn transport(&self) -> Result<transport::Endpoint, Error> {
        let transport = transport::Endpoint::from_shared(self.endpoint.to_uri()?)
            .map_err(|error| Error::unreachable(&self.endpoint, &error))?
            .connect_timeout(self.connect_timeout)
            .initial_stream_window_size(STREAM_WINDOW_BYTES);
        match self.endpoint {
            Endpoint::Unix(_) => Ok(transport),
            Endpoint::Http { .. } => Ok(watched(transport)),
            Endpoint::Https { .. } => self.encrypted(watched(transport)),
        }
    }

    #[cfg(feature = "tls")]
    fn encrypted(&self, transport: transport::Endpoint) -> Result<transport::Endpoint, Error> {
        let config = self.tls.config(&self.endpoint)?;
        transport.tls_config(config).map_err(|error| Error::certificates(&self.endpoint, &error))
    }

    #[cfg(not(feature = "tls"))]
    fn encrypted(&self, _: transport::Endpoint) -> Result<transport::Endpoint, Error> {
        Err(Error::NoTls { endpoint: self.endpoint.clone() })
    }
}

fn watched(transport: transport::Endpoint) -> transport::Endpoint {
    transport.http2_keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(KEEP_ALIVE)
}

/// Whether others may read what is sent there.
fn is_overheard(endpoint: &Endpoint) -> bool {
    match endpoint {
        Endpoint::Unix(_) | Endpoint::Https { .. } => false,
        Endpoint::Http { host, .. } => !is_this_board(host),
    }
}

fn is_this_board(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    address.map_or_else(|_| host.eq_ignore_ascii_case("localhost"), |address| address.is_loopback())
}

impl Interceptor for Signature {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert(AUTHORIZATION, token.clone());
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn builder(endpoint: &str) -> ClientBuilder {
        let token = Token::new("s3cret").expect("a token");
        Client::builder().endpoint(endpoint.parse().expect("an endpoint")).token(token)
    }

    #[tokio::test]
    async fn a_token_does_not_leave_the_board_unencrypted() {
        for endpoint in ["http://board:7450", "http://192.168.0.2:7450", "http://[2001:db8::1]:7450"] {
            let refused = builder(endpoint).connect().await.expect_err(endpoint);
            assert!(matches!(refused, Error::TokenInClear { .. }), "{refused:?}");
        }
    }

    #[test]
    fn the_board_itself_is_known() {
        for host in ["localhost", "LOCALHOST", "127.0.0.1", "127.8.8.8", "[::1]"] {
            assert!(is_this_board(host), "{host}");
        }
        for host in ["localhost.example", "10.0.0.1", "[::2]", "board"] {
            assert!(!is_this_board(host), "{host}");
        }
    }

    #[test]
    fn a_builder_prints_no_secret() {
        assert!(!format!("{:?}", builder("http://localhost:1")).contains("s3cret"));
    }
}
