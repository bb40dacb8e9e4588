//! What a model is worth: likelihood of texts, distance to the model it was made from, speed.

mod base;
mod compare;
mod distance;
mod error;
mod evaluate;
mod likelihood;
mod pass;
mod score;
mod speed;
mod subject;
mod tasks;

pub use base::{Base, BaseHeader, BaseWriter};
pub use compare::{Distance, Drift, Step, compare};
pub use distance::{Divergence, Histogram, Increase};
pub use error::EvalError;
pub use evaluate::{Beside, Evaluation, Overall, Text, TextScore, evaluate, evaluate_beside};
pub use likelihood::Likelihood;
pub use moepress_text::Window;
pub use score::scoring_memory;
pub use speed::decode_speed;
pub use subject::{Streamed, Subject};
pub use tasks::{Choices, Kind, Question, Task, TaskResult, answer, choose};
