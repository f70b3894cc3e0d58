//! The routes.

use std::error::Error as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Path, Query, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router, middleware};
use http_body_util::{BodyExt, LengthLimitError};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::SemaphorePermit;
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;

use super::ask::{self, Client};
use super::observe::{Peer, RequestId, observe, panicked};
use super::problem::{Problem, aside};
use super::service::Service;
use super::{Answer, auth, metrics, openapi, page, wire};

/// The service as something that answers requests.
pub fn router(service: Arc<Service>) -> Router {
    Router::new()
        .route("/", get(page::html))
        .route("/page.js", get(page::script))
        .route("/page.css", get(page::style))
        .route("/openapi.json", get(openapi::get))
        .route("/v1/rescore", post(rescore))
        .route("/v1/adapters", get(adapters))
        .route("/v1/adapters/{name}", put(load).delete(unload))
        .route("/healthz", get(|| async { Json(json!({"alive": true})) }))
        .route("/readyz", get(ready))
        .route("/metrics", get(figures))
        .fallback(|| async { Problem::new(StatusCode::NOT_FOUND, "no_route", "see /openapi.json") })
        .method_not_allowed_fallback(|| async {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "no_method", "see /openapi.json")
        })
        .layer(
            ServiceBuilder::new()
                .layer(middleware::from_fn(observe))
                .layer(CatchPanicLayer::custom(panicked)),
        )
        .with_state(service)
}

#[derive(Deserialize)]
struct Options {
    explain: Option<String>,
}

async fn rescore(
    State(service): State<Arc<Service>>,
    Extension(Peer(peer)): Extension<Peer>,
    Extension(RequestId(id)): Extension<RequestId>,
    options: Result<Query<Options>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Answer>, Problem> {
    let arrived = Instant::now();
    let admitted = admit(&service, options, &headers);
    let (explain, _permit) = match admitted {
        Ok(admitted) => admitted,
        Err(problem) => {
            discard(body).await;
            return Err(problem);
        }
    };
    let body = read(&service, &headers, body).await?;
    metrics::stage("read", arrived.elapsed());
    let named = headers.get("x-client").and_then(|name| name.to_str().ok());
    let name = named.filter(|name| name.len() <= 128).map_or_else(|| peer.to_string(), str::to_string);

    let there = service.clone();
    let parsed = aside("parsing", move || wire::parse(&body, &there.limits)).await?;
    let answer = ask::answer(&service, parsed, Client { name: name.into(), arrived }, explain).await?;
    if service.log_text {
        for utterance in &answer.utterances {
            tracing::info!(request = &*id, utterance = utterance.id, best = utterance.best, "rescored");
        }
    }
    Ok(Json(answer))
}

/// Whether parts are asked for, and a place among the requests under way: all that is known before the body.
fn admit<'s>(
    service: &'s Service,
    options: Result<Query<Options>, QueryRejection>,
    headers: &HeaderMap,
) -> Result<(bool, SemaphorePermit<'s>), Problem> {
    auth::check(service.token.as_ref(), headers)?;
    let explain = match options.ok().map(|Query(options)| options.explain) {
        Some(None) => false,
        Some(Some(value)) if value == "1" || value == "0" => value == "1",
        _ => return Err(Problem::field("explain", "expected 1 or 0")),
    };
    service.queue.check_room()?;
    Ok((explain, service.requests.try_acquire().map_err(|_| service.queue.busy())?))
}

/// Reads what is not wanted, as far as that is little: a connection that is closed before its client has sent
/// everything may take the answer with it.
async fn discard(mut body: Body) {
    const LITTLE: usize = 4 << 20;
    let mut read = 0;
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await
            && read < LITTLE
        {
            read += frame.data_ref().map_or(0, Bytes::len);
        }
    };
    // Whatever came of it, the answer is the same.
    let _ = tokio::time::timeout(Duration::from_secs(1), reading).await;
}

/// The whole body, if it is JSON, not too large, and does not take too long.
async fn read(service: &Service, headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
    let most = service.limits.body_bytes;
    let too_large = || Problem::too_large(None, format!("the body may have {most} bytes"));
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    // Whatever else a web page of another origin may send without asking first.
    if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
        let problem = "give Content-Type: application/json";
        discard(body).await;
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media_type", problem));
    }
    let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > most) {
        discard(body).await;
        return Err(too_large());
    }
    match tokio::time::timeout(service.limits.read_timeout, to_bytes(body, most)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(error)) if error.source().is_some_and(|e| e.is::<LengthLimitError>()) => Err(too_large()),
        Ok(Err(_)) => Err(Problem::new(StatusCode::BAD_REQUEST, "no_body", "the body broke off")),
        Err(_) => Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "slow", "the body took too long")),
    }
}

async fn adapters(State(service): State<Arc<Service>>, headers: HeaderMap) -> Result<Json<Value>, Problem> {
    auth::check(service.token.as_ref(), &headers)?;
    let there = service.clone();
    let listed = aside("listing", move || there.registry.list()).await?;
    let adapters = listed.into_iter().map(|adapter| match adapter.loaded {
        Some((bytes, hypotheses)) => {
            json!({"name": adapter.name, "loaded": true, "bytes": bytes, "hypotheses": hypotheses})
        }
        None => json!({"name": adapter.name, "loaded": false}),
    });
    let adapters: Vec<Value> = adapters.collect();
    let (bytes, budget) = service.registry.memory();
    let own_head = service.registry.has_own_head();
    Ok(Json(json!({"adapters": adapters, "own_head": own_head, "bytes": bytes, "budget_bytes": budget})))
}

async fn load(
    State(service): State<Arc<Service>>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, Problem> {
    check_admin(&service, &headers)?;
    let loaded = service.registry.load(&name).await?;
    tracing::info!(adapter = name, bytes = loaded.seat.bytes(), "loaded");
    Ok(Json(json!({"name": name, "bytes": loaded.seat.bytes()})))
}

async fn unload(
    State(service): State<Arc<Service>>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, Problem> {
    check_admin(&service, &headers)?;
    if !service.registry.unload(&name) {
        return Err(Problem::new(StatusCode::NOT_FOUND, "no_adapter", "it is not loaded"));
    }
    tracing::info!(adapter = name, "unloaded");
    Ok(Json(json!({"name": name})))
}

/// Administration has a token of its own, or that of scoring.
fn check_admin(service: &Service, headers: &HeaderMap) -> Result<(), Problem> {
    auth::check(service.admin_token.as_ref().or(service.token.as_ref()), headers)
}

async fn ready(State(service): State<Arc<Service>>) -> Response {
    match service.queue.not_ready() {
        None => Json(json!({"ready": true})).into_response(),
        Some(reason) => {
            let answer = Json(json!({"ready": false, "reason": reason}));
            (StatusCode::SERVICE_UNAVAILABLE, answer).into_response()
        }
    }
}

async fn figures(State(service): State<Arc<Service>>) -> Response {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], service.figures()).into_response()
}
