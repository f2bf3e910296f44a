//! The test suite: one binary, a module for each subject.

#[path = "suite/cpu_softmax.rs"]
mod cpu_softmax;
#[path = "suite/data.rs"]
mod data;
#[path = "suite/hard_rows.rs"]
mod hard_rows;
#[path = "suite/onnx.rs"]
mod onnx;
