//! A matrix that is never stored: the 5-point stencil of a plane, the 7-point stencil of a volume.
//!
//! # Definition
//! Cell-centred finite volumes for -div(k grad u) + c u on a grid of nx by ny by nz cells with distances h along each axis. Row P:
//!
//! y_P = c_P x_P + sum over faces f of P of (k_f / h^2) (x_P - x_N), with N the cell behind f.
//!
//! k lies on faces, as given or as the harmonic mean of two cells, or is constant. At a side of the grid x_N is 0 and the face counts
//! twice ([`Boundary::Dirichlet`]) or once ([`Boundary::DirichletCell`]), or it is left out ([`Boundary::Neumann`]), or N is the first
//! cell from the other end ([`Boundary::Periodic`]). Solid cells have y = x, and their faces are left out. The matrix is symmetric
//! and, with k > 0, positive definite as long as every connected part of the cells that are not solid touches a Dirichlet side
//! or has a c > 0; otherwise it is singular: it maps what is constant on such a part to 0, and a right-hand side has to sum to 0 there.
//!
//! With constant k and h, c = 0 and no solid cell an axis of n cells has the eigenvalues (4 k / h^2) sin^2(a), with a = pi j / (2 n),
//! j = 1..n between Dirichlet sides, j = 0..n - 1 between Neumann sides; pi j / (2 (n + 1)), j = 1..n between DirichletCell sides;
//! pi j / n, j = 0..n - 1 where periodic. Those of the grid are their sums, one of each axis.
//!
//! # Shapes
//! Vectors of nx ny nz elements, x fastest (the C order of `[nz, ny, nx]`); on a device several at once, `[k, n]`. Axes of one
//! cell and empty grids are fine.
//!
//! # Numerics
//! On a device in f32: |error| <= (log2 p + 6) u sum |a_ij x_j| with p = 5 in planes and 7 in volumes, u = 2^-24. Rows sum over
//! differences in a fixed order: constants give c u exactly away from Dirichlet sides, the matrix is symmetric to the
//! last bit, and repeats give the same bits. Parts of x.y: |error| <= 2u sum |x_i y_i|. On the host the same in f64.
//!
//! # Cost
//! One dispatch. Reads x, writes y; beside these k of the faces (8 or 12 bytes a cell), c (4 bytes) and the mask (1/8 byte)
//! where they are not constant. Nothing is uploaded but when it changes.
//!
//! # Errors
//! [`Error::Option`] and [`Error::Shape`] for what is no grid; [`Error::Limit`] where a tensor does not fit a binding of the device.

pub mod cases;
mod kernels;
mod options;
mod reference;

pub use kernels::StencilBuffers;
#[doc(hidden)]
pub use kernels::shader_variants;
pub use options::{Boundary, Coefficient, GridStencilOptions, Reaction};

use super::{LinearOperator, OperatorCall, Record};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Recording, lock};
use crate::sparse::Csr;
use kernels::Blocks;
use reference::{Data, Faces, Grid};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard};

/// Cells of a parallel task on the host.
#[cfg(not(target_arch = "wasm32"))]
const TASK: usize = 1 << 14;

/// The operator -div(k grad u) + c u on a grid; see the [module](self).
///
/// Its coefficients can change between frames, by [`GridStencil::set_solid`] and its like from the host or by a kernel that writes
/// the [`GridStencil::buffers`]: what is bound stays bound.
///
/// ```
/// use macheps::solve::{GridStencil, GridStencilOptions, LinearOperator};
/// let stencil = GridStencil::new(&GridStencilOptions::plane(3, 2))?;
/// let mut y = [0.0; 6];
/// stencil.apply(&[1.0; 6], &mut y);
/// // A Dirichlet side counts with 2, and a corner has two of them.
/// assert_eq!(y, [4.0, 2.0, 4.0, 4.0, 2.0, 4.0]);
/// assert_eq!(stencil.to_csr()?.entries(), 6 + 2 * 7);
/// # Ok::<(), macheps::Error>(())
/// ```
#[derive(Debug)]
pub struct GridStencil {
    grid: Grid,
    data: RwLock<Data>,
    /// The coefficients on every device that asked for them.
    devices: Mutex<Vec<(Gpu, StencilBuffers)>>,
}

