//! Cross-entropy, with its gradient from what the loss leaves of every row.

use crate::{MachepsOps, Weights, device, place};
use burn::backend::Dispatch;
use burn::tensor::{DType as BurnDType, Int, IntDType, Shape, Tensor};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use macheps::ops::cross_entropy::{RowSums, TargetView};
use macheps::{CrossEntropy, CrossEntropyOptions, CrossEntropyViews, DType, Error, LossKind, LossReduction, Result};

/// Cross-entropy of logits `[rows, classes]` against one class label a row: f32, one value, or one a row without reduction.
///
/// In training, the graph keeps the logits and 32 bytes a row, and the backward pass makes the gradient from them in one read and one
/// write, multiplied by the gradient with respect to the loss before it is rounded.
///
/// Definition, error bounds and what becomes of infinities and NaN: [`macheps::ops::cross_entropy`]. A label that is neither a class nor
/// [`CrossEntropyOptions::ignore_index`] makes its row's loss and gradient NaN.
///
/// # Errors
/// [`Error::Shape`] for shapes that do not fit, [`Error::Option`] for options outside their domains, [`Error::Unsupported`] for a device
/// that was not [attached](crate::attach) and tensors that are not f32, f16 or bf16.
pub fn cross_entropy(logits: Tensor<2>, labels: Tensor<1, Int>, options: &CrossEntropyOptions) -> Result<Tensor<1>> {
    over_classes(logits, labels, None, options)
}

/// [`cross_entropy`] with a weight for each class, f32, which is not differentiated.
///
/// # Errors
/// Those of [`cross_entropy`].
pub fn cross_entropy_weighted(
    logits: Tensor<2>,
    labels: Tensor<1, Int>,
    weight: Tensor<1>,
    options: &CrossEntropyOptions,
) -> Result<Tensor<1>> {
    over_classes(logits, labels, Some(weight), options)
}

fn over_classes(
    logits: Tensor<2>,
    labels: Tensor<1, Int>,
    weight: Option<Tensor<1>>,
    options: &CrossEntropyOptions,
) -> Result<Tensor<1>> {
    device::of(&logits.device())?;
    place::dtype("logits", logits.dtype())?;
    options.check(LossKind::CrossEntropy)?;
    let [rows, classes] = logits.dims();
    let shape = |what: &str, expected: usize, got: usize| Error::Shape {
        what: what.into(),
        expected: format!("[{expected}]"),
        got: format!("[{got}]"),
    };
    if labels.dims() != [rows] {
        return Err(shape("shape of labels", rows, labels.dims()[0]));
    }
    if classes == 0 {
        return Err(Error::Shape {
            what: "shape of logits".into(),
            expected: "at least one class".into(),
            got: format!("{:?}", logits.dims()),
        });
    }
    if let Some(weight) = &weight {
        if weight.dims() != [classes] {
            return Err(shape("shape of weight", classes, weight.dims()[0]));
        }
        if weight.dtype() != BurnDType::F32 {
            return Err(Error::Unsupported {
                what: format!("a weight of type {:?}", weight.dtype()),
                reason: "it has to be f32".into(),
            });
        }
    }
    let labels = match labels.dtype() {
        BurnDType::I32 => labels,
        _ => labels.cast(IntDType::I32),
    };
    let loss = <Dispatch as MachepsOps>::macheps_cross_entropy(
        logits.into_dispatch(),
        labels.into_dispatch(),
        weight.map_or(Weights::Equal, |weight| Weights::Given(weight.into_dispatch())),
        *options,
    );
    Ok(Tensor::from_dispatch(loss))
}

pub(crate) fn loss(
    x: CubeTensor,
    labels: CubeTensor,
    weight: Weights<CubeBackend>,
    options: CrossEntropyOptions,
) -> Result<CubeTensor> {
    let loss = losses(&x, &options);
    run(
        x,
        labels,
        weight,
        options,
        Outputs {
            loss: Some(&loss),
            ..Outputs::default()
        },
    )?;
    Ok(loss)
}

