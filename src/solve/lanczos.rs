//! Lanczos's method on the host, for a symmetric operator or its inverse.

use super::conjugate_gradient::reference::{Control, Map, conjugate_gradient};
use super::tridiagonal::Tridiagonal;
use super::vector::{add_scaled, dot, is_finite, norm};
use super::{Breakdown, Outcome};
use crate::error::Result;
use crate::random::Random;

/// Numbers that kept vectors may have together: 256 MiB.
const KEPT: usize = 1 << 25;

/// An eigenvalue of the projected operator.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Ritz {
    pub value: f64,
    /// An eigenvalue lies within this distance: the residual of the Ritz vector, or, where the next Ritz value is far, its square over
    /// their distance.
    pub error: f64,
}

/// A Krylov space with an orthonormal basis, and the operator within it.
pub(super) struct Krylov {
    /// The last two vectors, and those before them as far as they are kept.
    basis: Vec<Vec<f64>>,
    diagonal: Vec<f64>,
    beside: Vec<f64>,
    keep: usize,
    /// Whether the space holds all that the start vector has: nothing is beside it.
    pub exhausted: bool,
}

impl Krylov {
    /// From a start vector; `None` for one that is zero or not finite.
    pub(super) fn new(start: Vec<f64>) -> Option<Krylov> {
        let keep = (KEPT / start.len().max(1)).max(2);
        let mut start = start;
        let length = norm(&start);
        if length == 0.0 || !length.is_finite() {
            return None;
        }
        start.iter_mut().for_each(|v| *v /= length);
        Some(Krylov {
            basis: vec![start],
            diagonal: Vec::new(),
            beside: Vec::new(),
            keep,
            exhausted: false,
        })
    }

    /// A start vector without a preferred direction.
    pub(super) fn random(n: usize) -> Vec<f64> {
        let mut random = Random::new(0x6c61_6e63_7a6f_7321);
        (0..n).map(|_| random.normal()).collect()
    }

    /// The newest vector, which the operator is to be applied to.
    pub(super) fn newest(&self) -> &[f64] {
        self.basis.last().map_or(&[], Vec::as_slice)
    }

    pub(super) fn steps(&self) -> usize {
        self.diagonal.len()
    }

    /// Takes the product with the newest vector; false if it is not finite.
    pub(super) fn extend(&mut self, mut w: Vec<f64>) -> bool {
        if !is_finite(&w) {
            return false;
        }
        let before = norm(&w);
        self.diagonal.push(dot(self.newest(), &w));
        // Twice is enough for an orthogonal basis. Where vectors had to be dropped, those that are left do for extreme eigenvalues.
        for _ in 0..2 {
            for v in self.basis.iter().rev() {
                let part = dot(v, &w);
                add_scaled(&mut w, -part, v);
            }
        }
        let length = norm(&w);
        self.beside.push(length);
        if length <= 1e-14 * before {
            self.exhausted = true;
            return true;
        }
        w.iter_mut().for_each(|v| *v /= length);
        if self.basis.len() >= self.keep {
            self.basis.remove(0);
        }
        self.basis.push(w);
        true
    }

    pub(super) fn tridiagonal(&self) -> Tridiagonal {
        Tridiagonal::new(&self.diagonal, &self.beside)
    }

    fn ritz(&self, largest: bool) -> Ritz {
        let t = self.tridiagonal();
        let m = t.size();
        let (at, next) = if largest {
            (m.wrapping_sub(1), m.wrapping_sub(2))
        } else {
            (0, 1)
        };
        let Some(value) = t.eigenvalue(at) else {
            return Ritz::default();
        };
        let left = if self.exhausted { 0.0 } else { self.beside[m - 1] };
        let residual = left * t.last_element(value);
        let gap = t.eigenvalue(next).map_or(0.0, |next| (value - next).abs());
        let error = if gap > residual {
            residual * (residual / gap)
        } else {
            residual
        };
        // Bisection and the orthogonalisation round.
        let rounding = 8.0 * f64::EPSILON * self.scale();
        Ritz {
            value,
            error: error + rounding,
        }
    }

