//! Refusals in the log: the first of a kind as a warning, those like it at DEBUG, so that a program that knocks
//! for months fills no card.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use super::status::Fault;
use crate::access::Principal;
use crate::metrics::Metrics;
use crate::telemetry::chain::Chain;

/// Kinds that are remembered; beyond them everything is forgotten, and warned of again.
const KINDS: usize = 256;

/// What was refused before. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Refusals {
    /// Short sections only.
    seen: Arc<Mutex<HashSet<String>>>,
    metrics: Metrics,
}

impl Refusals {
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self { seen: Arc::default(), metrics }
    }

    /// A call that its caller may not make.
    pub(crate) fn call(&self, rpc: &'static str, principal: &Principal, request_id: &str, fault: &Fault) {
        let error = Chain(fault);
        self.metrics.refused(fault.reason());
        if self.is_new(format!("{rpc} {principal} {}", fault.reason())) {
            tracing::warn!(rpc, %principal, request.id = %request_id, %error, "Refused call");
        } else {
            tracing::debug!(rpc, %principal, request.id = %request_id, %error, "Refused call");
        }
    }

    /// A connection that could not be encrypted.
    pub(crate) fn handshake(&self, from: SocketAddr, error: &std::io::Error) {
        self.metrics.refused("TLS_HANDSHAKE");
        if self.is_new(format!("{} {error}", from.ip())) {
            tracing::warn!(%from, %error, "Refused connection");
        } else {
            tracing::debug!(%from, %error, "Refused connection");
        }
    }

    fn is_new(&self, kind: String) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= KINDS {
            seen.clear();
        }
        seen.insert(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_a_kind_is_new() {
        let refusals = Refusals::new(Metrics::default());
        assert!(refusals.is_new("a".to_owned()));
        assert!(!refusals.is_new("a".to_owned()));
        for number in 0..KINDS {
            refusals.is_new(number.to_string());
        }
        assert!(refusals.seen.lock().expect("no panic").len() <= KINDS);
    }
}
