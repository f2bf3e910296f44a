//! One call from host data to host data, on a GPU or on the CPU path.

use super::bounds::{Allowed, Mismatch};
use super::cpu::{self, Place};
use super::embed::bind_problem;
use super::input::{Checked, CrossEntropyInput};
use super::kernels;
use super::options::{CrossEntropyOptions, LossKind, LossReduction};
use super::reference;
use crate::context::{Context, CrossCheck};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Recording};
use crate::job::{self, BoundJob, Job, Simple, allocate, append, checked_rows, elements};
use crate::ops::softmax::{SoftmaxKind, SoftmaxOptions};
#[cfg(not(target_arch = "wasm32"))]
use crate::tensor::check_len;
use std::borrow::Cow;
use std::ops::Range;

/// What a call is to give beside the losses.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted<'a> {
    /// The log-softmax of the input; not for nll_loss.
    pub log_prob: bool,
    /// The gradient with respect to the input.
    pub gradient: bool,
    /// The gradient of the losses that it is multiplied by: one value a row without reduction, else one. All 1 if there is none.
    pub upstream: Option<&'a [f32]>,
}

/// What a call gives.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CrossEntropyOutput<T> {
    /// The losses: one a row in C order, or one.
    pub loss: Vec<f32>,
    /// The log-softmax in the input's shape, where it was wanted.
    pub log_prob: Option<Vec<T>>,
    /// The gradient in the input's shape, where it was wanted.
    pub gradient: Option<Vec<T>>,
}

/// A checked call.
pub(super) struct Problem<'a, T: Element> {
    pub p: Checked<'a, T>,
    /// One value for each loss, where the gradient is wanted.
    pub upstream: Option<Cow<'a, [f32]>>,
    pub log_prob: bool,
}

impl<'a, T: Element> Problem<'a, T> {
    pub(super) fn new(
        kind: LossKind,
        input: &CrossEntropyInput<'a, T>,
        wanted: &Wanted<'a>,
        options: &CrossEntropyOptions,
    ) -> Result<Self> {
        let p = Checked::new(kind, input, options)?;
        if wanted.log_prob && kind == LossKind::NllLoss {
            return Err(Error::Unsupported {
                what: "log_prob of nll_loss".into(),
                reason: "its input holds log-probabilities already".into(),
            });
        }
        let upstream = match wanted.upstream {
            _ if !wanted.gradient => None,
            Some(upstream) => {
                p.check_upstream(upstream)?;
                Some(Cow::Borrowed(upstream))
            }
            None => {
                let mut ones = allocate::<f32>(p.losses())?;
                ones.fill(1.0);
                Some(Cow::Owned(ones))
            }
        };
        Ok(Problem {
            p,
            upstream,
            log_prob: wanted.log_prob,
        })
    }

    /// Computes the losses, and the gradient into `gradient`, which has the input's length.
    pub(super) fn write_on_cpu(&self, gradient: Option<&mut [T]>) -> Vec<f32> {
        let upstream = self.upstream.as_deref().filter(|_| gradient.is_some());
        cpu::run(&self.p, upstream, gradient, Place::Apart)
    }

    fn log_prob_on_cpu(&self) -> Result<Vec<T>> {
        let (p, kind) = (&self.p, SoftmaxKind::LogSoftmax);
        let mut y = allocate(p.x.len())?;
        if !y.is_empty() {
            let options = SoftmaxOptions::default();
            crate::ops::softmax::cpu::forward(kind, p.x, &p.map, None, &options, 0, &mut y, &p.map);
        }
        Ok(y)
    }

    /// Holds rows of a tensor of the input's shape to the oracle.
    fn compare_rows(
        &self,
        name: &'static str,
        how: CrossCheck,
        values: &[T],
        expected: impl Fn(usize) -> Allowed,
    ) -> Result<()> {
        let map = &self.p.map;
        if values.is_empty() {
            return Ok(());
        }
        for row in checked_rows(how, self.p.rows) {
            let start = map.start(row);
            let got: Vec<T> = (0..map.len).map(|j| values[start + j * map.len_stride]).collect();
            expected(row)
                .check(&got)
                .map_err(|m| Mismatch {
                    index: start + m.index * map.len_stride,
                    ..m
                })
                .map_err(|m| mismatch(name, &m))?;
        }
        Ok(())
    }
}

fn mismatch(kernel: &'static str, m: &Mismatch) -> Error {
    Error::Mismatch {
        kernel,
        index: m.index,
        gpu: m.got,
        cpu: m.want,
        bound: m.bound,
    }
}