    /// Largest magnitude of the projected operator's elements.
    fn scale(&self) -> f64 {
        self.diagonal
            .iter()
            .chain(&self.beside)
            .fold(0.0, |m: f64, v| m.max(v.abs()))
    }

    pub(super) fn largest(&self) -> Ritz {
        self.ritz(true)
    }

    pub(super) fn smallest(&self) -> Ritz {
        self.ritz(false)
    }
}

/// Whether a Ritz value has converged and stayed: one that has met an eigenvalue may leave it yet for one beyond, of which the start
/// vector held less.
pub(super) struct Settled {
    tolerance: f64,
    since: Option<(usize, f64)>,
    extra: usize,
}

impl Settled {
    /// Relative tolerance, and steps to wait in any case.
    pub(super) fn new(tolerance: f64, extra: usize) -> Settled {
        Settled {
            tolerance,
            since: None,
            extra,
        }
    }

    /// Takes the value after this many steps.
    pub(super) fn look(&mut self, ritz: Ritz, steps: usize) -> bool {
        let allowed = self.tolerance * ritz.value.abs();
        match self.since {
            _ if ritz.error > allowed => self.since = None,
            Some((_, value)) if (value - ritz.value).abs() > allowed => self.since = Some((steps, ritz.value)),
            None => self.since = Some((steps, ritz.value)),
            Some((first, _)) => return steps >= first + first / 2 + self.extra,
        }
        false
    }
}

/// What the inverse of a positive definite operator showed.
#[derive(Clone, Debug)]
pub(super) struct Inverse {
    /// Of the smallest eigenvalue of A.
    pub smallest: Ritz,
    /// Solves.
    pub steps: usize,
    /// Iterations of conjugate gradients in all of them.
    pub iterations: usize,
    /// Why it ended early.
    pub breakdown: Option<Breakdown>,
}

/// How exactly [`inverse`] works.
#[derive(Clone, Copy, Debug)]
pub(super) struct InverseOptions {
    /// Of the eigenvalue, relative.
    pub tolerance: f64,
    /// The most solves.
    pub steps: usize,
    /// Relative residual of each.
    pub rtol: f64,
    /// The most iterations of all together.
    pub iterations: usize,
}

/// Lanczos's method on A^-1, each product a solve by conjugate gradients: the way to the smallest eigenvalue of an ill-conditioned
/// operator. An inexact solve moves the eigenvalue by its relative residual, which is added to the error.
pub(super) fn inverse(
    product: &mut Map<'_>,
    mut precondition: Option<&mut Map<'_>>,
    start: Vec<f64>,
    options: &InverseOptions,
) -> Result<Option<Inverse>> {
    let Some(mut krylov) = Krylov::new(start) else {
        return Ok(None);
    };
    let mut found = Inverse {
        smallest: Ritz::default(),
        steps: 0,
        iterations: 0,
        breakdown: None,
    };
    let mut worst = 0.0f64;
    let mut settled = Settled::new(options.tolerance, 2);
    while found.steps < options.steps.min(krylov.newest().len()) && !krylov.exhausted {
        let left = options.iterations.saturating_sub(found.iterations);
        if left == 0 {
            break;
        }
        let control = Control::new(options.rtol, left);
        let run = match &mut precondition {
            Some(map) => conjugate_gradient(product, Some(&mut **map), krylov.newest(), None, &control)?,
            None => conjugate_gradient(product, None, krylov.newest(), None, &control)?,
        };
        found.iterations += run.iterations;
        match run.outcome {
            Outcome::Breakdown { kind, .. } if kind != Breakdown::Stagnation => {
                found.breakdown = Some(kind);
                break;
            }
            // Half a solution would stand for another operator.
            Outcome::IterationLimit if found.steps > 0 => break,
            _ => (),
        }
        worst = worst.max(run.relative_residual);
        if !krylov.extend(run.x) {
            found.breakdown = Some(Breakdown::NonFinite);
            break;
        }
        found.steps += 1;
        let ritz = krylov.largest();
        if ritz.value > 0.0 {
            found.smallest = Ritz {
                value: 1.0 / ritz.value,
                error: (ritz.error / ritz.value + worst) / ritz.value,
            };
            if settled.look(ritz, found.steps) {
                break;
            }
        }
    }
    Ok(Some(found))
}
