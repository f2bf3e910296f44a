//! Extreme eigenvalues of symmetric operators, and the condition number of positive definite ones.

use super::conjugate_gradient::reference::{Control, Map, conjugate_gradient};
use super::lanczos::{InverseOptions, Krylov, Ritz, Settled, inverse};
use super::range::RangedOperator;
use super::report::unsymmetric;
use super::vector::{dot, exponent, is_finite, norm, scaled};
use super::{Breakdown, LinearOperator, OperatorCall, Outcome, Preconditioner, Record};
use crate::accuracy::U;
use crate::context::Context;
use crate::element::DType;
use crate::error::{Error, Result};
use crate::float::ldexp;
use crate::gpu::{BufferView, Gpu};

/// How eigenvalues are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum EigenMethod {
    /// Lanczos's method with full reorthogonalisation, of A for the largest eigenvalue and of its inverse for the smallest.
    #[default]
    Lanczos,
    /// Power iteration, with A or its inverse: one vector of memory, many more products, and errors known only to the residual. It
    /// finds the eigenvalue of largest magnitude.
    PowerIteration,
}

/// How far to go for an eigenvalue.
#[derive(Clone)]
#[non_exhaustive]
pub struct EigenOptions<'a> {
    /// Method.
    pub method: EigenMethod,
    /// Relative error of the eigenvalue to stop at.
    pub tolerance: f64,
    /// The most products with A, or solves with it.
    pub steps: usize,
    /// The most iterations of conjugate gradients in all solves for the smallest eigenvalue together.
    pub solve_iterations: usize,
    /// For those solves; the diagonal by default, where the operator has a positive one.
    pub preconditioner: Option<&'a dyn Preconditioner>,
}

impl Default for EigenOptions<'_> {
    fn default() -> Self {
        EigenOptions {
            method: EigenMethod::Lanczos,
            tolerance: 1e-6,
            steps: 300,
            solve_iterations: 1_000_000,
            preconditioner: None,
        }
    }
}

/// An eigenvalue and what is known about it.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Eigenvalue {
    /// The value.
    pub value: f64,
    /// An eigenvalue lies within about this distance: residual of the Ritz vector (or its square over the distance to the next Ritz
    /// value, where that is far), inexact solves and, on a device, the rounding of products in f32 counted in. An estimate.
    pub error: f64,
    /// Steps of the method.
    pub steps: usize,
    /// Products with A, those of solves included.
    pub products: usize,
    /// Whether the tolerance was reached.
    pub converged: bool,
}

/// A condition number in the 2-norm.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct ConditionNumber {
    /// Largest eigenvalue.
    pub largest: Eigenvalue,
    /// Smallest eigenvalue.
    pub smallest: Eigenvalue,
    /// Their quotient.
    pub condition: f64,
    /// Its relative error, by those of the two; an estimate.
    pub relative_error: f64,
}

/// The largest eigenvalue of a symmetric operator.
///
/// # Numerics
/// On the CPU path everything is f64. On a GPU products with A run there, in f32, on vectors that are orthogonalised in f64 on the
/// host; no eigenvalue is then known to better than about `4 u lambda_max`, u = 2^-24, which its error says.
///
/// # Cost
/// As many products as [`Eigenvalue::products`]; on a GPU each is an upload of n f32, a submission and a readback, which for small n
/// costs more than the product. The Krylov basis is kept up to 256 MiB.
///
/// # Errors
/// Whatever keeps the operator from running on the device; [`Error::Unsupported`] where products are not finite, and for an operator
/// that says that it is not symmetric ([`LinearOperator::symmetry`]; one that cannot tell is taken for symmetric, and what is found then
/// means nothing if it is not); [`Error::Shape`] for an operator of size 0.
///
/// ```
/// use macheps::{Context, solve::{EigenOptions, CsrOperator, largest_eigenvalue}, sparse::Dense};
/// let a = Dense::new(2, 2, vec![2.0, 1.0, 1.0, 2.0])?.to_csr()?;
/// let found = largest_eigenvalue(&Context::cpu(), &CsrOperator::new(a)?, &EigenOptions::default())?;
/// assert!((found.value - 3.0).abs() < 1e-12);
/// # Ok::<(), macheps::Error>(())
/// ```
pub fn largest_eigenvalue(
    ctx: &Context,
    operator: &dyn LinearOperator,
    options: &EigenOptions<'_>,
) -> Result<Eigenvalue> {
    within_range(ctx, operator, options, |products, options| products.largest(options))
        .map(|(found, exponent)| found.scaled(-exponent))
}

