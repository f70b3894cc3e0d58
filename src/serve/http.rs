//! The routes.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Path, Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router, middleware};
use serde::Deserialize;
use serde_json::{Value, json};
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;

use super::ask::{self, Asker};
use super::observe::{Peer, RequestId, observe, panicked};
use super::problem::{Problem, aside};
use super::service::Service;
use super::{auth, body, metrics, openapi, page, wire};

/// The service as something that answers requests.
pub(super) fn router(service: Arc<Service>) -> Router {
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
) -> Result<Response, Problem> {
    let arrived = Instant::now();
    let explain = match admit(&service, options, &headers) {
        Ok(explain) => explain,
        Err(problem) => {
            body::discard(body).await;
            return Err(problem);
        }
    };
    let whole = body::read(&service, &headers, body).await?;
    let read = Instant::now();
    metrics::stage("read", read - arrived);
    // Only now: a client that is slow to send takes nobody's place.
    let place = service.requests.clone().try_acquire_owned();
    let place = place.map_err(|_| service.queue.busy("too many requests are under way"))?;
    let named = headers.get("x-client").and_then(|name| name.to_str().ok());
    let name = named.filter(|name| name.len() <= 128).map_or_else(|| peer.to_string(), str::to_string);

    let there = service.clone();
    let parsed = aside("parsing", move || wire::parse(whole.bytes(), &there.limits)).await?;
    metrics::stage("parse", read.elapsed());
    let asker = Asker { name: name.into(), arrived, read };
    let answer = ask::answer(&service, parsed, asker, explain).await?;
    if service.log_text {
        for utterance in &answer.utterances {
            tracing::info!(request = &*id, utterance = utterance.id, best = utterance.best, "rescored");
        }
    }
    body::answered(&answer, place)
}

/// Whether parts are asked for, unless the request is refused for what is known before its body.
fn admit(
    service: &Service,
    options: Result<Query<Options>, QueryRejection>,
    headers: &HeaderMap,
) -> Result<bool, Problem> {
    auth::check(service.token.as_ref(), headers)?;
    let explain = match options.ok().map(|Query(options)| options.explain) {
        Some(None) => false,
        Some(Some(value)) if value == "1" || value == "0" => value == "1",
        _ => return Err(Problem::field("explain", "expected 1 or 0")),
    };
    service.queue.check_room()?;
    Ok(explain)
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
