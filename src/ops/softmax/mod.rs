//! Softmax, log-softmax and log-sum-exp along any axis.

pub mod bounds;
pub mod cpu;
mod options;
pub mod reference;

pub use options::{MaskedRows, SoftmaxKind, SoftmaxOptions};
