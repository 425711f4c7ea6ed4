//! `import`: a model comes into the store.

use std::path::{Path, PathBuf};

use clap::Args;
use hearth_client::{Client, Error, Events, ImportEvent, v1};

use super::exit::Failure;
use super::json::{self, Line};
use super::output::Output;
use super::progress::{Step, Unit};
use super::table;

/// The model that `make demo` talks to, trained by this project.
const DEMO_MODEL: &[u8] = include_bytes!("../../demo/hearth-demo.gguf");
const DEMO_NAME: &str = "demo";

/// Longest name that the daemon takes.
const LONGEST_NAME: usize = 64;

/// Brings a model into the store.
#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// The GGUF file.
    #[arg(required_unless_present = "demo", conflicts_with = "demo")]
    file: Option<PathBuf>,
    /// The name that it shall have [default: made of the file's name].
    #[arg(long, value_name = "NAME[:TAG]")]
    name: Option<String>,
    /// SHA-256 that the file must have.
    #[arg(long, value_name = "HEX", value_parser = digest)]
    sha256: Option<String>,
    /// FILE is on the daemon's side, under one of its import_dirs; nothing is sent.
    #[arg(long, conflicts_with = "demo")]
    server_path: bool,
    /// Bring in the built-in demo model.
    #[arg(long)]
    demo: bool,
}

/// Where a model comes from.
enum Source<'a> {
    Demo,
    Here(&'a Path),
    There(PathBuf),
}

pub(super) async fn run(
    args: ImportArgs,
    connect: impl Future<Output = Result<Client, Error>>,
    out: &mut Output,
) -> Result<(), Failure> {
    let source = args.source()?;
    let name = args.name()?;
    let mut import = start(&source, &name, args.sha256.as_deref(), connect).await?;
    while let Some(event) = import.next().await {
        match event? {
            ImportEvent::Progress(progress) => show_progress(progress, &name, out)?,
            ImportEvent::Done(model) => show_done(&model, out)?,
        }
    }
    Ok(())
}

impl ImportArgs {
    fn source(&self) -> Result<Source<'_>, Failure> {
        match &self.file {
            None => Ok(Source::Demo),
            Some(file) if self.server_path => match std::path::absolute(file) {
                Ok(path) => Ok(Source::There(path)),
                Err(source) => Err(Failure::Read { path: file.clone(), source }),
            },
            Some(file) => Ok(Source::Here(file)),
        }
    }

    fn name(&self) -> Result<String, Failure> {
        match (&self.name, &self.file) {
            (Some(name), _) => Ok(name.clone()),
            (None, None) => Ok(DEMO_NAME.to_owned()),
            (None, Some(file)) => name_from(file).ok_or_else(|| {
                Failure::Usage(format!("no name can be made of {}: give --name", file.display()))
            }),
        }
    }
}

async fn start(
    source: &Source<'_>,
    name: &str,
    sha256: Option<&str>,
    connect: impl Future<Output = Result<Client, Error>>,
) -> Result<Events<ImportEvent>, Failure> {
    match source {
        Source::Demo => Ok(connect.await?.import(name, DEMO_MODEL, DEMO_MODEL.len() as u64, sha256).await?),
        Source::There(path) => Ok(connect.await?.import_path(name, path, sha256).await?),
        Source::Here(path) => {
            let (file, size) =
                open(path).await.map_err(|source| Failure::Read { path: path.to_path_buf(), source })?;
            Ok(connect.await?.import(name, file, size, sha256).await?)
        }
    }
}

async fn open(path: &Path) -> std::io::Result<(tokio::fs::File, u64)> {
    let file = tokio::fs::File::open(path).await?;
    let facts = file.metadata().await?;
    if facts.is_dir() {
        return Err(std::io::ErrorKind::IsADirectory.into());
    }
    Ok((file, facts.len()))
}

fn show_progress(progress: v1::ImportProgress, name: &str, out: &mut Output) -> Result<(), Failure> {
    let v1::ImportProgress { done_bytes: done, total_bytes: total } = progress;
    if out.is_json() {
        return out.json(&Line::Progress { stage: "import".to_owned(), done, total, expected_ms: None });
    }
    let what = format!("importing {name}");
    out.progress(&Step { what: &what, unit: Unit::Bytes, done, total })
}

fn show_done(model: &v1::Model, out: &mut Output) -> Result<(), Failure> {
    if out.is_json() {
        return out.json(&Line::Imported(json::Model::of(model)));
    }
    let facts = model.facts.clone().unwrap_or_default();
    out.line(&format!(
        "imported {}: {} weights in {}, dialect {}",
        model.name,
        table::count(facts.parameters),
        facts.quantization,
        facts.dialect
    ))
}

/// A valid name out of a file's name: lower case, other characters as `-`.
fn name_from(file: &Path) -> Option<String> {
    let file = file.file_name()?.to_string_lossy().to_lowercase();
    let stem = file.strip_suffix(".gguf").unwrap_or(&file);
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let allowed: String = stem.chars().map(|c| if is_allowed(c) { c } else { '-' }).collect();
    let begun = allowed.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    let cut: String = begun.chars().take(LONGEST_NAME).collect();
    let name = cut.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
    (!name.is_empty()).then(|| name.to_owned())
}

/// For clap.
fn digest(text: &str) -> Result<String, String> {
    match text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        true => Ok(text.to_ascii_lowercase()),
        false => Err("write 64 hexadecimal digits".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_made_of_the_files_name() {
        let check = |file: &str, name: &str| assert_eq!(name_from(Path::new(file)).as_deref(), Some(name));
        check("/models/Qwen3-8B-Q4_0.gguf", "qwen3-8b-q4_0");
        check("model.GGUF", "model");
        check("my model (1).gguf", "my-model--1");
        check("_-x.bin", "x.bin");
        check("modèle:8b.gguf", "mod-le-8b");
        check(&format!("{}.gguf", "a".repeat(100)), &"a".repeat(64));
    }

    #[test]
    fn a_file_without_letters_needs_a_name() {
        for file in ["...gguf", "---", "/", "..", "日本.gguf"] {
            assert_eq!(name_from(Path::new(file)), None, "{file}");
        }
    }

    #[test]
    fn a_digest_is_64_digits() {
        assert_eq!(digest(&"A5".repeat(32)), Ok("a5".repeat(32)));
        assert!(digest("a5").is_err());
        assert!(digest(&"g5".repeat(32)).is_err());
    }
}
