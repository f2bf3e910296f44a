//! Relaxation on a device: bound to buffers, recorded as often as wanted.

use super::super::preconditioners::check_omega;
use super::super::sweep::{PerDevice, Step, Uploaded};
use super::super::views::{Vectors, within};
use super::super::{Colouring, LinearOperator, OperatorCall, Record};
use super::kernels::{Update, groups};
use crate::element::DType;
use crate::error::{Error, Result};
use crate::gpu::{BufferView, Dispatches, Gpu, Recording};
use crate::sparse::Csr;

/// The reciprocals of a diagonal, or the first row whose entry has none.
pub(super) fn inverses(diagonal: &[f64]) -> Result<Vec<f64>, usize> {
    let inverse: Vec<f64> = diagonal.iter().map(|d| 1.0 / d).collect();
    match inverse.iter().position(|i| !i.is_finite() || *i == 0.0) {
        Some(row) => Err(row),
        None => Ok(inverse),
    }
}

fn refused(diagonal: &[f64]) -> impl Fn(usize) -> Error + '_ {
    |row| Error::Diagonal {
        row,
        value: diagonal[row],
        expected: "a finite number other than 0",
    }
}

pub(super) fn diagonal_of(operator: &dyn LinearOperator) -> Result<Vec<f64>> {
    let n = operator.size();
    match operator.diagonal() {
        Some(diagonal) if diagonal.len() == n => Ok(diagonal),
        Some(diagonal) => Err(Error::shape(
            "diagonal",
            format!("{n} elements"),
            diagonal.len().to_string(),
        )),
        None => Err(Error::Unsupported {
            what: "Jacobi's method".into(),
            reason: "the operator gives no diagonal".into(),
        }),
    }
}

pub(super) fn matrix_of(operator: &dyn LinearOperator) -> Result<&Csr<f64>> {
    let Some(matrix) = operator.matrix() else {
        return Err(Error::Unsupported {
            what: "Gauss-Seidel and SOR".into(),
            reason: "the operator gives no entries; use Jacobi's method or conjugate gradients".into(),
        });
    };
    matrix.check_square()?;
    Ok(matrix)
}

fn check_apart(b: &BufferView, x: &BufferView) -> Result<()> {
    if b.overlaps(x) {
        return Err(Error::Aliased {
            first: "b",
            second: "x",
        });
    }
    Ok(())
}

fn check_counts(b: &Vectors, x: &Vectors) -> Result<()> {
    if b.count != x.count {
        return Err(Error::shape(
            "x",
            format!("{} vectors, as b", b.count),
            x.count.to_string(),
        ));
    }
    Ok(())
}

/// Jacobi's method inside somebody else's command encoder, on any operator with a diagonal: x becomes x + w D^-1 (b - A x).
///
/// ```no_run
/// # fn frame(gpu: &macheps::Gpu, a: &dyn macheps::solve::LinearOperator, b: &macheps::BufferView, x: &macheps::BufferView,
/// #     encoder: &mut macheps::wgpu::CommandEncoder) -> macheps::Result<()> {
/// let smoother = macheps::solve::relaxation::Jacobi::new(a, 2.0 / 3.0)?.bind(gpu, b, x)?;
/// // Each frame:
/// smoother.record(encoder, 4);
/// # Ok(())
/// # }
/// ```
pub struct Jacobi<'a> {
    operator: &'a dyn LinearOperator,
    omega: f64,
    inverse: Vec<f32>,
}

impl std::fmt::Debug for Jacobi<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Jacobi")
            .field("size", &self.inverse.len())
            .field("omega", &self.omega)
            .finish()
    }
}

