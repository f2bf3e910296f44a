//! One call from host data to host data, on a GPU or on the CPU path; and tensors on the device.

use super::bounds::{Expected, Mismatch, Quantity, check};
use super::{
    LayerNorm, LayerNormGradientViews, LayerNormOptions, LayerNormStrategy, LayerNormViews, NormKind, cpu, no_bias,
    reference,
};
use crate::context::{Context, CrossCheck};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::gpu::{BufferView, Gpu};
use crate::job::{self, Job, Simple, allocate, checked_rows, elements};
#[cfg(not(target_arch = "wasm32"))]
use crate::tensor::Chain;
use crate::tensor::{Tensor, check_len, checked_count};

/// Input of a one-shot in host memory.
#[derive(Clone, Copy, Debug)]
pub struct LayerNormInput<'a, T> {
    /// Values in C order.
    pub x: &'a [T],
    /// Shape; the last axis is normalised.
    pub shape: &'a [usize],
    /// A factor for each element of a row.
    pub weight: Option<&'a [T]>,
    /// A summand for each element of a row; layer_norm only.
    pub bias: Option<&'a [T]>,
}

impl<'a, T> LayerNormInput<'a, T> {
    /// Without weight and bias.
    pub fn new(x: &'a [T], shape: &'a [usize]) -> Self {
        LayerNormInput {
            x,
            shape,
            weight: None,
            bias: None,
        }
    }
}

/// Gradients of a normalisation.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerNormGradients<T> {
    /// With respect to x, in its shape.
    pub dx: Vec<T>,
    /// With respect to the weight, where there is one.
    pub dweight: Option<Vec<T>>,
    /// With respect to the bias, where there is one.
    pub dbias: Option<Vec<T>>,
}

/// A checked call.
pub(super) struct Problem<'a, T: Element> {
    input: LayerNormInput<'a, T>,
    upstream: Option<&'a [T]>,
    options: LayerNormOptions,
    len: usize,
    rows: usize,
    strategy: Option<LayerNormStrategy>,
}

/// What a call gives: the result or the gradient of x, then the gradients of weight and bias.
pub(super) type Outputs<T> = LayerNormGradients<T>;

impl<'a, T: Element> Problem<'a, T> {
    pub(super) fn new(
        input: &LayerNormInput<'a, T>,
        upstream: Option<&'a [T]>,
        options: &LayerNormOptions,
    ) -> Result<Self> {
        let len = options.row_len(input.shape)?;
        check_len("x", input.x.len(), input.shape)?;
        let rows = checked_count("the rows of x", &input.shape[..input.shape.len() - 1])?;
        if input.bias.is_some() {
            no_bias(options.kind)?;
        }
        for (what, values) in [("weight", input.weight), ("bias", input.bias)] {
            if let Some(values) = values {
                check_len(what, values.len(), &[len])?;
            }
        }
        if let Some(upstream) = upstream {
            check_len("upstream", upstream.len(), input.shape)?;
        }
        Ok(Problem {
            input: *input,
            upstream,
            options: *options,
            len,
            rows,
            strategy: None,
        })
    }

    /// Forces a strategy on GPUs.
    pub(super) fn with_strategy(mut self, strategy: Option<LayerNormStrategy>) -> Self {
        self.strategy = strategy;
        self
    }

    fn quantity(&self) -> Quantity {
        match self.upstream {
            Some(_) => Quantity::Backward(self.options.kind),
            None => Quantity::Forward(self.options.kind),
        }
    }

    /// Whether the gradients of weight and bias are asked for.
    fn wanted(&self) -> [bool; 2] {
        let backward = self.upstream.is_some();
        [
            backward && self.input.weight.is_some(),
            backward && self.input.bias.is_some(),
        ]
    }

    /// Computes on the CPU into `y`, which has the elements of x.
    pub(super) fn write_on_cpu(&self, y: &mut [T]) {
        let LayerNormInput { x, weight, bias, .. } = self.input;
        match self.upstream {
            Some(g) => cpu::backward(x, self.len, weight, g, &self.options, y),
            None => cpu::forward(x, self.len, weight, bias, &self.options, y),
        }
    }

