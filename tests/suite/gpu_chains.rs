//! Whole steps of training in one chain, on the CPU path and on every adapter: nothing is read back before the end, and what comes
//! out is what the one-shots and the host's twins give.

use crate::adapters;
use macheps::accuracy::check;
use macheps::element::{Element, bf16, f16};
use macheps::ops::cross_entropy::{Labels, LossKind, TargetTensor, cross_entropy_with_gradient};
use macheps::ops::optimizer::bounds;
use macheps::ops::optimizer::reference::Weight;
use macheps::{
    AdamWOptions, AdamWTensors, ChainAdamW, ChainScaler, ChainSgd, Context, CrossCheck, CrossEntropyInput,
    CrossEntropyOptions, Error, Gradient, HostAdamW, HostLossScaler, HostSgd, LossReduction, LossScalerOptions,
    SgdOptions, SgdTensors, Tensor, TensorMut, TensorRef, UnscaleOptions, unscale,
};

const ROWS: usize = 5;
const CLASSES: usize = 37;
const SHAPE: [usize; 2] = [ROWS, CLASSES];
const MAX_NORM: f32 = 0.25;

fn contexts(test: &str) -> Vec<(String, Context)> {
    let gpus = adapters::all(test).iter().map(|a| (a.name.clone(), a.context.clone()));
    std::iter::once(("the CPU path".to_string(), Context::cpu()))
        .chain(gpus)
        .collect()
}

fn weights() -> Vec<f32> {
    (0..ROWS * CLASSES)
        .map(|i| (i * 37 % 101) as f32 * 0.0625 - 3.0)
        .collect()
}

fn labels() -> Vec<i64> {
    (0..ROWS as i64).map(|i| i * 7 % CLASSES as i64).collect()
}

fn loss_options() -> CrossEntropyOptions {
    CrossEntropyOptions {
        reduction: LossReduction::Mean,
        ..Default::default()
    }
}

/// Weights, moments and 16-bit copies after some steps.
struct Trained<T> {
    weight: Vec<f32>,
    moments: [Vec<f32>; 2],
    copy: Vec<T>,
    scale: f32,
    norm: f32,
}

/// Logits are the copies of weights: loss and gradient, unscaling with clipping, AdamW, the copies.
fn train<T: Element>(context: &Context, steps: usize) -> macheps::Result<Trained<T>>
where
    for<'a> TensorRef<'a>: From<&'a Tensor<T>>,
    for<'a> TensorMut<'a>: From<&'a mut Tensor<T>>,
{
    let w = weights();
    let mut weight = context.upload(&w, &SHAPE)?;
    let mut copy = context.upload(&w.iter().map(|&v| T::from_f32(v)).collect::<Vec<_>>(), &SHAPE)?;
    // What moments hold before the first step does not matter.
    let mut moments = [context.upload(&w, &SHAPE)?, context.upload(&w, &SHAPE)?];
    let labels = Labels::upload(context, &labels()[..], &[ROWS])?;
    let mut scaler = ChainScaler::new(context, LossScalerOptions::default())?;
    let mut adamw = ChainAdamW::new(context, AdamWOptions::default())?;
    let options = UnscaleOptions {
        max_norm: Some(MAX_NORM),
    };

    let mut chain = context.chain();
    for _ in 0..steps {
        let scale = chain.loss_scale(&scaler)?;
        let target = TargetTensor::Labels(&labels);
        let (_, gradient) = chain.cross_entropy(
            LossKind::CrossEntropy,
            &copy,
            target,
            None,
            Some(&scale),
            &loss_options(),
        )?;
        chain.unscale(&mut scaler, &[(&gradient).into()], &options)?;
        let [first_moment, second_moment] = &mut moments;
        let step = AdamWTensors {
            weight: &mut weight,
            gradient: (&gradient).into(),
            first_moment,
            second_moment,
            copy: Some((&mut copy).into()),
        };
        chain.adamw(&mut adamw, &scaler, &mut [step])?;
        chain.update_scale(&mut scaler)?;
    }
    chain.submit()?;
    let state = scaler.read()?;
    assert_eq!((state.steps as usize, adamw.steps()? as usize), (steps, steps));
    Ok(Trained {
        weight: weight.download()?,
        moments: [moments[0].download()?, moments[1].download()?],
        copy: copy.download()?,
        scale: state.scale,
        norm: state.norm,
    })
}

