//! The losses over classes for embedding, and from tensor to tensor.

use super::input::{Checked, CrossEntropyInput, IGNORED, Indices, Target};
use super::kernels::{self, Call, TargetViews};
use super::oneshot::{Problem, Wanted};
use super::options::{CrossEntropyOptions, LossKind, LossReduction};
#[cfg(not(target_arch = "wasm32"))]
use super::reference;
use crate::context::Context;
#[cfg(not(target_arch = "wasm32"))]
use crate::context::CrossCheck;
use crate::element::{DType, Element};
use crate::error::{Error, Result};
use crate::gpu::{BufferView, Gpu, Recording, check_workspace};
use crate::job::{Job, Simple};
use crate::ops::softmax::Strategy;
use crate::rows::element_count;
use crate::tensor::{Chain, Tensor, check_len};
use std::sync::Arc;

/// A loss over classes for embedding, with its gradient: bound to buffers once, recorded into a caller's encoder or pass any
/// number of times.
///
/// # Definition
/// That of the [module](super). Loss, gradient and log-probabilities are made in one go, whichever of them have a view; the
/// gradient may take the place of the logits.
///
/// # Numerics
/// That of [`bounds`](super::bounds), in every strategy. Sums over rows and classes are compensated and have fixed trees: the same
/// device, driver and version give the same bits on every run, in the default strategies at any subgroup width.
///
/// # Cost
/// One read and one write of the logits where a row fits on chip, else two reads and one write; 16 bytes of workspace a row (56 and 40
/// for each chunk of classes where rows are split). Without the gradient one read, two of longer rows on devices that run on a CPU, where
/// exponentials cost more; the gradient later, from [`RowSums`], one read and one write. Rows that are ignored are not read. One dispatch, one more for the
/// reduction and the check of labels, one more to count a weighted mean's divisor; each of those two takes another beyond 4,096 rows.
///
/// ```no_run
/// # fn frame(device: &wgpu::Device, queue: &wgpu::Queue, logits: &wgpu::Buffer, labels: &wgpu::Buffer, loss: &wgpu::Buffer,
/// #     encoder: &mut wgpu::CommandEncoder) -> macheps::Result<()> {
/// # use macheps::wgpu;
/// use macheps::ops::cross_entropy::{CrossEntropy, CrossEntropyViews, LossKind, TargetView};
/// use macheps::{BufferView, CrossEntropyOptions, DType, Gpu};
/// let gpu = Gpu::borrow(device, queue);
/// let loss_of = CrossEntropy::new(&gpu, LossKind::CrossEntropy, DType::F16, CrossEntropyOptions::default())?;
/// let x = BufferView::new(logits, DType::F16, &[512, 50_304]);
/// let target = TargetView::Labels { buffer: labels.clone(), offset: 0 };
/// let views = CrossEntropyViews {
///     loss: Some(BufferView::new(loss, DType::F32, &[])),
///     grad: Some(x.clone()), // in place of the logits
///     ..CrossEntropyViews::new(x, target)
/// };
/// let bound = loss_of.bind(&views)?; // outside the frame
/// bound.record(encoder); // every frame
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct CrossEntropy {
    gpu: Gpu,
    kind: LossKind,
    dtype: DType,
    options: CrossEntropyOptions,
    strategy: Option<Strategy>,
    /// Of a mean over more rows than those of a call, in one-shots.
    divisors: Option<[f64; 2]>,
}

/// What rows are held to, on a device.
#[derive(Clone, Debug)]
pub enum TargetView {
    /// One i32 a row, in C order over the logits' shape without the classes, from byte `offset` of the buffer on, a multiple of 4.
    /// A label that is neither a class nor the ignored one makes the row's loss and gradient NaN and is reported in the workspace, see
    /// [`BoundCrossEntropy::status`].
    Labels {
        /// The buffer, with usage `STORAGE`.
        buffer: wgpu::Buffer,
        /// In bytes.
        offset: u64,
    },
    /// A probability for each class: the shape and storage type of the logits.
    Probabilities(BufferView),
}

