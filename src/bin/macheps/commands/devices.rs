//! `macheps devices`.

use std::path::Path;

use serde::Serialize;

use crate::backend::{self, Device, DeviceRow};
use crate::failure::Outcome;
use crate::output;
use crate::report::{Document, is_stdout};
use crate::table;

#[derive(Serialize)]
struct Body<'a> {
    devices: &'a [DeviceRow],
    default: Default<'a>,
}

#[derive(Serialize)]
struct Default<'a> {
    index: usize,
    reason: &'a str,
}

pub fn run(json: Option<&Path>) -> Outcome {
    let devices = backend::devices();
    let default = Device::open("auto")?;
    if !json.is_some_and(is_stdout) {
        output::print(&text(&devices, &default))?;
    }
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
pub fn text(devices: &[DeviceRow], default: &Device) -> String {
    let columns = [
        ("", false),
        ("index", true),
        ("name", false),
        ("kind", false),
        ("backend", false),
        ("driver", false),
    ];
    let rows = devices.iter().map(|d| {
        let mark = if d.index == default.index() { "*" } else { "" };
        vec![
            mark.to_string(),
            d.index.to_string(),
            d.name.clone(),
            d.kind.clone(),
            d.backend.clone(),
            d.driver.clone(),
        ]
    });
    format!(
        "{}\n* default: {} ({})",
        table::table(&columns, rows),
        default.adapter().name,
        default.reason()
    )
}
