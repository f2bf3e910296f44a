//! Trains a small network four times on handwritten digits: in f32; with everything in f16; in f16 with f32 master weights; and the
//! same with a loss scaler. Prints a table and draws the losses.
//!
//! ```sh
//! cargo run --release --example mixed_precision                          # writes mixed_precision.svg to the temporary folder
//! MACHEPS_DEVICE=gpu cargo run --release --example mixed_precision losses.svg
//! ```
//!
//! The network is linear, ReLU, linear, softmax. Its matrix products are plain loops in f32; whatever it stores (weights,
//! activations, gradients) is rounded to the storage type, as on hardware with 16-bit matrix units. Losses, their gradients, unscaling, the
//! finite test and the optimizer are this crate's.

use std::fmt::Write;
use std::path::PathBuf;

use macheps::ops::softmax;
use macheps::{
    AdamW, AdamWOptions, AdamWViews, BoundOptimizer, BoundUnscale, BufferView, Context, Element, Gradient, HostAdamW,
    HostLossScaler, LossScaler, LossScalerOptions, Result, SoftmaxInput, SoftmaxKind, SoftmaxOptions, Tensor, f16,
};

const PIXELS: usize = 64;
const HIDDEN: usize = 16;
const CLASSES: usize = 10;
const STEPS: usize = 300;
/// Digits that the loss is a mean over. Large models are trained with batches of millions of samples, spread over many devices: the
/// digits at hand stand for one device's share, and the others' are taken to be the same. AdamW does not mind by what
/// gradients are multiplied, but f16 does: its numbers end at 6e-8.
const BATCH: f32 = (1 << 22) as f32;
/// Every fifth digit is kept for the test.
const HELD_OUT: usize = 5;

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args()
        .nth(1)
        .map_or_else(|| std::env::temp_dir().join("mixed_precision.svg"), PathBuf::from);
    let context = Context::new()?;
    println!("device: {}", context.choice().device.label());
    let data = Digits::read()?;

    let constant = LossScalerOptions::constant(1.0);
    // The default interval of 2,000 steps suits long runs; this one is short.
    let dynamic = LossScalerOptions {
        growth_interval: 12,
        ..LossScalerOptions::default()
    };
    let runs = [
        train::<f32>("f32", &context, &data, constant, true)?,
        train::<f16>("f16, weights too, unscaled", &context, &data, constant, false)?,
        train::<f16>("f16, master weights, unscaled", &context, &data, constant, true)?,
        train::<f16>("f16, master weights, loss scaler", &context, &data, dynamic, true)?,
    ];

    println!(
        "{:<34} {:>12} {:>10} {:>8} {:>12}",
        "run", "last loss", "accuracy", "skipped", "last scale"
    );
    for run in &runs {
        println!(
            "{:<34} {:>12.3e} {:>9.1}% {:>8} {:>12}",
            run.name,
            run.losses.last().copied().unwrap_or(f64::NAN),
            100.0 * run.accuracy,
            run.skipped,
            format!("2^{}", run.scale.log2())
        );
    }
    std::fs::write(&path, draw(&runs))?;
    println!("losses drawn to {}", path.display());

    // What the example is to show: without a scaler the small gradients vanish and the loss stands still; with it the
    // run follows f32.
    let last = |i: usize| runs[i].losses.last().copied().unwrap_or(f64::NAN);
    assert!(last(3) < 2.0 * last(0), "with a scaler f16 follows f32");
    assert!(last(2) > 2.0 * last(3), "without one it stalls");
    assert!(last(1) > 2.0 * last(3), "and with 16-bit weights sooner");
    Ok(())
}

/// Images with pixels from 0 to 1, and what they show.
struct Digits {
    train: (Vec<f32>, Vec<usize>),
    test: (Vec<f32>, Vec<usize>),
}

