//! Every Vulkan adapter that this machine has, opened by the test as an application would, and given to Burn and macheps alike.
//!
//! `REQUIRE_ADAPTERS=llvmpipe,swiftshader` makes a missing one a failure; GL is none of this package's.

#[cfg(not(feature = "fusion"))]
use burn::backend::{BackendTensor, DispatchTensorKind};
use burn::tensor::wgpu::WgpuSetup;
use burn::tensor::{Device, FloatDType, IntDType, Tensor, TensorData};
use macheps::random::Random;
use macheps::{Gpu, wgpu};
use std::sync::OnceLock;

/// An adapter under test.
pub struct Adapter {
    /// Short name: `llvmpipe`, `swiftshader`, or the adapter's own.
    pub name: String,
    /// As Burn knows it, without autodiff.
    pub device: Device,
    /// As macheps does.
    pub gpu: Gpu,
    /// What both work with.
    pub setup: WgpuSetup,
}

impl Adapter {
    /// One more device of the same adapter, which macheps does not know yet.
    pub fn another_device(&self) -> (Device, WgpuSetup) {
        open(&self.setup.instance, self.setup.adapter.clone())
    }
}

fn open(instance: &wgpu::Instance, adapter: wgpu::Adapter) -> (Device, WgpuSetup) {
    // CubeCL asks the adapter, not the device, what it may use.
    let refused = wgpu::Features::MAPPABLE_PRIMARY_BUFFERS | wgpu::Features::all_experimental_mask();
    let descriptor = wgpu::DeviceDescriptor {
        required_features: adapter.features().difference(refused),
        required_limits: adapter.limits(),
        ..Default::default()
    };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).expect("the adapter's own limits");
    let setup = WgpuSetup {
        backend: adapter.get_info().backend,
        instance: instance.clone(),
        adapter,
        device,
        queue,
    };
    let device = Device::wgpu_options()
        .setup(setup.clone())
        .init()
        .expect("Burn takes the device");
    (device, setup)
}

fn attached(instance: &wgpu::Instance, adapter: wgpu::Adapter) -> Adapter {
    let name = adapter.get_info().name;
    let short = ["llvmpipe", "swiftshader"]
        .into_iter()
        .find(|short| name.to_lowercase().contains(short));
    let (device, setup) = open(instance, adapter);
    let gpu = macheps_burn::attach(&device, &setup).expect("they belong together");
    assert_eq!(gpu.device(), &setup.device);
    Adapter {
        name: short.map_or(name, String::from),
        device,
        gpu,
        setup,
    }
}

/// Burn on the CPU with f64 in the place of f32: what its autodiff gives without rounding to speak of.
pub fn exact() -> Device {
    static EXACT: OnceLock<Device> = OnceLock::new();
    let configured = || {
        let mut device = Device::flex();
        let types = (FloatDType::F64, IntDType::I64);
        device.configure(types).expect("before the first operation");
        device
    };
    EXACT.get_or_init(configured).clone()
}

/// The same values there.
pub fn exactly<const D: usize>(x: &Tensor<D>) -> Tensor<D> {
    let values: Vec<f64> = host(x).into_iter().map(f64::from).collect();
    Tensor::from_data(TensorData::new(values, x.dims()), &exact())
}

/// The elements of a tensor of f64.
pub fn host_f64<const D: usize>(x: &Tensor<D>) -> Vec<f64> {
    x.clone().into_data().try_into_vec().expect("f64")
}

/// All adapters; prints SKIPPED once a test if there are none.
pub fn all(test: &str) -> &'static [Adapter] {
    static ADAPTERS: OnceLock<Vec<Adapter>> = OnceLock::new();
    let adapters = ADAPTERS.get_or_init(|| {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
            backends: wgpu::Backends::VULKAN,
            ..wgpu::InstanceDescriptor::new_without_display_handle()
        });
        let found = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::VULKAN));
        let found: Vec<_> = found.into_iter().map(|adapter| attached(&instance, adapter)).collect();
        let required = std::env::var("REQUIRE_ADAPTERS").unwrap_or_default();
        for want in required.split(',').filter(|s| !s.is_empty() && *s != "gl") {
            assert!(
                found.iter().any(|a| a.name == want),
                "REQUIRE_ADAPTERS names {want}, which is not here"
            );
        }
        found
    });
    if adapters.is_empty() {
        skipped(test, "no Vulkan adapter on this machine");
    }
    adapters
}

/// Says something on a line of its own, past the test runner's capture of what passing tests print.
pub fn say(line: &str) {
    let line = format!("\n{line}\n");
    std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).expect("a standard error stream");
}

/// Says that a test, or a part of it, is skipped.
pub fn skipped(test: &str, why: &str) {
    say(&format!("SKIPPED: {test}: {why}"));
}

/// A tensor of normal numbers, the same for every seed.
pub fn normal<const D: usize>(seed: u64, shape: [usize; D], deviation: f64, device: &Device) -> Tensor<D> {
    let mut random = Random::new(seed);
    let count = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|_| (deviation * random.normal()) as f32).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// The elements in C order, whatever the layout.
pub fn host<const D: usize>(x: &Tensor<D>) -> Vec<f32> {
    x.clone().into_data().try_into_vec().expect("f32")
}

/// The gradient with respect to x of the sum of `weights * f(x)`.
pub fn gradient<const D: usize>(
    x: &Tensor<D>,
    weights: &Tensor<D>,
    f: impl FnOnce(Tensor<D>) -> Tensor<D>,
) -> Tensor<D> {
    let x = Tensor::from_inner(x.clone()).require_grad();
    let total = (f(x.clone()) * Tensor::from_inner(weights.clone())).sum();
    x.grad(&total.backward()).expect("x is a leaf")
}

/// Holds that a tensor does not begin where its allocation does. With fusion it is a promise, and there is nothing to look at yet.
pub fn assert_offset<const D: usize>(x: &Tensor<D>, otherwise: &str) {
    #[cfg(not(feature = "fusion"))]
    match x.clone().into_dispatch().kind {
        DispatchTensorKind::Cube(BackendTensor::Float(x)) => {
            assert_ne!(x.handle.offset_start.unwrap_or(0), 0, "{otherwise}")
        }
        _ => panic!("a float tensor on wgpu without autodiff"),
    }
    #[cfg(feature = "fusion")]
    let _ = (x, otherwise);
}
