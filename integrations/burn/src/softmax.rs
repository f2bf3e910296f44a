//! Softmax and log-softmax.

use crate::{MachepsOps, device, place};
use burn::backend::Dispatch;
use burn::tensor::Tensor;
use burn_cubecl::tensor::CubeTensor;
use macheps::{Error, Result, Softmax, SoftmaxGradientViews, SoftmaxKind, SoftmaxOptions, SoftmaxViews};

/// Softmax along an axis.
///
/// # Errors
/// Those of [`softmax_with`].
pub fn softmax<const D: usize>(x: Tensor<D>, axis: usize) -> Result<Tensor<D>> {
    softmax_with(x, SoftmaxKind::Softmax, &along(axis))
}

/// Logarithm of the softmax along an axis.
///
/// # Errors
/// Those of [`softmax_with`].
pub fn log_softmax<const D: usize>(x: Tensor<D>, axis: usize) -> Result<Tensor<D>> {
    softmax_with(x, SoftmaxKind::LogSoftmax, &along(axis))
}

fn along(axis: usize) -> SoftmaxOptions {
    SoftmaxOptions {
        axis: axis as isize,
        ..SoftmaxOptions::default()
    }
}

/// Softmax or log-softmax with all of macheps's options: a factor, a causal mask, and what fully masked rows give.
///
/// Definition, error bounds and what becomes of infinities and NaN: [`macheps::ops::softmax`]. The gradient is computed from `x`: the graph
/// keeps nothing else.
///
/// # Errors
/// [`Error::Shape`] and [`Error::Option`] for options that do not fit, [`Error::Unsupported`] for a device that was not
/// [attached](crate::attach), a tensor that is not f32, f16 or bf16, and [`SoftmaxKind::LogSumExp`].
pub fn softmax_with<const D: usize>(x: Tensor<D>, kind: SoftmaxKind, options: &SoftmaxOptions) -> Result<Tensor<D>> {
    device::of(&x.device())?;
    place::dtype("x", x.dtype())?;
    options.check(&x.dims())?;
    if kind.reduces() {
        return Err(Error::Unsupported {
            what: kind.name().into(),
            reason: "its result has another shape".into(),
        });
    }
    let y = <Dispatch as MachepsOps>::macheps_softmax(x.into_dispatch(), kind, *options);
    Ok(Tensor::from_dispatch(y))
}

pub(crate) fn forward(x: CubeTensor, kind: SoftmaxKind, options: SoftmaxOptions) -> Result<CubeTensor> {
    let gpu = device::of_cube(&x.device)?;
    let dtype = place::dtype("x", x.dtype)?;
    let x = place::readable(x);
    let y = place::like(&x);
    let (x_view, _x) = place::view(&x, dtype)?;
    let (y_view, _y) = place::view(&y, dtype)?;
    let bound = Softmax::new(&gpu, kind, dtype, options)?.bind(&SoftmaxViews::new(x_view, y_view))?;
    place::submit(&gpu, |encoder| bound.record(encoder));
    Ok(y)
}

pub(crate) fn backward(
    x: CubeTensor,
    upstream: CubeTensor,
    kind: SoftmaxKind,
    options: SoftmaxOptions,
) -> Result<CubeTensor> {
    let gpu = device::of_cube(&x.device)?;
    let dtype = place::dtype("x", x.dtype)?;
    let (x, upstream) = (place::readable(x), place::readable(upstream));
    let dx = place::like(&x);
    let (x_view, _x) = place::view(&x, dtype)?;
    let (upstream_view, _upstream) = place::view(&upstream, dtype)?;
    let (dx_view, _dx) = place::view(&dx, dtype)?;
    let bound = Softmax::new(&gpu, kind, dtype, options)?.bind_backward(&SoftmaxGradientViews {
        x: x_view,
        upstream: upstream_view,
        dx: dx_view,
        mask: None,
        workspace: None,
    })?;
    place::submit(&gpu, |encoder| bound.record(encoder));
    Ok(dx)
}
