//! Softmax and log-softmax on tensors and views of any layout.

use crate::adapters::{Adapter, all, assert_offset, exactly, gradient, host, host_f64, normal, skipped};
use burn::tensor::{FloatDType, Tensor, activation, s};
use macheps::Element;
use macheps::ops::softmax::bounds::{Accuracy, Expected, Quantity};
use macheps::ops::softmax::reference;
use macheps::rows::RowMap;
use macheps_burn::{SoftmaxKind, SoftmaxOptions};

const KINDS: [SoftmaxKind; 2] = [SoftmaxKind::Softmax, SoftmaxKind::LogSoftmax];

fn ours<const D: usize>(kind: SoftmaxKind, x: Tensor<D>, axis: usize) -> Tensor<D> {
    match kind {
        SoftmaxKind::Softmax => macheps_burn::softmax(x, axis),
        _ => macheps_burn::log_softmax(x, axis),
    }
    .expect("a softmax")
}

fn burns<const D: usize>(kind: SoftmaxKind, x: Tensor<D>, axis: usize) -> Tensor<D> {
    match kind {
        SoftmaxKind::Softmax => activation::softmax(x, axis),
        _ => activation::log_softmax(x, axis),
    }
}

/// Value and gradient against the oracle, and the gradient against Burn's own.
fn check<const D: usize>(adapter: &Adapter, name: &str, x: &Tensor<D>, axis: usize) {
    let options = SoftmaxOptions {
        axis: axis as isize,
        ..Default::default()
    };
    for kind in KINDS {
        let name = format!("{}: {} of {name} along {axis}", adapter.name, kind.name());
        let (got, want) = held(adapter, &name, x, kind, &options, |x| ours(kind, x, axis));

        // What Burn's autodiff makes of Burn's own softmax where its arithmetic is f64.
        let weights = upstream(adapter, x);
        let exact = gradient(&exactly(x), &exactly(&weights), |x| burns(kind, x, axis));
        let bounds = want.bounds(Quantity::Backward(kind), macheps::DType::F32, Accuracy::Relaxed);
        let mismatch = macheps::accuracy::check(&got, &host_f64(&exact), &bounds);
        mismatch.unwrap_or_else(|mismatch| panic!("{name}, gradient against Burn's own: {mismatch}"));

        // In f32 on the same device it makes no promise: by how much of our bound it may be off is measured, and generous.
        const OF_BOUND: f64 = 16.0;
        let own = host(&gradient(x, &weights, |x| burns(kind, x, axis)));
        for (i, (&ours, &own)) in got.iter().zip(&own).enumerate() {
            assert!(
                f64::from(ours - own).abs() <= OF_BOUND * bounds[i],
                "{name}, gradient {i}: {ours:e} and Burn's own {own:e}"
            );
        }
    }
}

/// Weights of the elements of a softmax in a sum.
fn upstream<const D: usize>(adapter: &Adapter, x: &Tensor<D>) -> Tensor<D> {
    normal(7, x.dims(), 1.0, &adapter.device)
}

/// Value and gradient of `f` against the oracle; the gradient, and what it should be.
fn held<const D: usize>(
    adapter: &Adapter,
    name: &str,
    x: &Tensor<D>,
    kind: SoftmaxKind,
    options: &SoftmaxOptions,
    f: impl Fn(Tensor<D>) -> Tensor<D>,
) -> (Vec<f32>, Expected) {
    let axis = options.check(&x.dims()).expect("an axis of x");
    let map = RowMap::contiguous(&x.dims(), axis);
    // The rows of a causal mask are those of the last but one dimension.
    let queries = if D > 1 { x.dims()[D - 2] } else { 1 };
    let values = host(x);
    let want = reference::forward(kind, &values, &map, None, options, queries, &map);
    let checked = want.check(&host(&f(x.clone())), Quantity::Forward(kind), Accuracy::Relaxed);
    checked.unwrap_or_else(|mismatch| panic!("{name}: {mismatch}"));

    let weights = upstream(adapter, x);
    let want = reference::backward(kind, &values, &map, None, &host(&weights), &map, options, queries, &map);
    let got = host(&gradient(x, &weights, f));
    let checked = want.check(&got, Quantity::Backward(kind), Accuracy::Relaxed);
    checked.unwrap_or_else(|mismatch| panic!("{name}, gradient: {mismatch}"));
    (got, want)
}

/// A factor on the input and a causal mask, as attention has them.
#[test]
fn a_factor_and_a_causal_mask() {
    for adapter in all("a_factor_and_a_causal_mask") {
        let x = normal(8, [2, 3, 19, 23], 9.0, &adapter.device);
        let options = SoftmaxOptions {
            scale: 0.125,
            causal: Some(4),
            ..Default::default()
        };
        for kind in KINDS {
            let name = format!("{}: causal {}", adapter.name, kind.name());
            let f = |x| macheps_burn::softmax_with(x, kind, &options).expect("a softmax");
            held(adapter, &name, &x, kind, &options, f);
        }
    }
}

