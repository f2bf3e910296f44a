//! Tensors that stay on the device between operations.

use crate::context::Context;
use crate::element::Element;
use crate::error::{Error, Result};
use crate::gpu::{BufferView, Gpu, Recording};
use crate::rows::element_count;
use std::sync::Arc;

/// A C-ordered tensor where the context computes: a buffer on a GPU, a vector on the CPU path. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tensor<T: Element> {
    shape: Vec<usize>,
    place: Place<T>,
}

#[derive(Clone, Debug)]
enum Place<T> {
    Cpu(Arc<Vec<T>>),
    Gpu(Gpu, wgpu::Buffer),
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
    pub fn upload<T: Element>(&self, values: &[T], shape: &[usize]) -> Result<Tensor<T>> {
        check_len("tensor", values.len(), shape)?;
        let place = match self.gpu() {
            Some(gpu) => Place::Gpu(gpu.clone(), gpu.upload("macheps tensor", bytemuck::cast_slice(values))?),
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

impl<T: Element> Tensor<T> {
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
        let bytes = checked_count("tensor", shape)? as u64 * T::DTYPE.size() as u64;
        let buffer = gpu.create_buffer("macheps tensor", bytes, U::STORAGE | U::COPY_DST | U::COPY_SRC)?;
        Ok(Tensor {
            shape: shape.to_vec(),
            place: Place::Gpu(gpu.clone(), buffer),
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

    /// A view of the whole tensor for embedded use; `None` on the CPU path.
    pub fn view(&self) -> Option<BufferView> {
        match &self.place {
            Place::Cpu(_) => None,
            Place::Gpu(_, buffer) => Some(BufferView::new(buffer, T::DTYPE, &self.shape)),
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
        let bytes = (checked_count("tensor", &self.shape)? * T::DTYPE.size()) as u64;
        let encoder = gpu.device().create_command_encoder(&Default::default());
        gpu.read_back(encoder, buffer, bytes.next_multiple_of(4))
    }

    fn decode(&self, bytes: Vec<u8>) -> Result<Vec<T>> {
        let count = checked_count("tensor", &self.shape)?;
        Ok(bytemuck::pod_collect_to_vec::<u8, T>(&bytes[..count * T::DTYPE.size()]))
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
