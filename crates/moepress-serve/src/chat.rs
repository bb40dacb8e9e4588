//! `POST /v1/chat/completions`: a chat through the checkpoint's template.

use crate::MOST_ALTERNATIVES;
use crate::answer::{Answer, Part};
use crate::engine::{Finish, Job};
use crate::error::ApiError;
use crate::fields::Fields;
use crate::handler::{Generation, Sequences};
use crate::logprobs::entry;
use crate::params::{Params, most};
use crate::routes::{Shared, now};
use crate::stream::Events;
use crate::tokenizer::unreadable;
use serde_json::{Value, json};
use std::time::Instant;
use tokio::sync::mpsc::unbounded_channel;

/// A checked request.
pub(crate) struct Request {
    params: Params,
    prompt: Vec<u32>,
    most: usize,
    /// Alternatives to tell with every token; none where nobody asks for log-probabilities.
    top: Option<usize>,
    id: String,
    created: u64,
}

impl Generation for Request {
    fn read(shared: &Shared, body: &[u8]) -> Result<Self, ApiError> {
        let served = &shared.served;
        let mut fields = Fields::read(body)?;
        let params = Params::read(&mut fields, served)?;
        let most = most(&mut fields, &["max_tokens", "max_completion_tokens"], &shared.limits, 1)?;
        let wanted = fields.bool("logprobs")?;
        let top = fields.integer("top_logprobs", 0..=MOST_ALTERNATIVES as u64)?;
        if top.is_some() && !wanted {
            return Err(ApiError::field("top_logprobs", "`top_logprobs` needs `logprobs: true`"));
        }
        fields.only("response_format", &[json!({"type": "text"})])?;
        fields.only("tools", &[json!([])])?;
        fields.only("tool_choice", &[json!("none"), json!("auto")])?;
        let messages =
            fields.take("messages").ok_or_else(|| ApiError::field("messages", "`messages` is missing"))?;
        fields.finish()?;
        let template = served.template.as_ref().ok_or_else(|| {
            ApiError::field("messages", "this model has no chat template; use /v1/completions")
        })?;
        let text =
            template.prompt(&plain(messages)?).map_err(|reason| ApiError::field("messages", reason))?;
        // The template writes all special tokens itself.
        let prompt = served.tokenizer.encode(&text).map_err(unreadable("messages"))?;
        let context = served.model.spec().context;
        if prompt.is_empty() || prompt.len() >= context {
            let message = format!("a chat of {} tokens does not fit the context of {context}", prompt.len());
            return Err(ApiError::field("messages", message));
        }
        let most = most.unwrap_or(context - prompt.len()).min(shared.limits.tokens);
        let created = now();
        let id = format!("chatcmpl-{}", shared.number());
        Ok(Self { params, prompt, most, top: wanted.then_some(top.unwrap_or(0) as usize), id, created })
    }

    fn streams(&self) -> bool {
        self.params.stream
    }

    fn start(&self, shared: &Shared, started: Instant) -> Result<Sequences, ApiError> {
        let places = shared.places(self.params.choices)?;
        let mut sequences = Vec::with_capacity(places.len());
        for (index, place) in places.into_iter().enumerate() {
            let (events, receiver) = unbounded_channel();
            shared.submit(Job {
                prompt: self.prompt.clone(),
                most: self.most,
                sampling: self.params.sampling,
                stream: index as u64,
                top: self.top,
                echo: false,
                deadline: started + shared.limits.deadline,
                events,
                _place: place,
            })?;
            sequences.push(receiver);
        }
        Ok(sequences)
    }

