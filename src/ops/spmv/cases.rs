//! Cases of sparse products: what tests, `verify` and `bench` share.

use super::bounds::{MaxError, Mismatch};
use super::oneshot::judge;
use super::{Spmv, SpmvInput, SpmvOptions, SpmvScale, SpmvStrategy, cpu, forward_async, reference};
use crate::context::{Context, CrossCheck};
use crate::element::{DType, Element, bf16, f16};
use crate::error::{Error, Result};
use crate::float::Float;
use crate::gpu::{BufferView, Recording};
use crate::job::checked_rows;
use crate::random::Random;
use crate::sparse::{Csr, Narrowing};
use crate::verify::{self, Verdict};
use futures::future::LocalBoxFuture;

/// A matrix by its generator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matrix {
    /// Five-point Laplacian on a square of so many points a side.
    Poisson2d(usize),
    /// Seven-point Laplacian on a cube of so many points a side.
    Poisson3d(usize),
    /// Rows of very different lengths: [`power_law`] of so many rows.
    PowerLaw(usize),
    /// One row with an entry in each of so many columns, and four or fewer entries near the diagonal in the others.
    DenseRow(usize),
    /// Rows of 0 to 300 entries, most of them short, and so many columns; integers, if the flag is set.
    Mixed(usize, bool),
    /// No entries: rows and columns.
    Empty(usize, usize),
}

/// Rows of [`power_law`] in its original size.
pub const POWER_LAW_ROWS: usize = 500_000;
/// Its entries then.
pub const POWER_LAW_ENTRIES: usize = 4_699_121;

/// The number i of the sequence `seed`, uniform in [0, 1).
fn unit(seed: u64, i: u64) -> f64 {
    Random::new(seed.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15))).unit()
}

/// Rows whose lengths follow a power law, columns crowded in places: like links of a web. The same in any program; n is 500,000 in
/// published figures.
///
/// Row i has `min(floor(2.5 / (s sqrt(s))), 50000)` candidates, `s = sqrt(1 - unit(101, i))`; candidate k, counted over all rows, has
/// column `(floor(n (v v)) 7919 + 12345) mod n`, `v = unit(102, k)`, and the value `2 unit(103, k) - 1` in f32. Of equal columns in a row the
/// first stays.
pub fn power_law(n: usize) -> Result<Csr<f64>> {
    let (mut row_ptr, mut columns, mut values) = (vec![0u32], Vec::new(), Vec::new());
    let mut k = 0;
    let mut row: Vec<(u32, u64)> = Vec::new();
    for i in 0..n {
        let s = (1.0 - unit(101, i as u64)).sqrt();
        let candidates = (2.5 / (s * s.sqrt())).floor().min(50_000.0) as u64;
        row.clear();
        for candidate in k..k + candidates {
            let v = unit(102, candidate);
            let column = ((n as f64 * (v * v)).floor() as u64 * 7919 + 12_345) % n as u64;
            row.push((column as u32, candidate));
        }
        k += candidates;
        row.sort_unstable();
        row.dedup_by_key(|&mut (column, _)| column);
        columns.extend(row.iter().map(|&(column, _)| column));
        values.extend(row.iter().map(|&(_, k)| f64::from((2.0 * unit(103, k) - 1.0) as f32)));
        row_ptr.push(columns.len() as u32);
    }
    Csr::try_new(n, n, row_ptr, columns, values)
}

/// The Laplacian of a grid with `side` points in each of `dims` dimensions: neighbours -1, the diagonal 2 dims.
fn laplacian(side: usize, dims: u32) -> Result<Csr<f64>> {
    let n = side.pow(dims);
    let (mut row_ptr, mut columns, mut values) = (vec![0u32], Vec::new(), Vec::new());
    for i in 0..n {
        let places = (0..dims).rev().map(|d| side.pow(d)).collect::<Vec<_>>();
        for &step in &places {
            if i / step % side > 0 {
                columns.push((i - step) as u32);
                values.push(-1.0);
            }
        }
        columns.push(i as u32);
        values.push(2.0 * f64::from(dims));
        for &step in places.iter().rev() {
            if i / step % side + 1 < side {
                columns.push((i + step) as u32);
                values.push(-1.0);
            }
        }
        row_ptr.push(columns.len() as u32);
    }
    Csr::try_new(n, n, row_ptr, columns, values)
}

