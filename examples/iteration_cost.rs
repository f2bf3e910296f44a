//! What an iteration of conjugate gradients costs on a device, against its parts: the product with the matrix, and a copy of as many
//! bytes as its vectors have. Give a part of an adapter's name, or take what there is:
//!
//!     cargo run --release --example iteration_cost -- llvmpipe
//!
//! `--quick` measures a small case, and briefly.

use macheps::bench::iteration_cost;
use macheps::solve::conjugate_gradient::cases::bench_cases;
use macheps::{Context, ContextOptions, DeviceSelector};
use std::time::Duration;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (mut device, mut quick) = (DeviceSelector::Gpu, false);
    for argument in std::env::args().skip(1) {
        if argument == "--quick" {
            quick = true;
        } else {
            device = argument.parse()?;
        }
    }
    let context = match Context::with_options(ContextOptions {
        device,
        ..Default::default()
    }) {
        Ok(context) => context,
        Err(e) => {
            println!("no device to measure: {e}");
            return Ok(());
        }
    };
    println!("{}", context.choice().device.label());
    for case in bench_cases(quick) {
        let cost = iteration_cost(&context, &case, Duration::from_secs(if quick { 1 } else { 5 }))?;
        println!(
            "{:55} {:8.3} ms = {:.2} x (product {:.3} ms + copy of its vectors {:.3} ms)",
            case.shape_name(),
            1e3 * cost.iteration,
            cost.ratio(),
            1e3 * cost.product,
            1e3 * cost.vectors
        );
    }
    Ok(())
}
