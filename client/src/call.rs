//! What goes with a request: its deadline, its id and its trace.

use std::time::Duration;

use tonic::metadata::AsciiMetadataValue;

use crate::Error;

/// Header that carries the id of a request.
const REQUEST_ID: &str = "x-request-id";
/// Header that carries the trace that a request belongs to.
const TRACEPARENT: &str = "traceparent";

/// How a call is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallOptions {
    /// How long the call may take in all: queue, load, prefill and decode. Absent: as long as it takes.
    pub deadline: Option<Duration>,
    /// Names the request in events and logs. Absent: the daemon makes an id.
    pub request_id: Option<String>,
    /// The trace that the request belongs to, as W3C Trace Context writes it. Absent: none.
    pub traceparent: Option<String>,
}

/// A request and how it is called. Made from the request alone, or from a
/// [`ChatRequest`](crate::ChatRequest).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Call<T> {
    /// The request.
    pub message: T,
    /// How it is called.
    pub options: CallOptions,
}

impl<T> From<T> for Call<T> {
    fn from(message: T) -> Self {
        Self { message, options: CallOptions::default() }
    }
}

impl<T> Call<T> {
    /// The same call with another deadline.
    pub(crate) fn due_in(&self, deadline: Option<Duration>) -> Self
    where
        T: Clone,
    {
        let options = CallOptions { deadline, ..self.options.clone() };
        Self { message: self.message.clone(), options }
    }

    pub(crate) fn into_request(self) -> Result<tonic::Request<T>, Error> {
        let CallOptions { deadline, request_id, traceparent } = self.options;
        let mut request = tonic::Request::new(self.message);
        if let Some(deadline) = deadline {
            request.set_timeout(deadline);
        }
        if let Some(id) = request_id {
            let value = AsciiMetadataValue::try_from(&id).map_err(|_| Error::BadRequestId(id))?;
            request.metadata_mut().insert(REQUEST_ID, value);
        }
        if let Some(trace) = traceparent {
            let value = AsciiMetadataValue::try_from(&trace).map_err(|_| Error::BadTraceparent(trace))?;
            request.metadata_mut().insert(TRACEPARENT, value);
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(options: CallOptions) -> Result<tonic::Request<()>, Error> {
        Call { message: (), options }.into_request()
    }

    #[test]
    fn options_become_headers() {
        let options = CallOptions {
            deadline: Some(Duration::from_secs(30)),
            request_id: Some("r-1".to_owned()),
            traceparent: Some("00-a-b-01".to_owned()),
        };
        let request = call(options).expect("both are valid");
        assert_eq!(request.metadata().get(REQUEST_ID).expect("was set"), "r-1");
        assert_eq!(request.metadata().get(TRACEPARENT).expect("was set"), "00-a-b-01");
        assert!(request.metadata().contains_key("grpc-timeout"));
    }

    #[test]
    fn a_call_without_options_has_no_headers() {
        let request = call(CallOptions::default()).expect("nothing to refuse");
        assert!(request.metadata().is_empty());
    }

    #[test]
    fn an_id_that_is_no_header_is_refused() {
        let options = CallOptions { request_id: Some("a\nb".to_owned()), ..CallOptions::default() };
        assert!(matches!(call(options), Err(Error::BadRequestId(id)) if id == "a\nb"));
    }
}