/// Does something with products of 2^exponent A, a matrix in the middle of the range of numbers.
fn within_range<T>(
    ctx: &Context,
    operator: &dyn LinearOperator,
    options: &EigenOptions<'_>,
    find: impl FnOnce(&mut Products<'_>, &EigenOptions<'_>) -> Result<T>,
) -> Result<(T, i32)> {
    if let Some(difference) = unsymmetric(operator) {
        return Err(Error::Unsupported {
            what: "an eigenvalue of a matrix that is not symmetric".into(),
            reason: format!(
                "entries differ from their partners by up to {difference:.1e} of the largest magnitude; these methods are for symmetric ones"
            ),
        });
    }
    let ranged = RangedOperator::new(operator, ctx.gpu().is_some());
    let scaled = options.preconditioner.and_then(|m| ranged.preconditioner(m));
    let options = EigenOptions {
        preconditioner: scaled.as_deref().or(options.preconditioner),
        ..options.clone()
    };
    let found = find(&mut Products::new(ctx, ranged.operator())?, &options)?;
    Ok((found, ranged.exponent))
}

impl Eigenvalue {
    /// Of a matrix 2^exponent times as large.
    fn scaled(self, exponent: i32) -> Eigenvalue {
        Eigenvalue {
            value: ldexp(self.value, exponent),
            error: ldexp(self.error, exponent),
            ..self
        }
    }
}

/// The smallest eigenvalue of a symmetric operator.
///
/// # Numerics
/// As in [`largest_eigenvalue`]. On a GPU, in f32, lambda_min is known to about `4 u lambda_max` only: of a condition beyond 1e6
/// little is left, and [`Eigenvalue::error`] says so. On the CPU path it has as many digits as the tolerance asks for, wherever conjugate
/// gradients in f64 solve with A.
///
/// # Cost
/// Up to 40 products of Lanczos's method on A itself, which is enough for small operators and shows indefinite ones; then solves by
/// preconditioned conjugate gradients, typically 5 to 20.
///
/// # Errors
/// Those of [`largest_eigenvalue`].
pub fn smallest_eigenvalue(
    ctx: &Context,
    operator: &dyn LinearOperator,
    options: &EigenOptions<'_>,
) -> Result<Eigenvalue> {
    within_range(ctx, operator, options, |products, options| products.smallest(options))
        .map(|(found, exponent)| found.scaled(-exponent))
}

/// The condition number in the 2-norm of a symmetric positive definite operator, lambda_max / lambda_min.
///
/// # Numerics
/// Those of [`smallest_eigenvalue`].
///
/// # Errors
/// Those of [`largest_eigenvalue`]; [`Error::Unsupported`] for an operator that is not positive definite, as far as can be seen.
///
/// ```
/// use macheps::{Context, solve::{EigenOptions, CsrOperator, condition_number}, sparse::Dense};
/// let a = Dense::new(2, 2, vec![2.0, 1.0, 1.0, 2.0])?.to_csr()?;
/// let found = condition_number(&Context::cpu(), &CsrOperator::new(a)?, &EigenOptions::default())?;
/// assert!((found.condition - 3.0).abs() < 1e-12);
/// # Ok::<(), macheps::Error>(())
/// ```
pub fn condition_number(
    ctx: &Context,
    operator: &dyn LinearOperator,
    options: &EigenOptions<'_>,
) -> Result<ConditionNumber> {
    let ((largest, smallest), exponent) = within_range(ctx, operator, options, |products, options| {
        Ok((products.largest(options)?, products.smallest(options)?))
    })?;
    if smallest.value <= 0.0 {
        let smallest = smallest.scaled(-exponent);
        return Err(Error::Unsupported {
            what: "the condition number of an operator that is not positive definite".into(),
            reason: format!(
                "its smallest eigenvalue is {:e} +- {:.1e}",
                smallest.value, smallest.error
            ),
        });
    }
    let relative = |e: Eigenvalue| e.error / e.value;
    Ok(ConditionNumber {
        largest: largest.scaled(-exponent),
        smallest: smallest.scaled(-exponent),
        condition: (largest.value / smallest.value).max(1.0),
        relative_error: relative(largest) + relative(smallest),
    })
}

