//! The checkpoint's own tokenizer and chat template, and files of text cut into windows. The only crate that knows
//! `tokenizers` and `minijinja`.

mod chat;
mod draw;
mod error;
mod lines;
mod plain;
mod protocol;
mod sampler;
mod special;
mod stop;
mod stream;
mod tokenizer;
#[cfg(test)]
mod toy;

pub use chat::ChatTemplate;
pub use error::TextError;
pub use plain::read_text;
pub use protocol::Protocol;
pub use sampler::{Bos, Form, Sampler, Sampling, Window, Windows};
pub use special::SpecialTokens;
pub use stop::StopStrings;
pub use stream::Stream;
pub use tokenizer::Tokenizer;
