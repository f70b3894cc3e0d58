//! The description of the interface, which the tests hold requests and answers against.

use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

/// OpenAPI 3.1, as JSON.
pub const OPENAPI: &str = include_str!("openapi.json");

pub(super) async fn get() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], OPENAPI)
}