/// A call, or the rows of some indices of the first dimension, bound to buffers of its own.
pub(super) struct Bound {
    pub part: Simple,
    indices: Range<usize>,
}

impl BoundJob for Bound {
    fn recording(&self) -> &Recording {
        self.part.recording()
    }

    fn outputs(&self) -> Vec<(&wgpu::Buffer, u64)> {
        self.part.outputs()
    }
}

impl<T: Element> Problem<'_, T> {
    /// Bytes of the logits of so many indices of the first dimension, and of all that comes of them, which is read back together.
    fn bytes(&self, batch: usize) -> u64 {
        let rows = (batch * self.p.inner) as u64;
        let x = rows * (self.p.classes * T::DTYPE.size()) as u64;
        let tensors = u64::from(self.log_prob) + u64::from(self.upstream.is_some());
        x.max(tensors * x.next_multiple_of(4) + rows * 4)
    }

    /// Indices of the first dimension that are done together: all of them if the device's buffers hold that.
    fn batch(&self, gpu: &Gpu) -> Result<usize> {
        let (p, most) = (&self.p, gpu.capabilities().max_buffer);
        let fits = |batch: usize| -> Result<bool> {
            let mut map = p.map.clone();
            if let Some(first) = map.dims.first_mut() {
                first.size = batch;
            }
            Ok(self.bytes(batch) <= most && kernels::workspace_fits(gpu, &map)?)
        };
        let mut batch = p.batch();
        // Halves lose little against the largest number that fits.
        while batch > 1 && !fits(batch)? {
            batch = batch.div_ceil(2);
        }
        if batch == 1 && self.bytes(1) > most {
            return Err(Error::Limit {
                what: match p.inner {
                    1 => "bytes of one row, or of its results, in one buffer",
                    _ => "bytes of one index of the first dimension, or of its results, in one buffer",
                },
                need: self.bytes(1),
                have: most,
            });
        }
        Ok(batch)
    }

    fn bind_part(&self, gpu: &Gpu, indices: Range<usize>) -> Result<Bound> {
        let mean = self.p.options.reduction == LossReduction::Mean;
        let divisors = mean.then(|| cpu::divisors(&self.p).into());
        let upstream = self.upstream.as_deref().map(|all| match self.p.options.reduction {
            LossReduction::None => &all[indices.start * self.p.inner..indices.end * self.p.inner],
            LossReduction::Mean | LossReduction::Sum => all,
        });
        let part = bind_problem(gpu, &self.p.part(indices.clone()), upstream, self.log_prob, divisors)?;
        Ok(Bound { part, indices })
    }
}

