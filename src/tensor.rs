//! Tensors that stay on the device between operations.

use crate::context::Context;
use crate::element::{Storable, bf16, f16};
use crate::error::{Error, Result};
use crate::gpu::{BufferView, Gpu, Recording};
use crate::rows::element_count;
use std::sync::Arc;

/// A C-ordered tensor where the context computes: a buffer on a GPU, a vector on the CPU path. Cheap to clone.
///
/// A tensor has its value for itself: what changes one in place (an optimizer its weights, [`Chain::unscale_in_place`] its gradients)
/// copies it first where a clone of it is left. Only a view ([`Tensor::view`]) sees the change.
#[derive(Clone, Debug)]
pub struct Tensor<T: Storable> {
    shape: Vec<usize>,
    place: Place<T>,
}

#[derive(Clone, Debug)]
enum Place<T> {
    Cpu(Arc<Vec<T>>),
    // Counted apart from views and bind groups, which hold the buffer, too.
    Gpu(Gpu, Arc<wgpu::Buffer>),
}

/// Number of elements of a shape, unless it is beyond what can be addressed.
pub(crate) fn checked_count(what: &str, shape: &[usize]) -> Result<usize> {
    element_count(shape).ok_or_else(|| {
        Error::shape(
            format!("shape of {what}"),
            "a number of elements that fits usize",
            format!("{shape:?}"),
        )
    })
}

/// Fails unless `len` elements are what `shape` says.
pub(crate) fn check_len(what: &str, len: usize, shape: &[usize]) -> Result<()> {
    let count = checked_count(what, shape)?;
    if count == len {
        Ok(())
    } else {
        Err(Error::shape(
            format!("length of {what}"),
            format!("{count} elements for shape {shape:?}"),
            len.to_string(),
        ))
    }
}

impl Context {
    /// Copies host data, in C order, to where this context computes.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shape has another number of elements, [`Error::Limit`] beyond the device's largest buffer,
    /// [`Error::DeviceLost`].
    pub fn upload<T: Storable>(&self, values: &[T], shape: &[usize]) -> Result<Tensor<T>> {
        check_len("tensor", values.len(), shape)?;
        let place = match self.gpu() {
            Some(gpu) => Place::Gpu(
                gpu.clone(),
                Arc::new(gpu.upload("macheps tensor", bytemuck::cast_slice(values))?),
            ),
            None => Place::Cpu(Arc::new(values.to_vec())),
        };
        Ok(Tensor {
            shape: shape.to_vec(),
            place,
        })
    }

    /// Begins a chain of operations that go to the device in one submission.
    pub fn chain(&self) -> Chain<'_> {
        let label = wgpu::CommandEncoderDescriptor {
            label: Some("macheps chain"),
        };
        let encoder = self.gpu().map(|gpu| gpu.device().create_command_encoder(&label));
        Chain { context: self, encoder }
    }
}

impl<T: Storable> Tensor<T> {
    /// Shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// On the CPU path: a tensor of computed values.
    pub(crate) fn on_cpu(values: Vec<T>, shape: &[usize]) -> Tensor<T> {
        Tensor {
            shape: shape.to_vec(),
            place: Place::Cpu(Arc::new(values)),
        }
    }

    /// On a device: an uninitialised tensor.
    pub(crate) fn on_gpu(gpu: &Gpu, shape: &[usize]) -> Result<Tensor<T>> {
        use wgpu::BufferUsages as U;
        let bytes = checked_count("tensor", shape)? as u64 * T::VIEW.size() as u64;
        let buffer = gpu.create_buffer("macheps tensor", bytes, U::STORAGE | U::COPY_DST | U::COPY_SRC)?;
        Ok(Tensor {
            shape: shape.to_vec(),
            place: Place::Gpu(gpu.clone(), Arc::new(buffer)),
        })
    }

    /// The values, on the CPU path.
    pub(crate) fn host(&self) -> Option<&[T]> {
        match &self.place {
            Place::Cpu(values) => Some(values),
            Place::Gpu(..) => None,
        }
    }

    /// Whether it lies in a buffer of this device.
    pub(crate) fn is_on(&self, gpu: &Gpu) -> bool {
        matches!(&self.place, Place::Gpu(own, _) if own.same_device(gpu))
    }

