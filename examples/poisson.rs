//! The Poisson equation on a square, solved on a device without a matrix, and how far to trust the answer.
//!
//! -div(grad u) = f on the unit square with u = 0 on its sides, where f is chosen so that u is known: first on finer and finer
//! grids, then with walls in the way.
//!
//!     cargo run --release --example poisson [-- DEVICE]
//!
//! DEVICE is a part of an adapter's name, `cpu` or `gpu`; the default device if not given.

use macheps::solve::conjugate_gradient::{CgOptions, LinearSystem, conjugate_gradient};
use macheps::solve::{Boundary, GridStencil, GridStencilOptions};
use macheps::{Context, ContextOptions};
use std::error::Error;

/// The solution that f is made for.
fn exact(x: f64, y: f64) -> f64 {
    10.0 * x * x * (1.0 - x) * y * y * (1.0 - y)
}

/// -div(grad u) of it.
fn f(x: f64, y: f64) -> f64 {
    let (along_x, along_y) = ((6.0 * x - 2.0) * y * y * (1.0 - y), (6.0 * y - 2.0) * x * x * (1.0 - x));
    10.0 * (along_x + along_y)
}

/// The middle of a cell.
fn centre(cell: usize, n: usize) -> (f64, f64) {
    let at = |i: usize| (i as f64 + 0.5) / n as f64;
    (at(cell % n), at(cell / n))
}

fn main() -> Result<(), Box<dyn Error>> {
    let context = match std::env::args().nth(1) {
        None => Context::new()?,
        Some(name) => Context::with_options(ContextOptions {
            device: name.parse()?,
            ..Default::default()
        })?,
    };
    println!("on {}\n", context.choice().device.label());

    // The operator is never stored: 5 points, constant coefficients, u = 0 on the sides of the outermost cells.
    println!("   cells  iterations  refinements  residual   error of u");
    let mut before: Option<f64> = None;
    for n in [32usize, 64, 128] {
        let mut options = GridStencilOptions::plane(n, n);
        options.spacing = [1.0 / n as f64; 3];
        let laplacian = GridStencil::new(&options)?;
        let b: Vec<f64> = (0..n * n).map(|cell| centre(cell, n)).map(|(x, y)| f(x, y)).collect();

        // f32 alone would end at a residual of about 1e-6, and worse on finer grids; corrected by residuals in f64 it gets anywhere.
        let mut cg = CgOptions::with_rtol(1e-10);
        cg.refine = true;
        let solution = conjugate_gradient(&context, &LinearSystem::new(&laplacian, &b), &cg)?;

        // What is left is the error of the grid: a quarter with every halving of h.
        let error = |cell: usize| {
            let (x, y) = centre(cell, n);
            (solution.x[cell] - exact(x, y)).abs()
        };
        let worst = (0..n * n).map(error).fold(0.0, f64::max);
        let report = &solution.report;
        let ratio = before.map_or(String::new(), |before| format!("(1/{:.1} of the last)", before / worst));
        println!(
            "{:>8}  {:>10}  {:>11}  {:.1e}    {worst:.2e} {ratio}",
            n * n,
            report.iterations,
            report.refinements,
            report.relative_residual
        );
        before = Some(worst);
    }

    // A channel with obstacles: fluid enters on the left with u = 1 and leaves on the right with u = 0; nothing passes the
    // other sides and the solid cells.
    let (nx, ny) = (96, 32);
    let mut options = GridStencilOptions::plane(nx, ny);
    options.boundary[1] = [Boundary::Neumann; 2];
    let walls = |shift: usize| -> Vec<bool> {
        (0..nx * ny)
            .map(|cell| {
                let (i, j) = (cell % nx, cell / nx);
                (i / 4 + shift) % 6 == 3 && (j + 8 * (i / 24 % 2)) % 16 < 11
            })
            .collect()
    };
    options.solid = Some(walls(0));
    let channel = GridStencil::new(&options)?;
    let mut b = vec![0.0; nx * ny];
    channel.add_boundary_values(0, false, &mut b, |_| 1.0)?;
    for shift in [0, 2] {
        // Obstacles may move: what is bound on a device stays bound. The right-hand side belongs to the fluid alone.
        channel.set_solid(&walls(shift))?;
        let solution = conjugate_gradient(&context, &LinearSystem::new(&channel, &b), &CgOptions::with_rtol(1e-5))?;
        let report = &solution.report;
        println!(
            "\nwith walls, {:?} after {} iterations",
            report.outcome, report.iterations
        );
        if let Some(digits) = report.digits() {
            println!("digits of x to be trusted: {digits:.1}");
        }
        draw(&solution.x, &walls(shift), nx, ny);
        for advice in &report.advice {
            println!("advice: {advice}");
        }
    }
    Ok(())
}

/// One character for two by four cells: walls as #, u from 0 to 1 as digits.
fn draw(u: &[f64], solid: &[bool], nx: usize, ny: usize) {
    for j in (0..ny).step_by(4) {
        let line: String = (0..nx)
            .step_by(2)
            .map(|i| {
                let cell = i + nx * j;
                if solid[cell] {
                    '#'
                } else {
                    char::from_digit((u[cell].clamp(0.0, 0.999) * 10.0) as u32, 10).unwrap_or('?')
                }
            })
            .collect();
        println!("  {line}");
    }
}
