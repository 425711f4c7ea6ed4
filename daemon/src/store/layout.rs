//! Where things lie below `STATE/models`. Pure.

use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::units::{Digest, ModelName};

/// Begins the name of every blob.
const BLOB_PREFIX: &str = "sha256-";

/// Ends the name of every manifest and inspection.
const JSON: &str = ".json";

/// The paths of one store.
#[derive(Debug)]
pub(super) struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The store of a state directory.
    pub(super) fn of(state_dir: &Path) -> Self {
        Self { root: state_dir.join("models") }
    }

    /// The directory of all this.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The version number of this layout.
    pub(super) fn format(&self) -> PathBuf {
        self.root.join("format")
    }

    /// The file that a running daemon has locked.
    pub(super) fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// Files that are not finished. Emptied at start.
    pub(super) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// Model files by digest.
    pub(super) fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    /// One file per model.
    pub(super) fn manifests(&self) -> PathBuf {
        self.root.join("manifests")
    }

    /// What inspectors found, by blob.
    pub(super) fn inspections(&self) -> PathBuf {
        self.root.join("inspections")
    }

    /// Manifests that were set aside.
    pub(super) fn damaged(&self) -> PathBuf {
        self.root.join("damaged")
    }

    /// Where the manifest of a model lies if it was set aside.
    pub(super) fn damaged_manifest(&self, name: &ModelName) -> PathBuf {
        self.damaged().join(manifest_file(name))
    }

    /// The file with this content.
    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(format!("{BLOB_PREFIX}{digest}"))
    }

    /// The manifest of a model. A name has no `/`, and `:` separates its tag here too.
    pub(super) fn manifest(&self, name: &ModelName) -> PathBuf {
        self.manifests().join(manifest_file(name))
    }

    /// All inspections of a blob.
    pub(super) fn inspections_of(&self, digest: &Digest) -> PathBuf {
        self.inspections().join(digest.to_string())
    }

    /// One inspection of a blob. A key is any text, so the file bears its digest.
    pub(super) fn inspection(&self, digest: &Digest, key: &str) -> PathBuf {
        let key = Digest(Sha256::digest(key).into());
        self.inspections_of(digest).join(format!("{key}{JSON}"))
    }
}

/// The name of a model's manifest file.
pub(super) fn manifest_file(name: &ModelName) -> String {
    format!("{name}{JSON}")
}

/// The model whose manifest has this file name.
pub(super) fn manifest_name(file_name: &str) -> Option<ModelName> {
    let name: ModelName = file_name.strip_suffix(JSON)?.parse().ok()?;
    (manifest_file(&name) == file_name).then_some(name)
}

/// The digest that a file in `blobs/` is named for.
pub(super) fn blob_digest(file_name: &str) -> Option<Digest> {
    written_digest(file_name.strip_prefix(BLOB_PREFIX)?)
}

/// A digest, if it is written exactly as the store writes it.
pub(super) fn written_digest(text: &str) -> Option<Digest> {
    text.parse().ok().filter(|digest: &Digest| digest.to_string() == text)
}
