//! What flows: the grid, its sides, obstacles and sources.

use crate::error::{FluidError, Result};

/// The fewest and most cells of a side.
pub const SIDES: [usize; 2] = [16, 2048];

/// The side of the grid that fluid passes freely; the others are walls, but for an inflow on the left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// The upper one.
    Top,
    /// The right one.
    Right,
}

/// A round obstacle. Lengths are in heights of the grid, from its lower left corner.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Circle {
    /// Centre, x and y.
    pub centre: [f32; 2],
    /// Radius.
    pub radius: f32,
}

/// A scene. Lengths are in heights of the grid, so that a scene looks the same on any grid; time is in frames.
#[derive(Clone, Debug, PartialEq)]
pub struct Scene {
    /// Cells along x and y.
    pub cells: [usize; 2],
    /// The open side.
    pub open: Open,
    /// Heights a frame that flow in through the left side.
    pub inflow: f32,
    /// Heights a frame that one frame in full smoke adds upwards.
    pub buoyancy: f32,
    /// Strength of the vorticity confinement, 0 to 1.
    pub confinement: f32,
    /// What is left of the smoke after a frame, 0 to 1.
    pub fade: f32,
    /// Centre and radii of the ellipse that smoke comes from; bands through the left side if there is none.
    pub source: Option<[f32; 4]>,
    /// What is in the way.
    pub obstacles: Vec<Circle>,
}

impl Scene {
    /// Smoke rises from the ground, around a ball and a smaller one, and out at the top.
    pub fn plume(width: usize, height: usize) -> Scene {
        let middle = 0.5 * width as f32 / height as f32;
        Scene {
            cells: [width, height],
            open: Open::Top,
            inflow: 0.0,
            buoyancy: 3.4e-4,
            confinement: 0.12,
            fade: 0.9985,
            source: Some([middle, 0.07, 0.075, 0.045]),
            obstacles: vec![Circle {
                centre: [middle + 0.02, 0.46],
                radius: 0.1,
            }],
        }
    }

    /// Wind from the left past a post: a vortex street.
    pub fn street(width: usize, height: usize) -> Scene {
        Scene {
            cells: [width, height],
            open: Open::Right,
            inflow: 0.006,
            buoyancy: 0.0,
            confinement: 0.05,
            fade: 1.0,
            source: None,
            obstacles: vec![Circle {
                centre: [0.36, 0.507],
                radius: 0.09,
            }],
        }
    }

    /// Number of cells.
    pub fn size(&self) -> usize {
        self.cells[0] * self.cells[1]
    }

    /// How much of each cell the obstacles cover, 0 to 1: what a picture shows of them. Filled pockets are covered.
    ///
    /// # Errors
    /// Those of [`Scene::solid`].
    pub fn coverage(&self) -> Result<Vec<f32>> {
        let [width, height] = self.cells;
        // Across the edge of a circle it falls from 1 to 0 within a cell.
        let covered = |cell: usize| {
            let place = |i: usize| (i as f32 + 0.5) / height as f32;
            let [x, y] = [place(cell % width), place(cell / width)];
            let depth = |circle: &Circle| circle.radius - (x - circle.centre[0]).hypot(y - circle.centre[1]);
            let deepest = self.obstacles.iter().map(depth).fold(f32::NEG_INFINITY, f32::max);
            (0.5 + deepest * height as f32).clamp(0.0, 1.0)
        };
        let solid = self.solid()?;
        let pocket = |cell: usize| solid[cell] && covered(cell) == 0.0;
        Ok((0..self.size())
            .map(|cell| if pocket(cell) { 1.0 } else { covered(cell) })
            .collect())
    }

    /// Which cells are solid: those whose centre lies in an obstacle, and pockets of fluid that cannot reach the open side.
    ///
    /// Nothing flows in such a pocket, and it would have no definite pressure: on a region without an open side the equation is singular,
    /// since any constant may be added, and solvable only where what is to flow in and out of it cancels. With the pockets filled, and
    /// one side open, the operator is positive definite, which is what conjugate gradients ask for.
    ///
    /// # Errors
    /// [`FluidError::Size`] for grids that are too small or too large, [`FluidError::NoFluid`].
    pub fn solid(&self) -> Result<Vec<bool>> {
        let [width, height] = self.cells;
        let [least, most] = SIDES;
        if [width, height].iter().any(|side| !(least..=most).contains(side)) {
            return Err(FluidError::Size {
                width,
                height,
                least,
                most,
            });
        }
        let in_obstacle = |cell: usize| {
            let place = |i: usize| (i as f32 + 0.5) / height as f32;
            let [x, y] = [place(cell % width), place(cell / width)];
            self.obstacles
                .iter()
                .any(|circle| (x - circle.centre[0]).hypot(y - circle.centre[1]) < circle.radius)
        };
        let walls: Vec<bool> = (0..self.size()).map(in_obstacle).collect();

        // Fluid is what is reached from the open side.
        let mut solid = vec![true; self.size()];
        let mut reached: Vec<usize> = match self.open {
            Open::Top => (0..width).map(|i| i + width * (height - 1)).collect(),
            Open::Right => (0..height).map(|j| width - 1 + width * j).collect(),
        };
        while let Some(cell) = reached.pop() {
            if walls[cell] || !solid[cell] {
                continue;
            }
            solid[cell] = false;
            let (i, j) = (cell % width, cell / width);
            let neighbours = [
                (i > 0).then(|| cell - 1),
                (i + 1 < width).then_some(cell + 1),
                (j > 0).then(|| cell - width),
                (j + 1 < height).then_some(cell + width),
            ];
            reached.extend(neighbours.into_iter().flatten());
        }
        if solid.iter().all(|&s| s) {
            return Err(FluidError::NoFluid);
        }
        Ok(solid)
    }
}