/// One step by one-shots on the same context and the host's twins.
fn step_by_one_shots<T: Element>(context: &Context) -> macheps::Result<Trained<T>>
where
    for<'a> Gradient<'a>: From<&'a mut Vec<T>>,
{
    let mut weight = weights();
    let logits: Vec<T> = weight.iter().map(|&v| T::from_f32(v)).collect();
    let labels = labels();
    let input = CrossEntropyInput::new(&logits, &SHAPE, &labels[..]);
    let mut scaler = HostLossScaler::new(LossScalerOptions::default())?;
    let (_, mut gradient) = cross_entropy_with_gradient(context, &input, Some(&[scaler.scale()]), &loss_options())?;
    let report = scaler.measure(&[Gradient::from(&mut gradient)], Some(MAX_NORM))?;
    assert!(report.clip < 1.0 && !report.found_nonfinite);
    let mut adamw = HostAdamW::new(AdamWOptions::default())?;
    let mut moments = [vec![0f32; weight.len()], vec![0f32; weight.len()]];
    let mut copy = vec![T::default(); weight.len()];
    adamw.begin(scaler.found_nonfinite());
    let [m, v] = &mut moments;
    adamw.step(&mut weight, &gradient, scaler.factor(), (m, v), &mut copy)?;
    // The one-shot finds the same norm.
    let whole = unscale(
        context,
        &mut [Gradient::from(&mut gradient)],
        scaler.scale(),
        Some(MAX_NORM),
    )?;
    assert!((whole.norm - report.norm).abs() <= 4.0 * f32::EPSILON * report.norm);
    Ok(Trained {
        weight,
        moments,
        copy,
        scale: scaler.scale(),
        norm: report.norm,
    })
}

fn a_step_is_that_of_one_shots<T: Element>(name: &str, context: &Context)
where
    for<'a> Gradient<'a>: From<&'a mut Vec<T>>,
    for<'a> TensorRef<'a>: From<&'a Tensor<T>>,
    for<'a> TensorMut<'a>: From<&'a mut Tensor<T>>,
{
    let got = train::<T>(context, 1).unwrap();
    let want = step_by_one_shots::<T>(context).unwrap();
    assert_eq!(got.scale, want.scale);
    assert!((got.norm - want.norm).abs() <= 4.0 * f32::EPSILON * want.norm, "{name}");
    // The gradient itself is the same bits; what the step may add says its own bound.
    let before = weights();
    let o = AdamWOptions::default();
    for (i, &w) in before.iter().enumerate() {
        let g = f64::from(want.moments[0][i]) / (1.0 - o.beta1);
        let start = Weight {
            w: w.into(),
            ..Weight::default()
        };
        let bound = bounds::adamw(&o, 1, start, Weight::default(), g, 1e-6 * g.abs());
        let held = |got: f32, want: f32, bound: f64| {
            check(&[got], &[want.into()], &[bound + f64::from(f32::EPSILON * want.abs())])
                .unwrap_or_else(|m| panic!("{name}: {} of element {i}: {m}", T::DTYPE));
        };
        held(got.weight[i], want.weight[i], bound.w);
        held(got.moments[0][i], want.moments[0][i], bound.m);
        held(got.moments[1][i], want.moments[1][i], bound.v);
        assert_eq!(got.copy[i], T::from_f32(got.weight[i]), "{name}: copy {i}");
    }
    assert_ne!(got.weight, before);
}

#[test]
fn a_step_of_training_is_one_submission() {
    for (name, context) in contexts("a step of training in a chain") {
        a_step_is_that_of_one_shots::<f16>(&name, &context);
        if name != "gl" && name != "swiftshader" {
            a_step_is_that_of_one_shots::<f32>(&name, &context);
            a_step_is_that_of_one_shots::<bf16>(&name, &context);
        }
    }
}

#[test]
fn steps_are_cross_checked() {
    for (name, context) in contexts("cross-checked steps of training") {
        if name == "gl" {
            continue;
        }
        let plain = train::<f16>(&context, 3).unwrap();
        let checked = train::<f16>(&context.clone().with_cross_check(CrossCheck::Full), 3).unwrap();
        assert_eq!(plain.weight, checked.weight, "{name}");
        assert_eq!(plain.copy, checked.copy, "{name}");
    }
}

