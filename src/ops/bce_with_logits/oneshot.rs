//! One call from host data to host data, on a GPU or on the CPU path; and tensors on the device.

use super::reference::{Expected, Inputs};
use super::{BceOptions, BceViews, BceWithLogits, LossReduction, bounds, cpu};
use crate::accuracy::{MaxError, Mismatch, check};
use crate::context::{Context, CrossCheck};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::gpu::{BufferView, Gpu};
use crate::job::{self, Job, Simple, allocate, checked_rows, elements};
use crate::ops::elementwise::{Layout, broadcast_strides};
use crate::rows::{RowMap, contiguous_strides};
#[cfg(not(target_arch = "wasm32"))]
use crate::tensor::Chain;
use crate::tensor::{Tensor, check_len};

/// Elements that a cross-check takes at a time.
const CHECKED: usize = 256;

/// Weights in host memory.
#[derive(Clone, Copy, Debug)]
pub struct Weights<'a> {
    /// Their values in C order.
    pub values: &'a [f32],
    /// Their shape, which broadcasts to that of the logits by NumPy's rules.
    pub shape: &'a [usize],
}

/// Input of a one-shot in host memory.
#[derive(Clone, Copy, Debug)]
pub struct BceInput<'a, T> {
    /// Logits in C order.
    pub x: &'a [T],
    /// Targets in C order: 0, 1, or probabilities between.
    pub target: &'a [f32],
    /// Shape of both.
    pub shape: &'a [usize],
    /// Factor on the losses.
    pub weight: Option<Weights<'a>>,
    /// Factor on the part of the targets.
    pub pos_weight: Option<Weights<'a>>,
}

impl<'a, T> BceInput<'a, T> {
    /// Without weights.
    pub fn new(x: &'a [T], target: &'a [f32], shape: &'a [usize]) -> Self {
        BceInput {
            x,
            target,
            shape,
            weight: None,
            pos_weight: None,
        }
    }
}

/// Loss and gradient of the logits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BceOutput<T> {
    /// A loss for each element, or one for all.
    pub loss: Vec<f32>,
    /// The gradient, in the shape of the logits.
    pub grad: Vec<T>,
}

/// A checked call. Of the output that is not asked for, nothing is computed.
pub(super) struct Problem<'a, T: Element> {
    input: BceInput<'a, T>,
    options: BceOptions,
    upstream: Option<&'a [f32]>,
    loss: bool,
    grad: bool,
    count: usize,
    /// Of x, weight, pos_weight and upstream.
    layout: Layout,
}

