//! Whether a stationary iteration will converge, and how fast.

use super::super::LinearOperator;
use super::super::preconditioners::check_omega;
use super::super::tridiagonal::Tridiagonal;
use super::super::vector::{dot, norm};
use super::device::{diagonal_of, inverses, matrix_of};
use super::reference;
use crate::error::{Error, Result};
use crate::random::Random;

/// A stationary iteration.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum RelaxationMethod {
    /// Jacobi's method.
    Jacobi {
        /// w.
        omega: f64,
    },
    /// SOR with the rows as they stand; Gauss-Seidel for w = 1. By colours the rate is about the same, and for matrices that are
    /// consistently ordered exactly so (Young 1971).
    Sor {
        /// w.
        omega: f64,
    },
}

/// What [`forecast`] finds.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Forecast {
    /// The iteration.
    pub method: RelaxationMethod,
    /// Whether the diagonal dominates every row strictly, which makes Jacobi (w <= 1) and Gauss-Seidel converge from any start; `None` where no entries are known.
    pub strictly_dominant: Option<bool>,
    /// Estimate of the spectral radius of the iteration: the factor by which a sweep shrinks the error in the long run.
    pub spectral_radius: f64,
    /// By Lanczos: an eigenvalue lies within this distance, though perhaps not the largest one. By power iteration: how much the
    /// estimate still moved over the last quarter of its steps. The truth may be further off.
    pub uncertainty: f64,
    /// Sweeps, or products, that the estimate took.
    pub steps: usize,
    /// w for which Jacobi's method converges fastest, 2 / (smallest + largest eigenvalue of D^-1 A); for symmetric matrices with a positive
    /// diagonal whose eigenvalues come out positive.
    pub best_omega: Option<f64>,
    /// Whether the iteration converges; `None` where the estimate is too near 1 to tell.
    pub converges: Option<bool>,
}

impl Forecast {
    /// Sweeps until the error has shrunk by `factor` (1e-6, say); `None` where it does not.
    pub fn iterations(&self, factor: f64) -> Option<usize> {
        if self.converges == Some(false) || self.spectral_radius >= 1.0 {
            return None;
        }
        if factor >= 1.0 {
            return Some(0);
        }
        if self.spectral_radius == 0.0 {
            return Some(1);
        }
        // Saturates where the factor is 0.
        Some((factor.ln() / self.spectral_radius.ln()).ceil() as usize)
    }

    /// The forecast in words.
    pub fn verdict(&self) -> String {
        let (name, omega) = match self.method {
            RelaxationMethod::Jacobi { omega } => ("Jacobi", omega),
            RelaxationMethod::Sor { omega: 1.0 } => ("Gauss-Seidel", 1.0),
            RelaxationMethod::Sor { omega } => ("SOR", omega),
        };
        let name = if omega == 1.0 {
            name.to_string()
        } else {
            format!("{name} with omega {omega}")
        };
        let rho = self.spectral_radius;
        let mut words = match (self.converges, self.iterations(1e-6)) {
            (Some(true), Some(sweeps)) => {
                format!("{name} converges: spectral radius about {rho:.6}, about {sweeps} sweeps for a factor 1e-6")
            }
            (Some(false), _) => format!("{name} diverges: spectral radius about {rho:.6}"),
            _ => format!("{name} is at the border of convergence: spectral radius about {rho:.6}"),
        };
        if self.strictly_dominant == Some(true) {
            words += "; the matrix is strictly diagonally dominant";
        }
        if let (RelaxationMethod::Jacobi { .. }, Some(best), Some(false)) =
            (self.method, self.best_omega, self.converges)
        {
            words += &format!("; omega below {best:.4} converges");
        }
        words
    }
}

/// Most steps of an estimate.
const STEPS: usize = 300;

