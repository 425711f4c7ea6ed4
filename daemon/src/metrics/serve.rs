//! The figures over HTTP, on a listener of their own: `GET /metrics`, nothing else.

use std::convert::Infallible;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

use super::Exposition;
use crate::listen::Listener;

/// Readers at once; Prometheus is one.
const READERS: usize = 8;

/// How long a reader may take to ask.
const HEADER_LIMIT: Duration = Duration::from_secs(10);

/// After an error of the listener itself.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What the text is, as `OpenMetrics` names it.
const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves until it is dropped.
pub async fn serve(listener: Listener, figures: Exposition) {
    let mut readers = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = readers.join_next() => {}
            accepted = accept(&listener), if readers.len() < READERS => match accepted {
                Ok(stream) => drop(readers.spawn(read(stream, figures.clone()))),
                Err(error) => {
                    tracing::warn!(%error, "Could not accept a reader of figures");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn accept(listener: &Listener) -> std::io::Result<Box<dyn Stream>> {
    Ok(match listener {
        Listener::Unix(listener, _) => Box::new(listener.accept().await?.0),
        Listener::Tcp(listener) => Box::new(listener.accept().await?.0),
    })
}

async fn read(stream: Box<dyn Stream>, figures: Exposition) {
    let answer = service_fn(move |request| answer(request, figures.clone()));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_LIMIT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answer)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "A reader of figures went away");
    }
}

async fn answer(
    request: Request<Incoming>,
    figures: Exposition,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let text = |status, text: &str| {
        let mut response = Response::new(Full::new(Bytes::from(text.to_owned())));
        *response.status_mut() = status;
        response
    };
    if request.uri().path() != "/metrics" {
        return Ok(text(StatusCode::NOT_FOUND, "the figures are at /metrics\n"));
    }
    if request.method() != Method::GET {
        return Ok(text(StatusCode::METHOD_NOT_ALLOWED, "figures are read with GET\n"));
    }
    // The state of the disk is among them.
    let encoded = tokio::task::spawn_blocking(move || figures.encode()).await;
    let Ok(Ok(encoded)) = encoded else {
        return Ok(text(StatusCode::INTERNAL_SERVER_ERROR, "the figures cannot be written\n"));
    };
    let mut response = text(StatusCode::OK, &encoded);
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(TEXT));
    Ok(response)
}