/// SGD with momentum in chains and on the host, with a step that is skipped; and the gradients unscaled in place.
#[test]
fn sgd_skips_what_overflowed() {
    let options = SgdOptions {
        learning_rate: 0.125,
        momentum: 0.5,
        ..Default::default()
    };
    let steps = [[64.0f32, -128.0, 32.0], [f32::INFINITY, 1.0, 1.0], [16.0, 8.0, -64.0]];
    for (name, context) in contexts("a skipped step in a chain") {
        for in_place in [false, true] {
            let mut weight = context.upload(&[1.0f32, 2.0, 3.0], &[3]).unwrap();
            let kept = weight.clone();
            let mut momentum = context.upload(&[0f32; 3], &[3]).unwrap();
            let mut copy = context.upload(&[f16::ZERO; 3], &[3]).unwrap();
            let mut scaler = ChainScaler::new(
                &context,
                LossScalerOptions {
                    initial_scale: 64.0,
                    ..Default::default()
                },
            )
            .unwrap();
            let mut sgd = ChainSgd::new(&context, options).unwrap();
            let mut host = HostSgd::new(options).unwrap();
            let (mut w, mut m, mut c) = (vec![1.0f32, 2.0, 3.0], vec![0f32; 3], vec![f16::ZERO; 3]);
            let mut scale = 64.0f64;
            let mut chain = context.chain();
            for g in steps {
                let mut gradient = context.upload(&g, &[3]).unwrap();
                let none = UnscaleOptions::default();
                if in_place {
                    chain
                        .unscale_in_place(&mut scaler, &mut [(&mut gradient).into()], &none)
                        .unwrap();
                } else {
                    chain.unscale(&mut scaler, &[(&gradient).into()], &none).unwrap();
                }
                let step = SgdTensors {
                    weight: &mut weight,
                    gradient: (&gradient).into(),
                    momentum: Some(&mut momentum),
                    copy: Some((&mut copy).into()),
                };
                chain.sgd(&mut sgd, &scaler, &mut [step]).unwrap();
                chain.update_scale(&mut scaler).unwrap();
                let bad = g.iter().any(|v| !v.is_finite());
                host.begin(bad);
                host.step(&mut w, &g, 1.0 / scale, &mut m, &mut c).unwrap();
                scale *= if bad { 0.5 } else { 1.0 };
            }
            chain.submit().unwrap();
            // Short binary fractions: exact on both sides.
            assert_eq!(weight.download().unwrap(), w, "{name}");
            assert_eq!(momentum.download().unwrap(), m, "{name}");
            assert_eq!(copy.download().unwrap(), c, "{name}");
            assert_eq!(sgd.steps().unwrap(), 2, "{name}");
            let state = scaler.read().unwrap();
            assert_eq!((state.scale, state.skipped), (32.0, 1), "{name}");
            // A clone keeps what it had.
            assert_eq!(kept.download().unwrap(), [1.0, 2.0, 3.0], "{name}");
        }
    }
}

#[test]
fn learning_rates_change_between_steps() {
    for (name, context) in contexts("learning rates in chains") {
        let scaler = ChainScaler::new(&context, LossScalerOptions::constant(1.0)).unwrap();
        let mut sgd = ChainSgd::new(&context, SgdOptions::default()).unwrap();
        assert!(sgd.set_learning_rate(-1.0).is_err());
        sgd.set_learning_rate(0.25).unwrap();
        let mut weight = context.upload(&[1.0f32], &[1]).unwrap();
        let gradient = context.upload(&[bf16::from_f32(2.0)], &[1]).unwrap();
        let mut chain = context.chain();
        let step = SgdTensors {
            weight: &mut weight,
            gradient: (&gradient).into(),
            momentum: None,
            copy: None,
        };
        chain.sgd(&mut sgd, &scaler, &mut [step]).unwrap();
        chain.submit().unwrap();
        assert_eq!(weight.download().unwrap(), [0.5], "{name}");
    }
}

#[test]
fn refuses_what_does_not_fit() {
    for (name, context) in contexts("refused steps of chains") {
        let mut scaler = ChainScaler::new(&context, LossScalerOptions::default()).unwrap();
        let options = SgdOptions {
            momentum: 0.5,
            ..Default::default()
        };
        let mut sgd = ChainSgd::new(&context, options).unwrap();
        let mut weight = context.upload(&[1.0f32, 2.0], &[2]).unwrap();
        let mut momentum = weight.clone();
        let (right, wrong) = (weight.clone(), context.upload(&[1.0f32; 3], &[3]).unwrap());
        let mut chain = context.chain();
        let without = SgdTensors {
            weight: &mut weight,
            gradient: (&right).into(),
            momentum: None,
            copy: None,
        };
        let refused = chain.sgd(&mut sgd, &scaler, &mut [without]);
        assert!(matches!(refused, Err(Error::Shape { .. })), "{name}: {refused:?}");
        let other_shape = SgdTensors {
            weight: &mut weight,
            gradient: (&wrong).into(),
            momentum: Some(&mut momentum),
            copy: None,
        };
        let refused = chain.sgd(&mut sgd, &scaler, &mut [other_shape]);
        assert!(matches!(refused, Err(Error::Shape { .. })), "{name}: {refused:?}");
        let negative = UnscaleOptions { max_norm: Some(-1.0) };
        let refused = chain.unscale(&mut scaler, &[(&right).into()], &negative);
        assert!(matches!(refused, Err(Error::Option { .. })), "{name}: {refused:?}");
        if context.gpu().is_some() {
            let elsewhere = Context::cpu().upload(&[1.0f32, 2.0], &[2]).unwrap();
            let refused = chain.unscale(&mut scaler, &[(&elsewhere).into()], &UnscaleOptions::default());
            assert!(matches!(refused, Err(Error::Unsupported { .. })), "{name}: {refused:?}");
        }
    }
}
