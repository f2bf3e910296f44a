//! The operations.

pub mod softmax;
