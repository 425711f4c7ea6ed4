//! What the store knows of one model, and its form on disk.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::units::{BadDigest, BadModelName, Bytes, Digest, ModelName};

/// One model of the store: its files and what was learnt of them at import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The name it goes by.
    pub name: ModelName,
    /// Its files, at least one.
    pub files: Vec<ModelFile>,
    /// When the import was committed, to the millisecond.
    pub imported_at: SystemTime,
    /// Permanent facts of the files.
    pub facts: Facts,
}

/// One file of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFile {
    /// What the file is for.
    pub role: FileRole,
    /// SHA-256 of the whole file.
    pub digest: Digest,
    /// Length of the file.
    pub size: Bytes,
}

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileRole {
    /// The tensors and the vocabulary.
    Weights,
}

/// What an inspector reads out of a model file and no upgrade changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The network, as the file names it: `qwen3`.
    pub architecture: String,
    /// The model's own name, for people.
    pub title: String,
    /// Number of weights.
    pub parameters: u64,
    /// How the weights are stored: `Q4_K_M`.
    pub quantization: String,
    /// The longest context the model was trained for, in tokens.
    pub context_length: u32,
    /// Number of tokens in the vocabulary.
    pub vocabulary_size: u32,
    /// The chat dialect chosen for it: `qwen3`.
    pub dialect: String,
    /// Whether it can call tools.
    pub tools: bool,
    /// Whether it can think before it answers.
    pub thinking: bool,
}

/// Why the text of a manifest file is not a manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("not the JSON of a manifest")]
    Json(#[source] serde_json::Error),
    #[error("names no valid model")]
    Name(#[source] BadModelName),
    #[error("holds a bad digest")]
    Digest(#[source] BadDigest),
    #[error("lists no file")]
    NoFiles,
}

impl Manifest {
    /// A manifest as of `now`, which is cut to what the disk keeps of it.
    pub(super) fn new(name: ModelName, files: Vec<ModelFile>, now: SystemTime, facts: Facts) -> Self {
        Self { name, files, imported_at: from_unix_ms(unix_ms(now)), facts }
    }

    /// Size of all files together.
    pub fn size(&self) -> Bytes {
        self.files.iter().map(|file| file.size).sum()
    }

    /// The file an engine opens first.
    pub fn weights(&self) -> &ModelFile {
        self.files.first().expect("a manifest without files is refused where it is read")
    }

    /// Reads the text of a manifest file.
    pub(super) fn parse(text: &[u8]) -> Result<Self, ManifestError> {
        let stored: StoredManifest = serde_json::from_slice(text).map_err(ManifestError::Json)?;
        stored.try_into()
    }

    /// The text of a manifest file.
    pub(super) fn to_text(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(&StoredManifest::from(self))
            .expect("strings, numbers and lists always have a JSON form");
        text.push(b'\n');
        text
    }
}

/// A manifest as it lies on disk.
#[derive(Serialize, Deserialize)]
struct StoredManifest {
    name: String,
    imported_at_unix_ms: u64,
    files: Vec<StoredFile>,
    facts: Facts,
}

/// A file's entry as it lies on disk.
#[derive(Serialize, Deserialize)]
struct StoredFile {
    role: FileRole,
    sha256: String,
    size_bytes: u64,
}

impl From<&Manifest> for StoredManifest {
    fn from(manifest: &Manifest) -> Self {
        let Manifest { name, files, imported_at, facts } = manifest;
        Self {
            name: name.to_string(),
            imported_at_unix_ms: unix_ms(*imported_at),
            files: files.iter().map(StoredFile::from).collect(),
            facts: facts.clone(),
        }
    }
}

impl From<&ModelFile> for StoredFile {
    fn from(file: &ModelFile) -> Self {
        let ModelFile { role, digest, size } = file;
        Self { role: *role, sha256: digest.to_string(), size_bytes: size.0 }
    }
}

impl TryFrom<StoredManifest> for Manifest {
    type Error = ManifestError;

    fn try_from(stored: StoredManifest) -> Result<Self, ManifestError> {
        let StoredManifest { name, imported_at_unix_ms, files, facts } = stored;
        if files.is_empty() {
            return Err(ManifestError::NoFiles);
        }
        Ok(Self {
            name: name.parse().map_err(ManifestError::Name)?,
            files: files.into_iter().map(ModelFile::try_from).collect::<Result<_, _>>()?,
            imported_at: from_unix_ms(imported_at_unix_ms),
            facts,
        })
    }
}

impl TryFrom<StoredFile> for ModelFile {
    type Error = ManifestError;

    fn try_from(stored: StoredFile) -> Result<Self, ManifestError> {
        let StoredFile { role, sha256, size_bytes } = stored;
        let digest = sha256.parse().map_err(ManifestError::Digest)?;
        Ok(Self { role, digest, size: Bytes(size_bytes) })
    }
}

/// Milliseconds since 1970; zero for a clock that is set before.
fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The largest `u64` is 500 million years, which a `SystemTime` of 64-bit seconds holds.
fn from_unix_ms(ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(ms)
}
