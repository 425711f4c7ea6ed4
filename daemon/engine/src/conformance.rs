//! Golden vectors, through exactly the code that serves requests.
//!
//! ```text
//!  FOLDER/render/**.json ──► Chat::render ──────────► text and control tokens
//!  FOLDER/parse/**.json ───► Parser, cut everywhere ► reasoning, text, calls
//!  FOLDER/tokenize/*.json ─► Prompter ──────────────► token ids
//! ```
//!
//! Templates and vocabularies lie in `templates/` and `vocab/`, in the folder or beside it.

mod parse;
mod render;
mod tokenize;
pub(crate) mod vector;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use similar::TextDiff;

use crate::llama::Backend;

pub use vector::VectorError;

#[cfg(test)]
pub(crate) use parse::{Reading, check_with as check_answer};

/// Most lines of a difference that are printed.
const DIFF_LINES: usize = 60;

/// How a run went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Vectors that came out as they should.
    pub passed: usize,
    /// Vectors that did not.
    pub failed: usize,
}

/// Why a folder could not be run.
#[derive(Debug, thiserror::Error)]
pub enum ConformanceError {
    /// It cannot be read.
    #[error("read {}", .path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is nothing in it.
    #[error("no vectors in {}: there is none of render/, parse/ and tokenize/", .0.display())]
    Empty(PathBuf),
    /// The report cannot be written.
    #[error("write the report")]
    Report(#[from] io::Error),
}

/// What a vector came to.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The vector itself is unusable.
    Vector(VectorError),
    /// Something else came out.
    Differs {
        /// What was looked at.
        what: String,
        expected: String,
        found: String,
    },
}

impl From<VectorError> for Failure {
    fn from(error: VectorError) -> Self {
        Self::Vector(error)
    }
}

impl Failure {
    /// Nothing if both are equal.
    pub(crate) fn compare(what: impl Into<String>, expected: &str, found: &str) -> Result<(), Self> {
        if expected == found {
            return Ok(());
        }
        Err(Self::Differs { what: what.into(), expected: expected.to_owned(), found: found.to_owned() })
    }
}

/// Where a run finds its data.
#[derive(Clone, Debug)]
pub(crate) struct Data {
    folder: PathBuf,
}

impl Data {
    /// The file that a vector names: from the folder, from the one around it, or by its name alone anywhere in
    /// `inside`.
    pub(crate) fn find(&self, path: &str, inside: &str) -> Result<PathBuf, VectorError> {
        let around = self.folder.parent().unwrap_or(&self.folder);
        let name = Path::new(path).file_name().map(PathBuf::from).unwrap_or_default();
        let folders = [self.folder.as_path(), around];
        let exact = folders.iter().map(|folder| folder.join(path)).find(|place| place.is_file());
        let by_name = || folders.iter().find_map(|folder| below(&folder.join(inside), &name));
        exact
            .or_else(by_name)
            .ok_or_else(|| VectorError::NoFile { path: path.to_owned(), inside: inside.to_owned() })
    }
}

/// Runs all vectors below `folder`; each failure goes to `report`, with a difference, and the tally at the end.
///
/// # Errors
/// [`ConformanceError`] where there is nothing to run.
pub fn run(folder: &Path, backend: &Backend, report: &mut dyn Write) -> Result<Tally, ConformanceError> {
    let data = Data { folder: folder.to_owned() };
    let mut tally = Tally::default();
    for file in files(&folder.join("render"))? {
        note(&mut tally, &file, render::check(&file, &data), report)?;
    }
    for file in files(&folder.join("parse"))? {
        // Definitions of the tools that vectors name by their names alone.
        if file.file_name().is_some_and(|name| name != "tools.json") {
            note(&mut tally, &file, parse::check(&file), report)?;
        }
    }
    for file in files(&folder.join("tokenize"))? {
        for (name, outcome) in tokenize::check(&file, &data, backend) {
            note(&mut tally, &file.with_extension("").join(name), outcome, report)?;
        }
    }
    if tally == Tally::default() {
        return Err(ConformanceError::Empty(folder.to_owned()));
    }
    writeln!(report, "{} passed, {} failed", tally.passed, tally.failed)?;
    Ok(tally)
}

fn note(
    tally: &mut Tally,
    path: &Path,
    outcome: Result<(), Failure>,
    report: &mut dyn Write,
) -> Result<(), ConformanceError> {
    let Err(failure) = outcome else {
        tally.passed += 1;
        return Ok(());
    };
    tally.failed += 1;
    match failure {
        Failure::Vector(error) => writeln!(report, "FAILED {}: {error}", path.display())?,
        Failure::Differs { what, expected, found } => {
            writeln!(report, "FAILED {}: {what}", path.display())?;
            let diff = TextDiff::from_lines(&expected, &found);
            let diff = diff.unified_diff().header("expected", "found").to_string();
            for line in diff.lines().take(DIFF_LINES) {
                writeln!(report, "    {line}")?;
            }
        }
    }
    Ok(())
}

/// A file of this name, however deep.
fn below(folder: &Path, name: &Path) -> Option<PathBuf> {
    let here = folder.join(name);
    if here.is_file() {
        return Some(here);
    }
    let entries = std::fs::read_dir(folder).ok()?;
    let mut folders: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    folders.iter().find_map(|folder| below(folder, name))
}

/// All JSON files below a folder, sorted; none where there is no such folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>, ConformanceError> {
    let failed = |source| ConformanceError::Folder { path: folder.to_owned(), source };
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "json") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests;
