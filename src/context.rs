//! Where one-shot and tensor operations run: on a GPU or on the CPU path, cross-checked or not.

use crate::error::Result;
use crate::gpu::{self, Choice, DeviceInfo, DeviceSelector, Gpu};
use std::time::Duration;

/// Whether GPU results of one-shots and tensor operations are recomputed on the CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CrossCheck {
    /// Trust the device.
    #[default]
    Off,
    /// Recompute up to 64 rows, evenly spread, the first and the last among them.
    Sampled,
    /// Recompute every row.
    Full,
}

/// What a one-shot does when the device is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDeviceLost {
    /// Return [`Error::DeviceLost`](crate::Error::DeviceLost).
    #[default]
    Error,
    /// Compute on the CPU instead.
    FinishOnCpu,
}

/// How a [`Context`] is made.
#[derive(Clone, Debug)]
pub struct ContextOptions {
    /// Which device.
    pub device: DeviceSelector,
    /// Whether to recompute GPU results on the CPU.
    pub cross_check: CrossCheck,
    /// What to do when the device is lost.
    pub on_device_lost: OnDeviceLost,
    /// How long a wait for the device may last.
    pub timeout: Duration,
}

impl Default for ContextOptions {
    fn default() -> Self {
        ContextOptions {
            device: DeviceSelector::Auto,
            cross_check: CrossCheck::Off,
            on_device_lost: OnDeviceLost::Error,
            timeout: gpu::DEFAULT_TIMEOUT,
        }
    }
}

/// A place to compute: a device, or the CPU path. `Send + Sync`; clones share the device and its pipelines.
///
/// ```
/// let ctx = macheps::Context::new()?;
/// println!("{}: {}", ctx.choice().device.label(), ctx.choice().reason);
/// let y = macheps::softmax(&ctx, &[1.0f32, 2.0, 3.0], &[3])?;
/// assert!((y.iter().sum::<f32>() - 1.0).abs() < 1e-6);
/// # Ok::<(), macheps::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Context {
    choice: Choice,
    gpu: Option<Gpu>,
    cross_check: CrossCheck,
    on_device_lost: OnDeviceLost,
}

impl Context {
    /// The default device: what `MACHEPS_DEVICE` names, else a hardware GPU, else the CPU path.
    ///
    /// # Cost
    /// Loads the drivers and opens a device: make one and keep it.
    ///
    /// # Errors
    /// [`Error::NoDevice`](crate::Error::NoDevice) if `MACHEPS_DEVICE` names none, [`Error::DeviceRequest`](crate::Error::DeviceRequest)
    /// if the driver refuses to open it.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn new() -> Result<Context> {
        Context::with_options(ContextOptions::default())
    }

    /// The device that the options name.
    ///
    /// # Errors
    /// Those of [`Context::new`].
    ///
    /// ```
    /// use macheps::{Context, ContextOptions, DeviceSelector};
    /// let options = ContextOptions { device: DeviceSelector::Name("no such device".into()), ..Default::default() };
    /// assert!(matches!(Context::with_options(options), Err(macheps::Error::NoDevice { .. })));
    /// ```
    #[cfg(not(target_arch = "wasm32"))]
    pub fn with_options(options: ContextOptions) -> Result<Context> {
        pollster::block_on(Context::with_options_async(options))
    }

    /// As `with_options`, for any executor.
    pub async fn with_options_async(options: ContextOptions) -> Result<Context> {
        let (choice, adapter) = gpu::choose(&options.device).await?;
        log::info!("device: {} ({})", choice.device.label(), choice.reason);
        let gpu = match adapter {
            Some(a) => {
                let (features, limits) = (gpu::required_features(&a), gpu::recommended_limits(&a));
                Some(Gpu::open_with(&a, features, limits, options.timeout).await?)
            }
            None => None,
        };
        Ok(Context {
            choice,
            gpu,
            cross_check: options.cross_check,
            on_device_lost: options.on_device_lost,
        })
    }

    /// The CPU path; needs no driver and cannot fail.
    pub fn cpu() -> Context {
        let choice = Choice {
            device: DeviceInfo::cpu(),
            reason: "asked for".into(),
        };
        Context {
            choice,
            gpu: None,
            cross_check: CrossCheck::Off,
            on_device_lost: OnDeviceLost::Error,
        }
    }

    /// A device that is already open, one's own or a borrowed one ([`Gpu::borrow`]).
    pub fn from_gpu(gpu: Gpu) -> Context {
        let choice = Choice {
            device: gpu.info().clone(),
            reason: "given by the caller".into(),
        };
        Context {
            choice,
            gpu: Some(gpu),
            cross_check: CrossCheck::Off,
            on_device_lost: OnDeviceLost::Error,
        }
    }

    /// The same device with other checking.
    pub fn with_cross_check(mut self, cross_check: CrossCheck) -> Context {
        self.cross_check = cross_check;
        self
    }

    /// The same device with another answer to its loss.
    pub fn with_on_device_lost(mut self, on_device_lost: OnDeviceLost) -> Context {
        self.on_device_lost = on_device_lost;
        self
    }

    /// The device and why it was chosen.
    pub fn choice(&self) -> &Choice {
        &self.choice
    }

    /// The GPU, `None` on the CPU path.
    pub fn gpu(&self) -> Option<&Gpu> {
        self.gpu.as_ref()
    }

    /// Whether results are cross-checked.
    pub fn cross_check(&self) -> CrossCheck {
        self.cross_check
    }

    pub(crate) fn finishes_on_cpu(&self) -> bool {
        self.on_device_lost == OnDeviceLost::FinishOnCpu
    }
}

/// All devices, the CPU path first; their positions are what [`DeviceSelector::Index`] takes.
///
/// ```
/// assert_eq!(macheps::devices()[0].kind, macheps::DeviceKind::Cpu);
/// ```
#[cfg(not(target_arch = "wasm32"))]
pub fn devices() -> Vec<DeviceInfo> {
    pollster::block_on(devices_async())
}

/// All devices, the CPU path first, for any executor.
pub async fn devices_async() -> Vec<DeviceInfo> {
    let found = gpu::enumerate().await;
    std::iter::once(DeviceInfo::cpu())
        .chain(found.into_iter().map(|f| f.info))
        .collect()
}
