//! The test in the part of journald: a socket that a daemon in a mount namespace of its own finds where the
//! journal's is, and the entries that arrive there.

use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Puts the captured socket where the journal's is, and becomes the daemon.
const ENTER: &str = "mount -t tmpfs none /run && mkdir -p /run/systemd/journal \
     && ln -s \"$1\" /run/systemd/journal/socket && shift && exec \"$@\"";

/// Fields and values of an entry.
pub type Entry = BTreeMap<String, String>;

/// A captured journal.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    entries: Arc<Mutex<Vec<Entry>>>,
}

impl Journal {
    /// Captures on a socket in `folder`.
    ///
    /// # Panics
    /// When it cannot.
    pub fn capture(folder: &Path) -> Self {
        let path = folder.join("journal");
        let socket = UnixDatagram::bind(&path).expect("bind the journal's socket");
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a time limit");
        let entries: Arc<Mutex<Vec<Entry>>> = Arc::default();
        let kept = Arc::downgrade(&entries);
        std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 18];
            while let Some(entries) = kept.upgrade() {
                if let Ok(length @ 1..) = socket.recv(&mut buffer) {
                    let entry = parse(&buffer[..length]);
                    entries.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
                }
            }
        });
        Self { path, entries }
    }

    /// A program that starts another one in a mount namespace where this is the journal. `None` where this system
    /// lets nobody make one.
    pub fn namespace(&self) -> Option<Vec<String>> {
        let works = |arguments: &[&str]| {
            let status = Command::new("unshare")
                .args(arguments)
                .args(["mount", "-t", "tmpfs", "none", "/mnt"])
                .status();
            status.is_ok_and(|status| status.success())
        };
        let flags: &[&str] = [&["-m"][..], &["-r", "-m"][..]].into_iter().find(|flags| works(flags))?;
        let path = self.path.to_str().expect("UTF-8");
        let words =
            ["unshare"].into_iter().chain(flags.iter().copied()).chain(["sh", "-c", ENTER, "sh", path]);
        Some(words.map(str::to_owned).collect())
    }

    /// The entries so far.
    pub fn entries(&self) -> Vec<Entry> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// As `journalctl FIELD=VALUE` shows them.
    pub fn with(&self, field: &str, value: &str) -> Vec<Entry> {
        let has = |entry: &Entry| entry.get(field).is_some_and(|found| found == value);
        self.entries().into_iter().filter(has).collect()
    }
}

/// The journal's own protocol: `FIELD=value` lines, or a field's name on a line, the value's length in eight
/// bytes, and the value.
fn parse(mut datagram: &[u8]) -> Entry {
    let mut entry = Entry::new();
    while let Some(end) = datagram.iter().position(|byte| *byte == b'\n') {
        let (line, rest) = (&datagram[..end], &datagram[end + 1..]);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if let Some(equals) = line.iter().position(|byte| *byte == b'=') {
            entry.insert(text(&line[..equals]), text(&line[equals + 1..]));
            datagram = rest;
        } else {
            let (length, rest) = rest.split_first_chunk::<8>().expect("a length");
            let length = usize::try_from(u64::from_le_bytes(*length)).expect("a small value");
            entry.insert(text(line), text(&rest[..length]));
            datagram = &rest[length + 1..];
        }
    }
    entry
}
