//! What every call carries beside its message: id, trace, deadline, caller.

use std::time::Duration;

use tokio::time::Instant;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Request, Response, Status};
use tracing::Span;

use super::principal::Principal;
use super::status::Fault;

const REQUEST_ID: &str = "x-request-id";
const TRACEPARENT: &str = "traceparent";
const GRPC_TIMEOUT: &str = "grpc-timeout";

/// A trace context has 55 characters; later versions may append.
const TRACEPARENT_BYTES: usize = 256;

/// tonic ends a unary call at its deadline by itself and with another code; this much earlier it is done
/// here.
const UNARY_MARGIN: Duration = Duration::from_millis(5);

/// One call.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) request_id: String,
    pub(crate) traceparent: Option<String>,
    pub(crate) arrived: Instant,
    pub(crate) deadline: Option<Instant>,
    pub(crate) principal: Principal,
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
            principal: Principal::of(request.extensions()),
        }
    }

    /// A span for the work of this call.
    pub(crate) fn span(&self, rpc: &'static str) -> Span {
        tracing::info_span!("rpc", rpc, request.id = %self.request_id, principal = %self.principal)
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
        let mut status = fault.status();
        self.mark(status.metadata_mut());
        status
    }

    /// Does the work of a unary call within its deadline.
    pub(crate) async fn unary<T>(
        &self,
        work: impl Future<Output = Result<T, Fault>>,
    ) -> Result<Response<T>, Status> {
        let result = match self.deadline {
            Some(deadline) => {
                let deadline = deadline.checked_sub(UNARY_MARGIN).unwrap_or(self.arrived);
                tokio::time::timeout_at(deadline, work).await.unwrap_or(Err(Fault::Deadline))
            }
            None => work.await,
        };
        match result {
            Ok(message) => Ok(self.respond(message)),
            Err(fault) => Err(self.fail(&fault)),
        }
    }

    fn mark(&self, metadata: &mut MetadataMap) {
        if let Ok(id) = MetadataValue::try_from(&self.request_id) {
            metadata.insert(REQUEST_ID, id);
        }
    }
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
