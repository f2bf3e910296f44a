//! What a solver says about its answer.

use super::conjugate_gradient::reference::{Control, Map, conjugate_gradient};
use super::lanczos::{self, InverseOptions, Krylov};
use super::range::{RangedOperator, check_finite, device_exponent};
use super::tridiagonal::Tridiagonal;
use super::vector::{add_scaled, is_finite, norm, norm_inf, scale_and_add, scaled};
use super::{LinearOperator, Preconditioner, PreconditionerForm};
use crate::error::{Error, Result};
use crate::float::ldexp;

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
    /// A diagonal entry is negative where a method needs positive ones: A is not positive definite.
    NegativeDiagonal {
        /// Its row.
        row: usize,
    },
    /// The residual grows: the iteration diverges.
    Divergence,
}

impl Breakdown {
    /// What an error says about the matrix rather than about the call: a diagonal entry that is zero or negative, which
    /// preconditioners refuse ([`Error::Diagonal`]). `None` for other errors. See [`Solution::broken_down`].
    pub fn of_error(error: &Error) -> Option<Breakdown> {
        match *error {
            Error::Diagonal { row, value: 0.0, .. } => Some(Breakdown::ZeroDiagonal { row }),
            Error::Diagonal { row, value, .. } if value < 0.0 => Some(Breakdown::NegativeDiagonal { row }),
            _ => None,
        }
    }
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
    /// Bound on ||x - x*|| / ||x*|| made of estimates, with a safety factor. An estimate of the smallest eigenvalue comes from above, so the
    /// bound can be too low where the right-hand side hardly has a part along the smallest eigenvectors and others lie close: of blocks
    /// with eigenvalues spread evenly in their logarithms from 1e-12 to 1 it has been up to 98 times too low.
    pub forward_error_bound: Option<f64>,
    /// Whether A showed itself to be singular or not positive definite as far as f64 can tell, in a run of its own.
    pub doubtful: bool,
    /// Corrections by residuals in f64: how often x in f64 was added to.
    pub refinements: usize,
    /// What to do about it, in words.
    pub advice: Vec<String>,
    /// Wall-clock time.
    pub seconds: f64,
}

/// Where the condition of A is to come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConditionEstimate {
    /// Nowhere: no condition, no forward error bound.
    Off,
    /// From the coefficients of the run. Without a preconditioner they show A's; with a diagonal one they show M^-1 A's, which
    /// bounds the error too; with others they say nothing about A.
    #[default]
    FromRun,
    /// From a separate run on A, in f64 on the host: some steps of Lanczos's method for the largest eigenvalue and up to
    /// five solves with A for the smallest, each about as long as the run was or 500 iterations. The first of them estimates the error
    /// itself.
    OwnRun,
}

/// How a report is made.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ReportOptions {
    /// Where the condition of A is to come from.
    pub condition: ConditionEstimate,
}

impl ReportOptions {
    /// With this source of the condition.
    pub fn new(condition: ConditionEstimate) -> ReportOptions {
        ReportOptions { condition }
    }
}

/// What a solver knows when it is done.
#[derive(Clone)]
#[non_exhaustive]
pub struct RunFacts<'a> {
    /// How the method says that it ended. [`Report::assess`] holds it to the residual.
    pub outcome: Outcome,
    /// Goal of the relative residual.
    pub rtol: f64,
    /// Iterations done.
    pub iterations: usize,
    /// ||r|| / ||b|| as the method knew it.
    pub residual_history: Vec<f64>,
    /// `r.z / p.Ap` of each iteration of conjugate gradients; empty for other methods.
    pub alphas: &'a [f64],
    /// `r'.z' / r.z` of each iteration, 0 where it started anew.
    pub betas: &'a [f64],
    /// What M^-1 was.
    pub preconditioner: Option<&'a dyn Preconditioner>,
    /// Unit roundoff that the method computed with: 2^-24 on a device, 2^-53 on the host.
    pub unit_roundoff: f64,
    /// Corrections by residuals in f64: how often x in f64 was added to.
    pub refinements: usize,
    /// Wall-clock time.
    pub seconds: f64,
}

impl RunFacts<'_> {
    /// A run in f32 about which nothing else is known.
    pub fn new(outcome: Outcome, rtol: f64, iterations: usize) -> Self {
        RunFacts {
            outcome,
            rtol,
            iterations,
            residual_history: Vec::new(),
            alphas: &[],
            betas: &[],
            preconditioner: None,
            unit_roundoff: crate::accuracy::U,
            refinements: 0,
            seconds: 0.0,
        }
    }
}