impl GridStencil {
    /// Checks the grid and brings its coefficients to faces.
    ///
    /// # Errors
    /// [`Error::Option`] for coefficients that are negative or do not fit f32, for spacings that are not positive, and for an axis with
    /// one periodic side; [`Error::Shape`] for values that are too few or too many; [`Error::Limit`] beyond 2^32 - 1 faces.
    pub fn new(options: &GridStencilOptions) -> Result<GridStencil> {
        let grid = Grid::new(options)?;
        let data = Data {
            faces: grid.faces(&options.coefficient)?,
            reaction: grid.reaction(&options.reaction)?,
            solid: options.solid.as_deref().map(|solid| grid.solid(solid)).transpose()?,
        };
        Ok(GridStencil {
            grid,
            data: RwLock::new(data),
            devices: Mutex::default(),
        })
    }

    /// Cells along x, y and z.
    pub fn cells(&self) -> [usize; 3] {
        self.grid.cells
    }

    fn data(&self) -> RwLockReadGuard<'_, Data> {
        // Every writer replaces one whole field: what a panic leaves is sound.
        self.data.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Data)) {
        change(&mut self.data.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Writes a buffer on every device that has one.
    fn write(&self, bytes: &[u8], of: impl Fn(&StencilBuffers) -> Option<&wgpu::Buffer>) -> Result<()> {
        for (gpu, buffers) in lock(&self.devices).iter() {
            if let Some(buffer) = of(buffers).filter(|_| !bytes.is_empty()) {
                gpu.write(buffer, 0, bytes)?;
            }
        }
        Ok(())
    }

    /// Other solid cells, here and, ahead of the next submission, on every device that the stencil is bound on.
    ///
    /// # Errors
    /// [`Error::Option`] for a stencil made without solid cells (begin with none of them solid), [`Error::Shape`], and
    /// [`Error::DeviceLost`] or [`Error::Wgpu`] where a device cannot be written, with the host's side changed.
    pub fn set_solid(&self, solid: &[bool]) -> Result<()> {
        let solid = self.grid.solid(solid)?;
        if self.data().solid.is_none() {
            return Err(fixed("solid"));
        }
        let words = kernels::pack(&solid);
        self.change(|data| data.solid = Some(solid));
        self.write(bytemuck::cast_slice(&words), |b| b.solid.as_ref())
    }

    /// Other coefficients k, as [`GridStencil::set_solid`].
    ///
    /// # Errors
    /// Those of [`GridStencil::set_solid`]; [`Error::Option`] also for a constant coefficient, or where it was one: it is part of
    /// what is bound.
    pub fn set_coefficient(&self, coefficient: &Coefficient) -> Result<()> {
        let Faces::Each(faces) = self.grid.faces(coefficient)? else {
            return Err(fixed("coefficient"));
        };
        if matches!(self.data().faces, Faces::Constant(_)) {
            return Err(fixed("coefficient"));
        }
        let values = kernels::face_values(&self.grid, &faces);
        self.change(|data| data.faces = Faces::Each(faces));
        self.write(bytemuck::cast_slice(&values), |b| b.faces.as_ref())
    }

    /// Another c, as [`GridStencil::set_coefficient`].
    ///
    /// # Errors
    /// Those of [`GridStencil::set_coefficient`].
    pub fn set_reaction(&self, reaction: &Reaction) -> Result<()> {
        let Reaction::Cells(cells) = self.grid.reaction(reaction)? else {
            return Err(fixed("reaction"));
        };
        if matches!(self.data().reaction, Reaction::Constant(_)) {
            return Err(fixed("reaction"));
        }
        let values: Vec<f32> = cells.iter().map(|&c| c as f32).collect();
        self.change(|data| data.reaction = Reaction::Cells(cells));
        self.write(bytemuck::cast_slice(&values), |b| b.reaction.as_ref())
    }

    /// The buffers that the coefficients lie in on a device, made at the first call or binding there. A kernel may write them, in
    /// the form that [`StencilBuffers`] gives; the host's side, by which [`LinearOperator::apply`] goes, then has to be told by
    /// its own means.
    ///
    /// # Errors
    /// [`Error::Limit`] where they do not fit a binding, [`Error::DeviceLost`].
    pub fn buffers(&self, gpu: &Gpu) -> Result<StencilBuffers> {
        let mut devices = lock(&self.devices);
        devices.retain(|(gpu, _)| !gpu.is_lost());
        if let Some((_, buffers)) = devices.iter().find(|(known, _)| known.same_device(gpu)) {
            return Ok(buffers.clone());
        }
        let buffers = kernels::upload(gpu, &self.grid, &self.data())?;
        devices.push((gpu.clone(), buffers.clone()));
        Ok(buffers)
    }

    /// Reads the coefficients from these buffers of a device instead of buffers of the stencil's own, from the next binding on.
    /// Their contents are the caller's; changes by [`GridStencil::set_solid`] and its like are written to them too, for which they
    /// need the usage `COPY_DST`.
    ///
    /// # Errors
    /// [`Error::Shape`] for a buffer that is missing, too small or of no use, [`Error::BufferUsage`] for one without
    /// `STORAGE`, [`Error::Limit`] where it does not fit a binding.
    pub fn set_buffers(&self, gpu: &Gpu, buffers: StencilBuffers) -> Result<()> {
        let given = [
            ("faces", &buffers.faces),
            ("reaction", &buffers.reaction),
            ("solid", &buffers.solid),
        ];
        for ((what, buffer), need) in given.into_iter().zip(kernels::sizes(&self.grid, &self.data())) {
            let have = buffer.as_ref().map(wgpu::Buffer::size);
            let fits = match (need, have) {
                (None, None) => true,
                (Some(need), Some(have)) => need.max(4) <= have,
                _ => false,
            };
            if !fits {
                let bytes = |size: Option<u64>| size.map_or("none".to_string(), |size| format!("one of {size} bytes"));
                return Err(Error::shape(format!("buffer {what}"), bytes(need), bytes(have)));
            }
            if let Some(need) = need.filter(|&need| need > gpu.capabilities().max_binding) {
                return Err(Error::Limit {
                    what: "bytes of a stencil's tensor in one storage binding",
                    need,
                    have: gpu.capabilities().max_binding,
                });
            }
            if buffer
                .as_ref()
                .is_some_and(|b| !b.usage().contains(wgpu::BufferUsages::STORAGE))
            {
                return Err(Error::BufferUsage {
                    what,
                    needed: "STORAGE".into(),
                });
            }
        }
        let mut devices = lock(&self.devices);
        devices.retain(|(known, _)| !known.is_lost() && !known.same_device(gpu));
        devices.push((gpu.clone(), buffers));
        Ok(())
    }

    /// Adds to a right-hand side what is known on a side of the grid: the value of u on a Dirichlet side, the flux k du/dn into the
    /// grid through a Neumann side. `value` is asked for every outermost cell `[i, j, k]` that is not solid.
    ///
    /// # Errors
    /// [`Error::Shape`] for a right-hand side of another length and for an axis that is not 0, 1 or 2, [`Error::Option`] for a
    /// periodic axis.
    ///
    /// ```
    /// use macheps::solve::{GridStencil, GridStencilOptions, LinearOperator};
    /// // u = 1 on all sides: u = 1 within solves A u = b.
    /// let stencil = GridStencil::new(&GridStencilOptions::plane(5, 4))?;
    /// let (mut b, mut y) = (vec![0.0; 20], vec![0.0; 20]);
    /// for (axis, upper) in [(0, false), (0, true), (1, false), (1, true)] {
    ///     stencil.add_boundary_values(axis, upper, &mut b, |_| 1.0)?;
    /// }
    /// stencil.apply(&[1.0; 20], &mut y);
    /// assert_eq!(y, b);
    /// # Ok::<(), macheps::Error>(())
    /// ```
    pub fn add_boundary_values(
        &self,
        axis: usize,
        upper: bool,
        b: &mut [f64],
        value: impl Fn([usize; 3]) -> f64,
    ) -> Result<()> {
        let grid = &self.grid;
        if b.len() != grid.size || axis > 2 {
            return Err(Error::shape(
                "boundary values",
                format!("axis 0, 1 or 2 and {} elements", grid.size),
                format!("axis {axis} and {}", b.len()),
            ));
        }
        let boundary = grid.boundary[axis][usize::from(upper)];
        if boundary == Boundary::Periodic {
            return Err(Error::Option {
                name: "boundary",
                expected: "a Dirichlet or Neumann side",
                got: "a periodic one".into(),
            });
        }
        let data = self.data();
        let [nx, ny, _] = grid.cells;
        let outermost = if upper { grid.cells[axis].saturating_sub(1) } else { 0 };
        for (cell, b) in b.iter_mut().enumerate() {
            let at = [cell % nx, cell / nx % ny, cell / (nx * ny)];
            if at[axis] != outermost || data.solid.as_ref().is_some_and(|solid| solid[cell]) {
                continue;
            }
            *b += match boundary {
                Boundary::Neumann => value(at) / grid.spacing[axis],
                _ => grid.side_weight(&data, at, axis, upper) * value(at),
            };
        }
        Ok(())
    }

    fn bind_recording(&self, gpu: &Gpu, call: &OperatorCall<'_>) -> Result<Recording> {
        let buffers = self.buffers(gpu)?;
        kernels::bind(gpu, &self.grid, &self.data(), &buffers, call)
    }

    /// The matrix: what Gauss-Seidel, SSOR and incomplete factorisations need. Entries that are 0 by k = 0 or by a solid cell are
    /// left out, those of the diagonal are always there.
    ///
    /// # Errors
    /// [`Error::Csr`] for entries that overflow f64; [`Error::Limit`] for more than 2^32 - 1 of them.
    pub fn to_csr(&self) -> Result<Csr<f64>> {
        self.grid.to_csr(&self.data())
    }
}

fn fixed(name: &'static str) -> Error {
    Error::Option {
        name,
        expected: "values a cell or face, as at the making of the stencil",
        got: "a change between a constant (or nothing) and values".into(),
    }
}

impl LinearOperator for GridStencil {
    fn size(&self) -> usize {
        self.grid.size
    }

    fn apply(&self, x: &[f64], y: &mut [f64]) {
        assert_eq!(
            (x.len(), y.len()),
            (self.grid.size, self.grid.size),
            "vectors of the grid's size"
        );
        let data = self.data();
        let (grid, data) = (&self.grid, &*data);
        if grid.size == 0 {
            return;
        }
        #[cfg(not(target_arch = "wasm32"))]
        {
            use rayon::prelude::*;
            // Whole lines.
            let task = TASK.next_multiple_of(grid.cells[0]);
            y.par_chunks_mut(task)
                .enumerate()
                .for_each(|(number, y)| grid.lines(data, x, number * task, y));
        }
        #[cfg(target_arch = "wasm32")]
        grid.lines(data, x, 0, y);
    }

    fn bind(&self, gpu: &Gpu, call: &OperatorCall<'_>) -> Result<Box<dyn Record>> {
        Ok(Box::new(self.bind_recording(gpu, call)?))
    }

    fn dot_partials(&self, gpu: &Gpu) -> Option<usize> {
        Some(Blocks::new(gpu, self.grid.size).count as usize)
    }

    fn diagonal(&self) -> Option<Vec<f64>> {
        let data = self.data();
        let entry = |cell| self.grid.diagonal_and_sum(&data, cell).0;
        Some((0..self.grid.size).map(entry).collect())
    }

    fn norm_inf(&self) -> Option<f64> {
        let data = self.data();
        let sum = |cell| self.grid.diagonal_and_sum(&data, cell).1;
        Some((0..self.grid.size).map(sum).fold(0.0, f64::max))
    }
}
