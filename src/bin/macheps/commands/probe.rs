//! `macheps probe`.

use std::path::Path;

use serde::Serialize;

use crate::backend::Device;
use crate::destination;
use crate::failure::Outcome;
use crate::output;
use crate::report::{Document, is_stdout};

#[derive(Serialize)]
struct Body {
    probe: serde_json::Value,
}

pub fn run(device: &str, json: Option<&Path>) -> Outcome {
    destination::check_reports(&[], &[("--json", json)])?;
    let device = Device::open(device)?;
    let (text, probe) = device.probe()?;
    if !json.is_some_and(is_stdout) {
        output::print(text.trim_end())?;
    }
    match json {
        Some(path) => Document::new("probe", device.adapter(), Body { probe }).write(path),
        None => Ok(()),
    }
}
