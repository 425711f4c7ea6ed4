//! The configuration while the daemon runs: read again on request, and the keys that may change do.
//!
//! What was read with a fault changes nothing. Keys that need a restart keep their values and are named.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;

use super::{Config, ConfigError, Flags};

/// The configuration that holds now. Clones are cheap and see every change.
#[derive(Clone, Debug)]
pub struct Live(watch::Receiver<Arc<Config>>);

/// The one that may change it.
#[derive(Debug)]
pub struct Source {
    file: Option<PathBuf>,
    flags: Flags,
    current: watch::Sender<Arc<Config>>,
}

/// What a reload did, by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// These hold from now on.
    pub applied: Vec<String>,
    /// These hold after a restart.
    pub waiting: Vec<String>,
}

/// A configuration that was read without a fault and does not hold yet.
#[derive(Debug)]
pub struct Prepared {
    config: Arc<Config>,
    changes: Changes,
}

impl Source {
    /// Reads the configuration for the first time.
    pub fn read(file: Option<PathBuf>, flags: Flags) -> Result<Self, ConfigError> {
        let config = Config::read(file.as_deref(), flags.clone())?;
        Ok(Self { file, flags, current: watch::Sender::new(Arc::new(config)) })
    }

    /// A reader.
    pub fn live(&self) -> Live {
        Live(self.current.subscribe())
    }

    /// Reads the file again; nothing changes yet.
    ///
    /// # Errors
    /// Whatever is wrong with the file.
    pub fn prepare(&self) -> Result<Prepared, ConfigError> {
        let mut config = Config::read(self.file.as_deref(), self.flags.clone())?;
        let old = Arc::clone(&self.current.borrow());
        let wanted = config.entries();
        config.keep_fixed(&old);
        let held = config.entries();
        let applied = differing(&old.entries(), &held);
        let waiting = differing(&held, &wanted);
        Ok(Prepared { config: Arc::new(config), changes: Changes { applied, waiting } })
    }

    /// Lets all readers see it.
    pub fn commit(&self, prepared: Prepared) -> Changes {
        let Prepared { config, changes } = prepared;
        self.current.send_replace(config);
        changes
    }
}

impl Prepared {
    /// What would hold.
    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }
}

impl Live {
    /// One that never changes.
    pub fn fixed(config: Config) -> Self {
        Self(watch::Sender::new(Arc::new(config)).subscribe())
    }

    /// The configuration now.
    pub fn now(&self) -> Arc<Config> {
        Arc::clone(&self.0.borrow())
    }

    /// Waits for another one. False: there will be none.
    pub async fn changed(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }
}

impl Config {
    /// Takes over the values that need a restart.
    fn keep_fixed(&mut self, old: &Self) {
        self.listen.clone_from(&old.listen);
        self.state_dir.clone_from(&old.state_dir);
        self.engine.executable.clone_from(&old.engine.executable);
        self.metrics.clone_from(&old.metrics);
        self.log.target = old.log.target;
        // Other certificates are taken at once; whether TCP is encrypted at all is settled at start.
        if self.tls.is_some() != old.tls.is_some() {
            self.tls.clone_from(&old.tls);
        }
    }
}

/// The keys whose values differ, in the order of the file.
fn differing(old: &[(String, String)], new: &[(String, String)]) -> Vec<String> {
    let before: BTreeMap<_, _> = old.iter().map(|(key, value)| (key, value)).collect();
    let after: BTreeMap<_, _> = new.iter().map(|(key, value)| (key, value)).collect();
    let changed = new.iter().map(|(key, _)| key).filter(|key| before.get(key) != after.get(key));
    let gone = old.iter().map(|(key, _)| key).filter(|key| !after.contains_key(key));
    changed.chain(gone).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> (tempfile::TempDir, Source) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("config.toml");
        std::fs::write(&file, text).expect("write the file");
        let source = Source::read(Some(file), Flags::default()).expect("a valid file");
        (folder, source)
    }

    #[test]
    fn a_reload_applies_what_it_may_and_names_the_rest() {
        let (folder, source) = source("state_dir = '/a'\n[models.'gone']\nthreads = 1\n");
        let live = source.live();
        let text = "state_dir = '/b'\ndrain_deadline = '3s'\n[sampling]\ntemperature = 0.5\n[log]\ntarget = 'stderr'\n";
        std::fs::write(folder.path().join("config.toml"), text).expect("write the file");
        let changes = source.commit(source.prepare().expect("a valid file"));
        let gone = "models.\"gone:latest\".threads";
        assert_eq!(changes.applied, ["drain_deadline", "sampling.temperature", gone]);
        assert_eq!(changes.waiting, ["state_dir", "log.target"]);
        assert_eq!(live.now().sampling.temperature, Some(0.5));
        assert_eq!(live.now().state_dir, PathBuf::from("/a"));
    }

    #[test]
    fn a_reload_with_a_fault_changes_nothing() {
        let (folder, source) = source("drain_deadline = '1s'\n");
        let live = source.live();
        std::fs::write(folder.path().join("config.toml"), "drain_deadline = '2s'\nx = 1\n").expect("write");
        assert!(matches!(source.prepare(), Err(ConfigError::Faults { .. })));
        assert_eq!(live.now().drain_deadline.as_secs(), 1);
        assert_eq!(source.live().now(), live.now());
    }
}