    pub(super) fn sums_on_cpu(&self) -> [Option<Vec<T>>; 2] {
        let wanted = self.wanted();
        match self.upstream {
            Some(g) if wanted != [false; 2] => {
                let (weight, bias) = cpu::backward_columns(self.input.x, self.len, g, &self.options);
                [wanted[0].then_some(weight), wanted[1].then_some(bias)]
            }
            _ => [None, None],
        }
    }

    /// The oracle's answer for a row.
    fn expected_row(&self, row: usize) -> Expected {
        let wide = |values: &[T]| values.iter().map(|v| f64::from(v.to_f32())).collect::<Vec<_>>();
        let range = row * self.len..(row + 1) * self.len;
        let x = wide(&self.input.x[range.clone()]);
        let weight = self.input.weight.map(wide);
        match self.upstream {
            Some(g) => reference::backward_row(&x, weight.as_deref(), &wide(&g[range]), &self.options),
            None => {
                let bias = self.input.bias.map(wide);
                reference::forward_row(&x, weight.as_deref(), bias.as_deref(), &self.options)
            }
        }
    }

    /// Holds everything that came out to the oracle. Indices of a mismatch count through dx, dweight and dbias.
    pub(super) fn judge(&self, outputs: &Outputs<T>) -> Result<super::bounds::MaxError, Mismatch> {
        let LayerNormInput { x, weight, bias, .. } = self.input;
        let expected = match self.upstream {
            Some(g) => reference::backward(x, self.len, weight, g, &self.options),
            None => [
                reference::forward(x, self.len, weight, bias, &self.options),
                Expected::default(),
                Expected::default(),
            ],
        };
        let got = [Some(&outputs.dx), outputs.dweight.as_ref(), outputs.dbias.as_ref()];
        let mut worst = super::bounds::MaxError::default();
        let mut before = 0;
        for (got, expected) in got.into_iter().zip(&expected) {
            let Some(got) = got else { continue };
            let found = check(got, &expected.values, &expected.bounds(T::DTYPE)).map_err(|m| Mismatch {
                index: before + m.index,
                ..m
            })?;
            worst = worst.merge(found);
            before += got.len();
        }
        Ok(worst)
    }

    /// Recomputes rows, and with [`CrossCheck::Full`] or few elements the sums over rows, and compares.
    fn compare(&self, how: CrossCheck, outputs: &Outputs<T>) -> Result<()> {
        let mismatch = |m: Mismatch, index| Error::Mismatch {
            kernel: self.quantity().name(),
            index,
            gpu: m.got,
            cpu: m.want,
            bound: m.bound,
        };
        if self.len > 0 {
            for row in checked_rows(how, self.rows) {
                let expected = self.expected_row(row);
                let start = row * self.len;
                let got = &outputs.dx[start..start + self.len];
                check(got, &expected.values, &expected.bounds(T::DTYPE)).map_err(|m| mismatch(m, start + m.index))?;
            }
        }
        let all = how == CrossCheck::Full || (how == CrossCheck::Sampled && self.input.x.len() <= 1 << 20);
        if let (Some(g), true) = (self.upstream, all && self.wanted() != [false; 2]) {
            let [_, dweight, dbias] = reference::backward(self.input.x, self.len, self.input.weight, g, &self.options);
            for (got, expected) in [(&outputs.dweight, dweight), (&outputs.dbias, dbias)] {
                if let Some(got) = got {
                    check(got, &expected.values, &expected.bounds(T::DTYPE)).map_err(|m| mismatch(m, m.index))?;
                }
            }
        }
        Ok(())
    }
}