/// What rows come to (maximum, sums), 32 bytes a row, for a gradient made later than its loss, from an upstream gradient that is only
/// known then: the first call reads the logits once, the second reads them once and writes the gradient, and nothing else of them has
/// to be kept. In C order over the logits' shape without the classes, from byte `offset` of the buffer on, a multiple of 32.
#[derive(Clone, Debug)]
pub enum RowSums {
    /// Written, by a call without gradient.
    Keep {
        /// The buffer, with usage `STORAGE`.
        buffer: wgpu::Buffer,
        /// In bytes.
        offset: u64,
    },
    /// Read, by a call without loss: an earlier one with the same logits, targets, weights and options has written them, in whatever
    /// strategy.
    Reuse {
        /// The buffer, with usage `STORAGE`.
        buffer: wgpu::Buffer,
        /// In bytes.
        offset: u64,
    },
}

impl RowSums {
    /// Bytes that a row takes.
    pub const BYTES_PER_ROW: u64 = kernels::SUMS_OF_ROW;
}

/// What a call works on. Losses, weights and upstream gradients are f32 whatever the storage of the logits.
#[derive(Clone, Debug)]
pub struct CrossEntropyViews {
    /// Logits, or log-probabilities for nll_loss: `[N, C, d1, ..]` or `[C]`.
    pub x: BufferView,
    /// Labels or probabilities.
    pub target: TargetView,
    /// f32: a weight for each class.
    pub weight: Option<BufferView>,
    /// f32, written: the shape of `x` without the classes where nothing is reduced, else one element.
    pub loss: Option<BufferView>,
    /// Written: the log-softmax of `x`, in its shape and storage type; of ignored rows, too. Not for nll_loss.
    pub log_prob: Option<BufferView>,
    /// Written: the gradient with respect to `x`, in its shape and storage type. May be the very view `x`.
    pub grad: Option<BufferView>,
    /// f32: the gradient with respect to the loss, of its shape. All 1 if there is none.
    pub upstream: Option<BufferView>,
    /// Scratch of at least [`CrossEntropy::workspace_size`] bytes at an offset that is a multiple of 256; where none is given, `bind`
    /// allocates it. Its first word is the status: zero it before the first use.
    pub workspace: Option<(wgpu::Buffer, u64)>,
    /// What rows come to, kept for a later call or taken from an earlier one.
    pub row_sums: Option<RowSums>,
}

impl CrossEntropyViews {
    /// Logits and targets; what is wanted of them is put in afterwards.
    pub fn new(x: BufferView, target: TargetView) -> CrossEntropyViews {
        CrossEntropyViews {
            x,
            target,
            weight: None,
            loss: None,
            log_prob: None,
            grad: None,
            upstream: None,
            workspace: None,
            row_sums: None,
        }
    }
}

/// A call bound to its buffers: records dispatches and nothing else. It keeps the buffers alive.
pub struct BoundCrossEntropy {
    recording: Recording,
    status: (wgpu::Buffer, u64),
}

impl BoundCrossEntropy {
    /// Records into an encoder as one compute pass. Creates no other wgpu object, submits nothing, waits for nothing; any
    /// number of times per encoder.
    pub fn record(&self, encoder: &mut wgpu::CommandEncoder) {
        self.recording.record(encoder);
    }

    /// Records into an open compute pass.
    pub fn record_pass(&self, pass: &mut wgpu::ComputePass<'_>) {
        self.recording.record_pass(pass);
    }

    /// Number of dispatches.
    pub fn dispatches(&self) -> usize {
        self.recording.dispatches()
    }

    /// Where the status word lies: a buffer and an offset in bytes. The word is 0, or 1 + the number of the first row whose label was no
    /// class. It stays until it is overwritten, so that many steps can be recorded and the word read once.
    pub fn status(&self) -> (&wgpu::Buffer, u64) {
        (&self.status.0, self.status.1)
    }

    pub(crate) fn into_recording(self) -> Recording {
        self.recording
    }
}

/// A view of rank 1 as one row of its own.
fn lifted(view: &BufferView) -> BufferView {
    let mut view = view.clone();
    if view.shape.len() == 1 && view.strides.len() == 1 {
        view.shape.insert(0, 1);
        view.strides.insert(0, 0);
    }
    view
}

