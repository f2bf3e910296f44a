//! suite

#[path = "suite/house.rs"]
mod house;
