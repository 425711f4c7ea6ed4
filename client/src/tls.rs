//! Who is trusted, and who one is, on an encrypted connection.

use std::fmt;
use std::path::{Path, PathBuf};

use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use crate::{Endpoint, Error};

/// Certificates and keys for `https` endpoints, all PEM. Files are read when the connection is made.
///
/// ```
/// use hearth_client::Tls;
///
/// let tls = Tls::new().ca_file("/etc/hearth/ca.pem").server_name("board");
/// # drop(tls);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Tls {
    ca: Option<Pem>,
    certificate: Option<Pem>,
    key: Option<Pem>,
    server_name: Option<String>,
}

/// A certificate or key, here or in a file.
#[derive(Clone)]
enum Pem {
    Here(Vec<u8>),
    File(PathBuf),
}

impl Tls {
    /// Trusts whom the system trusts, and shows no certificate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts the authorities in this file, and nobody else.
    #[must_use]
    pub fn ca_file(self, path: impl Into<PathBuf>) -> Self {
        Self { ca: Some(Pem::File(path.into())), ..self }
    }

    /// Trusts these authorities, and nobody else.
    #[must_use]
    pub fn ca_pem(self, pem: impl Into<Vec<u8>>) -> Self {
        Self { ca: Some(Pem::Here(pem.into())), ..self }
    }

    /// Shows the certificate in this file to a daemon that asks who calls.
    #[must_use]
    pub fn certificate_file(self, path: impl Into<PathBuf>) -> Self {
        Self { certificate: Some(Pem::File(path.into())), ..self }
    }

    /// The file with the key of the certificate that is shown.
    #[must_use]
    pub fn key_file(self, path: impl Into<PathBuf>) -> Self {
        Self { key: Some(Pem::File(path.into())), ..self }
    }

    /// Shows this certificate, whose key this is, to a daemon that asks who calls.
    #[must_use]
    pub fn identity_pem(self, certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        let (certificate, key) = (Some(Pem::Here(certificate.into())), Some(Pem::Here(key.into())));
        Self { certificate, key, ..self }
    }

    /// The name that the daemon's certificate must be for. Absent: the host of the endpoint.
    #[must_use]
    pub fn server_name(self, name: impl Into<String>) -> Self {
        Self { server_name: Some(name.into()), ..self }
    }

    /// As tonic takes it.
    pub(crate) fn config(&self, endpoint: &Endpoint) -> Result<ClientTlsConfig, Error> {
        let mut config = match &self.ca {
            Some(ca) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca.read()?)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        config = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => {
                config.identity(Identity::from_pem(certificate.read()?, key.read()?))
            }
            (None, None) => config,
            _ => return Err(Error::HalfIdentity { endpoint: endpoint.clone() }),
        };
        Ok(match &self.server_name {
            Some(name) => config.domain_name(name),
            None => config,
        })
    }
}

impl Pem {
    fn read(&self) -> Result<Vec<u8>, Error> {
        match self {
            Self::Here(pem) => Ok(pem.clone()),
            Self::File(path) => read(path),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::Secret { path: path.to_owned(), source })
}

impl fmt::Debug for Pem {
    /// A key is never printed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here(_) => f.write_str("Here(..)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_never_printed() {
        let tls = Tls::new().identity_pem("CERT", "KEY").ca_file("/ca.pem");
        let printed = format!("{tls:?}");
        assert!(printed.contains("/ca.pem") && !printed.contains("KEY"), "{printed}");
        assert!(!printed.contains("75"), "not as numbers either: {printed}");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let error = Tls::new().ca_file("/nowhere/ca.pem").config(&Endpoint::default()).expect_err("no file");
        assert!(error.to_string().contains("/nowhere/ca.pem"), "{error}");
    }

    #[test]
    fn a_certificate_needs_its_key() {
        let error = Tls::new().certificate_file("/c.pem").config(&Endpoint::default()).expect_err("no key");
        assert!(matches!(error, Error::HalfIdentity { .. }));
    }
}