    /// The whole tensor on a device; an error for a tensor of another context.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn view_on(&self, gpu: &Gpu) -> Result<BufferView> {
        self.view().filter(|_| self.is_on(gpu)).ok_or_else(elsewhere)
    }

    /// The values, to be changed, on the CPU path: a copy of its own where a clone of the tensor is left.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn host_mut(&mut self) -> Option<&mut Vec<T>> {
        match &mut self.place {
            Place::Cpu(values) => Some(Arc::make_mut(values)),
            Place::Gpu(..) => None,
        }
    }

    /// A view of the whole tensor for embedded use; `None` on the CPU path. Indices are seen as 32-bit words of type f32.
    pub fn view(&self) -> Option<BufferView> {
        match &self.place {
            Place::Cpu(_) => None,
            Place::Gpu(_, buffer) => Some(BufferView::new(buffer, T::VIEW, &self.shape)),
        }
    }

    /// Copies the values to the host; waits for the device.
    ///
    /// # Errors
    /// [`Error::DeviceLost`], [`Error::Timeout`], and [`Error::Wgpu`] for whatever wgpu had against earlier work.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn download(&self) -> Result<Vec<T>> {
        match &self.place {
            Place::Cpu(values) => Ok(values.to_vec()),
            Place::Gpu(gpu, buffer) => self.decode(self.start_download(gpu, buffer)?.wait()?),
        }
    }

    /// Copies the values to the host, under any executor.
    pub async fn download_async(&self) -> Result<Vec<T>> {
        match &self.place {
            Place::Cpu(values) => Ok(values.to_vec()),
            Place::Gpu(gpu, buffer) => self.decode(self.start_download(gpu, buffer)?.ready().await?),
        }
    }

    fn start_download(&self, gpu: &Gpu, buffer: &wgpu::Buffer) -> Result<crate::gpu::Readback> {
        gpu.check_alive()?;
        let bytes = (checked_count("tensor", &self.shape)? * T::VIEW.size()) as u64;
        let encoder = gpu.device().create_command_encoder(&Default::default());
        gpu.read_back(encoder, buffer, bytes.next_multiple_of(4))
    }

    fn decode(&self, bytes: Vec<u8>) -> Result<Vec<T>> {
        let count = checked_count("tensor", &self.shape)?;
        Ok(bytemuck::pod_collect_to_vec::<u8, T>(&bytes[..count * T::VIEW.size()]))
    }
}

/// The error for a tensor that is not where the chain computes.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn elsewhere() -> Error {
    Error::Unsupported {
        what: "a tensor of another context".into(),
        reason: "upload it to the chain's context".into(),
    }
}

/// A tensor of any storage type, to be read.
///
/// ```
/// use macheps::{Context, TensorRef, f16};
/// let ctx = Context::cpu();
/// let (a, b) = (ctx.upload(&[1.0f32], &[1])?, ctx.upload(&[f16::ONE], &[1])?);
/// assert_eq!([TensorRef::from(&a), (&b).into()].map(|t| t.shape().len()), [1, 1]);
/// # Ok::<(), macheps::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub enum TensorRef<'a> {
    /// f32.
    F32(&'a Tensor<f32>),
    /// f16.
    F16(&'a Tensor<f16>),
    /// bf16.
    Bf16(&'a Tensor<bf16>),
}

/// A tensor of any storage type, to be changed.
#[derive(Debug)]
pub enum TensorMut<'a> {
    /// f32.
    F32(&'a mut Tensor<f32>),
    /// f16.
    F16(&'a mut Tensor<f16>),
    /// bf16.
    Bf16(&'a mut Tensor<bf16>),
}

/// Runs an expression on the tensor of a [`TensorRef`] or [`TensorMut`].
macro_rules! with_tensor {
    ($kind:ident, $any:expr, $tensor:ident => $body:expr) => {
        match $any {
            crate::tensor::$kind::F32($tensor) => $body,
            crate::tensor::$kind::F16($tensor) => $body,
            crate::tensor::$kind::Bf16($tensor) => $body,
        }
    };
}
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use with_tensor;

macro_rules! tensor_of {
    ($type:ty, $variant:ident) => {
        impl<'a> From<&'a Tensor<$type>> for TensorRef<'a> {
            fn from(tensor: &'a Tensor<$type>) -> Self {
                TensorRef::$variant(tensor)
            }
        }

        impl<'a> From<&'a mut Tensor<$type>> for TensorMut<'a> {
            fn from(tensor: &'a mut Tensor<$type>) -> Self {
                TensorMut::$variant(tensor)
            }
        }
    };
}
tensor_of!(f32, F32);
tensor_of!(f16, F16);
tensor_of!(bf16, Bf16);

impl TensorRef<'_> {
    /// Shape.
    pub fn shape(&self) -> &[usize] {
        with_tensor!(TensorRef, self, t => t.shape())
    }

    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn view_on(&self, gpu: &Gpu) -> Result<BufferView> {
        with_tensor!(TensorRef, self, t => t.view_on(gpu))
    }

    /// The values on the host, in f64; waits for the device.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn widened(&self) -> Result<Vec<f64>> {
        fn widen<T: crate::element::Element>(tensor: &Tensor<T>) -> Result<Vec<f64>> {
            Ok(tensor.download()?.iter().map(|v| f64::from(v.to_f32())).collect())
        }
        with_tensor!(TensorRef, self, t => widen(t))
    }
}

