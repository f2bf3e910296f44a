//! One call from host data to host data, on a GPU or on the CPU path; and tensors on the device.

use super::bounds::bound;
use super::{Activation, ActivationGradientViews, ActivationKind, ActivationViews, BoundActivation, cpu, reference};
use crate::accuracy::{MaxError, Mismatch, check};
use crate::context::{Context, CrossCheck};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::job::{self, Job, Simple, allocate, checked_rows, elements};
#[cfg(not(target_arch = "wasm32"))]
use crate::tensor::Chain;
use crate::tensor::Tensor;

/// Elements that a cross-check takes at a time.
const CHECKED: usize = 256;

/// A checked call.
pub(super) struct Problem<'a, T: Element> {
    kind: ActivationKind,
    x: &'a [T],
    upstream: Option<&'a [T]>,
}

impl<'a, T: Element> Problem<'a, T> {
    pub(super) fn new(kind: ActivationKind, x: &'a [T], upstream: Option<&'a [T]>) -> Result<Self> {
        if let Some(g) = upstream.filter(|g| g.len() != x.len()) {
            return Err(Error::shape(
                "length of upstream",
                format!("{} elements, as x has", x.len()),
                g.len().to_string(),
            ));
        }
        Ok(Problem { kind, x, upstream })
    }

    /// The oracle's answer for an element.
    fn expected(&self, index: usize) -> f64 {
        let wide = |v: &T| f64::from(v.to_f32());
        let x = wide(&self.x[index]);
        match self.upstream {
            Some(g) => reference::backward(self.kind, x, wide(&g[index])),
            None => reference::forward(self.kind, x),
        }
    }

    /// The oracle's answers and the bounds of all elements.
    pub(super) fn all_expected(&self) -> (Vec<f64>, Vec<f64>) {
        let values: Vec<f64> = (0..self.x.len()).map(|i| self.expected(i)).collect();
        let bounds = values.iter().map(|&v| self.bound(v)).collect();
        (values, bounds)
    }

    fn bound(&self, value: f64) -> f64 {
        bound(T::DTYPE, self.upstream.is_some(), value)
    }

    /// Computes into `y`, which has the input's length.
    pub(super) fn write_on_cpu(&self, y: &mut [T]) {
        match self.upstream {
            Some(g) => cpu::backward(self.kind, self.x, g, y),
            None => cpu::forward(self.kind, self.x, y),
        }
    }

    fn compare(&self, how: CrossCheck, y: &[T]) -> Result<()> {
        for part in checked_rows(how, y.len().div_ceil(CHECKED)) {
            let begin = part * CHECKED;
            for (index, got) in y.iter().enumerate().skip(begin).take(CHECKED) {
                let want = self.expected(index);
                check(std::slice::from_ref(got), &[want], &[self.bound(want)]).map_err(|m| Error::Mismatch {
                    kernel: self.kind.name_of(self.upstream.is_some()),
                    index,
                    gpu: m.got,
                    cpu: m.want,
                    bound: m.bound,
                })?;
            }
        }
        Ok(())
    }
}

fn bind_views(
    gpu: &Gpu,
    kind: ActivationKind,
    x: crate::BufferView,
    upstream: Option<crate::BufferView>,
    y: crate::BufferView,
) -> Result<BoundActivation> {
    let activation = Activation::new(gpu, kind, x.dtype());
    match upstream {
        Some(upstream) => activation.bind_backward(&ActivationGradientViews { x, upstream, dx: y }),
        None => activation.bind(&ActivationViews { x, y }),
    }
}

