//! What inspectors found of a blob, by a key that says with which engine build and on which CPU.
//!
//! Unlike facts, an inspection can be made anew at any time. So one that cannot be read is as good
//! as none.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::warn;

use super::Store;
use super::disk::{self, DiskError};
use crate::units::Digest;

/// Why an inspection is not kept.
#[derive(Debug, thiserror::Error)]
pub enum InspectionError {
    #[error("no model has the blob {digest}")]
    NoBlob { digest: Digest },
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// An inspection as it lies on disk.
#[derive(Serialize, Deserialize)]
struct Stored {
    /// For people, since the file's name is the digest of it.
    key: String,
    value: Value,
}

impl Store {
    /// What was found of a blob under this key. `None` is a reason to inspect it.
    pub fn inspection(&self, digest: &Digest, key: &str) -> Option<Value> {
        let path = self.inner.layout.inspection(digest, key);
        let text = disk::read(&path).unwrap_or_else(|error| {
            warn!(path = %error.path.display(), error = %error.source, "Cannot read an inspection");
            None
        })?;
        let stored: Stored = serde_json::from_slice(&text).ok()?;
        Some(stored.value)
    }

    /// Keeps what was found, until the blob is removed.
    pub fn save_inspection(&self, digest: &Digest, key: &str, value: Value) -> Result<(), InspectionError> {
        let stored = Stored { key: key.to_owned(), value };
        let text = serde_json::to_vec(&stored).expect("a JSON value always has a JSON form");
        self.inner.change().keep_inspection(digest, key, &text)
    }
}
