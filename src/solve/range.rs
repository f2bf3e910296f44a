//! Systems near the ends of the range of numbers: solved times powers of two, which change no digit.

use super::vector::{exponent, exponent_of, is_finite, norm, scaled};
use super::{
    Breakdown, ConditionEstimate, LinearOperator, OperatorCall, Outcome, Preconditioner, PreconditionerCall,
    PreconditionerForm, Record, Report, ReportOptions, RunFacts, Solution,
};
use crate::error::{Error, Result};
use crate::float::ldexp;
use crate::gpu::Gpu;
use crate::sparse::Csr;
use std::borrow::Cow;

/// Norms of A between 2^-64 and 2^64 leave f32 room for products, their rounding errors, and x.
const OF_F32: i32 = 64;

/// The same for f64, where the room has to do for squares.
const OF_F64: i32 = 256;

/// A start whose residual is this much larger than b, in powers of two, has no digit to offer that rounding would leave.
const USELESS_IN_F32: i32 = 24;
const USELESS_IN_F64: i32 = 53;

/// Refuses NaN and infinities where finite numbers are asked for.
pub(super) fn check_finite(what: &'static str, values: &[f64]) -> Result<()> {
    match values.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(index) => Err(Error::NonFinite {
            what,
            index,
            value: values[index],
        }),
    }
}

/// e such that the norm of 2^-e A is at most 1 and about at least a half; 0 where no norm is known.
fn norm_exponent(operator: &dyn LinearOperator) -> i32 {
    match operator.norm_inf() {
        // A row's sum that overflows: between that and 2^32 times as much.
        Some(f64::INFINITY) => 1040,
        Some(norm) => exponent_of(norm),
        None => 0,
    }
}

/// e of the matrix 2^e A that solvers give a device in place of A, if the operator can be had in that form
/// ([`LinearOperator::scaled`]): 0 where the norm of A lies between 2^-64 and 2^64 or is not known.
///
/// Beyond that range f32 has no room for A, its products and x together. A power of two changes no digit of the solution, and reports
/// are those of the system as given.
///
/// ```
/// use macheps::solve::{CsrOperator, LinearOperator, device_exponent};
/// use macheps::sparse::Dense;
/// let tiny = CsrOperator::new(Dense::new(2, 2, vec![2e-200, 0.0, 0.0, 1e-200])?.to_csr()?)?;
/// let e = device_exponent(&tiny);
/// assert_eq!(e, 663);
/// let norm = tiny.scaled(e).and_then(|a| a.norm_inf());
/// assert!(norm.is_some_and(|norm| (0.5..=1.0).contains(&norm)));
/// # Ok::<(), macheps::Error>(())
/// ```
pub fn device_exponent(operator: &dyn LinearOperator) -> i32 {
    beyond(operator, OF_F32)
}

fn beyond(operator: &dyn LinearOperator, range: i32) -> i32 {
    match norm_exponent(operator) {
        e if e.abs() <= range => 0,
        e => -e,
    }
}

/// 2^exponent A for an operator that does not do it itself; for the host.
struct Times<'a> {
    inner: &'a dyn LinearOperator,
    exponent: i32,
    matrix: Option<Csr<f64>>,
}

impl<'a> Times<'a> {
    fn new(inner: &'a dyn LinearOperator, exponent: i32) -> Times<'a> {
        let of = |a: &Csr<f64>| a.with_values(scaled(a.values(), exponent)).ok();
        Times {
            inner,
            exponent,
            matrix: inner.matrix().and_then(of),
        }
    }
}

impl LinearOperator for Times<'_> {
    fn size(&self) -> usize {
        self.inner.size()
    }

    fn apply(&self, x: &[f64], y: &mut [f64]) {
        // One half before and one after, so that neither overflows.
        let half = self.exponent / 2;
        self.inner.apply(&scaled(x, half), y);
        y.iter_mut().for_each(|y| *y = ldexp(*y, self.exponent - half));
    }

    fn bind(&self, _: &Gpu, _: &OperatorCall<'_>) -> Result<Box<dyn Record>> {
        Err(Error::Unsupported {
            what: "an operator with a norm beyond the range of f32 on a device".into(),
            reason: "it has no scaled form of its own".into(),
        })
    }

    fn diagonal(&self) -> Option<Vec<f64>> {
        Some(scaled(&self.inner.diagonal()?, self.exponent))
    }

    fn norm_inf(&self) -> Option<f64> {
        match &self.matrix {
            Some(a) => Some(a.norm_inf()),
            None => Some(ldexp(self.inner.norm_inf()?, self.exponent)),
        }
    }

    fn matrix(&self) -> Option<&Csr<f64>> {
        self.matrix.as_ref()
    }
}

