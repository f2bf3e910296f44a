//! Softmax inside a host program's frame: on the host's device, in its buffers, recorded into its encoder.
//!
//! The host makes the device and the buffers as it likes. macheps is bound once, outside the frame; in the frame it only
//! records, here twice with different parameters: nothing is allocated, submitted or waited for.
//!
//!     cargo run --release --example borrowed_device

use macheps::{BufferView, DType, Gpu, Softmax, SoftmaxKind, SoftmaxOptions, SoftmaxViews, wgpu};
use std::error::Error;

const ROWS: usize = 4;
const COLUMNS: usize = 6;
const FRAMES: usize = 3;

fn main() -> Result<(), Box<dyn Error>> {
    // The host's own set-up.
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let Ok(adapter) = pollster::block_on(instance.request_adapter(&wgpu::RequestAdapterOptions::default())) else {
        println!("There is no adapter on this machine, and this example is about one: nothing to show.");
        return Ok(());
    };
    let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
        label: Some("host"),
        // What macheps can make use of; it does without them too.
        required_features: macheps::required_features(&adapter),
        required_limits: macheps::recommended_limits(&adapter),
        ..Default::default()
    }))?;
    let info = adapter.get_info();
    println!("host device: {} ({})", info.name, info.backend);

    // One pool of the host's: logits, then two results, at offsets that are no multiple of anything.
    let count = ROWS * COLUMNS;
    let (logits_at, sharp_at, soft_at) = (0, count + 3, 2 * count + 5);
    let pool = device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("pool"),
        size: (4 * (3 * count + 8)) as u64,
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC,
        mapped_at_creation: false,
    });
    let staging = device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("staging"),
        size: pool.size(),
        usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });

    // Once, outside the frame.
    let gpu = Gpu::borrow(&device, &queue);
    let view = |at: usize| BufferView::new(&pool, DType::F32, &[ROWS, COLUMNS]).at(at);
    let bind = |scale: f32, to: usize| {
        let options = SoftmaxOptions {
            scale,
            ..Default::default()
        };
        Softmax::new(&gpu, SoftmaxKind::Softmax, DType::F32, options)?
            .bind(&SoftmaxViews::new(view(logits_at), view(to)))
    };
    let sharp = bind(4.0, sharp_at)?;
    let soft = bind(0.25, soft_at)?;

    for frame in 0..FRAMES {
        let logits: Vec<f32> = (0..count).map(|i| ((i * 7 + frame) % 11) as f32 * 0.3).collect();
        queue.write_buffer(&pool, 4 * logits_at as u64, bytemuck::cast_slice(&logits));

        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("frame") });
        sharp.record(&mut encoder);
        {
            // Into a pass that the host has open already.
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            soft.record_pass(&mut pass);
        }
        if frame + 1 == FRAMES {
            encoder.copy_buffer_to_buffer(&pool, 0, &staging, 0, pool.size());
        }
        queue.submit([encoder.finish()]);
    }

    // The host waits where and when it wants to.
    staging.map_async(wgpu::MapMode::Read, .., |_| {});
    device.poll(wgpu::PollType::wait_indefinitely())?;
    let bytes = staging.get_mapped_range(..)?.to_vec();
    let values: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes);
    println!("last of {FRAMES} frames, first row:");
    println!("  scale 4     {:.4?}", &values[sharp_at..][..COLUMNS]);
    println!("  scale 0.25  {:.4?}", &values[soft_at..][..COLUMNS]);
    for at in [sharp_at, soft_at] {
        for row in values[at..at + count].chunks(COLUMNS) {
            let sum: f32 = row.iter().sum();
            if (sum - 1.0).abs() > COLUMNS as f32 * f32::EPSILON {
                return Err(format!("a row sums to {sum}").into());
            }
        }
    }
    Ok(())
}
