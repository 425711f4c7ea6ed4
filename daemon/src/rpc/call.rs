//! What every call carries beside its message: id, trace, deadline, caller.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tonic::codegen::http::HeaderMap;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Request, Response, Status};
use tracing::{Instrument, Span};

use super::status::Fault;
use crate::access::Principal;
use crate::metrics::Metrics;

pub(crate) const REQUEST_ID: &str = "x-request-id";
const TRACEPARENT: &str = "traceparent";
const GRPC_TIMEOUT: &str = "grpc-timeout";

/// A trace context has 55 characters; later versions may append.
const TRACEPARENT_BYTES: usize = 256;

/// tonic ends a unary call at its deadline by itself and with another code; this much earlier it is done
/// here.
const UNARY_MARGIN: Duration = Duration::from_millis(5);

/// What the gate found out about a call.
#[derive(Clone, Debug)]
pub(crate) struct Rpc {
    /// Name in logs and figures.
    pub(crate) name: &'static str,
    pub(crate) principal: Arc<Principal>,
    pub(crate) metrics: Metrics,
}

/// One call.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) rpc: Rpc,
    pub(crate) request_id: String,
    pub(crate) traceparent: Option<String>,
    pub(crate) arrived: Instant,
    pub(crate) deadline: Option<Instant>,
}

impl Default for Rpc {
    /// A call that came past the gate: a test's.
    fn default() -> Self {
        Self { name: "unknown", principal: Arc::new(Principal::Stranger), metrics: Metrics::default() }
    }
}

impl Call {
    /// Reads what came with a request.
    pub(crate) fn open<T>(request: &Request<T>) -> Self {
        let arrived = Instant::now();
        let metadata = request.metadata();
        let timeout = text(metadata, GRPC_TIMEOUT).and_then(timeout);
        Self {
            request_id: text(metadata, REQUEST_ID)
                .filter(|id| is_request_id(id))
                .map_or_else(random_id, str::to_owned),
            traceparent: text(metadata, TRACEPARENT)
                .filter(|trace| trace.len() <= TRACEPARENT_BYTES)
                .map(str::to_owned),
            arrived,
            deadline: timeout.and_then(|timeout| arrived.checked_add(timeout)),
            rpc: request.extensions().get::<Rpc>().cloned().unwrap_or_default(),
        }
    }

    /// A span for the work of this call.
    pub(crate) fn span(&self) -> Span {
        let Rpc { name, principal, metrics: _ } = &self.rpc;
        let trace = self.traceparent.as_deref().and_then(trace_id).map(tracing::field::display);
        tracing::info_span!("rpc", rpc = name, request.id = %self.request_id, trace.id = trace, %principal)
    }

    /// The call ended well.
    pub(crate) fn succeeded(&self) {
        self.rpc.metrics.called(self.rpc.name, "ok");
        tracing::debug!(time = ?self.arrived.elapsed(), "Answered call");
    }

    /// Its client gave it up.
    pub(crate) fn given_up(&self) {
        self.rpc.metrics.called(self.rpc.name, "CANCELLED");
        tracing::debug!(time = ?self.arrived.elapsed(), "Call was given up");
    }

    /// The answer of a call, with the call's id.
    pub(crate) fn respond<T>(&self, message: T) -> Response<T> {
        let mut response = Response::new(message);
        self.mark(response.metadata_mut());
        response
    }

    /// The error of a call, with the call's id. Logged here, where it leaves the daemon.
    pub(crate) fn fail(&self, fault: &Fault) -> Status {
        fault.log(&self.request_id);
        self.rpc.metrics.called(self.rpc.name, fault.reason());
        let mut status = fault.status();
        self.mark(status.metadata_mut());
        status
    }

    /// Does the work of a unary call within its deadline.
    pub(crate) async fn unary<T>(
        &self,
        work: impl Future<Output = Result<T, Fault>>,
    ) -> Result<Response<T>, Status> {
        self.in_time(work).instrument(self.span()).await
    }

    async fn in_time<T>(&self, work: impl Future<Output = Result<T, Fault>>) -> Result<Response<T>, Status> {
        let result = match self.deadline {
            Some(deadline) => {
                let deadline = deadline.checked_sub(UNARY_MARGIN).unwrap_or(self.arrived);
                tokio::time::timeout_at(deadline, work).await.unwrap_or(Err(Fault::Deadline))
            }
            None => work.await,
        };
        match result {
            Ok(message) => {
                self.succeeded();
                Ok(self.respond(message))
            }
            Err(fault) => Err(self.fail(&fault)),
        }
    }

    fn mark(&self, metadata: &mut MetadataMap) {
        if let Ok(id) = MetadataValue::try_from(&self.request_id) {
            metadata.insert(REQUEST_ID, id);
        }
    }
}

/// The id of a request that its sender gave it; empty where it gave none.
pub(crate) fn request_id_of(headers: &HeaderMap) -> &str {
    headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).filter(|id| is_request_id(id)).unwrap_or_default()
}

/// The trace of a W3C trace context, `version-trace-parent-flags`: 32 hexadecimal digits.
fn trace_id(traceparent: &str) -> Option<&str> {
    let trace = traceparent.split('-').nth(1)?;
    (trace.len() == 32 && trace.bytes().all(|b| b.is_ascii_hexdigit())).then_some(trace)
}

/// 64 random bits.
pub(crate) fn random() -> u64 {
    let mut bytes = [0; 8];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    filled.expect("the kernel's random source gives eight bytes at once");
    u64::from_ne_bytes(bytes)
}

fn random_id() -> String {
    format!("{:016x}", random())
}

fn text<'a>(metadata: &'a MetadataMap, key: &str) -> Option<&'a str> {
    metadata.get(key).and_then(|value| value.to_str().ok())
}

fn is_request_id(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic())
}

/// `grpc-timeout`: up to eight digits and a unit.
fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_read() {
        assert_eq!(timeout("1500m"), Some(Duration::from_millis(1500)));
        assert_eq!(timeout("2H"), Some(Duration::from_secs(7200)));
        for bad in ["", "m", "1", "123456789m", "-1S", "1x", "1é"] {
            assert_eq!(timeout(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_trace_is_found_in_its_context() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(trace_id(&format!("00-{trace}-00f067aa0ba902b7-01")), Some(trace));
        for bad in ["", "00", "00-xyz-1-01", "00-4bf92f3577b34da6a3ce929d0e0e473-1-01"] {
            assert_eq!(trace_id(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_bad_request_id_is_replaced() {
        let id = |id: &str| {
            let mut request = Request::new(());
            if let Ok(id) = MetadataValue::try_from(id) {
                request.metadata_mut().insert(REQUEST_ID, id);
            }
            Call::open(&request).request_id
        };
        assert_eq!(id("abc-1"), "abc-1");
        for bad in ["", "a b", &"x".repeat(129)] {
            assert_eq!(id(bad).len(), 16, "{bad}");
        }
    }
}