    /// The answer in one document.
    async fn answer(&self, shared: &Shared, sequences: Sequences) -> Result<Value, ApiError> {
        let (mut choices, mut generated) = (Vec::new(), 0);
        for (index, events) in sequences.into_iter().enumerate() {
            let mut answer = Answer::new(&shared.served, events, &self.params.stops);
            let (mut text, mut tokens) = (String::new(), Vec::new());
            let mut finish = Finish::Stop;
            while let Some(part) = answer.next().await? {
                match part {
                    Part::Prompt(_) => {}
                    Part::Token(token, piece) => {
                        tokens.extend(self.top.map(|top| entry(&shared.served, &token, top)));
                        text += &piece;
                    }
                    Part::End(piece, why) => {
                        text += &piece;
                        finish = why;
                    }
                }
            }
            generated += answer.generated;
            let logprobs = self.top.map(|_| json!({"content": tokens}));
            let message = json!({"role": "assistant", "content": text});
            choices.push(json!({
                "index": index, "message": message, "logprobs": logprobs, "finish_reason": finish.word(),
            }));
        }
        let mut document = self.document(shared, "chat.completion", choices);
        document["usage"] = self.usage(generated);
        Ok(document)
    }

    /// The answer event by event, one sequence after the other.
    async fn stream(&self, shared: &Shared, sequences: Sequences, events: &Events) {
        let mut generated = 0;
        for (index, receiver) in sequences.into_iter().enumerate() {
            let mut answer = Answer::new(&shared.served, receiver, &self.params.stops);
            let mut delta = json!({"role": "assistant", "content": ""});
            let (mut tokens, mut finish) = (Vec::new(), None);
            loop {
                if delta.as_object().is_some_and(|delta| !delta.is_empty())
                    || finish.is_some()
                    || !tokens.is_empty()
                {
                    let logprobs = self.top.map(|_| json!({"content": std::mem::take(&mut tokens)}));
                    let choice = json!({
                        "index": index, "delta": delta, "logprobs": logprobs,
                        "finish_reason": finish.map(Finish::word),
                    });
                    let sent =
                        events.send(&self.document(shared, "chat.completion.chunk", vec![choice])).await;
                    if !sent || finish.is_some() {
                        break;
                    }
                }
                delta = json!({});
                match answer.next().await {
                    Ok(Some(Part::Prompt(_))) => {}
                    Ok(Some(Part::Token(token, piece))) => {
                        tokens.extend(self.top.map(|top| entry(&shared.served, &token, top)));
                        if !piece.is_empty() {
                            delta = json!({"content": piece});
                        }
                    }
                    Ok(Some(Part::End(piece, why))) => {
                        if !piece.is_empty() {
                            delta = json!({"content": piece});
                        }
                        finish = Some(why);
                    }
                    Ok(None) => break,
                    Err(error) => {
                        events.send(&error.document()).await;
                        return;
                    }
                }
            }
            generated += answer.generated;
        }
        if self.params.usage {
            let mut document = self.document(shared, "chat.completion.chunk", vec![]);
            document["usage"] = self.usage(generated);
            events.send(&document).await;
        }
    }
}

impl Request {
    fn usage(&self, generated: usize) -> Value {
        let prompt = self.prompt.len();
        json!({"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated})
    }

    fn document(&self, shared: &Shared, object: &str, choices: Vec<Value>) -> Value {
        json!({
            "id": self.id, "object": object, "created": self.created, "model": shared.served.name,
            "choices": choices,
        })
    }
}

/// Messages whose contents are texts: a list of parts of text is their text.
fn plain(mut messages: Value) -> Result<Value, ApiError> {
    for message in messages.as_array_mut().into_iter().flatten() {
        let Some(Value::Array(parts)) = message.get("content") else { continue };
        let text = |part: &Value| match (part["type"].as_str(), part["text"].as_str()) {
            (Some("text"), Some(text)) => Some(text.to_owned()),
            _ => None,
        };
        let joined: Option<Vec<String>> = parts.iter().map(text).collect();
        let joined =
            joined.ok_or_else(|| ApiError::field("messages", "contents of messages must be text"))?;
        message["content"] = joined.concat().into();
    }
    Ok(messages)
}