impl Digits {
    fn read() -> std::io::Result<Digits> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/digits.txt");
        let bad = |line: usize| std::io::Error::other(format!("{path}:{line}: expected a digit and 64 pixels"));
        let mut digits = Digits {
            train: Default::default(),
            test: Default::default(),
        };
        for (i, line) in std::fs::read_to_string(path)?.lines().enumerate() {
            let (digit, pixels) = line.split_once(' ').ok_or_else(|| bad(i + 1))?;
            let part = if i % HELD_OUT == 0 {
                &mut digits.test
            } else {
                &mut digits.train
            };
            part.1.push(digit.parse().map_err(|_| bad(i + 1))?);
            let values: Option<Vec<f32>> = pixels
                .chars()
                .map(|c| c.to_digit(17).map(|v| v as f32 / 16.0))
                .collect();
            part.0
                .extend(values.filter(|v| v.len() == PIXELS).ok_or_else(|| bad(i + 1))?);
        }
        Ok(digits)
    }
}

/// How a run went.
struct Run {
    name: &'static str,
    losses: Vec<f64>,
    accuracy: f64,
    skipped: u32,
    scale: f32,
}

/// Weights of the first layer, its biases, and the same of the second.
const SIZES: [usize; 4] = [PIXELS * HIDDEN, HIDDEN, HIDDEN * CLASSES, CLASSES];

fn train<T: Element>(
    name: &'static str,
    context: &Context,
    data: &Digits,
    scaling: LossScalerOptions,
    masters: bool,
) -> Result<Run>
where
    for<'a> Gradient<'a>: From<&'a mut Vec<T>>,
{
    let mut optimizer = Optimizer::<T>::new(context, scaling, masters)?;
    let (images, labels) = &data.train;
    let rows = labels.len();
    let x: Vec<T> = round(images);
    let mut losses = Vec::new();
    for _ in 0..STEPS {
        let scale = optimizer.scale()?;
        let weights = optimizer.weights()?;
        // Forward.
        let hidden: Vec<T> = layer(&x, &weights[0], &weights[1], HIDDEN, true);
        let logits: Vec<T> = layer(&hidden, &weights[2], &weights[3], CLASSES, false);
        losses.push(mean_loss(context, &logits, labels)?);
        // The loss is the mean of -log_softmax at the label over the whole batch. Its gradient comes multiplied by the scale.
        let mut upstream = vec![T::default(); rows * CLASSES];
        for (row, &label) in labels.iter().enumerate() {
            upstream[row * CLASSES + label] = T::from_f32(-scale / BATCH);
        }
        let options = SoftmaxOptions::default();
        let shape = [rows, CLASSES];
        let input = SoftmaxInput::new(&logits, &shape);
        let d_logits = softmax::backward(context, SoftmaxKind::LogSoftmax, &input, &upstream, &options)?;
        // Backward.
        let (d_w2, d_b2) = weight_gradients(&hidden, &d_logits, HIDDEN, CLASSES);
        let d_hidden: Vec<T> = input_gradients(&d_logits, &weights[2], &hidden, HIDDEN, CLASSES);
        let (d_w1, d_b1) = weight_gradients(&x, &d_hidden, PIXELS, HIDDEN);
        optimizer.step([d_w1, d_b1, d_w2, d_b2])?;
    }
    let weights = optimizer.weights()?;
    let hidden: Vec<T> = layer(&round::<T>(&data.test.0), &weights[0], &weights[1], HIDDEN, true);
    let logits: Vec<T> = layer(&hidden, &weights[2], &weights[3], CLASSES, false);
    let right = logits
        .chunks(CLASSES)
        .zip(&data.test.1)
        .filter(|(row, label)| row.iter().all(|v| v.to_f32() <= row[**label].to_f32()))
        .count();
    let (skipped, scale) = optimizer.ended()?;
    Ok(Run {
        name,
        losses,
        accuracy: right as f64 / data.test.1.len() as f64,
        skipped,
        scale,
    })
}

/// Mean of -log_softmax at the labels. Its rounding to 16 bits would hide small losses, so it is taken in f32.
fn mean_loss<T: Element>(context: &Context, logits: &[T], labels: &[usize]) -> Result<f64> {
    let wide: Vec<f32> = logits.iter().map(|v| v.to_f32()).collect();
    let y = macheps::log_softmax(context, &wide, &[labels.len(), CLASSES])?;
    let sum: f64 = y
        .chunks(CLASSES)
        .zip(labels)
        .map(|(row, &label)| -f64::from(row[label]))
        .sum();
    Ok(sum / labels.len() as f64)
}

