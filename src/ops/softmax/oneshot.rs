//! One call from host data to host data, on a GPU or on the CPU path; and tensors on the device.

use super::bounds::{Accuracy, Expected, Quantity, bound};
use super::{
    BoundSoftmax, Softmax, SoftmaxGradientViews, SoftmaxKind, SoftmaxOptions, SoftmaxViews, Strategy, cpu, reference,
};
use crate::context::{Context, CrossCheck};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Recording};
use crate::job::{self, BoundJob, Job, allocate, checked_rows, elements};
use crate::rows::RowMap;
#[cfg(not(target_arch = "wasm32"))]
use crate::rows::resolve_axis;
#[cfg(not(target_arch = "wasm32"))]
use crate::tensor::Chain;
use crate::tensor::{Tensor, check_len, checked_count};

/// An additive mask in host memory.
#[derive(Clone, Copy, Debug)]
pub struct Mask<'a, T> {
    /// Its values in C order; -inf takes an entry out.
    pub values: &'a [T],
    /// Its shape, which broadcasts to the input's by NumPy's rules.
    pub shape: &'a [usize],
}

/// Input of a one-shot in host memory.
#[derive(Clone, Copy, Debug)]
pub struct SoftmaxInput<'a, T> {
    /// Values in C order.
    pub x: &'a [T],
    /// Shape.
    pub shape: &'a [usize],
    /// Additive mask.
    pub mask: Option<Mask<'a, T>>,
}

impl<'a, T> SoftmaxInput<'a, T> {
    /// Without a mask.
    pub fn new(x: &'a [T], shape: &'a [usize]) -> Self {
        SoftmaxInput { x, shape, mask: None }
    }
}

/// A checked call: geometry of all tensors.
pub(super) struct Problem<'a, T: Element> {
    kind: SoftmaxKind,
    input: SoftmaxInput<'a, T>,
    upstream: Option<&'a [T]>,
    options: SoftmaxOptions,
    x_map: RowMap,
    mask_map: Option<RowMap>,
    /// Output, or gradient of the input.
    y_map: RowMap,
    upstream_map: Option<RowMap>,
    queries: usize,
    /// Shape of the output with the axis kept.
    y_shape: Vec<usize>,
    upstream_shape: Vec<usize>,
    strategy: Option<Strategy>,
}

/// A call bound to buffers of its own.
pub(super) struct OnDevice {
    pub bound: BoundSoftmax,
    output: wgpu::Buffer,
    bytes: u64,
    accuracy: Accuracy,
}

impl BoundJob for OnDevice {
    fn recording(&self) -> &Recording {
        self.bound.recording()
    }

    fn outputs(&self) -> Vec<(&wgpu::Buffer, u64)> {
        vec![(&self.output, self.bytes)]
    }
}

/// What a strategy promises.
fn accuracy_of(strategy: Strategy) -> Accuracy {
    if strategy.rescales() {
        Accuracy::Relaxed
    } else {
        Accuracy::Standard
    }
}

fn one_a_row(shape: &[usize], axis: usize) -> (RowMap, Vec<usize>) {
    let mut reduced = shape.to_vec();
    reduced[axis] = 1;
    (RowMap::contiguous(&reduced, axis), reduced)
}

