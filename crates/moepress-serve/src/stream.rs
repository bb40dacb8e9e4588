//! Server-sent events: a body that grows while a task writes to it.

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use serde_json::Value;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Events that wait for a slow reader.
const BUFFER: usize = 64;

/// Where a task puts events; it fails when the reader went away.
pub(crate) struct Events(Sender<Bytes>);

impl Events {
    /// A stream and its response.
    pub(crate) fn new() -> (Self, Response) {
        let (sender, receiver) = channel(BUFFER);
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        ];
        (Self(sender), (headers, Body::new(Channel(receiver))).into_response())
    }

    /// Sends one document; `false` when nobody reads any more.
    pub(crate) async fn send(&self, document: &Value) -> bool {
        self.0.send(Bytes::from(format!("data: {document}\n\n"))).await.is_ok()
    }

    /// Sends what tells clients that no more will come.
    pub(crate) async fn done(self) {
        // A reader that went away does not miss it.
        let _ = self.0.send(Bytes::from_static(b"data: [DONE]\n\n")).await;
    }
}

struct Channel(Receiver<Bytes>);

impl HttpBody for Channel {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}
