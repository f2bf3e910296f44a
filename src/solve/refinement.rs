//! Iterative refinement: residuals in f64 around a solver of less precision.

use super::range::{RangedOperator, check_finite};
use super::vector::{add_scaled, dot, exponent, is_finite, norm, scaled};
use super::{Breakdown, LinearOperator, OperatorCall, Outcome, Record};
use crate::error::{Error, Result};
use crate::float::Neumaier;
use crate::gpu::Gpu;
use crate::sparse::Csr;
use futures::FutureExt;

/// How refinement goes on.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RefinementOptions {
    /// Goal: `||b - A x|| <= rtol ||b||` in the 2-norm, the residual in f64.
    pub rtol: f64,
    /// The most corrections.
    pub max_refinements: usize,
    /// For symmetric positive definite A: every correction is made conjugate to the one before it and gets the length that
    /// makes the error in the energy norm smallest. Where the inner solver is right to some digits that changes next to nothing; where it is
    /// not, because the condition is beyond its precision, it keeps it from going astray.
    pub energy: bool,
}

impl RefinementOptions {
    /// Up to 100 corrections, with steps by energy.
    pub fn new(rtol: f64) -> RefinementOptions {
        RefinementOptions {
            rtol,
            max_refinements: 100,
            energy: true,
        }
    }
}

/// What an inner solver gives: an approximate solution of A c = r.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Correction {
    /// c.
    pub x: Vec<f64>,
    /// Iterations that it took.
    pub iterations: usize,
}

impl Correction {
    /// A correction.
    pub fn new(x: Vec<f64>, iterations: usize) -> Correction {
        Correction { x, iterations }
    }
}

/// An answer that was refined.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Refined {
    /// The best x met.
    pub x: Vec<f64>,
    /// How it ended.
    pub outcome: Outcome,
    /// Corrections added.
    pub refinements: usize,
    /// Iterations of the inner solver, all together.
    pub iterations: usize,
    /// True relative residual before the first correction, after it, and so on.
    pub residual_history: Vec<f64>,
    /// That of x.
    pub relative_residual: f64,
}

/// Solves A x = b to an accuracy that `inner` alone does not have: each round it is given the residual, scaled by a power of two to at
/// most 1, and what it finds is added to x in f64.
///
/// # Numerics
/// The residual is exact but for one rounding where the operator has a matrix, else as exact as [`LinearOperator::apply`].
/// With an inner solver right to a relative error e < 1 (about kappa times its unit roundoff) each round gains a factor 1 / e. What
/// x in f64 can reach is about 2^-53 ||A|| ||x|| / ||b||, which is up to kappa 2^-53: 1e-12 where kappa < 10^4 whatever b is, and
/// for most b far beyond. Stagnation means that twelve rounds did not gain 10 % together, and x is the best one met.
///
/// # Cost
/// A product in f64 each round (two with [`RefinementOptions::energy`]) and the inner solve; six vectors.
///
/// # Errors
/// [`Error::Shape`] for vectors of another length than the operator's size, [`Error::NonFinite`] for b and x0; whatever `inner` fails
/// with.
///
/// ```
/// use macheps::solve::{Outcome, refinement::{Correction, RefinementOptions, refine_matrix}};
/// use macheps::sparse::Dense;
/// let a = Dense::new(2, 2, vec![3.0, 1.0, 1.0, 7.0])?.to_csr()?;
/// // A solver that knows three digits.
/// let mut inner = |r: &[f64]| Ok(Correction::new(vec![0.351 * r[0] - 0.05 * r[1], -0.05 * r[0] + 0.151 * r[1]], 1));
/// let got = refine_matrix(&a, &[5.0, 9.0], None, &RefinementOptions::new(1e-15), &mut inner)?;
/// assert_eq!(got.outcome, Outcome::Converged);
/// assert!((got.x[0] - 1.3).abs() < 1e-15 && (got.x[1] - 1.1).abs() < 1e-15);
/// # Ok::<(), macheps::Error>(())
/// ```
pub fn refine_matrix(
    a: &Csr<f64>,
    b: &[f64],
    x0: Option<&[f64]>,
    options: &RefinementOptions,
    inner: &mut dyn FnMut(&[f64]) -> Result<Correction>,
) -> Result<Refined> {
    a.check_square()?;
    at_once(drive(&Rows(a), b, x0, options, async |r: &[f64]| inner(r)))
}

