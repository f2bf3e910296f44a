//! What a solver asks of a matrix.

use crate::error::Result;
use crate::gpu::{BufferView, Gpu, Recording};
use crate::sparse::{Csr, Symmetry};

/// Send and Sync, except in browsers, where what belongs to a device stays in its thread. Implemented for everything that is.
#[cfg(not(target_arch = "wasm32"))]
pub trait Threaded: Send + Sync {}
#[cfg(not(target_arch = "wasm32"))]
impl<T: Send + Sync + ?Sized> Threaded for T {}
/// Send and Sync, except in browsers, where what belongs to a device stays in its thread. Implemented for everything that is.
#[cfg(target_arch = "wasm32")]
pub trait Threaded {}
#[cfg(target_arch = "wasm32")]
impl<T: ?Sized> Threaded for T {}

/// Work that is bound to its buffers and can be recorded any number of times. Recording creates no wgpu object, submits nothing
/// and waits for nothing.
pub trait Record: Threaded {
    /// Records into an open compute pass. Dispatches of a pass run in order, each seeing what those before it wrote.
    fn record(&self, pass: &mut wgpu::ComputePass<'_>);

    /// Number of dispatches that [`Record::record`] records.
    fn dispatches(&self) -> usize;
}

impl Record for Recording {
    fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        self.record_pass(pass);
    }

    fn dispatches(&self) -> usize {
        Recording::dispatches(self)
    }
}

/// The buffers of one application y = A x on a device.
///
/// Vectors are f32: `[n]`, or `[k, n]` for k vectors, each contiguous. x and y lie in different buffers.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct OperatorCall<'a> {
    /// Input.
    pub x: &'a BufferView,
    /// Output; every element of it is written.
    pub y: &'a BufferView,
    /// Where the operator leaves parts of the dot products x.y: f32 of shape `[k, p, 2]` with p from
    /// [`LinearOperator::dot_partials`]; a part is a sum and its rounding error, and the dot product is the sum of all 2 p numbers.
    /// Given only to operators that say they can.
    pub dot: Option<&'a BufferView>,
    /// k words. Where a vector's word is 0 the solver has no use for its product any more: the operator may leave its y and its
    /// parts as they are. A saving, not a duty.
    pub active: Option<&'a wgpu::Buffer>,
}

impl<'a> OperatorCall<'a> {
    /// y = A x and nothing else.
    pub fn new(x: &'a BufferView, y: &'a BufferView) -> Self {
        OperatorCall {
            x,
            y,
            dot: None,
            active: None,
        }
    }
}

/// A square matrix of size n, as far as solvers need to know it.
///
/// Implement it for matrices that are never stored. What a device computes and [`LinearOperator::apply`] are the same linear map up
/// to the rounding of f32; solvers judge what the device found by the latter.
pub trait LinearOperator: Threaded {
    /// n.
    fn size(&self) -> usize;

    /// y = A x on the host, in f64, as exact as f64 allows. Both have n elements.
    fn apply(&self, x: &[f64], y: &mut [f64]);

    /// Binds y = A x to buffers of a device: makes pipelines and bind groups, runs nothing.
    ///
    /// # Errors
    /// Whatever keeps the operator from running there.
    fn bind(&self, gpu: &Gpu, call: &OperatorCall<'_>) -> Result<Box<dyn Record>>;

    /// How many parts of x.y a fused application leaves on this device, or `None` if it cannot, in which case solvers spend a
    /// dispatch more.
    fn dot_partials(&self, _gpu: &Gpu) -> Option<usize> {
        None
    }

    /// The diagonal, for Jacobi's method and preconditioner.
    fn diagonal(&self) -> Option<Vec<f64>> {
        None
    }

    /// The infinity norm (largest sum of magnitudes of a row), for backward errors and scaling.
    fn norm_inf(&self) -> Option<f64> {
        None
    }

    /// The entries, for what needs them: Gauss-Seidel, SSOR, incomplete factorisations.
    fn matrix(&self) -> Option<&Csr<f64>> {
        None
    }

    /// How far it is symmetric, where that is known: by default from the entries, anew at each call. Methods that need a symmetric
    /// operator take one that does not say for symmetric.
    fn symmetry(&self) -> Option<Symmetry> {
        self.matrix().map(Csr::symmetry)
    }

    /// 2^exponent A, as an operator of its own, for an A whose norm is beyond the range that a device computes in; `None` where there
    /// is no such form. On the host solvers manage without.
    fn scaled(&self, _exponent: i32) -> Option<Box<dyn LinearOperator>> {
        None
    }
}
