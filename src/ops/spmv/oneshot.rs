//! One call on a matrix and vectors in host memory, on a GPU or on the CPU path.

use super::{Spmv, SpmvOptions, bounds, cpu, reference};
use crate::accuracy::check;
use crate::context::{Context, CrossCheck};
use crate::element::{DType, Element};
use crate::error::{Error, Result};
use crate::float::Float;
use crate::gpu::{BufferView, Gpu};
use crate::job::{self, Job, Simple};
use crate::sparse::Csr;
use std::borrow::Cow;

/// A product of a sparse matrix and vectors: `y = alpha A x + beta y0`.
#[derive(Clone, Copy, Debug)]
pub struct SpmvInput<'a, T> {
    /// The matrix.
    pub a: &'a Csr<T>,
    /// x: `[n]`, or `[n, k]` row by row; n is the number of columns, or of rows for the transpose.
    pub x: &'a [f32],
    /// k, the number of vectors.
    pub vectors: usize,
    /// alpha, beta and y0.
    pub scale: SpmvScale<'a>,
    /// How a device does it, and whether by the transpose.
    pub options: SpmvOptions,
}

/// What a product is multiplied by, and what is added to it: `alpha A x + beta y0`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SpmvScale<'a> {
    /// alpha.
    pub alpha: f32,
    /// beta; where it is 0, y0 does not count, not even a NaN.
    pub beta: f32,
    /// y0, of y's shape; zeros if absent.
    pub y0: Option<&'a [f32]>,
}

impl Default for SpmvScale<'_> {
    fn default() -> Self {
        SpmvScale {
            alpha: 1.0,
            beta: 0.0,
            y0: None,
        }
    }
}

impl<'a, T> SpmvInput<'a, T> {
    /// `A x` for one vector.
    pub fn new(a: &'a Csr<T>, x: &'a [f32]) -> Self {
        SpmvInput {
            a,
            x,
            vectors: 1,
            scale: SpmvScale::default(),
            options: SpmvOptions::default(),
        }
    }
}

/// A checked call.
struct Problem<'a, T> {
    input: SpmvInput<'a, T>,
    rows: usize,
    cols: usize,
}

impl<'a, T: Element + Float> Problem<'a, T> {
    fn new(input: &SpmvInput<'a, T>) -> Result<Self> {
        let a = input.a;
        let (rows, cols) = match input.options.transpose {
            true => (a.cols(), a.rows()),
            false => (a.rows(), a.cols()),
        };
        let lengths = [("x", Some(input.x), cols), ("y0", input.scale.y0, rows)];
        for (what, values, n) in lengths {
            let Some(values) = values else { continue };
            if n.checked_mul(input.vectors) != Some(values.len()) {
                return Err(Error::shape(
                    what,
                    format!("{n} x {} elements", input.vectors),
                    format!("{}", values.len()),
                ));
            }
        }
        Ok(Problem {
            input: *input,
            rows,
            cols,
        })
    }

    /// The matrix that multiplies.
    fn matrix(&self) -> Result<Cow<'a, Csr<T>>> {
        Ok(match self.input.options.transpose {
            true => Cow::Owned(self.input.a.transpose()?),
            false => Cow::Borrowed(self.input.a),
        })
    }

    fn count(&self) -> Result<usize> {
        let have = usize::MAX as u64;
        self.rows.checked_mul(self.input.vectors).ok_or(Error::Limit {
            what: "elements of the result",
            need: have,
            have,
        })
    }
}

