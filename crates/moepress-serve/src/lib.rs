//! An OpenAI-compatible HTTP server on the runtime: one model, fixed at the start.
//!
//! Handlers turn requests into [`engine::Job`]s for one thread, which advances all running sequences a token at a
//! time. Every byte of a request is untrusted: it is refused with a JSON error, and bounded in size, time and number.

#![warn(missing_docs)]

mod answer;
mod auth;
mod body;
mod chat;
mod completions;
mod connection;
mod engine;
mod error;
mod fields;
mod handler;
mod logprobs;
mod metrics;
mod params;
mod routes;
mod scoring;
mod stream;
mod tokenizer;

pub use connection::{ServeError, Server};

use moepress_runtime::{Model, Precision};
use moepress_text::{ChatTemplate, SpecialTokens, Tokenizer};
use std::time::Duration;

/// The model that is served, and what its text side is.
pub struct Served {
    /// What requests call it.
    pub name: String,
    /// Its weights.
    pub model: Model,
    /// Text to tokens and back.
    pub tokenizer: Tokenizer,
    /// From chats to text; none where the checkpoint has none.
    pub template: Option<ChatTemplate>,
    /// What its special tokens are called.
    pub special: SpecialTokens,
}

/// What requests may take.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a request.
    pub body: usize,
    /// Sequences that wait or run; further requests are told to come again.
    pub queue: usize,
    /// Sequences that run at a time.
    pub batch: usize,
    /// Tokens that a request may ask for.
    pub tokens: usize,
    /// From the arrival of a request to its last token.
    pub deadline: Duration,
    /// Open connections; further ones wait.
    pub connections: usize,
    /// How exact products are where text is generated. Prompts are always scored exactly.
    pub precision: Precision,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 1 << 20,
            queue: 256,
            batch: 16,
            tokens: 1 << 16,
            deadline: Duration::from_secs(600),
            connections: 512,
            precision: Precision::Fast,
        }
    }
}

/// Choices that a request may ask for of one prompt.
const MOST_CHOICES: usize = 16;
/// Stop strings of a request, and bytes of one.
const MOST_STOPS: usize = 64;
const LONGEST_STOP: usize = 1024;
/// Alternatives that log-probabilities may be asked for.
const MOST_ALTERNATIVES: usize = 20;
/// From the first byte of a head to its last, which is also how long a connection may be idle.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// From the end of the head to that of the body.
const BODY_TIME: Duration = Duration::from_secs(10);
