//! Handwritten digits learned twice from the same seed: by Burn's own cross-entropy, and by macheps's in its place.
//!
//!     cargo run --release --example digits [-- STEPS]
//!
//! A perceptron with two hidden layers and tanh, plain gradient descent, batches of 128 of the 8 x 8 images in `data/digits.txt`. Nothing
//! but the line that computes the loss differs between the two. (Both trainings repeat to the bit, but a kink turns differences in the
//! last digit into larger ones: with relu, two losses were up to 2e-3 apart after 100 steps.)

use burn::module::Module;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{Linear, LinearConfig};
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::{Device, Int, Tensor, TensorData, activation, s};
use macheps::random::Random;
use macheps_burn::CrossEntropyOptions;
use std::error::Error;
use std::time::{Duration, Instant};

const PIXELS: usize = 64;
const CLASSES: usize = 10;
const BATCH: usize = 128;
const LEARNING_RATE: f64 = 0.2;
/// The others show what was learned.
const TRAINED_ON: usize = 1536;

/// Images with values from 0 to 1, and what they show.
pub struct Digits {
    pixels: Vec<f32>,
    labels: Vec<i32>,
}

impl Digits {
    /// The digits of the package, in an order of their own.
    pub fn read() -> Digits {
        let mut lines: Vec<&str> = include_str!("../data/digits.txt").lines().collect();
        let mut random = Random::new(17);
        for last in (1..lines.len()).rev() {
            lines.swap(last, random.below(last as u64 + 1) as usize);
        }
        let value = |digit: char| digit.to_digit(17).expect("a digit of data/digits.txt");
        let digits = lines.iter().flat_map(|line| line.chars().take(PIXELS));
        Digits {
            pixels: digits.map(|digit| value(digit) as f32 / 16.0).collect(),
            labels: lines
                .iter()
                .filter_map(|line| line.chars().last())
                .map(|digit| value(digit) as i32)
                .collect(),
        }
    }

    fn on(&self, device: &Device) -> (Tensor<2>, Tensor<1, Int>) {
        let count = self.labels.len();
        let pixels = TensorData::new(self.pixels.clone(), [count, PIXELS]);
        let labels = TensorData::new(self.labels.clone(), [count]);
        (Tensor::from_data(pixels, device), Tensor::from_data(labels, device))
    }
}

#[derive(Module, Debug)]
struct Perceptron {
    first: Linear,
    second: Linear,
    output: Linear,
}

impl Perceptron {
    fn new(device: &Device) -> Perceptron {
        Perceptron {
            first: LinearConfig::new(PIXELS, 128).init(device),
            second: LinearConfig::new(128, 64).init(device),
            output: LinearConfig::new(64, CLASSES).init(device),
        }
    }

    fn logits(&self, x: Tensor<2>) -> Tensor<2> {
        let x = activation::tanh(self.first.forward(x));
        let x = activation::tanh(self.second.forward(x));
        self.output.forward(x)
    }
}

/// Whose cross-entropy.
#[derive(Clone, Copy, Debug)]
pub enum Loss {
    /// That of `burn::nn::loss`.
    Burn,
    /// That of this crate.
    Macheps,
}

impl Loss {
    fn of(self, logits: Tensor<2>, labels: Tensor<1, Int>) -> macheps_burn::Result<Tensor<1>> {
        match self {
            Loss::Burn => Ok(CrossEntropyLossConfig::new()
                .init(&logits.device())
                .forward(logits, labels)),
            Loss::Macheps => macheps_burn::cross_entropy(logits, labels, &CrossEntropyOptions::default()),
        }
    }
}

/// How a training went.
pub struct Run {
    /// The loss of each step's batch, before the step.
    pub losses: Vec<f32>,
    /// Share of the images put aside that are told right.
    pub accuracy: f64,
    /// Median over the steps, without the first ten.
    pub per_step: Duration,
    /// The most that Burn's memory pool had in use after any forward or backward pass.
    pub peak_bytes: u64,
}

