//! The test in the part of systemd: a notification socket, and what a daemon says on it.

use std::path::Path;
use std::time::Duration;

use tokio::net::UnixDatagram;
use tokio::time::timeout;

use crate::eventually::PATIENCE;

/// The socket of a service manager.
#[derive(Debug)]
pub struct Manager {
    socket: UnixDatagram,
    path: String,
}

impl Manager {
    /// Listens on a socket in `folder`.
    ///
    /// # Panics
    /// When it cannot.
    pub fn listen(folder: &Path) -> Self {
        let path = folder.join("notify");
        let socket = UnixDatagram::bind(&path).expect("bind the notification socket");
        Self { socket, path: path.to_str().expect("UTF-8").to_owned() }
    }

    /// The environment that systemd gives a service, with a watchdog where a period is given.
    pub fn environment(&self, watchdog: Option<Duration>) -> Vec<(String, String)> {
        let mut environment = vec![("NOTIFY_SOCKET".to_owned(), self.path.clone())];
        if let Some(period) = watchdog {
            environment.push(("WATCHDOG_USEC".to_owned(), period.as_micros().to_string()));
        }
        environment
    }

    /// The next message, if one comes within `limit`.
    ///
    /// # Panics
    /// When the socket fails.
    pub async fn hears(&self, limit: Duration) -> Option<String> {
        let mut buffer = [0; 4096];
        let received = timeout(limit, self.socket.recv(&mut buffer)).await.ok()?;
        let length = received.expect("receive a message");
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }

    /// The first message with a line that begins with `words`; earlier ones are passed over.
    ///
    /// # Panics
    /// When it does not come.
    pub async fn waits_for(&self, words: &str) -> String {
        let found = timeout(PATIENCE, async {
            loop {
                let message = self.hears(PATIENCE).await.unwrap_or_default();
                if message.lines().any(|line| line.starts_with(words)) {
                    return message;
                }
            }
        });
        found.await.unwrap_or_else(|_| panic!("the daemon never said {words}"))
    }

    /// Whether the daemon lets a whole watchdog period pass without a word of life.
    pub async fn misses_the_watchdog(&self, period: Duration) -> bool {
        while let Some(message) = self.hears(period).await {
            if message.contains("WATCHDOG=1") {
                return false;
            }
        }
        true
    }
}
