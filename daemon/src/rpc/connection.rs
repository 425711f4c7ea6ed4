//! Connections, and who is at their other end.
//!
//! A connection is handed to the server once it is greeted: encrypted where TLS is configured, and its peer known.
//! Greetings run beside each other and have a time limit, so that one who says nothing holds up nobody.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::refusals::Refusals;
use crate::access::{Principal, groups_of};
use crate::listen::Listener;
use crate::tls;

/// Connections being greeted at once; more wait in the kernel's queue.
const GREETINGS: usize = 64;

/// Greeted connections that the server has not taken yet, which takes it microseconds.
pub(crate) const BACKLOG: usize = 16;

/// How long a greeting may take: a handshake over a bad radio link.
const GREETING_LIMIT: Duration = Duration::from_secs(10);

/// After an error of the listener itself, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The TLS settings that hold for the next connection.
pub(crate) type TlsWatch = tokio::sync::watch::Receiver<Arc<ServerConfig>>;

/// A connection whose peer is known.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Stream,
    peer: Peer,
}

/// Who is at the other end, by the connection alone.
#[derive(Clone, Debug)]
pub(crate) struct Peer(pub(crate) Arc<Principal>);

#[derive(Debug)]
enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection that was accepted and not yet greeted.
enum Accepted {
    Unix(UnixStream),
    Tcp(TcpStream, SocketAddr),
}

/// What a listener needs to greet.
#[derive(Clone, Debug)]
pub(crate) struct Greeter {
    /// Absent: TCP is plain.
    pub(crate) tls: Option<TlsWatch>,
    pub(crate) refusals: Refusals,
}

impl Greeter {
    /// Accepts and greets until the receiver of the connections is gone.
    pub(crate) async fn accept(self, listener: Listener, greeted: mpsc::Sender<io::Result<Connection>>) {
        let mut greetings = JoinSet::new();
        loop {
            // The end first; then who is greeted, which makes room for who comes.
            tokio::select! {
                biased;
                () = greeted.closed() => return,
                Some(done) = greetings.join_next() => {
                    if let Ok(Some(connection)) = done {
                        // The server has gone: so does the connection.
                        greeted.send(Ok(connection)).await.ok();
                    }
                }
                accepted = accept(&listener), if greetings.len() < GREETINGS => match accepted {
                    Ok(accepted) => drop(greetings.spawn(self.clone().greet(accepted))),
                    Err(error) => {
                        tracing::warn!(%error, "Could not accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }

    async fn greet(self, accepted: Accepted) -> Option<Connection> {
        match accepted {
            Accepted::Unix(stream) => {
                let principal = local(&stream).await;
                Some(Connection { stream: Stream::Unix(stream), peer: Peer(Arc::new(principal)) })
            }
            Accepted::Tcp(stream, from) => {
                // A board's packets are small and must not wait for each other.
                stream.set_nodelay(true).ok();
                match &self.tls {
                    None => {
                        let peer = Peer(Arc::new(Principal::Loopback));
                        Some(Connection { stream: Stream::Tcp(stream), peer })
                    }
                    Some(tls) => {
                        let acceptor = TlsAcceptor::from(Arc::clone(&tls.borrow()));
                        self.encrypt(acceptor, stream, from).await
                    }
                }
            }
        }
    }

    async fn encrypt(
        &self,
        acceptor: TlsAcceptor,
        stream: TcpStream,
        from: SocketAddr,
    ) -> Option<Connection> {
        let handshake = tokio::time::timeout(GREETING_LIMIT, acceptor.accept(stream)).await;
        match handshake.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(stream) => {
                let peer = Peer(Arc::new(certified(&stream)));
                Some(Connection { stream: Stream::Tls(Box::new(stream)), peer })
            }
            Err(error) => {
                self.refusals.handshake(from, &error);
                None
            }
        }
    }
}

async fn accept(listener: &Listener) -> io::Result<Accepted> {
    match listener {
        Listener::Unix(listener, _) => listener.accept().await.map(|(stream, _)| Accepted::Unix(stream)),
        Listener::Tcp(listener) => listener.accept().await.map(|(stream, from)| Accepted::Tcp(stream, from)),
    }
}

/// The process at the other end, by the kernel's word. The look-up of its groups may ask a directory on the
/// network, so it does not happen on the runtime's thread.
async fn local(stream: &UnixStream) -> Principal {
    let Ok(credentials) = stream.peer_cred() else { return Principal::Stranger };
    let (uid, gid) = (credentials.uid(), credentials.gid());
    // These may do everything, whatever their groups.
    if uid == 0 || uid == rustix::process::geteuid().as_raw() {
        return Principal::Local { uid, gids: vec![gid] };
    }
    let looked_up = tokio::task::spawn_blocking(move || groups_of(uid, gid));
    let gids = tokio::time::timeout(GREETING_LIMIT, looked_up).await.ok().and_then(Result::ok);
    Principal::Local { uid, gids: gids.unwrap_or_else(|| vec![gid]) }
}

/// The holder of the client's certificate, if it showed one.
fn certified(stream: &TlsStream<TcpStream>) -> Principal {
    let certificates = stream.get_ref().1.peer_certificates();
    match certificates.and_then(<[_]>::first) {
        Some(certificate) => Principal::Certificate { names: tls::names_of(certificate) },
        None => Principal::Stranger,
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Unix(stream) => Pin::new(stream).poll_write(context, buffer),
            Stream::Tcp(stream) => Pin::new(stream).poll_write(context, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_write(context, buffer),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Unix(stream) => Pin::new(stream).poll_flush(context),
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Unix(stream) => Pin::new(stream).poll_write_vectored(context, buffers),
            Stream::Tcp(stream) => Pin::new(stream).poll_write_vectored(context, buffers),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(context, buffers),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Unix(stream) => stream.is_write_vectored(),
            Stream::Tcp(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
