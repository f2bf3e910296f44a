//! Sparse matrix times dense vectors: `y = alpha A x + beta y` for a matrix in compressed rows.
//!
//! # Definition
//! `y_i = alpha * sum_j a_ij x_j + beta * y_i`. With beta = 0, y is not read: a NaN in it does not count. A row without entries gives
//! `beta * y_i`. With [`SpmvOptions::transpose`] the matrix is `A^T`, stored as such: no atomics.
//!
//! # Shapes
//! A `[m, n]`, x `[n]` or `[n, k]`, y `[m]` or `[m, k]`; any strides, so `[k, n]` transposed serves too. Entries are f32, f16 or bf16;
//! x, y and all arithmetic are f32.
//!
//! # Numerics
//! A row of n entries is within `(log2 max(n, 2) + 6) u sum_j |a_ij x_j|`, u = 2^-24, of the true sum; alpha and beta add half a unit each
//! ([`bounds`]). Exact where all numbers are integers and no sum of magnitudes reaches 2^24. The same bits on every run, and at any
//! subgroup width. An infinity or NaN in x goes where it is multiplied with an entry, a stored zero included.
//!
//! # Cost
//! Least traffic: entries once (value and a 4-byte column), 4 bytes a row, x and y once. One dispatch; a second small one where rows
//! are split; more where the entries do not fit one storage binding.

pub mod bounds;
pub mod cases;
pub mod cpu;
mod kernels;
mod oneshot;
mod plan;
pub mod reference;

pub(crate) use kernels::Call;
#[doc(hidden)]
pub use kernels::shader_variants;
pub use oneshot::{SpmvInput, SpmvScale, forward_async, spmm_async, spmv_async};
#[cfg(not(target_arch = "wasm32"))]
pub use oneshot::{forward, forward_checked, spmm, spmv};

use crate::element::{DType, Element};
use crate::error::{Error, Result};
use crate::float::Float;
use crate::gpu::{BufferView, Gpu, Recording};
use crate::sparse::Csr;
use std::sync::Arc;

/// How rows are dealt out to the invocations of a device. In all of them rows of more than 4,096 entries are split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpmvStrategy {
    /// One invocation takes a row.
    Row,
    /// A team of neighbouring invocations takes a row; its width goes by the mean length of the rows.
    Team,
    /// Rows change places so that neighbours are of like lengths, and each length gets a team that suits it.
    Balanced,
}

impl SpmvStrategy {
    /// All of them.
    pub const ALL: [SpmvStrategy; 3] = [SpmvStrategy::Row, SpmvStrategy::Team, SpmvStrategy::Balanced];

    /// Lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            SpmvStrategy::Row => "row",
            SpmvStrategy::Team => "team",
            SpmvStrategy::Balanced => "balanced",
        }
    }
}

/// Options of a sparse product.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpmvOptions {
    /// How rows are dealt out; `None` chooses by their lengths and by the kind of device.
    pub strategy: Option<SpmvStrategy>,
    /// Multiply by the transpose.
    pub transpose: bool,
}

/// A matrix on a device with its plan, ready to be bound to vectors.
///
/// Made once a matrix: uploads it and looks at the lengths of its rows. Its values may change ([`Spmv::update_values`], or by kernels
/// of your own through [`Spmv::values`]) as long as the places of the entries stay. Cheap to clone.
///
/// ```no_run
/// use macheps::{BufferView, Csr, DType, Gpu, Spmv, SpmvOptions};
/// # fn frame(gpu: &Gpu, a: &Csr<f32>, x: &BufferView, y: &BufferView, encoder: &mut macheps::wgpu::CommandEncoder) -> macheps::Result<()> {
/// let product = Spmv::new(gpu, a, &SpmvOptions::default())?;
/// let bound = product.bind(x, y, 1.0, 0.0)?; // y = A x
/// bound.record(encoder); // in every frame; creates, submits and waits for nothing
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Spmv {
    device: Arc<kernels::Device>,
}

impl std::fmt::Debug for Spmv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spmv")
            .field("shape", &self.device.shape())
            .field("entries", &self.entries())
            .field("dtype", &self.dtype())
            .field("strategy", &self.strategy())
            .finish_non_exhaustive()
    }
}

