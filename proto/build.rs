//! Makes the build id out of what decides how front and engine behave to each other: the protocol, the engine's
//! own sources and the versions of what it is built from. Ends of different builds never pair, and what one
//! build of the engine found of a file is not taken for another's.
//!
//! The id is made here alone, so that both ends have the same. Outside of Hearth's workspace the engine's
//! sources are not there, and the protocol alone makes the id.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

/// The protocol, from this crate's folder.
const PROTOCOL: [&str; 3] =
    ["hearth/engine/v1/engine.proto", "hearth/v1/types.proto", "hearth/v1/inference.proto"];

/// The folder that only Hearth's workspace has.
const ENGINE: &str = "../daemon/engine/src";

/// What else decides what the engine does.
const ENGINE_BUILD: [&str; 4] =
    ["../daemon/engine/build.rs", "../daemon/engine/Cargo.toml", "../Cargo.toml", "../Cargo.lock"];

fn main() {
    let mut sources = PROTOCOL.to_vec();
    if Path::new(ENGINE).is_dir() {
        sources.push(ENGINE);
        sources.extend(ENGINE_BUILD);
    }
    let mut files = Vec::new();
    for source in sources {
        println!("cargo:rerun-if-changed={source}");
        collect(Path::new(source), &mut files);
    }
    let mut hasher = DefaultHasher::new();
    for file in files {
        file.hash(&mut hasher);
        fs::read(&file).unwrap_or_default().hash(&mut hasher);
    }
    println!("cargo:rustc-env=HEARTH_BUILD_HASH={:012x}", hasher.finish() & 0xffff_ffff_ffff);
}

/// The files at and below `path`, in an order that does not depend on the file system.
fn collect(path: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(path) else { return files.push(path.to_owned()) };
    let mut below: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    below.sort();
    below.iter().for_each(|path| collect(path, files));
}
