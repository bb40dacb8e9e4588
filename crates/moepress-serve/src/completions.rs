//! `POST /v1/completions`: texts and token ids, alone or in batches, with the log-probabilities of the prompt where
//! `echo` asks for them.

use crate::MOST_ALTERNATIVES;
use crate::answer::{Answer, Part};
use crate::engine::{Finish, Job};
use crate::error::ApiError;
use crate::fields::Fields;
use crate::handler::{Generation, Sequences};
use crate::logprobs::Lists;
use crate::params::{Params, most};
use crate::routes::{Shared, now};
use crate::stream::Events;
use crate::tokenizer::{ids, unreadable};
use serde_json::{Value, json};
use std::time::Instant;
use tokio::sync::mpsc::unbounded_channel;

/// Tokens that are added unless a request says otherwise, as OpenAI has it.
const USUAL: usize = 16;

/// A checked request.
pub(crate) struct Request {
    params: Params,
    prompts: Vec<Vec<u32>>,
    most: usize,
    /// Alternatives to tell with every token; none where nobody asks for log-probabilities.
    top: Option<usize>,
    echo: bool,
    id: String,
    created: u64,
}

impl Generation for Request {
    fn read(shared: &Shared, body: &[u8]) -> Result<Self, ApiError> {
        let served = &shared.served;
        let mut fields = Fields::read(body)?;
        let params = Params::read(&mut fields, served)?;
        let echo = fields.bool("echo")?;
        let least = u64::from(!echo);
        let most = most(&mut fields, &["max_tokens"], &shared.limits, least)?.unwrap_or(USUAL);
        let top = fields.integer("logprobs", 0..=MOST_ALTERNATIVES as u64)?.map(|top| top as usize);
        fields.only("best_of", &[json!(1), json!(params.choices)])?;
        fields.only("suffix", &[json!("")])?;
        let prompt = fields.take("prompt").ok_or_else(|| ApiError::field("prompt", "`prompt` is missing"))?;
        fields.finish()?;
        let prompts = prompts(shared, &prompt)?;
        let context = served.model.spec().context;
        for prompt in &prompts {
            let room = if echo && most == 0 { context } else { context - 1 };
            if prompt.is_empty() || prompt.len() > room {
                let message = match prompt.len() {
                    0 => "`prompt` has no tokens".to_owned(),
                    length => {
                        format!("a prompt of {length} tokens leaves no room in the context of {context}")
                    }
                };
                return Err(ApiError::field("prompt", message));
            }
        }
        let created = now();
        Ok(Self { params, prompts, most, top, echo, id: format!("cmpl-{}", shared.number()), created })
    }

    /// Hands all sequences to the engine: every choice of the first prompt, then of the next.
    fn streams(&self) -> bool {
        self.params.stream
    }

    fn start(&self, shared: &Shared, started: Instant) -> Result<Sequences, ApiError> {
        let choices = self.params.choices;
        let mut places = shared.places(self.prompts.len() * choices)?;
        let mut sequences = Vec::with_capacity(places.len());
        for (index, prompt) in self.prompts.iter().flat_map(|prompt| vec![prompt; choices]).enumerate() {
            let (events, receiver) = unbounded_channel();
            let Some(place) = places.pop() else { break };
            shared.submit(Job {
                prompt: prompt.clone(),
                most: self.most,
                sampling: self.params.sampling,
                stream: index as u64,
                top: self.top,
                echo: self.echo,
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
            let (mut text, mut lists) = (String::new(), Lists::default());
            let finish = loop {
                match answer.next().await? {
                    Some(Part::Prompt(tokens)) => {
                        for (token, piece) in tokens {
                            lists.push(&shared.served, &token, &piece);
                            text += &piece;
                        }
                    }
                    Some(Part::Token(token, piece)) => {
                        lists.push(&shared.served, &token, &piece);
                        text += &piece;
                    }
                    Some(Part::End(piece, finish)) => {
                        text += &piece;
                        break finish;
                    }
                    None => break Finish::Stop,
                }
            };
            generated += answer.generated;
            let logprobs = self.top.map(|_| lists.take());
            choices.push(self.choice(index, &text, logprobs, Some(finish)));
        }
        Ok(self.document(shared, choices, Some(self.usage(generated))))
    }

    /// The answer event by event, one sequence after the other.
    async fn stream(&self, shared: &Shared, sequences: Sequences, events: &Events) {
        let mut generated = 0;
        for (index, receiver) in sequences.into_iter().enumerate() {
            let mut answer = Answer::new(&shared.served, receiver, &self.params.stops);
            let mut lists = Lists::default();
            loop {
                let (text, finish) = match answer.next().await {
                    Ok(Some(Part::Prompt(tokens))) => {
                        tokens.iter().for_each(|(token, piece)| lists.push(&shared.served, token, piece));
                        (tokens.into_iter().map(|(_, piece)| piece).collect(), None)
                    }
                    Ok(Some(Part::Token(token, piece))) => {
                        lists.push(&shared.served, &token, &piece);
                        (piece, None)
                    }
                    Ok(Some(Part::End(piece, finish))) => (piece, Some(finish)),
                    Ok(None) => break,
                    Err(error) => {
                        events.send(&error.document()).await;
                        return;
                    }
                };
                if text.is_empty() && finish.is_none() && self.top.is_none() {
                    continue;
                }
                let logprobs = self.top.map(|_| lists.take());
                let choice = self.choice(index, &text, logprobs, finish);
                if !events.send(&self.document(shared, vec![choice], None)).await || finish.is_some() {
                    break;
                }
            }
            generated += answer.generated;
        }
        if self.params.usage {
            events.send(&self.document(shared, vec![], Some(self.usage(generated)))).await;
        }
    }
}

impl Request {
    fn choice(&self, index: usize, text: &str, logprobs: Option<Value>, finish: Option<Finish>) -> Value {
        json!({"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish.map(Finish::word)})
    }

    fn usage(&self, generated: usize) -> Value {
        let prompt: usize = self.prompts.iter().map(Vec::len).sum();
        json!({"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated})
    }

    fn document(&self, shared: &Shared, choices: Vec<Value>, usage: Option<Value>) -> Value {
        let mut document = json!({
            "id": self.id, "object": "text_completion", "created": self.created, "model": shared.served.name,
            "choices": choices,
        });
        if let Some(usage) = usage {
            document["usage"] = usage;
        }
        document
    }
}

/// The prompts of a request: a text, texts, token ids, or lists of those.
fn prompts(shared: &Shared, prompt: &Value) -> Result<Vec<Vec<u32>>, ApiError> {
    let vocab = shared.served.model.spec().vocab;
    let encode = |text: &str| shared.served.tokenizer.encode_whole(text).map_err(unreadable("prompt"));
    let shape = "`prompt` must be a text, token ids, or a list of either";
    match prompt {
        Value::String(text) => Ok(vec![encode(text)?]),
        Value::Array(list) => match list.first() {
            None => Err(ApiError::field("prompt", "`prompt` is empty")),
            Some(Value::Number(_)) => Ok(vec![ids("prompt", prompt, vocab)?]),
            Some(_) => {
                let one = |value: &Value| match value {
                    Value::String(text) => encode(text),
                    Value::Array(_) => ids("prompt", value, vocab),
                    _ => Err(ApiError::field("prompt", shape)),
                };
                list.iter().map(one).collect()
            }
        },
        _ => Err(ApiError::field("prompt", shape)),
    }
}