fn round<T: Element>(values: &[f32]) -> Vec<T> {
    values.iter().map(|&v| T::from_f32(v)).collect()
}

fn widen<T: Element>(values: &[T]) -> Vec<f32> {
    values.iter().map(|v| v.to_f32()).collect()
}

/// x W + b, accumulated in f32, with or without ReLU.
fn layer<T: Element>(x: &[T], w: &[T], b: &[T], outputs: usize, relu: bool) -> Vec<T> {
    let (x, w, b) = (widen(x), widen(w), widen(b));
    let inputs = w.len() / outputs;
    let mut y = Vec::with_capacity(x.len() / inputs * outputs);
    let mut sums = vec![0f32; outputs];
    for row in x.chunks(inputs) {
        sums.copy_from_slice(&b);
        for (value, weights) in row.iter().zip(w.chunks(outputs)) {
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum += value * weight;
            }
        }
        y.extend(sums.iter().map(|&s| T::from_f32(if relu { s.max(0.0) } else { s })));
    }
    y
}

/// Gradients of a layer's weights and biases.
fn weight_gradients<T: Element>(x: &[T], dy: &[T], inputs: usize, outputs: usize) -> (Vec<T>, Vec<T>) {
    let (x, dy) = (widen(x), widen(dy));
    let (mut dw, mut db) = (vec![0f32; inputs * outputs], vec![0f32; outputs]);
    for (row, d_row) in x.chunks(inputs).zip(dy.chunks(outputs)) {
        for (value, sums) in row.iter().zip(dw.chunks_mut(outputs)) {
            for (sum, d) in sums.iter_mut().zip(d_row) {
                *sum += value * d;
            }
        }
        for (sum, d) in db.iter_mut().zip(d_row) {
            *sum += d;
        }
    }
    (round(&dw), round(&db))
}

/// Gradient of a layer's input, which is the output of a ReLU.
fn input_gradients<T: Element>(dy: &[T], w: &[T], x: &[T], inputs: usize, outputs: usize) -> Vec<T> {
    let (dy, w) = (widen(dy), widen(w));
    let mut dx = Vec::with_capacity(x.len());
    for (d_row, x_row) in dy.chunks(outputs).zip(x.chunks(inputs)) {
        for (weights, value) in w.chunks(outputs).zip(x_row) {
            let sum: f32 = weights.iter().zip(d_row).map(|(w, d)| w * d).sum();
            dx.push(T::from_f32(if value.to_f32() > 0.0 { sum } else { 0.0 }));
        }
    }
    dx
}

/// Uniform numbers for the first weights, scaled by the number of inputs (Glorot and Bengio 2010).
fn first_weights() -> [Vec<f32>; 4] {
    let mut state = 2018u64;
    let mut draw = |count: usize, inputs: usize, outputs: usize| -> Vec<f32> {
        let reach = (6.0 / (inputs + outputs) as f64).sqrt();
        (0..count)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let unit = (state >> 11) as f64 / (1u64 << 53) as f64;
                ((2.0 * unit - 1.0) * reach) as f32
            })
            .collect()
    };
    [
        draw(SIZES[0], PIXELS, HIDDEN),
        vec![0.0; HIDDEN],
        draw(SIZES[2], HIDDEN, CLASSES),
        vec![0.0; CLASSES],
    ]
}

/// Loss scaler and AdamW where the context computes.
enum Optimizer<T: Element> {
    Host(Box<OnHost<T>>),
    Device(Box<OnDevice<T>>),
}

/// Weight, first moment, second moment, copy in the storage type.
type Parameters<T> = (Vec<f32>, Vec<f32>, Vec<f32>, Vec<T>);

struct OnHost<T> {
    scaler: HostLossScaler,
    adamw: HostAdamW,
    tensors: Vec<Parameters<T>>,
    masters: bool,
}