impl Matrix {
    /// The matrix.
    pub fn make(&self) -> Result<Csr<f64>> {
        match *self {
            Matrix::Poisson2d(side) => laplacian(side, 2),
            Matrix::Poisson3d(side) => laplacian(side, 3),
            Matrix::PowerLaw(n) => power_law(n),
            Matrix::DenseRow(n) => {
                let mut random = Random::new(0xde75e);
                let (mut row_ptr, mut columns, mut values) = (vec![0u32], Vec::new(), Vec::new());
                for i in 0..n {
                    if i == n / 2 {
                        columns.extend(0..n as u32);
                    } else {
                        columns.extend(i as u32..(i + 4).min(n) as u32);
                    }
                    values.resize_with(columns.len(), || random.normal());
                    row_ptr.push(columns.len() as u32);
                }
                Csr::try_new(n, n, row_ptr, columns, values)
            }
            Matrix::Mixed(cols, integers) => {
                let mut random = Random::new(0x3a7);
                let (mut row_ptr, mut columns, mut values) = (vec![0u32], Vec::new(), Vec::new());
                for i in 0..220u32 {
                    let len = match i % 11 {
                        0 => 0,
                        1 => 300,
                        2 => 40 + i as usize % 30,
                        k => k as usize,
                    };
                    let mut row: Vec<u32> = (0..len.min(cols)).map(|_| random.below(cols as u64) as u32).collect();
                    row.sort_unstable();
                    row.dedup();
                    columns.extend(row);
                    values.resize_with(columns.len(), || match integers {
                        true => random.below(17) as f64 - 8.0,
                        false => random.normal(),
                    });
                    row_ptr.push(columns.len() as u32);
                }
                Csr::try_new(220, cols, row_ptr, columns, values)
            }
            Matrix::Empty(rows, cols) => Csr::try_new(rows, cols, vec![0; rows + 1], vec![], vec![]),
        }
    }

    /// In words.
    fn name(&self) -> String {
        match *self {
            Matrix::Poisson2d(n) => format!("poisson {n}x{n}"),
            Matrix::Poisson3d(n) => format!("poisson {n}x{n}x{n}"),
            Matrix::PowerLaw(n) => format!("power law {n}"),
            Matrix::DenseRow(n) => format!("dense row {n}"),
            Matrix::Mixed(n, integers) => format!("220x{n}{}", if integers { " integers" } else { "" }),
            Matrix::Empty(rows, cols) => format!("{rows}x{cols} empty"),
        }
    }

    /// Rows, columns and entries.
    fn size(&self) -> Result<[usize; 3]> {
        Ok(match *self {
            Matrix::Poisson2d(n) => [n * n, n * n, 5 * n * n - 4 * n],
            Matrix::Poisson3d(n) => [n * n * n, n * n * n, 7 * n * n * n - 6 * n * n],
            Matrix::PowerLaw(POWER_LAW_ROWS) => [POWER_LAW_ROWS, POWER_LAW_ROWS, POWER_LAW_ENTRIES],
            _ => {
                let a = self.make()?;
                [a.rows(), a.cols(), a.entries()]
            }
        })
    }
}

/// One case.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// The matrix.
    pub matrix: Matrix,
    /// Storage type of its entries.
    pub dtype: DType,
    /// Strategy, transpose.
    pub options: SpmvOptions,
    /// Number of vectors.
    pub vectors: usize,
    /// alpha and beta.
    pub scale: [f32; 2],
}

impl Case {
    /// A x for one vector.
    pub fn new(matrix: Matrix, dtype: DType) -> Case {
        Case {
            matrix,
            dtype,
            options: SpmvOptions::default(),
            vectors: 1,
            scale: [1.0, 0.0],
        }
    }

