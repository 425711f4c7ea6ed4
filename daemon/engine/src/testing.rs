//! What the tests of several modules share: llama.cpp set up once, and vocabularies.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::llama::{Backend, LoadMode, LoadOptions, Model};

/// llama.cpp is set up once per process.
pub(crate) fn backend() -> &'static Backend {
    static BACKEND: OnceLock<Backend> = OnceLock::new();
    BACKEND.get_or_init(|| Backend::init().expect("the first set-up of this process"))
}

/// A model without its weights.
pub(crate) fn vocabulary(path: &Path) -> Arc<Model> {
    let options = LoadOptions { path, mode: LoadMode::VocabularyOnly, repack: false };
    Arc::new(Model::load(backend(), &options, &mut |_| true).expect("a vocabulary file"))
}

/// The demo model, which is a Qwen3.
pub(crate) fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../client/demo/hearth-demo.gguf")
}