impl CrossEntropy {
    /// One of the two losses for a storage type of the logits. Pipelines are built by the first `bind` that needs them and shared by
    /// everything on the same [`Gpu`].
    ///
    /// # Errors
    /// [`Error::Option`] for options outside their domain.
    pub fn new(gpu: &Gpu, kind: LossKind, dtype: DType, options: CrossEntropyOptions) -> Result<CrossEntropy> {
        options.check(kind)?;
        Ok(CrossEntropy {
            gpu: gpu.clone(),
            kind,
            dtype,
            options,
            strategy: None,
            divisors: None,
        })
    }

    /// Forces a strategy in place of the choice by shape and device; where it cannot serve, `bind` gives [`Error::Unsupported`].
    /// Here [`Strategy::Columns`] takes maximum and sums in one read, as `Online` does, and `Workgroup` holds rows of at most 16,384 classes on chip.
    pub fn with_strategy(mut self, strategy: Strategy) -> CrossEntropy {
        self.strategy = Some(strategy);
        self
    }

    fn check_shape(x: &BufferView) -> Result<BufferView> {
        x.check("x")?;
        let lifted = lifted(x);
        let rows = lifted.shape.iter().enumerate().filter(|&(d, _)| d != 1);
        let rows = element_count(&rows.map(|(_, &size)| size).collect::<Vec<_>>());
        if lifted.shape.len() < 2 || (lifted.shape[1] == 0 && rows != Some(0)) {
            return Err(Error::shape(
                "shape of x",
                "[C] or [N, C, ..] with at least one class",
                format!("{:?}", x.shape),
            ));
        }
        Ok(lifted)
    }

    /// The strategy for logits of this shape and strides.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Unsupported`].
    pub fn strategy(&self, x: &BufferView) -> Result<Strategy> {
        kernels::strategy_for(&self.gpu, &Self::check_shape(x)?, self.strategy)
    }

    /// Bytes of workspace that a call on these logits needs: 16 a row and 32 for every 4,096 rows, and in [`Strategy::Split`]
    /// 40 a row and 40 a chunk of a row more.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Unsupported`], [`Error::Limit`].
    pub fn workspace_size(&self, x: &BufferView) -> Result<u64> {
        kernels::workspace_size(&self.gpu, &Self::check_shape(x)?, self.strategy)
    }

