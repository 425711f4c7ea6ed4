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
    let options = LoadOptions { path, mode: LoadMode::VocabularyOnly, repack: false, gpu_layers: 0 };
    Arc::new(Model::load(backend(), &options, &mut |_| true).expect("a vocabulary file"))
}

/// The demo model, which is a Qwen3.
pub(crate) fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../client/demo/hearth-demo.gguf")
}

/// The folder of shared data, if this machine has it: beside the repository, or where `HEARTH_SHARED` says.
pub(crate) fn shared() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let folder = std::env::var_os("HEARTH_SHARED").map_or(beside, PathBuf::from);
    folder.join("vectors").is_dir().then_some(folder)
}

/// As the engine does: templates and grammars are handled by a thread with a large stack.
pub(crate) fn on_a_large_stack<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(64 << 20);
        thread.spawn_scoped(scope, test).expect("a thread").join().expect("the test's own failure")
    })
}
