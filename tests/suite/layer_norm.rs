//! layer_norm and rms_norm on the CPU path: known values, the shared cases, rows that are not ordinary, errors, and the oracle
//! itself against central differences.

use crate::gradcheck::{Operation, grid, narrow};
use macheps::element::{DType, bf16, f16};
use macheps::ops::layer_norm::bounds::Quantity;
use macheps::ops::layer_norm::cases::{Case, Fill, verify_cases};
use macheps::ops::layer_norm::{backward, forward, reference};
use macheps::{Context, Error, LayerNormInput, LayerNormOptions, NormKind};

fn options(kind: NormKind, eps: f64) -> LayerNormOptions {
    LayerNormOptions { kind, eps }
}

#[test]
fn known_values() {
    let cpu = Context::cpu();
    let x = [1.0f32, 2.0, 3.0, 4.0];
    let y = forward(&cpu, &LayerNormInput::new(&x, &[4]), &options(NormKind::LayerNorm, 0.0)).unwrap();
    // (x - 2.5) / sqrt(1.25)
    let want = [
        -1.3416407864998738f64,
        -0.4472135954999579,
        0.4472135954999579,
        1.3416407864998738,
    ];
    for (y, want) in y.iter().zip(want) {
        assert_eq!(*y, want as f32);
    }
    let y = forward(
        &cpu,
        &LayerNormInput::new(&[3.0f32, 4.0], &[2]),
        &options(NormKind::RmsNorm, 0.0),
    )
    .unwrap();
    // / sqrt(12.5)
    assert_eq!(y, [0.848_528_14, 1.131_370_9]);
}

#[test]
fn cases_of_verify() {
    let cpu = Context::cpu();
    for case in verify_cases() {
        let found = case.run(&cpu).unwrap();
        assert!(found.is_ok(), "{:?}: {}", case, found.unwrap_err());
    }
}

#[test]
fn lengths_and_long_rows() {
    let cpu = Context::cpu();
    for kind in NormKind::ALL {
        for quantity in [Quantity::Forward(kind), Quantity::Backward(kind)] {
            for shape in [
                vec![5, 0],
                vec![0, 7],
                vec![3, 1],
                vec![9, 15],
                vec![9, 16],
                vec![9, 17],
                vec![2, 70_001],
                vec![700, 33],
            ] {
                for fill in [Fill::Ordinary, Fill::Offset] {
                    let case = Case {
                        fill,
                        ..Case::new(quantity, DType::F32, &shape)
                    };
                    let found = case.run(&cpu).unwrap();
                    assert!(found.is_ok(), "{:?}: {}", case, found.unwrap_err());
                }
            }
        }
    }
}

#[test]
fn rows_that_are_not_ordinary() {
    let cpu = Context::cpu();
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let x = [1.0, nan, 2.0, 1.0, inf, 2.0, 5.0, 5.0, 5.0];
    let bias = [0.5f32, -0.0, 3.0];
    let input = LayerNormInput {
        bias: Some(&bias),
        ..LayerNormInput::new(&x, &[3, 3])
    };
    let y = forward(&cpu, &input, &LayerNormOptions::default()).unwrap();
    assert!(y[..6].iter().all(|v| v.to_bits() == 0x7fc0_0000), "{y:?}");
    assert_eq!(y[6..], bias);
    let y = forward(
        &cpu,
        &LayerNormInput::new(&x, &[3, 3]),
        &LayerNormOptions::new(NormKind::RmsNorm),
    )
    .unwrap();
    assert!(y[..3].iter().all(|v| v.is_nan()));
    assert_eq!((y[3], y[4].to_bits(), y[5]), (0.0, 0x7fc0_0000, 0.0));
    // 0 / sqrt(0)
    let zero = [0.0f32; 3];
    for kind in NormKind::ALL {
        let y = forward(&cpu, &LayerNormInput::new(&zero, &[3]), &options(kind, 0.0)).unwrap();
        assert!(y.iter().all(|v| v.is_nan()));
    }
    // The extremes of the range.
    let y = macheps::rms_norm(&cpu, &[3e38f32, -3e38], &[2], None).unwrap();
    assert_eq!(y, [1.0, -1.0]);
    let y = forward(
        &cpu,
        &LayerNormInput::new(&[1e-38f32, -1e-38], &[2]),
        &options(NormKind::LayerNorm, 0.0),
    )
    .unwrap();
    assert_eq!(y, [1.0, -1.0]);
}

#[test]
fn wrong_calls_are_typed_errors() {
    let cpu = Context::cpu();
    let x = [1.0f32; 6];
    let ok = LayerNormInput::new(&x, &[2, 3]);
    let default = LayerNormOptions::default();
    for eps in [-1.0, f64::NAN, f64::INFINITY, 1e-70] {
        let e = forward(&cpu, &ok, &options(NormKind::LayerNorm, eps)).unwrap_err();
        assert!(matches!(e, Error::Option { name: "eps", .. }), "{e}");
    }
    let two = [1.0f32; 2];
    for input in [
        LayerNormInput::new(&x, &[]),
        LayerNormInput::new(&x, &[2, 4]),
        LayerNormInput {
            weight: Some(&two),
            ..ok
        },
        LayerNormInput { bias: Some(&two), ..ok },
        LayerNormInput::new(&[], &[usize::MAX, 8, 0]),
    ] {
        assert!(
            matches!(forward(&cpu, &input, &default), Err(Error::Shape { .. })),
            "{input:?}"
        );
    }
    let three = [1.0f32; 3];
    let input = LayerNormInput {
        bias: Some(&three),
        ..ok
    };
    let e = forward(&cpu, &input, &LayerNormOptions::new(NormKind::RmsNorm)).unwrap_err();
    assert!(matches!(e, Error::Unsupported { .. }), "{e}");
    assert!(matches!(backward(&cpu, &ok, &two, &default), Err(Error::Shape { .. })));
}

