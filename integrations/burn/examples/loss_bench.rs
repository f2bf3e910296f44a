//! Loss and gradient of a large vocabulary: Burn's own cross-entropy against macheps's, in one run.
//!
//!     cargo run --release --example loss_bench [-- ROWS CLASSES ROUNDS]
//!
//! First results are held to the truth, then both are timed in turns, then each shows how much of Burn's memory pool it takes beside
//! the logits.

use burn::nn::loss::CrossEntropyLossConfig;
use burn::tensor::{Device, Int, Tensor, TensorData};
use macheps::LossKind;
use macheps::ops::cross_entropy::bounds::Allowed;
use macheps::ops::cross_entropy::{CrossEntropyInput, reference};
use macheps::random::Random;
use macheps_burn::{CrossEntropyOptions, LossReduction};
use std::error::Error;
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn Error>>;
/// Logits to the loss.
type LossOf<'a> = dyn Fn(Tensor<2>) -> Tensor<1> + 'a;

/// One step on plain logits: the loss, and its gradient with respect to the logits, done when this returns.
pub fn step(logits: &Tensor<2>, loss_of: &LossOf) -> Outcome<(Tensor<1>, Tensor<2>)> {
    let leaf = Tensor::from_inner(logits.clone()).require_grad();
    let loss = loss_of(leaf.clone());
    let mut gradients = loss.backward();
    let gradient = leaf.grad_remove(&mut gradients).ok_or("the logits are a leaf")?;
    logits.device().sync()?;
    Ok((loss.inner(), gradient))
}

/// Bytes that Burn's pool has to reserve for a step beyond what it has reserved already, which is no more than it needs.
pub fn extra_bytes(logits: &Tensor<2>, loss_of: &LossOf) -> Outcome<u64> {
    let device = logits.device();
    let reserved = || device.memory_pool_usage().map_or(0, |usage| usage.bytes_reserved);
    device.sync()?;
    device.memory_cleanup();
    let before = reserved();
    step(logits, loss_of)?;
    Ok(reserved() - before)
}

/// How far results are from the truth, in units of macheps's bounds: the largest of some rows' gradients.
fn of_bound(gradient: &[f32], truth: &[(usize, Allowed)]) -> f64 {
    let of = |(row, allowed): &(usize, Allowed)| {
        let classes = allowed.values.len();
        let got = &gradient[row * classes..(row + 1) * classes];
        let errors = got.iter().zip(&allowed.values).zip(&allowed.bounds);
        errors
            .map(|((&got, want), bound)| (f64::from(got) - want).abs() / bound)
            .fold(0.0, f64::max)
    };
    truth.iter().map(of).fold(0.0, f64::max)
}

/// The gradients of every so many rows, in f64, as parts of a mean.
fn truth(logits: &[f32], labels: &[i32], every: usize) -> Outcome<Vec<(usize, Allowed)>> {
    let (rows, classes) = (labels.len(), logits.len() / labels.len());
    let options = CrossEntropyOptions {
        reduction: LossReduction::Sum,
        ..Default::default()
    };
    let row = |row: usize| {
        let shape = [1, classes];
        let input = CrossEntropyInput::new(
            &logits[row * classes..(row + 1) * classes],
            &shape,
            &labels[row..row + 1],
        );
        let answer = reference::answer(LossKind::CrossEntropy, &input, Some(&[1.0 / rows as f32]), &options)?;
        Ok((row, answer.gradient))
    };
    (0..rows).step_by(every).map(row).collect()
}

fn median(times: &mut [Duration]) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e3
}

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: usize| arguments.next().map_or(Ok(default), |text| text.parse());
    let (rows, classes, rounds) = (number(1024)?, number(32_000)?, number(7)?);

    let (device, setup) = Device::wgpu_options().init_with_setup()?;
    macheps_burn::attach(&device, &setup)?;
    println!("{}, logits [{rows}, {classes}] f32", setup.adapter.get_info().name);

    let mut random = Random::new(1);
    let values: Vec<f32> = (0..rows * classes).map(|_| (4.0 * random.normal()) as f32).collect();
    let classes_of: Vec<i32> = (0..rows).map(|_| random.below(classes as u64) as i32).collect();
    let logits = Tensor::<2>::from_data(TensorData::new(values.clone(), [rows, classes]), &device);
    let labels = TensorData::new(classes_of.clone(), [rows]);
    let labels = Tensor::<1, Int>::from_data(labels, &device.clone().autodiff());

    let own = CrossEntropyLossConfig::new().init(&device.autodiff());
    let options = CrossEntropyOptions::default();
    let burns = |logits: Tensor<2>| own.forward(logits, labels.clone());
    let ours = |logits: Tensor<2>| {
        macheps_burn::cross_entropy(logits, labels.clone(), &options).expect("checked by the first step")
    };

    let (our_loss, our_gradient) = step(&logits, &ours)?;
    let (burns_loss, burns_gradient) = step(&logits, &burns)?;
    let (our_loss, burns_loss) = (our_loss.into_scalar::<f32>(), burns_loss.into_scalar::<f32>());
    let truth = truth(&values, &classes_of, rows.div_ceil(64))?;
    let of_bound =
        |gradient: Tensor<2>| -> Outcome<f64> { Ok(of_bound(&gradient.into_data().try_into_vec()?, &truth)) };
    let (our_error, burns_error) = (of_bound(our_gradient)?, of_bound(burns_gradient)?);
    println!("loss {our_loss}, Burn's own {burns_loss}");
    println!(
        "error of the gradient of {} rows: {our_error:.2} of the bound, Burn's own {burns_error:.2}",
        truth.len()
    );
    if (our_loss - burns_loss).abs() > 1e-5 * burns_loss || our_error > 1.0 {
        return Err("the results are not right".into());
    }

    let (mut our_times, mut burns_times) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        for (loss, times) in [(&burns as &LossOf, &mut burns_times), (&ours, &mut our_times)] {
            let start = Instant::now();
            step(&logits, loss)?;
            times.push(start.elapsed());
        }
    }
    let (burns_extra, our_extra) = (extra_bytes(&logits, &burns)?, extra_bytes(&logits, &ours)?);
    let (burns_time, our_time) = (median(&mut burns_times), median(&mut our_times));
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!(
        "Burn's own: {burns_time:8.1} ms a step, {:8.1} MiB of the pool beside the logits",
        mib(burns_extra)
    );
    println!("macheps:    {our_time:8.1} ms a step, {:8.1} MiB", mib(our_extra));
    println!(
        "{:.2} times as fast, {:.2} of the memory",
        burns_time / our_time,
        our_extra as f64 / burns_extra.max(1) as f64
    );
    Ok(())
}
