//! Stationary iterations.

pub mod reference;