impl<'a> Jacobi<'a> {
    /// For an operator.
    ///
    /// # Errors
    /// [`Error::Option`] for w outside (0, 2); [`Error::Unsupported`] for an operator without diagonal; [`Error::Diagonal`] for a zero
    /// or missing entry of it, or one whose reciprocal is beyond the range of f32.
    pub fn new(operator: &'a dyn LinearOperator, omega: f64) -> Result<Jacobi<'a>> {
        check_omega(omega)?;
        let diagonal = diagonal_of(operator)?;
        let wide = inverses(&diagonal).map_err(refused(&diagonal))?;
        let inverse: Vec<f32> = wide.iter().map(|&i| i as f32).collect();
        if let Some(row) = inverse.iter().position(|i| !i.is_finite()) {
            return Err(Error::Diagonal {
                row,
                value: diagonal[row],
                expected: "a number whose reciprocal is in the range of f32",
            });
        }
        Ok(Jacobi {
            operator,
            omega,
            inverse,
        })
    }

    /// Without the guard: takes what the diagonal gives, zeros too. For tests that plant this bug and want it caught.
    #[doc(hidden)]
    pub fn unguarded(operator: &'a dyn LinearOperator, omega: f64) -> Result<Jacobi<'a>> {
        check_omega(omega)?;
        Ok(Jacobi {
            operator,
            omega,
            inverse: diagonal_of(operator)?.iter().map(|d| (1.0 / d) as f32).collect(),
        })
    }

    /// Binds to buffers: b and x are f32, `[n]` or `[k, n]`, contiguous, in different ranges. Makes a vector as large as x.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::DTypeMismatch`], [`Error::BufferUsage`], [`Error::Aliased`] for views that do not fit; [`Error::Limit`]
    /// for vectors beyond a binding; what the operator has against it.
    pub fn bind(&self, gpu: &Gpu, b: &BufferView, x: &BufferView) -> Result<BoundRelaxation> {
        self.bind_with_slots(gpu, b, x, 1)
    }

    /// With room for the norms of so many sweeps' residuals, and for one that is computed without a sweep.
    pub(super) fn bind_with_slots(
        &self,
        gpu: &Gpu,
        b: &BufferView,
        x: &BufferView,
        slots: usize,
    ) -> Result<BoundRelaxation> {
        let n = self.inverse.len();
        let inverse = gpu.upload("macheps inverse diagonal", bytemuck::cast_slice(&self.inverse))?;
        let residual = Residual::new(gpu, self.operator, b, x, slots, inverse)?;
        let steps = (0..slots).map(|slot| residual.recording(gpu, slot, Some(self.omega)));
        Ok(BoundRelaxation {
            sweep: Sweep::Jacobi(steps.collect::<Result<_>>()?),
            last: Some(residual.recording(gpu, slots, None)?),
            residual: Some(residual),
            dispatches: 0,
        }
        .counted(n))
    }
}

/// Gauss-Seidel and SOR by colours inside somebody else's command encoder.
#[derive(Debug)]
pub struct Sor {
    omega: f64,
    groups: Vec<Vec<u32>>,
    rest: Csr<f64>,
    inverse: Vec<f64>,
    uploaded: PerDevice<Uploaded>,
}

impl std::fmt::Debug for Uploaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Uploaded({} groups)", self.groups())
    }
}

impl Sor {
    /// For a matrix, symmetric or not; w = 1 is Gauss-Seidel.
    ///
    /// # Errors
    /// [`Error::Option`] for w outside (0, 2); [`Error::Shape`] for a matrix that is not square; [`Error::Diagonal`] for a zero or
    /// missing diagonal entry.
    pub fn new(a: &Csr<f64>, omega: f64) -> Result<Sor> {
        check_omega(omega)?;
        a.check_square()?;
        let diagonal = a.diagonal();
        let inverse = inverses(&diagonal).map_err(refused(&diagonal))?;
        let mut row_ptr = vec![0u32];
        let (mut columns, mut values) = (Vec::new(), Vec::new());
        for i in 0..a.rows() {
            let (row, row_values) = a.row(i);
            for (&j, &v) in row.iter().zip(row_values).filter(|&(&j, _)| j as usize != i) {
                columns.push(j);
                values.push(v);
            }
            row_ptr.push(columns.len() as u32);
        }
        Ok(Sor {
            omega,
            groups: Colouring::greedy(a)?.into_groups(),
            rest: Csr::try_new(a.rows(), a.rows(), row_ptr, columns, values)?,
            inverse,
            uploaded: PerDevice::default(),
        })
    }

