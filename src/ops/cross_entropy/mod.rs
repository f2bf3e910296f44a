//! Cross-entropy over classes.

mod options;

pub use options::{CrossEntropyOptions, LossKind, Reduction};