pub(crate) fn loss_and_sums(
    x: CubeTensor,
    labels: CubeTensor,
    weight: Weights<CubeBackend>,
    options: CrossEntropyOptions,
) -> Result<(CubeTensor, CubeTensor)> {
    let loss = losses(&x, &options);
    let sums = place::empty(&x.client, &x.device, shape_of_sums(x.meta.shape()), BurnDType::F32);
    let outputs = Outputs {
        loss: Some(&loss),
        sums: Some(&sums),
        ..Outputs::default()
    };
    run(x, labels, weight, options, outputs)?;
    Ok((loss, sums))
}

pub(crate) fn gradient(
    x: CubeTensor,
    labels: CubeTensor,
    weight: Weights<CubeBackend>,
    sums: CubeTensor,
    upstream: CubeTensor,
    options: CrossEntropyOptions,
) -> Result<CubeTensor> {
    let gradient = place::like(&x);
    let outputs = Outputs {
        loss: None,
        gradient: Some(&gradient),
        upstream: Some(&upstream),
        sums: Some(&sums),
    };
    run(x, labels, weight, options, outputs)?;
    Ok(gradient)
}

/// The shape of the losses of logits of this shape.
pub(crate) fn shape_of_losses(logits: &Shape, options: &CrossEntropyOptions) -> Shape {
    match options.reduction {
        LossReduction::None => [logits[0]].into(),
        LossReduction::Mean | LossReduction::Sum => [1].into(),
    }
}

/// The shape of what the rows of logits of this shape come to.
pub(crate) fn shape_of_sums(logits: &Shape) -> Shape {
    [logits[0], RowSums::BYTES_PER_ROW as usize / BurnDType::F32.size()].into()
}

/// The losses of these logits, still to be written.
fn losses(x: &CubeTensor, options: &CrossEntropyOptions) -> CubeTensor {
    let shape = shape_of_losses(x.meta.shape(), options);
    place::empty(&x.client, &x.device, shape, BurnDType::F32)
}

/// What is wanted, what the gradient is to be multiplied by, and what the rows come to: written with a loss, read for a gradient.
#[derive(Default)]
struct Outputs<'a> {
    loss: Option<&'a CubeTensor>,
    gradient: Option<&'a CubeTensor>,
    upstream: Option<&'a CubeTensor>,
    sums: Option<&'a CubeTensor>,
}

fn run(
    x: CubeTensor,
    labels: CubeTensor,
    weight: Weights<CubeBackend>,
    options: CrossEntropyOptions,
    outputs: Outputs<'_>,
) -> Result<()> {
    let gpu = device::of_cube(&x.device)?;
    let dtype = place::dtype("logits", x.dtype)?;
    let (x, labels) = (place::readable(x), into_contiguous(labels));
    let (x_view, _x) = place::view(&x, dtype)?;
    // Of the same size as a label.
    let (labels_view, _labels) = place::view(&labels, DType::F32)?;
    let target = TargetView::Labels {
        buffer: labels_view.buffer().clone(),
        offset: labels_view.offset() as u64 * 4,
    };
    let mut views = CrossEntropyViews::new(x_view, target);
    let mut held = Vec::new();
    let mut place = |tensor: Option<&CubeTensor>, dtype| -> Result<_> {
        let Some(tensor) = tensor else { return Ok(None) };
        let (view, resource) = place::view(tensor, dtype)?;
        held.push(resource);
        Ok(Some(view))
    };
    views.weight = match &weight {
        Weights::Given(weight) => place(Some(weight), DType::F32)?,
        Weights::Equal => None,
    };
    views.loss = place(outputs.loss, DType::F32)?;
    views.upstream = place(outputs.upstream, DType::F32)?;
    views.grad = place(outputs.gradient, dtype)?;
    views.row_sums = place(outputs.sums, DType::F32)?.map(|view| {
        let (buffer, offset) = (view.buffer().clone(), view.offset() as u64 * 4);
        match outputs.gradient {
            None => RowSums::Keep { buffer, offset },
            Some(_) => RowSums::Reuse { buffer, offset },
        }
    });
    let bound = CrossEntropy::new(&gpu, LossKind::CrossEntropy, dtype, options)?.bind(&views)?;
    place::submit(&gpu, |encoder| bound.record(encoder));
    Ok(())
}
