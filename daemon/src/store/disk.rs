//! The few things the store does to the file system, each so that a power cut cannot split it.
//!
//! What changes the file system does so by `act`, here and nowhere else in the store: that is what
//! lets tests cut a store's power at any act, with what a disk may make of the acts before.

use std::fs::{self, DirEntry, File};
use std::io;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, fadvise};
use tracing::debug;

mod act;
mod draft;
#[cfg(test)]
pub(super) mod record;

use act::Act;

pub(super) use draft::{Draft, DraftPath};

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
    let parent = folder(path);
    if !parent.is_dir() {
        create_dir(parent)?;
    }
    if !path.is_dir() {
        Act::MakeDir(path).perform().map_err(DiskError::when("create", path))?;
    }
    sync_dir(parent)
}

/// The directory that a path is in.
fn folder(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Waits until the entries of a directory are on the disk.
pub(super) fn sync_dir(path: &Path) -> Result<(), DiskError> {
    Act::SyncDir(path).perform().map_err(DiskError::when("sync", path))
}

/// Waits until the names of all directories above `path` are on the disk, as far as that is in our power:
/// some may be closed to us, or on a file system that syncs no directories.
pub(super) fn sync_above(path: &Path) {
    for dir in path.ancestors().skip(1).filter(|dir| !dir.as_os_str().is_empty()) {
        if let Err(error) = sync_dir(dir) {
            debug!(path = %error.path.display(), error = %error.source, "Cannot sync a directory above the store");
        }
    }
}

/// Puts a file with this content at `path`, which then has the old content or the new one. The caller
/// syncs the directory.
pub(super) fn replace(tmp: &Path, path: &Path, content: &[u8]) -> Result<(), DiskError> {
    let file = Draft::create(tmp)?;
    let written = file.put(content, 0).and_then(|()| file.sync());
    written.map_err(DiskError::when("write", file.path()))?;
    file.close().move_to(path).map_err(DiskError::when("replace", path))
}

/// Opens a file with the content it has, and makes it if there is none.
pub(super) fn open_or_create(path: &Path) -> io::Result<File> {
    act::open_or_create(path)
}

/// Gives a file another content in place, which a power cut may split: for what need not outlive one.
pub(super) fn overwrite(file: &File, content: &[u8]) -> io::Result<()> {
    Act::SetLength { file, length: 0 }.perform()?;
    Act::Write { file, at: 0, bytes: content }.perform()
}

/// Moves a file to another directory, in place of what has the name there. For a moment it has both names: a
/// file system without a journal may take one half of a rename to the disk, and lose the file with the other.
pub(super) fn move_across(from: &Path, to: &Path) -> Result<(), DiskError> {
    // A link takes nobody's place. And renaming a file to its own other name, which a power cut may have left,
    // would do nothing.
    let linked = remove_file(to).is_ok() && Act::Link { from, to }.perform().is_ok();
    if !linked {
        Act::Rename { from, to }.perform().map_err(DiskError::when("move", from))?;
    }
    sync_dir(folder(to))?;
    if linked {
        remove_file(from)?;
    }
    sync_dir(folder(from))
}

/// Content of a small file, or `None` where there is no such file.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, DiskError> {
    absent_is_none(fs::read(path)).map_err(DiskError::when("read", path))
}

/// Removes a file. That it is gone already is success.
pub(super) fn remove_file(path: &Path) -> Result<(), DiskError> {
    let removed = absent_is_none(Act::RemoveFile(path).perform());
    removed.map(drop).map_err(DiskError::when("remove", path))
}

/// Removes a directory and all in it. That it is gone already is success.
pub(super) fn remove_dir(path: &Path) -> Result<(), DiskError> {
    if path.is_symlink() {
        return remove_file(path);
    }
    let listed = absent_is_none(fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>));
    let Some(entries) = listed.map_err(DiskError::when("list", path))? else { return Ok(()) };
    entries.iter().try_for_each(remove_entry)?;
    let removed = absent_is_none(Act::RemoveDir(path).perform());
    removed.map(drop).map_err(DiskError::when("remove", path))
}

fn remove_entry(entry: &DirEntry) -> Result<(), DiskError> {
    let path = entry.path();
    let kind = entry.file_type().map_err(DiskError::when("examine", &path))?;
    if kind.is_dir() { remove_dir(&path) } else { remove_file(&path) }
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
