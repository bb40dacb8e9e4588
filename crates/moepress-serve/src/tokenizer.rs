//! `/tokenizer_info`, `/tokenize` and `/detokenize`, as vLLM has them.

use crate::error::ApiError;
use crate::fields::Fields;
use crate::routes::{Shared, document};
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use moepress_text::TextError;
use serde_json::{Value, json};
use std::sync::Arc;

pub(crate) async fn info(State(shared): State<Arc<Shared>>) -> Response {
    let served = &shared.served;
    document(&json!({
        "bos_token": served.special.bos,
        "eos_token": served.special.eos,
        "pad_token": served.special.pad,
        "chat_template": served.template.as_ref().map(|template| template.source()),
        "max_model_len": served.model.spec().context,
    }))
}

pub(crate) async fn tokenize(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let mut fields = Fields::read(&shared.body(&headers, body).await?)?;
    let text = fields.text("prompt")?.ok_or_else(|| ApiError::field("prompt", "`prompt` is missing"))?;
    let special = match fields.take("add_special_tokens") {
        None => true,
        Some(Value::Bool(special)) => special,
        Some(_) => {
            return Err(ApiError::field("add_special_tokens", "`add_special_tokens` must be true or false"));
        }
    };
    fields.text("model")?;
    fields.finish()?;
    let served = &shared.served;
    let tokenizer = &served.tokenizer;
    let ids = if special { tokenizer.encode_whole(&text) } else { tokenizer.encode(&text) };
    let ids = ids.map_err(unreadable("prompt"))?;
    Ok(document(&json!({"count": ids.len(), "max_model_len": served.model.spec().context, "tokens": ids})))
}

pub(crate) async fn detokenize(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let mut fields = Fields::read(&shared.body(&headers, body).await?)?;
    let tokens = fields.take("tokens").ok_or_else(|| ApiError::field("tokens", "`tokens` is missing"))?;
    fields.text("model")?;
    fields.finish()?;
    let served = &shared.served;
    let ids = ids("tokens", &tokens, served.model.spec().vocab)?;
    let text = served.tokenizer.decode(&ids).map_err(unreadable("tokens"))?;
    Ok(document(&json!({"prompt": text})))
}

/// The token ids that a list is.
pub(crate) fn ids(field: &str, value: &Value, vocab: usize) -> Result<Vec<u32>, ApiError> {
    let list = value
        .as_array()
        .ok_or_else(|| ApiError::field(field, format!("`{field}` must be a list of token ids")))?;
    let id = |value: &Value| {
        let id = value.as_u64().filter(|&id| id < vocab as u64).and_then(|id| u32::try_from(id).ok());
        let message = || format!("{} is no token id from 0 to {}", shortened(value), vocab - 1);
        id.ok_or_else(|| ApiError::field(field, message()))
    };
    list.iter().map(id).collect()
}

/// What text or tokens that the tokenizer cannot read come to.
pub(crate) fn unreadable(field: &'static str) -> impl Fn(TextError) -> ApiError {
    move |error| ApiError::field(field, error.to_string())
}

fn shortened(value: &Value) -> String {
    value.to_string().chars().take(40).collect()
}
