//! How a caller says which model is meant.

use std::fmt;
use std::str::FromStr;

use crate::units::{Digest, ModelName};

/// A model by name or by digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelRef {
    /// `name[:tag]`.
    Name(ModelName),
    /// `sha256:` and the beginning of a digest.
    Digest(DigestPrefix),
    /// Hexadecimal digits alone, which may be either. The name is tried first.
    NameOrDigest(ModelName, DigestPrefix),
}

/// The first hexadecimal digits of a digest, 8 to 64, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DigestPrefix(String);

/// Why a text refers to no model.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{0}` does not refer to a model: write name[:tag], or at least 8 hexadecimal digits of its SHA-256 digest"
)]
pub struct BadModelRef(pub String);

impl FromStr for ModelRef {
    type Err = BadModelRef;

    /// `qwen3`, `qwen3:8b`, `sha256:1a2b3c4d`, `1a2b3c4d`.
    fn from_str(text: &str) -> Result<Self, BadModelRef> {
        if let Some(prefix) = text.strip_prefix("sha256:").and_then(DigestPrefix::parse) {
            return Ok(Self::Digest(prefix));
        }
        let name: ModelName = text.parse().map_err(|_| BadModelRef(text.chars().take(160).collect()))?;
        Ok(match DigestPrefix::parse(text) {
            Some(prefix) => Self::NameOrDigest(name, prefix),
            None => Self::Name(name),
        })
    }
}

impl From<ModelName> for ModelRef {
    fn from(name: ModelName) -> Self {
        Self::Name(name)
    }
}

impl From<Digest> for ModelRef {
    fn from(digest: Digest) -> Self {
        Self::Digest(DigestPrefix(digest.to_string()))
    }
}

impl fmt::Display for ModelRef {
    /// A text that reads as the same reference.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Digest(prefix) => write!(f, "sha256:{}", prefix.0),
            Self::NameOrDigest(name, _) => f.write_str(name.as_str().split(':').next().unwrap_or_default()),
        }
    }
}

impl DigestPrefix {
    fn parse(digits: &str) -> Option<Self> {
        let fits = (8..=64).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
        fits.then(|| Self(digits.to_ascii_lowercase()))
    }

    /// Whether `digest` begins like this.
    pub fn matches(&self, digest: &Digest) -> bool {
        digest.to_string().starts_with(&self.0)
    }
}
