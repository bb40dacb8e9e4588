//! Bodies of requests, bounded in size and time.

use crate::BODY_TIME;
use crate::error::ApiError;
use axum::body::{Body, Bytes, to_bytes};
use axum::http::{HeaderMap, StatusCode, header};

/// All of a body of at most `limit` bytes.
pub(crate) async fn read(headers: &HeaderMap, body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let unsupported = |message: &str| Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    if headers.get(header::CONTENT_ENCODING).is_some_and(|value| value != "identity") {
        return unsupported("compressed bodies are not read");
    }
    let json = |value: &axum::http::HeaderValue| {
        value.to_str().is_ok_and(|value| {
            value.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
        })
    };
    // A page in a browser can send any other type to this machine without asking.
    if !headers.get(header::CONTENT_TYPE).is_some_and(json) {
        return unsupported("the body must be application/json");
    }
    let too_large = || {
        let message = format!("the body has more than {limit} bytes");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    };
    let length =
        headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    match tokio::time::timeout(BODY_TIME, to_bytes(body, limit)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => Err(too_large()),
        Err(_) => {
            let message = format!("the body did not arrive within {} seconds", BODY_TIME.as_secs());
            Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, message))
        }
    }
}
