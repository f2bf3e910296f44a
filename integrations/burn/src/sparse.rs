//! Products with sparse matrices.

use crate::{MachepsOps, device, place};
use burn::backend::Dispatch;
use burn::tensor::{DType as BurnDType, Device, Shape, Tensor};
use burn_cubecl::tensor::CubeTensor;
use macheps::float::Float;
use macheps::{Csr, DType, Element, Error, Result, Spmv, SpmvOptions};

/// A sparse matrix on a device, ready to be multiplied with tensors. Its values are constants to autodiff. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SparseMatrix {
    pub(crate) product: Spmv,
    pub(crate) transpose: Spmv,
}

impl SparseMatrix {
    /// Uploads a matrix and its transpose, which the gradient needs.
    ///
    /// # Cost
    /// O(rows + columns + entries) on the host, and twice 4 bytes a row and an index and a value an entry on the device, outside Burn's memory pool.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a device that was not [attached](crate::attach); those of [`Spmv::new`].
    pub fn new<T: Element + Float>(device: &Device, matrix: &Csr<T>) -> Result<SparseMatrix> {
        let gpu = device::of(device)?;
        let upload = |transpose| {
            Spmv::new(
                &gpu,
                matrix,
                &SpmvOptions {
                    transpose,
                    ..SpmvOptions::default()
                },
            )
        };
        Ok(SparseMatrix {
            product: upload(false)?,
            transpose: upload(true)?,
        })
    }

    /// Rows and columns.
    pub fn shape(&self) -> [usize; 2] {
        [self.product.rows(), self.product.cols()]
    }

    /// Number of entries.
    pub fn entries(&self) -> usize {
        self.product.entries()
    }
}

/// `A x` for a matrix of m rows and n columns and an f32 tensor `[n, k]`: `[m, k]`. The gradient with respect to x is `A^T g`.
///
/// Error bounds: [`macheps::ops::spmv`].
///
/// # Errors
/// [`Error::Shape`] where the columns of A are not the rows of x; [`Error::Unsupported`] for a device that was not
/// [attached](crate::attach) and for tensors that are not f32.
pub fn spmm(matrix: &SparseMatrix, x: Tensor<2>) -> Result<Tensor<2>> {
    device::of(&x.device())?;
    if x.dtype() != BurnDType::F32 {
        return Err(Error::Unsupported {
            what: format!("x of type {:?}", x.dtype()),
            reason: "sparse products take f32".into(),
        });
    }
    let [_, columns] = matrix.shape();
    if x.dims()[0] != columns {
        return Err(Error::Shape {
            what: "shape of x".into(),
            expected: format!("[{columns}, k]"),
            got: format!("{:?}", x.dims()),
        });
    }
    let y = <Dispatch as MachepsOps>::macheps_spmm(x.into_dispatch(), matrix.clone());
    Ok(Tensor::from_dispatch(y))
}

/// The shape of a product with a tensor of this shape.
pub(crate) fn shape_of_product(matrix: &Spmv, x: &Shape) -> Shape {
    [matrix.rows(), x[1]].into()
}

pub(crate) fn product(matrix: &Spmv, x: CubeTensor) -> Result<CubeTensor> {
    let gpu = device::of_cube(&x.device)?;
    let x = place::readable(x);
    let shape = shape_of_product(matrix, x.meta.shape());
    let y = place::empty(&x.client, &x.device, shape, BurnDType::F32);
    let (x_view, _x) = place::view(&x, DType::F32)?;
    let (y_view, _y) = place::view(&y, DType::F32)?;
    let bound = matrix.bind(&x_view, &y_view, 1.0, 0.0)?;
    place::submit(&gpu, |encoder| bound.record(encoder));
    Ok(y)
}
