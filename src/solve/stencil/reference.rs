//! The stencil on the host, in f64: the geometry, and everything that is read off the rows of the matrix.

use super::options::{Boundary, Coefficient, GridStencilOptions, Reaction};
use crate::error::{Error, Result};
use crate::sparse::{Csr, MAX_INDEX};

/// Where the cells lie. Checked: see [`Grid::new`].
#[derive(Clone, Debug)]
pub(crate) struct Grid {
    pub cells: [usize; 3],
    pub size: usize,
    pub spacing: [f64; 3],
    /// 1 / h^2.
    pub inverse: [f64; 3],
    pub boundary: [[Boundary; 2]; 3],
}

/// k, brought to faces.
#[derive(Clone, Debug)]
pub(crate) enum Faces {
    Constant(f64),
    Each([Vec<f64>; 3]),
}

/// What can be changed after the grid is made.
#[derive(Clone, Debug)]
pub(crate) struct Data {
    pub faces: Faces,
    pub reaction: Reaction,
    pub solid: Option<Vec<bool>>,
}

fn option(name: &'static str, expected: &'static str, got: impl std::fmt::Display) -> Error {
    Error::Option {
        name,
        expected,
        got: got.to_string(),
    }
}

/// Fails unless all are finite, not negative and finite in f32 too.
fn check_values(name: &'static str, values: &[f64]) -> Result<()> {
    match values.iter().find(|v| !(**v >= 0.0 && (**v as f32).is_finite())) {
        Some(bad) => Err(option(name, "values >= 0 within the range of f32", bad)),
        None => Ok(()),
    }
}

fn check_count(what: &str, got: usize, expected: usize) -> Result<()> {
    if got == expected {
        Ok(())
    } else {
        Err(Error::shape(what, format!("{expected} values"), got.to_string()))
    }
}

fn harmonic_mean(a: f64, b: f64) -> f64 {
    // By the quotient of the larger one, so that products do not leave the range.
    let (low, high) = (a.min(b), a.max(b));
    if high == 0.0 {
        0.0
    } else {
        2.0 * low / (1.0 + low / high)
    }
}

impl Grid {
    pub(crate) fn new(options: &GridStencilOptions) -> Result<Grid> {
        let cells = options.cells;
        // One more along every axis, for faces.
        let faces = cells.iter().try_fold(3u64, |n, &c| n.checked_mul(c as u64 + 1));
        if faces.is_none_or(|n| n > MAX_INDEX) {
            return Err(Error::Limit {
                what: "faces of a grid",
                need: faces.unwrap_or(u64::MAX),
                have: MAX_INDEX,
            });
        }
        let mut inverse = [0.0; 3];
        for (inverse, h) in inverse.iter_mut().zip(options.spacing) {
            *inverse = 1.0 / (h * h);
            if !(h > 0.0 && (*inverse as f32).is_finite() && *inverse as f32 >= f32::MIN_POSITIVE) {
                return Err(option(
                    "spacing",
                    "positive numbers with 1 / h^2 in the range of f32",
                    h,
                ));
            }
        }
        for sides in options.boundary {
            if (sides[0] == Boundary::Periodic) != (sides[1] == Boundary::Periodic) {
                return Err(option(
                    "boundary",
                    "both sides of an axis periodic, or none",
                    format!("{sides:?}"),
                ));
            }
        }
        Ok(Grid {
            cells,
            size: cells.iter().product(),
            spacing: options.spacing,
            inverse,
            boundary: options.boundary,
        })
    }

    /// Whether cells are coupled along an axis, or to a side of it.
    pub(crate) fn acts(&self, axis: usize) -> bool {
        self.cells[axis] > 1 || self.boundary[axis].iter().any(|side| side_factor(*side) != 0.0)
    }

    /// Faces across an axis.
    pub(crate) fn face_count(&self, axis: usize) -> usize {
        let mut counts = self.cells;
        counts[axis] += 1;
        counts.iter().product()
    }

    pub(crate) fn faces(&self, coefficient: &Coefficient) -> Result<Faces> {
        match coefficient {
            Coefficient::Constant(k) => {
                check_values("coefficient", &[*k])?;
                let scaled = self.inverse.iter().all(|inverse| ((inverse * k) as f32).is_finite());
                if !scaled {
                    return Err(option("coefficient", "k / h^2 within the range of f32", k));
                }
                Ok(Faces::Constant(*k))
            }
            Coefficient::Cells(values) => {
                check_count("coefficient", values.len(), self.size)?;
                check_values("coefficient", values)?;
                Ok(Faces::Each([0, 1, 2].map(|axis| self.means(values, axis))))
            }
            Coefficient::Faces(values) => {
                for (axis, values) in values.iter().enumerate() {
                    check_count("coefficient", values.len(), self.face_count(axis))?;
                    check_values("coefficient", values)?;
                }
                Ok(Faces::Each(values.clone()))
            }
        }
    }