/// Forecasts the convergence of a stationary iteration on an operator.
///
/// # Definition
/// The spectral radius of the iteration matrix. For Jacobi on a matrix known to be symmetric, with a positive diagonal, from the extreme eigenvalues of
/// D^-1/2 A D^-1/2 by Lanczos' method; otherwise by power iteration, as the growth of a vector over the second half of the sweeps,
/// which serves complex pairs as well. Both begin at the same numbers every time.
///
/// # Numerics
/// f64. Lanczos' estimates approach from inside, so a radius made of them is a lower bound up to rounding; power iteration may be off
/// either way where several eigenvalues are nearly as large, and [`Forecast::uncertainty`] says how far it has settled.
///
/// # Cost
/// At most 300 products or sweeps on the host.
///
/// # Errors
/// [`Error::Option`] for w outside (0, 2), [`Error::Unsupported`] for an operator without what the method needs, [`Error::Diagonal`] for
/// a zero on the diagonal.
///
/// ```
/// use macheps::{Gpu, solve::{LinearOperator, OperatorCall, Record}};
/// use macheps::solve::relaxation::{RelaxationMethod, forecast};
/// // 2 -1; -1 2: Jacobi's iteration is 0 1/2; 1/2 0.
/// struct A;
/// impl LinearOperator for A {
///     fn size(&self) -> usize { 2 }
///     fn apply(&self, x: &[f64], y: &mut [f64]) { (y[0], y[1]) = (2.0 * x[0] - x[1], 2.0 * x[1] - x[0]) }
///     fn diagonal(&self) -> Option<Vec<f64>> { Some(vec![2.0; 2]) }
///     fn bind(&self, _: &Gpu, _: &OperatorCall<'_>) -> macheps::Result<Box<dyn Record>> { unreachable!("no device here") }
/// }
/// let forecast = forecast(&A, RelaxationMethod::Jacobi { omega: 1.0 })?;
/// assert!((forecast.spectral_radius - 0.5).abs() < 1e-6);
/// assert_eq!(forecast.iterations(1e-6), Some(20));
/// # Ok::<(), macheps::Error>(())
/// ```
pub fn forecast(operator: &dyn LinearOperator, method: RelaxationMethod) -> Result<Forecast> {
    let n = operator.size();
    let matrix = operator.matrix();
    let strictly_dominant = matrix.map(|a| a.diagonal_dominance().strict);
    let (RelaxationMethod::Jacobi { omega } | RelaxationMethod::Sor { omega }) = method;
    check_omega(omega)?;
    let found = match method {
        RelaxationMethod::Jacobi { .. } => {
            let diagonal = diagonal_of(operator)?;
            check_diagonal(&diagonal)?;
            let symmetric = matrix.is_some_and(|a| a.symmetry().largest_difference <= 1e-12);
            if symmetric && diagonal.iter().all(|&d| d > 0.0) {
                lanczos(operator, &diagonal, omega)
            } else {
                let mut product = vec![0.0; n];
                power(n, |x| {
                    operator.apply(x, &mut product);
                    for ((x, q), d) in x.iter_mut().zip(&product).zip(&diagonal) {
                        *x -= omega * q / d;
                    }
                })
            }
        }
        RelaxationMethod::Sor { .. } => {
            let a = matrix_of(operator)?;
            check_diagonal(&a.diagonal())?;
            let zeros = vec![0.0; n];
            power(n, |x| reference::sor_sweep(a, omega, &zeros, x, 0..n))
        }
    };
    // Dominance proves what an estimate only suggests.
    let proven = strictly_dominant == Some(true) && omega <= 1.0;
    let converges = if proven || found.radius + found.uncertainty < 1.0 {
        Some(true)
    } else if found.radius - found.uncertainty > 1.0 {
        Some(false)
    } else {
        None
    };
    Ok(Forecast {
        method,
        strictly_dominant,
        spectral_radius: if proven {
            found.radius.min(1.0f64.next_down())
        } else {
            found.radius
        },
        uncertainty: found.uncertainty,
        steps: found.steps,
        best_omega: found.best_omega,
        converges,
    })
}

fn check_diagonal(diagonal: &[f64]) -> Result<()> {
    inverses(diagonal).map(|_| ()).map_err(|row| Error::Diagonal {
        row,
        value: diagonal[row],
        expected: "a finite number other than 0",
    })
}

struct Found {
    radius: f64,
    uncertainty: f64,
    steps: usize,
    best_omega: Option<f64>,
}

