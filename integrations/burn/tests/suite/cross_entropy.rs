//! Cross-entropy and its gradient, with every option, on plain tensors and on views.

use crate::adapters::{Adapter, all, assert_offset, exactly, host, host_f64, normal};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::tensor::{Int, Tensor, TensorData, s};
use macheps::LossKind;
use macheps::ops::cross_entropy::reference;
use macheps::ops::cross_entropy::{CrossEntropyInput, Target};
use macheps::random::Random;
use macheps_burn::{CrossEntropyOptions, LossReduction};

/// Of rows and classes, with classes drawn at random.
pub fn labels(seed: u64, rows: usize, classes: usize) -> Vec<i32> {
    let mut random = Random::new(seed);
    (0..rows).map(|_| random.below(classes as u64) as i32).collect()
}

fn upload(labels: &[i32], adapter: &Adapter) -> Tensor<1, Int> {
    Tensor::from_data(TensorData::new(labels.to_vec(), [labels.len()]), &adapter.device)
}

/// Loss and gradient of `scale` times the sum of the losses.
fn loss_and_gradient(
    logits: &Tensor<2>,
    scale: f32,
    loss: impl FnOnce(Tensor<2>) -> Tensor<1>,
) -> (Tensor<1>, Tensor<2>) {
    let logits = Tensor::from_inner(logits.clone()).require_grad();
    let loss = loss(logits.clone());
    let gradients = (loss.clone() * scale).sum().backward();
    let gradient = logits.grad(&gradients).expect("logits are a leaf");
    (loss.inner(), gradient)
}

fn in_f32((loss, gradient): (Tensor<1>, Tensor<2>)) -> (Vec<f32>, Vec<f32>) {
    (host(&loss), host(&gradient))
}

/// Loss and gradient against the oracle, in training and without.
fn check(
    adapter: &Adapter,
    name: &str,
    (logits, labels): (&Tensor<2>, &Tensor<1, Int>),
    weight: Option<&[f32]>,
    options: &CrossEntropyOptions,
) {
    let name = format!("{}: {name}, {options:?}", adapter.name);
    let (values, dims) = (host(logits), logits.dims());
    let classes: Vec<i32> = labels.clone().into_data().try_into_vec().expect("i32");
    let input = CrossEntropyInput {
        x: &values,
        shape: &dims,
        target: Target::Indices(classes.as_slice().into()),
        weight,
    };
    const SCALE: f32 = 0.75;
    let losses = if options.reduction == LossReduction::None {
        dims[0]
    } else {
        1
    };
    let upstream = vec![SCALE; losses];
    let want = reference::answer(LossKind::CrossEntropy, &input, Some(&upstream), options).expect("valid");

    let of = |logits: Tensor<2>, labels: Tensor<1, Int>| {
        let loss = match weight {
            None => macheps_burn::cross_entropy(logits, labels, options),
            Some(weight) => {
                let weight = Tensor::from_data(TensorData::new(weight.to_vec(), [weight.len()]), &logits.device());
                macheps_burn::cross_entropy_weighted(logits, labels, weight, options)
            }
        };
        loss.expect("a loss")
    };
    let in_training = loss_and_gradient(logits, SCALE, |logits| of(logits, Tensor::from_inner(labels.clone())));
    let (loss, gradient) = in_f32(in_training);
    want.loss
        .check(&loss)
        .unwrap_or_else(|mismatch| panic!("{name}, loss: {mismatch}"));
    want.gradient
        .check(&gradient)
        .unwrap_or_else(|mismatch| panic!("{name}, gradient: {mismatch}"));
    // Without a gradient it is another kernel.
    let loss = host(&of(logits.clone(), labels.clone()));
    want.loss
        .check(&loss)
        .unwrap_or_else(|mismatch| panic!("{name}, loss alone: {mismatch}"));
}

fn every_option() -> Vec<CrossEntropyOptions> {
    let mut all = Vec::new();
    for reduction in LossReduction::ALL {
        for (label_smoothing, z_loss) in [(0.0, 0.0), (0.1, 0.0), (0.0, 1e-3)] {
            all.push(CrossEntropyOptions {
                reduction,
                label_smoothing,
                z_loss,
                ..Default::default()
            });
        }
    }
    all
}

#[test]
fn every_option_within_the_bound() {
    for adapter in all("every_option_within_the_bound") {
        let device = &adapter.device;
        for options in every_option() {
            let logits = normal(11, [9, 130], 4.0, device);
            let mut classes = labels(12, 9, 130);
            check(
                adapter,
                "[9, 130]",
                (&logits, &upload(&classes, adapter)),
                None,
                &options,
            );
            classes[3] = -100;
            let weight: Vec<f32> = (0..130).map(|class| 0.25 + class as f32 / 64.0).collect();
            check(
                adapter,
                "weighted",
                (&logits, &upload(&classes, adapter)),
                Some(&weight),
                &options,
            );
        }
        let long = normal(13, [3, 40_000], 4.0, device);
        let classes = upload(&labels(14, 3, 40_000), adapter);
        check(adapter, "[3, 40000]", (&long, &classes), None, &Default::default());
    }
}

