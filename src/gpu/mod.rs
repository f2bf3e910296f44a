//! The device room: the only one that knows how wgpu works. It knows no operation.

mod adapters;
mod capabilities;
mod dispatch;
mod kernel;
mod plan;
pub mod probe;
pub(crate) mod source;
mod statistics;
mod timing;
mod view;
mod wait;

pub use adapters::{Choice, DeviceInfo, DeviceKind, DeviceSelector};
pub(crate) use adapters::{choose, enumerate};
pub use capabilities::{Capabilities, recommended_limits, required_features};
pub(crate) use dispatch::{Bind, Dispatches, pair};
use kernel::Origin;
pub use kernel::{Kernel, Recording, Step};
pub(crate) use plan::{Budget, Planned, Window, grid, plan_windows};
pub use statistics::Statistics;
pub(crate) use timing::Instant;
pub use timing::Timing;
pub use view::BufferView;
pub(crate) use view::check_workspace;
pub use wait::Readback;

use crate::error::{Error, Result};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A wgpu device and queue with what the kernels need to know about it, and the pipelines built for it so far.
/// Cheap to clone; `Send + Sync`.
#[derive(Clone)]
pub struct Gpu {
    inner: Arc<Inner>,
}

struct Inner {
    device: wgpu::Device,
    queue: wgpu::Queue,
    info: DeviceInfo,
    capabilities: Capabilities,
    timeout: Duration,
    /// Set by the lost-callback of an owned device, or when a wait finds the device gone.
    lost: Arc<Mutex<Option<String>>>,
    /// First uncaptured error of an owned device.
    uncaptured: Arc<Mutex<Option<String>>>,
    kernels: Mutex<HashMap<String, Arc<Kernel>>>,
    counters: statistics::Counters,
    /// Replacements made in every shader before it is built; empty but in tests that plant bugs.
    edits: Vec<(String, String)>,
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gpu")
            .field("info", &self.inner.info)
            .finish_non_exhaustive()
    }
}

/// A lock whose holder panicked still guards sound data here: every critical section is a single insertion or read.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long a wait may last before it becomes [`Error::Timeout`].
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(300);

impl Gpu {
    /// Opens a device of its own on `adapter`, with [`required_features`] and [`recommended_limits`].
    pub async fn open(adapter: &wgpu::Adapter) -> Result<Gpu> {
        Gpu::open_with(
            adapter,
            required_features(adapter),
            recommended_limits(adapter),
            DEFAULT_TIMEOUT,
        )
        .await
    }

