//! What is around every request: its id, its line in the log, its figures, and an answer whatever happens.

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime};

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::metrics;
use super::problem::{Problem, Rejected};

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id of a request: the client's own, where it gives one.
#[derive(Clone)]
pub(super) struct RequestId(pub Arc<str>);

/// Where a request came from.
#[derive(Clone, Copy)]
pub(super) struct Peer(pub std::net::IpAddr);

pub(super) async fn observe(mut request: Request, next: Next) -> Response {
    let start = Instant::now();
    let id = id_of(request.headers());
    let method = request.method().clone();
    let path = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_string();
    request.extensions_mut().insert(RequestId(id.clone()));
    let mut response = next.run(request).await;
    let (status, time) = (response.status().as_u16(), start.elapsed());
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID.clone(), value);
    }
    metrics::request(&path, status, time);
    let ms = time.as_secs_f64() * 1e3;
    match response.extensions().get::<Rejected>() {
        Some(Rejected(code)) => {
            metrics::rejected(code);
            tracing::warn!(request = &*id, %method, path, status, ms, code, "refused");
        }
        None if path.starts_with("/v1/") => {
            tracing::info!(request = &*id, %method, path, status, ms, "answered");
        }
        None => tracing::debug!(request = &*id, %method, path, status, ms, "answered"),
    }
    response
}

/// Visible ASCII of up to 128 bytes; else a new one.
fn id_of(headers: &HeaderMap) -> Arc<str> {
    let given = headers.get(&REQUEST_ID).and_then(|value| value.to_str().ok());
    match given {
        Some(id) if !id.is_empty() && id.len() <= 128 => id.into(),
        _ => {
            static START: OnceLock<u128> = OnceLock::new();
            static NEXT: AtomicU64 = AtomicU64::new(0);
            let since_epoch = || SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_micros());
            let start = START.get_or_init(since_epoch);
            format!("{start:x}-{}", NEXT.fetch_add(1, Ordering::Relaxed)).into()
        }
    }
}

/// The answer of a handler that panicked, which none should.
pub(super) fn panicked(_: Box<dyn Any + Send>) -> Response {
    tracing::error!("a request panicked");
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "this is a defect of the service")
        .into_response()
}