    /// Rows in the order in which a device takes them: by colours.
    pub fn order(&self) -> Vec<usize> {
        self.groups.iter().flatten().map(|&i| i as usize).collect()
    }

    /// Dispatches of a sweep, if no row is longer than 64 and all fits a binding.
    pub fn colours(&self) -> usize {
        self.groups.len()
    }

    fn steps(&self) -> Vec<Step> {
        (0..self.groups.len())
            .map(|group| Step {
                group,
                keep: 1.0 - self.omega,
                weight: self.omega,
                with_b: true,
            })
            .collect()
    }

    /// A sweep on the host in f64, beside a bound on what the device's may differ from it. `bound` holds what x differs before.
    #[doc(hidden)]
    pub fn sweep_with_bound(&self, b: &[f64], x: &mut [f64], bound: &mut [f64]) {
        super::super::sweep::on_host_with_bound(&self.steps(), &self.groups, &self.rest, &self.inverse, b, x, bound);
    }

    /// Binds to buffers: b and x are f32, `[n]` or `[k, n]`, contiguous, in different ranges.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::DTypeMismatch`], [`Error::BufferUsage`], [`Error::Aliased`] for views that do not fit; [`Error::Csr`] for
    /// entries beyond the range of f32; [`Error::Limit`] for vectors beyond a binding or a row of more than 1,920,000 entries.
    pub fn bind(&self, gpu: &Gpu, b: &BufferView, x: &BufferView) -> Result<BoundRelaxation> {
        let uploaded = self
            .uploaded
            .get(gpu, || Uploaded::new(gpu, &self.groups, &self.rest, &self.inverse))?;
        check_apart(b, x)?;
        let n = self.inverse.len();
        let (b, x) = (Vectors::of(gpu, b, "b", n, false)?, Vectors::of(gpu, x, "x", n, true)?);
        check_counts(&b, &x)?;
        let mut dispatches = Dispatches::new(gpu, "sor");
        uploaded.add(gpu, &mut dispatches, &self.steps(), &b, &x, None)?;
        Ok(BoundRelaxation {
            sweep: Sweep::Sor(dispatches.finish()?),
            residual: None,
            last: None,
            dispatches: 0,
        }
        .counted(n))
    }

    /// With what it takes to compute the residual's norm.
    pub(super) fn bind_with_residual(
        &self,
        gpu: &Gpu,
        operator: &dyn LinearOperator,
        b: &BufferView,
        x: &BufferView,
    ) -> Result<BoundRelaxation> {
        let mut bound = self.bind(gpu, b, x)?;
        let unused = gpu.upload("macheps unused", &[0; 16])?;
        let residual = Residual::new(gpu, operator, b, x, 0, unused)?;
        bound.last = Some(residual.recording(gpu, 0, None)?);
        bound.residual = Some(residual);
        Ok(bound)
    }
}

/// q = A x, and what is made of it.
struct Residual {
    n: usize,
    product: Box<dyn Record>,
    b: Vectors,
    q: Vectors,
    x: Vectors,
    inverse: wgpu::Buffer,
    partials: wgpu::Buffer,
}

