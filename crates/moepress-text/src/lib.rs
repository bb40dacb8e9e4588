//! The checkpoint's own tokenizer, and text cut into windows. The only crate that knows `tokenizers`.

mod error;
mod stream;
mod tokenizer;
mod windows;

pub use error::TextError;
pub use stream::Stream;
pub use tokenizer::Tokenizer;
pub use windows::{Windows, read_text, windows};
