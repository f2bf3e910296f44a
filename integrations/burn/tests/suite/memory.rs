//! How much of Burn's memory pool a loss and its gradient take.

#[path = "../../examples/loss_bench.rs"]
#[allow(dead_code)]
mod loss_bench;

use crate::adapters::{all, normal, say};
use crate::cross_entropy::labels;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::tensor::{Int, Tensor, TensorData};
use loss_bench::extra_bytes;

/// The gradient, and next to nothing else: half of what Burn's own loss takes, or less.
#[test]
fn a_loss_takes_half_the_memory() {
    const SHAPE: [usize; 2] = [256, 32_000];
    for adapter in all("a_loss_takes_half_the_memory") {
        // A pool in which no other test is at work.
        let (device, setup) = adapter.another_device();
        macheps_burn::attach(&device, &setup).expect("its own");
        let logits = normal(41, SHAPE, 4.0, &device);
        let classes = TensorData::new(labels(42, SHAPE[0], SHAPE[1]), [SHAPE[0]]);
        let labels = Tensor::<1, Int>::from_data(classes, &device.autodiff());
        let own = CrossEntropyLossConfig::new().init(&labels.device());
        let burns = |logits: Tensor<2>| own.forward(logits, labels.clone());
        let ours = |logits: Tensor<2>| {
            let options = Default::default();
            macheps_burn::cross_entropy(logits, labels.clone(), &options).expect("a loss")
        };
        // What it takes once, for shaders and the like, does not count.
        for loss in [&burns as &dyn Fn(_) -> _, &ours] {
            loss_bench::step(&logits, loss).expect("a step");
        }
        let ours = extra_bytes(&logits, &ours).expect("a step");
        let burns = extra_bytes(&logits, &burns).expect("a step");
        let gradient = (4 * SHAPE[0] * SHAPE[1]) as u64;
        say(&format!(
            "{}: beside logits of {gradient} bytes, loss and gradient take {ours}, with Burn's own loss {burns}",
            adapter.name
        ));
        assert!(ours >= gradient && 2 * ours <= burns, "{}", adapter.name);
    }
}