impl<'a, T: Element> Problem<'a, T> {
    pub(super) fn new(
        input: &BceInput<'a, T>,
        upstream: Option<&'a [f32]>,
        options: &BceOptions,
        (loss, grad): (bool, bool),
    ) -> Result<Self> {
        let shape = input.shape;
        check_len("x", input.x.len(), shape)?;
        check_len("target", input.target.len(), shape)?;
        let strides = |what, weights: &Option<Weights<'a>>| match weights {
            None => Ok(vec![0; shape.len()]),
            Some(w) => {
                check_len(what, w.values.len(), w.shape)?;
                broadcast_strides(what, w.shape, &contiguous_strides(w.shape), shape)
            }
        };
        let (weight, pos_weight) = (
            strides("weight", &input.weight)?,
            strides("pos_weight", &input.pos_weight)?,
        );
        let each = options.reduction == LossReduction::None;
        if let Some(g) = upstream {
            if each {
                check_len("upstream", g.len(), shape)?;
            } else {
                check_len("upstream", g.len(), &[])?;
            }
        }
        let own = contiguous_strides(shape);
        let upstream_strides = if each { own.clone() } else { vec![0; shape.len()] };
        let lanes = [&own, &weight, &pos_weight, &upstream_strides].map(|s| (0, s.as_slice()));
        Ok(Problem {
            input: *input,
            options: *options,
            upstream,
            loss,
            grad,
            count: input.x.len(),
            layout: Layout::new(shape, &lanes),
        })
    }

    fn each(&self) -> bool {
        self.options.reduction == LossReduction::None
    }

    fn losses(&self) -> usize {
        match (self.loss, self.each()) {
            (false, _) => 0,
            (true, true) => self.count,
            (true, false) => 1,
        }
    }

    fn scale(&self) -> f64 {
        match self.options.reduction {
            LossReduction::Mean => 1.0 / self.count as f64,
            _ => 1.0,
        }
    }

    /// Computes into slices of the outputs' lengths.
    pub(super) fn write_on_cpu(&self, loss: &mut [f32], grad: &mut [T]) {
        let lane = |values: Option<&'a [f32]>, t| values.map(|v| (v, self.layout.rows(t)));
        let call = cpu::Call {
            x: self.input.x,
            target: self.input.target,
            len: self.layout.len,
            weight: lane(self.input.weight.map(|w| w.values), 1),
            pos_weight: lane(self.input.pos_weight.map(|w| w.values), 2),
            upstream: lane(self.upstream, 3),
            scale: self.scale(),
        };
        let grad = self.grad.then_some(grad);
        if self.loss && !self.each() {
            let sum = call.run(true, None, grad);
            loss[0] = if self.count == 0 && self.options.reduction == LossReduction::Mean {
                f32::NAN
            } else {
                sum
            };
        } else {
            call.run(false, self.loss.then_some(loss), grad);
        }
    }

    /// The inputs of an element and the upstream gradient of its loss.
    fn inputs(&self, maps: &[RowMap; 3], index: usize) -> (Inputs, f64) {
        let (row, j) = (index / self.layout.len, index % self.layout.len);
        let at = |values: Option<&[f32]>, map: &RowMap| {
            values.map_or(1.0, |v| f64::from(v[map.start(row) + j * map.len_stride]))
        };
        let inputs = Inputs {
            x: f64::from(self.input.x[index].to_f32()),
            target: f64::from(self.input.target[index]),
            weight: at(self.input.weight.map(|w| w.values), &maps[0]),
            pos_weight: at(self.input.pos_weight.map(|w| w.values), &maps[1]),
        };
        (inputs, at(self.upstream, &maps[2]) * self.scale())
    }

    fn maps(&self) -> [RowMap; 3] {
        [1, 2, 3].map(|t| self.layout.rows(t))
    }

    /// True losses and the errors allowed.
    pub(super) fn expected_losses(&self) -> (Vec<f64>, Vec<f64>) {
        let maps = self.maps();
        let all = (0..self.count).map(|i| self.inputs(&maps, i).0.loss());
        if self.each() {
            return all
                .map(|e| (e.value, bounds::loss(false, e.value, e.magnitude, e.lost)))
                .unzip();
        }
        let mut sum = Expected::default();
        for e in all {
            sum.value += e.value;
            sum.magnitude += e.magnitude;
            sum.lost += e.lost;
        }
        if self.count == 0 && self.options.reduction == LossReduction::Mean {
            sum.value = f64::NAN;
        }
        let scale = if self.count == 0 { 1.0 } else { self.scale() };
        let value = sum.value * scale;
        let bound = bounds::loss(true, value, sum.magnitude * scale, sum.lost * scale);
        (vec![value], vec![bound])
    }

    /// True gradients of a range of elements and the errors allowed.
    pub(super) fn expected_gradients(&self, range: std::ops::Range<usize>) -> (Vec<f64>, Vec<f64>) {
        let maps = self.maps();
        range
            .map(|i| {
                let (inputs, upstream) = self.inputs(&maps, i);
                let e = inputs.gradient(upstream);
                (e.value, bounds::gradient(T::DTYPE, e.value, e.magnitude, e.lost))
            })
            .unzip()
    }

    fn compare(&self, how: CrossCheck, output: &BceOutput<T>) -> Result<()> {
        if how == CrossCheck::Off {
            return Ok(());
        }
        if self.loss {
            let (want, bounds) = self.expected_losses();
            check(&output.loss, &want, &bounds).map_err(|m| mismatch("bce_with_logits", 0, m))?;
        }
        if self.grad {
            for part in checked_rows(how, self.count.div_ceil(CHECKED)) {
                let range = part * CHECKED..((part + 1) * CHECKED).min(self.count);
                let (want, bounds) = self.expected_gradients(range.clone());
                check(&output.grad[range.clone()], &want, &bounds)
                    .map_err(|m| mismatch("bce_with_logits_backward", range.start, m))?;
            }
        }
        Ok(())
    }
}