/// Factor in forward error bounds for what estimates may miss: a run's Ritz values approach the smallest eigenvalue from above.
pub const SAFETY_FACTOR: f64 = 10.0;

/// The same where the smallest eigenvalue comes from a run of its own.
pub const SAFETY_FACTOR_OWN_RUN: f64 = 2.0;

/// Steps of Lanczos's method for the largest eigenvalue.
const STEPS: usize = 40;

/// What there is to know about the condition of A.
#[derive(Clone, Copy, Debug, Default)]
struct Condition {
    condition: Option<f64>,
    preconditioned: Option<f64>,
    /// Bound on ||x - x*|| in the 2-norm, safety factor included.
    error: Option<f64>,
    /// ||A||, or what is known of it.
    norm: Option<f64>,
    /// Whether A turned out to be singular or indefinite as far as f64 can tell.
    doubtful: bool,
}

impl Condition {
    /// Nothing can be said about errors.
    fn doubtful() -> Condition {
        Condition {
            doubtful: true,
            ..Condition::default()
        }
    }
}

/// Asymmetry, relative to the largest element, beyond which a matrix is not symmetric up to rounding.
const ROUNDING: f64 = 1e-12;

/// Whether an operator is known not to be symmetric.
pub(super) fn unsymmetric(operator: &dyn LinearOperator) -> Option<f64> {
    let symmetry = operator.symmetry()?;
    (symmetry.largest_difference > ROUNDING).then_some(symmetry.largest_difference)
}

