//! Softmax and log-softmax on tensors and views of any layout.

use crate::adapters::{Adapter, all, assert_offset, gradient, host, normal};
use burn::tensor::{Tensor, activation, s};
use macheps::ops::softmax::bounds::{Accuracy, Quantity, bound};
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
    let map = RowMap::contiguous(&x.dims(), axis);
    let options = SoftmaxOptions {
        axis: axis as isize,
        ..Default::default()
    };
    let weights = normal(7, x.dims(), 1.0, &adapter.device);
    for kind in KINDS {
        let name = format!("{}: {} of {name} along {axis}", adapter.name, kind.name());
        let values = host(x);
        let want = reference::forward(kind, &values, &map, None, &options, 1, &map);
        let got = host(&ours(kind, x.clone(), axis));
        let checked = want.check(&got, Quantity::Forward(kind), Accuracy::Relaxed);
        checked.unwrap_or_else(|mismatch| panic!("{name}: {mismatch}"));

        let upstream = host(&weights);
        let want = reference::backward(kind, &values, &map, None, &upstream, &map, &options, 1, &map);
        let quantity = Quantity::Backward(kind);
        let got = gradient(x, &weights, |x| ours(kind, x, axis));
        let checked = want.check(&got, quantity, Accuracy::Relaxed);
        checked.unwrap_or_else(|mismatch| panic!("{name}, gradient: {mismatch}"));

        // Burn's own makes no promise: by how much of ours it may be off is measured, and generous.
        const OF_BOUND: f64 = 16.0;
        let own = gradient(x, &weights, |x| burns(kind, x, axis));
        for (i, (&ours, &own)) in got.iter().zip(&own).enumerate() {
            let (value, magnitude) = (want.values[i], want.magnitudes[i]);
            let allowed = OF_BOUND * bound(quantity, macheps::DType::F32, Accuracy::Relaxed, value, magnitude);
            let difference = f64::from(ours - own).abs();
            assert!(
                difference <= allowed,
                "{name}, gradient {i}: {ours:e} and Burn's own {own:e}"
            );
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
