//! Paths to handlers.

use crate::engine::{Job, Place};
use crate::error::ApiError;
use crate::handler::handle;
use crate::metrics::Metrics;
use crate::{Limits, Served, auth, body, chat, completions, tokenizer};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use moepress_checkpoint::used_memory;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::time::{SystemTime, UNIX_EPOCH};

/// What all handlers share.
pub(crate) struct Shared {
    pub(crate) served: Arc<Served>,
    pub(crate) limits: Limits,
    pub(crate) metrics: Arc<Metrics>,
    /// Sequences that wait or run.
    pub(crate) taken: Arc<AtomicUsize>,
    pub(crate) jobs: Sender<Job>,
    pub(crate) token: Option<String>,
    /// Seconds since 1970 when the server started, which is when the model came to be as far as it knows.
    pub(crate) started: u64,
    /// Completions that were asked for.
    pub(crate) numbers: AtomicU64,
}

impl Shared {
    /// Places for so many sequences.
    pub(crate) fn places(&self, count: usize) -> Result<Vec<Place>, ApiError> {
        let queue = self.limits.queue;
        if count > queue {
            let message = format!("a request for {count} texts is more than the {queue} that may wait");
            return Err(ApiError::new(StatusCode::BAD_REQUEST, message));
        }
        Place::take(&self.taken, count, queue).ok_or_else(|| {
            ApiError::new(
                StatusCode::TOO_MANY_REQUESTS,
                format!("{queue} texts wait or run already; come again"),
            )
        })
    }

    /// What sets an answer apart from all others.
    pub(crate) fn number(&self) -> String {
        format!("{}-{}", self.started, self.numbers.fetch_add(1, Ordering::Relaxed))
    }

    /// Hands a sequence to the engine.
    pub(crate) fn submit(&self, job: Job) -> Result<(), ApiError> {
        let gone = |_| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the server is shutting down");
        self.jobs.send(job).map_err(gone)
    }

    /// All of the body of a request.
    pub(crate) async fn body(&self, headers: &HeaderMap, body: Body) -> Result<Bytes, ApiError> {
        body::read(headers, body, self.limits.body).await
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// A JSON document as a response.
pub(crate) fn document(value: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/completions", post(handle::<completions::Request>))
        .route("/v1/chat/completions", post(handle::<chat::Request>))
        .route("/v1/models", get(models))
        .route("/tokenizer_info", get(tokenizer::info))
        .route("/tokenize", post(tokenizer::tokenize))
        .route("/detokenize", post(tokenizer::detokenize))
        .route("/metrics", get(metrics))
        .route("/health", get(|| async { document(&json!({"status": "ok"})) }))
        .fallback(|| async { ApiError::new(StatusCode::NOT_FOUND, "there is nothing at this path") })
        .method_not_allowed_fallback(|| async {
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not know this method")
        })
        .layer(from_fn_with_state(shared.clone(), counted))
        .with_state(shared)
}

/// Asks for the token, except to learn whether the server lives, and counts what was answered.
async fn counted(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let open = request.uri().path() == "/health";
    let response = match auth::check(shared.token.as_deref().filter(|_| !open), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    shared.metrics.answered(response.status().as_u16());
    response
}

async fn models(State(shared): State<Arc<Shared>>) -> Response {
    let (served, created) = (&shared.served, shared.started);
    let context = served.model.spec().context;
    let model = json!({"id": served.name, "object": "model", "created": created, "owned_by": "moepress", "max_model_len": context});
    document(&json!({"object": "list", "data": [model]}))
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], shared.metrics.text(used_memory())).into_response()
}