impl Report {
    /// Judges x as an answer to A x = b, on the host in f64. Any x will do: also one that somebody else computed.
    ///
    /// # Definition
    /// - r = b - A x by [`LinearOperator::apply`]; relative residual `||r|| / ||b||` in the 2-norm. The outcome is `Converged` if and
    ///   only if it is at most `rtol`: a run that claimed so and is wrong has stagnated, one that used up its iterations there has converged.
    /// - Backward error `||r|| / (||A|| ||x|| + ||b||)` in the infinity norm.
    /// - Condition: ratio of the extreme eigenvalues of the tridiagonal matrix of the coefficients, a lower bound.
    /// - Forward error: with e = A^-1 r, `||e|| <= ||r|| / lambda_min`, and with diagonal M `||e|| <= ||M^-1/2|| ||M^-1/2 r|| / lambda_min(M^-1 A)`; the
    ///   bound on `||x - x*|| / ||x*||` is q / (1 - q) with q = s ||e|| / ||x||, or `s ||e|| ||A|| / ||b||` (kappa times the relative residual) if
    ///   that is smaller. The safety factor s is [`SAFETY_FACTOR`], or [`SAFETY_FACTOR_OWN_RUN`] after a run of its own, where ||e|| is also at
    ///   least what was solved for. An estimate all the same: no bound of this kind is a proof.
    ///
    /// # Cost
    /// One product with A; O(64 iterations) for the eigenvalues. What [`ConditionEstimate::OwnRun`] says, if asked.
    ///
    /// # Numerics
    /// f64. Near the ends of its range everything is computed times powers of two, so that no product, sum or square overflows or
    /// vanishes where the result does not; without a norm of A only b and x tell.
    ///
    /// # Errors
    /// [`Error::Shape`] if b or x is not as long as the operator is large; [`Error::NonFinite`] for b.
    pub fn assess(
        operator: &dyn LinearOperator,
        b: &[f64],
        x: &[f64],
        facts: &RunFacts<'_>,
        options: &ReportOptions,
    ) -> Result<Report> {
        let n = operator.size();
        for (what, v) in [("right-hand side", b), ("solution", x)] {
            if v.len() != n {
                return Err(Error::shape(what, n.to_string(), v.len().to_string()));
            }
        }
        check_finite("b", b)?;
        // 2^e A y = 2^s b with y = 2^(s-e) x: all that is reported is relative.
        let ranged = RangedOperator::new(operator, false);
        let (e, s) = (ranged.exponent, ranged.shift_for(b, x));
        let (scaled_b, scaled_x);
        let (given, preconditioner) = (operator, facts.preconditioner.and_then(|m| ranged.preconditioner(m)));
        let scaled_facts;
        let (operator, b, x, facts) = if (e, s) == (0, 0) {
            (operator, b, x, facts)
        } else {
            (scaled_b, scaled_x) = (scaled(b, s), scaled(x, s - e));
            scaled_facts = RunFacts {
                preconditioner: preconditioner.as_deref().or(facts.preconditioner),
                ..facts.clone()
            };
            (ranged.operator(), &scaled_b[..], &scaled_x[..], &scaled_facts)
        };
        let mut r = vec![0.0; n];
        operator.apply(x, &mut r);
        scale_and_add(&mut r, -1.0, b);
        let (r_norm, b_norm) = (norm(&r), norm(b));
        let relative_residual = match (r_norm, b_norm) {
            (0.0, _) => 0.0,
            (_, 0.0) => f64::INFINITY,
            (r, b) => r / b,
        };
        let backward_error = operator.norm_inf().map(|a| {
            let (r, scale) = (norm_inf(&r), a * norm_inf(x) + norm_inf(b));
            if r == 0.0 { 0.0 } else { r / scale }
        });
        let outcome = match facts.outcome {
            _ if relative_residual <= facts.rtol => Outcome::Converged,
            Outcome::Converged => Outcome::Breakdown {
                kind: if !is_finite(&r) {
                    Breakdown::NonFinite
                } else {
                    Breakdown::Stagnation
                },
                iteration: facts.iterations,
            },
            outcome => outcome,
        };
        // Without iterations of conjugate gradients there is nothing that asks for symmetry.
        let asymmetry = if facts.alphas.is_empty() {
            None
        } else {
            unsymmetric(given)
        };
        let judged = is_finite(&r) && n > 0 && b_norm > 0.0 && asymmetry.is_none();
        // What rounding may have hidden of r: each of its elements is a sum.
        let a_norm = operator.norm_inf();
        let hidden = a_norm.map_or(0.0, |a| f64::EPSILON * (a * norm(x) + b_norm));
        let found = match options.condition {
            ConditionEstimate::FromRun if judged => from_run(&r, hidden, facts, e),
            ConditionEstimate::OwnRun if judged => own_run(operator, &r, hidden, facts, e)?,
            _ => Condition::default(),
        };
        let forward_error_bound = if b_norm == 0.0 && r_norm == 0.0 && norm_inf(x) == 0.0 {
            // x = 0 is exact.
            Some(0.0)
        } else {
            let a_norm = a_norm.or(found.norm);
            found.error.and_then(|error| {
                let q = error / norm(x);
                let by_x = if q < 1.0 { q / (1.0 - q) } else { f64::INFINITY };
                let by_b = a_norm.map_or(f64::INFINITY, |a| error * a / b_norm);
                Some(by_x.min(by_b)).filter(|bound| bound.is_finite())
            })
        };
        let mut report = Report {
            outcome,
            iterations: facts.iterations,
            residual_history: facts.residual_history.clone(),
            relative_residual,
            backward_error,
            condition_estimate: found.condition,
            preconditioned_condition_estimate: found.preconditioned,
            forward_error_bound,
            doubtful: found.doubtful,
            refinements: facts.refinements,
            advice: Vec::new(),
            seconds: facts.seconds,
        };
        report.advise(facts, asymmetry, found.doubtful);
        report.advise_on_range(given, facts);
        Ok(report)
    }