    /// Binds a call: builds what pipelines are missing, makes bind groups and parameters. Meant for outside the frame.
    ///
    /// # Shapes
    /// Those that [`CrossEntropyViews`] names. Offsets and strides are free; `grad` may be the very view `x`, else nothing may overlap
    /// what is written.
    ///
    /// # Errors
    /// [`Error::Shape`] for shapes that do not fit, views beyond their buffers and a workspace that is too small;
    /// [`Error::DTypeMismatch`], [`Error::Aliased`], [`Error::BufferUsage`], [`Error::Limit`]; [`Error::Unsupported`] for what nll_loss does
    /// not have and for views with more than four separately strided row dimensions; [`Error::DeviceLost`].
    pub fn bind(&self, views: &CrossEntropyViews) -> Result<BoundCrossEntropy> {
        self.gpu.check_alive()?;
        let x = Self::check_shape(&views.x)?;
        let nll = self.kind == LossKind::NllLoss;
        if nll && (views.log_prob.is_some() || matches!(views.target, TargetView::Probabilities(_))) {
            return Err(Error::Unsupported {
                what: "nll_loss with log_prob or with probabilities as targets".into(),
                reason: "it takes log-probabilities and class labels".into(),
            });
        }
        let row_shape: Vec<usize> = (0..views.x.shape.len())
            .filter(|&d| d != usize::from(views.x.shape.len() > 1))
            .map(|d| views.x.shape[d])
            .collect();
        let probabilities = match &views.target {
            TargetView::Probabilities(view) => Some(view),
            TargetView::Labels { .. } => None,
        };
        let (like_x, f32) = (self.dtype, DType::F32);
        // Name, view, storage type, whether it is written.
        let given = [
            ("x", Some(&views.x), like_x, false),
            ("target", probabilities, like_x, false),
            ("weight", views.weight.as_ref(), f32, false),
            ("upstream", views.upstream.as_ref(), f32, false),
            ("loss", views.loss.as_ref(), f32, true),
            ("log_prob", views.log_prob.as_ref(), like_x, true),
            ("grad", views.grad.as_ref(), like_x, true),
        ];
        let given: Vec<_> = given
            .into_iter()
            .filter_map(|(name, view, dtype, written)| view.map(|v| (name, v, dtype, written)))
            .collect();
        for &(what, view, expected, written) in &given {
            if view.dtype != expected {
                return Err(Error::DTypeMismatch {
                    what,
                    expected,
                    got: view.dtype,
                });
            }
            if written {
                view.check_writable(what)?
            } else {
                view.check(what)?
            }
            let fits = match what {
                "weight" => view.shape == [x.shape[1]],
                "upstream" | "loss" if self.options.reduction == LossReduction::None => view.shape == row_shape,
                "upstream" | "loss" => element_count(&view.shape) == Some(1),
                _ => view.shape == views.x.shape,
            };
            if !fits {
                let expected = match what {
                    "weight" => format!("[{}]", x.shape[1]),
                    "upstream" | "loss" if self.options.reduction == LossReduction::None => format!("{row_shape:?}"),
                    "upstream" | "loss" => "one element".into(),
                    _ => format!("{:?}", views.x.shape),
                };
                return Err(Error::shape(
                    format!("shape of {what}"),
                    expected,
                    format!("{:?}", view.shape),
                ));
            }
        }
        for (i, &(first, a, _, a_written)) in given.iter().enumerate() {
            for &(second, b, _, b_written) in &given[i + 1..] {
                let in_place = first == "x" && second == "grad" && a.same_as(b);
                if (a_written || b_written) && a.overlaps(b) && !in_place {
                    return Err(Error::Aliased { first, second });
                }
            }
        }
        let need = self.workspace_size(&views.x)?;
        let rows = element_count(&row_shape).unwrap_or(0) as u64;
        // Byte ranges that are no views.
        let mut ranges = Vec::new();
        if let TargetView::Labels { buffer, offset } = &views.target {
            check_storage("target", buffer)?;
            let end = rows.checked_mul(4).and_then(|bytes| bytes.checked_add(*offset));
            if !offset.is_multiple_of(4) || end.is_none_or(|end| end > buffer.size()) {
                return Err(Error::shape(
                    "target",
                    format!("{rows} labels of 4 bytes at an offset that is a multiple of 4"),
                    format!("offset {offset} in a buffer of {} bytes", buffer.size()),
                ));
            }
            ranges.push(("target", buffer, *offset..offset + rows * 4, false));
        }
        if let Some(sums) = &views.row_sums {
            let (RowSums::Keep { buffer, offset } | RowSums::Reuse { buffer, offset }) = sums;
            let keep = matches!(sums, RowSums::Keep { .. });
            let (mode, excluded) = if keep {
                ("keep", ("grad", views.grad.is_some()))
            } else {
                ("reuse", ("loss", views.loss.is_some()))
            };
            if excluded.1 {
                return Err(Error::Unsupported {
                    what: format!("row_sums to {mode} in a call for the {}", excluded.0),
                    reason: "a call for the loss keeps them, a later one for the gradient takes them".into(),
                });
            }
            check_storage("row_sums", buffer)?;
            let size = rows.checked_mul(RowSums::BYTES_PER_ROW);
            let end = size.and_then(|bytes| bytes.checked_add(*offset));
            if !offset.is_multiple_of(RowSums::BYTES_PER_ROW) || end.is_none_or(|end| end > buffer.size()) {
                return Err(Error::shape(
                    "row_sums",
                    format!("{rows} rows of 32 bytes at an offset that is a multiple of 32"),
                    format!("offset {offset} in a buffer of {} bytes", buffer.size()),
                ));
            }
            ranges.push(("row_sums", buffer, *offset..*offset + size.unwrap_or(0), keep));
        }
        if let Some((buffer, offset)) = &views.workspace {
            check_workspace(buffer, *offset, need, [])?;
            ranges.push(("workspace", buffer, *offset..offset + need, true));
        }
        for (i, (second, buffer, range, written)) in ranges.iter().enumerate() {
            for &(first, view, _, view_written) in &given {
                if (view_written || *written) && view.shares_bytes(buffer, range.clone()) {
                    return Err(Error::Aliased { first, second });
                }
            }
            for (first, other, other_range, other_written) in &ranges[..i] {
                if (*written || *other_written)
                    && other == buffer
                    && other_range.start < range.end
                    && range.start < other_range.end
                {
                    return Err(Error::Aliased { first, second });
                }
            }
        }
        let (workspace, offset) = match &views.workspace {
            Some((buffer, offset)) => (buffer.clone(), *offset),
            None => (workspace(&self.gpu, need)?, 0),
        };
        let lifted_views = [&views.log_prob, &views.grad].map(|v| v.as_ref().map(lifted));
        let lifted_target = probabilities.map(lifted);
        let call = Call {
            kind: self.kind,
            options: &self.options,
            x: &x,
            target: match (&views.target, &lifted_target) {
                (TargetView::Labels { buffer, offset }, _) => TargetViews::Indices {
                    buffer,
                    offset: *offset,
                },
                (TargetView::Probabilities(_), Some(view)) => TargetViews::Probabilities(view),
                (TargetView::Probabilities(view), None) => TargetViews::Probabilities(view),
            },
            weight: views.weight.as_ref(),
            loss: views.loss.as_ref(),
            log_prob: lifted_views[0].as_ref(),
            grad: lifted_views[1].as_ref(),
            upstream: views.upstream.as_ref(),
            workspace: Some((&workspace, offset)),
            row_sums: views.row_sums.as_ref(),
            strategy: self.strategy,
            divisors: self.divisors,
        };
        let recording = kernels::bind(&self.gpu, &call)?;
        Ok(BoundCrossEntropy {
            recording,
            status: (workspace, offset),
        })
    }
}

