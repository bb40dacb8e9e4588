//! The way of a request that generates: read, started, then streamed or answered whole.

use crate::engine::Event;
use crate::error::ApiError;
use crate::routes::{Shared, document};
use crate::stream::Events;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde_json::Value;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc::UnboundedReceiver;

/// The events of every sequence of a request, in order.
pub(crate) type Sequences = Vec<UnboundedReceiver<Event>>;

/// A checked request for texts.
pub(crate) trait Generation: Send + Sync + Sized + 'static {
    /// Reads and checks a body.
    fn read(shared: &Shared, body: &[u8]) -> Result<Self, ApiError>;

    /// Whether the answer comes piece by piece.
    fn streams(&self) -> bool;

    /// Hands its sequences to the engine.
    fn start(&self, shared: &Shared, started: Instant) -> Result<Sequences, ApiError>;

    /// The answer as a whole.
    fn answer(
        &self,
        shared: &Shared,
        sequences: Sequences,
    ) -> impl Future<Output = Result<Value, ApiError>> + Send;

    /// The answer piece by piece, without what ends it.
    fn stream(
        &self,
        shared: &Shared,
        sequences: Sequences,
        events: &Events,
    ) -> impl Future<Output = ()> + Send;
}

/// The handler of such requests.
pub(crate) async fn handle<T: Generation>(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let started = Instant::now();
    let body = shared.body(&headers, body).await?;
    // Tokenizers and templates take their time.
    let request = tokio::task::block_in_place(|| T::read(&shared, &body))?;
    let sequences = request.start(&shared, started)?;
    if request.streams() {
        let (events, response) = Events::new();
        tokio::spawn(async move {
            request.stream(&shared, sequences, &events).await;
            events.done().await;
            shared.metrics.took(started.elapsed());
        });
        return Ok(response);
    }
    let answer = request.answer(&shared, sequences).await?;
    shared.metrics.took(started.elapsed());
    Ok(document(&answer))
}
