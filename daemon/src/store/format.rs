//! The version of the layout on disk.
//!
//! The file `format` is the first that a new store gets and says how to read all others. This build
//! knows version 1 alone. A later one migrates an older store where [`check`] meets it: it prepares
//! what is new beside what is old, and its last step, replacing `format`, makes the new one count.

use super::disk;
use super::layout::Layout;
use super::open::OpenError;

/// The version this build writes.
const VERSION: u32 = 1;

/// Makes sure that this build can read the store, and touches nothing if it cannot. A new store gets the
/// version of this build.
pub(super) fn check(layout: &Layout) -> Result<(), OpenError> {
    match disk::read(&layout.format())? {
        Some(text) => check_version(&text, layout),
        None if layout.blobs().exists() || layout.manifests().exists() => {
            Err(OpenError::NoFormat { path: layout.format() })
        }
        None => Ok(write(layout)?),
    }
}

fn check_version(text: &[u8], layout: &Layout) -> Result<(), OpenError> {
    let version = std::str::from_utf8(text).ok().and_then(|text| text.trim().parse().ok());
    match version {
        Some(VERSION) => Ok(()),
        Some(found) if found > VERSION => Err(OpenError::Newer { found, known: VERSION }),
        _ => Err(OpenError::NoFormat { path: layout.format() }),
    }
}

fn write(layout: &Layout) -> Result<(), disk::DiskError> {
    disk::create_dir(&layout.tmp())?;
    // A daemon that was killed while it made them may not have waited for the directories above, and
    // neither may an installer. From now on the store counts as made, and nobody asks again.
    disk::sync_above(layout.root());
    disk::replace(&layout.tmp(), &layout.format(), format!("{VERSION}\n").as_bytes())?;
    disk::sync_dir(layout.root())
}
