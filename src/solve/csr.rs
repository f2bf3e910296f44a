//! A sparse matrix as the operator of a solver.

use super::vector::scaled;
use super::{LinearOperator, OperatorCall, Record};
use crate::element::{DType, bf16, f16};
use crate::error::{CsrDefect, Error, Result};
use crate::float::Float;
use crate::gpu::{BufferView, Gpu, Recording, lock};
use crate::ops::spmv::{Call, Spmv, SpmvOptions, cpu};
use crate::sparse::{Csr, Narrowing, Symmetry};
use std::sync::{Mutex, OnceLock};

/// A square matrix in compressed rows: kept in f64 for residuals, and on devices in f32, f16 or bf16.
///
/// The device copy is made at the first use on a device and shared by all that follow.
///
/// ```
/// use macheps::solve::{CsrOperator, LinearOperator};
/// use macheps::sparse::Dense;
/// let a = Dense::new(2, 2, vec![2.0, -1.0, -1.0, 2.0])?.to_csr()?;
/// let operator = CsrOperator::new(a)?;
/// let mut y = [0.0; 2];
/// operator.apply(&[3.0, 1.0], &mut y);
/// assert_eq!(y, [5.0, -1.0]);
/// assert_eq!(operator.norm_inf(), Some(3.0));
/// # Ok::<(), macheps::Error>(())
/// ```
pub struct CsrOperator {
    matrix: Csr<f64>,
    dtype: DType,
    narrowing: Narrowing,
    norm_inf: f64,
    symmetry: OnceLock<Symmetry>,
    cached: Mutex<Vec<OnDevice>>,
}

/// The matrix on one device.
struct OnDevice {
    gpu: Gpu,
    spmv: Spmv,
    /// alpha = 1 and beta = 0.
    scale: wgpu::Buffer,
}

impl std::fmt::Debug for CsrOperator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CsrOperator")
            .field("size", &self.matrix.rows())
            .field("entries", &self.matrix.entries())
            .field("dtype", &self.dtype)
            .finish_non_exhaustive()
    }
}

impl CsrOperator {
    /// Takes a matrix; devices hold it in f32.
    ///
    /// # Errors
    /// [`Error::Shape`] for a matrix that is not square.
    pub fn new(matrix: Csr<f64>) -> Result<CsrOperator> {
        CsrOperator::with_dtype(matrix, DType::F32)
    }

    /// Takes a matrix and the storage type that devices hold it in.
    ///
    /// # Errors
    /// [`Error::Shape`] for a matrix that is not square.
    pub fn with_dtype(matrix: Csr<f64>, dtype: DType) -> Result<CsrOperator> {
        matrix.check_square()?;
        Ok(CsrOperator {
            norm_inf: matrix.norm_inf(),
            symmetry: OnceLock::new(),
            matrix,
            dtype,
            narrowing: Narrowing::default(),
            cached: Mutex::default(),
        })
    }

    /// What becomes of values beyond the range of the storage type on devices; refused by default.
    pub fn with_narrowing(mut self, narrowing: Narrowing) -> CsrOperator {
        self.narrowing = narrowing;
        self.cached = Mutex::default();
        self
    }

    /// Storage type on devices.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The matrix.
    pub fn into_matrix(self) -> Csr<f64> {
        self.matrix
    }

    /// The matrix on a device: [`Spmv`] of what narrowing leaves of it.
    ///
    /// # Errors
    /// [`Error::Csr`] with [`Overflow`](crate::CsrDefect::Overflow) for a value beyond the range of the storage type, unless allowed,
    /// and with [`Underflow`](crate::CsrDefect::Underflow) where all values are too small for it; those of [`Spmv::new`]. Whole
    /// solves scale a matrix with a norm beyond 2^-64 to 2^64 first ([`device_exponent`](super::device_exponent)).
    pub fn on_device(&self, gpu: &Gpu) -> Result<Spmv> {
        Ok(self.cached(gpu)?.0)
    }

