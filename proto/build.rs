//! Hashes the protocol sources into the build id: ends that speak different protocols never pair.

use std::hash::{DefaultHasher, Hash, Hasher};

fn main() {
    let mut hasher = DefaultHasher::new();
    for file in ["hearth/engine/v1/engine.proto", "hearth/v1/types.proto", "hearth/v1/inference.proto"] {
        println!("cargo:rerun-if-changed={file}");
        std::fs::read_to_string(file).unwrap_or_default().hash(&mut hasher);
    }
    println!("cargo:rustc-env=HEARTH_BUILD_HASH={:012x}", hasher.finish() & 0xffff_ffff_ffff);
}
