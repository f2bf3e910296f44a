//! Bringing things to the host: for pictures and figures, never for a frame. These calls wait.

use crate::error::{FluidError, Result};

fn device_error(error: impl std::fmt::Display) -> FluidError {
    FluidError::Device(error.to_string())
}

/// Submits what copies into a staging buffer, waits, and gives the bytes.
fn read_staging(
    device: &wgpu::Device,
    queue: &wgpu::Queue,
    encoder: wgpu::CommandEncoder,
    staging: &wgpu::Buffer,
) -> Result<Vec<u8>> {
    let submission = queue.submit([encoder.finish()]);
    map(device, submission, staging)
}

fn staging(device: &wgpu::Device, size: u64) -> wgpu::Buffer {
    device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("staging"),
        size,
        usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    })
}

/// Waits for a submission and reads a staging buffer that it wrote.
fn map(device: &wgpu::Device, submission: wgpu::SubmissionIndex, staging: &wgpu::Buffer) -> Result<Vec<u8>> {
    let (send, receive) = std::sync::mpsc::channel();
    staging.map_async(wgpu::MapMode::Read, .., move |result| {
        // Nobody listens any more if the wait has failed.
        let _ = send.send(result);
    });
    wait(device, submission)?;
    receive.recv().map_err(device_error)?.map_err(device_error)?;
    let bytes = staging.get_mapped_range(..).map_err(device_error)?.to_vec();
    staging.unmap();
    Ok(bytes)
}

/// Waits until a submission is done.
///
/// # Errors
/// [`FluidError::Device`].
pub fn wait(device: &wgpu::Device, submission: wgpu::SubmissionIndex) -> Result<()> {
    let poll = wgpu::PollType::Wait {
        submission_index: Some(submission),
        timeout: None,
    };
    device.poll(poll).map(|_| ()).map_err(device_error)
}

/// The bytes of a buffer that may be copied from.
///
/// # Errors
/// [`FluidError::Device`].
pub fn read_buffer(device: &wgpu::Device, queue: &wgpu::Queue, buffer: &wgpu::Buffer) -> Result<Vec<u8>> {
    let staging = staging(device, buffer.size());
    let mut encoder = device.create_command_encoder(&Default::default());
    encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, buffer.size());
    read_staging(device, queue, encoder, &staging)
}

/// A texture to draw into, and a way to the host for what was drawn.
pub struct Screen {
    texture: wgpu::Texture,
    view: wgpu::TextureView,
    staging: wgpu::Buffer,
    /// Bytes from one line to the next, which copies want at a multiple of 256.
    pitch: u32,
}

impl Screen {
    /// Its format.
    pub const FORMAT: wgpu::TextureFormat = wgpu::TextureFormat::Rgba8Unorm;

    /// Of so many pixels.
    pub fn new(device: &wgpu::Device, width: u32, height: u32) -> Screen {
        let texture = device.create_texture(&wgpu::TextureDescriptor {
            label: Some("screen"),
            size: wgpu::Extent3d {
                width,
                height,
                depth_or_array_layers: 1,
            },
            mip_level_count: 1,
            sample_count: 1,
            dimension: wgpu::TextureDimension::D2,
            format: Screen::FORMAT,
            usage: wgpu::TextureUsages::RENDER_ATTACHMENT | wgpu::TextureUsages::COPY_SRC,
            view_formats: &[],
        });
        let pitch = (4 * width).next_multiple_of(wgpu::COPY_BYTES_PER_ROW_ALIGNMENT);
        Screen {
            view: texture.create_view(&Default::default()),
            texture,
            staging: staging(device, u64::from(pitch) * u64::from(height)),
            pitch,
        }
    }

    /// What to draw into.
    pub fn view(&self) -> &wgpu::TextureView {
        &self.view
    }

    /// Records the way to the host into the frame that draws.
    pub fn record_copy(&self, encoder: &mut wgpu::CommandEncoder) {
        encoder.copy_texture_to_buffer(
            self.texture.as_image_copy(),
            wgpu::TexelCopyBufferInfo {
                buffer: &self.staging,
                layout: wgpu::TexelCopyBufferLayout {
                    offset: 0,
                    bytes_per_row: Some(self.pitch),
                    rows_per_image: None,
                },
            },
            self.texture.size(),
        );
    }

    /// Waits for the frame whose copy was recorded, and gives its pixels: red, green, blue, line by line from the top.
    ///
    /// # Errors
    /// [`FluidError::Device`].
    pub fn read(&self, device: &wgpu::Device, submission: wgpu::SubmissionIndex) -> Result<Vec<u8>> {
        let bytes = map(device, submission, &self.staging)?;
        let size = self.texture.size();
        let lines = bytes.chunks_exact(self.pitch as usize).take(size.height as usize);
        let pixels = lines.flat_map(|line| line[..4 * size.width as usize].chunks_exact(4));
        Ok(pixels.flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect())
    }
}
