//! Solves that `bench` times.

use super::reference::{self, Control};
use super::{
    BoundConjugateGradient, CgOptions, CgViews, ConjugateGradient, Form, LinearSystem, conjugate_gradient_async,
};
use crate::context::Context;
use crate::element::DType;
use crate::error::{Error, Result};
use crate::gpu::{BufferView, Gpu};
use crate::random::Random;
use crate::solve::stencil::{Boundary, GridStencil, GridStencilOptions};
use crate::solve::{CsrOperator, Identity, JacobiPreconditioner, LinearOperator, Preconditioner};

/// Some iterations of conjugate gradients for the five-point Laplacian on a square.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// Points a side.
    pub side: usize,
    /// Iterations that are timed together.
    pub iterations: usize,
    /// The recurrences.
    pub form: Form,
    /// Whether A is a stored matrix, and not a stencil.
    pub stored: bool,
    /// Whether there is Jacobi's preconditioner.
    pub jacobi: bool,
}

/// A case's operator, preconditioner and right-hand side.
pub(crate) struct Made {
    pub operator: Box<dyn LinearOperator>,
    pub preconditioner: Box<dyn Preconditioner>,
    pub b: Vec<f64>,
}

/// A solve on a device with the buffers that it is bound to.
pub(crate) struct OnDevice {
    pub solve: BoundConjugateGradient,
    /// Bindings hold buffers, but their owner should too.
    pub _buffers: [wgpu::Buffer; 2],
}

impl Case {
    /// What its shape is called.
    pub fn shape_name(&self) -> String {
        let form = match self.form {
            Form::SingleReduction => "single reduction",
            _ => "standard",
        };
        let matrix = if self.stored { "csr" } else { "stencil" };
        let m = if self.jacobi { " jacobi" } else { "" };
        format!("{0}x{0} {matrix}{m} {form}, {1} iterations", self.side, self.iterations)
    }

    /// Unknowns.
    pub fn unknowns(&self) -> usize {
        self.side * self.side
    }

    /// Vectors of n numbers that an iteration moves besides its product, each read or write counted.
    pub fn vectors_moved(&self) -> u64 {
        // Standard: p, q, d, r read, d and r written; r and p read, p written. Single reduction: p, s, d, r read and written, w read.
        // With a diagonal that twice, or once and u written.
        9 + 2 * u64::from(self.jacobi)
    }

    /// Least traffic: of the matrix and of all vectors, the product's x and y too.
    pub fn bytes(&self) -> u64 {
        let n = self.unknowns() as u64;
        let matrix = if self.stored {
            (5 * n - 4 * self.side as u64) * 8 + 4 * n
        } else {
            0
        };
        self.iterations as u64 * (matrix + (self.vectors_moved() + 2) * 4 * n)
    }

    pub(crate) fn make(&self) -> Result<Made> {
        let mut grid = GridStencilOptions::plane(self.side, self.side);
        grid.boundary[0] = [Boundary::DirichletCell; 2];
        grid.boundary[1] = [Boundary::DirichletCell; 2];
        let stencil = GridStencil::new(&grid)?;
        let n = self.unknowns();
        let mut random = Random::new(17);
        let preconditioner: Box<dyn Preconditioner> = if self.jacobi {
            Box::new(JacobiPreconditioner::from_diagonal(
                &stencil.diagonal().unwrap_or_default(),
            )?)
        } else {
            Box::new(Identity::new(n))
        };
        let operator: Box<dyn LinearOperator> = if self.stored {
            Box::new(CsrOperator::new(stencil.to_csr()?)?)
        } else {
            Box::new(stencil)
        };
        Ok(Made {
            operator,
            preconditioner,
            b: (0..n).map(|_| random.normal()).collect(),
        })
    }

    fn options(&self, rtol: f64) -> CgOptions {
        CgOptions {
            form: self.form,
            check_every: self.iterations,
            ..CgOptions::with_rtol(rtol)
        }
    }

    /// Solves a small system of the same kind and takes the report's word, which is f64's.
    ///
    /// # Errors
    /// [`Error::Mismatch`] unless it converges.
    pub(crate) async fn check(&self, context: &Context) -> Result<()> {
        let small = Case { side: 64, ..*self };
        let made = small.make()?;
        let system =
            LinearSystem::new(made.operator.as_ref(), &made.b).with_preconditioner(made.preconditioner.as_ref());
        let options = CgOptions {
            check_every: 50,
            ..small.options(1e-4)
        };
        let report = conjugate_gradient_async(context, &system, &options).await?.report;
        if report.converged() {
            return Ok(());
        }
        Err(Error::Mismatch {
            kernel: "conjugate_gradient",
            index: 0,
            gpu: report.relative_residual,
            cpu: 0.0,
            bound: 1e-4,
        })
    }

    /// Bound to a device, with a goal that is never reached.
    pub(crate) fn on_device(&self, gpu: &Gpu, made: &Made) -> Result<OnDevice> {
        let narrow: Vec<f32> = made.b.iter().map(|&b| b as f32).collect();
        let b = gpu.upload("b", bytemuck::cast_slice(&narrow))?;
        let x = gpu.create_buffer("x", 4 * narrow.len() as u64, wgpu::BufferUsages::STORAGE)?;
        let shape = [narrow.len()];
        let views = CgViews {
            b: &BufferView::new(&b, DType::F32, &shape),
            x: &BufferView::new(&x, DType::F32, &shape),
        };
        let cg = ConjugateGradient::new(gpu, self.options(0.0))?;
        let solve = cg.bind(made.operator.as_ref(), made.preconditioner.as_ref(), views)?;
        Ok(OnDevice {
            solve,
            _buffers: [b, x],
        })
    }

    /// The iterations on the CPU path.
    pub(crate) fn call_on_cpu(&self, made: Made) -> impl FnMut() + use<> {
        let control = Control::unverified(0.0, self.iterations);
        move || {
            let mut product = |x: &[f64], y: &mut [f64]| made.operator.apply(x, y);
            let mut apply = |r: &[f64], z: &mut [f64]| made.preconditioner.apply(r, z);
            let run = reference::conjugate_gradient(&mut product, Some(&mut apply), &made.b, None, &control);
            std::hint::black_box(run.map_or(0, |run| run.iterations));
        }
    }
}

/// What `bench` times.
pub fn bench_cases(quick: bool) -> Vec<Case> {
    let case = |side, form, stored, jacobi| Case {
        side,
        iterations: 20,
        form,
        stored,
        jacobi,
    };
    if quick {
        return vec![case(256, Form::Standard, true, false)];
    }
    vec![
        case(1024, Form::Standard, true, false),
        case(1024, Form::SingleReduction, true, false),
        case(1024, Form::Standard, false, false),
        case(1024, Form::Standard, true, true),
        case(128, Form::Standard, true, false),
        case(128, Form::SingleReduction, true, false),
    ]
}
