//! What both kinds of completion requests can ask for.

use crate::error::ApiError;
use crate::fields::Fields;
use crate::{LONGEST_STOP, Limits, MOST_CHOICES, MOST_STOPS, Served};
use axum::http::StatusCode;
use moepress_runtime::Sampling;
use serde_json::{Value, json};

/// How texts are continued and told.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Params {
    pub(crate) sampling: Sampling,
    pub(crate) stops: Vec<String>,
    pub(crate) choices: usize,
    pub(crate) stream: bool,
    /// Whether a stream ends with the counts of tokens.
    pub(crate) usage: bool,
}

impl Params {
    pub(crate) fn read(fields: &mut Fields, served: &Served) -> Result<Self, ApiError> {
        let model = fields.text("model")?.ok_or_else(|| ApiError::field("model", "`model` is missing"))?;
        if model != served.name {
            let shown: String =
                model.chars().take(64).map(|c| if c.is_control() { '?' } else { c }).collect();
            let message = format!("there is no model `{shown}`, only `{}`", served.name);
            return Err(ApiError {
                field: Some("model".into()),
                ..ApiError::new(StatusCode::NOT_FOUND, message)
            });
        }
        let sampling = Sampling {
            temperature: fields.number("temperature", 0.0..=100.0)?.unwrap_or(1.0),
            top_k: fields.integer("top_k", 0..=1 << 32)?.unwrap_or(0) as usize,
            top_p: match fields.number("top_p", 0.0..=1.0)?.unwrap_or(1.0) {
                0.0 => return Err(ApiError::field("top_p", "`top_p` must be above 0 and at most 1")),
                share => share,
            },
            min_p: fields.number("min_p", 0.0..=1.0)?.unwrap_or(0.0),
            seed: fields.integer("seed", 0..=u64::MAX)?.unwrap_or(0),
        };
        let choices = fields.integer("n", 1..=MOST_CHOICES as u64)?.unwrap_or(1) as usize;
        let stops = stops(fields.take("stop"))?;
        let stream = fields.bool("stream")?;
        let usage = match fields.take("stream_options") {
            None => false,
            Some(options) => {
                match options.as_object().map(|options| (options.len(), options.get("include_usage"))) {
                    Some((0, None)) => false,
                    Some((1, Some(Value::Bool(usage)))) => *usage,
                    _ => {
                        let message = "`stream_options` must be {\"include_usage\": true or false}";
                        return Err(ApiError::field("stream_options", message));
                    }
                }
            }
        };
        for field in ["presence_penalty", "frequency_penalty"] {
            fields.only(field, &[json!(0), json!(0.0)])?;
        }
        fields.only("logit_bias", &[json!({})])?;
        // Who asks changes nothing.
        fields.text("user")?;
        Ok(Self { sampling, stops, choices, stream, usage })
    }
}

/// How many tokens a request asks for.
pub(crate) fn most(
    fields: &mut Fields,
    names: &[&str],
    limits: &Limits,
    least: u64,
) -> Result<Option<usize>, ApiError> {
    let mut most = None;
    for name in names {
        if let Some(tokens) = fields.integer(name, least..=limits.tokens as u64)? {
            most = Some(tokens as usize);
        }
    }
    Ok(most)
}

fn stops(value: Option<Value>) -> Result<Vec<String>, ApiError> {
    let wrong = |message: String| ApiError::field("stop", message);
    let shape = || wrong("`stop` must be text or a list of texts".to_owned());
    let stops = match value {
        None => vec![],
        Some(Value::String(stop)) => vec![stop],
        Some(Value::Array(stops)) if stops.len() > MOST_STOPS => {
            return Err(wrong(format!("{} stop strings are more than {MOST_STOPS}", stops.len())));
        }
        Some(Value::Array(stops)) => {
            let text = |stop: Value| stop.as_str().map(str::to_owned).ok_or_else(shape);
            stops.into_iter().map(text).collect::<Result<_, _>>()?
        }
        Some(_) => return Err(shape()),
    };
    match stops.iter().find(|stop| stop.len() > LONGEST_STOP) {
        None => Ok(stops),
        Some(stop) => {
            Err(wrong(format!("a stop string of {} bytes is longer than {LONGEST_STOP}", stop.len())))
        }
    }
}
