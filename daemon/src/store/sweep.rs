//! Removing files that no model has: what a power cut left between two steps of a change.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use tracing::{info, warn};

use super::disk::{self, DiskError};
use super::index::Index;
use super::layout::{self, Layout};
use crate::units::{Bytes, Digest, ModelName};

/// Removes all that is of no use when the store is opened. What cannot be removed does not hurt, and
/// waits for the next start.
pub(super) fn tidy(layout: &Layout, index: &Index) {
    let tidied = clear_tmp(layout)
        .and_then(|()| forget_replaced(layout, index))
        .and_then(|()| sweep(layout, &index.digests()));
    if let Err(error) = tidied {
        warn!(path = %error.path.display(), error = %error.source, "Left files of no use");
    }
}

/// An unfinished file is of no use: an import begins anew.
fn clear_tmp(layout: &Layout) -> Result<(), DiskError> {
    disk::entries(&layout.tmp())?.iter().try_for_each(|entry| disk::remove_file(&entry.path()))
}

/// A manifest that was set aside has served when a model of its name is there again.
fn forget_replaced(layout: &Layout, index: &Index) -> Result<(), DiskError> {
    let aside = aside(layout)?;
    let replaced = aside.iter().filter(|name| index.contains(name));
    replaced.map(|name| layout.damaged_manifest(name)).try_for_each(|path| disk::remove_file(&path))
}

/// Removes blobs and inspections that are not in use, and returns the size of the blobs.
///
/// While a manifest lies in `damaged/` all blobs stay, since one of them may be its: a bad sector
/// under a kilobyte must not cost gigabytes. They go once that manifest has gone from the disk: one that
/// came back would hold what else is of no use, and have nothing to show for it.
pub(super) fn sweep(layout: &Layout, used: &BTreeSet<Digest>) -> Result<Bytes, DiskError> {
    let unused = |digest: &&Digest| !used.contains(digest);
    let inspected = named(&layout.inspections(), layout::written_digest)?;
    inspected.iter().filter(unused).try_for_each(|d| disk::remove_dir(&layout.inspections_of(d)))?;
    if !aside(layout)?.is_empty() {
        return Ok(Bytes(0));
    }
    disk::sync_dir(&layout.damaged())?;
    let blobs = named(&layout.blobs(), layout::blob_digest)?;
    let freed = blobs.iter().filter(unused).map(|d| remove_blob(&layout.blob(d))).sum::<Result<_, _>>()?;
    report(freed);
    Ok(freed)
}

/// The models whose manifests were set aside, now or at an earlier start.
fn aside(layout: &Layout) -> Result<Vec<ModelName>, DiskError> {
    named(&layout.damaged(), layout::manifest_name)
}

/// What the files of a directory are named for. Files with other names are none of ours.
fn named<T>(dir: &Path, read: fn(&str) -> Option<T>) -> Result<Vec<T>, DiskError> {
    let entries = disk::entries(dir)?;
    Ok(entries.iter().filter_map(|entry| read(entry.file_name().to_str()?)).collect())
}

fn remove_blob(path: &Path) -> Result<Bytes, DiskError> {
    let size = fs::metadata(path).map_err(DiskError::when("examine", path))?.len();
    disk::remove_file(path)?;
    Ok(Bytes(size))
}

fn report(freed: Bytes) {
    if freed > Bytes(0) {
        info!(freed.bytes = freed.0, "Removed blobs that no model has");
    }
}