fn check_storage(what: &'static str, buffer: &wgpu::Buffer) -> Result<()> {
    if buffer.usage().contains(wgpu::BufferUsages::STORAGE) {
        return Ok(());
    }
    Err(Error::BufferUsage {
        what,
        needed: "STORAGE".into(),
    })
}

fn workspace(gpu: &Gpu, bytes: u64) -> Result<wgpu::Buffer> {
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    gpu.create_buffer("macheps workspace", bytes, usage)
}

/// Uploads a checked call and binds it to buffers of its own: the loss, the log-probabilities and the gradient, as far as they are wanted,
/// come back in this order. The gradient takes the place of the logits. `divisors` are those of all rows where these are a part.
pub(super) fn bind_problem<T: Element>(
    gpu: &Gpu,
    p: &Checked<'_, T>,
    upstream: Option<&[f32]>,
    log_prob: bool,
    divisors: Option<[f64; 2]>,
) -> Result<Simple> {
    use wgpu::BufferUsages as U;
    let up = |label, values: &[f32]| gpu.upload(label, bytemuck::cast_slice(values));
    let like_x = |buffer: &wgpu::Buffer| BufferView::new(buffer, T::DTYPE, &p.shape);
    let bytes = (p.x.len() * T::DTYPE.size()) as u64;
    let x = gpu.upload("macheps x", bytemuck::cast_slice(p.x))?;
    let target = match p.probabilities {
        Some(values) => TargetView::Probabilities(like_x(&gpu.upload("macheps target", bytemuck::cast_slice(values))?)),
        None => TargetView::Labels {
            buffer: gpu.upload("macheps target", bytemuck::cast_slice(&p.labels))?,
            offset: 0,
        },
    };
    let losses = match p.options.reduction {
        LossReduction::None => p.row_shape.clone(),
        LossReduction::Mean | LossReduction::Sum => Vec::new(),
    };
    let loss_bytes = p.losses() as u64 * 4;
    let loss = gpu.create_buffer("macheps loss", loss_bytes, U::STORAGE | U::COPY_SRC)?;
    let mut outputs = vec![(loss.clone(), loss_bytes)];
    let mut views = CrossEntropyViews {
        loss: Some(BufferView::new(&loss, DType::F32, &losses)),
        ..CrossEntropyViews::new(like_x(&x), target)
    };
    if let Some(weight) = p.weight {
        views.weight = Some(BufferView::new(
            &up("macheps weight", weight)?,
            DType::F32,
            &[p.classes],
        ));
    }
    if log_prob {
        let buffer = gpu.create_buffer("macheps log_prob", bytes, U::STORAGE | U::COPY_SRC)?;
        views.log_prob = Some(like_x(&buffer));
        outputs.push((buffer, bytes));
    }
    if let Some(upstream) = upstream {
        let buffer = up("macheps upstream", upstream)?;
        views.upstream = Some(BufferView::new(&buffer, DType::F32, &losses));
        views.grad = Some(like_x(&x));
        outputs.push((x, bytes));
    }
    let options = CrossEntropyOptions {
        // Without a row that is ignored a mean's divisor need not be counted.
        ignore_index: p.labels.contains(&IGNORED).then_some(i64::from(IGNORED)),
        ..p.options
    };
    let mut loss = CrossEntropy::new(gpu, p.kind, T::DTYPE, options)?;
    loss.divisors = divisors;
    let bound = loss.bind(&views)?;
    Ok(Simple {
        recording: bound.into_recording(),
        outputs,
    })
}