impl<T: Element> Job for Problem<'_, T> {
    type Output = Outputs<T>;
    type Bound = Simple;

    fn name(&self) -> &'static str {
        self.quantity().name()
    }

    fn on_cpu(&self) -> Result<Outputs<T>> {
        let mut dx = allocate(self.input.x.len())?;
        self.write_on_cpu(&mut dx);
        let [dweight, dbias] = self.sums_on_cpu();
        Ok(LayerNormGradients { dx, dweight, dbias })
    }

    fn bind(&self, gpu: &Gpu) -> Result<Simple> {
        let context = Context::from_gpu(gpu.clone());
        let shape = self.input.shape;
        let view = |tensor: &Tensor<T>| tensor.view().ok_or_else(|| gpu.lost_error());
        let upload = |values: &[T], shape: &[usize]| view(&context.upload(values, shape)?);
        let row = |values: Option<&[T]>| values.map(|v| upload(v, &[self.len])).transpose();
        let (x, weight, bias) = (
            upload(self.input.x, shape)?,
            row(self.input.weight)?,
            row(self.input.bias)?,
        );
        let y = view(&Tensor::on_gpu(gpu, shape)?)?;
        let mut norm = LayerNorm::new(gpu, T::DTYPE, self.options)?;
        norm.strategy = self.strategy;
        let mut outputs = vec![y.clone()];
        let bound = match self.upstream {
            Some(g) => {
                let sum = |wanted: bool| -> Result<Option<BufferView>> {
                    wanted.then(|| view(&Tensor::on_gpu(gpu, &[self.len])?)).transpose()
                };
                let wanted = self.wanted();
                let (dweight, dbias) = (sum(wanted[0])?, sum(wanted[1])?);
                outputs.extend(dweight.iter().chain(&dbias).cloned());
                norm.bind_backward(&LayerNormGradientViews {
                    x,
                    weight,
                    upstream: upload(g, shape)?,
                    dx: y,
                    dweight,
                    dbias,
                    workspace: None,
                })?
            }
            None => norm.bind(&LayerNormViews {
                x,
                y,
                weight,
                bias,
                workspace: None,
            })?,
        };
        let bytes = |v: &BufferView| (v.shape().iter().product::<usize>() * T::DTYPE.size()) as u64;
        Ok(Simple {
            recording: bound.into_recording(),
            outputs: outputs.iter().map(|v| (v.buffer.clone(), bytes(v))).collect(),
        })
    }

    fn decode(&self, outputs: &[&[u8]]) -> Result<Outputs<T>> {
        let mut rest = outputs[1..].iter();
        let mut next = |wanted: bool| wanted.then(|| rest.next().map(|bytes| elements(bytes))).flatten();
        let wanted = self.wanted();
        Ok(LayerNormGradients {
            dx: elements(outputs[0]),
            dweight: next(wanted[0]),
            dbias: next(wanted[1]),
        })
    }

    fn cross_check(&self, how: CrossCheck, outputs: &Outputs<T>, _: Option<&Simple>) -> Result<()> {
        self.compare(how, outputs)
    }
}

/// layer_norm or rms_norm of host data, in the input's shape. Blocks until the result is here.
///
/// For the contract on numbers and rows that are not ordinary see the [module](super).
///
/// # Shapes
/// `input.x` has as many elements as `input.shape` says, at least one dimension; weight and bias have the last one's. Empty
/// ones are valid.
///
/// # Cost
/// On a GPU: upload, one submission, readback, and buffers of its own; for more than one operation use
/// [`Context::chain`](crate::Context::chain).
///
/// # Errors
/// [`Error::Shape`] for shapes and lengths that do not fit, [`Error::Option`] for an `eps` that is negative or not finite,
/// [`Error::Unsupported`] for a bias of rms_norm, [`Error::Limit`] beyond the device's limits, [`Error::DeviceLost`] and
/// [`Error::Timeout`], and [`Error::Mismatch`] from a cross-check.
///
/// ```
/// use macheps::Context;
/// use macheps::ops::layer_norm::{LayerNormInput, LayerNormOptions, forward};
/// let options = LayerNormOptions { eps: 0.0, ..Default::default() };
/// let input = LayerNormInput { bias: Some(&[10.0, 20.0]), ..LayerNormInput::new(&[1.0f32, 3.0], &[2]) };
/// assert_eq!(forward(&Context::cpu(), &input, &options)?, [9.0, 21.0]);
/// # Ok::<(), macheps::Error>(())
/// ```
#[cfg(not(target_arch = "wasm32"))]
pub fn forward<T: Element>(
    context: &Context,
    input: &LayerNormInput<'_, T>,
    options: &LayerNormOptions,
) -> Result<Vec<T>> {
    Ok(job::run(&Problem::new(input, None, options)?, context)?.dx)
}