    /// Opens a device of its own with chosen features, limits and patience.
    pub async fn open_with(
        adapter: &wgpu::Adapter,
        features: wgpu::Features,
        limits: wgpu::Limits,
        timeout: Duration,
    ) -> Result<Gpu> {
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("macheps"),
            required_features: features,
            required_limits: limits,
            experimental_features: wgpu::ExperimentalFeatures::disabled(),
            memory_hints: wgpu::MemoryHints::Performance,
            trace: wgpu::Trace::Off,
        };
        let (device, queue) = adapter
            .request_device(&descriptor)
            .await
            .map_err(|e| Error::DeviceRequest {
                adapter: adapter.get_info().name,
                reason: e.to_string(),
            })?;
        let gpu = Gpu::wrap(device, queue, timeout);
        let lost = gpu.inner.lost.clone();
        gpu.device().set_device_lost_callback(move |reason, message| {
            lock(&lost).get_or_insert(format!("{reason:?}: {message}"));
        });
        let uncaptured = gpu.inner.uncaptured.clone();
        gpu.device().on_uncaptured_error(Arc::new(move |e: wgpu::Error| {
            log::error!("wgpu: {e}");
            // One bad module gives several errors in a row; the first is the cause.
            lock(&uncaptured).get_or_insert(e.to_string());
        }));
        Ok(gpu)
    }

    /// Works on a device and queue that somebody else owns. No callback is set and recording never polls or submits;
    /// only the blocking calls (downloads, one-shots) do.
    pub fn borrow(device: &wgpu::Device, queue: &wgpu::Queue) -> Gpu {
        Gpu::wrap(device.clone(), queue.clone(), DEFAULT_TIMEOUT)
    }

    fn wrap(device: wgpu::Device, queue: wgpu::Queue, timeout: Duration) -> Gpu {
        let info = DeviceInfo::of(1, &device.adapter_info(), device.features(), &device.limits());
        let capabilities = Capabilities::of(&device, info.kind);
        Gpu {
            inner: Arc::new(Inner {
                device,
                queue,
                info,
                capabilities,
                timeout,
                lost: Arc::default(),
                uncaptured: Arc::default(),
                kernels: Mutex::default(),
                counters: Default::default(),
                edits: Vec::new(),
            }),
        }
    }

    /// The same device with every shader edited before it is built, for tests that plant bugs and want them caught. A
    /// shader that lacks the text is built as it is.
    #[doc(hidden)]
    pub fn with_shader_edits(&self, edits: &[(&str, &str)]) -> Gpu {
        let inner = &self.inner;
        Gpu {
            inner: Arc::new(Inner {
                device: inner.device.clone(),
                queue: inner.queue.clone(),
                info: inner.info.clone(),
                capabilities: inner.capabilities.clone(),
                timeout: inner.timeout,
                lost: inner.lost.clone(),
                uncaptured: inner.uncaptured.clone(),
                kernels: Mutex::default(),
                counters: Default::default(),
                edits: edits
                    .iter()
                    .map(|(from, to)| (from.to_string(), to.to_string()))
                    .collect(),
            }),
        }
    }

    /// The same device with other capabilities, for tests: narrower ones, as if features were missing, of the paths that then
    /// serve; wider ones where the device can do more than wgpu knows.
    #[doc(hidden)]
    pub fn with_capabilities(&self, change: impl FnOnce(&mut Capabilities)) -> Gpu {
        let mut gpu = self.with_shader_edits(&[]);
        if let Some(inner) = Arc::get_mut(&mut gpu.inner) {
            change(&mut inner.capabilities);
        }
        gpu
    }

    /// Whether both stand for one opened or borrowed device. wgpu's own comparison goes by numbers, which devices of two
    /// wgpu instances may share.
    pub(crate) fn same_device(&self, other: &Gpu) -> bool {
        Arc::ptr_eq(&self.inner.lost, &other.inner.lost)
    }

    /// Whether both stand for one device and build the same kernels: what is bound for one serves the other.
    pub(crate) fn same_kernels(&self, other: &Gpu) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// The wgpu device.
    pub fn device(&self) -> &wgpu::Device {
        &self.inner.device
    }

    /// The wgpu queue.
    pub fn queue(&self) -> &wgpu::Queue {
        &self.inner.queue
    }

    /// Name, backend and driver. Its `index` is the place in the list of devices only for contexts made from that list.
    pub fn info(&self) -> &DeviceInfo {
        &self.inner.info
    }

    /// What the device can do.
    pub fn capabilities(&self) -> &Capabilities {
        &self.inner.capabilities
    }

    #[cfg_attr(
        target_arch = "wasm32",
        expect(dead_code, reason = "in a browser the event loop does the waiting")
    )]
    pub(crate) fn timeout(&self) -> Duration {
        self.inner.timeout
    }

    fn counters(&self) -> &statistics::Counters {
        &self.inner.counters
    }

    /// Whether the device is known to be lost.
    pub fn is_lost(&self) -> bool {
        lock(&self.inner.lost).is_some()
    }

    /// The error for a lost device; marks it as lost.
    pub(crate) fn lost_error(&self) -> Error {
        let mut lost = lock(&self.inner.lost);
        let reason = lost
            .get_or_insert_with(|| "it stopped answering or was destroyed".into())
            .clone();
        Error::DeviceLost { reason }
    }

    /// The first error that wgpu reported since the last call, for owned devices.
    pub(crate) fn take_error(&self) -> Option<String> {
        lock(&self.inner.uncaptured).take()
    }

    /// Fails if the device is lost.
    pub(crate) fn check_alive(&self) -> Result<()> {
        if self.is_gone() { Err(self.lost_error()) } else { Ok(()) }
    }

    /// Whether the device is lost, also where no callback has said so: that of a destroyed device comes only with the next
    /// poll, and those of a borrowed one are its owner's.
    fn is_gone(&self) -> bool {
        self.is_lost() || !self.answers()
    }

    /// Whether the device still refuses what is wrong. A lost one takes everything in silence, so it is asked for a buffer
    /// that nothing could be done with.
    fn answers(&self) -> bool {
        #[cfg(not(target_arch = "wasm32"))]
        {
            self.counters().calls.count();
            let scope = self.device().push_error_scope(wgpu::ErrorFilter::Validation);
            let _useless = self.device().create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: 4,
                usage: wgpu::BufferUsages::empty(),
                mapped_at_creation: false,
            });
            pollster::block_on(scope.pop()).is_some()
        }
        #[cfg(target_arch = "wasm32")]
        true
    }

    /// The error for something that wgpu refused. If the device is gone, that is why.
    pub(crate) fn refused(&self, message: String) -> Error {
        if self.is_gone() {
            return self.lost_error();
        }
        let lines: Vec<&str> = message.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let message = lines.join(" ");
        // wgpu's own words are the only way to tell whose a buffer is.
        if message.contains("doesn't match") && message.contains("Device with") {
            return Error::Unsupported {
                what: "a buffer of another device".into(),
                reason: format!("all views of a call belong to the device that it is bound on ({message})"),
            };
        }
        Error::Wgpu(message)
    }

    /// Submits; fails if the device was lost before it took the commands.
    pub(crate) fn submit(&self, finish: impl FnOnce() -> wgpu::CommandBuffer) -> Result<wgpu::SubmissionIndex> {
        self.counters().submissions.count();
        let submission = self.scoped(|| self.queue().submit([finish()]))?;
        // A lost device drops commands in silence. One that lives now lived when it took them.
        self.check_alive()?;
        Ok(submission)
    }

    /// Writes into a buffer, ahead of the next submission.
    pub(crate) fn write(&self, buffer: &wgpu::Buffer, offset: u64, bytes: &[u8]) -> Result<()> {
        self.scoped(|| self.queue().write_buffer(buffer, offset, bytes))
    }

    /// A buffer of `size` bytes, rounded up to whole words; too large a size is a typed error.
    pub fn create_buffer(&self, label: &str, size: u64, usage: wgpu::BufferUsages) -> Result<wgpu::Buffer> {
        let size = size.max(16).next_multiple_of(4);
        if size > self.capabilities().max_buffer {
            return Err(Error::Limit {
                what: "bytes in one buffer",
                need: size,
                have: self.capabilities().max_buffer,
            });
        }
        let descriptor = wgpu::BufferDescriptor {
            label: Some(label),
            size,
            usage,
            mapped_at_creation: false,
        };
        self.scoped(|| self.device().create_buffer(&descriptor))
    }

    /// A storage buffer filled with `bytes`.
    pub fn upload(&self, label: &str, bytes: &[u8]) -> Result<wgpu::Buffer> {
        use wgpu::BufferUsages as U;
        let buffer = self.create_buffer(label, bytes.len() as u64, U::STORAGE | U::COPY_DST | U::COPY_SRC)?;
        self.check_alive()?;
        // `write_buffer` takes whole words.
        let whole = bytes.len() / 4 * 4;
        self.write(&buffer, 0, &bytes[..whole])?;
        if whole < bytes.len() {
            let mut word = [0u8; 4];
            word[..bytes.len() - whole].copy_from_slice(&bytes[whole..]);
            self.write(&buffer, whole as u64, &word)?;
        }
        Ok(buffer)
    }

    /// Runs `create` and turns what wgpu has against it into an error, also on borrowed devices, whose own handler
    /// must not hear of it. In a browser errors come later, through the uncaptured handler.
    pub(crate) fn scoped<T>(&self, create: impl FnOnce() -> T) -> Result<T> {
        self.counters().calls.count();
        #[cfg(not(target_arch = "wasm32"))]
        {
            let memory = self.device().push_error_scope(wgpu::ErrorFilter::OutOfMemory);
            let validation = self.device().push_error_scope(wgpu::ErrorFilter::Validation);
            let made = create();
            let first = pollster::block_on(validation.pop());
            match first.or(pollster::block_on(memory.pop())) {
                Some(e) => Err(self.refused(e.to_string())),
                None => Ok(made),
            }
        }
        #[cfg(target_arch = "wasm32")]
        Ok(create())
    }

    /// The kernel of this source, one of the crate's own, built at its first use and shared from then on.
    pub(crate) fn kernel(&self, label: &str, source: &str, entry: &str) -> Result<Arc<Kernel>> {
        self.shared_kernel(label, source, entry, Origin::Crate)
    }

    fn shared_kernel(&self, label: &str, source: &str, entry: &str, origin: Origin) -> Result<Arc<Kernel>> {
        let edits = self.inner.edits.iter();
        let edited = edits.fold(source.to_string(), |text, (from, to)| text.replace(from, to));
        let origin = match origin {
            Origin::Crate if edited != source => Origin::Edited,
            origin => origin,
        };
        let source = &edited;
        let key = format!("{entry} {origin:?}\n{source}");
        if let Some(kernel) = lock(&self.inner.kernels).get(&key) {
            return Ok(kernel.clone());
        }
        // Built outside the lock: two threads may both build it, and the first to finish is kept.
        let kernel = Arc::new(Kernel::build(self, label, source, entry, origin)?);
        Ok(lock(&self.inner.kernels).entry(key).or_insert(kernel).clone())
    }

    /// Pipelines built so far.
    pub fn kernel_count(&self) -> usize {
        lock(&self.inner.kernels).len()
    }

    /// Runs one kernel once on host data: every storage binding of the shader is given by name as bytes, and the one
    /// named `output` comes back. For probes and tests; operations keep their data on the device.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn run_once(
        &self,
        source: &str,
        entry: &str,
        bindings: &[(&str, &[u8])],
        output: &str,
        workgroups: u32,
    ) -> Result<Vec<u8>> {
        self.run_once_start(source, entry, bindings, output, workgroups)?.wait()
    }

    /// [`Gpu::run_once`] up to the point where one waits.
    pub fn run_once_start(
        &self,
        source: &str,
        entry: &str,
        bindings: &[(&str, &[u8])],
        output: &str,
        workgroups: u32,
    ) -> Result<Readback> {
        let kernel = self.shared_kernel("macheps run once", source, entry, Origin::Foreign)?;
        let mut buffers = Vec::new();
        for (name, bytes) in bindings {
            let usage = wgpu::BufferUsages::COPY_DST
                | if kernel.is_uniform(name) {
                    wgpu::BufferUsages::UNIFORM
                } else {
                    wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC
                };
            let buffer = self.create_buffer(name, bytes.len() as u64, usage)?;
            self.write(&buffer, 0, bytes)?;
            buffers.push((*name, buffer));
        }
        let resources: Vec<_> = buffers.iter().map(|(name, b)| (*name, b.as_entire_binding())).collect();
        let bind_group = kernel.bind(self, &resources)?;
        let mut encoder = self.device().create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            pass.set_pipeline(&kernel.pipeline);
            pass.set_bind_group(0, &bind_group, &[]);
            pass.dispatch_workgroups(workgroups, 1, 1);
        }
        let (_, result) = buffers
            .iter()
            .find(|(name, _)| *name == output)
            .ok_or_else(|| Error::shape("output binding", "one of the bindings given", output.to_string()))?;
        let len = bindings
            .iter()
            .find(|(name, _)| *name == output)
            .map_or(0, |(_, b)| b.len() as u64);
        self.read_back(encoder, result, len)
    }
}