impl<'a, T: Element> Problem<'a, T> {
    pub(super) fn new(
        kind: SoftmaxKind,
        input: &SoftmaxInput<'a, T>,
        upstream: Option<&'a [T]>,
        options: &SoftmaxOptions,
    ) -> Result<Self> {
        let shape = input.shape;
        let axis = options.check(shape)?;
        check_len("x", input.x.len(), shape)?;
        // A shape with a 0 in it has no elements but may still claim any number of rows.
        let rows: Vec<usize> = (0..shape.len()).filter(|&d| d != axis).map(|d| shape[d]).collect();
        checked_count("the rows of x", &rows)?;
        let mask_map = match &input.mask {
            Some(mask) => {
                check_len("mask", mask.values.len(), mask.shape)?;
                Some(RowMap::broadcast("mask", mask.shape, shape, axis)?)
            }
            None => None,
        };
        let full = || (RowMap::contiguous(shape, axis), shape.to_vec());
        let output = || if kind.reduces() { one_a_row(shape, axis) } else { full() };
        let (y_map, y_shape) = if upstream.is_some() { full() } else { output() };
        let (upstream_map, upstream_shape) = match upstream {
            Some(values) => {
                let (map, shape) = output();
                check_len("upstream", values.len(), &shape)?;
                (Some(map), shape)
            }
            None => (None, Vec::new()),
        };
        let queries = if options.causal.is_some() { shape[axis - 1] } else { 0 };
        let x_map = RowMap::contiguous(shape, axis);
        Ok(Problem {
            kind,
            input: *input,
            upstream,
            options: *options,
            x_map,
            mask_map,
            y_map,
            upstream_map,
            queries,
            y_shape,
            upstream_shape,
            strategy: None,
        })
    }

    /// Forces a strategy on GPUs.
    pub(super) fn with_strategy(mut self, strategy: Option<Strategy>) -> Self {
        self.strategy = strategy;
        self
    }

    /// The oracle's answer.
    pub(super) fn expected(&self) -> Expected {
        if self.y_shape.contains(&0) {
            return Expected::default();
        }
        let (x, options) = (self.input.x, &self.options);
        match self.upstream.zip(self.upstream_map.as_ref()) {
            Some((g, g_map)) => reference::backward(
                self.kind,
                x,
                &self.x_map,
                self.mask(),
                g,
                g_map,
                options,
                self.queries,
                &self.y_map,
            ),
            None => reference::forward(
                self.kind,
                x,
                &self.x_map,
                self.mask(),
                options,
                self.queries,
                &self.y_map,
            ),
        }
    }

    fn mask(&self) -> Option<(&'a [T], &RowMap)> {
        self.input.mask.map(|m| m.values).zip(self.mask_map.as_ref())
    }

    /// Computes into `y`, which has the output's length.
    pub(super) fn write_on_cpu(&self, y: &mut [T]) {
        if y.is_empty() {
            return;
        }
        let (x, mask, options) = (self.input.x, self.mask(), &self.options);
        match self.upstream.zip(self.upstream_map.as_ref()) {
            Some((g, g_map)) => {
                cpu::backward(
                    self.kind,
                    x,
                    &self.x_map,
                    mask,
                    g,
                    g_map,
                    options,
                    self.queries,
                    y,
                    &self.y_map,
                );
            }
            None => cpu::forward(self.kind, x, &self.x_map, mask, options, self.queries, y, &self.y_map),
        }
    }

    /// Recomputes rows of `y` by the oracle and compares.
    fn compare(&self, how: CrossCheck, y: &[T], accuracy: Accuracy) -> Result<()> {
        if y.is_empty() {
            return Ok(());
        }
        let quantity = if self.upstream.is_some() {
            Quantity::Backward(self.kind)
        } else {
            Quantity::Forward(self.kind)
        };
        for row in checked_rows(how, self.x_map.rows()) {
            let expected = self.expected_row(row);
            let start = self.y_map.start(row);
            for (j, (&want, &magnitude)) in expected.values.iter().zip(&expected.magnitudes).enumerate() {
                let index = start + j * self.y_map.len_stride;
                let allowed = bound(quantity, T::DTYPE, accuracy, want, magnitude);
                super::bounds::check(&y[index..=index], &[want], &[allowed]).map_err(|m| Error::Mismatch {
                    kernel: quantity.name(),
                    index,
                    gpu: m.got,
                    cpu: m.want,
                    bound: m.bound,
                })?;
            }
        }
        Ok(())
    }