    /// The matrix in a storage type.
    pub fn matrix<T: Element + Float>(&self) -> Result<Csr<T>> {
        Ok(self.matrix.make()?.narrow::<T>(Narrowing::Refuse)?.matrix)
    }

    /// x, and y0 where it counts: integers from -8 to 8 for integers, else normal.
    pub fn vectors(&self, rows: usize, cols: usize) -> (Vec<f32>, Option<Vec<f32>>) {
        let mut random = Random::new(0x5b37);
        let mut draw = |n: usize| -> Vec<f32> {
            (0..n * self.vectors)
                .map(|_| match self.matrix {
                    Matrix::Mixed(_, true) => random.below(17) as f32 - 8.0,
                    _ => random.normal() as f32,
                })
                .collect()
        };
        let (rows, cols) = match self.options.transpose {
            true => (cols, rows),
            false => (rows, cols),
        };
        let x = draw(cols);
        (x, (self.scale[1] != 0.0).then(|| draw(rows)))
    }

    fn made(&self) -> Result<Box<dyn Runs>> {
        Ok(match self.dtype {
            DType::F32 => Box::new(Made::<f32>::new(self)?),
            DType::F16 => Box::new(Made::<f16>::new(self)?),
            DType::Bf16 => Box::new(Made::<bf16>::new(self)?),
        })
    }

    /// Computes on a context and compares with the oracle.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn run(&self, context: &Context) -> Result<Result<MaxError, Mismatch>> {
        pollster::block_on(self.run_async(context))
    }

    /// As `run`, under any executor.
    pub async fn run_async(&self, context: &Context) -> Result<Result<MaxError, Mismatch>> {
        self.made()?.run(context, CrossCheck::Full).await
    }

    /// Computes and compares a sample of rows.
    pub(crate) async fn compute_checked(&self, context: &Context) -> Result<()> {
        let verdict = self.made()?.run(context, CrossCheck::Sampled).await?;
        verdict.map(drop).map_err(|m| Error::Mismatch {
            kernel: self.op_name(),
            index: m.index,
            gpu: m.got,
            cpu: m.want,
            bound: m.bound,
        })
    }

    /// The case on a device, bound.
    pub(crate) fn record_on(&self, context: &Context) -> Result<Option<Recording>> {
        self.made()?.record_on(context)
    }

    /// The case on the CPU path.
    pub(crate) fn call_on_cpu(&self) -> Result<Box<dyn FnMut() + Send>> {
        self.made()?.call_on_cpu()
    }

    pub(crate) fn op_name(&self) -> &'static str {
        if self.vectors == 1 { "spmv" } else { "spmm" }
    }

    pub(crate) fn shape_name(&self) -> String {
        let transpose = if self.options.transpose { " transposed" } else { "" };
        let vectors = match self.vectors {
            1 => String::new(),
            k => format!(" by {k}"),
        };
        format!("{}{transpose}{vectors}", self.matrix.name())
    }

    /// Least traffic: entries and row pointers once, x once, y once, y0 once where it counts.
    pub(crate) fn bytes(&self) -> u64 {
        let [rows, cols, entries] = self.matrix.size().unwrap_or_default();
        let (rows, cols) = match self.options.transpose {
            true => (cols, rows),
            false => (rows, cols),
        };
        let outputs = if self.scale[1] != 0.0 { 2 } else { 1 };
        let vectors = (cols + outputs * rows) * self.vectors * 4;
        (entries * (self.dtype.size() + 4) + (rows + 1) * 4 + vectors) as u64
    }
}

/// A case with its data.
struct Made<T> {
    case: Case,
    a: Csr<T>,
    x: Vec<f32>,
    y0: Option<Vec<f32>>,
}

/// What comparing with the oracle gives.
type Compared = Result<Result<MaxError, Mismatch>>;