/// As [`forward`], with the result held to the reference, on the CPU path too.
///
/// # Errors
/// Those of [`forward`]; [`Error::Mismatch`] where the bound is missed.
#[cfg(not(target_arch = "wasm32"))]
pub fn forward_checked<T: Element>(
    context: &Context,
    input: &LayerNormInput<'_, T>,
    options: &LayerNormOptions,
    how: CrossCheck,
) -> Result<Vec<T>> {
    Ok(job::run_checked(&Problem::new(input, None, options)?, context, how)?.dx)
}

/// As `forward`, under any executor. On the CPU path it computes when first polled.
pub async fn forward_async<T: Element>(
    context: &Context,
    input: &LayerNormInput<'_, T>,
    options: &LayerNormOptions,
) -> Result<Vec<T>> {
    Ok(job::run_async(&Problem::new(input, None, options)?, context).await?.dx)
}

/// Gradients of `sum(upstream * forward(x))` with respect to x, and to weight and bias where there are any. Blocks until they are here.
///
/// # Shapes
/// As [`forward`]; `upstream` has the shape of x. The values of the bias are not used, only that there is one.
///
/// # Numerics
/// dx within `8u` times the sum of the magnitudes of its terms, u = 2^-24; dweight within `6u sum |g x^|`; see [`super::bounds`].
///
/// # Cost
/// As [`forward`] with one more tensor read; for gradients of weight and bias both are read once more.
///
/// # Errors
/// Those of [`forward`].
///
/// ```
/// use macheps::Context;
/// use macheps::ops::layer_norm::{LayerNormInput, LayerNormOptions, backward};
/// let options = LayerNormOptions { eps: 0.0, ..Default::default() };
/// let input = LayerNormInput { weight: Some(&[1.0, 1.0]), ..LayerNormInput::new(&[1.0f32, 3.0], &[2]) };
/// let gradients = backward(&Context::cpu(), &input, &[1.0, 0.5], &options)?;
/// // Two elements are always normalised to -1 and 1: nothing that x does matters.
/// assert_eq!(gradients.dx, [0.0, 0.0]);
/// assert_eq!(gradients.dweight, Some(vec![-1.0, 0.5]));
/// # Ok::<(), macheps::Error>(())
/// ```
#[cfg(not(target_arch = "wasm32"))]
pub fn backward<T: Element>(
    context: &Context,
    input: &LayerNormInput<'_, T>,
    upstream: &[T],
    options: &LayerNormOptions,
) -> Result<LayerNormGradients<T>> {
    job::run(&Problem::new(input, Some(upstream), options)?, context)
}

/// As [`backward`], with the result held to the reference, on the CPU path too.
///
/// # Errors
/// Those of [`forward`]; [`Error::Mismatch`] where the bound is missed.
#[cfg(not(target_arch = "wasm32"))]
pub fn backward_checked<T: Element>(
    context: &Context,
    input: &LayerNormInput<'_, T>,
    upstream: &[T],
    options: &LayerNormOptions,
    how: CrossCheck,
) -> Result<LayerNormGradients<T>> {
    job::run_checked(&Problem::new(input, Some(upstream), options)?, context, how)
}

/// As `backward`, under any executor.
pub async fn backward_async<T: Element>(
    context: &Context,
    input: &LayerNormInput<'_, T>,
    upstream: &[T],
    options: &LayerNormOptions,
) -> Result<LayerNormGradients<T>> {
    job::run_async(&Problem::new(input, Some(upstream), options)?, context).await
}