impl TensorMut<'_> {
    /// Shape.
    pub fn shape(&self) -> &[usize] {
        with_tensor!(TensorMut, self, t => t.shape())
    }

    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn borrow(&self) -> TensorRef<'_> {
        match self {
            TensorMut::F32(t) => TensorRef::F32(t),
            TensorMut::F16(t) => TensorRef::F16(t),
            TensorMut::Bf16(t) => TensorRef::Bf16(t),
        }
    }
}

/// Operations recorded one after the other; [`Chain::submit`] sends them off together. On the CPU path each
/// operation runs at once.
///
/// ```
/// use macheps::{Context, SoftmaxKind, SoftmaxOptions};
/// let ctx = Context::cpu();
/// let x = ctx.upload(&[0.5f32, -1.0, 2.0, 0.0], &[2, 2])?;
/// let mut chain = ctx.chain();
/// let y = chain.softmax(SoftmaxKind::Softmax, &x, None, &SoftmaxOptions::default())?;
/// let z = chain.softmax(SoftmaxKind::LogSumExp, &y, None, &SoftmaxOptions::default())?;
/// chain.submit()?;
/// assert_eq!(z.download()?.len(), 2);
/// # Ok::<(), macheps::Error>(())
/// ```
pub struct Chain<'a> {
    context: &'a Context,
    encoder: Option<wgpu::CommandEncoder>,
}

impl Chain<'_> {
    /// The context that the chain was begun on.
    pub fn context(&self) -> &Context {
        self.context
    }

    pub(crate) fn record(&mut self, recording: &Recording) {
        if let Some(encoder) = &mut self.encoder {
            recording.record(encoder);
        }
    }

    /// A view of a tensor to be changed in place. Where clones of it are left it gets a buffer of its own, and a copy is recorded.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn writable<T: Storable>(&mut self, gpu: &Gpu, tensor: &mut Tensor<T>) -> Result<BufferView> {
        let old = tensor.view_on(gpu)?;
        let shared = matches!(&tensor.place, Place::Gpu(_, buffer) if Arc::strong_count(buffer) > 1);
        if shared {
            *tensor = Tensor::on_gpu(gpu, &tensor.shape)?;
            let own = tensor.view_on(gpu)?;
            self.copy(&old.buffer, &own.buffer, own.buffer.size());
        }
        tensor.view_on(gpu)
    }

    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn writable_any(&mut self, gpu: &Gpu, tensor: &mut TensorMut<'_>) -> Result<BufferView> {
        with_tensor!(TensorMut, tensor, t => self.writable(gpu, t))
    }

    /// Records a copy of the first bytes of a buffer.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn copy(&mut self, from: &wgpu::Buffer, to: &wgpu::Buffer, bytes: u64) {
        if let Some(encoder) = &mut self.encoder {
            encoder.copy_buffer_to_buffer(from, 0, to, 0, bytes);
        }
    }

    /// Submits what is recorded so far and goes on with an empty chain.
    pub(crate) fn flush(&mut self) -> Result<()> {
        let (Some(gpu), Some(encoder)) = (self.context.gpu(), &mut self.encoder) else {
            return Ok(());
        };
        gpu.check_alive()?;
        let next = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor {
            label: Some("macheps chain"),
        });
        let full = std::mem::replace(encoder, next);
        gpu.submit(|| full.finish())?;
        Ok(())
    }

    /// Sends the operations to the device, in one submission. Does not wait. A chain that is dropped instead does nothing on
    /// a device.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub fn submit(mut self) -> Result<()> {
        self.flush()
    }
}
