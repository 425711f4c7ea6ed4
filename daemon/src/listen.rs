//! The addresses that the daemon listens on: bound by itself, or handed over by systemd.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use listenfd::ListenFd;
use tokio::net::{TcpListener, UnixListener};

use crate::access::DEFAULT_USE_GROUP;
use crate::config::Endpoint;
use crate::telemetry::chain::Chain;

/// The owner and the group; others have no business here.
const MODE_GROUP: u32 = 0o660;

/// Anyone may connect: each call is checked by who makes it.
const MODE_ALL: u32 = 0o666;

/// Who may open a Unix socket. What a caller may do is checked with each call all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The daemon's user and the group `hearth`.
    Group,
    /// Every user of the machine: the configuration grants roles to others than the group.
    All,
}

/// A bound address.
#[derive(Debug)]
pub enum Listener {
    /// A Unix socket; a file of our own is removed with it.
    Unix(UnixListener, SocketFile),
    /// TCP.
    Tcp(TcpListener),
}

/// The file of a socket. Removed on drop, unless it is systemd's.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    ours: bool,
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another daemon answers there.
    #[error("{} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// Something that is not a socket is there.
    #[error("{} exists and is not a socket", .0.display())]
    NotASocket(PathBuf),
    /// What systemd handed over cannot be listened on.
    #[error("take over the socket number {number} from the service manager")]
    Inherit {
        /// Counted from 0.
        number: usize,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file system or network says no.
    #[error("bind {endpoint}")]
    Bind {
        /// The address.
        endpoint: Endpoint,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Listener {
    /// Binds an address.
    ///
    /// # Errors
    /// [`BindError`] says what is in the way.
    pub async fn bind(endpoint: &Endpoint, reach: Reach) -> Result<Self, BindError> {
        let failed = |source| BindError::Bind { endpoint: endpoint.clone(), source };
        match endpoint {
            Endpoint::Tcp(address) => Ok(Self::Tcp(TcpListener::bind(address).await.map_err(failed)?)),
            Endpoint::Unix(path) => {
                clear_leftover(path)?;
                let listener = UnixListener::bind(path).map_err(failed)?;
                let file = SocketFile { path: path.clone(), ours: true };
                give_to_group(path);
                set_reach(path, reach).map_err(failed)?;
                Ok(Self::Unix(listener, file))
            }
        }
    }

    /// The address as bound, with the port that the system chose.
    pub fn endpoint(&self) -> io::Result<Endpoint> {
        match self {
            Self::Unix(_, file) => Ok(Endpoint::Unix(file.path.clone())),
            Self::Tcp(listener) => Ok(Endpoint::Tcp(listener.local_addr()?)),
        }
    }

    /// The path of a Unix socket that has one.
    pub fn socket(&self) -> Option<&Path> {
        match self {
            Self::Unix(_, file) => Some(file.path.as_path()).filter(|path| !path.as_os_str().is_empty()),
            Self::Tcp(_) => None,
        }
    }
}

/// The sockets that the service manager bound before the daemon was started (socket activation). Who may connect is as
/// for the daemon's own, whatever their unit says; where they are another user's, the log tells that it is not.
///
/// # Errors
/// One of them is no listening stream socket.
pub fn inherited(mut handed: ListenFd, reach: Reach) -> Result<Vec<Listener>, BindError> {
    let count = handed.len();
    let take = |number| {
        let listener = take(&mut handed, number).map_err(|source| BindError::Inherit { number, source })?;
        if let Some(socket) = listener.socket() {
            share(socket, reach);
        }
        Ok(listener)
    };
    (0..count).map(take).collect()
}

/// Lets others connect to a socket, or no longer. Where that cannot be done, calls are checked all the same, and those
/// who may not connect are told of in the log.
pub fn share(socket: &Path, reach: Reach) {
    if let Err(error) = set_reach(socket, reach) {
        let error = Chain(&error);
        tracing::warn!(%error, socket = %socket.display(), ?reach, "Could not change who may connect");
    }
}

/// A Unix socket, else a TCP one.
fn take(handed: &mut ListenFd, number: usize) -> io::Result<Listener> {
    let none = || io::Error::other("it was taken before");
    if let Ok(unix) = handed.take_unix_listener(number) {
        let unix = unix.ok_or_else(none)?;
        unix.set_nonblocking(true)?;
        let path = unix.local_addr()?.as_pathname().map_or_else(PathBuf::new, Path::to_owned);
        return Ok(Listener::Unix(UnixListener::from_std(unix)?, SocketFile { path, ours: false }));
    }
    let tcp = handed.take_tcp_listener(number)?.ok_or_else(none)?;
    tcp.set_nonblocking(true)?;
    Ok(Listener::Tcp(TcpListener::from_std(tcp)?))
}

/// Fails where the file is gone or another's.
fn set_reach(socket: &Path, reach: Reach) -> io::Result<()> {
    let mode = match reach {
        Reach::Group => MODE_GROUP,
        Reach::All => MODE_ALL,
    };
    if std::fs::metadata(socket)?.permissions().mode() & 0o777 == mode {
        return Ok(());
    }
    std::fs::set_permissions(socket, Permissions::from_mode(mode))
}

/// Removes a socket file on which nobody answers.
fn clear_leftover(path: &Path) -> Result<(), BindError> {
    let endpoint = || Endpoint::Unix(path.to_owned());
    match UnixStream::connect(path) {
        Ok(_) => Err(BindError::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            if !is_socket(path) {
                return Err(BindError::NotASocket(path.to_owned()));
            }
            std::fs::remove_file(path).map_err(|source| BindError::Bind { endpoint: endpoint(), source })
        }
        Err(source) => Err(BindError::Bind { endpoint: endpoint(), source }),
    }
}

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

/// Members of the group may connect, where the system has it.
fn give_to_group(path: &Path) {
    if let Ok(Some(group)) = nix::unistd::Group::from_name(DEFAULT_USE_GROUP) {
        // A daemon that is neither root nor of the group keeps its own.
        chown(path, None, Some(group.gid.as_raw())).ok();
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.ours {
            // Gone already is as good.
            std::fs::remove_file(&self.path).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_leftover_socket_is_replaced_and_a_living_one_is_not() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("s");
        let endpoint = Endpoint::Unix(path.clone());
        drop(std::os::unix::net::UnixListener::bind(&path).expect("bind"));
        let listener = Listener::bind(&endpoint, Reach::Group).await.expect("the leftover is replaced");
        let mode = std::fs::metadata(&path).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, MODE_GROUP);
        assert!(matches!(Listener::bind(&endpoint, Reach::Group).await, Err(BindError::InUse(_))));
        drop(listener);
        assert!(!path.exists());
        std::fs::write(&path, "precious").expect("write");
        assert!(Listener::bind(&endpoint, Reach::Group).await.is_err());
        assert_eq!(std::fs::read_to_string(&path).expect("it is still there"), "precious");
    }
}
