//! A training as a whole, by the example.

#[path = "../../examples/digits.rs"]
#[allow(dead_code)]
mod digits;

use crate::adapters::{all, say};
use digits::{Digits, Loss, largest_difference, train};

#[test]
fn a_hundred_steps_are_burns_own() {
    let digits = Digits::read();
    for adapter in all("a_hundred_steps_are_burns_own") {
        let device = adapter.device.clone().autodiff();
        let burns = train(&digits, &device, Loss::Burn, 100).expect("a training");
        let ours = train(&digits, &device, Loss::Macheps, 100).expect("a training");
        assert_eq!(ours.losses.len(), 100);
        let difference = largest_difference(&burns, &ours);
        say(&format!(
            "{}: losses of 100 steps differ by {difference:.1e} of themselves at most",
            adapter.name
        ));
        assert!(difference <= 1e-4, "{}: {difference:e}", adapter.name);
        assert!(
            ours.losses[99] < 0.5 * ours.losses[0] && ours.accuracy > 0.8,
            "{}: it did not learn",
            adapter.name
        );
    }
}
