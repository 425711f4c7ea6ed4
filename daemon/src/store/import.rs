//! Bringing a model file in.
//!
//! ```text
//!  begin_import ──► Import ──seal──► Sealed ──commit──► Manifest
//!                    write            path: the inspector reads the file here
//! ```
//!
//! The file lies in `tmp/` until the commit. Dropping an [`Import`] or a [`Sealed`] removes it.

use std::cmp::Ordering;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};

use super::Store;
use super::disk::{self, DiskError, Draft, DraftPath};
use super::manifest::{Facts, FileRole, Manifest, ModelFile};
use super::space::Claim;
use crate::units::{Bytes, Digest, ModelName};

/// After this much an import is written to the disk and leaves the page cache. Large enough for an SD
/// card to write in long runs, small enough not to look like memory pressure on a board of 1 GiB.
const CACHE_WINDOW: Bytes = Bytes(64 * Bytes::MIB.0);

/// How much of a file is read at once.
const CHUNK: usize = 1 << 20;

/// What is to be imported.
#[derive(Clone, Debug)]
pub struct ImportSpec {
    /// The name it gets. A model that has the name is replaced at the commit.
    pub name: ModelName,
    /// Length of the file.
    pub size: Bytes,
    /// What its SHA-256 digest must be, if that is known.
    pub sha256: Option<Digest>,
}

/// A file that is being written.
#[derive(Debug)]
pub struct Import {
    store: Store,
    spec: ImportSpec,
    file: Draft,
    hasher: Sha256,
    /// Bytes in the file and in the hasher.
    written: Bytes,
    /// Bytes at the front that have left the page cache.
    flushed: Bytes,
    /// Whether the disk has refused a part of the file.
    spoiled: bool,
    claim: Claim,
}

/// A file that is complete, verified, on the disk and read-only, but not yet of the store.
#[derive(Debug)]
pub struct Sealed {
    store: Store,
    name: ModelName,
    file: DraftPath,
    digest: Digest,
    size: Bytes,
}

