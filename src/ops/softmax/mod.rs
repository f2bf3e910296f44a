//! Softmax, log-softmax and log-sum-exp along any axis.

mod options;

pub use options::{MaskedRows, SoftmaxKind, SoftmaxOptions};
