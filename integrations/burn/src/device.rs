//! Which device of macheps stands for which one of Burn's.

use crate::place;
use burn::backend::DispatchDevice;
use burn::tensor::Device;
use burn::tensor::wgpu::WgpuSetup;
use burn_cubecl::CubeDevice;
use macheps::{DType, Error, Gpu, Result, Softmax, SoftmaxKind, SoftmaxOptions, SoftmaxViews};
use std::sync::{PoisonError, RwLock};

/// The devices attached so far. A backend's operation is given tensors and nothing else, a tensor knows its device by name only, and
/// neither CubeCL nor a wgpu buffer tells which wgpu device it belongs to: hence a table for the process.
static ATTACHED: RwLock<Vec<(CubeDevice, Gpu)>> = RwLock::new(Vec::new());

/// Tells this crate which wgpu device and queue a device of Burn's works on. Once for each device, before its first operation here.
///
/// Burn gives the two together: `Device::wgpu_options().init_with_setup()` for a device that Burn opens, and
/// `Device::wgpu_options().setup(setup.clone()).init()` for one of the application's. Returns the device as macheps sees it, to record further
/// kernels with; a second call with the same device and setup returns the first one's.
///
/// # Errors
/// [`Error::Unsupported`] for a device that does not run on wgpu, and for a setup that is not the device's.
pub fn attach(device: &Device, setup: &WgpuSetup) -> Result<Gpu> {
    let key = cube(device)?;
    let strange = |why: String| Error::Unsupported {
        what: format!("a setup for device {key:?}"),
        reason: format!("it is not this device's ({why}); Burn gives the two together"),
    };
    if let Some(gpu) = find(&key) {
        let same = gpu.device() == &setup.device && gpu.queue() == &setup.queue;
        return same
            .then_some(gpu)
            .ok_or_else(|| strange("another one is attached".into()));
    }
    let gpu = Gpu::borrow(&setup.device, &setup.queue);
    // wgpu tells whose a buffer is when it is bound, and not before.
    let probe = place::empty(&key.client(), &key, [1].into(), burn::tensor::DType::F32);
    let (view, _held) = place::view(&probe, DType::F32)?;
    Softmax::new(&gpu, SoftmaxKind::Softmax, DType::F32, SoftmaxOptions::default())?
        .bind(&SoftmaxViews::new(view.clone(), view))
        .map_err(|error| strange(error.to_string()))?;
    let mut attached = ATTACHED.write().unwrap_or_else(PoisonError::into_inner);
    attached.push((key, gpu.clone()));
    Ok(gpu)
}

/// The device as CubeCL knows it, without autodiff around it.
fn cube(device: &Device) -> Result<CubeDevice> {
    match device.clone().without_autodiff().as_dispatch() {
        DispatchDevice::Cube(device @ CubeDevice::Wgpu(_)) => Ok(device.clone()),
        other => Err(Error::Unsupported {
            what: format!("device {other:?}"),
            reason: "only devices of Burn's wgpu backend run these kernels".into(),
        }),
    }
}

fn find(key: &CubeDevice) -> Option<Gpu> {
    let attached = ATTACHED.read().unwrap_or_else(PoisonError::into_inner);
    attached
        .iter()
        .find(|(device, _)| device == key)
        .map(|(_, gpu)| gpu.clone())
}

/// The device of a tensor.
pub(crate) fn of_cube(key: &CubeDevice) -> Result<Gpu> {
    find(key).ok_or_else(|| Error::Unsupported {
        what: format!("device {key:?}"),
        reason: "it was not attached: call macheps_burn::attach first".into(),
    })
}

/// The device of a tensor, as the caller knows it.
pub(crate) fn of(device: &Device) -> Result<Gpu> {
    of_cube(&cube(device)?)
}