#[test]
fn views_of_logits_and_labels() {
    for adapter in all("views_of_logits_and_labels") {
        let whole = normal(15, [128, 192], 4.0, &adapter.device);
        let logits = whole.clone().slice(s![64..128, 64..128]);
        assert_offset(&logits, "Burn copied these logits");
        let classes = upload(&labels(16, 128, 64), adapter).slice(s![64..128]);
        for options in every_option() {
            check(adapter, "rows and columns 64..128", (&logits, &classes), None, &options);
        }
        let transposed = whole.slice(s![0..64, ..]).transpose();
        let classes = upload(&labels(17, 192, 64), adapter);
        check(
            adapter,
            "transposed",
            (&transposed, &classes),
            None,
            &Default::default(),
        );
    }
}

/// Burn's own loss with the same options: its autodiff in f64 within the bound, and in f32 on the same device as near as that comes.
#[test]
fn gradients_are_burns_own() {
    for adapter in all("gradients_are_burns_own") {
        let weight: Vec<f32> = (0..50).map(|class| 0.5 + class as f32 / 32.0).collect();
        let logits = normal(18, [33, 50], 4.0, &adapter.device);
        let classes = labels(19, 33, 50);
        let pad = 7;
        for (label_smoothing, weighted, ignored) in [
            (0.0, false, false),
            (0.125, false, false),
            (0.0, true, false),
            (0.0, false, true),
        ] {
            let name = format!(
                "{}: smoothing {label_smoothing}, weights {weighted}, ignored {ignored}",
                adapter.name
            );
            let burns = |logits: Tensor<2>| {
                let device = logits.device();
                let own = CrossEntropyLossConfig::new()
                    .with_smoothing((label_smoothing > 0.0).then_some(label_smoothing))
                    .with_weights(weighted.then(|| weight.clone()))
                    .with_pad_tokens(ignored.then(|| vec![pad]))
                    .init(&device);
                own.forward(
                    logits,
                    Tensor::from_data(TensorData::new(classes.clone(), [33]), &device),
                )
            };
            let options = CrossEntropyOptions {
                label_smoothing,
                ignore_index: ignored.then_some(pad as i64),
                ..Default::default()
            };
            let ours = |logits: Tensor<2>| {
                let device = logits.device();
                let labels = Tensor::from_data(TensorData::new(classes.clone(), [33]), &device);
                let loss = if weighted {
                    let weight = Tensor::from_data(TensorData::new(weight.clone(), [50]), &device);
                    macheps_burn::cross_entropy_weighted(logits, labels, weight, &options)
                } else {
                    macheps_burn::cross_entropy(logits, labels, &options)
                };
                loss.expect("a loss")
            };
            let (loss, gradient) = in_f32(loss_and_gradient(&logits, 1.0, ours));
            let values = host(&logits);
            let input = CrossEntropyInput {
                x: &values,
                shape: &[33, 50],
                target: Target::Indices(classes.as_slice().into()),
                weight: weighted.then_some(&weight),
            };
            let want = reference::answer(LossKind::CrossEntropy, &input, Some(&[1.0]), &options).expect("valid");

            let (exact_loss, exact) = loss_and_gradient(&exactly(&logits), 1.0, burns);
            macheps::accuracy::check(&loss, &host_f64(&exact_loss), &want.loss.bounds)
                .and_then(|_| macheps::accuracy::check(&gradient, &host_f64(&exact), &want.gradient.bounds))
                .unwrap_or_else(|mismatch| panic!("{name}, against Burn's own: {mismatch}"));

            // How far Burn's own is from its truth in f32 is measured, and generous.
            const OF_BOUND: f64 = 16.0;
            let (own_loss, own) = in_f32(loss_and_gradient(&logits, 1.0, burns));
            assert!(
                f64::from(loss[0] - own_loss[0]).abs() <= OF_BOUND * want.loss.bounds[0],
                "{name}: {loss:?} and {own_loss:?}"
            );
            for (i, (&ours, &own)) in gradient.iter().zip(&own).enumerate() {
                assert!(
                    f64::from(ours - own).abs() <= OF_BOUND * want.gradient.bounds[i],
                    "{name}: gradient {i} is {ours:e}, Burn's own {own:e}"
                );
            }
        }
    }
}