impl<T: Element> Job for Problem<'_, T> {
    type Output = CrossEntropyOutput<T>;
    type Bound = Bound;

    fn name(&self) -> &'static str {
        self.p.kind.name()
    }

    fn on_cpu(&self) -> Result<CrossEntropyOutput<T>> {
        let mut gradient = match self.upstream {
            Some(_) => Some(allocate(self.p.x.len())?),
            None => None,
        };
        let loss = self.write_on_cpu(gradient.as_deref_mut());
        let log_prob = if self.log_prob {
            Some(self.log_prob_on_cpu()?)
        } else {
            None
        };
        Ok(CrossEntropyOutput {
            loss,
            log_prob,
            gradient,
        })
    }

    fn bind(&self, gpu: &Gpu) -> Result<Bound> {
        let (all, batch) = (self.p.batch(), self.batch(gpu)?);
        if batch < all {
            return self.bind_part(gpu, 0..batch);
        }
        Ok(Bound {
            part: bind_problem(gpu, &self.p, self.upstream.as_deref(), self.log_prob, None)?,
            indices: 0..all,
        })
    }

    fn bind_next(&self, gpu: &Gpu, bound: &mut Bound) -> Result<bool> {
        let Range { start, end } = bound.indices;
        let next = end..self.p.batch().min(end + (end - start));
        if next.is_empty() {
            return Ok(false);
        }
        // The buffers of the part that is done make room first.
        bound.part = Simple::default();
        *bound = self.bind_part(gpu, next)?;
        Ok(true)
    }

    /// Parts of a mean are divided by what all rows are divided by.
    fn join(&self, parts: Vec<CrossEntropyOutput<T>>) -> Result<CrossEntropyOutput<T>> {
        let mut all = CrossEntropyOutput {
            loss: Vec::new(),
            log_prob: self.log_prob.then(Vec::new),
            gradient: self.upstream.is_some().then(Vec::new),
        };
        for part in parts {
            all.loss.extend(part.loss);
            for (all, part) in [(&mut all.log_prob, part.log_prob), (&mut all.gradient, part.gradient)] {
                if let Some((all, part)) = all.as_mut().zip(part) {
                    append(all, part, self.p.x.len())?;
                }
            }
        }
        if self.p.options.reduction != LossReduction::None {
            let sum: f64 = all.loss.iter().copied().map(f64::from).sum();
            all.loss = vec![cpu::canonical(sum)];
        }
        Ok(all)
    }

    fn decode(&self, outputs: &[&[u8]]) -> Result<CrossEntropyOutput<T>> {
        let mut rest = outputs.iter();
        let mut next = || rest.next().copied().unwrap_or_default();
        Ok(CrossEntropyOutput {
            loss: elements(next()),
            log_prob: self.log_prob.then(|| elements(next())),
            gradient: self.upstream.is_some().then(|| elements(next())),
        })
    }

    fn cross_check(&self, how: CrossCheck, output: &CrossEntropyOutput<T>, _bound: Option<&Bound>) -> Result<()> {
        if how == CrossCheck::Off {
            return Ok(());
        }
        let (p, name) = (&self.p, self.p.kind.name());
        if p.options.reduction == LossReduction::None {
            for row in checked_rows(how, p.rows) {
                let expected = super::bounds::losses(p, &[reference::row_loss(p, row)]);
                expected
                    .check(&output.loss[row..=row])
                    .map_err(|m| mismatch(name, &Mismatch { index: row, ..m }))?;
            }
        } else {
            // All rows have a part in it.
            reference::losses(p)
                .check(&output.loss)
                .map_err(|m| mismatch(name, &m))?;
        }
        if let Some(values) = &output.log_prob {
            self.compare_rows("log_prob of cross_entropy", how, values, |row| {
                reference::log_prob_row(p, row)
            })?;
        }
        if let Some((values, upstream)) = output.gradient.as_ref().zip(self.upstream.as_deref()) {
            let totals = reference::Totals::new(p);
            let name = match p.kind {
                LossKind::CrossEntropy => "cross_entropy_backward",
                LossKind::NllLoss => "nll_loss_backward",
            };
            self.compare_rows(name, how, values, |row| {
                reference::gradient_row(p, &totals, upstream, row)
            })?;
        }
        Ok(())
    }
}

/// Computes losses over classes and whatever else is wanted, in one go.
///
/// # Errors
/// Those of [`cross_entropy`], and [`Error::Unsupported`] for log-probabilities of nll_loss.
///
/// ```
/// use macheps::ops::cross_entropy::{self, CrossEntropyInput, CrossEntropyOptions, LossKind, Wanted};
/// let input = CrossEntropyInput::new(&[0.0f32, 0.0], &[1, 2], &[1i64]);
/// let wanted = Wanted { log_prob: true, gradient: true, upstream: Some(&[2.0]) };
/// let options = CrossEntropyOptions::default();
/// let out = cross_entropy::compute(&macheps::Context::cpu(), LossKind::CrossEntropy, &input, &wanted, &options)?;
/// assert_eq!(out.log_prob, Some(vec![-(2f32.ln()); 2]));
/// assert_eq!(out.gradient, Some(vec![1.0, -1.0]));
/// # Ok::<(), macheps::Error>(())
/// ```
#[cfg(not(target_arch = "wasm32"))]
pub fn compute<T: Element>(
    context: &Context,
    kind: LossKind,
    input: &CrossEntropyInput<'_, T>,
    wanted: &Wanted<'_>,
    options: &CrossEntropyOptions,
) -> Result<CrossEntropyOutput<T>> {
    job::run(&Problem::new(kind, input, wanted, options)?, context)
}

/// As `compute`, under any executor.
pub async fn compute_async<T: Element>(
    context: &Context,
    kind: LossKind,
    input: &CrossEntropyInput<'_, T>,
    wanted: &Wanted<'_>,
    options: &CrossEntropyOptions,
) -> Result<CrossEntropyOutput<T>> {
    job::run_async(&Problem::new(kind, input, wanted, options)?, context).await
}