struct OnDevice<T: Element> {
    context: Context,
    scaler: LossScaler,
    unscale: BoundUnscale,
    adamw: BoundOptimizer,
    gradients: Vec<BufferView>,
    copies: Vec<Tensor<T>>,
}

const ADAMW: AdamWOptions = AdamWOptions {
    learning_rate: 0.02,
    beta1: 0.9,
    beta2: 0.999,
    epsilon: 1e-8,
    weight_decay: 0.0,
};

impl<T: Element> Optimizer<T>
where
    for<'a> Gradient<'a>: From<&'a mut Vec<T>>,
{
    fn new(context: &Context, scaling: LossScalerOptions, masters: bool) -> Result<Self> {
        let weights = first_weights();
        let Some(gpu) = context.gpu().filter(|_| masters) else {
            return Ok(Optimizer::Host(Box::new(OnHost {
                scaler: HostLossScaler::new(scaling)?,
                adamw: HostAdamW::new(ADAMW)?,
                tensors: weights
                    .into_iter()
                    .map(|w| (w.clone(), vec![0.0; w.len()], vec![0.0; w.len()], round(&w)))
                    .collect(),
                masters,
            })));
        };
        let scaler = LossScaler::new(gpu, scaling)?;
        let view = |values: &[f32]| -> Result<BufferView> {
            let tensor = context.upload(values, &[values.len()])?;
            Ok(tensor.view().expect("a tensor of a device has a view"))
        };
        let (mut gradients, mut copies, mut views) = (Vec::new(), Vec::new(), Vec::new());
        for w in &weights {
            let gradient = context.upload(&vec![T::default(); w.len()], &[w.len()])?;
            let copy = context.upload(&round::<T>(w), &[w.len()])?;
            let gradient = gradient.view().expect("a tensor of a device has a view");
            views.push(AdamWViews {
                weight: view(w)?,
                gradient: gradient.clone(),
                first_moment: view(&vec![0.0; w.len()])?,
                second_moment: view(&vec![0.0; w.len()])?,
                copy: copy.view(),
            });
            gradients.push(gradient);
            copies.push(copy);
        }
        Ok(Optimizer::Device(Box::new(OnDevice {
            context: context.clone(),
            unscale: scaler.bind(&gradients)?,
            adamw: AdamW::new(ADAMW)?.bind(&scaler, &views)?,
            scaler,
            gradients,
            copies,
        })))
    }

    /// What the loss is to be multiplied by. A loss computed on the device would read it there.
    fn scale(&self) -> Result<f32> {
        match self {
            Optimizer::Host(host) => Ok(host.scaler.scale()),
            Optimizer::Device(device) => Ok(device.scaler.read()?.scale),
        }
    }

    /// The weights in the storage type.
    fn weights(&self) -> Result<Vec<Vec<T>>> {
        match self {
            Optimizer::Host(host) => Ok(host.tensors.iter().map(|t| t.3.clone()).collect()),
            Optimizer::Device(device) => device.copies.iter().map(Tensor::download).collect(),
        }
    }

    /// Unscale and judge the gradients; step, if they are finite; move the scale.
    fn step(&mut self, mut gradients: [Vec<T>; 4]) -> Result<()> {
        match self {
            Optimizer::Host(host) => {
                // The gradients stay scaled, in 16 bits: unscaled ones would vanish.
                let views: Vec<Gradient<'_>> = gradients.iter_mut().map(Gradient::from).collect();
                host.scaler.measure(&views, None)?;
                host.adamw.begin(host.scaler.found_nonfinite());
                for ((w, m, v, copy), g) in host.tensors.iter_mut().zip(&gradients) {
                    host.adamw.step(w, g, host.scaler.factor(), (m, v), copy)?;
                    if !host.masters {
                        *w = widen(copy);
                    }
                }
                host.scaler.update();
                Ok(())
            }
            Optimizer::Device(device) => {
                let gpu = device.context.gpu().expect("a device");
                for (view, values) in device.gradients.iter().zip(&gradients) {
                    gpu.queue().write_buffer(view.buffer(), 0, bytes(values));
                }
                let mut encoder = gpu.device().create_command_encoder(&Default::default());
                device.unscale.record(&mut encoder);
                device.adamw.record(&mut encoder);
                device.scaler.record_update(&mut encoder);
                gpu.queue().submit([encoder.finish()]);
                Ok(())
            }
        }
    }

    /// Steps skipped, and the scale at the end.
    fn ended(&self) -> Result<(u32, f32)> {
        let state = match self {
            Optimizer::Host(host) => *host.scaler.state(),
            Optimizer::Device(device) => device.scaler.read()?,
        };
        Ok((state.skipped, state.scale))
    }
}

