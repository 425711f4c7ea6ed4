//! Who calls. Roles and what they may do come with a later issue; the socket's mode is the gate until
//! then.

use std::fmt;

use tonic::Extensions;
use tonic::transport::server::UdsConnectInfo;

/// Who calls, as far as the connection can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Principal {
    /// A process of this machine, by the kernel's word.
    Local { uid: u32, gid: u32 },
    /// Somebody on loopback.
    Loopback,
}

impl Principal {
    /// Of a request's connection.
    pub(crate) fn of(extensions: &Extensions) -> Self {
        let peer = extensions.get::<UdsConnectInfo>().and_then(|info| info.peer_cred);
        peer.map_or(Self::Loopback, |peer| Self::Local { uid: peer.uid(), gid: peer.gid() })
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local { uid, gid } => write!(f, "uid {uid} gid {gid}"),
            Self::Loopback => f.write_str("loopback"),
        }
    }
}
