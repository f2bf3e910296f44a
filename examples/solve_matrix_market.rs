//! Solves A x = b with a matrix from a Matrix Market file, and says how far to trust the answer.
//!
//!     cargo run --release --features gz --example solve_matrix_market [-- FILE.mtx[.gz] [RHS.mtx]]
//!
//! Without a file it takes a small one from below: a rope of nine beads, stiff at one end.

use macheps::solve::conjugate_gradient::{CgOptions, LinearSystem, conjugate_gradient};
use macheps::solve::{
    ConditionEstimate, CsrOperator, IncompleteCholesky, JacobiPreconditioner, Preconditioner, ReportOptions,
};
use macheps::sparse::{Csr, matrix_market};

const ROPE: &str = "%%MatrixMarket matrix coordinate real symmetric
% row, column, value: only the lower triangle is written, the file says so
9 9 17
1 1 200000.0
2 1 -100000.0
2 2 110000.0
3 2 -10000.0
3 3 11000.0
4 3 -1000.0
4 4 1100.0
5 4 -100.0
5 5 110.0
6 5 -10.0
6 6 11.0
7 6 -1.0
7 7 2.0
8 7 -1.0
8 8 2.0
9 8 -1.0
9 9 2.0
";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);

    // A reader checks everything and names the line that is wrong. Values are f64, as in the file.
    let contents = match arguments.next() {
        Some(path) => matrix_market::read_file(path)?,
        None => matrix_market::read(ROPE.as_bytes())?,
    };
    let a: Csr<f64> = contents.to_csr()?;
    let b = match arguments.next() {
        Some(path) => matrix_market::read_file(path)?.to_vector()?,
        None => vec![1.0; a.rows()],
    };
    let (rows, symmetry) = (a.row_statistics(), a.symmetry());
    println!(
        "{} rows, {} entries, {} to {} in a row; symmetric: {}; |A| = {:.3e}",
        a.rows(),
        a.entries(),
        rows.min,
        rows.max,
        symmetry.exact,
        a.norm_inf()
    );

    // A hardware GPU if there is one, else the CPU path. On a device the solve runs in f32, and every residual that counts is
    // computed in f64 on the host, with the matrix as it was read.
    let ctx = macheps::Context::new()?;
    println!("on {}", ctx.choice().device.label());

    // Two preconditioners: the diagonal, and incomplete Cholesky factors.
    let preconditioners: [Box<dyn Preconditioner>; 2] = [
        Box::new(JacobiPreconditioner::new(&a)?),
        Box::new(IncompleteCholesky::new(&a)?),
    ];
    let operator = CsrOperator::new(a)?;

    for m in &preconditioners {
        // `OwnRun` asks for an estimate of A's own condition; the run itself only sees that of the preconditioned matrix.
        let mut options = CgOptions::with_rtol(1e-6);
        options.report = ReportOptions::new(ConditionEstimate::OwnRun);
        let system = LinearSystem::new(&operator, &b).with_preconditioner(m.as_ref());
        let plain = conjugate_gradient(&ctx, &system, &options)?;

        // The same with corrections in f64 around it: twelve digits of residual on a device that has seven.
        options.rtol = 1e-12;
        options.refine = true;
        let refined = conjugate_gradient(&ctx, &system, &options)?;

        for (name, solution) in [("plain", &plain), ("refined", &refined)] {
            let report = &solution.report;
            println!(
                "{:>22} {name:>8}: {:?} after {} iterations, relative residual {:.1e}, condition {}, error at most about {}: {} digits",
                m.name(),
                report.outcome,
                report.iterations,
                report.relative_residual,
                report.condition_estimate.map_or("?".into(), |k| format!("{k:.1e}")),
                report.forward_error_bound.map_or("?".into(), |e| format!("{e:.0e}")),
                report.digits().map_or("?".into(), |d| format!("{:.0}", d.floor())),
            );
            for advice in &report.advice {
                println!("{:>32} {advice}", "advice:");
            }
        }
        let largest = refined.x.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        println!("{:>32} {largest:.6e}", "largest |x|:");
    }
    Ok(())
}