    fn expected_row(&self, row: usize) -> Expected {
        let z = reference::visible_row(self.input.x, &self.x_map, self.mask(), &self.options, self.queries, row);
        match self.upstream.zip(self.upstream_map.as_ref()) {
            Some((g, map)) => {
                let start = map.start(row);
                let g: Vec<f64> = (0..map.len)
                    .map(|j| f64::from(g[start + j * map.len_stride].to_f32()))
                    .collect();
                let scale = f64::from(self.options.scale);
                reference::backward_row(self.kind, &z, &g, self.x_map.len, scale, self.options.masked_rows)
            }
            None => reference::forward_row(self.kind, &z, self.x_map.len, self.options.masked_rows),
        }
    }
}

impl<T: Element> Job for Problem<'_, T> {
    type Output = Vec<T>;
    type Bound = OnDevice;

    fn name(&self) -> &'static str {
        self.kind.name()
    }

    fn on_cpu(&self) -> Result<Vec<T>> {
        let mut y = allocate(checked_count("the result", &self.y_shape)?)?;
        self.write_on_cpu(&mut y);
        Ok(y)
    }

    fn bind(&self, gpu: &Gpu) -> Result<OnDevice> {
        let context = Context::from_gpu(gpu.clone());
        let view = |tensor: &Tensor<T>| tensor.view().ok_or_else(|| gpu.lost_error());
        let x = view(&context.upload(self.input.x, self.input.shape)?)?;
        let mask = match &self.input.mask {
            Some(m) => Some(view(&context.upload(m.values, m.shape)?)?),
            None => None,
        };
        let y = view(&Tensor::on_gpu(gpu, &self.y_shape)?)?;
        let mut softmax = Softmax::new(gpu, self.kind, T::DTYPE, self.options)?;
        softmax.strategy = self.strategy;
        let accuracy = accuracy_of(softmax.strategy(&x, self.upstream.is_some())?);
        let output = y.buffer.clone();
        let bound = match self.upstream {
            Some(g) => {
                let upstream = view(&context.upload(g, &self.upstream_shape)?)?;
                softmax.bind_backward(&SoftmaxGradientViews {
                    x,
                    upstream,
                    dx: y,
                    mask,
                    workspace: None,
                })?
            }
            None => softmax.bind(&SoftmaxViews {
                x,
                y,
                mask,
                workspace: None,
            })?,
        };
        let bytes = (self.y_shape.iter().product::<usize>() * T::DTYPE.size()) as u64;
        Ok(OnDevice {
            bound,
            output,
            bytes,
            accuracy,
        })
    }

    fn decode(&self, outputs: &[&[u8]]) -> Result<Vec<T>> {
        Ok(elements(outputs[0]))
    }

    fn cross_check(&self, how: CrossCheck, y: &Vec<T>, bound: Option<&OnDevice>) -> Result<()> {
        self.compare(how, y, bound.map_or(Accuracy::Standard, |b| b.accuracy))
    }
}

/// Computes one of the three functions of host data. The result is in C order; that of logsumexp lacks the axis.
///
/// Blocks until the result is here. For the contract on numbers and rows that are not ordinary see the [module](super).
///
/// # Shapes
/// `input.x` has as many elements as `input.shape` says; the mask's shape broadcasts to it by NumPy's rules. Empty ones are valid.
///
/// # Cost
/// On a GPU: upload, one submission, readback, and buffers of its own; for more than one operation use
/// [`Context::chain`](crate::Context::chain). On the CPU path one pass over memory for rows that caches hold.
///
/// # Errors
/// [`Error::Shape`] for shapes and lengths that do not fit, [`Error::Option`] for a scale that is not finite, [`Error::Limit`]
/// beyond the device's limits, [`Error::DeviceLost`] and [`Error::Timeout`], and [`Error::Mismatch`] from a cross-check.
///
/// ```
/// use macheps::{Context, SoftmaxInput, SoftmaxKind, SoftmaxOptions};
/// let options = SoftmaxOptions { axis: 0, ..Default::default() };
/// let input = SoftmaxInput::new(&[0.0f32, 1.0, 0.0, 1.0], &[2, 2]);
/// let y = macheps::ops::softmax::forward(&Context::cpu(), SoftmaxKind::Softmax, &input, &options)?;
/// assert_eq!(y, [0.5; 4]);
/// # Ok::<(), macheps::Error>(())
/// ```
#[cfg(not(target_arch = "wasm32"))]
pub fn forward<T: Element>(
    context: &Context,
    kind: SoftmaxKind,
    input: &SoftmaxInput<'_, T>,
    options: &SoftmaxOptions,
) -> Result<Vec<T>> {
    job::run(&Problem::new(kind, input, None, options)?, context)
}