#[test]
fn values_and_gradients_of_plain_tensors() {
    for adapter in all("values_and_gradients_of_plain_tensors") {
        let device = &adapter.device;
        for (rows, columns) in [(1, 1), (3, 10), (5, 257), (2, 5000)] {
            let x = normal(1, [rows, columns], 3.0, device);
            check(adapter, &format!("[{rows}, {columns}]"), &x, 1);
            check(adapter, &format!("[{rows}, {columns}]"), &x, 0);
        }
        check(adapter, "[4, 3, 7]", &normal(2, [4, 3, 7], 3.0, device), 1);
    }
}

#[test]
fn views_are_taken_where_they_lie() {
    for adapter in all("views_are_taken_where_they_lie") {
        let whole = normal(3, [24, 192], 3.0, &adapter.device);
        let rows = whole.clone().slice(s![8..16, ..]);
        assert_offset(&rows, "Burn copied these rows");
        check(adapter, "rows 8..16 of [24, 192]", &rows, 1);
        check(adapter, "rows 8..16 of [24, 192], transposed", &rows.transpose(), 1);
        let columns = whole.slice(s![.., 64..128]);
        assert_offset(&columns, "Burn copied these columns");
        check(adapter, "columns 64..128 of [24, 192]", &columns, 1);
        check(adapter, "columns 64..128 of [24, 192]", &columns, 0);
        let permuted = normal(4, [3, 5, 4, 6], 3.0, &adapter.device).permute([2, 0, 3, 1]);
        check(adapter, "a permuted [3, 5, 4, 6]", &permuted, 1);
    }
}

/// Values and gradients stored as f16 or bf16; what Burn's own arithmetic would make of them has no bound.
fn check_16_bits<T: Element + burn::tensor::Element>(adapter: &Adapter, dtype: FloatDType, shape: [usize; 2]) {
    let stored = |x: Tensor<2>| -> Vec<T> { x.into_data().try_into_vec().expect("the type it was cast to") };
    let x = normal(9, shape, 3.0, &adapter.device).cast(dtype);
    let weights = upstream(adapter, &x).cast(dtype);
    let map = RowMap::contiguous(&shape, 1);
    let options = SoftmaxOptions {
        axis: 1,
        ..Default::default()
    };
    let (values, weighted) = (stored(x.clone()), stored(weights.clone()));
    for kind in KINDS {
        let name = format!("{}: {} of {dtype:?} {shape:?}", adapter.name, kind.name());
        let want = reference::forward(kind, &values, &map, None, &options, 1, &map);
        let got = stored(ours(kind, x.clone(), 1));
        let checked = want.check(&got, Quantity::Forward(kind), Accuracy::Relaxed);
        checked.unwrap_or_else(|mismatch| panic!("{name}: {mismatch}"));
        let want = reference::backward(kind, &values, &map, None, &weighted, &map, &options, 1, &map);
        let got = stored(gradient(&x, &weights, |x| ours(kind, x, 1)));
        let checked = want.check(&got, Quantity::Backward(kind), Accuracy::Relaxed);
        checked.unwrap_or_else(|mismatch| panic!("{name}, gradient: {mismatch}"));
    }
}

#[test]
fn softmax_in_16_bits() {
    let test = "softmax_in_16_bits";
    for adapter in all(test) {
        let has = |dtype| adapter.device.supports_dtype(dtype);
        if !has(FloatDType::F16) {
            skipped(test, &format!("{}: no f16 on this adapter", adapter.name));
        }
        for shape in [[3, 10], [4, 257], [2, 5000]] {
            if has(FloatDType::F16) {
                check_16_bits::<macheps::f16>(adapter, FloatDType::F16, shape);
            }
            // Burn on wgpu has it on Metal and on Vulkan drivers with bfloat16 in shaders, which no software driver has.
            if has(FloatDType::BF16) {
                check_16_bits::<macheps::bf16>(adapter, FloatDType::BF16, shape);
            }
        }
    }
}

/// What Burn has queued runs before, what it queues afterwards runs behind: nothing in between is read by the host.
#[test]
fn operations_run_in_order() {
    for adapter in all("operations_run_in_order") {
        let x = normal(5, [64, 300], 1.0, &adapter.device);
        let mut chained = x.clone();
        let mut want = x;
        for _ in 0..20 {
            chained = macheps_burn::softmax(chained * 3.0 + 1.0, 1).expect("a softmax") * 2.0;
            want = activation::softmax(want * 3.0 + 1.0, 1) * 2.0;
        }
        for (i, (got, want)) in host(&chained).into_iter().zip(host(&want)).enumerate() {
            assert!(
                (got - want).abs() <= 1e-4 * want,
                "{}: element {i} is {got}, Burn's own {want}",
                adapter.name
            );
        }
    }
}

/// In a forward and a backward pass macheps neither waits nor reads back. That it works in Burn's memory is a test of `place.rs`.
#[test]
fn nothing_goes_through_the_host() {
    for adapter in all("nothing_goes_through_the_host") {
        let before = adapter.gpu.statistics();
        let x = Tensor::from_inner(normal(6, [8, 100], 1.0, &adapter.device)).require_grad();
        let y = macheps_burn::softmax(x.clone(), 1).expect("a softmax");
        let gradients = y.sum().backward();
        let after = adapter.gpu.statistics();
        assert!(x.grad(&gradients).is_some());
        assert_eq!(
            (before.readbacks, before.waits),
            (after.readbacks, after.waits),
            "{}",
            adapter.name
        );
    }
}
