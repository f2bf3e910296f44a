//! Cases of the grid stencil: what tests, `verify` and `bench` share.

use super::{Boundary, Coefficient, GridStencil, GridStencilOptions, Reaction};
use crate::accuracy::{Mismatch, U, allowed, check};
use crate::context::Context;
use crate::element::DType;
use crate::error::Result;
use crate::gpu::{BufferView, Recording};
use crate::random::Random;
use crate::solve::{LinearOperator, OperatorCall};
use crate::verify::{self, Verdict, shape_text};

/// What the operator is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// k = 1, between Dirichlet sides: no coefficient is read.
    Constant,
    /// The same with a fifth of the cells solid, and walls all around but at one Dirichlet side.
    Solid,
    /// k and c of their own everywhere.
    Variable,
}

/// One case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// Cells along x, y and z; of a plane 1 along z.
    pub cells: [usize; 3],
    /// What the operator is made of.
    pub kind: Kind,
}

impl Case {
    /// The operator.
    ///
    /// # Errors
    /// Those of [`GridStencil::new`].
    pub fn stencil(&self) -> Result<GridStencil> {
        let [nx, ny, nz] = self.cells;
        let mut options = if nz == 1 {
            GridStencilOptions::plane(nx, ny)
        } else {
            GridStencilOptions::volume(nx, ny, nz)
        };
        let size = nx * ny * nz;
        let mut random = Random::new(size as u64);
        match self.kind {
            Kind::Constant => {}
            Kind::Solid => {
                options.boundary = [
                    [Boundary::Dirichlet, Boundary::Neumann],
                    [Boundary::Periodic; 2],
                    [Boundary::Neumann; 2],
                ];
                options.solid = Some((0..size).map(|_| random.unit() < 0.2).collect());
            }
            Kind::Variable => {
                options.spacing = [0.5, 0.75, 1.25];
                options.coefficient = Coefficient::Cells((0..size).map(|_| 0.1 + random.unit()).collect());
                options.reaction = Reaction::Cells((0..size).map(|_| random.unit()).collect());
            }
        }
        GridStencil::new(&options)
    }

    /// Values of x.
    pub fn x(&self) -> Vec<f32> {
        let mut random = Random::new(0x5e1f);
        (0..self.cells.iter().product())
            .map(|_| random.normal() as f32)
            .collect()
    }

    /// Bytes that have to be moved: x and y, and coefficients as far as there are any.
    pub fn bytes(&self) -> u64 {
        let size = self.cells.iter().product::<usize>() as u64;
        let axes = if self.cells[2] == 1 { 2 } else { 3 };
        match self.kind {
            Kind::Constant => 8 * size,
            Kind::Solid => 8 * size + size / 8,
            Kind::Variable => (12 + 4 * axes) * size,
        }
    }

    /// Binds the case to buffers of its own on the context's device; gives y as well. `None` on the CPU path.
    pub(crate) fn record_on(&self, context: &Context) -> Result<Option<(Recording, wgpu::Buffer)>> {
        let Some(gpu) = context.gpu() else {
            return Ok(None);
        };
        let x = self.x();
        let input = gpu.upload("macheps stencil x", bytemuck::cast_slice(&x))?;
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
        let output = gpu.create_buffer("macheps stencil y", x.len() as u64 * 4, usage)?;
        let view = |buffer| BufferView::new(buffer, DType::F32, &[x.len()]);
        let bound = self
            .stencil()?
            .bind_recording(gpu, &OperatorCall::new(&view(&input), &view(&output)))?;
        Ok(Some((bound, output)))
    }

    /// Computes the case and compares it with the stored matrix in f64; the largest error as a fraction of the bound.
    ///
    /// # Errors
    /// Those of [`LinearOperator::bind`], [`crate::Error::DeviceLost`], [`crate::Error::Timeout`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn run(&self, context: &Context) -> Result<std::result::Result<f64, Mismatch>> {
        pollster::block_on(self.run_async(context))
    }

    /// As `run`, under any executor.
    pub async fn run_async(&self, context: &Context) -> Result<std::result::Result<f64, Mismatch>> {
        let stencil = self.stencil()?;
        let x: Vec<f64> = self.x().into_iter().map(f64::from).collect();
        let y: Vec<f32> = match (self.record_on(context)?, context.gpu()) {
            (Some((bound, output)), Some(gpu)) => {
                let mut encoder = gpu.device().create_command_encoder(&Default::default());
                bound.record(&mut encoder);
                let bytes = gpu.read_back(encoder, &output, x.len() as u64 * 4)?.ready().await?;
                bytemuck::pod_collect_to_vec(&bytes)
            }
            _ => {
                let mut y = vec![0.0; x.len()];
                stencil.apply(&x, &mut y);
                y.into_iter().map(|v| v as f32).collect()
            }
        };
        let a = stencil.to_csr()?;
        let points: f64 = if self.cells[2] == 1 { 5.0 } else { 7.0 };
        let (mut want, mut bounds) = (Vec::with_capacity(x.len()), Vec::with_capacity(x.len()));
        for row in 0..a.rows() {
            let (columns, values) = a.row(row);
            let terms = columns.iter().zip(values).map(|(&j, v)| v * x[j as usize]);
            let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), t| (sum + t, size + t.abs()));
            want.push(sum);
            bounds.push(allowed(DType::F32, sum, (points.log2() + 6.0) * U * size));
        }
        Ok(check(&y, &want, &bounds).map(|worst| worst.of_bound))
    }
}

impl verify::Case for Case {
    fn op(&self) -> &'static str {
        "grid_stencil"
    }

    fn shape(&self) -> String {
        shape_text(&self.cells)
    }

    fn dtype(&self) -> DType {
        DType::F32
    }

    fn detail(&self) -> String {
        format!("{:?}", self.kind).to_lowercase()
    }

    fn run_async<'a>(&'a self, context: &'a Context) -> verify::Judging<'a> {
        Box::pin(async move {
            let verdict = self.run_async(context).await?;
            let of_bound = match &verdict {
                Ok(of_bound) => *of_bound,
                Err(m) => (m.got - m.want).abs() / m.bound,
            };
            Ok(Verdict {
                max_error: of_bound,
                bound: 1.0,
                unit: "of (log2 p + 6) u sum|ax|",
                mismatch: verdict.err().map(|m| m.to_string()),
            })
        })
    }
}

/// The cases of `verify`.
pub fn verify_cases() -> Vec<Case> {
    let shapes = [[61, 47, 1], [19, 1, 1], [23, 17, 11], [5, 1, 7]];
    shapes.into_iter().flat_map(of_all_kinds).collect()
}

fn of_all_kinds(cells: [usize; 3]) -> impl Iterator<Item = Case> {
    [Kind::Constant, Kind::Solid, Kind::Variable]
        .into_iter()
        .map(move |kind| Case { cells, kind })
}

/// The cases of `bench`.
pub fn bench_cases(quick: bool) -> Vec<Case> {
    if quick {
        return of_all_kinds([1024, 1024, 1]).take(1).collect();
    }
    [[1024, 1024, 1], [4000, 4000, 1], [100, 100, 100], [200, 200, 200]]
        .into_iter()
        .flat_map(of_all_kinds)
        .collect()
}
