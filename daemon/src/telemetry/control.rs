//! What is logged, changed while the daemon runs: by the configuration, or for a while by an operator.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use super::parse_filter;

/// The way to the filter. Clones share it.
#[derive(Clone)]
pub struct LogControl {
    shared: Arc<Shared>,
}

struct Shared {
    apply: Box<dyn Fn(EnvFilter) -> bool + Send + Sync>,
    /// Whether the environment says, which no configuration outranks.
    pinned: bool,
    /// What the configuration or the environment says. Short sections only.
    configured: Mutex<String>,
    current: watch::Sender<Setting>,
}

/// A filter, and how often it was changed before.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Setting {
    filter: String,
    change: u64,
}

/// A filter that an operator set: names it, so that only this one is taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change(u64);

/// Why the filter stays as it is.
#[derive(Debug, thiserror::Error)]
pub enum SetFilterError {
    /// Not a filter.
    #[error("`{filter}` is neither a level nor a list of directives: {source}")]
    Parse {
        /// The text.
        filter: String,
        /// What is wrong with it.
        source: ParseError,
    },
    /// Logging was not started by this daemon.
    #[error("what is logged cannot be changed here")]
    Gone,
}

impl LogControl {
    pub(super) fn new(
        filter: String,
        pinned: bool,
        apply: impl Fn(EnvFilter) -> bool + Send + Sync + 'static,
    ) -> Self {
        let current = watch::Sender::new(Setting { filter: filter.clone(), change: 0 });
        Self {
            shared: Arc::new(Shared {
                apply: Box::new(apply),
                pinned,
                configured: Mutex::new(filter),
                current,
            }),
        }
    }

    /// One that changes nothing, for tests of what is around it.
    #[cfg(test)]
    pub fn detached() -> Self {
        Self::new(super::DEFAULT_LEVEL.to_owned(), false, |_| true)
    }

    /// The filter now.
    pub fn filter(&self) -> String {
        self.shared.current.borrow().filter.clone()
    }

    /// Resolves with the filter each time after it has changed.
    pub fn watch(&self) -> FilterWatch {
        FilterWatch(self.shared.current.subscribe())
    }

    /// Sets another filter; an empty text is what the configuration says.
    ///
    /// # Errors
    /// It is not a filter; the old one holds on.
    pub fn set(&self, filter: &str) -> Result<Change, SetFilterError> {
        let configured = self.shared.configured.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let filter = if filter.is_empty() { configured } else { filter.to_owned() };
        let parsed = parse_filter(&filter)
            .map_err(|source| SetFilterError::Parse { filter: filter.clone(), source })?;
        if !(self.shared.apply)(parsed) {
            return Err(SetFilterError::Gone);
        }
        self.shared.current.send_modify(|setting| {
            *setting = Setting { filter: filter.clone(), change: setting.change + 1 };
        });
        Ok(Change(self.shared.current.borrow().change))
    }

    /// Takes an operator's filter back, if no other has been set since.
    pub fn take_back(&self, change: Change) {
        if self.shared.current.borrow().change == change.0 {
            // What the configuration says was checked when it was read.
            self.set("").ok();
        }
    }

    /// The configuration says another filter, which holds unless the environment says one.
    ///
    /// # Errors
    /// It is not a filter; the old one holds on.
    pub fn configure(&self, filter: &str) -> Result<(), SetFilterError> {
        if self.shared.pinned {
            return Ok(());
        }
        {
            let mut configured = self.shared.configured.lock().unwrap_or_else(PoisonError::into_inner);
            if *configured == filter {
                return Ok(());
            }
            filter.clone_into(&mut configured);
        }
        self.set(filter).map(drop)
    }
}

/// Sees the filter change.
#[derive(Clone, Debug)]
pub struct FilterWatch(watch::Receiver<Setting>);

impl FilterWatch {
    /// The next filter. Never resolves once nobody can change it any more.
    pub async fn changed(&mut self) -> String {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        self.0.borrow_and_update().filter.clone()
    }
}

impl fmt::Debug for LogControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogControl").field("filter", &self.filter()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operators_filter_holds_until_it_is_taken_back_or_replaced() {
        let control = LogControl::detached();
        let first = control.set("debug").expect("a filter");
        let second = control.set("warn,hearthd::rpc=trace").expect("a filter");
        control.take_back(first);
        assert_eq!(control.filter(), "warn,hearthd::rpc=trace");
        control.take_back(second);
        assert_eq!(control.filter(), "info");
        assert!(matches!(control.set("=,="), Err(SetFilterError::Parse { .. })));
        assert_eq!(control.filter(), "info");
    }

    #[test]
    fn the_configuration_changes_it_but_not_over_the_environment() {
        let control = LogControl::detached();
        control.configure("warn").expect("a filter");
        control.set("trace").expect("a filter");
        control.set("").expect("the configured one");
        assert_eq!(control.filter(), "warn");
        let pinned = LogControl::new("debug".to_owned(), true, |_| true);
        pinned.configure("warn").expect("ignored");
        assert_eq!(pinned.filter(), "debug");
    }
}