/// Class labels where a context computes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Labels {
    shape: Vec<usize>,
    place: LabelPlace,
}

#[derive(Clone, Debug)]
enum LabelPlace {
    Cpu(Arc<Vec<i32>>),
    Gpu(Gpu, wgpu::Buffer),
}

impl Labels {
    /// Copies labels, in C order, to where the context computes.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shape has another number of elements, [`Error::Unsupported`] for a label that does not fit 32 bits,
    /// [`Error::Limit`] beyond the device's largest buffer, [`Error::DeviceLost`].
    pub fn upload<'a>(context: &Context, labels: impl Into<Indices<'a>>, shape: &[usize]) -> Result<Labels> {
        let labels = labels.into();
        check_len("labels", labels.len(), shape)?;
        let narrow = |index| {
            let label = labels.get(index);
            i32::try_from(label).map_err(|_| Error::Unsupported {
                what: format!("label {label}"),
                reason: "labels on a device have 32 bits".into(),
            })
        };
        let values = (0..labels.len()).map(narrow).collect::<Result<Vec<i32>>>()?;
        let place = match context.gpu() {
            Some(gpu) => LabelPlace::Gpu(
                gpu.clone(),
                gpu.upload("macheps labels", bytemuck::cast_slice(&values))?,
            ),
            None => LabelPlace::Cpu(Arc::new(values)),
        };
        Ok(Labels {
            shape: shape.to_vec(),
            place,
        })
    }

    /// Shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }
}