fn mismatch(kernel: &'static str, begin: usize, m: Mismatch) -> Error {
    Error::Mismatch {
        kernel,
        index: begin + m.index,
        gpu: m.got,
        cpu: m.want,
        bound: m.bound,
    }
}

impl<T: Element> Job for Problem<'_, T> {
    type Output = BceOutput<T>;
    type Bound = Simple;

    fn name(&self) -> &'static str {
        if self.loss {
            "bce_with_logits"
        } else {
            "bce_with_logits_backward"
        }
    }

    fn on_cpu(&self) -> Result<BceOutput<T>> {
        let mut output = BceOutput {
            loss: allocate(self.losses())?,
            grad: allocate(if self.grad { self.count } else { 0 })?,
        };
        self.write_on_cpu(&mut output.loss, &mut output.grad);
        Ok(output)
    }

    fn bind(&self, gpu: &Gpu) -> Result<Simple> {
        let context = Context::from_gpu(gpu.clone());
        let shape = self.input.shape;
        let floats = |values: &[f32], shape: &[usize]| -> Result<BufferView> {
            context.upload(values, shape)?.view().ok_or_else(|| gpu.lost_error())
        };
        let x = context.upload(self.input.x, shape)?;
        let mut views = BceViews::new(
            x.view().ok_or_else(|| gpu.lost_error())?,
            floats(self.input.target, shape)?,
        );
        let weights = |w: &Option<Weights<'_>>| w.map(|w| floats(w.values, w.shape)).transpose();
        views.weight = weights(&self.input.weight)?;
        views.pos_weight = weights(&self.input.pos_weight)?;
        let mut outputs = Vec::new();
        if self.grad {
            let upstream_shape = if self.each() { shape } else { &[] };
            views.upstream = self.upstream.map(|g| floats(g, upstream_shape)).transpose()?;
        }
        if self.loss {
            let loss_shape = if self.each() { shape } else { &[] };
            views.loss = Tensor::<f32>::on_gpu(gpu, loss_shape)?.view();
            outputs.extend(
                views
                    .loss
                    .as_ref()
                    .map(|v| (v.buffer.clone(), self.losses() as u64 * 4)),
            );
        }
        if self.grad {
            // In place: no third tensor of this size.
            views.grad = Some(views.x.clone());
            outputs.push((views.x.buffer.clone(), (self.count * T::DTYPE.size()) as u64));
        }
        let bce = BceWithLogits::new(gpu, T::DTYPE, self.options);
        Ok(Simple {
            recording: bce.bind(&views)?.into_recording(),
            outputs,
        })
    }

    fn decode(&self, outputs: &[&[u8]]) -> Result<BceOutput<T>> {
        let mut outputs = outputs.iter();
        let mut next = |wanted: bool| {
            if wanted {
                outputs.next().copied().unwrap_or_default()
            } else {
                &[]
            }
        };
        Ok(BceOutput {
            loss: elements(next(self.loss)),
            grad: elements(next(self.grad)),
        })
    }

    fn cross_check(&self, how: CrossCheck, output: &BceOutput<T>, _: Option<&Simple>) -> Result<()> {
        self.compare(how, output)
    }
}

