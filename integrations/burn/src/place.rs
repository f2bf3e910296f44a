//! Where Burn's tensors lie: views of their buffers, and new ones.

use burn::tensor::{DType as BurnDType, Shape};
use burn_cubecl::CubeDevice;
use burn_cubecl::cubecl::client::Client;
use burn_cubecl::cubecl::wgpu::{AutoCompiler, WgpuServer};
use burn_cubecl::kernel::{into_contiguous, untile};
use burn_cubecl::tensor::CubeTensor;
use macheps::wgpu;
use macheps::{BufferView, DType, Error, Gpu, Result};

/// The storage type of macheps for one of Burn's.
pub(crate) fn dtype(what: &str, dtype: BurnDType) -> Result<DType> {
    match dtype {
        BurnDType::F32 | BurnDType::Flex32 => Ok(DType::F32),
        BurnDType::F16 => Ok(DType::F16),
        BurnDType::BF16 => Ok(DType::Bf16),
        other => Err(Error::Unsupported {
            what: format!("{what} of type {other:?}"),
            reason: "f32, f16 and bf16 are".into(),
        }),
    }
}

/// A tensor that kernels can read: in rows, and with no more strided dimensions than they take. Any other layout stays as it is.
pub(crate) fn readable(tensor: CubeTensor) -> CubeTensor {
    const STRIDED_DIMENSIONS: usize = 5;
    let tensor = untile(tensor);
    if tensor.meta.num_dims() > STRIDED_DIMENSIONS {
        return into_contiguous(tensor);
    }
    tensor
}

/// The view of a tensor, and what keeps its memory from being moved or handed out while commands for it are recorded. What CubeCL has
/// queued is submitted by this, so that commands submitted afterwards find it done.
pub(crate) fn view(tensor: &CubeTensor, dtype: DType) -> Result<(BufferView, impl Sized + use<>)> {
    let held = tensor
        .client
        .get_resource::<WgpuServer<AutoCompiler>>(tensor.handle.clone())
        .map_err(|error| Error::Wgpu(format!("{error}")))?;
    let place = held.resource();
    let size = dtype.size() as u64;
    if !place.offset.is_multiple_of(size) {
        return Err(Error::Unsupported {
            what: format!("a tensor at byte {} of its buffer", place.offset),
            reason: format!("elements have {size} bytes"),
        });
    }
    let view = BufferView::new(&place.buffer, dtype, tensor.meta.shape())
        .with_strides(tensor.meta.strides())
        .at((place.offset / size) as usize);
    Ok((view, held))
}

/// A tensor whose elements are still to be written.
pub(crate) fn empty(client: &Client, device: &CubeDevice, shape: Shape, dtype: BurnDType) -> CubeTensor {
    let handle = client.empty(shape.num_elements() * dtype.size());
    CubeTensor::new_contiguous(client.clone(), device.clone(), shape, handle, dtype)
}

/// A tensor of the shape and type of another one whose elements are still to be written.
pub(crate) fn like(tensor: &CubeTensor) -> CubeTensor {
    empty(
        &tensor.client,
        &tensor.device,
        tensor.meta.shape().clone(),
        tensor.dtype,
    )
}

/// Records into an encoder and submits it.
pub(crate) fn submit(gpu: &Gpu, record: impl FnOnce(&mut wgpu::CommandEncoder)) {
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    record(&mut encoder);
    gpu.queue().submit([encoder.finish()]);
}

// With fusion a tensor is a promise, and has no memory until it is needed.
#[cfg(all(test, not(feature = "fusion")))]
mod tests {
    use super::*;
    use burn::backend::{BackendTensor, DispatchTensorKind};
    use burn::tensor::{Device, Distribution, Tensor, s};

    fn cube<const D: usize>(x: &Tensor<D>) -> CubeTensor {
        match x.clone().into_dispatch().kind {
            DispatchTensorKind::Cube(BackendTensor::Float(x)) => x,
            _ => panic!("a float tensor on wgpu without autodiff"),
        }
    }

    /// What kernels are given is the memory that Burn's tensor has, neither a copy nor a detour through the host.
    #[test]
    fn views_are_burns_own_memory() {
        let Ok((device, _)) = Device::wgpu_options().init_with_setup() else {
            println!("SKIPPED: views_are_burns_own_memory: no wgpu adapter");
            return;
        };
        let all = Tensor::<2>::random([64, 32], Distribution::Default, &device);
        let (whole, _whole) = view(&readable(cube(&all)), DType::F32).expect("a view");
        let handle = |x: &Tensor<2>| (cube(x).handle.offset_start.unwrap_or(0) / 4) as usize;
        for (part, strides) in [
            (all.clone(), [32, 1]),
            (all.clone().slice(s![32..48, ..]), [32, 1]),
            (all.clone().transpose(), [1, 32]),
        ] {
            let (got, _got) = view(&readable(cube(&part)), DType::F32).expect("a view");
            assert_eq!(got.buffer(), whole.buffer(), "another buffer");
            assert_eq!(got.offset() - whole.offset(), handle(&part) - handle(&all));
            assert_eq!(got.strides(), strides);
        }
        // Software drivers do not survive that a process ends while they are at work.
        device.sync().expect("a device that works");
    }
}