impl<T: Element> Job for Problem<'_, T> {
    type Output = Vec<T>;
    type Bound = Simple;

    fn name(&self) -> &'static str {
        self.kind.name_of(self.upstream.is_some())
    }

    fn on_cpu(&self) -> Result<Vec<T>> {
        let mut y = allocate(self.x.len())?;
        self.write_on_cpu(&mut y);
        Ok(y)
    }

    fn bind(&self, gpu: &Gpu) -> Result<Simple> {
        let context = Context::from_gpu(gpu.clone());
        let shape = [self.x.len()];
        let view = |tensor: &Tensor<T>| tensor.view().ok_or_else(|| gpu.lost_error());
        let x = view(&context.upload(self.x, &shape)?)?;
        let upstream = self.upstream.map(|g| view(&context.upload(g, &shape)?)).transpose()?;
        let y = view(&Tensor::on_gpu(gpu, &shape)?)?;
        let output = y.buffer.clone();
        Ok(Simple {
            recording: bind_views(gpu, self.kind, x, upstream, y)?.into_recording(),
            outputs: vec![(output, (self.x.len() * T::DTYPE.size()) as u64)],
        })
    }

    fn decode(&self, outputs: &[&[u8]]) -> Result<Vec<T>> {
        Ok(elements(outputs[0]))
    }

    fn cross_check(&self, how: CrossCheck, y: &Vec<T>, _: Option<&Simple>) -> Result<()> {
        self.compare(how, y)
    }
}

/// One of the three functions of host data, element by element. Blocks until the result is here. For the contract on
/// numbers see the [module](super).
///
/// # Cost
/// On a GPU: upload, one submission, readback, and buffers of its own; for more than one operation use
/// [`Context::chain`](crate::Context::chain).
///
/// # Errors
/// [`Error::Limit`] beyond the device's limits, [`Error::DeviceLost`] and [`Error::Timeout`], and [`Error::Mismatch`] from a
/// cross-check.
///
/// ```
/// use macheps::{ActivationKind, Context};
/// let y = macheps::ops::activation::forward(&Context::cpu(), ActivationKind::Softplus, &[-100.0f32, 0.0, 1e30])?;
/// assert_eq!(y, [3.783506e-44, 2f32.ln(), 1e30]);
/// # Ok::<(), macheps::Error>(())
/// ```
#[cfg(not(target_arch = "wasm32"))]
pub fn forward<T: Element>(context: &Context, kind: ActivationKind, x: &[T]) -> Result<Vec<T>> {
    job::run(&Problem::new(kind, x, None)?, context)
}

/// As `forward`, under any executor. On the CPU path it computes when first polled.
pub async fn forward_async<T: Element>(context: &Context, kind: ActivationKind, x: &[T]) -> Result<Vec<T>> {
    job::run_async(&Problem::new(kind, x, None)?, context).await
}

/// Gradient of `sum(upstream * forward(x))` with respect to `x`. Blocks until it is here.
///
/// # Shapes
/// `upstream` has the length of `x`, and so has the result.
///
/// # Numerics
/// Within `4u` of itself, u = 2^-24, also where the function has long been flat.
///
/// # Cost
/// As [`forward`], with one more tensor read.
///
/// # Errors
/// Those of [`forward`], and [`Error::Shape`] if the lengths differ.
///
/// ```
/// use macheps::{ActivationKind, Context};
/// let dx = macheps::ops::activation::backward(&Context::cpu(), ActivationKind::Sigmoid, &[0.0f32], &[4.0])?;
/// assert_eq!(dx, [1.0]);
/// # Ok::<(), macheps::Error>(())
/// ```
#[cfg(not(target_arch = "wasm32"))]
pub fn backward<T: Element>(context: &Context, kind: ActivationKind, x: &[T], upstream: &[T]) -> Result<Vec<T>> {
    job::run(&Problem::new(kind, x, Some(upstream))?, context)
}

/// As `backward`, under any executor.
pub async fn backward_async<T: Element>(
    context: &Context,
    kind: ActivationKind,
    x: &[T],
    upstream: &[T],
) -> Result<Vec<T>> {
    job::run_async(&Problem::new(kind, x, Some(upstream))?, context).await
}

/// Holds results of `forward`, or with `upstream` of `backward`, to the oracle within the stated bound: what `macheps run --check` does.
///
/// # Errors
/// [`Error::Shape`] if the lengths of `x` and `upstream` differ.
pub fn check_results<T: Element>(
    kind: ActivationKind,
    x: &[T],
    upstream: Option<&[T]>,
    results: &[T],
) -> Result<Result<MaxError, Mismatch>> {
    let (want, bounds) = Problem::new(kind, x, upstream)?.all_expected();
    Ok(check(results, &want, &bounds))
}

