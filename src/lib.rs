//! WGSL compute kernels for numerics that stay right.

pub mod element;
pub mod error;
pub mod ops;
pub mod rows;

pub use element::{DType, Element, bf16, f16};
pub use error::{Error, Result};
pub use wgpu;