/// Binary cross-entropy of host data: a loss for each element, or one value for mean and sum. Blocks until it is here. For the
/// contract on numbers see the [module](super).
///
/// # Shapes
/// `input.x` and `input.target` have as many elements as `input.shape` says; weights broadcast to it. Empty ones are valid.
///
/// # Cost
/// On a GPU: upload, one submission, readback, and buffers of its own. On the CPU path one pass over memory.
///
/// # Errors
/// [`Error::Shape`] for shapes and lengths that do not fit, [`Error::Limit`] beyond the device's limits, [`Error::DeviceLost`] and
/// [`Error::Timeout`], and [`Error::Mismatch`] from a cross-check.
///
/// ```
/// use macheps::{BceInput, BceOptions, Context};
/// let input = BceInput::new(&[0.0f32, 100.0], &[1.0, 1.0], &[2]);
/// let loss = macheps::ops::bce_with_logits::forward(&Context::cpu(), &input, &BceOptions::default())?;
/// assert_eq!(loss, [2f32.ln() / 2.0]);
/// # Ok::<(), macheps::Error>(())
/// ```
#[cfg(not(target_arch = "wasm32"))]
pub fn forward<T: Element>(context: &Context, input: &BceInput<'_, T>, options: &BceOptions) -> Result<Vec<f32>> {
    Ok(job::run(&Problem::new(input, None, options, (true, false))?, context)?.loss)
}

/// As `forward`, under any executor.
pub async fn forward_async<T: Element>(
    context: &Context,
    input: &BceInput<'_, T>,
    options: &BceOptions,
) -> Result<Vec<f32>> {
    let problem = Problem::new(input, None, options, (true, false))?;
    Ok(job::run_async(&problem, context).await?.loss)
}

/// Gradient of `sum(upstream * forward(x))` with respect to the logits. Blocks until it is here. `upstream` has a value for each
/// loss; absent, it is 1.
///
/// # Errors
/// Those of [`forward`].
///
/// ```
/// use macheps::{BceInput, BceOptions, Context, LossReduction};
/// let input = BceInput::new(&[0.0f32, 0.0], &[1.0, 0.0], &[2]);
/// let options = BceOptions { reduction: LossReduction::Sum };
/// let grad = macheps::ops::bce_with_logits::backward(&Context::cpu(), &input, Some(&[4.0]), &options)?;
/// assert_eq!(grad, [-2.0, 2.0]);
/// # Ok::<(), macheps::Error>(())
/// ```
#[cfg(not(target_arch = "wasm32"))]
pub fn backward<T: Element>(
    context: &Context,
    input: &BceInput<'_, T>,
    upstream: Option<&[f32]>,
    options: &BceOptions,
) -> Result<Vec<T>> {
    Ok(job::run(&Problem::new(input, upstream, options, (false, true))?, context)?.grad)
}

/// As `backward`, under any executor.
pub async fn backward_async<T: Element>(
    context: &Context,
    input: &BceInput<'_, T>,
    upstream: Option<&[f32]>,
    options: &BceOptions,
) -> Result<Vec<T>> {
    let problem = Problem::new(input, upstream, options, (false, true))?;
    Ok(job::run_async(&problem, context).await?.grad)
}

/// Loss and gradient in one reading of the input. Blocks until they are here.
///
/// # Errors
/// Those of [`forward`].
///
/// ```
/// use macheps::{BceInput, BceOptions, Context};
/// let input = BceInput::new(&[0.0f32], &[1.0], &[1]);
/// let both = macheps::ops::bce_with_logits::forward_backward(&Context::cpu(), &input, None, &BceOptions::default())?;
/// assert_eq!((both.loss, both.grad), (vec![2f32.ln()], vec![-0.5]));
/// # Ok::<(), macheps::Error>(())
/// ```
#[cfg(not(target_arch = "wasm32"))]
pub fn forward_backward<T: Element>(
    context: &Context,
    input: &BceInput<'_, T>,
    upstream: Option<&[f32]>,
    options: &BceOptions,
) -> Result<BceOutput<T>> {
    job::run(&Problem::new(input, upstream, options, (true, true))?, context)
}

/// As `forward_backward`, under any executor.
pub async fn forward_backward_async<T: Element>(
    context: &Context,
    input: &BceInput<'_, T>,
    upstream: Option<&[f32]>,
    options: &BceOptions,
) -> Result<BceOutput<T>> {
    job::run_async(&Problem::new(input, upstream, options, (true, true))?, context).await
}