/// Products y = A x for vectors on the host.
struct Products<'a> {
    operator: &'a dyn LinearOperator,
    device: Option<OnDevice>,
    /// Largest quotient of the lengths of a product and its vector: a lower bound on the norm.
    norm: f64,
    count: usize,
    failure: Option<Error>,
}

/// y = A x on a device, from host to host.
struct OnDevice {
    gpu: Gpu,
    x: wgpu::Buffer,
    y: wgpu::Buffer,
    bound: Box<dyn Record>,
    bytes: u64,
}

impl OnDevice {
    fn new(gpu: &Gpu, operator: &dyn LinearOperator) -> Result<OnDevice> {
        let n = operator.size();
        let bytes = 4 * n as u64;
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
        let x = gpu.create_buffer("macheps eigenvalues x", bytes, usage)?;
        let y = gpu.create_buffer("macheps eigenvalues y", bytes, usage)?;
        let view = |buffer| BufferView::new(buffer, DType::F32, &[n]);
        let bound = operator.bind(gpu, &OperatorCall::new(&view(&x), &view(&y)))?;
        Ok(OnDevice {
            gpu: gpu.clone(),
            x,
            y,
            bound,
            bytes,
        })
    }

    fn apply(&self, x: &[f64], y: &mut [f64]) -> Result<()> {
        // Near 1: what f32 rounds is then relative to the vector, and nothing of it overflows or is flushed that counts.
        let shift = exponent(x);
        let narrow: Vec<f32> = scaled(x, -shift).iter().map(|&v| v as f32).collect();
        self.gpu.write(&self.x, 0, bytemuck::cast_slice(&narrow))?;
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            self.bound.record(&mut pass);
        }
        let bytes = self.gpu.read_back(encoder, &self.y, self.bytes)?.wait()?;
        for (y, four) in y.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *y = ldexp(f64::from(f32::from_ne_bytes(*four)), shift);
        }
        Ok(())
    }
}