    /// The matrix in another type. One that would vanish as a whole is refused: a device would take it for zero.
    fn narrowed<T: Float>(&self) -> Result<Csr<T>> {
        let (largest, smallest) = (self.matrix.largest(), T::FORMAT.min_normal());
        if largest > 0.0 && largest < smallest {
            let at = self.matrix.iter().find(|(.., v)| v.abs() == largest);
            let (row, column, value) = at.unwrap_or_default();
            return Err(Error::Csr {
                row,
                defect: CsrDefect::Underflow {
                    column,
                    value,
                    smallest,
                    dtype: self.dtype,
                },
            });
        }
        Ok(self.matrix.narrow::<T>(self.narrowing)?.matrix)
    }

    fn cached(&self, gpu: &Gpu) -> Result<(Spmv, wgpu::Buffer)> {
        // Held while the matrix is made and uploaded: a second caller waits for that instead of doing it once more.
        let mut cached = lock(&self.cached);
        cached.retain(|c| !c.gpu.is_lost());
        if let Some(found) = cached.iter().find(|c| c.gpu.same_kernels(gpu)) {
            return Ok((found.spmv.clone(), found.scale.clone()));
        }
        let options = SpmvOptions::default();
        let spmv = match self.dtype {
            DType::F32 => Spmv::new(gpu, &self.narrowed::<f32>()?, &options)?,
            DType::F16 => Spmv::new(gpu, &self.narrowed::<f16>()?, &options)?,
            DType::Bf16 => Spmv::new(gpu, &self.narrowed::<bf16>()?, &options)?,
        };
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let scale = gpu.create_buffer("macheps spmv scale", 16, usage)?;
        gpu.write(&scale, 0, bytemuck::cast_slice(&[1.0f32, 0.0, 0.0, 0.0]))?;
        cached.push(OnDevice {
            gpu: gpu.clone(),
            spmv: spmv.clone(),
            scale: scale.clone(),
        });
        Ok((spmv, scale))
    }
}

/// `[n]` as it is, `[1, n]` as `[n]`, `[k, n]` as `[n, k]`.
fn columns(view: &BufferView) -> Result<BufferView> {
    let mut view = view.clone();
    if view.shape.len() == 2 && view.strides.len() == 2 && view.shape[0] == 1 {
        view.shape.remove(0);
        view.strides.remove(0);
    } else if view.shape.len() == 2 && view.strides.len() == 2 {
        view.shape.reverse();
        view.strides.reverse();
    } else if view.shape.len() > 2 {
        return Err(Error::shape(
            "vectors of a solver",
            "[n] or [k, n]",
            format!("{:?}", view.shape),
        ));
    }
    Ok(view)
}

impl LinearOperator for CsrOperator {
    fn size(&self) -> usize {
        self.matrix.rows()
    }

    fn apply(&self, x: &[f64], y: &mut [f64]) {
        cpu::apply(&self.matrix, x, y);
    }

    fn bind(&self, gpu: &Gpu, call: &OperatorCall<'_>) -> Result<Box<dyn Record>> {
        let (spmv, scale) = self.cached(gpu)?;
        let recording: Recording = spmv.bind_with(&Call {
            x: &columns(call.x)?,
            y: &columns(call.y)?,
            dot: call.dot,
            active: call.active,
            scale: &scale,
        })?;
        Ok(Box::new(recording))
    }

    fn dot_partials(&self, gpu: &Gpu) -> Option<usize> {
        Some(crate::ops::spmv::dot_partials(gpu))
    }

    fn diagonal(&self) -> Option<Vec<f64>> {
        Some(self.matrix.diagonal())
    }

    fn norm_inf(&self) -> Option<f64> {
        Some(self.norm_inf)
    }

    fn matrix(&self) -> Option<&Csr<f64>> {
        Some(&self.matrix)
    }

    fn symmetry(&self) -> Option<Symmetry> {
        Some(*self.symmetry.get_or_init(|| self.matrix.symmetry()))
    }

    fn scaled(&self, exponent: i32) -> Option<Box<dyn LinearOperator>> {
        let values = scaled(self.matrix.values(), exponent);
        let matrix = self.matrix.with_values(values).ok()?;
        let operator = CsrOperator::with_dtype(matrix, self.dtype).ok()?;
        Some(Box::new(operator.with_narrowing(self.narrowing)))
    }
}
