//! Decisions and edits: one file per method.