/// Trains from seed 5. The device is one with autodiff, known to macheps.
pub fn train(digits: &Digits, device: &Device, loss_of: Loss, steps: usize) -> Result<Run, Box<dyn Error>> {
    device.seed(5);
    let mut model = Perceptron::new(device);
    let mut optimizer = SgdConfig::new().init();
    let (pixels, labels) = digits.on(device);
    let in_use = || device.memory_pool_usage().map_or(0, |usage| usage.bytes_in_use);
    let (mut losses, mut times, mut peak_bytes) = (Vec::new(), Vec::new(), 0);
    for step in 0..steps {
        let start = Instant::now();
        let first = step * BATCH % TRAINED_ON;
        let batch = first..first + BATCH;
        let logits = model.logits(pixels.clone().slice(s![batch.clone(), ..]));
        let loss = loss_of.of(logits, labels.clone().slice(s![batch]))?;
        peak_bytes = peak_bytes.max(in_use());
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        peak_bytes = peak_bytes.max(in_use());
        model = optimizer.step(LEARNING_RATE, model, gradients);
        losses.push(loss.into_scalar::<f32>());
        times.push(start.elapsed());
    }
    times.drain(..10.min(steps / 2));
    times.sort();
    let test = model
        .logits(pixels.slice(s![TRAINED_ON.., ..]))
        .argmax(1)
        .into_data()
        .try_into_vec::<i32>()?;
    let right = test
        .iter()
        .zip(&digits.labels[TRAINED_ON..])
        .filter(|(a, b)| a == b)
        .count();
    Ok(Run {
        losses,
        accuracy: right as f64 / test.len() as f64,
        per_step: times.get(times.len() / 2).copied().unwrap_or_default(),
        peak_bytes,
    })
}

/// The largest difference of two losses of the same step, as a part of the first one.
pub fn largest_difference(a: &Run, b: &Run) -> f64 {
    let of = |(a, b): (&f32, &f32)| f64::from((a - b).abs() / a.abs());
    a.losses.iter().zip(&b.losses).map(of).fold(0.0, f64::max)
}

fn main() -> Result<(), Box<dyn Error>> {
    let steps = std::env::args().nth(1).map_or(Ok(300), |steps| steps.parse())?;
    let (device, setup) = Device::wgpu_options().init_with_setup()?;
    macheps_burn::attach(&device, &setup)?;
    println!("{}, {steps} steps of {BATCH} images", setup.adapter.get_info().name);

    let (digits, device) = (Digits::read(), device.autodiff());
    // What is compiled is compiled before the clock runs.
    for loss in [Loss::Burn, Loss::Macheps] {
        train(&digits, &device, loss, 2)?;
    }
    let burns = train(&digits, &device, Loss::Burn, steps)?;
    let ours = train(&digits, &device, Loss::Macheps, steps)?;
    println!("{:>6} {:>12} {:>12}", "step", "Burn's own", "macheps");
    for step in (0..steps).filter(|step| step % 25 == 0 || step + 1 == steps) {
        println!("{step:>6} {:>12.7} {:>12.7}", burns.losses[step], ours.losses[step]);
    }
    for (name, run) in [("Burn's own", &burns), ("macheps", &ours)] {
        println!(
            "{name}: {:.1} % of {} other digits right, {:.2} ms a step (median), {:.2} MiB of Burn's memory pool in use at most",
            run.accuracy * 100.0,
            digits.labels.len() - TRAINED_ON,
            run.per_step.as_secs_f64() * 1e3,
            run.peak_bytes as f64 / f64::from(1 << 20),
        );
    }
    let hundred = |run: &Run| Run {
        losses: run.losses.iter().take(100).copied().collect(),
        ..*run
    };
    println!(
        "largest relative difference of two losses: {:.1e} over the first 100 steps, {:.1e} over all",
        largest_difference(&hundred(&burns), &hundred(&ours)),
        largest_difference(&burns, &ours)
    );
    Ok(())
}