/// The same for any storage type.
trait Runs {
    fn run<'a>(&'a self, context: &'a Context, how: CrossCheck) -> LocalBoxFuture<'a, Compared>;
    fn record_on(&self, context: &Context) -> Result<Option<Recording>>;
    fn call_on_cpu(&self) -> Result<Box<dyn FnMut() + Send>>;
}

impl<T: Element + Float> Made<T> {
    fn new(case: &Case) -> Result<Self> {
        let a = case.matrix::<T>()?;
        let (x, y0) = case.vectors(a.rows(), a.cols());
        Ok(Made {
            case: case.clone(),
            a,
            x,
            y0,
        })
    }

    fn input(&self) -> SpmvInput<'_, T> {
        SpmvInput {
            a: &self.a,
            x: &self.x,
            vectors: self.case.vectors,
            scale: SpmvScale {
                alpha: self.case.scale[0],
                beta: self.case.scale[1],
                y0: self.y0.as_deref(),
            },
            options: self.case.options,
        }
    }

    fn matrix(&self) -> Result<Csr<T>> {
        match self.case.options.transpose {
            true => self.a.transpose(),
            false => Ok(self.a.clone()),
        }
    }
}

impl<T: Element + Float> Runs for Made<T> {
    fn run<'a>(&'a self, context: &'a Context, how: CrossCheck) -> LocalBoxFuture<'a, Compared> {
        Box::pin(async move {
            let input = self.input();
            let y = forward_async(context, &input).await?;
            let matrix = self.matrix()?;
            let verdict = judge(&matrix, &input, &y, checked_rows(how, matrix.rows()));
            if let (Matrix::Mixed(_, true), Ok(error)) = (self.case.matrix, verdict)
                && error.of_bound > 0.0
            {
                // Integers are exact.
                let (index, k) = (error.index, self.case.vectors);
                let sum = reference::row(&matrix, index / k, |j| self.x[j * k + index % k].into());
                let [alpha, beta] = self.case.scale.map(f64::from);
                let old = self.y0.as_ref().map_or(0.0, |y0| y0[index].into());
                return Ok(Err(Mismatch {
                    index,
                    got: y[index].into(),
                    want: reference::element(alpha, sum, beta, old),
                    bound: 0.0,
                }));
            }
            Ok(verdict)
        })
    }

    fn record_on(&self, context: &Context) -> Result<Option<Recording>> {
        let Some(gpu) = context.gpu() else {
            return Ok(None);
        };
        let k = self.case.vectors;
        let product = Spmv::new(gpu, &self.a, &self.case.options)?;
        let x = gpu.upload("macheps x", bytemuck::cast_slice(&self.x))?;
        let zeros = vec![0.0f32; product.rows() * k];
        let y = gpu.upload("macheps y", bytemuck::cast_slice(self.y0.as_ref().unwrap_or(&zeros)))?;
        let view = |buffer, n| match k {
            1 => BufferView::new(buffer, DType::F32, &[n]),
            _ => BufferView::new(buffer, DType::F32, &[n, k]),
        };
        let [alpha, beta] = self.case.scale;
        let bound = product.bind(&view(&x, product.cols()), &view(&y, product.rows()), alpha, beta)?;
        Ok(Some(bound.into_recording()))
    }

    fn call_on_cpu(&self) -> Result<Box<dyn FnMut() + Send>> {
        let matrix = self.matrix()?;
        let (x, y0, k) = (self.x.clone(), self.y0.clone(), self.case.vectors);
        let [alpha, beta] = self.case.scale.map(f64::from);
        let mut y = vec![0.0f32; matrix.rows() * k];
        Ok(Box::new(move || {
            let old = y0.as_deref().map(|y0| (beta, y0));
            cpu::spmm(&matrix, &x, k, cpu::Scale { alpha, old }, &mut y);
            std::hint::black_box(&y);
        }))
    }
}

