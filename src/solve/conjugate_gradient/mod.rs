//! The method of conjugate gradients.

pub mod reference;
