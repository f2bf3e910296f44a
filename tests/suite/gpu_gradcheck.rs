//! Backward kernels on every adapter against difference quotients: one small case of each.

use crate::adapters;
use crate::gradcheck::{hold, operations};

#[test]
fn backward_kernels_are_held_to_differences() {
    for adapter in adapters::all("backward_kernels_are_held_to_differences") {
        for operation in operations().into_iter().filter(|o| o.on_gpu) {
            let gradient = (operation.backward)(&adapter.context)
                .unwrap_or_else(|e| panic!("{}: {}: {e}", adapter.name, operation.name));
            hold(&operation, &gradient).unwrap_or_else(|e| panic!("{}: {}: {e}", adapter.name, operation.name));
        }
    }
}