/// A preconditioner of 2^exponent A, made of one of A that has no such form itself. On a device it stays as it is: conjugate
/// gradients do not ask for its scale.
struct Over<'a> {
    inner: &'a dyn Preconditioner,
    exponent: i32,
}

impl Preconditioner for Over<'_> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn size(&self) -> usize {
        self.inner.size()
    }

    fn form(&self) -> PreconditionerForm {
        match self.inner.form() {
            PreconditionerForm::Diagonal(inverse) => PreconditionerForm::Diagonal(scaled(&inverse, -self.exponent)),
            form => form,
        }
    }

    fn apply(&self, r: &[f64], z: &mut [f64]) {
        self.inner.apply(r, z);
        if self.inner.form() != PreconditionerForm::Identity {
            z.iter_mut().for_each(|z| *z = ldexp(*z, -self.exponent));
        }
    }

    fn bind(&self, gpu: &Gpu, call: &PreconditionerCall<'_>) -> Result<Box<dyn Record>> {
        self.inner.bind(gpu, call)
    }
}

/// 2^exponent A with a norm in the middle of the range, where A's is not.
pub(super) struct RangedOperator<'a> {
    given: &'a dyn LinearOperator,
    scaled: Option<Box<dyn LinearOperator + 'a>>,
    pub exponent: i32,
}

impl<'a> RangedOperator<'a> {
    pub(super) fn new(given: &'a dyn LinearOperator, on_device: bool) -> RangedOperator<'a> {
        let exponent = beyond(given, if on_device { OF_F32 } else { OF_F64 });
        let mut scaled: Option<Box<dyn LinearOperator + 'a>> = None;
        if exponent != 0 {
            scaled = match given.scaled(exponent) {
                Some(own) => Some(own),
                None if on_device => None,
                None => Some(Box::new(Times::new(given, exponent))),
            };
        }
        RangedOperator {
            given,
            exponent: if scaled.is_some() { exponent } else { 0 },
            scaled,
        }
    }

    pub(super) fn operator(&self) -> &dyn LinearOperator {
        self.scaled.as_deref().unwrap_or(self.given)
    }

    /// The preconditioner that goes with it.
    pub(super) fn preconditioner<'m>(&self, m: &'m dyn Preconditioner) -> Option<Box<dyn Preconditioner + 'm>> {
        if self.exponent == 0 {
            return None;
        }
        Some(match m.scaled(self.exponent) {
            Some(own) => own,
            None => Box::new(Over {
                inner: m,
                exponent: self.exponent,
            }),
        })
    }

    /// Exponent of 2^s for which right-hand sides and products of this size come near 1, if they are far from it.
    pub(super) fn shift_for(&self, b: &[f64], x: &[f64]) -> i32 {
        let of_x = match exponent(x) {
            0 if x.iter().all(|&v| v == 0.0) => i32::MIN / 2,
            e => e + norm_exponent(self.given),
        };
        let of_b = match exponent(b) {
            0 if b.iter().all(|&v| v == 0.0) => i32::MIN / 2,
            e => e,
        };
        match of_b.max(of_x) {
            top if top < -5000 => 0,
            top if top.abs() > OF_F64 || self.exponent != 0 => -top,
            _ => 0,
        }
    }
}

/// Systems with one operator, brought into the middle of the range of numbers: 2^e A y = 2^s b with x = 2^(e-s) y.
pub(super) struct RangedSystem<'a> {
    operator: RangedOperator<'a>,
    preconditioner: Option<Box<dyn Preconditioner + 'a>>,
    given: Option<&'a dyn Preconditioner>,
    pub b: Cow<'a, [f64]>,
    pub x0: Option<Cow<'a, [f64]>>,
    /// e - s of each system.
    back: Vec<i32>,
    /// Of which systems the start was left aside.
    left_aside: Vec<bool>,
    start: Option<&'a [f64]>,
}