/// A matrix as an operator on the host.
struct Rows<'a>(&'a Csr<f64>);

impl LinearOperator for Rows<'_> {
    fn size(&self) -> usize {
        self.0.rows()
    }

    fn apply(&self, x: &[f64], y: &mut [f64]) {
        by_rows(self.0, x, None, y);
    }

    fn bind(&self, _: &Gpu, _: &OperatorCall<'_>) -> Result<Box<dyn Record>> {
        Err(Error::Unsupported {
            what: "a matrix of the host on a device".into(),
            reason: "use CsrOperator".into(),
        })
    }

    fn norm_inf(&self) -> Option<f64> {
        Some(self.0.norm_inf())
    }

    fn matrix(&self) -> Option<&Csr<f64>> {
        Some(self.0)
    }
}

/// [`refine_matrix`] for any operator.
///
/// # Errors
/// Those of [`refine_matrix`].
pub fn refine(
    operator: &dyn LinearOperator,
    b: &[f64],
    x0: Option<&[f64]>,
    options: &RefinementOptions,
    inner: &mut dyn FnMut(&[f64]) -> Result<Correction>,
) -> Result<Refined> {
    at_once(refine_async(operator, b, x0, options, async |r: &[f64]| inner(r)))
}

/// [`refine`] with an inner solver that has to wait.
///
/// # Errors
/// Those of [`refine_matrix`].
pub async fn refine_async(
    operator: &dyn LinearOperator,
    b: &[f64],
    x0: Option<&[f64]>,
    options: &RefinementOptions,
    inner: impl AsyncFnMut(&[f64]) -> Result<Correction>,
) -> Result<Refined> {
    drive(operator, b, x0, options, inner).await
}

/// The result of a future that never waits.
fn at_once(refined: impl Future<Output = Result<Refined>>) -> Result<Refined> {
    refined.now_or_never().unwrap_or_else(|| {
        Err(Error::Unsupported {
            what: "an inner solver that waits".into(),
            reason: "use refine_async".into(),
        })
    })
}

/// What [`lifted`] adds to the diagonal for an inner solver in f32, relative to it: 16 unit roundoffs.
pub const LIFT: f64 = 16.0 * crate::accuracy::U;

/// A with its diagonal multiplied by 1 + sigma: the matrix for the inner solver where A itself, rounded to the inner precision, is singular
/// or indefinite (condition times unit roundoff near 1 or above).
///
/// With [`LIFT`] what rounding does to the entries is outweighed for most matrices; the corrections are then wrong only in the directions
/// of the few smallest eigenvalues, and [`RefinementOptions::energy`] puts those right in about as many rounds more as there are.
///
/// # Errors
/// [`Error::Shape`] for a matrix that is not square; [`Error::Csr`] where an element is not finite any more.
///
/// ```
/// use macheps::{solve::refinement::lifted, sparse::Dense};
/// let a = Dense::new(2, 2, vec![4.0, 1.0, 1.0, 2.0])?.to_csr()?;
/// assert_eq!(lifted(&a, 0.5)?.diagonal(), [6.0, 3.0]);
/// # Ok::<(), macheps::Error>(())
/// ```
pub fn lifted(a: &Csr<f64>, sigma: f64) -> Result<Csr<f64>> {
    a.check_square()?;
    let values = a.iter().map(|(i, j, v)| if i == j { v * (1.0 + sigma) } else { v });
    a.with_values(values.collect())
}

