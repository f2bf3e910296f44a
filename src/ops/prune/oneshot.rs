//! From host data to host data, and from tensor to tensor.

use super::kernels::ANSWER;
use super::options::check_sparsity;
use super::{Prune, PruneReport, PruneViews, cpu, reference};
use crate::context::{Context, CrossCheck};
use crate::element::{DType, Element};
use crate::error::{Error, Result};
use crate::float::Float;
use crate::gpu::{BufferView, Gpu};
use crate::job::{self, Job, Simple};
use crate::sparse::Csr;
use crate::tensor::check_len;
#[cfg(not(target_arch = "wasm32"))]
use crate::tensor::{Chain, Tensor, elsewhere};

/// What pruning leaves of a tensor.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Pruned {
    /// True where an element is kept; of the shape of x.
    pub mask: Vec<bool>,
    /// The k-th smallest magnitude, -inf for k = 0. Exact.
    pub threshold: f32,
    /// Elements kept.
    pub kept: usize,
}

impl Pruned {
    fn new(mask: Vec<bool>, threshold: f32) -> Pruned {
        let kept = mask.iter().filter(|kept| **kept).count();
        Pruned { mask, threshold, kept }
    }

    /// What is kept of x as a matrix of rows by columns.
    ///
    /// # Errors
    /// [`Error::Shape`] unless x and the mask have rows times columns elements; [`Error::Csr`] for a kept infinity;
    /// [`Error::Limit`] beyond 2^32 - 1 rows, columns or kept elements.
    pub fn to_csr<T: Element + Float>(&self, x: &[T], rows: usize, cols: usize) -> Result<Csr<T>> {
        if x.len() != self.mask.len() || rows.checked_mul(cols) != Some(x.len()) {
            return Err(Error::shape(
                "pruned matrix",
                format!("{rows} x {cols} elements"),
                format!("{} of x and {} of the mask", x.len(), self.mask.len()),
            ));
        }
        for (what, n) in [("columns", cols), ("entries", self.kept), ("rows", rows)] {
            if n as u64 >= crate::sparse::MAX_INDEX {
                return Err(Error::Limit {
                    what,
                    need: n as u64,
                    have: crate::sparse::MAX_INDEX,
                });
            }
        }
        let mut row_ptr = Vec::with_capacity(rows + 1);
        let mut columns = Vec::with_capacity(self.kept);
        let mut values = Vec::with_capacity(self.kept);
        row_ptr.push(0u32);
        for row in 0..rows {
            let range = row * cols..(row + 1) * cols;
            for (column, (&value, _)) in x[range.clone()]
                .iter()
                .zip(&self.mask[range])
                .enumerate()
                .filter(|(_, (_, kept))| **kept)
            {
                columns.push(column as u32);
                values.push(value);
            }
            row_ptr.push(columns.len() as u32);
        }
        Csr::try_new(rows, cols, row_ptr, columns, values)
    }
}

/// A checked call.
pub(super) struct Problem<'a, T> {
    x: &'a [T],
    sparsity: f64,
}

impl<'a, T: Element> Problem<'a, T> {
    pub(super) fn new(x: &'a [T], shape: &[usize], sparsity: f64) -> Result<Self> {
        check_sparsity(sparsity)?;
        check_len("x", x.len(), shape)?;
        match cpu::first_nan(x) {
            Some(index) => Err(Error::NotANumber { what: "x", index }),
            None => Ok(Problem { x, sparsity }),
        }
    }

    /// The first element on which a result is wrong.
    pub(super) fn compare(&self, got: &Pruned) -> std::result::Result<(), (usize, f64, f64)> {
        let (mask, threshold) = reference::prune(self.x, self.sparsity);
        if f64::from(got.threshold) != threshold {
            return Err((0, f64::from(got.threshold), threshold));
        }
        let number = |kept: bool| f64::from(u8::from(kept));
        if let Some(at) = (0..mask.len()).find(|&at| got.mask.get(at) != Some(&mask[at])) {
            let got = got.mask.get(at).map_or(f64::NAN, |&kept| number(kept));
            return Err((at, got, number(mask[at])));
        }
        let kept = mask.iter().filter(|kept| **kept).count();
        if got.kept != kept {
            return Err((0, got.kept as f64, kept as f64));
        }
        Ok(())
    }
}

impl<T: Element> Job for Problem<'_, T> {
    type Output = Pruned;
    type Bound = Simple;

    fn name(&self) -> &'static str {
        "prune"
    }

    fn on_cpu(&self) -> Result<Pruned> {
        let (mask, threshold) = cpu::prune(self.x, self.sparsity);
        Ok(Pruned::new(mask, threshold))
    }

    fn bind(&self, gpu: &Gpu) -> Result<Simple> {
        use wgpu::BufferUsages as U;
        let shape = [self.x.len()];
        let buffer = gpu.upload("macheps prune values", bytemuck::cast_slice(self.x))?;
        let bytes = self.x.len() as u64 * 4;
        let mask = gpu.create_buffer("macheps prune mask", bytes, U::STORAGE | U::COPY_SRC)?;
        let prune = Prune::new(gpu, T::DTYPE, self.sparsity)?;
        let state = prune.create_state()?;
        let bound = prune.bind(&PruneViews {
            x: BufferView::new(&buffer, T::DTYPE, &shape),
            mask: Some(BufferView::new(&mask, DType::F32, &shape)),
            state: (state.clone(), 0),
        })?;
        Ok(Simple {
            recording: bound.into_recording(),
            outputs: vec![(mask, bytes), (state, ANSWER as u64 * 4)],
        })
    }

    fn decode(&self, outputs: &[&[u8]]) -> Result<Pruned> {
        let words: Vec<u32> = bytemuck::pod_collect_to_vec(outputs[1]);
        let report = PruneReport::from_state(&words)?;
        let mask = outputs[0]
            .chunks_exact(4)
            .map(|word| word.iter().any(|byte| *byte != 0));
        Ok(Pruned {
            mask: mask.collect(),
            threshold: report.threshold,
            kept: report.kept as usize,
        })
    }

    fn cross_check(&self, how: CrossCheck, got: &Pruned, _: Option<&Simple>) -> Result<()> {
        if how == CrossCheck::Off {
            return Ok(());
        }
        self.compare(got).map_err(|(index, gpu, cpu)| Error::Mismatch {
            kernel: "prune",
            index,
            gpu,
            cpu,
            bound: 0.0,
        })
    }
}

