//! The connection: one socket, then nothing ever again; its end is noticed.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::{Stream, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tonic::transport::server::Connected;

/// Why the link cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Standard input is no socket.
    #[error("take the link socket from standard input")]
    Socket(#[source] io::Error),
    /// The server failed.
    #[error("serve the link")]
    Serve(#[source] tonic::transport::Error),
}

/// The socket, which says so when it is dropped.
#[derive(Debug)]
pub(super) struct LinkStream {
    socket: UnixStream,
    /// Dropped with the stream, which wakes the other end.
    _ended: oneshot::Sender<()>,
}

/// The one connection, followed by nothing for ever: the server must not end before the connection does.
pub(super) fn incoming(
    socket: OwnedFd,
    ended: oneshot::Sender<()>,
) -> Result<impl Stream<Item = io::Result<LinkStream>>, LinkError> {
    let socket = std::os::unix::net::UnixStream::from(socket);
    socket.set_nonblocking(true).map_err(LinkError::Socket)?;
    let socket = UnixStream::from_std(socket).map_err(LinkError::Socket)?;
    let link = LinkStream { socket, _ended: ended };
    Ok(futures_util::stream::once(std::future::ready(Ok(link))).chain(futures_util::stream::pending()))
}

impl Connected for LinkStream {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for LinkStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for LinkStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
