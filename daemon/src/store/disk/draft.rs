//! A file that is being written in `tmp/`, until it is moved to its place.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use tempfile::Builder;
use tracing::warn;

use super::act::{self, Act};
use super::{DiskError, remove_file};

/// An open file in `tmp/`. Dropping it removes the file.
#[derive(Debug)]
pub(in crate::store) struct Draft {
    file: File,
    path: DraftPath,
}

/// A file in `tmp/` that is closed. Dropping it removes the file.
#[derive(Debug)]
pub(in crate::store) struct DraftPath {
    path: PathBuf,
    /// Whether the file lies under another name now, and this one may soon be another's.
    moved: bool,
}

impl Draft {
    /// Makes a file with a name of its own.
    pub(in crate::store) fn create(tmp: &Path) -> Result<Self, DiskError> {
        let made =
            Builder::new().make_in(tmp, act::create).map_err(DiskError::when("create a file in", tmp))?;
        // tempfile would remove it behind the back of `Act`.
        let (file, path) = made.keep().map_err(|e| DiskError::when("keep a file in", tmp)(e.error))?;
        Ok(Self { file, path: DraftPath { path, moved: false } })
    }

    /// Where it lies.
    pub(in crate::store) fn path(&self) -> &Path {
        self.path.as_path()
    }

    /// The file, for reading.
    pub(in crate::store) fn file(&self) -> &File {
        &self.file
    }

    /// Writes bytes to a place in the file.
    pub(in crate::store) fn put(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        Act::Write { file: &self.file, at, bytes }.perform()
    }

    /// Takes the content of another file and shares its blocks, where the file system can do that.
    pub(in crate::store) fn clone_from(&self, source: &File) -> io::Result<()> {
        Act::Clone { file: &self.file, source }.perform()
    }

    /// Sets the bits of permission.
    pub(in crate::store) fn set_mode(&self, mode: u32) -> io::Result<()> {
        Act::SetMode { file: &self.file, mode }.perform()
    }

    /// Waits until its content is on the disk.
    pub(in crate::store) fn sync_content(&self) -> io::Result<()> {
        Act::SyncData(&self.file).perform()
    }

    /// Waits until content and mode are on the disk.
    pub(in crate::store) fn sync(&self) -> io::Result<()> {
        Act::SyncAll(&self.file).perform()
    }

    /// Closes the file.
    pub(in crate::store) fn close(self) -> DraftPath {
        self.path
    }

    /// The same draft behind another handle, say one that refuses to write.
    #[cfg(test)]
    pub(in crate::store) fn through(self, file: File) -> Self {
        Self { file, ..self }
    }
}

impl DraftPath {
    /// Where it lies.
    pub(in crate::store) fn as_path(&self) -> &Path {
        &self.path
    }

    /// Moves the file to its place, where it takes that of another at once. The caller has synced the
    /// file, and syncs the directory.
    pub(in crate::store) fn move_to(mut self, place: &Path) -> io::Result<()> {
        Act::Rename { from: &self.path, to: place }.perform()?;
        self.moved = true;
        Ok(())
    }
}

impl Drop for DraftPath {
    fn drop(&mut self) {
        if self.moved {
            return;
        }
        if let Err(error) = remove_file(&self.path) {
            warn!(path = %error.path.display(), error = %error.source, "Left a file that is not finished");
        }
    }
}
