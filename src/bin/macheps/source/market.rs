//! Matrix Market files: matrices, and vectors among the other inputs.

use std::path::Path;

use macheps::float::Float;
use macheps::sparse::matrix_market::{self, Matrix};
use macheps::sparse::{Narrowed, Narrowing};
use macheps::{Csr, CsrDefect, DType, Element, Error};

use crate::failure::{Failure, Outcome};
use crate::tensor::{Stored, Tensor};

/// Whether a path is that of a Matrix Market file: `.mtx` or `.mtx.gz`.
pub fn is_one(path: &str) -> bool {
    let lower = path.to_ascii_lowercase();
    lower.ends_with(".mtx") || lower.ends_with(".mtx.gz")
}

/// Refuses what cannot be read as a file at all, in the words of the other readers.
fn check_file(path: &Path) -> Outcome {
    match path.metadata() {
        Ok(found) if found.is_dir() => Err(Failure::file(path, "is a folder; expected a file")),
        Ok(_) => Ok(()),
        Err(e) => Err(Failure::file(path, format!("cannot be opened: {e}"))),
    }
}

/// A sparse matrix.
pub fn matrix(path: &str) -> Outcome<Csr<f64>> {
    if !is_one(path) {
        let path = if path.is_empty() { "''" } else { path };
        return Err(Failure::usage(format!(
            "{path}: unknown kind of matrix; expected a Matrix Market file, a.mtx or a.mtx.gz"
        )));
    }
    check_file(Path::new(path))?;
    let contents = matrix_market::read_file(path)?;
    contents.to_csr().map_err(|e| Failure::file(Path::new(path), e))
}

/// A matrix in another type; refuses values beyond its range, and says what can be done about them: `otherwise` if nothing
/// else.
pub fn narrow<T: Element + Float>(path: &str, a: &Csr<f64>, otherwise: &str) -> Outcome<Narrowed<T>> {
    a.narrow::<T>(Narrowing::Refuse).map_err(|e| {
        let message = match e {
            Error::Csr {
                row,
                defect: CsrDefect::Overflow { column, value, largest },
            } => {
                let wider = match T::DTYPE {
                    DType::F16 => ", or --dtype bf16 or f32, whose range is wider",
                    _ => otherwise,
                };
                format!(
                    "the entry in row {}, column {} (counted from 1) is {value:e}, beyond {largest:e}, the largest number of {}; expected a scaled \
                     matrix{wider}",
                    row + 1,
                    column + 1,
                    T::DTYPE
                )
            }
            other => other.to_string(),
        };
        Failure::file(Path::new(path), message)
    })
}

/// A dense array as a tensor: `[n]` for one column, else `[rows, columns]`.
pub fn tensor(path: &Path) -> Outcome<Tensor> {
    check_file(path)?;
    let contents = matrix_market::read_file(path)?;
    let (shape, values) = match &contents.matrix {
        Matrix::Array(dense) if dense.cols() != 1 => (vec![dense.rows(), dense.cols()], dense.values().to_vec()),
        _ => {
            let values = contents.to_vector().map_err(|e| Failure::file(path, e))?;
            (vec![values.len()], values)
        }
    };
    let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Tensor::new(shape, Stored::F64, bytes, false, false).map_err(|e| Failure::file(path, e))
}
