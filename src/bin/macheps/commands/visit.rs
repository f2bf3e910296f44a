//! `macheps` without a command: what a first visit wants to see.

use super::{bench, devices, verify};
use crate::backend::{self, Device};
use crate::failure::{Failure, Outcome};
use crate::output;

pub fn run() -> Outcome {
    let device = Device::open("auto")?;
    output::print(&format!(
        "macheps {}\n\n{}\n",
        env!("CARGO_PKG_VERSION"),
        devices::text(&backend::devices(), Some(&device))
    ))?;
    let verified = verify::verify(&device, None)?;
    output::print(&verify::text(&device, &verified))?;
    let timed = bench::bench(&device, true, None)?;
    output::print(&bench::text(&device, &timed))?;
    let failures: Vec<String> = [verify::judge(&verified, 0), bench::judge(&timed)]
        .into_iter()
        .filter_map(Outcome::err)
        .map(|f| f.to_string())
        .collect();
    if failures.is_empty() {
        output::print("All verified. Next: macheps probe, macheps bench --svg speed.svg, macheps run --help")
    } else {
        Err(Failure::Check(failures.join("; ")))
    }
}
