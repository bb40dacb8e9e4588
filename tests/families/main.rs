//! The binary on every golden checkpoint: all families and their variants, as a user would meet them.

#![allow(clippy::unwrap_used, clippy::panic)]

#[expect(dead_code, reason = "shared with other tests")]
#[path = "../common/mod.rs"]
mod common;
mod golden;
mod inspect;
mod logits;
mod runs;
mod tokenizer;
mod unknown;