impl Spmv {
    /// Uploads a matrix and makes its plan.
    ///
    /// # Cost
    /// O(rows + entries) on the host (a sort of neighbouring rows among themselves where lengths vary) and one upload.
    ///
    /// # Errors
    /// [`Error::Limit`] for more than 2^31 entries, or more rows than one storage binding holds pointers for.
    pub fn new<T: Element + Float>(gpu: &Gpu, a: &Csr<T>, options: &SpmvOptions) -> Result<Spmv> {
        let device = Arc::new(kernels::Device::new(gpu, a, options)?);
        Ok(Spmv { device })
    }

    /// Length of y.
    pub fn rows(&self) -> usize {
        self.device.shape()[0]
    }

    /// Length of x.
    pub fn cols(&self) -> usize {
        self.device.shape()[1]
    }

    /// Number of entries.
    pub fn entries(&self) -> usize {
        self.device.entries()
    }

    /// Storage type of the entries.
    pub fn dtype(&self) -> DType {
        self.device.dtype()
    }

    /// How rows are dealt out.
    pub fn strategy(&self) -> SpmvStrategy {
        self.device.strategy()
    }

    /// Replaces the values, in the order of the matrix as it was given. What is recorded already uses the new ones from the next
    /// submission on.
    ///
    /// # Errors
    /// [`Error::Csr`] unless there is a value for each entry; [`Error::DTypeMismatch`] for values of another type.
    pub fn update_values<T: Element>(&self, values: &[T]) -> Result<()> {
        self.device.update_values(values)
    }

    /// The values on the device, for kernels that write them: `[entries]`, in the order of the compressed rows as stored, which is that
    /// of the matrix given but for a transposed one: there entry k is entry `places[k]` of the matrix given ([`Spmv::places`]).
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the entries do not fit one buffer.
    pub fn values(&self) -> Result<BufferView> {
        self.device.values().ok_or_else(|| Error::Unsupported {
            what: "a view of the values of this matrix".into(),
            reason: "they are spread over several buffers, since one does not hold them".into(),
        })
    }

    /// For a transposed matrix, the place of each stored entry in the matrix as it was given.
    pub fn places(&self) -> Option<&[u32]> {
        self.device.places()
    }

    /// Binds `y = alpha A x + beta y` to buffers: x `[cols]` and y `[rows]`, or x `[cols, k]` and y `[rows, k]`, f32 with any strides.
    /// k vectors together read the matrix about k / 4 times.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::DTypeMismatch`], [`Error::Aliased`] for views that do not fit or overlap; [`Error::Limit`] where x or y
    /// is beyond one storage binding.
    pub fn bind(&self, x: &BufferView, y: &BufferView, alpha: f32, beta: f32) -> Result<BoundSpmv> {
        let gpu = self.device.gpu();
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let scale = gpu.create_buffer("macheps spmv scale", 16, usage)?;
        let bound = BoundSpmv {
            recording: self.bind_with(&Call {
                x,
                y,
                dot: None,
                active: None,
                scale: &scale,
            })?,
            gpu: gpu.clone(),
            scale,
        };
        bound.set_scale(alpha, beta)?;
        Ok(bound)
    }

    /// Binds a call of a solver.
    pub(crate) fn bind_with(&self, call: &Call<'_>) -> Result<Recording> {
        self.device.bind(call)
    }
}

/// Parts that a fused dot product leaves on a device.
pub(crate) fn dot_partials(gpu: &Gpu) -> usize {
    kernels::groups(gpu.capabilities()) as usize
}

/// A sparse product bound to its buffers.
pub struct BoundSpmv {
    recording: Recording,
    gpu: Gpu,
    scale: wgpu::Buffer,
}

impl std::fmt::Debug for BoundSpmv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BoundSpmv")
            .field("dispatches", &self.dispatches())
            .finish_non_exhaustive()
    }
}

impl BoundSpmv {
    /// Records into a command encoder, as one compute pass. Creates no wgpu object but that pass, submits nothing and waits for
    /// nothing.
    pub fn record(&self, encoder: &mut wgpu::CommandEncoder) {
        self.recording.record(encoder);
    }

    /// Records into an open compute pass.
    pub fn record_pass(&self, pass: &mut wgpu::ComputePass<'_>) {
        self.recording.record_pass(pass);
    }

    /// Number of dispatches.
    pub fn dispatches(&self) -> usize {
        self.recording.dispatches()
    }

    /// Other alpha and beta, from the next submission on.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub fn set_scale(&self, alpha: f32, beta: f32) -> Result<()> {
        self.gpu
            .write(&self.scale, 0, bytemuck::cast_slice(&[alpha, beta, 0.0, 0.0]))
    }

    pub(crate) fn into_recording(self) -> Recording {
        self.recording
    }
}
