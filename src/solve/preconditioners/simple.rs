//! None, and the diagonal.

use super::super::sweep::{PerDevice, Step, Uploaded};
use super::super::vector::scaled;
use super::super::{Preconditioner, PreconditionerCall, PreconditionerForm, Record};
use super::factored::vectors;
use super::inverse_of_positive;
use crate::error::Result;
use crate::gpu::{Dispatches, Gpu};
use crate::sparse::Csr;

/// z = d r with a diagonal d, on its own.
#[derive(Debug, Default)]
struct Scaling {
    uploaded: PerDevice<Uploaded>,
}

impl Scaling {
    fn bind(
        &self,
        gpu: &Gpu,
        name: &'static str,
        diagonal: &[f64],
        call: &PreconditionerCall<'_>,
    ) -> Result<Box<dyn Record>> {
        let n = diagonal.len();
        let uploaded = self.uploaded.get(gpu, || {
            let empty = Csr::try_new(n, n, vec![0; n + 1], Vec::new(), Vec::new())?;
            Uploaded::new(gpu, &[(0..n as u32).collect()], &empty, diagonal)
        })?;
        let (r, z) = vectors(gpu, call, n)?;
        let step = Step {
            group: 0,
            keep: 0.0,
            weight: 1.0,
            with_b: true,
        };
        let mut dispatches = Dispatches::new(gpu, name);
        uploaded.add(gpu, &mut dispatches, &[step], &r, &z, call.active)?;
        Ok(Box::new(dispatches.finish()?))
    }
}

/// No preconditioner: M = I.
///
/// ```
/// use macheps::solve::{Identity, Preconditioner, PreconditionerForm};
/// let m = Identity::new(2);
/// assert_eq!(m.form(), PreconditionerForm::Identity);
/// ```
#[derive(Debug)]
pub struct Identity {
    n: usize,
    scaling: Scaling,
}

impl Identity {
    /// Of size n.
    pub fn new(n: usize) -> Identity {
        Identity {
            n,
            scaling: Scaling::default(),
        }
    }
}

impl Preconditioner for Identity {
    fn name(&self) -> &str {
        "none"
    }

    fn size(&self) -> usize {
        self.n
    }

    fn form(&self) -> PreconditionerForm {
        PreconditionerForm::Identity
    }

    fn apply(&self, r: &[f64], z: &mut [f64]) {
        z.copy_from_slice(r);
    }

    fn bind(&self, gpu: &Gpu, call: &PreconditionerCall<'_>) -> Result<Box<dyn Record>> {
        self.scaling.bind(gpu, "identity", &vec![1.0; self.n], call)
    }
}

/// The diagonal of A: z = D^-1 r.
///
/// # Definition
/// `z_i = r_i / a_ii`. Among all diagonal preconditioners it comes within a factor n of the smallest condition number (van der Sluis
/// 1969), and it costs next to nothing, as solvers fuse it into their vector updates.
///
/// # Numerics
/// On a device 1/a_ii is rounded to f32 once: 2 u.
///
/// # Errors
/// [`Error::Diagonal`](crate::Error::Diagonal) with the first row whose diagonal entry is missing, zero, negative or not finite.
///
/// ```
/// use macheps::{solve::{JacobiPreconditioner, Preconditioner}, sparse::Csr};
/// let a = Csr::try_new(2, 2, vec![0, 1, 2], vec![0, 1], vec![4.0, 0.5])?;
/// let m = JacobiPreconditioner::new(&a)?;
/// let mut z = [0.0; 2];
/// m.apply(&[1.0, 1.0], &mut z);
/// assert_eq!(z, [0.25, 2.0]);
/// # Ok::<(), macheps::Error>(())
/// ```
#[derive(Debug)]
pub struct JacobiPreconditioner {
    inverse: Vec<f64>,
    scaling: Scaling,
}

impl JacobiPreconditioner {
    /// Of a matrix.
    ///
    /// # Errors
    /// [`Error::Diagonal`](crate::Error::Diagonal) unless every diagonal entry is positive; [`Error::Shape`](crate::Error::Shape) for a matrix that is not square.
    pub fn new(a: &Csr<f64>) -> Result<JacobiPreconditioner> {
        a.check_square()?;
        JacobiPreconditioner::from_diagonal(&a.diagonal())
    }

    /// Of a diagonal, which operators give that have no entries.
    ///
    /// # Errors
    /// [`Error::Diagonal`](crate::Error::Diagonal) unless every number is positive.
    pub fn from_diagonal(diagonal: &[f64]) -> Result<JacobiPreconditioner> {
        Ok(JacobiPreconditioner {
            inverse: inverse_of_positive(diagonal)?,
            scaling: Scaling::default(),
        })
    }
}

impl Preconditioner for JacobiPreconditioner {
    fn name(&self) -> &str {
        "jacobi"
    }

    fn size(&self) -> usize {
        self.inverse.len()
    }

    fn form(&self) -> PreconditionerForm {
        PreconditionerForm::Diagonal(self.inverse.clone())
    }

    fn apply(&self, r: &[f64], z: &mut [f64]) {
        for ((z, r), inverse) in z.iter_mut().zip(r).zip(&self.inverse) {
            *z = r * inverse;
        }
    }

    fn bind(&self, gpu: &Gpu, call: &PreconditionerCall<'_>) -> Result<Box<dyn Record>> {
        self.scaling.bind(gpu, "jacobi preconditioner", &self.inverse, call)
    }

    fn scaled(&self, exponent: i32) -> Option<Box<dyn Preconditioner>> {
        Some(Box::new(JacobiPreconditioner {
            inverse: scaled(&self.inverse, -exponent),
            scaling: Scaling::default(),
        }))
    }
}