/// Holds losses to the oracle within the stated bound: what `macheps run --check` does.
///
/// # Errors
/// [`Error::Shape`] for shapes and lengths that do not fit.
pub fn check_losses<T: Element>(
    input: &BceInput<'_, T>,
    options: &BceOptions,
    losses: &[f32],
) -> Result<Result<MaxError, Mismatch>> {
    let (want, bounds) = Problem::new(input, None, options, (true, false))?.expected_losses();
    Ok(check(losses, &want, &bounds))
}

/// The same for gradients.
///
/// # Errors
/// Those of [`check_losses`].
pub fn check_gradients<T: Element>(
    input: &BceInput<'_, T>,
    upstream: Option<&[f32]>,
    options: &BceOptions,
    gradients: &[T],
) -> Result<Result<MaxError, Mismatch>> {
    let problem = Problem::new(input, upstream, options, (false, true))?;
    let (want, bounds) = problem.expected_gradients(0..input.x.len());
    Ok(check(gradients, &want, &bounds))
}

/// Input of [`Chain::bce_with_logits`] and its gradient.
#[cfg(not(target_arch = "wasm32"))]
#[derive(Clone, Copy, Debug)]
pub struct BceTensors<'a, T: Element> {
    /// Logits.
    pub x: &'a Tensor<T>,
    /// Targets, of the shape of the logits.
    pub target: &'a Tensor<f32>,
    /// Factor on the losses; broadcasts.
    pub weight: Option<&'a Tensor<f32>>,
    /// Factor on the part of the targets; broadcasts.
    pub pos_weight: Option<&'a Tensor<f32>>,
    /// Gradient of the loss, of its shape ([] for means and sums); 1 if absent.
    pub upstream: Option<&'a Tensor<f32>>,
}

#[cfg(not(target_arch = "wasm32"))]
fn elsewhere() -> Error {
    Error::Unsupported {
        what: "a tensor of another context".into(),
        reason: "upload it to the chain's context".into(),
    }
}

/// The values of tensors in host memory.
#[cfg(not(target_arch = "wasm32"))]
struct HostCopy<T> {
    x: Vec<T>,
    target: Vec<f32>,
    weight: Option<(Vec<f32>, Vec<usize>)>,
    pos_weight: Option<(Vec<f32>, Vec<usize>)>,
    upstream: Option<Vec<f32>>,
}

#[cfg(not(target_arch = "wasm32"))]
impl<T: Element> HostCopy<T> {
    /// With `here`, tensors must be in host memory already.
    fn new(tensors: &BceTensors<'_, T>, here: bool) -> Result<Self> {
        fn values<E: Element>(tensor: &Tensor<E>, here: bool) -> Result<Vec<E>> {
            if here && tensor.host().is_none() {
                return Err(elsewhere());
            }
            tensor.download()
        }
        let weights = |w: Option<&Tensor<f32>>| {
            w.map(|w| Ok::<_, Error>((values(w, here)?, w.shape().to_vec())))
                .transpose()
        };
        Ok(HostCopy {
            x: values(tensors.x, here)?,
            target: values(tensors.target, here)?,
            weight: weights(tensors.weight)?,
            pos_weight: weights(tensors.pos_weight)?,
            upstream: tensors.upstream.map(|g| values(g, here)).transpose()?,
        })
    }

    fn input<'a>(&'a self, shape: &'a [usize]) -> BceInput<'a, T> {
        fn weights(w: &Option<(Vec<f32>, Vec<usize>)>) -> Option<Weights<'_>> {
            w.as_ref().map(|(values, shape)| Weights { values, shape })
        }
        BceInput {
            x: &self.x,
            target: &self.target,
            shape,
            weight: weights(&self.weight),
            pos_weight: weights(&self.pos_weight),
        }
    }
}

