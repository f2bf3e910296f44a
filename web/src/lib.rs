//! What the page asks of Rust: a device, the probe, cases of verify and bench one by one, and smoke on a canvas.
//!
//! Tables cross to JavaScript as JSON text, so that the page needs nothing but `JSON.parse`. What fails in a call rejects or
//! throws there; what fails between calls goes to the function that [`Host::open`] was given.

#![cfg(target_arch = "wasm32")]

mod failure;
mod smoke;

use js_sys::Function;
use macheps::bench::{self, Workload};
use macheps::verify::{self, Case};
use macheps::{Context, Gpu};
use serde_json::json;
use smoke::Smoke;
use std::time::Duration;
use wasm_bindgen::prelude::*;
use web_sys::HtmlCanvasElement;

/// Operations that the bench times, the first quick workload of each.
const TIMED: [&str; 8] = [
    "softmax",
    "cross_entropy_fused",
    "sum",
    "layer_norm",
    "adamw",
    "grid_stencil",
    "spmv",
    "conjugate_gradient",
];

/// Time for each of them and the copy that it is held against.
const BUDGET: Duration = Duration::from_millis(500);

/// A WebGPU device that the page owns and macheps borrows.
#[wasm_bindgen]
pub struct Host {
    instance: wgpu::Instance,
    device: wgpu::Device,
    queue: wgpu::Queue,
    context: Context,
    cases: Vec<Box<dyn Case>>,
    workloads: Vec<Box<dyn Workload>>,
}

#[wasm_bindgen]
impl Host {
    /// Opens the browser's adapter. `report` is called with a text for every failure that no call can return: a lost device,
    /// an error that WebGPU finds later, a panic.
    pub async fn open(report: Function) -> Result<Host, JsError> {
        failure::report_to(report);
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let options = wgpu::RequestAdapterOptions {
            power_preference: wgpu::PowerPreference::HighPerformance,
            ..Default::default()
        };
        let adapter = instance.request_adapter(&options).await?;
        let (device, queue) = macheps_fluid::open_device(&adapter).await?;
        failure::watch(&device);
        let mut wanted = TIMED.to_vec();
        let mut workloads = bench::cases(true, None);
        workloads.retain(|workload| {
            let place = wanted.iter().position(|op| *op == workload.op());
            place.map(|place| wanted.swap_remove(place)).is_some()
        });
        Ok(Host {
            context: Context::from_gpu(Gpu::borrow(&device, &queue)),
            cases: verify::cases(None),
            workloads,
            instance,
            device,
            queue,
        })
    }

    /// The device as macheps sees it: features it uses, and limits.
    pub fn device(&self) -> String {
        let (features, limits) = (self.device.features(), self.device.limits());
        let has = |feature| features.contains(feature);
        json!({
            "info": self.context.choice().device,
            "features": [
                { "name": "shader-f16", "granted": has(wgpu::Features::SHADER_F16),
                  "use": "f16 is stored natively; without it, in packed words" },
                { "name": "timestamp-query", "granted": has(wgpu::Features::TIMESTAMP_QUERY),
                  "use": "the bench has the device's own clock; without it, the wall's" },
                { "name": "subgroups", "granted": has(wgpu::Features::SUBGROUP),
                  "use": "reductions in registers; without them, which wgpu cannot have in browsers yet, in workgroup memory" },
            ],
            "limits": [
                { "name": "largest storage binding", "value": limits.max_storage_buffer_binding_size, "unit": "bytes" },
                { "name": "largest buffer", "value": limits.max_buffer_size, "unit": "bytes" },
                { "name": "workgroup memory", "value": limits.max_compute_workgroup_storage_size, "unit": "bytes" },
                { "name": "invocations a workgroup", "value": limits.max_compute_invocations_per_workgroup, "unit": "" },
                { "name": "workgroups a dimension", "value": limits.max_compute_workgroups_per_dimension, "unit": "" },
                { "name": "storage buffers a stage", "value": limits.max_storage_buffers_per_shader_stage, "unit": "" },
                { "name": "alignment of storage offsets", "value": limits.min_storage_buffer_offset_alignment, "unit": "bytes" },
            ],
        })
        .to_string()
    }

    /// The numerics probe: facts with a group, a question, an answer in words and a verdict.
    pub async fn probe(&self) -> Result<String, JsError> {
        let report = Gpu::borrow(&self.device, &self.queue).probe_async().await?;
        let facts = report.facts.iter().map(|fact| {
            json!({
                "id": fact.id,
                "group": fact.group,
                "what": fact.what,
                "value": fact.value.to_string(),
                "verdict": fact.verdict,
            })
        });
        Ok(json!(facts.collect::<Vec<_>>()).to_string())
    }

    /// Has macheps choose kernels from now on as if the device had subgroups of so many lanes (1 for none), native f16 or
    /// not, and were a software driver or not: for tests of what the browser's own choice would leave out. The device
    /// must really be able to do it.
    pub fn assume(&mut self, subgroup: u32, shader_f16: bool, software: bool) {
        let gpu = Gpu::borrow(&self.device, &self.queue).with_capabilities(|c| {
            c.subgroup = subgroup;
            c.shader_f16 = shader_f16;
            c.software = software;
        });
        self.context = Context::from_gpu(gpu);
    }

    /// The operations of verify's cases, one for each case.
    pub fn cases(&self) -> Vec<String> {
        self.cases.iter().map(|case| case.op().into()).collect()
    }

    /// Computes a case on the device and compares it with the f64 oracle.
    pub async fn verify(&self, case: usize) -> Result<String, JsError> {
        let case = self.cases.get(case).ok_or_else(|| JsError::new("no such case"))?;
        let report = verify::run_async(&self.context, case.as_ref()).await;
        Ok(serde_json::to_string(&report)?)
    }

    /// The operations of bench's workloads, one for each workload.
    pub fn workloads(&self) -> Vec<String> {
        self.workloads.iter().map(|workload| workload.op().into()).collect()
    }

    /// Verifies a workload, times it, and times a copy of as many bytes in turns with it.
    pub async fn bench(&self, workload: usize) -> Result<String, JsError> {
        let workload = self
            .workloads
            .get(workload)
            .ok_or_else(|| JsError::new("no such workload"))?;
        let report = bench::run_async(&self.context, workload.as_ref(), BUDGET).await?;
        let mut row = serde_json::to_value(&report)?;
        row["gbps"] = report.gbps().into();
        row["fraction_of_copy"] = report.fraction_of_copy().into();
        Ok(row.to_string())
    }

    /// Smoke of `side` by `side` cells that draws into a canvas, with so many dispatches a frame for its pressure.
    pub fn smoke(&self, canvas: HtmlCanvasElement, side: usize, dispatches: usize) -> Result<Smoke, JsError> {
        Smoke::new(&self.instance, &self.device, &self.queue, canvas, side, dispatches)
    }
}