    fn advise(&mut self, facts: &RunFacts<'_>, asymmetry: Option<f64>, doubtful: bool) {
        let mut advice = Vec::new();
        let converged = self.converged();
        if let Outcome::Breakdown { kind, iteration } = self.outcome {
            match kind {
                Breakdown::NotPositiveDefinite => advice.push(format!(
                    "in iteration {iteration} a direction of negative or no curvature was met: the matrix (or the preconditioner) is not \
                     positive definite to working precision; a shift A + lambda I may help if that is acceptable"
                )),
                Breakdown::NonFinite => advice.push(
                    "infinities or NaN appeared: scale the matrix and the right-hand side, or look for them in the input".to_string(),
                ),
                Breakdown::Stagnation if facts.unit_roundoff > f64::EPSILON => advice.push(format!(
                    "the residual stays at {:.1e}: that is what f32 reaches; use iterative refinement",
                    self.relative_residual
                )),
                Breakdown::Stagnation => advice.push(format!(
                    "the residual stays at {:.1e}: that is what x in f64 reaches for this matrix; loosen the tolerance",
                    self.relative_residual
                )),
                Breakdown::ZeroDiagonal { row } => advice.push(format!(
                    "row {row} has no diagonal element (or 0): use a method that does not divide by it"
                )),
                Breakdown::NegativeDiagonal { row } => advice.push(format!(
                    "the diagonal element of row {row} is negative: the matrix is not positive definite, and no method for such \
                     matrices will do"
                )),
                Breakdown::Divergence => advice.push(
                    "the iteration diverges: use conjugate gradients, or a smaller omega".to_string(),
                ),
            }
        }
        if self.outcome == Outcome::IterationLimit {
            advice.push(
                "the iterations were used up: allow more, use a better preconditioner, or loosen the tolerance"
                    .to_string(),
            );
        }
        if let Some(difference) = asymmetry {
            advice.push(format!(
                "the matrix is not symmetric (largest difference {difference:.1e} of the largest element): conjugate gradients need a symmetric one, \
                 and nothing is known about the error"
            ));
        }
        if doubtful {
            advice.push(
                "the matrix is singular or not positive definite as far as f64 can tell: other x may do as well, and nothing is known about the error"
                    .to_string(),
            );
        }
        if let Some(condition) = self.condition_estimate {
            if condition * facts.unit_roundoff > 1.0 {
                advice.push(format!(
                    "condition x unit roundoff is {:.1e}, above 1: without refinement no digit is certain; refine, or shift by lambda > 0 if a \
                     regularised answer will do",
                    condition * facts.unit_roundoff
                ));
            }
            let true_limit = condition * self.relative_residual;
            if converged && true_limit > 1.0 {
                advice.push(format!(
                    "the residual is small and the condition large ({condition:.1e}): the tolerance would have to be below {:.0e} to fix the leading digit",
                    1.0 / condition
                ));
            }
        } else if self
            .preconditioned_condition_estimate
            .is_some_and(|condition| condition * facts.unit_roundoff > 1.0)
        {
            advice.push(
                "even preconditioned, condition x unit roundoff is above 1: use iterative refinement, or a shift"
                    .to_string(),
            );
        }
        self.advice = advice;
    }

