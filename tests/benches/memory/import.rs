//! Models from files, however large.

use std::path::Path;

use hearth_client::ImportEvent;
use hearth_tests::TestDaemon;

/// Imports a file under the name of its stem; the name.
pub(crate) async fn import(daemon: &TestDaemon, file: &Path) -> String {
    let name = file.file_stem().and_then(|stem| stem.to_str()).expect("a file name").to_lowercase();
    let reader = tokio::fs::File::open(file).await.expect("open the model file");
    let size = reader.metadata().await.expect("the file's size").len();
    let mut events = daemon.client().import(&name, reader, size, None).await.expect("the import begins");
    while let Some(event) = events.next().await {
        if let ImportEvent::Done(_) = event.expect("the import goes on") {
            return name;
        }
    }
    panic!("an import ended without a word");
}