    /// Harmonic means of cells at the faces across an axis.
    fn means(&self, values: &[f64], axis: usize) -> Vec<f64> {
        let along = self.cells[axis];
        let stride: usize = self.cells[..axis].iter().product();
        let periodic = self.boundary[axis][0] == Boundary::Periodic;
        let mut faces = vec![0.0; self.face_count(axis)];
        if self.size == 0 {
            return faces;
        }
        for (number, face) in faces.iter_mut().enumerate() {
            let (inner, rest) = (number % stride, number / stride);
            let (at, outer) = (rest % (along + 1), rest / (along + 1));
            let cell = |at: usize| values[inner + stride * (at + along * outer)];
            let below = match at {
                0 if periodic => along - 1,
                0 => 0,
                _ => at - 1,
            };
            let above = match at {
                _ if at < along => at,
                _ if periodic => 0,
                _ => along - 1,
            };
            *face = harmonic_mean(cell(below), cell(above));
        }
        faces
    }

    pub(crate) fn reaction(&self, reaction: &Reaction) -> Result<Reaction> {
        match reaction {
            Reaction::Constant(c) => check_values("reaction", &[*c])?,
            Reaction::Cells(values) => {
                check_count("reaction", values.len(), self.size)?;
                check_values("reaction", values)?;
            }
        }
        Ok(reaction.clone())
    }

    pub(crate) fn solid(&self, solid: &[bool]) -> Result<Vec<bool>> {
        check_count("solid", solid.len(), self.size)?;
        Ok(solid.to_vec())
    }

    /// Calls `face` with the neighbour (`None` beyond a side) and the weight k / h^2 of every face of a cell that counts: lower
    /// and upper x, y, z. Gives c, or `None` for a solid cell, which has no face that counts.
    #[inline(always)]
    pub(crate) fn row(&self, data: &Data, cell: usize, mut face: impl FnMut(Option<usize>, f64)) -> Option<f64> {
        let solid = |cell: usize| data.solid.as_ref().is_some_and(|solid| solid[cell]);
        if solid(cell) {
            return None;
        }
        let [nx, ny, _] = self.cells;
        let at = [cell % nx, cell / nx % ny, cell / (nx * ny)];
        let mut stride = 1;
        for axis in 0..3 {
            let along = self.cells[axis];
            let periodic = self.boundary[axis][0] == Boundary::Periodic;
            // Face 0 of this cell's line across the grid; face i lies i strides further on.
            let line = cell % stride + cell / (stride * along) * stride * (along + 1);
            for upper in [0, 1] {
                let outermost = at[axis] == [0, along - 1][upper];
                let weight = |number: usize| match &data.faces {
                    Faces::Constant(k) => k * self.inverse[axis],
                    Faces::Each(faces) => faces[axis][line + number * stride] * self.inverse[axis],
                };
                let number = at[axis] + upper;
                if !outermost {
                    let other = if upper == 1 { cell + stride } else { cell - stride };
                    if !solid(other) {
                        face(Some(other), weight(number));
                    }
                } else if periodic {
                    let reach = (along - 1) * stride;
                    let other = if upper == 1 { cell - reach } else { cell + reach };
                    if !solid(other) && along > 1 {
                        face(Some(other), weight(0));
                    }
                } else {
                    let factor = side_factor(self.boundary[axis][upper]);
                    if factor != 0.0 {
                        face(None, factor * weight(number));
                    }
                }
            }
            stride *= along;
        }
        Some(match &data.reaction {
            Reaction::Constant(c) => *c,
            Reaction::Cells(values) => values[cell],
        })
    }

    /// What a value on a side counts in the row of an outermost cell.
    pub(crate) fn side_weight(&self, data: &Data, at: [usize; 3], axis: usize, upper: bool) -> f64 {
        let k = match &data.faces {
            Faces::Constant(k) => *k,
            Faces::Each(faces) => {
                let (mut counts, mut face) = (self.cells, at);
                counts[axis] += 1;
                face[axis] += usize::from(upper);
                faces[axis][face[0] + counts[0] * (face[1] + counts[1] * face[2])]
            }
        };
        side_factor(self.boundary[axis][usize::from(upper)]) * k * self.inverse[axis]
    }

    /// (A x) at a cell.
    #[inline(always)]
    pub(crate) fn product(&self, data: &Data, x: &[f64], cell: usize) -> f64 {
        let own = x[cell];
        let mut sum = 0.0;
        match self.row(data, cell, |other, weight| {
            sum += weight * (own - other.map_or(0.0, |other| x[other]));
        }) {
            Some(c) => sum + c * own,
            None => own,
        }
    }