/// Prunes host data. Blocks until the result is here. See the [module](super) for what is dropped.
///
/// # Cost
/// On a device: upload, one submission, readback of 4 bytes an element. Cross-checks sort.
///
/// # Errors
/// [`Error::Option`] for a sparsity outside [0, 1], [`Error::Shape`], [`Error::NotANumber`]; [`Error::Limit`] beyond the device's
/// limits, [`Error::DeviceLost`], [`Error::Timeout`], and [`Error::Mismatch`] from a cross-check.
///
/// ```
/// let x = [0.5f32, -3.0, 0.0, 2.0, -0.5, 1.0];
/// let pruned = macheps::ops::prune::prune(&macheps::Context::cpu(), &x, &[2, 3], 0.5)?;
/// // The third smallest magnitude is 0.5.
/// assert_eq!((pruned.threshold, pruned.kept), (0.5, 3));
/// assert_eq!(pruned.mask, [false, true, false, true, false, true]);
/// let a = pruned.to_csr(&x, 2, 3)?;
/// assert_eq!((a.row_ptr(), a.columns(), a.values()), (&[0, 1, 3][..], &[1, 0, 2][..], &[-3.0, 2.0, 1.0][..]));
/// # Ok::<(), macheps::Error>(())
/// ```
#[cfg(not(target_arch = "wasm32"))]
pub fn prune<T: Element>(context: &Context, x: &[T], shape: &[usize], sparsity: f64) -> Result<Pruned> {
    job::run(&Problem::new(x, shape, sparsity)?, context)
}

/// As [`prune`], and the result is held to the oracle, on the CPU path too.
///
/// # Errors
/// Those of [`prune`].
#[cfg(not(target_arch = "wasm32"))]
pub fn prune_checked<T: Element>(context: &Context, x: &[T], shape: &[usize], sparsity: f64) -> Result<Pruned> {
    job::run_checked(&Problem::new(x, shape, sparsity)?, context, CrossCheck::Full)
}

/// As `prune`, under any executor.
pub async fn prune_async<T: Element>(context: &Context, x: &[T], shape: &[usize], sparsity: f64) -> Result<Pruned> {
    job::run_async(&Problem::new(x, shape, sparsity)?, context).await
}

#[cfg(not(target_arch = "wasm32"))]
impl Chain<'_> {
    /// Prunes a tensor: the mask (1 where an element is kept, else 0) and the threshold, a tensor without dimensions.
    ///
    /// On a device it is recorded and runs with [`Chain::submit`]; with cross-check on, it is submitted and compared at once. NaN
    /// is not refused here: it is above everything, see the [module](crate::ops::prune).
    ///
    /// # Errors
    /// Those of [`Prune::bind`]; [`Error::Unsupported`] for a tensor of another context.
    pub fn prune<T: Element>(&mut self, x: &Tensor<T>, sparsity: f64) -> Result<(Tensor<u32>, Tensor<f32>)> {
        check_sparsity(sparsity)?;
        let Some(gpu) = self.context().gpu().cloned() else {
            let host = x.host().ok_or_else(elsewhere)?;
            let (mask, threshold) = cpu::prune(host, sparsity);
            let mask = mask.into_iter().map(u32::from).collect();
            return Ok((Tensor::on_cpu(mask, x.shape()), Tensor::on_cpu(vec![threshold], &[])));
        };
        let mask = Tensor::<u32>::on_gpu(&gpu, x.shape())?;
        let threshold = Tensor::<f32>::on_gpu(&gpu, &[])?;
        let prune = Prune::new(&gpu, T::DTYPE, sparsity)?;
        let state = prune.create_state()?;
        let bound = prune.bind(&PruneViews {
            x: x.view_on(&gpu)?,
            mask: Some(mask.view_on(&gpu)?),
            state: (state.clone(), 0),
        })?;
        self.record(&bound.into_recording());
        self.copy(&state, threshold.view_on(&gpu)?.buffer(), 4);
        if self.context().cross_check() != CrossCheck::Off {
            self.flush()?;
            let host = x.download()?;
            // The oracle has no place for NaN.
            if let Ok(problem) = Problem::new(&host, x.shape(), sparsity) {
                let kept = mask.download()?.into_iter().map(|word| word != 0).collect();
                let threshold = threshold.download()?;
                let got = Pruned::new(kept, threshold.first().copied().unwrap_or(f32::NAN));
                problem.cross_check(self.context().cross_check(), &got, None)?;
            }
        }
        Ok((mask, threshold))
    }
}