/// Layer normalisation over the last axis with `eps` 1e-5; see the [module](crate::ops::layer_norm) for the contract.
///
/// # Errors
/// Those of [`forward`].
///
/// ```
/// let y = macheps::layer_norm(&macheps::Context::cpu(), &[7.0f32; 4], &[2, 2], None, Some(&[1.0, 2.0]))?;
/// assert_eq!(y, [1.0, 2.0, 1.0, 2.0]);
/// # Ok::<(), macheps::Error>(())
/// ```
#[cfg(not(target_arch = "wasm32"))]
pub fn layer_norm<T: Element>(
    context: &Context,
    x: &[T],
    shape: &[usize],
    weight: Option<&[T]>,
    bias: Option<&[T]>,
) -> Result<Vec<T>> {
    let input = LayerNormInput { x, shape, weight, bias };
    forward(context, &input, &LayerNormOptions::new(NormKind::LayerNorm))
}

/// As `layer_norm`, under any executor.
pub async fn layer_norm_async<T: Element>(
    context: &Context,
    x: &[T],
    shape: &[usize],
    weight: Option<&[T]>,
    bias: Option<&[T]>,
) -> Result<Vec<T>> {
    let input = LayerNormInput { x, shape, weight, bias };
    forward_async(context, &input, &LayerNormOptions::new(NormKind::LayerNorm)).await
}

/// Root-mean-square normalisation over the last axis with `eps` 1e-6; see the [module](crate::ops::layer_norm) for the contract.
///
/// # Errors
/// Those of [`forward`].
///
/// ```
/// let y = macheps::rms_norm(&macheps::Context::cpu(), &[3e30f32, -3e30], &[2], Some(&[1.0, 2.0]))?;
/// assert_eq!(y, [1.0, -2.0]);
/// # Ok::<(), macheps::Error>(())
/// ```
#[cfg(not(target_arch = "wasm32"))]
pub fn rms_norm<T: Element>(context: &Context, x: &[T], shape: &[usize], weight: Option<&[T]>) -> Result<Vec<T>> {
    let input = LayerNormInput {
        weight,
        ..LayerNormInput::new(x, shape)
    };
    forward(context, &input, &LayerNormOptions::new(NormKind::RmsNorm))
}

/// As `rms_norm`, under any executor.
pub async fn rms_norm_async<T: Element>(
    context: &Context,
    x: &[T],
    shape: &[usize],
    weight: Option<&[T]>,
) -> Result<Vec<T>> {
    let input = LayerNormInput {
        weight,
        ..LayerNormInput::new(x, shape)
    };
    forward_async(context, &input, &LayerNormOptions::new(NormKind::RmsNorm)).await
}

/// Gradients on the device: of x, and of weight and bias where asked for.
#[cfg(not(target_arch = "wasm32"))]
pub type GradientTensors<T> = (Tensor<T>, Option<Tensor<T>>, Option<Tensor<T>>);