/// r = b - A x, exact but for one rounding where the operator has a matrix.
pub(super) fn residual(operator: &dyn LinearOperator, b: &[f64], x: &[f64], r: &mut [f64]) {
    match operator.matrix() {
        Some(a) => by_rows(a, x, Some(b), r),
        None => {
            operator.apply(x, r);
            r.iter_mut().zip(b).for_each(|(r, b)| *r = b - *r);
        }
    }
}

/// y = A x, or b - A x, each row with one rounding in effect.
fn by_rows(a: &Csr<f64>, x: &[f64], b: Option<&[f64]>, y: &mut [f64]) {
    let row = |i: usize| {
        let (columns, values) = a.row(i);
        let mut sum = Neumaier::default();
        let sign = match b {
            Some(b) => {
                sum.add(b[i]);
                -1.0
            }
            None => 1.0,
        };
        for (&j, &v) in columns.iter().zip(values) {
            sum.add_product(sign * v, x[j as usize]);
        }
        sum.value()
    };
    #[cfg(not(target_arch = "wasm32"))]
    if a.entries() > 1 << 14 {
        use rayon::prelude::*;
        y.par_iter_mut()
            .enumerate()
            .with_min_len(512)
            .for_each(|(i, y)| *y = row(i));
        return;
    }
    y.iter_mut().enumerate().for_each(|(i, y)| *y = row(i));
}

/// Where A or b are near the ends of the range of numbers, all but the inner solver works on 2^e A y = 2^s b, x = 2^(e-s) y.
async fn drive(
    operator: &dyn LinearOperator,
    b: &[f64],
    x0: Option<&[f64]>,
    options: &RefinementOptions,
    mut inner: impl AsyncFnMut(&[f64]) -> Result<Correction>,
) -> Result<Refined> {
    let n = operator.size();
    for (what, length) in [
        ("right-hand side", Some(b.len())),
        ("start vector", x0.map(<[f64]>::len)),
    ] {
        if let Some(length) = length.filter(|&length| length != n) {
            return Err(Error::shape(what, n.to_string(), length.to_string()));
        }
    }
    check_finite("b", b)?;
    check_finite("x0", x0.unwrap_or(&[]))?;
    let ranged = RangedOperator::new(operator, false);
    let (e, s) = (ranged.exponent, ranged.shift_for(b, &[]));
    let operator = ranged.operator();
    let b = &scaled(b, s)[..];
    // A start that cannot be told in this scale is of no use.
    let start = x0.map(|x0| scaled(x0, s - e)).filter(|x0| is_finite(x0));
    let product = &|x: &[f64], y: &mut [f64]| operator.apply(x, y);
    let residual = |x: &[f64], r: &mut [f64]| residual(operator, b, x, r);
    let b_norm = norm(b);
    let relative = |r: &[f64]| match norm(r) {
        0.0 => 0.0,
        r => r / b_norm,
    };
    let mut x = if b_norm == 0.0 {
        vec![0.0; n]
    } else {
        start.unwrap_or_else(|| vec![0.0; n])
    };
    let mut r = vec![0.0; n];
    residual(&x, &mut r);
    let first = relative(&r);
    let mut found = Refined {
        x: x.clone(),
        outcome: Outcome::IterationLimit,
        refinements: 0,
        iterations: 0,
        residual_history: vec![first],
        relative_residual: first,
    };
    let mut before: Option<Direction> = None;
    // The best residual when a gain was last seen, and rounds since.
    let (mut mark, mut idle) = (first, 0);
    loop {
        let now = *found.residual_history.last().unwrap_or(&first);
        let breakdown = |kind| Outcome::Breakdown {
            kind,
            iteration: found.iterations,
        };
        if now <= options.rtol {
            found.outcome = Outcome::Converged;
        } else if !now.is_finite() {
            found.outcome = breakdown(Breakdown::NonFinite);
        } else if now > 1e6 * first.max(1.0) {
            found.outcome = breakdown(Breakdown::Divergence);
        } else if idle >= IDLE {
            found.outcome = breakdown(Breakdown::Stagnation);
        } else if found.refinements < options.max_refinements {
            let shift = exponent(&r);
            let correction = inner(&scaled(&r, -shift)).await?;
            if correction.x.len() != n {
                let got = correction.x.len().to_string();
                return Err(Error::shape("correction", n.to_string(), got));
            }
            found.iterations += correction.iterations;
            let c = scaled(&correction.x, shift - e);
            if !is_finite(&c) {
                found.outcome = Outcome::Breakdown {
                    kind: Breakdown::NonFinite,
                    iteration: found.iterations,
                };
                break;
            }
            if options.energy {
                match Direction::new(c, product, before.take(), &r) {
                    Ok(direction) => {
                        add_scaled(&mut x, direction.length, &direction.p);
                        before = Some(direction);
                    }
                    Err(kind) => {
                        found.outcome = Outcome::Breakdown {
                            kind,
                            iteration: found.iterations,
                        };
                        break;
                    }
                }
            } else {
                add_scaled(&mut x, 1.0, &c);
            }
            found.refinements += 1;
            residual(&x, &mut r);
            let now = relative(&r);
            found.residual_history.push(now);
            if now < found.relative_residual {
                found.relative_residual = now;
                found.x.copy_from_slice(&x);
            }
            if found.relative_residual < 0.9 * mark {
                (mark, idle) = (found.relative_residual, 0);
            } else {
                idle += 1;
            }
            continue;
        }
        break;
    }
    if s != e {
        let y = std::mem::take(&mut found.x);
        found.x = scaled(&y, e - s);
        let again = scaled(&found.x, s - e);
        if !is_finite(&found.x) {
            found.x = x0.map_or_else(|| vec![0.0; n], <[f64]>::to_vec);
            found.relative_residual = first;
            found.outcome = Outcome::Breakdown {
                kind: Breakdown::NonFinite,
                iteration: found.iterations,
            };
        } else if again != y {
            // Subnormal numbers have fewer digits.
            residual(&again, &mut r);
            found.relative_residual = relative(&r);
            if found.outcome == Outcome::Converged && found.relative_residual > options.rtol {
                found.outcome = Outcome::Breakdown {
                    kind: Breakdown::Stagnation,
                    iteration: found.iterations,
                };
            }
        }
    }
    Ok(found)
}