/// The oracle's gradients against central differences of its own forward pass.
#[test]
fn gradients_are_those_of_the_function() {
    let x: Vec<f64> = (0..9).map(|i| f64::from(i * 7 % 9) * 0.3 - 1.0).collect();
    let weight: Vec<f64> = (0..9).map(|i| 0.5 + f64::from(i) * 0.2).collect();
    let g: Vec<f64> = (0..9).map(|i| f64::from(i * 5 % 7) - 2.5).collect();
    for kind in NormKind::ALL {
        let options = options(kind, 1e-3);
        let loss = |x: &[f64]| -> f64 {
            let y = reference::forward_row(x, Some(&weight), None, &options);
            y.values.iter().zip(&g).map(|(y, g)| y * g).sum()
        };
        let found = reference::backward_row(&x, Some(&weight), &g, &options);
        for j in 0..x.len() {
            let h = 1e-5;
            let (mut up, mut down) = (x.clone(), x.clone());
            up[j] += h;
            down[j] -= h;
            let difference = (loss(&up) - loss(&down)) / (2.0 * h);
            assert!(
                (difference - found.values[j]).abs() < 1e-7,
                "{kind:?} {j}: {difference} {}",
                found.values[j]
            );
        }
        let wide = |v: &[f64]| v.iter().map(|&v| v as f32).collect::<Vec<_>>();
        let [_, dweight, dbias] = reference::backward(&wide(&x), 9, Some(&wide(&weight)), &wide(&g), &options);
        let normal = reference::forward_row(&x, None, None, &options);
        for (j, &g) in g.iter().enumerate() {
            assert!((dweight.values[j] - normal.values[j] * g).abs() < 1e-6);
            assert!((dbias.values[j] - g).abs() < 1e-6);
        }
    }
}

#[test]
fn sixteen_bits_and_tensors() {
    let cpu = Context::cpu();
    let x: Vec<f16> = (0..8).map(|i| f16::from_f32(i as f32)).collect();
    let y = macheps::layer_norm(&cpu, &x, &[2, 4], None, None).unwrap();
    assert_eq!(y[..4], y[4..]);
    let x: Vec<bf16> = (0..8).map(|i| bf16::from_f32(i as f32)).collect();
    let tensor = cpu.upload(&x, &[2, 4]).unwrap();
    let mut chain = cpu.chain();
    let y = chain
        .layer_norm(&tensor, None, None, &LayerNormOptions::default())
        .unwrap();
    let (dx, dweight, _) = chain
        .layer_norm_backward(&tensor, None, None, &y, &LayerNormOptions::default())
        .unwrap();
    chain.submit().unwrap();
    assert_eq!(
        y.download().unwrap(),
        macheps::layer_norm(&cpu, &x, &[2, 4], None, None).unwrap()
    );
    assert!(dx.shape() == [2, 4] && dweight.is_none());
}

/// The backward passes for the gradient check: inputs are x, weight and, for layer_norm, bias behind each other.
pub fn backward_passes() -> Vec<Operation> {
    NormKind::ALL.into_iter().map(backward_pass).collect()
}

fn backward_pass(kind: NormKind) -> Operation {
    const SHAPE: [usize; 2] = [4, 7];
    let (count, len) = (SHAPE[0] * SHAPE[1], SHAPE[1]);
    let layer = kind == NormKind::LayerNorm;
    let inputs = grid(count + if layer { 2 } else { 1 } * len, 5, 3.0);
    let upstream = grid(count, 6, 2.0);
    let options = options(kind, 0.0625);
    let (x32, g32) = (narrow(&inputs), narrow(&upstream));
    let weight = &x32[count..count + len];
    let [dx, dweight, dbias] = reference::backward(&x32[..count], len, Some(weight), &g32, &options);
    let parts = if layer {
        vec![dx, dweight, dbias]
    } else {
        vec![dx, dweight]
    };
    let bounds = parts.iter().flat_map(|p| p.bounds(DType::F32)).collect();
    Operation {
        name: format!("{} of x, weight and bias", Quantity::Backward(kind).name()),
        x: inputs,
        upstream,
        forward: Box::new(move |v| {
            let (x, rest) = v.split_at(count);
            let (weight, bias) = rest.split_at(len);
            let rows = x
                .chunks(len)
                .map(|row| reference::forward_row(row, Some(weight), layer.then_some(bias), &options).values);
            rows.flatten().collect()
        }),
        oracle: parts.into_iter().flat_map(|p| p.values).collect(),
        bounds,
        backward: Box::new(move |context| {
            let input = LayerNormInput {
                x: &x32[..count],
                shape: &SHAPE,
                weight: Some(&x32[count..count + len]),
                bias: layer.then(|| &x32[count + len..]),
            };
            let found = backward(context, &input, &g32, &options)?;
            let sums = found.dweight.into_iter().chain(found.dbias).flatten();
            Ok(found.dx.into_iter().chain(sums).collect())
        }),
        on_gpu: true,
    }
}
