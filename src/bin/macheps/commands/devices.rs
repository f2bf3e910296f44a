//! `macheps devices`.

use std::path::Path;

use serde::Serialize;

use macheps::DeviceInfo;

use crate::backend::{self, Device};
use crate::destination;
use crate::failure::Outcome;
use crate::output;
use crate::report::{Document, is_stdout};
use crate::table;

#[derive(Serialize)]
struct Body<'a> {
    devices: &'a [DeviceInfo],
    default: Default<'a>,
}

#[derive(Serialize)]
struct Default<'a> {
    index: usize,
    reason: &'a str,
}

pub fn run(json: Option<&Path>) -> Outcome {
    destination::check_reports(&[], &[("--json", json)])?;
    let devices = backend::devices();
    let default = Device::open("auto");
    if !json.is_some_and(is_stdout) {
        // What there is helps most when the default cannot be had.
        output::print(&text(&devices, default.as_ref().ok()))?;
    }
    let default = default?;
    if let Some(path) = json {
        let body = Body {
            devices: &devices,
            default: Default {
                index: default.index(),
                reason: default.reason(),
            },
        };
        Document::new("devices", default.adapter(), body).write(path)?;
    }
    Ok(())
}

/// The table of devices and the default choice.
pub fn text(devices: &[DeviceInfo], default: Option<&Device>) -> String {
    let columns = [
        ("", false),
        ("index", true),
        ("name", false),
        ("kind", false),
        ("backend", false),
        ("driver", false),
    ];
    let rows = devices.iter().map(|d| {
        let mark = if default.is_some_and(|default| default.index() == d.index) {
            "*"
        } else {
            ""
        };
        vec![
            mark.to_string(),
            d.index.to_string(),
            d.name.clone(),
            backend::kind(d.kind).to_string(),
            d.backend.clone(),
            d.driver.clone(),
        ]
    });
    let mut text = table::table(&columns, rows);
    if let Some(default) = default {
        text += &format!("\n* default: {} ({})", default.adapter().name, default.reason());
    }
    text
}