/// As `forward`, under any executor. On the CPU path it computes when first polled.
pub async fn forward_async<T: Element>(
    context: &Context,
    kind: SoftmaxKind,
    input: &SoftmaxInput<'_, T>,
    options: &SoftmaxOptions,
) -> Result<Vec<T>> {
    job::run_async(&Problem::new(kind, input, None, options)?, context).await
}

/// Gradient of `sum(upstream * forward(x))` with respect to `x`, in the input's shape. Blocks until it is here.
///
/// # Shapes
/// As [`forward`]; `upstream` has the output's shape, C-ordered: one value a row for logsumexp.
///
/// # Numerics
/// Within `8u` times the sum of the magnitudes of the gradient's terms, u = 2^-24. Entries that are hidden, and rows that
/// [`MaskedRows::Zero`](super::MaskedRows::Zero) speaks of, get 0.
///
/// # Cost
/// As [`forward`], with one more tensor read. The softmax is computed again from the input: nothing need be kept.
///
/// # Errors
/// Those of [`forward`].
///
/// ```
/// use macheps::{Context, SoftmaxInput, SoftmaxKind, SoftmaxOptions};
/// let input = SoftmaxInput::new(&[0.0f32, 0.0], &[2]);
/// let options = SoftmaxOptions::default();
/// let dx = macheps::ops::softmax::backward(&Context::cpu(), SoftmaxKind::Softmax, &input, &[1.0, 0.0], &options)?;
/// assert_eq!(dx, [0.25, -0.25]);
/// # Ok::<(), macheps::Error>(())
/// ```
#[cfg(not(target_arch = "wasm32"))]
pub fn backward<T: Element>(
    context: &Context,
    kind: SoftmaxKind,
    input: &SoftmaxInput<'_, T>,
    upstream: &[T],
    options: &SoftmaxOptions,
) -> Result<Vec<T>> {
    job::run(&Problem::new(kind, input, Some(upstream), options)?, context)
}

/// As `backward`, under any executor.
pub async fn backward_async<T: Element>(
    context: &Context,
    kind: SoftmaxKind,
    input: &SoftmaxInput<'_, T>,
    upstream: &[T],
    options: &SoftmaxOptions,
) -> Result<Vec<T>> {
    job::run_async(&Problem::new(kind, input, Some(upstream), options)?, context).await
}

macro_rules! plain {
    ($name:ident, $name_async:ident, $kind:ident, $doc:literal) => {
        #[doc = $doc]
        #[cfg(not(target_arch = "wasm32"))]
        pub fn $name<T: Element>(context: &Context, x: &[T], shape: &[usize]) -> Result<Vec<T>> {
            forward(
                context,
                SoftmaxKind::$kind,
                &SoftmaxInput::new(x, shape),
                &SoftmaxOptions::default(),
            )
        }

        #[doc = $doc]
        #[doc = "\n\nUnder any executor."]
        pub async fn $name_async<T: Element>(context: &Context, x: &[T], shape: &[usize]) -> Result<Vec<T>> {
            forward_async(
                context,
                SoftmaxKind::$kind,
                &SoftmaxInput::new(x, shape),
                &SoftmaxOptions::default(),
            )
            .await
        }
    };
}
plain!(
    softmax,
    softmax_async,
    Softmax,
    "Softmax along the last axis, in the input's shape; see the [module](crate::ops::softmax) for the contract."
);
plain!(
    log_softmax,
    log_softmax_async,
    LogSoftmax,
    "Log-softmax along the last axis, in the input's shape; see the [module](crate::ops::softmax) for the contract."
);
plain!(
    logsumexp,
    logsumexp_async,
    LogSumExp,
    "Log-sum-exp along the last axis, one value a row; see the [module](crate::ops::softmax) for the contract."
);