/// Losses, and the gradient in the place of the logits: `x` is read and written over. `input.x` is not looked at and may be empty.
///
/// `upstream` is as in [`Wanted::upstream`].
///
/// # Cost
/// As [`cross_entropy_with_gradient`], without a second tensor in host memory on the CPU path.
///
/// # Errors
/// Those of [`cross_entropy`]; `x` is as it was then.
///
/// ```
/// use macheps::ops::cross_entropy::{self, CrossEntropyInput, CrossEntropyOptions, LossKind};
/// let (mut x, options) = ([0.0f32, 0.0], CrossEntropyOptions::default());
/// let input = CrossEntropyInput::new(&[], &[1, 2], &[1i64]);
/// let ctx = macheps::Context::cpu();
/// let loss = cross_entropy::gradient_in_place(&ctx, LossKind::CrossEntropy, &mut x, &input, None, &options)?;
/// assert_eq!((loss, x), (vec![2f32.ln()], [0.5, -0.5]));
/// # Ok::<(), macheps::Error>(())
/// ```
#[cfg(not(target_arch = "wasm32"))]
pub fn gradient_in_place<T: Element>(
    context: &Context,
    kind: LossKind,
    x: &mut [T],
    input: &CrossEntropyInput<'_, T>,
    upstream: Option<&[f32]>,
    options: &CrossEntropyOptions,
) -> Result<Vec<f32>> {
    if context.gpu().is_some() {
        let wanted = Wanted {
            gradient: true,
            upstream,
            ..Wanted::default()
        };
        let out = compute(context, kind, &CrossEntropyInput { x: &*x, ..*input }, &wanted, options)?;
        if let Some(gradient) = out.gradient {
            x.copy_from_slice(&gradient);
        }
        return Ok(out.loss);
    }
    check_len("x", x.len(), input.shape)?;
    let p = Checked::without_x(kind, input, options)?;
    let ones;
    let upstream = match upstream {
        Some(upstream) => upstream,
        None => {
            ones = vec![1.0; p.losses()];
            &ones
        }
    };
    p.check_upstream(upstream)?;
    Ok(cpu::run(&p, Some(upstream), Some(x), Place::InPlace))
}