impl<T: Element + Float> Job for Problem<'_, T> {
    type Output = Vec<f32>;
    type Bound = Simple;

    fn name(&self) -> &'static str {
        if self.input.vectors == 1 { "spmv" } else { "spmm" }
    }

    fn on_cpu(&self) -> Result<Vec<f32>> {
        let mut y = job::allocate(self.count()?)?;
        let scale = self.input.scale;
        let old = scale.y0.filter(|_| scale.beta != 0.0);
        let scale = cpu::Scale {
            alpha: scale.alpha.into(),
            old: old.map(|y0| (scale.beta.into(), y0)),
        };
        cpu::spmm(&*self.matrix()?, self.input.x, self.input.vectors, scale, &mut y);
        Ok(y)
    }

    fn bind(&self, gpu: &Gpu) -> Result<Simple> {
        let (k, scale) = (self.input.vectors, self.input.scale);
        let count = self.count()?;
        let product = Spmv::new(gpu, self.input.a, &self.input.options)?;
        let x = gpu.upload("macheps x", bytemuck::cast_slice(self.input.x))?;
        let y = match scale.y0 {
            Some(y0) => gpu.upload("macheps y", bytemuck::cast_slice(y0))?,
            None => {
                let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
                gpu.create_buffer("macheps y", count as u64 * 4, usage)?
            }
        };
        // New buffers hold zeros.
        let view = |buffer, n| match k {
            1 => BufferView::new(buffer, DType::F32, &[n]),
            _ => BufferView::new(buffer, DType::F32, &[n, k]),
        };
        let bound = product.bind(&view(&x, self.cols), &view(&y, self.rows), scale.alpha, scale.beta)?;
        Ok(Simple {
            recording: bound.into_recording(),
            outputs: vec![(y, count as u64 * 4)],
        })
    }

    fn decode(&self, outputs: &[&[u8]]) -> Result<Vec<f32>> {
        Ok(job::elements(outputs[0]))
    }

    fn cross_check(&self, how: CrossCheck, output: &Vec<f32>, _: Option<&Simple>) -> Result<()> {
        if how == CrossCheck::Off {
            return Ok(());
        }
        judge(&*self.matrix()?, &self.input, output, job::checked_rows(how, self.rows)).map_err(|m| {
            Error::Mismatch {
                kernel: self.name(),
                index: m.index,
                gpu: m.got,
                cpu: m.want,
                bound: m.bound,
            }
        })?;
        Ok(())
    }
}

/// Holds rows of a result to the oracle; `matrix` is the one that multiplies.
pub(super) fn judge<T: Float>(
    matrix: &Csr<T>,
    input: &SpmvInput<'_, T>,
    output: &[f32],
    rows: impl Iterator<Item = usize>,
) -> std::result::Result<bounds::MaxError, bounds::Mismatch> {
    let (k, scale) = (input.vectors, input.scale);
    let (alpha, beta) = (f64::from(scale.alpha), f64::from(scale.beta));
    let mut worst = bounds::MaxError::default();
    for i in rows {
        for c in 0..k {
            let x = |j: usize| f64::from(input.x[j * k + c]);
            let old = scale.y0.map_or(0.0, |y0| f64::from(y0[i * k + c]));
            let sum = reference::row(matrix, i, x);
            let want = reference::element(alpha, sum, beta, old);
            let allowed = bounds::element(&bounds::row_scale(matrix, i, x), sum, alpha, beta, old);
            let index = i * k + c;
            let found = check(&output[index..=index], &[want], &[allowed]);
            worst = worst.merge(found.map_err(|m| bounds::Mismatch { index, ..m })?);
        }
    }
    Ok(worst)
}

/// `y = alpha A x + beta y0` on the context's device.
///
/// Definition, shapes and numerics: [module documentation](super). A device gets the matrix anew in every call: to multiply by one matrix
/// often, make a [`Spmv`].
///
/// # Errors
/// [`Error::Shape`] for lengths that do not fit; what the device may answer.
///
/// ```
/// use macheps::ops::spmv::{SpmvInput, SpmvScale, forward};
/// use macheps::{Context, Csr};
/// let a = Csr::try_new(2, 3, vec![0, 2, 3], vec![0, 2, 1], vec![1.0f32, 2.0, 3.0])?;
/// let mut input = SpmvInput::new(&a, &[1.0, 10.0, 100.0]);
/// input.scale = SpmvScale { alpha: 2.0, beta: -1.0, y0: Some(&[2.0, 0.0]) };
/// assert_eq!(forward(&Context::cpu(), &input)?, [400.0, 60.0]);
/// # Ok::<(), macheps::Error>(())
/// ```
#[cfg(not(target_arch = "wasm32"))]
pub fn forward<T: Element + Float>(context: &Context, input: &SpmvInput<'_, T>) -> Result<Vec<f32>> {
    job::run(&Problem::new(input)?, context)
}

