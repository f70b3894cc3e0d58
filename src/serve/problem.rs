//! What a client is told when it does not get what it asked for.

use axum::Json;
use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// An error answer: a status, a word for programs, a sentence for people, and where in the request it was.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    pub status: StatusCode,
    pub code: &'static str,
    pub message: String,
    pub field: Option<String>,
    /// Seconds.
    pub retry_after: Option<u64>,
}

impl Problem {
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Problem {
        Problem { status, code, message: message.into(), field: None, retry_after: None }
    }

    /// 422: the request is JSON, but this field is not what it should be.
    pub fn field(field: impl Into<String>, message: impl Into<String>) -> Problem {
        let problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", message);
        Problem { field: Some(field.into()), ..problem }
    }

    /// 413: larger than the service takes.
    pub fn too_large(field: Option<String>, message: impl Into<String>) -> Problem {
        Problem { field, ..Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message) }
    }

    pub fn unauthorized() -> Problem {
        Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "give the service's token as a bearer token")
    }

    /// 503: there is no room now, and of what kind.
    pub fn busy(message: &str, retry_after: u64) -> Problem {
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message);
        Problem { retry_after: Some(retry_after), ..problem }
    }

    /// 503: the scores would have come too late.
    pub fn deadline() -> Problem {
        let message = "the deadline passed before there were scores";
        Problem { retry_after: Some(1), ..Problem::new(StatusCode::SERVICE_UNAVAILABLE, "deadline", message) }
    }

    /// 503: nothing is computed any more.
    pub fn unavailable(reason: impl Into<String>) -> Problem {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", reason)
    }
}

/// Runs what takes a while beside the threads that answer; `what` names it where it panics.
///
/// # Errors
/// Its own, or 503.
pub(super) async fn aside<T: Send + 'static>(
    what: &'static str,
    run: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let done = tokio::task::spawn_blocking(run).await;
    done.unwrap_or_else(|_| Err(Problem::unavailable(format!("{what} failed"))))
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Problem { status, code, message, field, retry_after } = &self;
        let mut error = json!({"code": code, "message": message});
        if let Some(field) = field {
            error["field"] = field.as_str().into();
        }
        let mut response = (*status, Json(json!({"error": error}))).into_response();
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(*seconds));
        }
        if *status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // For the log and the metrics.
        response.extensions_mut().insert(Rejected(code));
        response
    }
}

/// The code of a refused request, on its way out.
#[derive(Clone, Copy)]
pub(super) struct Rejected(pub &'static str);