/// Rounds without a gain after which it is over. The energy of the error falls in each, but residuals may take a while to follow.
const IDLE: usize = 12;

/// A correction as it was added: p, A p, p.Ap, and the step's length.
struct Direction {
    p: Vec<f64>,
    q: Vec<f64>,
    curvature: f64,
    length: f64,
}

impl Direction {
    /// c made conjugate to the direction before, with the step that minimises the energy of the error.
    fn new(
        c: Vec<f64>,
        product: &dyn Fn(&[f64], &mut [f64]),
        before: Option<Direction>,
        r: &[f64],
    ) -> Result<Direction, Breakdown> {
        // Near 1, so that no square overflows or vanishes; the scale of r stays with the length.
        let shift = exponent(&c);
        let mut p = scaled(&c, -shift);
        let mut q = vec![0.0; p.len()];
        product(&p, &mut q);
        if let Some(before) = before {
            let part = dot(&p, &before.q) / before.curvature;
            if part.is_finite() {
                add_scaled(&mut p, -part, &before.p);
                add_scaled(&mut q, -part, &before.q);
            }
        }
        let curvature = dot(&p, &q);
        let r_shift = exponent(r);
        let length = crate::float::ldexp(dot(&p, &scaled(r, -r_shift)) / curvature, r_shift);
        if p.iter().all(|&v| v == 0.0) {
            // The inner solver has nothing to add.
            return Err(Breakdown::Stagnation);
        }
        if !curvature.is_finite() || !length.is_finite() {
            return Err(Breakdown::NonFinite);
        }
        if curvature <= 0.0 {
            return Err(Breakdown::NotPositiveDefinite);
        }
        Ok(Direction {
            p,
            q,
            curvature,
            length,
        })
    }
}
