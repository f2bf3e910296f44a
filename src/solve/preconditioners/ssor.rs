//! Symmetric successive over-relaxation.

use super::super::{Colouring, Preconditioner, PreconditionerCall, PreconditionerForm, Record};
use super::factored::Factored;
use super::{check_symmetric, inverse_of_positive};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::sparse::Csr;

/// Symmetric successive over-relaxation (SSOR) by colours: a sweep of SOR from z = 0 over the colours, and one back.
///
/// # Definition
/// With A = L + D + L^T, L the entries of each row at columns of earlier colours ([`Colouring`]),
/// `M = (D/w + L) (w / (2 - w)) D^-1 (D/w + L)^T` and z = M^-1 r. M is symmetric positive definite for symmetric A with a positive
/// diagonal and 0 < w < 2 (Young, Iterative Solution of Large Linear Systems, 1971, chapter 15; Saad 2003, section 10.2). w = 1 is
/// symmetric Gauss-Seidel. It does less than SSOR in the natural order would: few colours are few dispatches, but also short paths for information.
///
/// # Shapes
/// r and z are `[n]` or `[k, n]`, f32 on devices.
///
/// # Numerics
/// On a device f32, each row's sum within (log2 n_i + 6) u of the sum of its magnitudes. [`Preconditioner::apply`] is the same map in f64.
///
/// # Cost
/// 2 colours - 1 dispatches (the last colour goes only once); every off-diagonal entry is read once, as each half of the sweep
/// has a half of the other side's entries to do with (Conrad and Wallach 1979). Entries take 8 bytes on the device.
///
/// # Errors
/// [`Error::Option`] for w outside (0, 2), [`Error::Diagonal`] for a diagonal entry that is not positive, [`Error::Unsupported`] for a
/// matrix that is not symmetric.
///
/// ```
/// use macheps::{solve::{Preconditioner, Ssor}, sparse::Csr};
/// let a = Csr::try_new(2, 2, vec![0, 2, 4], vec![0, 1, 0, 1], vec![2.0, -1.0, -1.0, 2.0])?;
/// let m = Ssor::new(&a, 1.0)?;
/// let mut z = [0.0; 2];
/// m.apply(&[2.0, 0.0], &mut z);
/// // Forward: (1, 1/2). Back: row 0 again, (2 + 1/2) / 2.
/// assert_eq!(z, [1.25, 0.5]);
/// # Ok::<(), macheps::Error>(())
/// ```
#[derive(Debug)]
pub struct Ssor {
    factored: Factored,
    omega: f64,
}

pub(in super::super) fn check_omega(omega: f64) -> Result<()> {
    if omega > 0.0 && omega < 2.0 {
        return Ok(());
    }
    Err(Error::Option {
        name: "omega",
        expected: "a number between 0 and 2, both excluded",
        got: omega.to_string(),
    })
}

impl Ssor {
    /// Of a matrix.
    ///
    /// # Errors
    /// Those of [`Ssor`].
    pub fn new(a: &Csr<f64>, omega: f64) -> Result<Ssor> {
        check_omega(omega)?;
        check_symmetric(a, "SSOR")?;
        let inverse = inverse_of_positive(&a.diagonal())?;
        let groups = Colouring::greedy(a)?.into_groups();
        let mut colour = vec![0u32; a.rows()];
        for (c, group) in groups.iter().enumerate() {
            for &i in group {
                colour[i as usize] = c as u32;
            }
        }
        let mut row_ptr = vec![0u32];
        let (mut columns, mut values) = (Vec::new(), Vec::new());
        for i in 0..a.rows() {
            let (row, row_values) = a.row(i);
            for (&j, &v) in row.iter().zip(row_values) {
                if colour[j as usize] < colour[i] {
                    columns.push(j);
                    values.push(v);
                }
            }
            row_ptr.push(columns.len() as u32);
        }
        let lower = Csr::try_new(a.rows(), a.rows(), row_ptr, columns, values)?;
        Ok(Ssor {
            factored: Factored::new("ssor", groups, lower, inverse, omega)?,
            omega,
        })
    }

    /// w.
    pub fn omega(&self) -> f64 {
        self.omega
    }

    /// Number of colours.
    pub fn colours(&self) -> usize {
        self.factored.groups()
    }

    /// [`Preconditioner::apply`] with a bound on what a device's result may differ from it.
    #[doc(hidden)]
    pub fn apply_with_bound(&self, r: &[f64], z: &mut [f64], bound: &mut [f64]) {
        self.factored.apply_with_bound(r, z, bound);
    }
}

impl Preconditioner for Ssor {
    fn name(&self) -> &str {
        "ssor"
    }

    fn size(&self) -> usize {
        self.factored.size()
    }

    fn form(&self) -> PreconditionerForm {
        PreconditionerForm::General
    }

    fn apply(&self, r: &[f64], z: &mut [f64]) {
        self.factored.apply(r, z);
    }

    fn bind(&self, gpu: &Gpu, call: &PreconditionerCall<'_>) -> Result<Box<dyn Record>> {
        self.factored.bind(gpu, call)
    }

    fn scaled(&self, exponent: i32) -> Option<Box<dyn Preconditioner>> {
        Some(Box::new(Ssor {
            factored: self.factored.scaled(exponent)?,
            omega: self.omega,
        }))
    }
}
