//! The generated code that is checked in is what the `.proto` files give.
//!
//! `make proto` (this test with `HEARTH_UPDATE_PROTO=1`) writes it anew.

use std::path::{Path, PathBuf};

use prost::Message as _;

const PUBLIC: [&str; 4] =
    ["hearth/v1/types.proto", "hearth/v1/inference.proto", "hearth/v1/models.proto", "hearth/v1/node.proto"];
const INTERNAL: [&str; 1] = ["hearth/engine/v1/engine.proto"];

/// Generates everything into `out` and returns the names of the files.
fn generate(out: &Path) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let public = protox::compile(PUBLIC, [root]).expect("the public protos compile");
    let internal = protox::compile(INTERNAL, [root]).expect("the internal protos compile");
    std::fs::write(out.join("hearth.v1.bin"), public.encode_to_vec()).expect("write the descriptors");
    for (files, package) in [(public, "hearth.v1"), (internal, "hearth.engine.v1")] {
        tonic_prost_build::configure()
            .out_dir(out)
            .emit_rerun_if_changed(false)
            .server_mod_attribute(package, "#[cfg(feature = \"server\")]")
            .build_transport(false)
            .compile_fds(files)
            .expect("the stubs generate");
    }
    ["hearth.v1.bin", "hearth.v1.rs", "hearth.engine.v1.rs"].map(str::to_owned).to_vec()
}

#[test]
fn the_checked_in_code_is_what_the_protos_give() {
    let checked_in = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/gen");
    if std::env::var_os("HEARTH_UPDATE_PROTO").is_some() {
        generate(&checked_in);
        return;
    }
    let fresh = tempfile::tempdir().expect("a temporary directory");
    for name in generate(fresh.path()) {
        let ours = std::fs::read(checked_in.join(&name)).unwrap_or_default();
        let theirs = std::fs::read(fresh.path().join(&name)).expect("the generated file");
        assert!(ours == theirs, "{name} is stale: run `make proto`");
    }
}

#[test]
fn every_public_item_has_a_comment() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for file in PUBLIC {
        let text = std::fs::read_to_string(root.join(file)).expect("the proto");
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for (i, line) in lines.iter().enumerate() {
            let field = line.ends_with(';') && line.contains(" = ") && !line.starts_with("//");
            let plain = !line.starts_with("syntax") && !line.contains("_UNSPECIFIED");
            let item =
                ["message ", "enum ", "rpc ", "service ", "oneof "].iter().any(|word| line.starts_with(word));
            if (field && plain) || item {
                assert!(lines[i - 1].starts_with("//"), "{file}:{}: no comment: {line}", i + 1);
            }
        }
    }
}
