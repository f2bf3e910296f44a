//! What is in these gradients, and what would f16 make of them?
//!
//!     cargo run --release --example audit

use macheps::random::Random;

fn main() -> macheps::Result<()> {
    let ctx = macheps::Context::new()?;
    // Gradients of a deep network are small, of many magnitudes, and often zero.
    let mut random = Random::new(1);
    let mut gradient = || {
        if random.unit() < 0.2 {
            return 0.0;
        }
        let magnitude = 2f64.powf(-18.0 + 5.0 * random.normal());
        (if random.unit() < 0.5 { -magnitude } else { magnitude }) as f32
    };
    let gradients: Vec<f32> = (0..1 << 20).map(|_| gradient()).collect();

    let audit = macheps::ops::audit::audit(&ctx, &gradients)?;
    println!(
        "{} gradients on {}: {} zeros, {} NaN",
        audit.elements,
        ctx.choice().device.name,
        audit.zeros,
        audit.nans
    );
    println!(
        "magnitudes from {:e} to {:e}",
        audit.min_magnitude().unwrap_or(0.0),
        audit.max_magnitude().unwrap_or(0.0)
    );
    let percent = |n: u64| 100.0 * n as f64 / audit.nonzero() as f64;
    println!(
        "as f16: {:.2} % become zero, {:.2} % subnormal, {:.2} % infinite",
        percent(audit.f16.vanishes),
        percent(audit.f16.subnormals),
        percent(audit.f16.overflows)
    );
    for share in [0.99, 0.999, 1.0] {
        if let Some(scale) = audit.loss_scale(share)? {
            println!(
                "a loss scale of 2^{} keeps {:.3} %",
                scale.exponent,
                100.0 * scale.share_after
            );
        }
    }
    println!();
    for (i, &count) in audit.exponents.iter().enumerate().filter(|(_, count)| **count > 0) {
        let exponent = i as i32 + macheps::ops::audit::LOWEST_EXPONENT;
        let zone = match exponent {
            ..-25 => "zero in f16",
            -25..-14 => "subnormal in f16",
            _ => "",
        };
        println!(
            "2^{exponent:<4} {:40} {zone}",
            "#".repeat((percent(count) * 4.0).round() as usize)
        );
    }
    Ok(())
}