impl<'a> RangedSystem<'a> {
    /// All lengths have to fit.
    pub(super) fn new(
        operator: &'a dyn LinearOperator,
        preconditioner: Option<&'a dyn Preconditioner>,
        b: &'a [f64],
        x0: Option<&'a [f64]>,
        on_device: bool,
    ) -> RangedSystem<'a> {
        let n = operator.size();
        let ranged = RangedOperator::new(operator, on_device);
        let mut system = RangedSystem {
            preconditioner: preconditioner.and_then(|m| ranged.preconditioner(m)),
            given: preconditioner,
            b: Cow::Borrowed(b),
            x0: x0.map(Cow::Borrowed),
            back: Vec::new(),
            left_aside: Vec::new(),
            start: x0,
            operator: ranged,
        };
        if n == 0 {
            return system;
        }
        for k in 0..b.len() / n {
            let range = k * n..(k + 1) * n;
            let own = exponent(&b[range.clone()]);
            let shift = if own.abs() > OF_F64 { -own } else { 0 };
            let back = system.operator.exponent - shift;
            system.back.push(back);
            if shift != 0 {
                let values = scaled(&b[range.clone()], shift);
                system.b.to_mut()[range.clone()].copy_from_slice(&values);
            }
            let mut left_aside = false;
            if let Some(x0) = x0 {
                let mut start = scaled(&x0[range.clone()], -back);
                left_aside = system.is_useless(&system.b[range.clone()], &start, on_device);
                if left_aside {
                    start.fill(0.0);
                }
                if let Some(given) = system.x0.as_mut().filter(|_| left_aside || back != 0) {
                    given.to_mut()[range].copy_from_slice(&start);
                }
            }
            system.left_aside.push(left_aside);
        }
        system
    }

    /// Whether zeros are a better start.
    fn is_useless(&self, b: &[f64], start: &[f64], on_device: bool) -> bool {
        if !is_finite(start) {
            return true;
        }
        let bits = if on_device { USELESS_IN_F32 } else { USELESS_IN_F64 };
        let operator = self.operator.operator();
        let size = exponent(start) + norm_exponent(operator);
        if operator.norm_inf().is_some() && size + 1 - exponent(b) < bits {
            return false;
        }
        let mut r = vec![0.0; b.len()];
        operator.apply(start, &mut r);
        r.iter_mut().zip(b).for_each(|(r, b)| *r = b - *r);
        let residual = norm(&r);
        !residual.is_finite() || residual > ldexp(norm(b), bits)
    }

    pub(super) fn operator(&self) -> &dyn LinearOperator {
        self.operator.operator()
    }

    pub(super) fn preconditioner(&self) -> Option<&dyn Preconditioner> {
        self.preconditioner.as_deref().or(self.given)
    }

    /// x = 2^(e-s) y. Reports are of relative quantities only, so they stay as they are unless x rounds.
    pub(super) fn restore(&self, mut solutions: Vec<Solution>, rtol: f64) -> Result<Vec<Solution>> {
        let n = self.operator().size();
        for (k, (solution, &back)) in solutions.iter_mut().zip(&self.back).enumerate() {
            if back != 0 {
                let y = std::mem::take(&mut solution.x);
                solution.x = scaled(&y, back);
                let again = scaled(&solution.x, -back);
                if again != y {
                    self.reassess(solution, k * n..(k + 1) * n, &y, again, rtol)?;
                }
            }
            if self.left_aside[k] {
                solution.report.advice.push(
                    "the start was left aside for zeros: its residual is beyond all digits of the right-hand side"
                        .to_string(),
                );
            }
        }
        Ok(solutions)
    }

    /// The report of an x that is not what was solved for, as that is not within the range of f64.
    fn reassess(
        &self,
        solution: &mut Solution,
        range: std::ops::Range<usize>,
        y: &[f64],
        mut again: Vec<f64>,
        rtol: f64,
    ) -> Result<()> {
        let report = &solution.report;
        let overflows = !is_finite(&solution.x) && is_finite(y);
        let mut outcome = report.outcome;
        if overflows {
            let n = y.len();
            solution.x = self
                .start
                .map_or_else(|| vec![0.0; n], |start| start[range.clone()].to_vec());
            again = self
                .x0
                .as_ref()
                .map_or_else(|| vec![0.0; n], |x0| x0[range.clone()].to_vec());
            outcome = Outcome::Breakdown {
                kind: Breakdown::NonFinite,
                iteration: report.iterations,
            };
        }
        let moved: Vec<f64> = again.iter().zip(y).map(|(a, y)| a - y).collect();
        let moved = norm(&moved) / norm(y);
        let facts = RunFacts {
            residual_history: report.residual_history.clone(),
            refinements: report.refinements,
            seconds: report.seconds,
            unit_roundoff: f64::EPSILON / 2.0,
            ..RunFacts::new(outcome, rtol, report.iterations)
        };
        let options = ReportOptions::new(ConditionEstimate::Off);
        let mut found = Report::assess(self.operator(), &self.b[range], &again, &facts, &options)?;
        found.condition_estimate = report.condition_estimate;
        found.preconditioned_condition_estimate = report.preconditioned_condition_estimate;
        found.doubtful = report.doubtful;
        if overflows {
            found.advice =
                vec!["the solution lies beyond the range of f64: scale the right-hand side down".to_string()];
        } else {
            found.forward_error_bound = report
                .forward_error_bound
                // A little more, for the rounding of this itself.
                .map(|bound| bound + 1.000001 * moved * (1.0 + bound))
                .filter(|bound| bound.is_finite());
            found.advice.push(
                "the solution lies at the lower end of the range of f64, where it loses digits: scale the right-hand side up"
                    .to_string(),
            );
        }
        solution.report = found;
        Ok(())
    }
}
