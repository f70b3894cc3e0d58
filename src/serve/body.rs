//! Bodies: those of requests are read within limits, and those of answers keep their request's place until they have
//! left.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::Answer;
use super::problem::Problem;
use super::service::Service;

/// The most bytes that are read only to be thrown away, and for how long.
pub(super) const LITTLE: usize = 4 << 20;
pub(super) const SHORT: Duration = Duration::from_secs(1);

/// The body of a request, which has its room among all that are in memory.
pub(super) struct Whole {
    bytes: Vec<u8>,
    room: OwnedSemaphorePermit,
}

impl Whole {
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Reads what is not wanted, as far as that is little: a connection that is closed before its client has sent
/// everything may take the answer with it.
pub(super) async fn discard(mut body: Body) {
    let mut read = 0;
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await
            && read < LITTLE
        {
            read += frame.data_ref().map_or(0, Bytes::len);
        }
    };
    // Whatever came of it, the answer is the same.
    let _ = timeout(SHORT, reading).await;
}

/// The whole body, if it is JSON, not too large, and does not take too long.
pub(super) async fn read(service: &Service, headers: &HeaderMap, mut body: Body) -> Result<Whole, Problem> {
    let reading = async {
        check(service, headers)?;
        match timeout(service.limits.read_timeout, collect(service, &mut body)).await {
            Ok(collected) => collected,
            Err(_) => Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "slow", "the body took too long")),
        }
    };
    let read = reading.await;
    // Who was slow is not waited for again.
    if read.as_ref().is_err_and(|problem| problem.status != StatusCode::REQUEST_TIMEOUT) {
        discard(body).await;
    }
    read
}

/// What the head says of the body.
fn check(service: &Service, headers: &HeaderMap) -> Result<(), Problem> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let kind = text(CONTENT_TYPE).unwrap_or_default();
    // Whatever else a web page of another origin may send without asking first.
    if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
        let problem = "give Content-Type: application/json";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media_type", problem));
    }
    let length = text(CONTENT_LENGTH).and_then(|value| value.parse::<usize>().ok());
    if length.is_some_and(|length| length > service.limits.body_bytes) {
        return Err(too_large(service));
    }
    Ok(())
}

/// Takes room for what comes as it comes: clients that only promise a body keep nobody else from sending one.
async fn collect(service: &Service, body: &mut Body) -> Result<Whole, Problem> {
    let room = |bytes: usize| {
        let bytes = u32::try_from(bytes).ok();
        bytes
            .and_then(|bytes| service.bodies.clone().try_acquire_many_owned(bytes).ok())
            .ok_or_else(|| service.queue.busy("there is no room for more bodies"))
    };
    let mut whole = Whole { bytes: Vec::new(), room: room(0)? };
    while let Some(frame) = body.frame().await {
        let broken = |_| Problem::new(StatusCode::BAD_REQUEST, "no_body", "the body broke off");
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
        if whole.bytes.len() + data.len() > service.limits.body_bytes {
            return Err(too_large(service));
        }
        whole.room.merge(room(data.len())?);
        whole.bytes.extend_from_slice(&data);
    }
    Ok(whole)
}

fn too_large(service: &Service) -> Problem {
    Problem::too_large(None, format!("the body may have {} bytes", service.limits.body_bytes))
}

/// The bytes of an answer with the place of its request.
struct Placed {
    json: Vec<u8>,
    _place: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Placed {
    fn as_ref(&self) -> &[u8] {
        &self.json
    }
}

/// An answer that gives its place back once its last byte has been written, or its client was given up.
pub(super) fn answered(answer: &Answer, place: OwnedSemaphorePermit) -> Result<Response, Problem> {
    let json = serde_json::to_vec(answer)
        .map_err(|e| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", e.to_string()))?;
    let bytes = Bytes::from_owner(Placed { json, _place: place });
    Ok(([(CONTENT_TYPE, "application/json")], bytes).into_response())
}
