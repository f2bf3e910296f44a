//! Loss and gradient of a large vocabulary: Burn's own cross-entropy against macheps's, in one run.
//!
//!     cargo run --release --example loss_bench [-- ROWS CLASSES ROUNDS]
//!
//! First the results are compared, then both are timed in turns, then each shows how much of Burn's memory pool it takes beside
//! the logits.

use burn::nn::loss::CrossEntropyLossConfig;
use burn::tensor::{Device, Int, Tensor, TensorData};
use macheps::accuracy::U;
use macheps::random::Random;
use macheps_burn::CrossEntropyOptions;
use std::error::Error;
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn Error>>;
/// Logits to the loss.
type LossOf<'a> = dyn Fn(Tensor<2>) -> Tensor<1> + 'a;

/// One step: the loss, and its gradient with respect to the logits, done when this returns.
fn step(logits: &Tensor<2>, loss_of: &LossOf) -> Outcome<(Tensor<1>, Tensor<2>)> {
    let leaf = Tensor::from_inner(logits.clone()).require_grad();
    let loss = loss_of(leaf.clone());
    let mut gradients = loss.backward();
    let gradient = leaf.grad_remove(&mut gradients).ok_or("the logits are a leaf")?;
    logits.device().sync()?;
    Ok((loss.inner(), gradient))
}

/// Bytes that Burn's pool has to reserve for a step beyond what it has reserved already, which is no more than it needs.
fn extra_bytes(logits: &Tensor<2>, loss_of: &LossOf) -> Outcome<u64> {
    let device = logits.device();
    let reserved = || device.memory_pool_usage().map_or(0, |usage| usage.bytes_reserved);
    device.sync()?;
    device.memory_cleanup();
    let before = reserved();
    step(logits, loss_of)?;
    Ok(reserved() - before)
}

/// The largest difference of the gradients in units of macheps's bound, 8u times the magnitudes of an element's terms. With one term for
/// the softmax and one for the label, the sum of the magnitudes is that of the element itself, but for a label's: p + 1.
fn difference(ours: &[f32], own: &[f32], labels: &[i32], classes: usize) -> f64 {
    let rows = labels.len() as f64;
    let of = |(i, (&ours, &own)): (usize, (&f32, &f32))| {
        let (ours, own) = (f64::from(ours), f64::from(own));
        let label = labels[i / classes] as usize == i % classes;
        let magnitude = own.abs() + if label { 2.0 / rows } else { 0.0 };
        (ours - own).abs() / (8.0 * U * magnitude + f64::from(f32::MIN_POSITIVE))
    };
    ours.iter().zip(own).enumerate().map(of).fold(0.0, f64::max)
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
    let logits = Tensor::<2>::from_data(TensorData::new(values, [rows, classes]), &device);
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
    let of_bound = difference(
        &our_gradient.into_data().try_into_vec()?,
        &burns_gradient.into_data().try_into_vec()?,
        &classes_of,
        classes,
    );
    println!("loss {our_loss}, Burn's own {burns_loss}; gradients differ by {of_bound:.2} bounds at most");
    if (our_loss - burns_loss).abs() > 1e-5 * burns_loss || of_bound > 16.0 {
        return Err("the results differ".into());
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
