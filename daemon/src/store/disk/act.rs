//! All that the store does to the file system, one value for each call.
//!
//! An [`Act`] is made and performed here and nowhere else. In builds for tests `record` keeps a note
//! of the very value that was performed, so the notes cannot tell of what was not done, nor miss what
//! succeeded.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::ioctl_ficlone;

#[cfg(test)]
use super::record;

/// One change of the file system, or one wait until changes are on the disk.
#[derive(Clone, Copy, Debug)]
pub(super) enum Act<'a> {
    MakeDir(&'a Path),
    Write {
        file: &'a File,
        at: u64,
        bytes: &'a [u8],
    },
    /// The file gets the content of another, and shares its blocks.
    Clone {
        file: &'a File,
        source: &'a File,
    },
    SetLength {
        file: &'a File,
        length: u64,
    },
    SetMode {
        file: &'a File,
        mode: u32,
    },
    /// Waits for content and length of a file.
    SyncData(&'a File),
    /// Waits for all of a file.
    SyncAll(&'a File),
    /// Waits for the entries of a directory.
    SyncDir(&'a Path),
    Rename {
        from: &'a Path,
        to: &'a Path,
    },
    /// A file gets a second name.
    Link {
        from: &'a Path,
        to: &'a Path,
    },
    RemoveFile(&'a Path),
    /// Of a directory that is empty.
    RemoveDir(&'a Path),
}

impl Act<'_> {
    /// Does it.
    pub(super) fn perform(self) -> io::Result<()> {
        self.call()?;
        #[cfg(test)]
        record::note(self);
        Ok(())
    }

    fn call(self) -> io::Result<()> {
        match self {
            Self::MakeDir(path) => DirBuilder::new().mode(0o750).create(path),
            Self::Write { file, at, bytes } => file.write_all_at(bytes, at),
            Self::Clone { file, source } => Ok(ioctl_ficlone(file, source)?),
            Self::SetLength { file, length } => file.set_len(length),
            Self::SetMode { file, mode } => file.set_permissions(Permissions::from_mode(mode)),
            Self::SyncData(file) => file.sync_data(),
            Self::SyncAll(file) => file.sync_all(),
            Self::SyncDir(path) => File::open(path)?.sync_all(),
            Self::Rename { from, to } => fs::rename(from, to),
            Self::Link { from, to } => fs::hard_link(from, to),
            Self::RemoveFile(path) => fs::remove_file(path),
            Self::RemoveDir(path) => fs::remove_dir(path),
        }
    }
}

/// Makes a file where none may be, for the daemon alone.
pub(super) fn create(path: &Path) -> io::Result<File> {
    open_with(OpenOptions::new().create_new(true).mode(0o600), path)
}

/// Opens a file with the content it has, and makes it if there is none.
pub(super) fn open_or_create(path: &Path) -> io::Result<File> {
    open_with(OpenOptions::new().create(true).truncate(false), path)
}

fn open_with(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let file = options.read(true).write(true).open(path)?;
    #[cfg(test)]
    record::note_opened(path, &file);
    Ok(file)
}