/// What the rows of a tensor are held to.
#[derive(Clone, Copy, Debug)]
pub enum TargetTensor<'a, T: Element> {
    /// One class a row.
    Labels(&'a Labels),
    /// A probability for each class.
    Probabilities(&'a Tensor<T>),
}

impl Chain<'_> {
    /// A loss over classes and its gradient with respect to `x`, in one go, from tensor to tensor: the losses (one a row, or a tensor
    /// of shape [] where they are reduced), and the gradient in the shape of `x`. `upstream` has the losses' shape; all 1 if there is none.
    ///
    /// On a device it is recorded and runs with [`Chain::submit`]; with cross-check on, it is submitted and compared at once. A
    /// label that is no class gives NaN on a device and [`Error::Label`] on the CPU path and in a cross-check.
    ///
    /// # Errors
    /// Those of [`CrossEntropy::bind`]; [`Error::Unsupported`] for a tensor of another context.
    ///
    /// ```
    /// use macheps::ops::cross_entropy::{Labels, LossKind, TargetTensor};
    /// use macheps::{Context, CrossEntropyOptions};
    /// let ctx = Context::cpu();
    /// let x = ctx.upload(&[0.0f32, 0.0], &[1, 2])?;
    /// let labels = Labels::upload(&ctx, &[1i64], &[1])?;
    /// let mut chain = ctx.chain();
    /// let (loss, dx) = chain.cross_entropy(
    ///     LossKind::CrossEntropy, &x, TargetTensor::Labels(&labels), None, None, &CrossEntropyOptions::default())?;
    /// chain.submit()?;
    /// assert_eq!((loss.download()?, dx.download()?), (vec![2f32.ln()], vec![0.5, -0.5]));
    /// # Ok::<(), macheps::Error>(())
    /// ```
    pub fn cross_entropy<T: Element>(
        &mut self,
        kind: LossKind,
        x: &Tensor<T>,
        target: TargetTensor<'_, T>,
        weight: Option<&Tensor<f32>>,
        upstream: Option<&Tensor<f32>>,
        options: &CrossEntropyOptions,
    ) -> Result<(Tensor<f32>, Tensor<T>)> {
        self.losses_over_classes(kind, x, target, weight, upstream, options, true)
            .map(|(loss, grad)| (loss, grad.unwrap_or_else(|| x.clone())))
    }

    /// A loss over classes from tensor to tensor, without its gradient; else as [`Chain::cross_entropy`].
    ///
    /// # Errors
    /// Those of [`Chain::cross_entropy`].
    pub fn cross_entropy_loss<T: Element>(
        &mut self,
        kind: LossKind,
        x: &Tensor<T>,
        target: TargetTensor<'_, T>,
        weight: Option<&Tensor<f32>>,
        options: &CrossEntropyOptions,
    ) -> Result<Tensor<f32>> {
        self.losses_over_classes(kind, x, target, weight, None, options, false)
            .map(|(loss, _)| loss)
    }

    #[allow(clippy::too_many_arguments)]
    fn losses_over_classes<T: Element>(
        &mut self,
        kind: LossKind,
        x: &Tensor<T>,
        target: TargetTensor<'_, T>,
        weight: Option<&Tensor<f32>>,
        upstream: Option<&Tensor<f32>>,
        options: &CrossEntropyOptions,
        gradient: bool,
    ) -> Result<(Tensor<f32>, Option<Tensor<T>>)> {
        let elsewhere = || Error::Unsupported {
            what: "a tensor of another context".into(),
            reason: "upload it to the chain's context".into(),
        };
        let axis = super::input::class_axis(x.shape())?;
        let mut losses = x.shape().to_vec();
        losses.remove(axis);
        let row_shape = losses.clone();
        if options.reduction != LossReduction::None {
            losses.clear();
        }
        if let TargetTensor::Labels(labels) = target
            && labels.shape != row_shape
        {
            return Err(Error::shape(
                "shape of labels",
                format!("{row_shape:?}"),
                format!("{:?}", labels.shape),
            ));
        }
        let Some(gpu) = self.context().gpu().cloned() else {
            let host = HostCall {
                x: x.host().ok_or_else(elsewhere)?,
                labels: match target {
                    TargetTensor::Labels(labels) => match &labels.place {
                        LabelPlace::Cpu(values) => Some(values.as_slice()),
                        LabelPlace::Gpu(..) => return Err(elsewhere()),
                    },
                    TargetTensor::Probabilities(_) => None,
                },
                probabilities: match target {
                    TargetTensor::Probabilities(t) => Some(t.host().ok_or_else(elsewhere)?),
                    TargetTensor::Labels(_) => None,
                },
                weight: weight.map(|w| w.host().ok_or_else(elsewhere)).transpose()?,
            };
            let input = host.input(x.shape());
            let upstream = upstream.map(|u| u.host().ok_or_else(elsewhere)).transpose()?;
            let wanted = Wanted {
                gradient,
                upstream,
                ..Default::default()
            };
            let output = Problem::new(kind, &input, &wanted, options)?.on_cpu()?;
            let gradient = output.gradient.map(|g| Tensor::on_cpu(g, x.shape()));
            return Ok((Tensor::on_cpu(output.loss, &losses), gradient));
        };
        fn on<U: Element>(t: &Tensor<U>, gpu: &Gpu) -> Result<BufferView> {
            t.view().filter(|_| t.is_on(gpu)).ok_or_else(|| Error::Unsupported {
                what: "a tensor of another context".into(),
                reason: "upload it to the chain's context".into(),
            })
        }
        let loss = Tensor::<f32>::on_gpu(&gpu, &losses)?;
        let grad = if gradient {
            Some(Tensor::<T>::on_gpu(&gpu, x.shape())?)
        } else {
            None
        };
        let target_view = match target {
            TargetTensor::Probabilities(t) => TargetView::Probabilities(on(t, &gpu)?),
            TargetTensor::Labels(labels) => match &labels.place {
                LabelPlace::Gpu(own, buffer) if own.same_device(&gpu) => TargetView::Labels {
                    buffer: buffer.clone(),
                    offset: 0,
                },
                _ => return Err(elsewhere()),
            },
        };
        let views = CrossEntropyViews {
            weight: weight.map(|w| on(w, &gpu)).transpose()?,
            loss: Some(on(&loss, &gpu)?),
            grad: grad.as_ref().map(|g| on(g, &gpu)).transpose()?,
            upstream: upstream.map(|u| on(u, &gpu)).transpose()?,
            ..CrossEntropyViews::new(on(x, &gpu)?, target_view)
        };
        let bound = CrossEntropy::new(&gpu, kind, T::DTYPE, *options)?.bind(&views)?;
        self.record(&bound.into_recording());
        #[cfg(not(target_arch = "wasm32"))]
        if self.context().cross_check() != CrossCheck::Off {
            self.flush()?;
            let labels = match target {
                TargetTensor::Labels(labels) => Some(labels.download()?),
                TargetTensor::Probabilities(_) => None,
            };
            let probabilities = match target {
                TargetTensor::Probabilities(t) => Some(t.download()?),
                TargetTensor::Labels(_) => None,
            };
            let (values, weight) = (x.download()?, weight.map(Tensor::download).transpose()?);
            let host = HostCall {
                x: &values,
                labels: labels.as_deref(),
                probabilities: probabilities.as_deref(),
                weight: weight.as_deref(),
            };
            let ones = vec![1.0f32; loss.shape().iter().product()];
            let upstream = upstream.map(Tensor::download).transpose()?.unwrap_or(ones);
            let answer = reference::answer(kind, &host.input(x.shape()), Some(&upstream), options)?;
            let wrong = |m: super::bounds::Mismatch| Error::Mismatch {
                kernel: kind.name(),
                index: m.index,
                gpu: m.got,
                cpu: m.want,
                bound: m.bound,
            };
            answer.loss.check(&loss.download()?).map_err(wrong)?;
            if let Some(grad) = &grad {
                answer.gradient.check(&grad.download()?).map_err(wrong)?;
            }
        }
        Ok((loss, grad))
    }
}

impl Labels {
    #[cfg(not(target_arch = "wasm32"))]
    fn download(&self) -> Result<Vec<i32>> {
        match &self.place {
            LabelPlace::Cpu(values) => Ok(values.to_vec()),
            LabelPlace::Gpu(gpu, buffer) => {
                let count = element_count(&self.shape).unwrap_or(0);
                let encoder = gpu.device().create_command_encoder(&Default::default());
                let bytes = gpu.read_back(encoder, buffer, count as u64 * 4)?.wait()?;
                Ok(bytemuck::pod_collect_to_vec(&bytes[..count * 4]))
            }
        }
    }
}

/// A call's values in host memory.
struct HostCall<'a, T> {
    x: &'a [T],
    labels: Option<&'a [i32]>,
    probabilities: Option<&'a [T]>,
    weight: Option<&'a [f32]>,
}

impl<'a, T> HostCall<'a, T> {
    fn input(&self, shape: &'a [usize]) -> CrossEntropyInput<'a, T> {
        CrossEntropyInput {
            x: self.x,
            shape,
            target: match self.probabilities {
                Some(p) => Target::Probabilities(p),
                None => Target::Indices(self.labels.unwrap_or_default().into()),
            },
            weight: self.weight,
        }
    }
}
