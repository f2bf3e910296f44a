//! The part that macheps does, and all of it: the pressure that makes the velocity free of divergence.
//!
//! With lengths in cells and time in frames, u = u* - grad p is free of divergence where -div(grad p) = -div(u*): one row of the
//! 5-point stencil a cell, with nothing through walls and obstacles and p = 0 beyond the open side.

use crate::error::{FluidError, Result};
use crate::scene::{Open, Scene};
use macheps::solve::conjugate_gradient::{BoundConjugateGradient, CgOptions, CgViews, ConjugateGradient};
use macheps::solve::relaxation::{BoundRelaxation, Jacobi};
use macheps::solve::{Boundary, GridStencil, GridStencilOptions, Identity, Ssor};
use macheps::{BufferView, DType, Gpu};

/// How the pressure is solved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Sweeps of Jacobi's method: what most fluid demos do.
    Jacobi,
    /// Conjugate gradients.
    Cg,
    /// Conjugate gradients with a preconditioner, SSOR in two colours.
    Pcg,
}

impl Method {
    /// All of them.
    pub const ALL: [Method; 3] = [Method::Jacobi, Method::Cg, Method::Pcg];

    /// As the command line has it.
    pub fn name(self) -> &'static str {
        match self {
            Method::Jacobi => "jacobi",
            Method::Cg => "cg",
            Method::Pcg => "pcg",
        }
    }
}

/// Jacobi's method damps all frequencies but the slowest only if it is held back a little: with 1 the checkerboard stays.
const JACOBI_WEIGHT: f64 = 0.9;

/// SSOR's factor of relaxation; 1 is symmetric Gauss-Seidel.
const SSOR_WEIGHT: f64 = 1.0;

/// A residual that is as good as nothing; a frame that gets there stops early.
const GOAL: f64 = 1e-6;

/// The operator -div(grad p) of a scene.
///
/// # Errors
/// Those of [`Scene::solid`].
pub fn operator(scene: &Scene) -> Result<GridStencil> {
    let [width, height] = scene.cells;
    let mut options = GridStencilOptions::plane(width, height);
    options.boundary = [[Boundary::Neumann; 2]; 3];
    // p = 0 in the middle of the cell that would come next, as the projection has it.
    match scene.open {
        Open::Top => options.boundary[1][1] = Boundary::DirichletCell,
        Open::Right => options.boundary[0][1] = Boundary::DirichletCell,
    }
    options.solid = Some(scene.solid()?);
    Ok(GridStencil::new(&options)?)
}

enum Solve {
    Jacobi(BoundRelaxation),
    ConjugateGradient(BoundConjugateGradient),
}

/// A solve that is bound to the host's buffers and recorded into the host's frames.
pub struct Pressure {
    solve: Solve,
    iterations: usize,
    dispatches: usize,
}

impl Pressure {
    /// Binds a solve to the buffers of the right-hand side and of the pressure: pipelines, bind groups and scratch vectors are made here,
    /// none of them in a frame. As many iterations as `budget` dispatches pay for.
    ///
    /// # Errors
    /// [`FluidError::Budget`], and what macheps has against it.
    pub fn new(
        gpu: &Gpu,
        operator: &GridStencil,
        method: Method,
        budget: usize,
        excess: &wgpu::Buffer,
        pressure: &wgpu::Buffer,
    ) -> Result<Pressure> {
        let [width, height, _] = operator.cells();
        let size = width * height;
        // macheps takes the host's buffers as they are.
        let b = BufferView::new(excess, DType::F32, &[size]);
        let x = BufferView::new(pressure, DType::F32, &[size]);
        let conjugate_gradient = ConjugateGradient::new(gpu, CgOptions::with_rtol(GOAL))?;
        let views = CgViews { b: &b, x: &x };
        let solve = match method {
            Method::Jacobi => Solve::Jacobi(Jacobi::new(operator, JACOBI_WEIGHT)?.bind(gpu, &b, &x)?),
            Method::Cg => Solve::ConjugateGradient(conjugate_gradient.bind(operator, &Identity::new(size), views)?),
            Method::Pcg => {
                let preconditioner = Ssor::new(&operator.to_csr()?, SSOR_WEIGHT)?;
                Solve::ConjugateGradient(conjugate_gradient.bind(operator, &preconditioner, views)?)
            }
        };
        let iterations = match &solve {
            Solve::Jacobi(sweeps) => budget / sweeps.dispatches(),
            Solve::ConjugateGradient(solve) => solve.iterations_within(budget),
        };
        let dispatches = |iterations: usize| match &solve {
            Solve::Jacobi(sweeps) => iterations * sweeps.dispatches(),
            Solve::ConjugateGradient(solve) => solve.dispatches(iterations),
        };
        if iterations == 0 {
            return Err(FluidError::Budget {
                method: method.name(),
                given: budget,
                needed: dispatches(1),
            });
        }
        Ok(Pressure {
            dispatches: dispatches(iterations),
            iterations,
            solve,
        })
    }

    /// Records a frame's solve into the host's compute pass. It begins with the pressure that is
    /// there: the last frame's, unless the host has cleared it.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        match &self.solve {
            Solve::Jacobi(sweeps) => sweeps.record_pass(pass, self.iterations),
            Solve::ConjugateGradient(solve) => solve.record_pass(pass, self.iterations),
        }
    }

    /// Iterations, or sweeps, a frame.
    pub fn iterations(&self) -> usize {
        self.iterations
    }

    /// Dispatches a frame; no more than the budget.
    pub fn dispatches(&self) -> usize {
        self.dispatches
    }
}
