//! The addresses that clients come to.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, UnixListener};

use crate::config::Endpoint;

/// Members of this group may talk to the daemon, where the system has it.
const GROUP: &str = "hearth";

/// The owner and the group; others have no business here.
const MODE: u32 = 0o660;

/// A bound address.
#[derive(Debug)]
pub enum Listener {
    /// A Unix socket; its file is removed with it.
    Unix(UnixListener, SocketFile),
    /// Plain TCP on loopback.
    Tcp(TcpListener),
}

/// The file of a socket. Removed on drop.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another daemon answers there.
    #[error("{} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// Something that is not a socket is there.
    #[error("{} exists and is not a socket", .0.display())]
    NotASocket(PathBuf),
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
    pub async fn bind(endpoint: &Endpoint) -> Result<Self, BindError> {
        let failed = |source| BindError::Bind { endpoint: endpoint.clone(), source };
        match endpoint {
            Endpoint::Tcp(address) => Ok(Self::Tcp(TcpListener::bind(address).await.map_err(failed)?)),
            Endpoint::Unix(path) => {
                clear_leftover(path)?;
                let listener = UnixListener::bind(path).map_err(failed)?;
                let file = SocketFile(path.clone());
                open_to_group(path).map_err(failed)?;
                Ok(Self::Unix(listener, file))
            }
        }
    }

    /// The address as bound, with the port that the system chose.
    pub fn endpoint(&self) -> io::Result<Endpoint> {
        match self {
            Self::Unix(_, SocketFile(path)) => Ok(Endpoint::Unix(path.clone())),
            Self::Tcp(listener) => Ok(Endpoint::Tcp(listener.local_addr()?)),
        }
    }
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

/// Others cannot connect before this either: that takes the right to write.
fn open_to_group(path: &Path) -> io::Result<()> {
    if let Some(group) = group_id(&std::fs::read_to_string("/etc/group").unwrap_or_default()) {
        // A daemon that is neither root nor of the group keeps its own.
        chown(path, None, Some(group)).ok();
    }
    std::fs::set_permissions(path, Permissions::from_mode(MODE))
}

/// `hearth:x:123:…`
fn group_id(groups: &str) -> Option<u32> {
    let fields = groups.lines().map(|line| line.split(':').collect::<Vec<_>>());
    fields.filter(|fields| fields.first() == Some(&GROUP)).find_map(|fields| fields.get(2)?.parse().ok())
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Gone already is as good.
        std::fs::remove_file(&self.0).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_is_found_by_its_name() {
        assert_eq!(group_id("root:x:0:\nhearths:x:7:\nhearth:x:123:alice,bob\n"), Some(123));
        assert_eq!(group_id("root:x:0:\n"), None);
    }

    #[tokio::test]
    async fn a_leftover_socket_is_replaced_and_a_living_one_is_not() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("s");
        let endpoint = Endpoint::Unix(path.clone());
        drop(std::os::unix::net::UnixListener::bind(&path).expect("bind"));
        let listener = Listener::bind(&endpoint).await.expect("the leftover is replaced");
        let mode = std::fs::metadata(&path).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, MODE);
        assert!(matches!(Listener::bind(&endpoint).await, Err(BindError::InUse(_))));
        drop(listener);
        assert!(!path.exists());
        std::fs::write(&path, "precious").expect("write");
        assert!(Listener::bind(&endpoint).await.is_err());
        assert_eq!(std::fs::read_to_string(&path).expect("it is still there"), "precious");
    }
}
