//! Where Burn's own answers differ: rows without any finite entry, and sums that f16 does not hold.

use crate::adapters::{all, gradient, host, normal, skipped};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::tensor::{DType, FloatDType, Int, Tensor, activation};
use macheps_burn::{CrossEntropyOptions, MaskedRows, SoftmaxKind, SoftmaxOptions};

const HIDDEN: f32 = f32::NEG_INFINITY;

/// Attention over padding: the middle row sees nothing.
#[test]
fn fully_masked_rows() {
    for adapter in all("fully_masked_rows") {
        let rows = [[1.0, 2.0, HIDDEN], [HIDDEN; 3], [HIDDEN, 0.0, 0.0]];
        let x = Tensor::<2>::from_data(rows, &adapter.device);
        let weights = normal(21, [3, 3], 1.0, &adapter.device);
        let options = SoftmaxOptions {
            masked_rows: MaskedRows::Zero,
            ..Default::default()
        };
        let ours = |x| macheps_burn::softmax_with(x, SoftmaxKind::Softmax, &options).expect("a softmax");

        let y = host(&ours(x.clone()));
        assert_eq!(y[3..6], [0.0; 3], "{}", adapter.name);
        assert_eq!(y[6..], [0.0, 0.5, 0.5], "{}", adapter.name);
        assert!(y.iter().all(|y| y.is_finite()), "{}: {y:?}", adapter.name);
        let dx = host(&gradient(&x, &weights, ours));
        assert!(dx.iter().all(|dx| dx.is_finite()), "{}: {dx:?}", adapter.name);
        assert_eq!(dx[3..6], [0.0; 3], "{}", adapter.name);

        let own = host(&activation::softmax(x.clone(), 1));
        let of_own = host(&gradient(&x, &weights, |x| activation::softmax(x, 1)));
        for (what, of_own) in [("softmax", &own), ("gradient", &of_own)] {
            assert!(
                of_own[3..6].iter().all(|y| y.is_nan()),
                "{}: Burn's own {what} of a masked row has changed: {of_own:?}",
                adapter.name
            );
        }
        // By default both follow IEEE and PyTorch.
        let plain = host(&macheps_burn::softmax(x, 1).expect("a softmax"));
        assert!(plain[3..6].iter().all(|y| y.is_nan()), "{}: {plain:?}", adapter.name);
    }
}

/// A class that is ruled out has no part in the loss, and no gradient: here both agree.
#[test]
fn classes_ruled_out() {
    for adapter in all("classes_ruled_out") {
        let logits = Tensor::<2>::from_data(
            [[1.0, HIDDEN, 1.0], [HIDDEN, HIDDEN, 3.0]],
            &adapter.device.clone().autodiff(),
        );
        let labels = Tensor::<1, Int>::from_data([0, 2], &adapter.device.clone().autodiff());
        let gradient = |loss: Tensor<1>, logits: &Tensor<2>| host(&logits.grad(&loss.backward()).expect("a leaf"));

        let ours = logits.clone().require_grad();
        let loss = macheps_burn::cross_entropy(ours.clone(), labels.clone(), &CrossEntropyOptions::default());
        let ours = gradient(loss.expect("a loss"), &ours);
        assert_eq!(ours, [-0.25, 0.0, 0.25, 0.0, 0.0, 0.0], "{}", adapter.name);

        let own = logits.require_grad();
        let loss = CrossEntropyLossConfig::new()
            .init(&own.device())
            .forward(own.clone(), labels);
        assert_eq!(gradient(loss, &own), ours, "{}: Burn's own", adapter.name);
    }
}

/// 100,000 equal logits: the sum of their exponentials is beyond f16, the loss is not.
#[test]
fn sums_beyond_f16() {
    const CLASSES: usize = 100_000;
    for adapter in all("sums_beyond_f16") {
        if !adapter.device.supports_dtype(FloatDType::F16) {
            skipped("sums_beyond_f16", &format!("{}: no f16 on this adapter", adapter.name));
            continue;
        }
        let device = adapter.device.clone().autodiff();
        let zeros = || Tensor::<2>::zeros([1, CLASSES], &device).cast(FloatDType::F16);
        let labels = || Tensor::<1, Int>::from_data([3], &device);
        let read = |x: Tensor<1>| -> f32 {
            let data = x.into_data().convert::<f32>();
            data.try_into_vec::<f32>().expect("f32")[0]
        };

        let logits = zeros().require_grad();
        assert_eq!(logits.dtype(), DType::F16);
        let loss = macheps_burn::cross_entropy(logits.clone(), labels(), &CrossEntropyOptions::default());
        let loss = loss.expect("a loss");
        let want = (CLASSES as f64).ln();
        // A scaled loss, as in training with f16: 1e-5 is a subnormal f16, and as exact as 2^16 times it.
        let gradients = (loss.clone() * 65536.0).backward();
        let loss = read(loss.inner());
        assert!((f64::from(loss) - want).abs() < 3e-6, "{}: {loss}", adapter.name);
        let gradient = logits
            .grad(&gradients)
            .expect("a leaf")
            .slice([0..1, 0..1])
            .reshape([1]);
        let (got, want) = (f64::from(read(gradient)), 65536.0 / CLASSES as f64);
        assert!(
            (got - want).abs() < 4e-4,
            "{}: gradient {got}, should be {want}",
            adapter.name
        );

        let own = activation::log_softmax(zeros(), 1)
            .slice([0..1, 3..4])
            .reshape([1])
            .neg();
        let own = read(own.inner());
        assert!(
            own.is_infinite(),
            "{}: Burn's own loss in f16 has changed: {own}",
            adapter.name
        );
    }
}
