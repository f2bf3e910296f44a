//! Sparse matrices on the host: coordinates ([`Coo`]), compressed rows ([`Csr`], valid by construction), dense ([`Dense`]), and
//! [Matrix Market](matrix_market) files.
//!
//! Values are f64, f32, f16 or bf16. Matrices are read, put together and judged in f64; narrowing to what a device computes
//! with is a step of its own, [`Csr::narrow`], which counts what it loses. Indices are u32: at most 2^32 - 1 rows, columns and
//! entries.
//!
//! ```
//! use macheps::sparse::{Coo, Narrowing};
//! // [2 -1 0; -1 2 -1; 0 -1 2], assembled entry by entry; repeated entries add up.
//! let mut coo = Coo::new(3, 3)?;
//! for i in 0..3 {
//!     coo.push(i, i, 2.0)?;
//!     if i > 0 {
//!         coo.push(i, i - 1, -1.0)?;
//!         coo.push(i - 1, i, -1.0)?;
//!     }
//! }
//! let a = coo.to_csr()?;
//! assert_eq!((a.entries(), a.norm_inf()), (7, 4.0));
//! assert!(a.symmetry().exact);
//! let narrow = a.narrow::<f32>(Narrowing::default())?;
//! assert_eq!((narrow.rounded, narrow.vanished), (0, 0));
//! # Ok::<(), macheps::Error>(())
//! ```

mod coo;
mod csr;
mod dense;
pub mod matrix_market;
mod properties;

pub use coo::Coo;
pub use csr::{Csr, Narrowed, Narrowing};
pub use dense::Dense;
pub use properties::{DiagonalDominance, RowStatistics, Symmetry};

use crate::error::{Error, Result};

/// The most rows, columns or entries: indices are u32.
pub const MAX_INDEX: u64 = u32::MAX as u64;

fn check_index(what: &'static str, n: u64) -> Result<()> {
    if n > MAX_INDEX {
        return Err(Error::Limit {
            what,
            need: n,
            have: MAX_INDEX,
        });
    }
    Ok(())
}

/// A vector with room for `n` values; a typed error where there is no memory.
fn room<T>(n: usize) -> Result<Vec<T>> {
    let mut values = Vec::new();
    values.try_reserve_exact(n).map_err(|_| Error::Limit {
        what: "memory for a sparse matrix, in bytes",
        need: (n as u64).saturating_mul(size_of::<T>() as u64),
        have: isize::MAX as u64,
    })?;
    Ok(values)
}

fn filled<T: Clone>(n: usize, value: T) -> Result<Vec<T>> {
    let mut values = room(n)?;
    values.resize(n, value);
    Ok(values)
}