macro_rules! plain {
    ($name:ident, $name_async:ident, $kind:ident, $doc:literal) => {
        #[doc = $doc]
        #[cfg(not(target_arch = "wasm32"))]
        pub fn $name<T: Element>(context: &Context, x: &[T]) -> Result<Vec<T>> {
            forward(context, ActivationKind::$kind, x)
        }

        #[doc = $doc]
        #[doc = "\n\nUnder any executor."]
        pub async fn $name_async<T: Element>(context: &Context, x: &[T]) -> Result<Vec<T>> {
            forward_async(context, ActivationKind::$kind, x).await
        }
    };
}
plain!(
    sigmoid,
    sigmoid_async,
    Sigmoid,
    "Sigmoid of every element; see the [module](crate::ops::activation) for the contract."
);
plain!(
    log_sigmoid,
    log_sigmoid_async,
    LogSigmoid,
    "Logarithm of the sigmoid of every element; see the [module](crate::ops::activation) for the contract."
);
plain!(
    softplus,
    softplus_async,
    Softplus,
    "Softplus of every element; see the [module](crate::ops::activation) for the contract."
);

#[cfg(not(target_arch = "wasm32"))]
impl Chain<'_> {
    /// One of the sigmoid family from tensor to tensor.
    ///
    /// On a device it is recorded and runs with [`Chain::submit`]; with cross-check on, every operation is submitted and
    /// compared at once. The result is a new tensor.
    ///
    /// # Errors
    /// Those of [`Activation::bind`]; [`Error::Unsupported`] for a tensor of another context.
    ///
    /// ```
    /// use macheps::{ActivationKind, Context};
    /// let ctx = Context::cpu();
    /// let x = ctx.upload(&[0.0f32; 6], &[2, 3])?;
    /// let mut chain = ctx.chain();
    /// let y = chain.activation(ActivationKind::Sigmoid, &x)?;
    /// chain.submit()?;
    /// assert_eq!((y.download()?, y.shape()), (vec![0.5; 6], &[2, 3][..]));
    /// # Ok::<(), macheps::Error>(())
    /// ```
    pub fn activation<T: Element>(&mut self, kind: ActivationKind, x: &Tensor<T>) -> Result<Tensor<T>> {
        self.activation_call(kind, x, None)
    }

    /// Gradient of one of the sigmoid family with respect to its input `x`, from tensor to tensor.
    ///
    /// # Errors
    /// Those of [`Chain::activation`], and [`Error::Shape`] if `upstream` has another shape.
    pub fn activation_backward<T: Element>(
        &mut self,
        kind: ActivationKind,
        x: &Tensor<T>,
        upstream: &Tensor<T>,
    ) -> Result<Tensor<T>> {
        self.activation_call(kind, x, Some(upstream))
    }

    fn activation_call<T: Element>(
        &mut self,
        kind: ActivationKind,
        x: &Tensor<T>,
        upstream: Option<&Tensor<T>>,
    ) -> Result<Tensor<T>> {
        let elsewhere = || Error::Unsupported {
            what: "a tensor of another context".into(),
            reason: "upload it to the chain's context".into(),
        };
        if let Some(g) = upstream.filter(|g| g.shape() != x.shape()) {
            return Err(Error::shape(
                "shape of upstream",
                format!("{:?}", x.shape()),
                format!("{:?}", g.shape()),
            ));
        }
        let Some(gpu) = self.context().gpu().cloned() else {
            let values = x.host().ok_or_else(elsewhere)?;
            let g = upstream.map(|g| g.host().ok_or_else(elsewhere)).transpose()?;
            return Ok(Tensor::on_cpu(Problem::new(kind, values, g)?.on_cpu()?, x.shape()));
        };
        let view = |t: &Tensor<T>| t.view().filter(|_| t.is_on(&gpu)).ok_or_else(elsewhere);
        let y = Tensor::on_gpu(&gpu, x.shape())?;
        let bound = bind_views(&gpu, kind, view(x)?, upstream.map(view).transpose()?, view(&y)?)?;
        self.record(&bound.into_recording());
        if self.context().cross_check() != CrossCheck::Off {
            self.flush()?;
            let values = x.download()?;
            let g = upstream.map(Tensor::download).transpose()?;
            Problem::new(kind, &values, g.as_deref())?.compare(self.context().cross_check(), &y.download()?)?;
        }
        Ok(y)
    }
}
