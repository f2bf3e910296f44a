//! What a solver asks of a preconditioner.

use super::{Record, Threaded};
use crate::error::Result;
use crate::gpu::{BufferView, Gpu};

/// The buffers of one application z = M^-1 r on a device; shapes as in [`super::OperatorCall`]. r and z lie in different buffers.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PreconditionerCall<'a> {
    /// Input.
    pub r: &'a BufferView,
    /// Output; every element of it is written.
    pub z: &'a BufferView,
    /// k words, 0 where a vector's result is not needed any more.
    pub active: Option<&'a wgpu::Buffer>,
}

impl<'a> PreconditionerCall<'a> {
    /// z = M^-1 r and nothing else.
    pub fn new(r: &'a BufferView, z: &'a BufferView) -> Self {
        PreconditionerCall { r, z, active: None }
    }
}

/// How a preconditioner can be applied.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum PreconditionerForm {
    /// M = I.
    Identity,
    /// M^-1 is this diagonal; solvers fuse it into their vector updates.
    Diagonal(Vec<f64>),
    /// By [`Preconditioner::apply`] and [`Preconditioner::bind`].
    General,
}

/// A symmetric positive definite M^-1 that is near A^-1 and cheap.
pub trait Preconditioner: Threaded {
    /// What reports call it.
    fn name(&self) -> &str;

    /// Its size; the operator's.
    fn size(&self) -> usize;

    /// How it is applied.
    fn form(&self) -> PreconditionerForm;

    /// z = M^-1 r on the host, in f64.
    fn apply(&self, r: &[f64], z: &mut [f64]);

    /// Binds z = M^-1 r to buffers of a device. Not called for forms that are fused.
    ///
    /// # Errors
    /// Whatever keeps it from running there.
    fn bind(&self, gpu: &Gpu, call: &PreconditionerCall<'_>) -> Result<Box<dyn Record>>;

    /// The same for 2^exponent A, z = 2^-exponent M^-1 r, with what it stores in the middle of the range of numbers: solvers ask for
    /// it together with [`LinearOperator::scaled`](super::LinearOperator::scaled). `None` where there is no such form.
    fn scaled(&self, _exponent: i32) -> Option<Box<dyn Preconditioner>> {
        None
    }
}
