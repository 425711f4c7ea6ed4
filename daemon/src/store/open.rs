//! Opening a store: what a power cut left is cleared away, and what is damaged is set aside.

use std::fs::{self, DirEntry};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::disk::{self, DiskError};
use super::index::Index;
use super::layout::{self, Layout};
use super::lock::{Lock, LockError};
use super::manifest::{Manifest, ManifestError, ModelFile};
use super::space::Space;
use super::sweep;
use super::{Inner, Store, format};
use crate::units::{Bytes, Digest};

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the models in {} are in use by {}", path.display(), holder(*pid))]
    InUse {
        path: PathBuf,
        /// The process that has them open, if it can be told.
        pid: Option<u32>,
    },
    #[error("the store has format {found}, and this build knows formats up to {known}: install a newer one")]
    Newer { found: u32, known: u32 },
    #[error("{} does not hold the version of a store that has models", path.display())]
    NoFormat { path: PathBuf },
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// A manifest that was set aside when the store was opened.
#[derive(Debug)]
pub struct Damaged {
    /// The name of its file, now in `damaged/`.
    pub file: String,
    /// What is wrong with it.
    pub why: Damage,
}

/// What is wrong with a manifest.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    #[error("the manifest cannot be understood")]
    Manifest(#[source] ManifestError),
    #[error("the manifest is that of `{name}` and lies under another name")]
    Misnamed { name: String },
    #[error("the blob {digest} is missing")]
    BlobMissing { digest: Digest },
    #[error("the blob {digest} has {found} bytes and should have {expected}", found = found.0, expected = expected.0)]
    BlobSize { digest: Digest, found: Bytes, expected: Bytes },
    #[error(transparent)]
    Disk(DiskError),
}

impl Store {
    /// Opens the store of a state directory, which is created if it is not there.
    pub fn open(state_dir: &Path) -> Result<Self, OpenError> {
        let layout = Layout::of(state_dir);
        disk::create_dir(layout.root())?;
        let lock = take_lock(&layout)?;
        format::check(&layout)?;
        create_dirs(&layout)?;
        let (index, damaged) = survey(&layout)?;
        // A daemon that was killed may not have waited for its last change. What this one found must not
        // be undone behind it: callers are told of it, and the sweep removes what it makes useless.
        disk::sync_dir(&layout.manifests())?;
        sweep::tidy(&layout, &index);
        let space = Space::at(layout.root().to_owned());
        let (changes, index) = (Mutex::default(), Mutex::new(index));
        Ok(Self { inner: Arc::new(Inner { layout, index, changes, space, damaged, _lock: lock }) })
    }
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

fn take_lock(layout: &Layout) -> Result<Lock, OpenError> {
    Lock::take(&layout.lock()).map_err(|error| match error {
        LockError::Held { pid } => OpenError::InUse { path: layout.root().to_owned(), pid },
        LockError::Disk(error) => OpenError::Disk(error),
    })
}

fn create_dirs(layout: &Layout) -> Result<(), DiskError> {
    let dirs = [layout.tmp(), layout.blobs(), layout.manifests(), layout.inspections(), layout.damaged()];
    dirs.iter().try_for_each(|dir| disk::create_dir(dir))
}

/// Reads all manifests; those that do not hold are set aside.
fn survey(layout: &Layout) -> Result<(Index, Vec<Damaged>), DiskError> {
    let (mut index, mut damaged) = (Index::default(), Vec::new());
    for entry in disk::entries(&layout.manifests())? {
        match examine(layout, &entry) {
            Ok(manifest) => drop(index.insert(manifest)),
            Err(why) => damaged.push(set_aside(layout, &entry, why)?),
        }
    }
    Ok((index, damaged))
}

/// The manifest in a file, if all it says is so.
fn examine(layout: &Layout, entry: &DirEntry) -> Result<Manifest, Damage> {
    let text = fs::read(entry.path()).map_err(|e| Damage::Disk(DiskError::when("read", &entry.path())(e)))?;
    let manifest = Manifest::parse(&text).map_err(Damage::Manifest)?;
    if layout::manifest_file(&manifest.name).as_str() != entry.file_name() {
        return Err(Damage::Misnamed { name: manifest.name.to_string() });
    }
    manifest.files.iter().try_for_each(|file| examine_blob(layout, file))?;
    Ok(manifest)
}

fn examine_blob(layout: &Layout, file: &ModelFile) -> Result<(), Damage> {
    let (digest, expected) = (file.digest, file.size);
    match fs::metadata(layout.blob(&digest)).map(|blob| Bytes(blob.len())) {
        Ok(found) if found == expected => Ok(()),
        Ok(found) => Err(Damage::BlobSize { digest, found, expected }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Damage::BlobMissing { digest }),
        Err(e) => Err(Damage::Disk(DiskError::when("examine", &layout.blob(&digest))(e))),
    }
}

fn set_aside(layout: &Layout, entry: &DirEntry, why: Damage) -> Result<Damaged, DiskError> {
    let file = entry.file_name();
    disk::move_across(&entry.path(), &layout.damaged().join(&file))?;
    Ok(Damaged { file: file.to_string_lossy().into_owned(), why })
}