/// What `macheps verify` tries.
pub fn verify_cases() -> Vec<Case> {
    let mut all = Vec::new();
    for dtype in DType::ALL {
        for integers in [false, true] {
            all.push(Case::new(Matrix::Mixed(500, integers), dtype));
        }
        all.push(Case {
            vectors: 5,
            scale: [-0.75, 1.25],
            ..Case::new(Matrix::Mixed(500, false), dtype)
        });
        all.push(Case {
            options: SpmvOptions {
                transpose: true,
                ..SpmvOptions::default()
            },
            ..Case::new(Matrix::Mixed(500, true), dtype)
        });
    }
    for strategy in SpmvStrategy::ALL {
        all.push(Case {
            options: SpmvOptions {
                strategy: Some(strategy),
                transpose: false,
            },
            scale: [2.0, -1.0],
            ..Case::new(Matrix::Mixed(500, true), DType::F32)
        });
    }
    all.push(Case::new(Matrix::Poisson2d(40), DType::F32));
    all.push(Case::new(Matrix::Poisson3d(11), DType::F32));
    all.push(Case::new(Matrix::PowerLaw(2000), DType::F32));
    all.push(Case::new(Matrix::DenseRow(20_001), DType::F32));
    for (rows, cols) in [(0, 0), (0, 3), (3, 0), (5, 5)] {
        all.push(Case {
            scale: [1.0, 0.5],
            ..Case::new(Matrix::Empty(rows, cols), DType::F32)
        });
    }
    all
}

/// What `macheps bench` times.
pub fn bench_cases(quick: bool) -> Vec<Case> {
    if quick {
        return vec![
            Case::new(Matrix::Poisson2d(512), DType::F32),
            Case::new(Matrix::PowerLaw(POWER_LAW_ROWS / 5), DType::F32),
        ];
    }
    let mut all: Vec<Case> = [
        Matrix::Poisson2d(1024),
        Matrix::Poisson3d(100),
        // Three of about the same number of entries.
        Matrix::Poisson2d(970),
        Matrix::PowerLaw(POWER_LAW_ROWS),
        Matrix::DenseRow(POWER_LAW_ENTRIES / 5),
    ]
    .into_iter()
    .map(|matrix| Case::new(matrix, DType::F32))
    .collect();
    all.push(Case::new(Matrix::Poisson2d(1024), DType::Bf16));
    all.push(Case {
        vectors: 8,
        ..Case::new(Matrix::Poisson2d(512), DType::F32)
    });
    all
}

impl verify::Case for Case {
    fn op(&self) -> &'static str {
        self.op_name()
    }

    fn shape(&self) -> String {
        self.shape_name()
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn detail(&self) -> String {
        let [alpha, beta] = self.scale;
        let strategy = self
            .options
            .strategy
            .map_or(String::new(), |s| format!(", {}", s.name()));
        format!("alpha {alpha}, beta {beta}{strategy}")
    }

    fn run_async<'a>(&'a self, context: &'a Context) -> verify::Judging<'a> {
        Box::pin(async move {
            let (max_error, mismatch) = match self.run_async(context).await? {
                Ok(error) => (error.of_bound, None),
                Err(m) => ((m.got - m.want).abs() / m.bound, Some(m.to_string())),
            };
            Ok(Verdict {
                max_error,
                bound: 1.0,
                unit: "of the bound",
                mismatch,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generators_make_what_they_say() {
        for matrix in [Matrix::Poisson2d(7), Matrix::Poisson3d(5), Matrix::PowerLaw(300)] {
            let a = matrix.make().unwrap();
            assert_eq!(matrix.size().unwrap(), [a.rows(), a.cols(), a.entries()]);
        }
        let a = Matrix::Poisson2d(3).make().unwrap();
        assert_eq!(a.row(4), (&[1, 3, 4, 5, 7][..], &[-1.0, -1.0, 4.0, -1.0, -1.0][..]));
        assert!(a.symmetry().exact);
    }

    #[test]
    fn the_power_law_matrix_is_the_one_of_published_figures() {
        let a = power_law(POWER_LAW_ROWS).unwrap();
        assert_eq!((a.entries(), a.row_statistics().max), (POWER_LAW_ENTRIES, 45_065));
    }
}
