//! Where the lines that a person wrote are kept: a file of its own, that only its owner can read.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Entries that are kept; older ones go. A year of questions is a few hundred kilobytes.
pub(super) const MOST_ENTRIES: usize = 1000;

/// The file, below the XDG folder for state. It lies apart from the state that a `hearthd` of the same
/// person may keep there. None: the environment names no folder.
pub(super) fn file() -> Option<PathBuf> {
    place(std::env::var_os("XDG_STATE_HOME"), std::env::var_os("HOME"))
}

fn place(state: Option<OsString>, home: Option<OsString>) -> Option<PathBuf> {
    let absolute = |path: OsString| Some(PathBuf::from(path)).filter(|path| path.is_absolute());
    let state = state.and_then(absolute);
    let folder = state.or_else(|| home.and_then(absolute).map(|home| home.join(".local/state")))?;
    Some(folder.join("hearth-cli").join("history"))
}

/// Makes the folder of the file, for its owner alone.
pub(super) fn make_room(file: &Path) -> io::Result<()> {
    file.parent().map_or(Ok(()), |folder| DirBuilder::new().recursive(true).mode(0o700).create(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn os(text: &str) -> Option<OsString> {
        Some(text.into())
    }

    #[test]
    fn the_file_is_where_xdg_says() {
        assert_eq!(place(os("/s"), os("/h")), Some("/s/hearth-cli/history".into()));
        assert_eq!(place(os(""), os("/h")), Some("/h/.local/state/hearth-cli/history".into()));
        assert_eq!(place(os("here"), None), None);
        assert_eq!(place(None, None), None);
    }
}
