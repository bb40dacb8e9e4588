//! Log-probabilities as OpenAI's two interfaces write them.

use crate::Served;
use crate::engine::TokenScore;
use serde_json::{Map, Value, json};

/// The four lists of `/v1/completions`, one entry a token.
#[derive(Default)]
pub(crate) struct Lists {
    tokens: Vec<Value>,
    logprobs: Vec<Value>,
    top: Vec<Value>,
    offsets: Vec<Value>,
    /// Characters of the text so far.
    at: usize,
}

impl Lists {
    /// Adds a token whose text, or what of it is known by now, is `piece`.
    pub(crate) fn push(&mut self, served: &Served, token: &TokenScore, piece: &str) {
        self.tokens.push(text(served, token.id).into());
        self.offsets.push(self.at.into());
        self.at += piece.chars().count();
        self.logprobs.push(token.logprob.into());
        self.top.push(match token.logprob {
            None => Value::Null,
            Some(logprob) => {
                let mut top = Map::new();
                // Tokens may share their text: the likeliest has it.
                for (id, logprob) in token.top.iter().chain([&(token.id, logprob)]) {
                    top.entry(text(served, *id)).or_insert_with(|| (*logprob).into());
                }
                top.into()
            }
        });
    }

    /// What has been added since the last time.
    pub(crate) fn take(&mut self) -> Value {
        let Self { tokens, logprobs, top, offsets, .. } = self;
        let [tokens, logprobs, top, offsets] = [tokens, logprobs, top, offsets].map(std::mem::take);
        json!({"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": top, "text_offset": offsets})
    }
}

/// An entry of `logprobs.content` of `/v1/chat/completions`.
pub(crate) fn entry(served: &Served, token: &TokenScore, alternatives: usize) -> Value {
    let one = |id: u32, logprob: f64| {
        let token = text(served, id);
        let bytes: Vec<Value> = token.bytes().map(Value::from).collect();
        json!({"token": token, "logprob": logprob, "bytes": bytes})
    };
    let mut entry = one(token.id, token.logprob.unwrap_or_default());
    let top = token.top.iter().take(alternatives).map(|&(id, logprob)| one(id, logprob));
    entry["top_logprobs"] = top.collect();
    entry
}

/// The text of a token by itself.
fn text(served: &Served, id: u32) -> String {
    // What cannot be decoded alone is named by its number.
    served.tokenizer.decode(&[id]).unwrap_or_else(|_| format!("<token {id}>"))
}
