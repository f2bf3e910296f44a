//! What a grid and its coefficients look like.

/// What holds at a side of the grid. All are homogeneous: known values other than 0 belong into the right-hand side, see
/// [`GridStencil::add_boundary_values`](super::GridStencil::add_boundary_values).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Boundary {
    /// u = 0 on the side itself, half a cell from the centres of the outermost cells: the face counts with 2 k / h^2 on the diagonal.
    #[default]
    Dirichlet,
    /// u = 0 at the centres of the cells that would come next: k / h^2 on the diagonal. With k = 1 everywhere this is the
    /// textbook's matrix with 2 d / h^2 on the whole diagonal.
    DirichletCell,
    /// No flux through the side: nothing on the diagonal.
    Neumann,
    /// The side is glued to the opposite one, which must be periodic too. An axis of one cell then has no coupling at all.
    Periodic,
}

/// The coefficient k >= 0 of div(k grad u).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Coefficient {
    /// The same everywhere: nothing is stored, and the device reads nothing.
    Constant(f64),
    /// A value a cell; a face has the harmonic mean 2 a b / (a + b) of its two cells (0 where both are 0), a side of the grid the
    /// value of its cell.
    Cells(Vec<f64>),
    /// A value a face: those across x, `[nz, ny, nx + 1]`, those across y, `[nz, ny + 1, nx]`, and those across z,
    /// `[nz + 1, ny, nx]`. Face i of an axis lies below cell i. On a periodic axis face 0 counts and the last one does not; the
    /// outermost faces of a Neumann side do not count.
    Faces([Vec<f64>; 3]),
}

/// The coefficient c >= 0 of the term c u.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Reaction {
    /// The same everywhere.
    Constant(f64),
    /// A value a cell.
    Cells(Vec<f64>),
}

/// A grid of cells, the operator -div(k grad u) + c u on it, and its sides. Cells are numbered with x fastest:
/// i + nx (j + ny k), the C order of shape `[nz, ny, nx]`.
#[derive(Clone, Debug, PartialEq)]
pub struct GridStencilOptions {
    /// Cells along x, y and z.
    pub cells: [usize; 3],
    /// Distance of the centres of neighbours along each axis.
    pub spacing: [f64; 3],
    /// The lower and the upper side of each axis.
    pub boundary: [[Boundary; 2]; 3],
    /// k.
    pub coefficient: Coefficient,
    /// c.
    pub reaction: Reaction,
    /// True where a cell is solid. A solid cell's row is that of the identity, y = x, and its faces let nothing through, so that the
    /// operator stays symmetric and its solid part apart from the rest. Absent: no cell is, and none can become so.
    pub solid: Option<Vec<bool>>,
}

impl GridStencilOptions {
    /// A plane of nx by ny cells: spacing 1, k = 1, c = 0, Dirichlet sides, nothing across z.
    pub fn plane(nx: usize, ny: usize) -> GridStencilOptions {
        let mut options = GridStencilOptions::volume(nx, ny, 1);
        options.boundary[2] = [Boundary::Neumann; 2];
        options
    }

    /// A volume of nx by ny by nz cells: spacing 1, k = 1, c = 0, Dirichlet sides.
    pub fn volume(nx: usize, ny: usize, nz: usize) -> GridStencilOptions {
        GridStencilOptions {
            cells: [nx, ny, nz],
            spacing: [1.0; 3],
            boundary: [[Boundary::Dirichlet; 2]; 3],
            coefficient: Coefficient::Constant(1.0),
            reaction: Reaction::Constant(0.0),
            solid: None,
        }
    }
}
