//! What floating-point numbers look like, and five formulas that lose their digits.
//!
//!     cargo run --release --example float

use macheps::float::{self, Float, Format, QuadraticRoots, Summation};
use macheps::{bf16, f16};

fn main() -> macheps::Result<()> {
    println!("One tenth in four formats, each as near as it can:\n");
    for layout in [
        f16::from_f64(0.1).layout(),
        bf16::from_f64(0.1).layout(),
        0.1f32.layout(),
        0.1f64.layout(),
    ] {
        println!("{layout}");
    }

    println!(
        "\nField by field, the smallest f16:\n\n{:#}\n",
        f16::from_bits(1).layout()
    );

    println!("What each format can hold:\n");
    for format in Format::ALL {
        println!(
            "{:<5} epsilon {:<11.4e} smallest {:<12.4e} smallest normal {:<12.4e} largest {:.4e}",
            format.name(),
            format.machine_epsilon(),
            format.min_subnormal(),
            format.min_normal(),
            format.max_finite()
        );
    }
    let sum = 0.1 + 0.2;
    if let Some(steps) = sum.ulp_distance(0.3) {
        println!("\n0.1 + 0.2 is {sum}: {steps} step from 0.3");
    }

    println!("\nCancellation: the textbook formula, and the function that keeps its digits\n");
    let row = |what: &str, naive: f64, careful: f64| println!("{what:<34} {naive:<24e} {careful:e}");
    let x = 1e16f64;
    row(
        "sqrt(x + 1) - sqrt(x) at 1e16",
        (x + 1.0).sqrt() - x.sqrt(),
        float::sqrt1p_minus_sqrt(x),
    );
    let a = 1e-20f64;
    row("log(1 - exp(-a)) at 1e-20", (1.0 - (-a).exp()).ln(), float::log1mexp(a));
    row(
        "log(1 + exp(x)) at 800",
        (1.0 + 800f64.exp()).ln(),
        float::softplus(800.0),
    );
    row(
        "log(e^-1000 + e^-1000)",
        ((-1000f64).exp() + (-1000f64).exp()).ln(),
        float::logaddexp(-1000.0, -1000.0),
    );
    row(
        "norm of (3e200, 4e200)",
        (3e200f64 * 3e200 + 4e200 * 4e200).sqrt(),
        float::norm(&[3e200, 4e200]),
    );
    let (b, root) = (-1e9, (1e18f64 - 4.0).sqrt());
    if let QuadraticRoots::Real(small, _) = float::quadratic_roots(1.0, b, 1.0) {
        row("small root of x^2 - 1e9 x + 1", (-b - root) / 2.0, small);
    }

    let tenths = vec![0.1f32; 10_000_000];
    println!(
        "\nTen million tenths in f32: a plain loop {}",
        tenths.iter().sum::<f32>()
    );
    println!(
        "pairwise {}, compensated {}",
        tenths.iter().sum_pairwise::<f32>(),
        tenths.iter().sum_neumaier::<f32>()
    );
    let dot = float::dot(&[1e20, 2.5, -1e20], &[1.0, 2.0, 1.0])?;
    println!("1e20 * 1 + 2.5 * 2 - 1e20 * 1 = {dot} by a compensated dot product");
    Ok(())
}
