//! What a model is worth: likelihood of texts, distance to the model it was made from, speed.

mod distance;
mod error;
mod evaluate;
mod likelihood;
mod score;
mod speed;
mod subject;

pub use distance::{Divergence, Histogram, Increase};
pub use error::EvalError;
pub use evaluate::{Evaluation, Overall, Text, TextScore, evaluate};
pub use likelihood::Likelihood;
pub use moepress_text::Window;
pub use score::scoring_memory;
pub use speed::decode_speed;
pub use subject::{Streamed, Subject};
