//! From the events of a sequence to its text.

use crate::Served;
use crate::engine::{Event, Finish, TokenScore};
use crate::error::ApiError;
use axum::http::StatusCode;
use moepress_text::{StopStrings, Stream, TextError};
use tokio::sync::mpsc::UnboundedReceiver;

/// What to tell of a sequence as it grows.
pub(crate) enum Part {
    /// The prompt, where it was asked for: its tokens and its text.
    Prompt(Vec<(TokenScore, String)>),
    /// A token and the text that can be given out with it; empty while a character or a stop string may be incomplete.
    Token(TokenScore, String),
    /// The last text, and why there is no more.
    End(String, Finish),
}

/// One sequence on its way to a client. Dropping it ends the sequence.
pub(crate) struct Answer<'a> {
    served: &'a Served,
    events: UnboundedReceiver<Event>,
    text: Option<Stream<'a>>,
    stops: Option<StopStrings<'a>>,
    /// Tokens that were generated, told or not.
    pub(crate) generated: usize,
}

impl<'a> Answer<'a> {
    pub(crate) fn new(served: &'a Served, events: UnboundedReceiver<Event>, stops: &'a [String]) -> Self {
        let (text, stops) = (Some(Stream::new(&served.tokenizer)), Some(StopStrings::new(stops)));
        Self { served, events, text, stops, generated: 0 }
    }

    /// The next part; none after the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Part>, ApiError> {
        let (Some(text), Some(stops)) = (&mut self.text, &mut self.stops) else { return Ok(None) };
        match self.events.recv().await {
            Some(Event::Prompt(tokens)) => {
                let mut prompt = Stream::new(&self.served.tokenizer);
                let mut parts = Vec::with_capacity(tokens.len());
                for token in tokens {
                    let piece = prompt.push(token.id).map_err(undecodable)?;
                    parts.push((token, piece));
                }
                let rest = prompt.finish().map_err(undecodable)?;
                if let Some((_, last)) = parts.last_mut() {
                    *last += &rest;
                }
                Ok(Some(Part::Prompt(parts)))
            }
            Some(Event::Token(token)) => {
                self.generated += 1;
                let piece = text.push(token.id).map_err(undecodable)?;
                let (piece, stopped) = stops.push(&piece);
                if stopped {
                    self.events.close();
                    (self.text, self.stops) = (None, None);
                    return Ok(Some(Part::End(piece, Finish::Stop)));
                }
                Ok(Some(Part::Token(token, piece)))
            }
            Some(Event::End(finish)) => self.end(finish).map(Some),
            Some(Event::Late) => Err(ApiError::new(
                StatusCode::REQUEST_TIMEOUT,
                "the request took longer than this server allows",
            )),
            Some(Event::Failed(reason)) => Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, reason)),
            None => Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the server is shutting down")),
        }
    }

    fn end(&mut self, finish: Finish) -> Result<Part, ApiError> {
        let (text, stops) = (self.text.take(), self.stops.take());
        let rest = text.map_or(Ok(String::new()), Stream::finish).map_err(undecodable)?;
        let Some(mut stops) = stops else { return Ok(Part::End(String::new(), finish)) };
        let (mut piece, stopped) = stops.push(&rest);
        if stopped {
            return Ok(Part::End(piece, Finish::Stop));
        }
        piece += &stops.finish();
        Ok(Part::End(piece, finish))
    }
}

fn undecodable(error: TextError) -> ApiError {
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}