fn bytes<T: Element>(values: &[T]) -> &[u8] {
    bytemuck::cast_slice(values)
}

/// The losses over the steps, on a logarithmic axis.
fn draw(runs: &[Run]) -> String {
    const COLORS: [&str; 4] = ["#1f2933", "#b42318", "#c77d0a", "#2563a8"];
    let (width, height) = (820.0, 500.0);
    let (left, right, top, bottom) = (84.0, 24.0, 112.0, 56.0);
    let all = || runs.iter().flat_map(|r| r.losses.iter().copied()).filter(|l| *l > 0.0);
    let low = all().fold(f64::INFINITY, f64::min).log10().floor();
    let high = all().fold(0.0, f64::max).log10().ceil();
    let x = |step: usize| left + (width - left - right) * step as f64 / (STEPS - 1) as f64;
    let y = |loss: f64| top + (height - top - bottom) * (high - loss.log10()) / (high - low);
    let mut svg = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(
        svg,
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" font-family="Helvetica, Arial, 'DejaVu Sans', sans-serif" font-size="13" fill="#1f2933" role="img" aria-label="Training loss over steps">
<rect width="{width}" height="{height}" fill="#ffffff"/>
<text x="24" y="34" font-size="19" font-weight="bold">Training loss, handwritten digits</text>"##
    );
    for power in low as i32..=high as i32 {
        let at = y(10f64.powi(power));
        let _ = writeln!(
            svg,
            r##"<line x1="{left}" y1="{at:.1}" x2="{:.1}" y2="{at:.1}" stroke="#e4e7eb"/><text x="{:.1}" y="{:.1}" text-anchor="end" fill="#616e7c">1e{power}</text>"##,
            width - right,
            left - 10.0,
            at + 4.5
        );
    }
    for step in (0..=STEPS).step_by(50) {
        let _ = writeln!(
            svg,
            r##"<text x="{:.1}" y="{:.1}" text-anchor="middle" fill="#616e7c">{step}</text>"##,
            x(step.min(STEPS - 1)),
            height - bottom + 20.0
        );
    }
    let _ = writeln!(
        svg,
        r##"<text x="{:.1}" y="{:.1}" text-anchor="middle" fill="#616e7c">step</text>"##,
        (left + width - right) / 2.0,
        height - 14.0
    );
    for (i, (run, color)) in runs.iter().zip(COLORS).enumerate() {
        let points: String = run.losses.iter().enumerate().filter(|(_, loss)| **loss > 0.0).fold(
            String::new(),
            |mut text, (step, &loss)| {
                let _ = write!(text, "{:.1},{:.1} ", x(step), y(loss));
                text
            },
        );
        // The f32 curve lies below the others, wide, so that one on top of it is seen.
        let stroke = if i == 0 { 5.0 } else { 1.8 };
        let opacity = if i == 0 { 0.3 } else { 1.0 };
        let (key, legend) = (24.0 + 290.0 * (i / 2) as f64, 60.0 + 22.0 * (i % 2) as f64);
        let _ = writeln!(
            svg,
            r##"<polyline points="{points}" fill="none" stroke="{color}" stroke-width="{stroke}" stroke-opacity="{opacity}" stroke-linejoin="round"/>
<line x1="{:.1}" y1="{legend:.1}" x2="{:.1}" y2="{legend:.1}" stroke="{color}" stroke-width="{stroke}" stroke-opacity="{opacity}"/><text x="{:.1}" y="{:.1}">{}</text>"##,
            key,
            key + 28.0,
            key + 38.0,
            legend + 4.5,
            run.name
        );
    }
    svg.push_str("</svg>\n");
    svg
}