impl<'a> Products<'a> {
    fn new(ctx: &Context, operator: &'a dyn LinearOperator) -> Result<Products<'a>> {
        if operator.size() == 0 {
            return Err(Error::shape("operator", "at least one row", "size 0"));
        }
        Ok(Products {
            operator,
            device: ctx.gpu().map(|gpu| OnDevice::new(gpu, operator)).transpose()?,
            norm: 0.0,
            count: 0,
            failure: None,
        })
    }

    /// y = A x; NaN where the device failed, which is kept for [`Products::check`].
    fn apply(&mut self, x: &[f64], y: &mut [f64]) {
        self.count += 1;
        match &self.device {
            None => self.operator.apply(x, y),
            Some(device) => {
                if let Err(error) = device.apply(x, y) {
                    self.failure.get_or_insert(error);
                    y.fill(f64::NAN);
                }
            }
        }
        let quotient = norm(y) / norm(x);
        if quotient.is_finite() {
            self.norm = self.norm.max(quotient);
        }
    }

    fn check(&mut self, finite: bool) -> Result<()> {
        match self.failure.take() {
            Some(error) => Err(error),
            None if finite => Ok(()),
            None => Err(Error::Unsupported {
                what: "an operator with products that are not finite".into(),
                reason: "no eigenvalue can come of them; look for NaN, infinities or overflow in f32".into(),
            }),
        }
    }

    /// What rounding in the products adds to any eigenvalue's error.
    fn rounding(&self) -> f64 {
        let unit = if self.device.is_some() { U } else { f64::EPSILON / 2.0 };
        4.0 * unit * self.norm
    }

    fn found(&self, ritz: Ritz, steps: usize, tolerance: f64) -> Eigenvalue {
        Eigenvalue {
            value: ritz.value,
            error: ritz.error + self.rounding(),
            steps,
            products: self.count,
            // Rounding is no fault of the iteration.
            converged: ritz.error <= tolerance * ritz.value.abs() || ritz.error <= self.rounding(),
        }
    }

    /// Lanczos's method on A until `done` or `steps`.
    fn krylov(&mut self, krylov: &mut Krylov, steps: usize, mut done: impl FnMut(&Krylov) -> bool) -> Result<()> {
        let n = self.operator.size();
        while krylov.steps() < steps.min(n) && !krylov.exhausted {
            let mut y = vec![0.0; n];
            self.apply(krylov.newest(), &mut y);
            let finite = krylov.extend(y);
            self.check(finite)?;
            // Looking is O(steps): not too often.
            let k = krylov.steps();
            if (k < 16 || k.is_multiple_of(8)) && done(krylov) {
                break;
            }
        }
        Ok(())
    }

    fn largest(&mut self, options: &EigenOptions<'_>) -> Result<Eigenvalue> {
        self.count = 0;
        let n = self.operator.size();
        if options.method == EigenMethod::PowerIteration {
            let (ritz, steps) = self.power(options, |products, x, y| {
                products.apply(x, y);
                products.check(is_finite(y))
            })?;
            return Ok(self.found(ritz, steps, options.tolerance));
        }
        let Some(mut krylov) = Krylov::new(Krylov::random(n)) else {
            return Err(Error::shape("operator", "at least one row", "size 0"));
        };
        let tolerance = options.tolerance;
        let mut settled = Settled::new(tolerance, 10);
        self.krylov(&mut krylov, options.steps, |k| settled.look(k.largest(), k.steps()))?;
        let ritz = krylov.largest();
        Ok(self.found(ritz, krylov.steps(), tolerance))
    }

    fn smallest(&mut self, options: &EigenOptions<'_>) -> Result<Eigenvalue> {
        self.count = 0;
        let n = self.operator.size();
        let tolerance = options.tolerance;
        let Some(mut krylov) = Krylov::new(Krylov::random(n)) else {
            return Err(Error::shape("operator", "at least one row", "size 0"));
        };
        let mut settled = Settled::new(tolerance, 10);
        let mut complete = false;
        self.krylov(&mut krylov, 40.min(options.steps), |k| {
            complete = settled.look(k.smallest(), k.steps());
            complete
        })?;
        let ritz = krylov.smallest();
        let complete = complete || krylov.exhausted || krylov.steps() == n;
        let indefinite = ritz.value + ritz.error + self.rounding() < 0.0;
        if complete && options.method == EigenMethod::Lanczos {
            return Ok(self.found(ritz, krylov.steps(), tolerance));
        }
        if !indefinite && let Some(found) = self.by_inverse(options)? {
            return Ok(found);
        }
        // An eigenvalue at the far end of the spectrum, or one that no solve comes near: by A itself, as far as it goes.
        self.krylov(&mut krylov, options.steps, |k| settled.look(k.smallest(), k.steps()))?;
        let ritz = krylov.smallest();
        Ok(self.found(ritz, krylov.steps(), tolerance))
    }

    /// The smallest eigenvalue by solves; `None` where they show that the operator is not positive definite.
    fn by_inverse(&mut self, options: &EigenOptions<'_>) -> Result<Option<Eigenvalue>> {
        let n = self.operator.size();
        let inverse_diagonal: Option<Vec<f64>> = self
            .operator
            .diagonal()
            .filter(|d| d.len() == n && d.iter().all(|&d| d > 0.0 && d.is_finite()))
            .map(|d| d.iter().map(|d| 1.0 / d).collect());
        let given = options.preconditioner;
        let mut precondition = |r: &[f64], z: &mut [f64]| match (given, &inverse_diagonal) {
            (Some(m), _) => m.apply(r, z),
            (None, Some(d)) => z.iter_mut().zip(r).zip(d).for_each(|((z, r), d)| *z = r * d),
            (None, None) => z.copy_from_slice(r),
        };
        // f32 products leave a residual that no iteration removes.
        let rtol = if self.device.is_some() {
            (0.1 * options.tolerance).max(1e-4)
        } else {
            (0.1 * options.tolerance).max(1e-12)
        };
        let inverse_options = InverseOptions {
            tolerance: options.tolerance,
            steps: options.steps,
            rtol,
            iterations: options.solve_iterations,
        };
        if options.method == EigenMethod::PowerIteration {
            let mut left = options.solve_iterations;
            let mut definite = true;
            let (ritz, steps) = self.power(options, |products, x, y| {
                let mut product = |x: &[f64], y: &mut [f64]| products.apply(x, y);
                let control = Control::new(rtol, left);
                let run = conjugate_gradient(&mut product, Some(&mut precondition as &mut Map<'_>), x, None, &control)?;
                left = left.saturating_sub(run.iterations);
                if let Outcome::Breakdown { kind, .. } = run.outcome {
                    definite &= kind != Breakdown::NotPositiveDefinite;
                }
                y.copy_from_slice(&run.x);
                products.check(is_finite(&run.x) && run.relative_residual.is_finite())
            })?;
            if !definite || ritz.value <= 0.0 {
                return Ok(None);
            }
            let smallest = Ritz {
                value: 1.0 / ritz.value,
                error: (ritz.error / ritz.value + rtol) / ritz.value,
            };
            return Ok(Some(self.found(smallest, steps, 2.0 * options.tolerance)));
        }
        let mut product = |x: &[f64], y: &mut [f64]| self.apply(x, y);
        let with = Some(&mut precondition as &mut Map<'_>);
        let found = inverse(&mut product, with, Krylov::random(n), &inverse_options)?;
        self.check(true)?;
        let Some(found) = found.filter(|f| f.steps > 0 && f.smallest.value > 0.0) else {
            return Ok(None);
        };
        if found.breakdown == Some(Breakdown::NotPositiveDefinite) && found.smallest.value > self.rounding() {
            return Ok(None);
        }
        Ok(Some(self.found(found.smallest, found.steps, 2.0 * options.tolerance)))
    }

    /// Power iteration with any map; the Rayleigh quotient and its residual.
    fn power(
        &mut self,
        options: &EigenOptions<'_>,
        mut map: impl FnMut(&mut Self, &[f64], &mut [f64]) -> Result<()>,
    ) -> Result<(Ritz, usize)> {
        let n = self.operator.size();
        let mut x = Krylov::random(n);
        let length = norm(&x);
        x.iter_mut().for_each(|v| *v /= length);
        let mut y = vec![0.0; n];
        let mut ritz = Ritz::default();
        for step in 1..=options.steps {
            map(self, &x, &mut y)?;
            let value = dot(&x, &y);
            let rest: Vec<f64> = x.iter().zip(&y).map(|(x, y)| y - value * x).collect();
            ritz = Ritz {
                value,
                error: norm(&rest),
            };
            let length = norm(&y);
            if length == 0.0 || ritz.error <= options.tolerance * value.abs() {
                return Ok((ritz, step));
            }
            x.iter_mut().zip(&y).for_each(|(x, y)| *x = y / length);
        }
        Ok((ritz, options.steps))
    }
}