    /// A x on whole lines along x, from the one of cell `first` on.
    pub(crate) fn lines(&self, data: &Data, x: &[f64], first: usize, y: &mut [f64]) {
        let [nx, ny, nz] = self.cells;
        for (number, y) in y.chunks_mut(nx).enumerate() {
            let cell = first + number * nx;
            let (j, k) = (cell / nx % ny, cell / (nx * ny));
            let within = |axis: usize, at: usize, along: usize| !self.acts(axis) || (1..along - 1).contains(&at);
            let plain = data.solid.is_none() && nx > 2 && within(1, j, ny) && within(2, k, nz);
            if !plain {
                for (i, y) in y.iter_mut().enumerate() {
                    *y = self.product(data, x, cell + i);
                }
                continue;
            }
            // All neighbours are there but at the ends of the line.
            y[0] = self.product(data, x, cell);
            y[nx - 1] = self.product(data, x, cell + nx - 1);
            let (cell, y) = (cell + 1, &mut y[1..nx - 1]);
            match &data.faces {
                Faces::Constant(k) => {
                    let weights = self.inverse.map(|inverse| k * inverse);
                    self.inner(data, x, cell, y, |axis, _| weights[axis]);
                }
                Faces::Each(faces) => {
                    self.inner(data, x, cell, y, |axis, face| faces[axis][face] * self.inverse[axis]);
                }
            }
        }
    }

    fn inner(&self, data: &Data, x: &[f64], cell: usize, y: &mut [f64], weight: impl Fn(usize, usize) -> f64) {
        match (self.acts(1), self.acts(2)) {
            (false, false) => self.run::<false, false>(data, x, cell, y, weight),
            (true, false) => self.run::<true, false>(data, x, cell, y, weight),
            (false, true) => self.run::<false, true>(data, x, cell, y, weight),
            (true, true) => self.run::<true, true>(data, x, cell, y, weight),
        }
    }

    /// Cells in a row with all their neighbours, which along y and z there may be none of. The same sums as [`Grid::product`].
    #[inline(always)]
    fn run<const Y: bool, const Z: bool>(
        &self,
        data: &Data,
        x: &[f64],
        cell: usize,
        y: &mut [f64],
        weight: impl Fn(usize, usize) -> f64,
    ) {
        let [nx, ny, _] = self.cells;
        let (count, area) = (y.len(), nx * ny);
        let at = |from: usize| &x[from..from + count];
        let own = at(cell);
        let (west, east) = (at(cell - 1), at(cell + 1));
        let (south, north) = if Y { (at(cell - nx), at(cell + nx)) } else { (own, own) };
        let (below, above) = if Z {
            (at(cell - area), at(cell + area))
        } else {
            (own, own)
        };
        // Lower faces; upper ones are a stride further on.
        let face_x = cell + cell / nx;
        let face_y = cell + cell / area * nx;
        for i in 0..count {
            let value = own[i];
            let mut sum = 0.0;
            sum += weight(0, face_x + i) * (value - west[i]);
            sum += weight(0, face_x + i + 1) * (value - east[i]);
            if Y {
                sum += weight(1, face_y + i) * (value - south[i]);
                sum += weight(1, face_y + i + nx) * (value - north[i]);
            }
            if Z {
                sum += weight(2, cell + i) * (value - below[i]);
                sum += weight(2, cell + i + area) * (value - above[i]);
            }
            let c = match &data.reaction {
                Reaction::Constant(c) => *c,
                Reaction::Cells(values) => values[cell + i],
            };
            y[i] = sum + c * value;
        }
    }

    /// The diagonal entry and the sum of magnitudes of a row.
    pub(crate) fn diagonal_and_sum(&self, data: &Data, cell: usize) -> (f64, f64) {
        let (mut diagonal, mut others) = (0.0, 0.0);
        match self.row(data, cell, |other, weight| {
            diagonal += weight;
            others += if other.is_some() { weight } else { 0.0 };
        }) {
            Some(c) => (diagonal + c, diagonal + c + others),
            None => (1.0, 1.0),
        }
    }

    /// All rows as a matrix. Faces with k = 0 and a periodic axis of two cells give no entries of their own.
    pub(crate) fn to_csr(&self, data: &Data) -> Result<Csr<f64>> {
        let mut row_ptr = Vec::with_capacity(self.size + 1);
        let (mut columns, mut values) = (Vec::new(), Vec::new());
        row_ptr.push(0u32);
        let mut entries: Vec<(u32, f64)> = Vec::with_capacity(8);
        for cell in 0..self.size {
            entries.clear();
            let (diagonal, _) = self.diagonal_and_sum(data, cell);
            entries.push((cell as u32, diagonal));
            self.row(data, cell, |other, weight| {
                let Some(other) = other.filter(|_| weight != 0.0) else {
                    return;
                };
                match entries.iter_mut().find(|(column, _)| *column == other as u32) {
                    Some((_, value)) => *value -= weight,
                    None => entries.push((other as u32, -weight)),
                }
            });
            entries.sort_unstable_by_key(|(column, _)| *column);
            columns.extend(entries.iter().map(|(column, _)| *column));
            values.extend(entries.iter().map(|(_, value)| *value));
            row_ptr.push(u32::try_from(columns.len()).unwrap_or(u32::MAX));
        }
        Csr::try_new(self.size, self.size, row_ptr, columns, values)
    }
}

/// What k / h^2 is multiplied by on the diagonal at a side.
pub(crate) fn side_factor(boundary: Boundary) -> f64 {
    match boundary {
        Boundary::Dirichlet => 2.0,
        Boundary::DirichletCell => 1.0,
        Boundary::Neumann | Boundary::Periodic => 0.0,
    }
}