/// Why an import fails.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("{need} are needed on the disk and {free} are free for models")]
    NoSpace {
        need: Bytes,
        /// After the reserve and what other imports will still take.
        free: Bytes,
    },
    #[error("the file has {} bytes or more and {} were announced", got.0, announced.0)]
    TooLong {
        announced: Bytes,
        /// Where it was cut off, or its length where that is known.
        got: Bytes,
    },
    #[error("the file ends after {} of the {} bytes announced", got.0, announced.0)]
    TooShort { announced: Bytes, got: Bytes },
    #[error("the file has the digest {got} and not {announced}")]
    WrongDigest { announced: Digest, got: Digest },
    #[error("an earlier write of the import failed")]
    Spoiled,
    #[error("the import was stopped")]
    Stopped,
    #[error("cannot read the file to import")]
    Source(#[source] io::Error),
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl Store {
    /// Begins an import that the caller feeds. Checks first that the disk has room for it.
    pub fn begin_import(&self, spec: ImportSpec) -> Result<Import, ImportError> {
        let claim = self.inner.space.claim(spec.size)?;
        Ok(Import::new(self, spec, self.draft()?, claim))
    }

    /// Imports an open file of this machine. Where the file system can, the two share their blocks
    /// and no room is taken. `progress` hears how many bytes are done and may stop the import.
    pub fn import_copy(
        &self,
        spec: ImportSpec,
        source: &File,
        progress: impl FnMut(Bytes) -> ControlFlow<()>,
    ) -> Result<Sealed, ImportError> {
        check_length(&spec, source)?;
        let file = self.draft()?;
        if file.clone_from(source).is_ok() {
            let claim = self.inner.space.claim_nothing();
            Import::new(self, spec, file, claim).take_clone(progress)
        } else {
            let claim = self.inner.space.claim(spec.size)?;
            Import::new(self, spec, file, claim).take_copy(source, progress)
        }
    }

    fn draft(&self) -> Result<Draft, DiskError> {
        Draft::create(&self.inner.layout.tmp())
    }
}

impl Import {
    pub(super) fn new(store: &Store, spec: ImportSpec, file: Draft, claim: Claim) -> Self {
        Self {
            store: store.clone(),
            spec,
            file,
            hasher: Sha256::new(),
            written: Bytes(0),
            flushed: Bytes(0),
            spoiled: false,
            claim,
        }
    }

    /// Bytes taken in so far.
    pub fn written(&self) -> Bytes {
        self.written
    }

    /// Appends to the file. After an error of the disk only dropping the import is left: Linux tells
    /// of bytes that it could not write just once, and a later sync would seem to succeed.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), ImportError> {
        self.check_sound()?;
        self.check_room(bytes)?;
        let appended = self.append(bytes);
        self.spoiled = appended.is_err();
        Ok(appended?)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), DiskError> {
        let written = self.file.put(bytes, self.written.0);
        written.map_err(DiskError::when("write", self.file.path()))?;
        self.count(bytes)
    }

    /// Takes in bytes that are in the file already.
    fn count(&mut self, bytes: &[u8]) -> Result<(), DiskError> {
        self.hasher.update(bytes);
        self.written = self.written + length(bytes);
        self.claim.fill(length(bytes));
        if self.written.saturating_sub(self.flushed) >= CACHE_WINDOW {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes what was taken in to the disk and lets its page cache go.
    fn flush(&mut self) -> Result<(), DiskError> {
        let file = &self.file;
        let window = self.written.saturating_sub(self.flushed);
        let flushed = file.sync_content().and_then(|()| disk::forget(file.file(), self.flushed, window));
        flushed.map_err(DiskError::when("sync", self.file.path()))?;
        self.flushed = self.written;
        Ok(())
    }

    fn check_sound(&self) -> Result<(), ImportError> {
        if self.spoiled { Err(ImportError::Spoiled) } else { Ok(()) }
    }

    fn check_room(&self, bytes: &[u8]) -> Result<(), ImportError> {
        let got = self.written + length(bytes);
        let announced = self.spec.size;
        if got > announced { Err(ImportError::TooLong { announced, got }) } else { Ok(()) }
    }

    fn take_copy(
        mut self,
        source: &File,
        mut progress: impl FnMut(Bytes) -> ControlFlow<()>,
    ) -> Result<Sealed, ImportError> {
        let mut buffer = vec![0; CHUNK];
        while let Some(bytes) = read_on(source, self.written, &mut buffer).map_err(ImportError::Source)? {
            self.write(bytes)?;
            go_on(progress(self.written))?;
        }
        self.seal()
    }

    fn take_clone(
        mut self,
        mut progress: impl FnMut(Bytes) -> ControlFlow<()>,
    ) -> Result<Sealed, ImportError> {
        let mut buffer = vec![0; CHUNK];
        while let Some(bytes) =
            read_on(self.file.file(), self.written, &mut buffer).map_err(ImportError::Source)?
        {
            self.check_room(bytes)?;
            self.count(bytes)?;
            go_on(progress(self.written))?;
        }
        self.seal()
    }

    /// Ends the writing: checks length and digest, and waits until the file is on the disk.
    pub fn seal(mut self) -> Result<Sealed, ImportError> {
        self.check_sound()?;
        self.check_complete()?;
        let digest = self.check_digest()?;
        self.finish_file()?;
        let Self { store, spec, file, .. } = self;
        Ok(Sealed { store, name: spec.name, file: file.close(), digest, size: spec.size })
    }

    fn check_complete(&self) -> Result<(), ImportError> {
        let (announced, got) = (self.spec.size, self.written);
        if got < announced { Err(ImportError::TooShort { announced, got }) } else { Ok(()) }
    }

    fn check_digest(&mut self) -> Result<Digest, ImportError> {
        let got = Digest(self.hasher.finalize_reset().into());
        match self.spec.sha256 {
            Some(announced) if announced != got => Err(ImportError::WrongDigest { announced, got }),
            _ => Ok(got),
        }
    }

    /// The mode is set before the sync, so that a blob is never seen writable.
    fn finish_file(&self) -> Result<(), DiskError> {
        let file = &self.file;
        let done = file
            .set_mode(0o440)
            .and_then(|()| file.sync())
            .and_then(|()| disk::forget(file.file(), Bytes(0), self.written));
        done.map_err(DiskError::when("sync", self.file.path()))
    }
}

impl Sealed {
    /// Where the file lies until the commit.
    pub fn path(&self) -> &Path {
        self.file.as_path()
    }

    /// Its SHA-256 digest.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Its length.
    pub fn size(&self) -> Bytes {
        self.size
    }

    /// Makes the file a model of the store. What had the name before is replaced, and its file
    /// removed unless another model has the same.
    pub fn commit(self, facts: Facts) -> Result<Manifest, ImportError> {
        let (store, file, manifest) = self.into_parts(facts, SystemTime::now());
        store.inner.change().place(file, manifest.clone())?.publish()?.collect();
        Ok(manifest)
    }

    /// The file and what is to be written of it.
    pub(super) fn into_parts(self, facts: Facts, now: SystemTime) -> (Store, DraftPath, Manifest) {
        let Self { store, name, file, digest, size } = self;
        let files = vec![ModelFile { role: FileRole::Weights, digest, size }];
        (store, file, Manifest::new(name, files, now, facts))
    }
}

fn check_length(spec: &ImportSpec, source: &File) -> Result<(), ImportError> {
    let announced = spec.size;
    let got = Bytes(source.metadata().map_err(ImportError::Source)?.len());
    match got.cmp(&announced) {
        Ordering::Less => Err(ImportError::TooShort { announced, got }),
        Ordering::Equal => Ok(()),
        Ordering::Greater => Err(ImportError::TooLong { announced, got }),
    }
}

/// The next bytes of a file, which leave the page cache with this; `None` at its end.
fn read_on<'a>(file: &File, from: Bytes, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
    let count = file.read_at(buffer, from.0)?;
    let bytes = &buffer[..count];
    disk::forget(file, from, length(bytes))?;
    Ok((count > 0).then_some(bytes))
}

fn go_on(answer: ControlFlow<()>) -> Result<(), ImportError> {
    match answer {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(ImportError::Stopped),
    }
}

fn length(bytes: &[u8]) -> Bytes {
    Bytes(bytes.len() as u64)
}