impl Residual {
    /// With one slot more than `slots`.
    fn new(
        gpu: &Gpu,
        operator: &dyn LinearOperator,
        b: &BufferView,
        x: &BufferView,
        slots: usize,
        inverse: wgpu::Buffer,
    ) -> Result<Residual> {
        use wgpu::BufferUsages as U;
        let n = operator.size();
        check_apart(b, x)?;
        let b = Vectors::of(gpu, b, "b", n, false)?.side_by_side("b", n)?;
        let own = Vectors::of(gpu, x, "x", n, true)?.side_by_side("x", n)?;
        check_counts(&b, &own)?;
        let bytes = (n as u64).saturating_mul(u64::from(own.count)).saturating_mul(4);
        let q_buffer = gpu.create_buffer(
            "macheps relaxation product",
            bytes,
            U::STORAGE | U::COPY_SRC | U::COPY_DST,
        )?;
        let q_view = BufferView::new(&q_buffer, DType::F32, x.shape());
        let product = operator.bind(gpu, &OperatorCall::new(x, &q_view))?;
        let q = Vectors::of(gpu, &q_view, "q", n, true)?;
        let pairs = (slots as u64 + 1) * groups(n) as u64 * u64::from(own.count);
        within(
            "bytes of partial norms in one storage binding",
            pairs * 8,
            gpu.capabilities().max_binding,
        )?;
        let partials = gpu.create_buffer("macheps relaxation norms", pairs * 8, U::STORAGE | U::COPY_SRC)?;
        Ok(Residual {
            n,
            product,
            b,
            q,
            x: own,
            inverse,
            partials,
        })
    }

    fn recording(&self, gpu: &Gpu, slot: usize, weight: Option<f64>) -> Result<Recording> {
        let update = Update {
            b: &self.b,
            q: &self.q,
            x: &self.x,
            inverse: &self.inverse,
            partials: &self.partials,
            active: None,
        };
        update.bind(gpu, self.n, slot, weight)
    }
}

enum Sweep {
    /// One a slot.
    Jacobi(Vec<Recording>),
    Sor(Recording),
}

/// Sweeps bound to buffers.
pub struct BoundRelaxation {
    sweep: Sweep,
    residual: Option<Residual>,
    /// The residual of x as it is, into the last slot.
    last: Option<Recording>,
    dispatches: usize,
}

impl std::fmt::Debug for BoundRelaxation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BoundRelaxation")
            .field("dispatches", &self.dispatches)
            .finish_non_exhaustive()
    }
}

impl BoundRelaxation {
    fn counted(mut self, n: usize) -> Self {
        self.dispatches = match &self.sweep {
            _ if n == 0 => 0,
            Sweep::Jacobi(steps) => {
                let product = self.residual.as_ref().map_or(0, |r| r.product.dispatches());
                product + steps.first().map_or(0, Recording::dispatches)
            }
            Sweep::Sor(sweep) => sweep.dispatches(),
        };
        self
    }

    /// Records so many sweeps into a command encoder, as one compute pass. Creates no other wgpu object, submits nothing, waits for
    /// nothing.
    pub fn record(&self, encoder: &mut wgpu::CommandEncoder, sweeps: usize) {
        if self.dispatches == 0 {
            return;
        }
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some("relaxation"),
            timestamp_writes: None,
        });
        self.record_pass(&mut pass, sweeps);
    }

    /// As [`Self::record`], into an open compute pass.
    pub fn record_pass(&self, pass: &mut wgpu::ComputePass<'_>, sweeps: usize) {
        if self.dispatches == 0 {
            return;
        }
        for sweep in 0..sweeps {
            match &self.sweep {
                Sweep::Sor(sweep) => sweep.record_pass(pass),
                Sweep::Jacobi(steps) => {
                    if let Some(residual) = &self.residual {
                        residual.product.record(pass);
                    }
                    steps[sweep % steps.len()].record_pass(pass);
                }
            }
        }
    }

    /// Dispatches of one sweep.
    pub fn dispatches(&self) -> usize {
        self.dispatches
    }

    /// Records the residual of x as it stands.
    pub(super) fn record_residual(&self, pass: &mut wgpu::ComputePass<'_>) {
        if let (Some(residual), Some(last)) = (&self.residual, &self.last) {
            residual.product.record(pass);
            last.record_pass(pass);
        }
    }

    /// The buffer with the pairs of the norms.
    pub(super) fn norms(&self) -> Option<&wgpu::Buffer> {
        self.residual.as_ref().map(|r| &r.partials)
    }

    /// Sweeps whose residuals have slots; none where sweeps leave no residual.
    pub(super) fn slots(&self) -> usize {
        match &self.sweep {
            Sweep::Jacobi(steps) => steps.len(),
            Sweep::Sor(_) => 0,
        }
    }
}