#[cfg(not(target_arch = "wasm32"))]
impl Chain<'_> {
    /// Binary cross-entropy from tensors to a tensor: a loss for each element, or one of shape [] for means and sums.
    ///
    /// On a device it is recorded and runs with [`Chain::submit`]; with cross-check on, every operation is submitted and
    /// compared at once.
    ///
    /// # Errors
    /// Those of [`BceWithLogits::bind`]; [`Error::Unsupported`] for a tensor of another context.
    pub fn bce_with_logits<T: Element>(
        &mut self,
        input: &BceTensors<'_, T>,
        options: &BceOptions,
    ) -> Result<Tensor<f32>> {
        Ok(self.bce_call(input, options, (true, false))?.0)
    }

    /// Loss and gradient of the logits in one reading.
    ///
    /// # Errors
    /// Those of [`Chain::bce_with_logits`].
    ///
    /// ```
    /// use macheps::{BceOptions, BceTensors, Context};
    /// let ctx = Context::cpu();
    /// let (x, target) = (ctx.upload(&[0.0f32; 4], &[2, 2])?, ctx.upload(&[1.0f32; 4], &[2, 2])?);
    /// let input = BceTensors { x: &x, target: &target, weight: None, pos_weight: None, upstream: None };
    /// let mut chain = ctx.chain();
    /// let (loss, grad) = chain.bce_with_logits_gradient(&input, &BceOptions::default())?;
    /// chain.submit()?;
    /// assert_eq!((loss.download()?, grad.download()?), (vec![2f32.ln()], vec![-0.125; 4]));
    /// # Ok::<(), macheps::Error>(())
    /// ```
    pub fn bce_with_logits_gradient<T: Element>(
        &mut self,
        input: &BceTensors<'_, T>,
        options: &BceOptions,
    ) -> Result<(Tensor<f32>, Tensor<T>)> {
        self.bce_call(input, options, (true, true))
    }

    fn bce_call<T: Element>(
        &mut self,
        input: &BceTensors<'_, T>,
        options: &BceOptions,
        wanted: (bool, bool),
    ) -> Result<(Tensor<f32>, Tensor<T>)> {
        let shape = input.x.shape();
        let each = options.reduction == LossReduction::None;
        let loss_shape = if each { shape } else { &[] };
        if input.target.shape() != shape {
            return Err(Error::shape(
                "shape of target",
                format!("{shape:?}"),
                format!("{:?}", input.target.shape()),
            ));
        }
        if let Some(g) = input.upstream.filter(|g| g.shape() != loss_shape) {
            return Err(Error::shape(
                "shape of upstream",
                format!("{loss_shape:?}"),
                format!("{:?}", g.shape()),
            ));
        }
        let grad_shape: &[usize] = if wanted.1 { shape } else { &[0] };
        let Some(gpu) = self.context().gpu().cloned() else {
            let host = HostCopy::new(input, true)?;
            let output = Problem::new(&host.input(shape), host.upstream.as_deref(), options, wanted)?.on_cpu()?;
            return Ok((
                Tensor::on_cpu(output.loss, loss_shape),
                Tensor::on_cpu(output.grad, grad_shape),
            ));
        };
        let view = |t: &Tensor<f32>| t.view().filter(|_| t.is_on(&gpu)).ok_or_else(elsewhere);
        let x = input.x.view().filter(|_| input.x.is_on(&gpu)).ok_or_else(elsewhere)?;
        let loss = Tensor::on_gpu(&gpu, loss_shape)?;
        let grad = Tensor::on_gpu(&gpu, grad_shape)?;
        let mut views = BceViews::new(x, view(input.target)?);
        views.weight = input.weight.map(view).transpose()?;
        views.pos_weight = input.pos_weight.map(view).transpose()?;
        views.upstream = input.upstream.map(view).transpose()?;
        views.loss = loss.view();
        views.grad = grad.view().filter(|_| wanted.1);
        let bound = BceWithLogits::new(&gpu, T::DTYPE, *options).bind(&views)?;
        self.record(&bound.into_recording());
        if self.context().cross_check() != CrossCheck::Off {
            self.flush()?;
            let output = BceOutput {
                loss: loss.download()?,
                grad: grad.download()?,
            };
            let how = self.context().cross_check();
            let host = HostCopy::new(input, false)?;
            Problem::new(&host.input(shape), host.upstream.as_deref(), options, wanted)?.compare(how, &output)?;
        }
        Ok((loss, grad))
    }
}