/// Log-sum-exp over several axes at once. Returns the values and their shape, with the axes kept as 1 if `keepdims`.
///
/// The axes may be negative; each may be named once, and there must be at least one. Axes that are not the last ones cost a
/// reordered copy on the host.
///
/// # Errors
/// [`Error::Shape`] for axes that are none, doubled or out of range, and those of [`forward`].
///
/// ```
/// let x = [0.0f32; 12];
/// let (y, shape) = macheps::ops::softmax::logsumexp_axes(&macheps::Context::cpu(), &x, &[2, 3, 2], &[0, -1], true)?;
/// assert_eq!((y, shape), (vec![4f32.ln(); 3], vec![1, 3, 1]));
/// # Ok::<(), macheps::Error>(())
/// ```
#[cfg(not(target_arch = "wasm32"))]
pub fn logsumexp_axes<T: Element>(
    context: &Context,
    x: &[T],
    shape: &[usize],
    axes: &[isize],
    keepdims: bool,
) -> Result<(Vec<T>, Vec<usize>)> {
    check_len("x", x.len(), shape)?;
    let mut reduced = vec![false; shape.len()];
    for &axis in axes {
        let axis = resolve_axis(axis, shape.len())?;
        if std::mem::replace(&mut reduced[axis], true) {
            return Err(Error::shape("axes", "each axis once", format!("{axes:?}")));
        }
    }
    if axes.is_empty() {
        return Err(Error::shape("axes", "at least one axis", "none"));
    }
    let kept: Vec<usize> = (0..shape.len()).filter(|&d| !reduced[d]).collect();
    let order: Vec<usize> = kept
        .iter()
        .copied()
        .chain((0..shape.len()).filter(|&d| reduced[d]))
        .collect();
    let sizes = |dims: &[usize]| dims.iter().map(|&d| shape[d]).collect::<Vec<_>>();
    let outer = checked_count("the rows of x", &sizes(&order[..kept.len()]))?;
    let inner = checked_count("a row of x", &sizes(&order[kept.len()..]))?;
    let rows;
    let values = if order.windows(2).all(|w| w[0] < w[1]) {
        x
    } else {
        rows = permute(x, shape, &order);
        &rows
    };
    let y = logsumexp(context, values, &[outer, inner])?;
    let shape = (0..shape.len())
        .filter(|&d| keepdims || !reduced[d])
        .map(|d| if reduced[d] { 1 } else { shape[d] })
        .collect();
    Ok((y, shape))
}

/// A C-ordered copy with its dimensions in another order.
#[cfg(not(target_arch = "wasm32"))]
fn permute<T: Copy>(x: &[T], shape: &[usize], order: &[usize]) -> Vec<T> {
    let own = crate::rows::contiguous_strides(shape);
    let sizes: Vec<usize> = order.iter().map(|&d| shape[d]).collect();
    let strides: Vec<usize> = order.iter().map(|&d| own[d]).collect();
    let mut index = vec![0usize; order.len()];
    let mut at = 0;
    let mut out = Vec::with_capacity(x.len());
    for _ in 0..x.len() {
        out.push(x[at]);
        for d in (0..index.len()).rev() {
            index[d] += 1;
            at += strides[d];
            if index[d] < sizes[d] {
                break;
            }
            at -= strides[d] * sizes[d];
            index[d] = 0;
        }
    }
    out
}