#[cfg(not(target_arch = "wasm32"))]
impl Chain<'_> {
    /// layer_norm or rms_norm over the last axis, from tensor to tensor.
    ///
    /// On a device it is recorded and runs with [`Chain::submit`]; with cross-check on, every operation is submitted and
    /// compared at once. The result is a new tensor.
    ///
    /// # Errors
    /// Those of [`LayerNorm::bind`]; [`Error::Unsupported`] for a tensor of another context.
    pub fn layer_norm<T: Element>(
        &mut self,
        x: &Tensor<T>,
        weight: Option<&Tensor<T>>,
        bias: Option<&Tensor<T>>,
        options: &LayerNormOptions,
    ) -> Result<Tensor<T>> {
        Ok(self.layer_norm_call(x, weight, bias, None, options)?.0)
    }

    /// Gradients of layer_norm or rms_norm: of x, of the weight if there is one, and of the bias if `bias` is given.
    ///
    /// # Errors
    /// Those of [`Chain::layer_norm`].
    pub fn layer_norm_backward<T: Element>(
        &mut self,
        x: &Tensor<T>,
        weight: Option<&Tensor<T>>,
        bias: Option<&Tensor<T>>,
        upstream: &Tensor<T>,
        options: &LayerNormOptions,
    ) -> Result<GradientTensors<T>> {
        self.layer_norm_call(x, weight, bias, Some(upstream), options)
    }

    fn layer_norm_call<T: Element>(
        &mut self,
        x: &Tensor<T>,
        weight: Option<&Tensor<T>>,
        bias: Option<&Tensor<T>>,
        upstream: Option<&Tensor<T>>,
        options: &LayerNormOptions,
    ) -> Result<GradientTensors<T>> {
        let len = options.row_len(x.shape())?;
        let elsewhere = || Error::Unsupported {
            what: "a tensor of another context".into(),
            reason: "upload it to the chain's context".into(),
        };
        let Some(gpu) = self.context().gpu().cloned() else {
            let host =
                |t: Option<&'_ Tensor<T>>| t.map(|t| t.host().map(<[T]>::to_vec).ok_or_else(elsewhere)).transpose();
            let (values, weight, bias, upstream) = (host(Some(x))?, host(weight)?, host(bias)?, host(upstream)?);
            let input = LayerNormInput {
                x: values.as_deref().unwrap_or_default(),
                shape: x.shape(),
                weight: weight.as_deref(),
                bias: bias.as_deref(),
            };
            let found = Problem::new(&input, upstream.as_deref(), options)?.on_cpu()?;
            let row = |values: Option<Vec<T>>| values.map(|v| Tensor::on_cpu(v, &[len]));
            return Ok((
                Tensor::on_cpu(found.dx, x.shape()),
                row(found.dweight),
                row(found.dbias),
            ));
        };
        let view = |t: &Tensor<T>| t.view().filter(|_| t.is_on(&gpu)).ok_or_else(elsewhere);
        let norm = LayerNorm::new(&gpu, T::DTYPE, *options)?;
        let y = Tensor::on_gpu(&gpu, x.shape())?;
        let (mut dweight, mut dbias) = (None, None);
        let weight_view = weight.map(view).transpose()?;
        let bias_view = bias.map(view).transpose()?;
        let bound = match upstream {
            Some(g) => {
                let sum = |there: bool| there.then(|| Tensor::on_gpu(&gpu, &[len])).transpose();
                (dweight, dbias) = (sum(weight.is_some())?, sum(bias.is_some())?);
                norm.bind_backward(&LayerNormGradientViews {
                    x: view(x)?,
                    weight: weight_view,
                    upstream: view(g)?,
                    dx: view(&y)?,
                    dweight: dweight.as_ref().map(view).transpose()?,
                    dbias: dbias.as_ref().map(view).transpose()?,
                    workspace: None,
                })?
            }
            None => norm.bind(&LayerNormViews {
                x: view(x)?,
                y: view(&y)?,
                weight: weight_view,
                bias: bias_view,
                workspace: None,
            })?,
        };
        self.record(&bound.into_recording());
        if self.context().cross_check() != CrossCheck::Off {
            self.flush()?;
            let host = |t: Option<&Tensor<T>>| t.map(Tensor::download).transpose();
            let values = x.download()?;
            let (weight, bias, upstream) = (host(weight)?, host(bias)?, host(upstream)?);
            let input = LayerNormInput {
                x: &values,
                shape: x.shape(),
                weight: weight.as_deref(),
                bias: bias.as_deref(),
            };
            let found = LayerNormGradients {
                dx: y.download()?,
                dweight: host(dweight.as_ref())?,
                dbias: host(dbias.as_ref())?,
            };
            Problem::new(&input, upstream.as_deref(), options)?.compare(self.context().cross_check(), &found)?;
        }
        Ok((y, dweight, dbias))
    }
}
