//! Files: single pictures, the animation, and a folder that they get into whole or not at all.

use crate::failure::Failure;
use std::path::{Path, PathBuf};

/// A folder that files can be written to.
pub struct Folder(PathBuf);

impl Folder {
    /// Makes it if it is not there, and tries it.
    pub fn open(path: &Path) -> Result<Folder, Failure> {
        std::fs::create_dir_all(path).map_err(|error| Failure::Unwritable {
            folder: path.into(),
            what: "anything".into(),
            error,
        })?;
        let folder = Folder(path.into());
        let trial = path.join(".smoke-trial");
        std::fs::write(&trial, []).map_err(|error| folder.unwritable("anything", error))?;
        std::fs::remove_file(&trial).map_err(|error| folder.unwritable("anything", error))?;
        Ok(folder)
    }

    fn unwritable(&self, what: &str, error: std::io::Error) -> Failure {
        Failure::Unwritable {
            folder: self.0.clone(),
            what: what.into(),
            error,
        }
    }

    /// Writes a file under another name first, so that nobody ever sees half of it.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Failure> {
        let (temporary, path) = (self.0.join(format!(".{name}.part")), self.0.join(name));
        let written = std::fs::write(&temporary, bytes).and_then(|()| std::fs::rename(&temporary, &path));
        written.map_err(|error| {
            // What is left of it is of no use; if it cannot be removed either, the first error says enough.
            let _ = std::fs::remove_file(&temporary);
            self.unwritable(name, error)
        })
    }
}

/// A picture of red, green and blue bytes as PNG.
pub fn png(pixels: &[u8], width: u32, height: u32) -> Result<Vec<u8>, Failure> {
    let failed = |error: png::EncodingError| Failure::Encode {
        what: "a PNG",
        error: error.to_string(),
    };
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(pixels).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(bytes)
}

/// Colours of the animation, the last of which stands for "as in the frame before".
const COLOURS: usize = 128;

/// Frames of an animation, a pixel a cell.
pub struct Animation {
    width: usize,
    height: usize,
    /// Hundredths of a second.
    delay: u32,
    frames: Vec<Vec<u8>>,
}

impl Animation {
    pub fn new([width, height]: [usize; 2], delay: u32) -> Animation {
        Animation {
            width,
            height,
            delay,
            frames: Vec::new(),
        }
    }

    /// Takes a picture of `scale` by `scale` pixels a cell.
    pub fn add(&mut self, pixels: &[u8], scale: u32) {
        let scale = scale as usize;
        let mut small = Vec::with_capacity(3 * self.width * self.height);
        for y in 0..self.height {
            for x in 0..self.width {
                for channel in 0..3 {
                    let sum: usize = (0..scale * scale)
                        .map(|i| {
                            let (px, py) = (x * scale + i % scale, y * scale + i / scale);
                            usize::from(pixels[3 * (px + self.width * scale * py) + channel])
                        })
                        .sum();
                    small.push((sum / (scale * scale)) as u8);
                }
            }
        }
        self.frames.push(small);
    }

    /// As GIF, with one palette for all frames: palettes of their own would make it flicker.
    pub fn encode(&self) -> Result<Vec<u8>, Failure> {
        let failed = |error: gif::EncodingError| Failure::Encode {
            what: "the animation",
            error: error.to_string(),
        };
        let same = (COLOURS - 1) as u8;
        let samples: Vec<u8> = self
            .frames
            .iter()
            .flat_map(|frame| frame.chunks_exact(3).step_by(7))
            .flat_map(|pixel| [pixel[0], pixel[1], pixel[2], 255])
            .collect();
        let palette = color_quant::NeuQuant::new(3, COLOURS - 1, &samples);
        let mut colours = palette.color_map_rgb();
        colours.resize(3 * COLOURS, 0);

        let (width, height) = (self.width as u16, self.height as u16);
        let mut bytes = Vec::new();
        {
            let mut encoder = gif::Encoder::new(&mut bytes, width, height, &colours).map_err(failed)?;
            encoder.set_repeat(gif::Repeat::Infinite).map_err(failed)?;
            let mut shown: Vec<u8> = Vec::new();
            let mut known = std::collections::HashMap::new();
            for frame in &self.frames {
                let indices: Vec<u8> = frame
                    .chunks_exact(3)
                    .map(|p| {
                        *known
                            .entry([p[0], p[1], p[2]])
                            .or_insert_with(|| palette.index_of(&[p[0], p[1], p[2], 255]) as u8)
                    })
                    .collect();
                // What does not change need not be said again.
                let changes = if shown.is_empty() {
                    indices.clone()
                } else {
                    let pairs = indices.iter().zip(&shown);
                    pairs
                        .map(|(now, before)| if now == before { same } else { *now })
                        .collect()
                };
                encoder
                    .write_frame(&gif::Frame {
                        width,
                        height,
                        delay: self.delay.min(u32::from(u16::MAX)) as u16,
                        dispose: gif::DisposalMethod::Keep,
                        transparent: Some(same),
                        buffer: changes.into(),
                        ..Default::default()
                    })
                    .map_err(failed)?;
                shown = indices;
            }
        }
        Ok(bytes)
    }
}
