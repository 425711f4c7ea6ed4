//! The few things the store does to the file system, each so that a power cut cannot split it.

use std::fs::{self, DirBuilder, DirEntry, File};
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, fadvise};
use tempfile::NamedTempFile;

use crate::units::Bytes;

/// The file system refused something.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {}", path.display())]
pub struct DiskError {
    /// What was being done: `write`, `rename`, `sync`.
    pub doing: &'static str,
    /// To which file or directory.
    pub path: PathBuf,
    #[source]
    pub source: io::Error,
}

impl DiskError {
    /// For `map_err`: what was being done to `path`.
    pub(super) fn when(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self { doing, path: path.to_owned(), source }
    }

    /// Whether freeing space may help.
    pub fn is_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

/// Makes sure that a directory is there and its name on the disk, and the same for its parents as far
/// as they are missing.
pub(super) fn create_dir(path: &Path) -> Result<(), DiskError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !parent.is_dir() {
        create_dir(parent)?;
    }
    if !path.is_dir() {
        DirBuilder::new().mode(0o750).create(path).map_err(DiskError::when("create", path))?;
    }
    sync_dir(parent)
}

/// Waits until the entries of a directory are on the disk.
pub(super) fn sync_dir(path: &Path) -> Result<(), DiskError> {
    let synced = File::open(path).and_then(|dir| dir.sync_all());
    synced.map_err(DiskError::when("sync", path))
}

/// Puts a file with this content at `path`, which then has the old content or the new one. The caller
/// syncs the directory.
pub(super) fn replace(tmp: &Path, path: &Path, content: &[u8]) -> Result<(), DiskError> {
    let mut file = NamedTempFile::new_in(tmp).map_err(DiskError::when("create a file in", tmp))?;
    let written = file.as_file_mut().write_all(content).and_then(|()| file.as_file().sync_all());
    written.map_err(DiskError::when("write", file.path()))?;
    file.persist(path).map_err(|e| DiskError::when("replace", path)(e.error))?;
    Ok(())
}

/// Content of a small file, or `None` where there is no such file.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, DiskError> {
    absent_is_none(fs::read(path)).map_err(DiskError::when("read", path))
}

/// Removes a file. That it is gone already is success.
pub(super) fn remove_file(path: &Path) -> Result<(), DiskError> {
    absent_is_none(fs::remove_file(path)).map(drop).map_err(DiskError::when("remove", path))
}

/// Removes a directory and all in it. That it is gone already is success.
pub(super) fn remove_dir(path: &Path) -> Result<(), DiskError> {
    absent_is_none(fs::remove_dir_all(path)).map(drop).map_err(DiskError::when("remove", path))
}

/// What lies in a directory.
pub(super) fn entries(path: &Path) -> Result<Vec<DirEntry>, DiskError> {
    let entries = fs::read_dir(path).and_then(Iterator::collect);
    entries.map_err(DiskError::when("list", path))
}

/// Lets the page cache of a part of a file go. Dirty pages stay: sync them before.
pub(super) fn forget(file: &File, from: Bytes, length: Bytes) -> io::Result<()> {
    NonZeroU64::new(length.0)
        .map_or(Ok(()), |length| Ok(fadvise(file, from.0, Some(length), Advice::DontNeed)?))
}

fn absent_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}
