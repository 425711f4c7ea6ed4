//! Where the daemon listens.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Environment variable that names the endpoint where a program was not told one.
pub const ENDPOINT_VARIABLE: &str = "HEARTH_ENDPOINT";

/// The endpoint of a packaged daemon.
pub const DEFAULT_ENDPOINT: &str = "unix:/run/hearth/hearth.sock";

/// Where the daemon listens.
///
/// ```
/// use hearth_client::Endpoint;
///
/// let endpoint: Endpoint = "unix:/run/hearth/hearth.sock".parse()?;
/// assert_eq!(endpoint, Endpoint::default());
/// # Ok::<(), hearth_client::BadEndpoint>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// A Unix socket, written `unix:PATH` or `unix:///PATH`.
    Unix(PathBuf),
    /// Plain TCP, written `http://HOST:PORT`.
    Http {
        /// Name or address; an IPv6 address in its brackets.
        host: String,
        /// Port.
        port: u16,
    },
    /// Encrypted TCP, written `https://HOST:PORT`. Needs the feature `tls`.
    Https {
        /// Name or address; an IPv6 address in its brackets.
        host: String,
        /// Port.
        port: u16,
    },
}

/// Why a text is not an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadEndpoint {
    /// The socket has no path.
    #[error("`{0}` names no socket: write unix:PATH")]
    NoPath(String),
    /// Not of the form `http://HOST:PORT` or `https://HOST:PORT`.
    #[error("`{0}` is not complete: write http://HOST:PORT or https://HOST:PORT")]
    NotHostPort(String),
    /// Neither a socket nor a URL.
    #[error("`{0}` is not an endpoint: write unix:PATH, http://HOST:PORT or https://HOST:PORT")]
    Scheme(String),
    /// A path that cannot be written as text.
    #[error("the socket path {0:?} is not UTF-8")]
    NotUtf8(PathBuf),
}

impl Endpoint {
    /// What [`ENDPOINT_VARIABLE`] says; where it is unset or empty, the default.
    pub fn from_env() -> Result<Self, BadEndpoint> {
        match std::env::var_os(ENDPOINT_VARIABLE) {
            Some(value) if !value.is_empty() => match value.into_string() {
                Ok(text) => text.parse(),
                Err(value) => Err(BadEndpoint::NotUtf8(value.into())),
            },
            _ => Ok(Self::default()),
        }
    }

    /// As tonic's own endpoints are written.
    pub(crate) fn to_uri(&self) -> Result<String, BadEndpoint> {
        match self {
            // The two slashes are cut off again as a whole, so any path survives.
            Self::Unix(path) => match path.to_str() {
                Some(path) => Ok(format!("unix://{path}")),
                None => Err(BadEndpoint::NotUtf8(path.clone())),
            },
            Self::Http { .. } | Self::Https { .. } => Ok(self.to_string()),
        }
    }
}

impl Default for Endpoint {
    fn default() -> Self {
        Self::Unix(DEFAULT_ENDPOINT.trim_start_matches("unix:").into())
    }
}

impl FromStr for Endpoint {
    type Err = BadEndpoint;

    fn from_str(text: &str) -> Result<Self, BadEndpoint> {
        if let Some(path) = text.strip_prefix("unix:") {
            unix(path).ok_or_else(|| BadEndpoint::NoPath(text.to_owned()))
        } else if let Some(authority) = text.strip_prefix("http://") {
            let (host, port) =
                host_port(authority).ok_or_else(|| BadEndpoint::NotHostPort(text.to_owned()))?;
            Ok(Self::Http { host, port })
        } else if let Some(authority) = text.strip_prefix("https://") {
            let (host, port) =
                host_port(authority).ok_or_else(|| BadEndpoint::NotHostPort(text.to_owned()))?;
            Ok(Self::Https { host, port })
        } else {
            Err(BadEndpoint::Scheme(text.to_owned()))
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Http { host, port } => write!(f, "http://{host}:{port}"),
            Self::Https { host, port } => write!(f, "https://{host}:{port}"),
        }
    }
}

/// `PATH`, or `///PATH` with an empty host as URLs have it.
fn unix(path: &str) -> Option<Endpoint> {
    let path = path.strip_prefix("//").unwrap_or(path);
    let named = !path.is_empty() && path != "/";
    named.then(|| Endpoint::Unix(path.into()))
}

/// `HOST:PORT`, with at most a slash behind it.
fn host_port(authority: &str) -> Option<(String, u16)> {
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    let (host, port) = authority.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    is_host(host).then(|| (host.to_owned(), port))
}

fn is_host(host: &str) -> bool {
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Endpoint, BadEndpoint> {
        text.parse()
    }

    #[test]
    fn sockets_are_read_with_and_without_slashes() {
        let socket = Endpoint::Unix("/run/hearth/hearth.sock".into());
        assert_eq!(parsed("unix:/run/hearth/hearth.sock"), Ok(socket.clone()));
        assert_eq!(parsed("unix:///run/hearth/hearth.sock"), Ok(socket));
        assert_eq!(parsed("unix:here.sock"), Ok(Endpoint::Unix("here.sock".into())));
    }

    #[test]
    fn addresses_are_read_with_their_port() {
        let local = Endpoint::Http { host: "127.0.0.1".to_owned(), port: 7450 };
        assert_eq!(parsed("http://127.0.0.1:7450"), Ok(local.clone()));
        assert_eq!(parsed("http://127.0.0.1:7450/"), Ok(local));
        let board = Endpoint::Https { host: "board".to_owned(), port: 7450 };
        assert_eq!(parsed("https://board:7450"), Ok(board));
        assert_eq!(parsed("http://[::1]:7450").map(|e| e.to_string()), Ok("http://[::1]:7450".to_owned()));
    }

    #[test]
    fn what_is_no_endpoint_is_refused_by_name() {
        for text in ["unix:", "unix:///", "unix://"] {
            assert!(matches!(parsed(text), Err(BadEndpoint::NoPath(_))), "{text}");
        }
        for text in [
            "http://",
            "https://board",
            "http://board",
            "http://:7450",
            "http://board:0",
            "http://a:1/x",
            "http://a b:1",
        ] {
            assert!(matches!(parsed(text), Err(BadEndpoint::NotHostPort(_))), "{text}");
        }
        for text in ["", "board:7450", "/run/hearth.sock", "tcp:127.0.0.1:7450"] {
            assert!(matches!(parsed(text), Err(BadEndpoint::Scheme(_))), "{text}");
        }
    }

    #[test]
    fn an_endpoint_reads_what_it_prints() {
        for text in ["unix:/a/b.sock", "unix:b.sock", "http://board.local:80", "https://[::1]:443"] {
            assert_eq!(parsed(text).map(|e| e.to_string()), Ok(text.to_owned()));
        }
        assert_eq!(Endpoint::default().to_string(), DEFAULT_ENDPOINT);
    }
}