/// As [`forward`], for any executor.
///
/// # Errors
/// Those of [`forward`].
pub async fn forward_async<T: Element + Float>(context: &Context, input: &SpmvInput<'_, T>) -> Result<Vec<f32>> {
    job::run_async(&Problem::new(input)?, context).await
}

/// As [`forward`], and holds the result to the oracle, on the CPU path too.
///
/// # Errors
/// Those of [`forward`], and [`Error::Mismatch`].
#[cfg(not(target_arch = "wasm32"))]
pub fn forward_checked<T: Element + Float>(
    context: &Context,
    input: &SpmvInput<'_, T>,
    how: CrossCheck,
) -> Result<Vec<f32>> {
    job::run_checked(&Problem::new(input)?, context, how)
}

/// `A x` for one vector.
///
/// # Errors
/// [`Error::Shape`] for lengths that do not fit; what the device may answer.
///
/// ```
/// use macheps::{Context, Csr, spmv};
/// let a = Csr::try_new(2, 3, vec![0, 2, 3], vec![0, 2, 1], vec![1.0f32, 2.0, 3.0])?;
/// assert_eq!(spmv(&Context::cpu(), &a, &[1.0, 10.0, 100.0])?, [201.0, 30.0]);
/// # Ok::<(), macheps::Error>(())
/// ```
#[cfg(not(target_arch = "wasm32"))]
pub fn spmv<T: Element + Float>(context: &Context, a: &Csr<T>, x: &[f32]) -> Result<Vec<f32>> {
    forward(context, &SpmvInput::new(a, x))
}

/// As `spmv`, for any executor.
///
/// # Errors
/// Those of `spmv`.
pub async fn spmv_async<T: Element + Float>(context: &Context, a: &Csr<T>, x: &[f32]) -> Result<Vec<f32>> {
    forward_async(context, &SpmvInput::new(a, x)).await
}

/// `A X` for k vectors: X is `[n, k]` and the result `[m, k]`, both row by row.
///
/// # Errors
/// [`Error::Shape`] for lengths that do not fit; what the device may answer.
///
/// ```
/// use macheps::{Context, Csr, spmm};
/// let a = Csr::try_new(2, 3, vec![0, 2, 3], vec![0, 2, 1], vec![1.0f32, 2.0, 3.0])?;
/// let x = [1.0, 2.0, 10.0, 20.0, 100.0, 200.0];
/// assert_eq!(spmm(&Context::cpu(), &a, &x, 2)?, [201.0, 402.0, 30.0, 60.0]);
/// # Ok::<(), macheps::Error>(())
/// ```
#[cfg(not(target_arch = "wasm32"))]
pub fn spmm<T: Element + Float>(context: &Context, a: &Csr<T>, x: &[f32], vectors: usize) -> Result<Vec<f32>> {
    forward(
        context,
        &SpmvInput {
            vectors,
            ..SpmvInput::new(a, x)
        },
    )
}

/// As `spmm`, for any executor.
///
/// # Errors
/// Those of `spmm`.
pub async fn spmm_async<T: Element + Float>(
    context: &Context,
    a: &Csr<T>,
    x: &[f32],
    vectors: usize,
) -> Result<Vec<f32>> {
    forward_async(
        context,
        &SpmvInput {
            vectors,
            ..SpmvInput::new(a, x)
        },
    )
    .await
}
