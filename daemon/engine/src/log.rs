//! The engine's log: one JSON object a line on standard error, which the front reads. It adds time and model, and
//! decides again what of them is kept.

use std::fmt;
use std::io;
use std::sync::Arc;

use tracing_subscriber::filter::ParseError;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, reload};

/// What holds where a filter is none.
const DEFAULT: &str = "info";

/// Crates below us whose DEBUG is about bytes on a wire.
const QUIET: &str = ",h2=info,hyper=info,hyper_util=info,tonic=info,tower=info";

/// Changes what is logged. Clones share it.
#[derive(Clone)]
pub struct LogFilter(Arc<dyn Fn(EnvFilter) + Send + Sync>);

/// Starts logging; a `filter` that is none counts as `info`.
pub fn start(filter: &str) -> LogFilter {
    let filter = parse(filter).unwrap_or_else(|_| EnvFilter::new(DEFAULT));
    let (filter, handle) = reload::Layer::<EnvFilter, Registry>::new(filter);
    let lines = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .without_time()
        .with_writer(io::stderr);
    tracing_subscriber::registry().with(filter).with(lines).init();
    // It fails only where the subscriber is gone, and with it the log.
    LogFilter(Arc::new(move |filter| drop(handle.reload(filter))))
}

fn parse(filter: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::try_new(filter.to_owned() + QUIET)
}

impl LogFilter {
    /// One that changes nothing.
    pub fn detached() -> Self {
        Self(Arc::new(drop))
    }

    /// Sets another filter.
    ///
    /// # Errors
    /// It is not a filter; the old one holds on.
    pub fn set(&self, filter: &str) -> Result<(), ParseError> {
        (self.0)(parse(filter)?);
        Ok(())
    }
}

impl fmt::Debug for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogFilter").finish_non_exhaustive()
    }
}
