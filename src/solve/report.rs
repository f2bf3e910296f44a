//! What a solver says about its answer.

/// How a solve ended. x is the best there is in every case.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub enum Outcome {
    /// The relative residual, recomputed in f64 with the matrix as given, is at most the tolerance.
    Converged,
    /// The iterations were used up.
    IterationLimit,
    /// The method cannot go on.
    Breakdown {
        /// Why.
        kind: Breakdown,
        /// In which iteration, from 0.
        iteration: usize,
    },
}

/// Why a method cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub enum Breakdown {
    /// p.Ap <= 0 for a direction p that is not 0 (or r.M^-1 r <= 0): A or M is not positive definite.
    NotPositiveDefinite,
    /// An infinity or NaN.
    NonFinite,
    /// The residual does not fall any further: the accuracy that the working precision allows is reached.
    Stagnation,
    /// A diagonal entry is zero or missing.
    ZeroDiagonal {
        /// Its row.
        row: usize,
    },
    /// The residual grows: the iteration diverges.
    Divergence,
}

/// How far an answer can be trusted.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Report {
    /// How the solve ended.
    pub outcome: Outcome,
    /// Iterations done, those of all restarts and refinements.
    pub iterations: usize,
    /// ||r|| / ||b|| after each iteration as the method knew it, from the start (0 iterations) on.
    pub residual_history: Vec<f64>,
    /// ||b - A x|| / ||b|| in the 2-norm, computed in f64 with the operator as given; 0 for b = 0 and x = 0.
    pub relative_residual: f64,
    /// Normwise backward error ||r|| / (||A|| ||x|| + ||b||) in the infinity norm; `None` where no norm of A is known.
    pub backward_error: Option<f64>,
    /// Estimate of the 2-norm condition number of A: a lower bound from Lanczos coefficients.
    pub condition_estimate: Option<f64>,
    /// The same of M^-1 A, which is what a preconditioned iteration sees.
    pub preconditioned_condition_estimate: Option<f64>,
    /// Bound on ||x - x*|| / ||x*|| made of estimates, with a safety factor.
    pub forward_error_bound: Option<f64>,
    /// Corrections by iterative refinement.
    pub refinements: usize,
    /// What to do about it, in words.
    pub advice: Vec<String>,
    /// Wall-clock time.
    pub seconds: f64,
}

impl Report {
    /// Decimal digits of x that can be trusted: -log10 of the forward error bound, between 0 and 16.
    pub fn digits(&self) -> Option<f64> {
        self.forward_error_bound.map(|bound| (-bound.log10()).clamp(0.0, 16.0))
    }

    /// Whether the tolerance was reached.
    pub fn converged(&self) -> bool {
        self.outcome == Outcome::Converged
    }
}

/// An answer and what is known about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Solution {
    /// x.
    pub x: Vec<f64>,
    /// How far to trust it.
    pub report: Report,
}