    /// Says where f32 has no room for A.
    fn advise_on_range(&mut self, operator: &dyn LinearOperator, facts: &RunFacts<'_>) {
        let failed = matches!(
            self.outcome,
            Outcome::Breakdown {
                kind: Breakdown::NonFinite | Breakdown::NotPositiveDefinite | Breakdown::Stagnation,
                ..
            }
        );
        if failed && facts.unit_roundoff > f64::EPSILON && device_exponent(operator) != 0 {
            self.advice.push(format!(
                "the norm of the matrix is {:.1e}, and f32 has room for norms of 2^-64 to 2^64 only: multiply it by a power of two",
                operator.norm_inf().unwrap_or(f64::NAN)
            ));
        }
    }

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

impl Solution {
    /// The answer of a solve that could not begin: x is where it would have begun, and the report says why, in iteration 0.
    ///
    /// For preconditioners that cannot be made because of the matrix, together with [`Breakdown::of_error`].
    ///
    /// # Errors
    /// Those of [`Report::assess`].
    ///
    /// ```
    /// use macheps::solve::{Breakdown, CsrOperator, JacobiPreconditioner, LinearOperator, Outcome, Solution};
    /// use macheps::sparse::Dense;
    /// let a = CsrOperator::new(Dense::new(2, 2, vec![1.0, 2.0, 2.0, 0.0])?.to_csr()?)?;
    /// let error = JacobiPreconditioner::from_diagonal(&a.diagonal().unwrap_or_default()).unwrap_err();
    /// let kind = Breakdown::of_error(&error).ok_or(error)?;
    /// let solution = Solution::broken_down(&a, &[1.0, 1.0], None, 1e-6, kind)?;
    /// let kind = Breakdown::ZeroDiagonal { row: 1 };
    /// assert_eq!(solution.report.outcome, Outcome::Breakdown { kind, iteration: 0 });
    /// # Ok::<(), macheps::Error>(())
    /// ```
    pub fn broken_down(
        operator: &dyn LinearOperator,
        b: &[f64],
        x0: Option<&[f64]>,
        rtol: f64,
        kind: Breakdown,
    ) -> Result<Solution> {
        let x = x0.map_or_else(|| vec![0.0; b.len()], <[f64]>::to_vec);
        let outcome = Outcome::Breakdown { kind, iteration: 0 };
        let facts = RunFacts::new(outcome, rtol, 0);
        let mut report = Report::assess(operator, b, &x, &facts, &ReportOptions::new(ConditionEstimate::Off))?;
        report.residual_history.push(report.relative_residual);
        Ok(Solution { x, report })
    }
}

/// What the coefficients of a run on 2^-exponent of the operator say about the operator.
fn from_run(r: &[f64], hidden: f64, facts: &RunFacts<'_>, exponent: i32) -> Condition {
    let Some((low, high)) = Tridiagonal::from_conjugate_gradient(facts.alphas, facts.betas).extremes() else {
        return Condition::default();
    };
    if low <= 0.0 || !high.is_finite() {
        return Condition::default();
    }
    match facts
        .preconditioner
        .map_or(PreconditionerForm::Identity, Preconditioner::form)
    {
        PreconditionerForm::Identity => {
            let (low, high) = (ldexp(low, exponent), ldexp(high, exponent));
            Condition {
                condition: Some(high / low),
                preconditioned: None,
                error: Some(SAFETY_FACTOR * (norm(r) + hidden) / low),
                norm: Some(high),
                doubtful: false,
            }
        }
        PreconditionerForm::Diagonal(inverse) => {
            let largest = inverse.iter().fold(0.0f64, |m, v| m.max(v.abs()));
            let scaled: Vec<f64> = inverse.iter().zip(r).map(|(d, r)| d.abs().sqrt() * r).collect();
            Condition {
                condition: None,
                preconditioned: Some(high / low),
                error: Some(SAFETY_FACTOR * largest.sqrt() * (norm(&scaled) + largest.sqrt() * hidden) / low),
                norm: None,
                doubtful: false,
            }
        }
        PreconditionerForm::General => Condition {
            preconditioned: Some(high / low),
            ..Condition::default()
        },
    }
}

/// What a separate run on A says.
fn own_run(
    operator: &dyn LinearOperator,
    r: &[f64],
    hidden: f64,
    facts: &RunFacts<'_>,
    exponent: i32,
) -> Result<Condition> {
    let mut found = from_run(r, hidden, facts, exponent);
    let n = operator.size();
    let mut product = |x: &[f64], y: &mut [f64]| operator.apply(x, y);
    let Some(mut krylov) = Krylov::new(Krylov::random(n)) else {
        return Ok(found);
    };
    let mut y = vec![0.0; n];
    while krylov.steps() < STEPS.min(n) && !krylov.exhausted {
        product(krylov.newest(), &mut y);
        if !krylov.extend(y.clone()) {
            return Ok(found);
        }
    }
    let (smallest, largest) = (krylov.smallest(), krylov.largest());
    // Not positive definite, or all of a small space known and an eigenvalue of 0 in it: no condition of this kind.
    let rounding = 4.0 * n as f64 * f64::EPSILON * largest.value;
    if smallest.value + smallest.error < 0.0 || (krylov.exhausted || krylov.steps() == n) && smallest.value <= rounding
    {
        return Ok(Condition::doubtful());
    }
    let diagonal = facts
        .preconditioner
        .filter(|m| m.form() != PreconditionerForm::Identity);
    let mut precondition = |r: &[f64], z: &mut [f64]| {
        if let Some(m) = diagonal {
            m.apply(r, z);
        }
    };
    let mut with = diagonal.is_some().then_some(&mut precondition as &mut Map<'_>);
    // The error itself, to two digits, and with it a start that leans to the smallest eigenvalues.
    let budget = facts.iterations.max(500);
    let control = Control::new(1e-3, budget);
    let first = match &mut with {
        Some(map) => conjugate_gradient(&mut product, Some(&mut **map), r, None, &control)?,
        None => conjugate_gradient(&mut product, None, r, None, &control)?,
    };
    let mut start = Krylov::random(n);
    let (r_norm, e_norm, length) = (norm(r), norm(&first.x), norm(&start));
    if e_norm > 0.0 {
        add_scaled(&mut start, length / e_norm, &first.x);
    }
    let options = InverseOptions {
        tolerance: 0.05,
        steps: 4,
        rtol: 1e-3,
        iterations: 4 * budget,
    };
    let Some(inverse) = lanczos::inverse(&mut product, with, start, &options)? else {
        return Ok(found);
    };
    if inverse.steps == 0 || inverse.smallest.value <= f64::EPSILON * largest.value {
        return Ok(Condition::doubtful());
    }
    let low = inverse.smallest.value;
    // What the residual of e leaves is bounded by the smallest eigenvalue.
    let direct = e_norm + first.relative_residual * r_norm / low;
    found.condition = Some((largest.value / low).max(1.0));
    found.error = Some(SAFETY_FACTOR_OWN_RUN * (direct.max(r_norm / low) + hidden / low));
    Ok(found)
}
