//! Processes of other users, where the tests run as root and may start them.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Whether other users can be played here.
pub fn can_be_others() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        #[expect(clippy::print_stderr, reason = "the test runner shows it")]
        {
            eprintln!("not root: what other users see is not tested here");
        }
    }
    root
}

/// Lets others pass through a folder, without showing them what is in it.
///
/// # Panics
/// When it is not ours.
pub fn let_others_through(folder: &Path) {
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o711)).expect("open the folder");
}
