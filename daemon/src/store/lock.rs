//! One daemon per store.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use tracing::warn;

use super::disk::{self, DiskError};

/// The store is this process's as long as this lives. The kernel gives the lock back when the process
/// ends, however it ends.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
}

/// Why the lock is not ours.
#[derive(Debug)]
pub(super) enum LockError {
    /// Another has it, and wrote its process id into it.
    Held {
        pid: Option<u32>,
    },
    Disk(DiskError),
}

/// How long the lock of a daemon that was killed may outlive it: a child that it was just starting has the lock too,
/// until its own program begins.
const LINGERS: Duration = Duration::from_secs(1);

impl Lock {
    /// Takes the lock, or says who has it. Waits a moment for one that goes.
    pub(super) fn take(path: &Path) -> Result<Self, LockError> {
        let until = Instant::now() + LINGERS;
        loop {
            match Self::try_take(path) {
                Err(LockError::Held { .. }) if Instant::now() < until => std::thread::sleep(LINGERS / 50),
                taken => return taken,
            }
        }
    }

    fn try_take(path: &Path) -> Result<Self, LockError> {
        let disk = |doing| move |e| LockError::Disk(DiskError::when(doing, path)(e));
        // Not emptied here: the process id of another may be in it.
        let mut file = disk::open_or_create(path).map_err(disk("open"))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(LockError::Held { pid: read_pid(&mut file) }),
            Err(e) => return Err(disk("lock")(e.into())),
        }
        // In place, since the lock is on the file and not on its name. It only serves an error message.
        if let Err(error) = disk::overwrite(&file, format!("{}\n", std::process::id()).as_bytes()) {
            // A full disk must not keep out the daemon that could empty it.
            warn!(path = %path.display(), %error, "Cannot write the process id into the lock");
        }
        Ok(Self { file })
    }
}

impl Drop for Lock {
    /// Closing the file would do, but for a child that is between fork and exec and has it too.
    fn drop(&mut self) {
        if let Err(error) = flock(&self.file, FlockOperation::Unlock) {
            warn!(%error, "Cannot unlock the store");
        }
    }
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
