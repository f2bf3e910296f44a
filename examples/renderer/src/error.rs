//! What can go wrong while a simulation is set up. Inside a frame nothing can.

/// Why there is no simulation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FluidError {
    /// A grid that is too small to show anything, or too large for the passes.
    #[error("a grid of {width} by {height} cells: each side has to have {least} to {most}")]
    Size {
        /// Cells along x.
        width: usize,
        /// Cells along y.
        height: usize,
        /// The fewest cells of a side.
        least: usize,
        /// The most cells of a side.
        most: usize,
    },
    /// A budget that does not pay for a single iteration.
    #[error("a budget of {given} dispatches a frame: {method} needs at least {needed}")]
    Budget {
        /// Name of the method.
        method: &'static str,
        /// Dispatches a frame.
        given: usize,
        /// Those of a solve with one iteration.
        needed: usize,
    },
    /// Obstacles leave no fluid.
    #[error("obstacles fill the whole grid")]
    NoFluid,
    /// What macheps has against it.
    #[error("pressure solve: {0}")]
    Macheps(#[from] macheps::Error),
    /// What the device has against it.
    #[error("device: {0}")]
    Device(String),
}

/// Result of setting up.
pub type Result<T> = std::result::Result<T, FluidError>;