/// Numbers that have no reason to be orthogonal to an eigenvector.
fn begin(n: usize) -> Vec<f64> {
    let mut random = Random::new(0x5eed);
    let mut v: Vec<f64> = (0..n).map(|_| random.normal()).collect();
    let length = norm(&v);
    v.iter_mut().for_each(|v| *v /= length);
    v
}

/// Geometric mean of the growth over the second half of the steps.
fn power(n: usize, mut iterate: impl FnMut(&mut [f64])) -> Found {
    let nothing = |steps| Found {
        radius: 0.0,
        uncertainty: 0.0,
        steps,
        best_omega: None,
    };
    if n == 0 {
        return nothing(0);
    }
    let mut v = begin(n);
    let mut growth = Vec::new();
    let mean = |growth: &[f64]| (growth.iter().sum::<f64>() / growth.len() as f64).exp();
    let mut earlier = f64::INFINITY;
    loop {
        iterate(&mut v);
        let length = norm(&v);
        // Nilpotent, or as good as.
        if length < 1e-300 {
            return nothing(growth.len() + 1);
        }
        if !length.is_finite() {
            return Found {
                radius: f64::INFINITY,
                ..nothing(growth.len() + 1)
            };
        }
        growth.push(length.ln());
        v.iter_mut().for_each(|v| *v /= length);
        let steps = growth.len();
        if steps % 20 == 0 || steps == STEPS {
            let radius = mean(&growth[steps / 2..]);
            let before = mean(&growth[steps / 4..3 * steps / 4]);
            let uncertainty = (radius - before).abs();
            // Settled, compared with its distance from 1, which is what counts.
            let settled = uncertainty.max((radius - earlier).abs()) < 1e-3 * (radius - 1.0).abs();
            if steps == STEPS || (settled && steps >= 40) {
                return Found {
                    radius,
                    uncertainty,
                    steps,
                    best_omega: None,
                };
            }
            earlier = radius;
        }
    }
}

/// The radius of I - w D^-1 A from the extreme eigenvalues of D^-1/2 A D^-1/2.
fn lanczos(operator: &dyn LinearOperator, diagonal: &[f64], omega: f64) -> Found {
    let n = diagonal.len();
    let mut found = Found {
        radius: 0.0,
        uncertainty: 0.0,
        steps: 0,
        best_omega: None,
    };
    if n == 0 {
        return found;
    }
    let root: Vec<f64> = diagonal.iter().map(|d| 1.0 / d.sqrt()).collect();
    let (mut v, mut old) = (begin(n), vec![0.0; n]);
    let (mut scaled, mut w) = (vec![0.0; n], vec![0.0; n]);
    let (mut alpha, mut beta): (Vec<f64>, Vec<f64>) = (Vec::new(), Vec::new());
    loop {
        scaled.iter_mut().zip(&v).zip(&root).for_each(|((s, v), d)| *s = v * d);
        operator.apply(&scaled, &mut w);
        w.iter_mut().zip(&root).for_each(|(w, d)| *w *= d);
        let a = dot(&w, &v);
        let b = beta.last().copied().unwrap_or(0.0);
        for i in 0..n {
            w[i] -= a * v[i] + b * old[i];
        }
        alpha.push(a);
        let steps = alpha.len();
        let next = norm(&w);
        // An invariant space: all that a start can see is seen.
        let complete = next <= 1e-13 * a.abs().max(b) || steps == n;
        if complete || steps == STEPS || steps % 25 == 0 {
            let projected = Tridiagonal::new(&alpha, &beta);
            let Some((low, high)) = projected.extremes() else {
                return found;
            };
            let error = |value: f64| {
                if complete {
                    0.0
                } else {
                    next * projected.last_element(value).abs()
                }
            };
            found = Found {
                radius: (1.0 - omega * low).abs().max((1.0 - omega * high).abs()),
                uncertainty: omega * error(low).max(error(high)),
                steps,
                best_omega: (low > 0.0).then(|| 2.0 / (low + high)),
            };
            let settled = found.uncertainty < 1e-4 * (found.radius - 1.0).abs();
            if complete || steps == STEPS || settled {
                return found;
            }
        }
        beta.push(next);
        for i in 0..n {
            old[i] = v[i];
            v[i] = w[i] / next;
        }
    }
}
