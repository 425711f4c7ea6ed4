//! What a thread did to the file system, for tests that cut it off somewhere. An act that failed is not
//! in it.

use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::act::Act;

/// An act that succeeded. A file is its inode number: it may be without a name, or change it.
#[derive(Clone, Debug)]
pub(in crate::store) enum Done {
    /// Opened for writing, and made with this mode if it was not there.
    Open {
        path: PathBuf,
        file: u64,
        mode: u32,
    },
    MakeDir(PathBuf),
    Write {
        file: u64,
        at: u64,
        bytes: Vec<u8>,
    },
    SetLength {
        file: u64,
        length: u64,
    },
    SetMode {
        file: u64,
        mode: u32,
    },
    SyncData(u64),
    SyncAll(u64),
    SyncDir(PathBuf),
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Link {
        from: PathBuf,
        to: PathBuf,
    },
    RemoveFile(PathBuf),
    RemoveDir(PathBuf),
}

thread_local! {
    /// `None` while nothing is kept, since most tests do not ask and some write much.
    static RECORD: RefCell<Option<Vec<Done>>> = const { RefCell::new(None) };
}

/// Keeps what this thread does from now on.
pub(in crate::store) fn start() {
    RECORD.set(Some(Vec::new()));
}

/// How many acts were kept so far.
pub(in crate::store) fn length() -> usize {
    RECORD.with_borrow(|record| record.as_ref().map_or(0, Vec::len))
}

/// What was kept, and ends the keeping.
pub(in crate::store) fn take() -> Vec<Done> {
    RECORD.take().unwrap_or_default()
}

/// An act was performed.
pub(super) fn note(act: Act<'_>) {
    keep(|| Done::from(act));
}

/// A file was opened for writing.
pub(super) fn note_opened(path: &Path, file: &File) {
    keep(|| Done::Open { path: path.to_owned(), file: inode(file), mode: mode(file) });
}

fn keep(done: impl FnOnce() -> Done) {
    RECORD.with_borrow_mut(|record| {
        if let Some(record) = record {
            record.push(done());
        }
    });
}

fn inode(file: &File) -> u64 {
    file.metadata().unwrap().ino()
}

fn mode(file: &File) -> u32 {
    file.metadata().unwrap().mode() & 0o777
}

fn content(file: &File) -> Vec<u8> {
    let mut content = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut content, 0).unwrap();
    content
}

impl From<Act<'_>> for Done {
    fn from(act: Act<'_>) -> Self {
        match act {
            Act::MakeDir(path) => Self::MakeDir(path.to_owned()),
            Act::Write { file, at, bytes } => Self::Write { file: inode(file), at, bytes: bytes.to_vec() },
            Act::Clone { file, .. } => Self::Write { file: inode(file), at: 0, bytes: content(file) },
            Act::SetLength { file, length } => Self::SetLength { file: inode(file), length },
            Act::SetMode { file, mode } => Self::SetMode { file: inode(file), mode },
            Act::SyncData(file) => Self::SyncData(inode(file)),
            Act::SyncAll(file) => Self::SyncAll(inode(file)),
            Act::SyncDir(path) => Self::SyncDir(path.to_owned()),
            Act::Rename { from, to } => Self::Rename { from: from.to_owned(), to: to.to_owned() },
            Act::Link { from, to } => Self::Link { from: from.to_owned(), to: to.to_owned() },
            Act::RemoveFile(path) => Self::RemoveFile(path.to_owned()),
            Act::RemoveDir(path) => Self::RemoveDir(path.to_owned()),
        }
    }
}