macro_rules! one_shots {
    ($kind:ident, $forward:ident, $forward_async:ident, $both:ident, $both_async:ident, $backward:ident, $backward_async:ident,
     $forward_doc:literal, $both_doc:literal, $backward_doc:literal) => {
        #[doc = $forward_doc]
        #[cfg(not(target_arch = "wasm32"))]
        pub fn $forward<T: Element>(
            context: &Context,
            input: &CrossEntropyInput<'_, T>,
            options: &CrossEntropyOptions,
        ) -> Result<Vec<f32>> {
            Ok(compute(context, LossKind::$kind, input, &Wanted::default(), options)?.loss)
        }

        #[doc = concat!("As `", stringify!($forward), "`, under any executor.")]
        pub async fn $forward_async<T: Element>(
            context: &Context,
            input: &CrossEntropyInput<'_, T>,
            options: &CrossEntropyOptions,
        ) -> Result<Vec<f32>> {
            Ok(
                compute_async(context, LossKind::$kind, input, &Wanted::default(), options)
                    .await?
                    .loss,
            )
        }

        #[doc = $both_doc]
        #[cfg(not(target_arch = "wasm32"))]
        pub fn $both<T: Element>(
            context: &Context,
            input: &CrossEntropyInput<'_, T>,
            upstream: Option<&[f32]>,
            options: &CrossEntropyOptions,
        ) -> Result<(Vec<f32>, Vec<T>)> {
            let wanted = Wanted {
                gradient: true,
                upstream,
                ..Wanted::default()
            };
            let out = compute(context, LossKind::$kind, input, &wanted, options)?;
            Ok((out.loss, out.gradient.unwrap_or_default()))
        }

        #[doc = concat!("As `", stringify!($both), "`, under any executor.")]
        pub async fn $both_async<T: Element>(
            context: &Context,
            input: &CrossEntropyInput<'_, T>,
            upstream: Option<&[f32]>,
            options: &CrossEntropyOptions,
        ) -> Result<(Vec<f32>, Vec<T>)> {
            let wanted = Wanted {
                gradient: true,
                upstream,
                ..Wanted::default()
            };
            let out = compute_async(context, LossKind::$kind, input, &wanted, options).await?;
            Ok((out.loss, out.gradient.unwrap_or_default()))
        }

        #[doc = $backward_doc]
        #[cfg(not(target_arch = "wasm32"))]
        pub fn $backward<T: Element>(
            context: &Context,
            input: &CrossEntropyInput<'_, T>,
            upstream: &[f32],
            options: &CrossEntropyOptions,
        ) -> Result<Vec<T>> {
            Ok($both(context, input, Some(upstream), options)?.1)
        }

        #[doc = concat!("As `", stringify!($backward), "`, under any executor.")]
        pub async fn $backward_async<T: Element>(
            context: &Context,
            input: &CrossEntropyInput<'_, T>,
            upstream: &[f32],
            options: &CrossEntropyOptions,
        ) -> Result<Vec<T>> {
            Ok($both_async(context, input, Some(upstream), options).await?.1)
        }
    };
}
one_shots!(
    CrossEntropy,
    cross_entropy,
    cross_entropy_async,
    cross_entropy_with_gradient,
    cross_entropy_with_gradient_async,
    cross_entropy_backward,
    cross_entropy_backward_async,
    "Cross-entropy of logits: one loss a row, or one for all, as [`CrossEntropyOptions::reduction`] says. Blocks until it is here.

# Definition
Minus the sum over classes of the target's share times the log-softmax; see the [module](super) for all of it.

# Shapes
`x` is `[N, C, d1, ..]`, `[N, C]` or `[C]`; labels have that shape without C, probabilities have that shape, `weight` is `[C]`. The losses are
f32 in C order.

# Numerics
A row with a label is within 3 ulp of f32; see [`bounds`](super::bounds) for smoothing, probabilities, z-loss and reductions.

# Cost
The logits are read once on the CPU path where rows lie in one piece, else twice. On a GPU also upload and readback; where logits or results
pass the device's largest buffer, one part after another: as many indices of the first dimension as it holds, with the mean over all of
them. Each part waits for the one before, and its loss is rounded to f32 before they are added, within the same bounds.

# Errors
[`Error::Label`] for a label that is neither a class nor ignored, [`Error::Shape`] for shapes and lengths that do not fit or rows without
classes, [`Error::Option`] for options outside their domain and weights that are not finite, [`Error::Limit`] beyond the device's limits, as
where a single row (of `[N, C, d1, ..]` a single index of N) or what comes of it passes the largest buffer,
[`Error::DeviceLost`] and [`Error::Timeout`], and [`Error::Mismatch`] from a cross-check.

```
use macheps::{Context, CrossEntropyInput, CrossEntropyOptions};
let input = CrossEntropyInput::new(&[0.0f32, 0.0, 0.0, 100.0], &[2, 2], &[0i64, 1]);
let loss = macheps::cross_entropy(&Context::cpu(), &input, &CrossEntropyOptions::default())?;
assert_eq!(loss, [0.5 * 2f32.ln()]);
# Ok::<(), macheps::Error>(())
```",
    "Cross-entropy and its gradient with respect to the logits, made in one go. `upstream` is the gradient of the losses: one value a row
without reduction, else one; all 1 if there is none.

# Numerics
The gradient is within `8u` times the sum of the magnitudes of its terms, u = 2^-24. Ignored rows get exactly 0, whatever they hold.

# Cost
The logits are read once or twice and the gradient is written once; beside them there is memory for a few numbers a row.

# Errors
Those of [`cross_entropy`].

```
use macheps::{Context, CrossEntropyInput, CrossEntropyOptions};
let input = CrossEntropyInput::new(&[0.0f32, 0.0], &[1, 2], &[1i64]);
let (loss, dx) = macheps::cross_entropy_with_gradient(&Context::cpu(), &input, None, &CrossEntropyOptions::default())?;
assert_eq!((loss, dx), (vec![2f32.ln()], vec![0.5, -0.5]));
# Ok::<(), macheps::Error>(())
```",
    "Gradient of `sum(upstream * cross_entropy(x))` with respect to the logits: that of [`cross_entropy_with_gradient`] alone.

# Errors
Those of [`cross_entropy`]."
);
one_shots!(
    NllLoss,
    nll_loss,
    nll_loss_async,
    nll_loss_with_gradient,
    nll_loss_with_gradient_async,
    nll_loss_backward,
    nll_loss_backward_async,
    "Negative log-likelihood of log-probabilities: minus the weighted entry at the label of each row, reduced as
[`CrossEntropyOptions::reduction`] says. Blocks until it is here.

# Shapes
Those of [`cross_entropy`]; targets are labels.

# Numerics
A row is within 3 ulp of f32; see [`bounds`](super::bounds).

# Cost
One element a row is read.

# Errors
Those of [`cross_entropy`]; [`Error::Unsupported`] for probabilities as targets; [`Error::Option`] for smoothing or z-loss.

```
use macheps::{Context, CrossEntropyInput, CrossEntropyOptions};
let input = CrossEntropyInput::new(&[-0.5f32, -1.0, -2.0, -0.25], &[2, 2], &[0i64, -100]);
assert_eq!(macheps::nll_loss(&Context::cpu(), &input, &CrossEntropyOptions::default())?, [0.5]);
# Ok::<(), macheps::Error>(())
```",
    "[`nll_loss`] and its gradient with respect to the log-probabilities. `upstream` is as in [`cross_entropy_with_gradient`].

# Errors
Those of [`nll_loss`].",
    "Gradient of `sum(upstream * nll_loss(x))` with respect to the log-probabilities.

# Errors
Those of [`nll_loss`]."
);