#[cfg(not(target_arch = "wasm32"))]
impl Chain<'_> {
    /// One of the softmax family from tensor to tensor. The result of logsumexp keeps the axis as 1.
    ///
    /// On a device it is recorded and runs with [`Chain::submit`]; with cross-check on, every operation is submitted and
    /// compared at once. The result is a new tensor.
    ///
    /// # Errors
    /// Those of [`Softmax::bind`]; [`Error::Unsupported`] for a tensor of another context.
    pub fn softmax<T: Element>(
        &mut self,
        kind: SoftmaxKind,
        x: &Tensor<T>,
        mask: Option<&Tensor<T>>,
        options: &SoftmaxOptions,
    ) -> Result<Tensor<T>> {
        self.softmax_call(kind, x, mask, None, options)
    }

    /// Gradient of a softmax operation with respect to its input `x`, from tensor to tensor. For logsumexp `upstream` may
    /// have the axis as 1 or lack it.
    ///
    /// # Errors
    /// Those of [`Chain::softmax`].
    pub fn softmax_backward<T: Element>(
        &mut self,
        kind: SoftmaxKind,
        x: &Tensor<T>,
        mask: Option<&Tensor<T>>,
        upstream: &Tensor<T>,
        options: &SoftmaxOptions,
    ) -> Result<Tensor<T>> {
        self.softmax_call(kind, x, mask, Some(upstream), options)
    }

    fn softmax_call<T: Element>(
        &mut self,
        kind: SoftmaxKind,
        x: &Tensor<T>,
        mask: Option<&Tensor<T>>,
        upstream: Option<&Tensor<T>>,
        options: &SoftmaxOptions,
    ) -> Result<Tensor<T>> {
        let axis = options.check(x.shape())?;
        let mut shape = x.shape().to_vec();
        if kind.reduces() && upstream.is_none() {
            shape[axis] = 1;
        }
        let elsewhere = || Error::Unsupported {
            what: "a tensor of another context".into(),
            reason: "upload it to the chain's context".into(),
        };
        let Some(gpu) = self.context().gpu().cloned() else {
            let host = |t: &'_ Tensor<T>| t.host().map(<[T]>::to_vec).ok_or_else(elsewhere);
            let values = x.host().ok_or_else(elsewhere)?;
            let mask_values = mask.map(host).transpose()?;
            let upstream = upstream.map(host).transpose()?;
            let mask = mask.zip(mask_values.as_deref()).map(|(m, values)| Mask {
                values,
                shape: m.shape(),
            });
            let input = SoftmaxInput {
                x: values,
                shape: x.shape(),
                mask,
            };
            let y = Problem::new(kind, &input, upstream.as_deref(), options)?.on_cpu()?;
            return Ok(Tensor::on_cpu(y, &shape));
        };
        let view = |t: &Tensor<T>| t.view().filter(|_| t.is_on(&gpu)).ok_or_else(elsewhere);
        let softmax = Softmax::new(&gpu, kind, T::DTYPE, *options)?;
        let y = Tensor::on_gpu(&gpu, &shape)?;
        let mask_view = mask.map(view).transpose()?;
        let bound = match upstream {
            Some(g) => softmax.bind_backward(&SoftmaxGradientViews {
                x: view(x)?,
                upstream: view(g)?,
                dx: view(&y)?,
                mask: mask_view,
                workspace: None,
            })?,
            None => softmax.bind(&SoftmaxViews {
                x: view(x)?,
                y: view(&y)?,
                mask: mask_view,
                workspace: None,
            })?,
        };
        self.record(&bound.into_recording());
        if self.context().cross_check() != CrossCheck::Off {
            self.flush()?;
            let values = x.download()?;
            let mask_values = mask.map(Tensor::download).transpose()?;
            let upstream_values = upstream.map(Tensor::download).transpose()?;
            let mask = mask.zip(mask_values.as_deref()).map(|(m, values)| Mask {
                values,
                shape: m.shape(),
            });
            let input = SoftmaxInput {
                x: &values,
                shape: x.shape(),
                mask,
            };
            let problem = Problem::new(kind, &input, upstream_values.as_deref(), options)?;
            let accuracy = accuracy_of(softmax.strategy(&view(x)?, upstream.is_some())?);
            problem.compare(self.context().cross_check(), &y.download()?, accuracy)?;
        }
        Ok(y)
    }
}
