//! How far weights and moments may be from those of the oracle, step after step.
//!
//! With u = 2^-24, for a step from exact values, in f32:
//!
//! | result | error allowed |
//! |---|---|
//! | momentum, first moment | `5u` times the sum of the magnitudes of its terms |
//! | second moment | `6u` times itself, and what underflows |
//! | SGD weight | `2u abs(w)` and `8u` times the sum of the magnitudes of the terms of the change |
//! | AdamW weight | `2u abs(w) + 5u abs(decay)` and `20u` times the sum of the magnitudes of the terms of the change |
//! | 16-bit copy | none: it is the master weight rounded to nearest even |
//!
//! Errors of earlier steps go through the same formulas: [`sgd`] and [`adamw`] carry them along.

use super::options::{AdamWOptions, SgdOptions};
use super::reference::Weight;
pub use crate::accuracy::{MaxError, Mismatch, U, check};

/// What an f32 may lose to underflow.
const TINY: f64 = 1.2e-38;

/// Errors allowed after a step of SGD from values with errors `error`, where the gradient is off by at most `gradient_error`.
pub fn sgd(o: &SgdOptions, t: u64, before: Weight, error: Weight, g: f64, gradient_error: f64) -> Weight {
    let lr = o.learning_rate;
    let terms = g.abs() + o.weight_decay * before.w.abs();
    let d_error = gradient_error + o.weight_decay * error.w + 3.0 * U * terms + TINY;
    if o.momentum == 0.0 {
        return Weight {
            w: error.w + lr * d_error + 5.0 * U * lr * terms + 2.0 * U * before.w.abs() + TINY,
            ..error
        };
    }
    let (kept, gain) = if t == 1 {
        (0.0, 1.0)
    } else {
        (o.momentum, (1.0 - o.dampening).abs())
    };
    let moved = kept * before.m.abs() + gain * terms;
    let m = kept * error.m + gain * d_error + 5.0 * U * moved + TINY;
    let (direction, direction_error) = if o.nesterov {
        let all = terms + o.momentum * moved;
        (all, d_error + o.momentum * m + 3.0 * U * all)
    } else {
        (moved, m)
    };
    Weight {
        w: error.w + lr * direction_error + 5.0 * U * lr * direction + 2.0 * U * before.w.abs() + TINY,
        m,
        v: error.v,
    }
}

/// Errors allowed after a step of AdamW from values with errors `error`, where the gradient is off by at most `gradient_error`.
pub fn adamw(o: &AdamWOptions, t: u64, before: Weight, error: Weight, g: f64, gradient_error: f64) -> Weight {
    let first = t == 1;
    let (m0, v0) = if first { (0.0, 0.0) } else { (before.m, before.v) };
    let (em0, ev0) = if first { (0.0, 0.0) } else { (error.m, error.v) };
    let terms = o.beta1 * m0.abs() + (1.0 - o.beta1) * g.abs();
    let m_error = o.beta1 * em0 + (1.0 - o.beta1) * gradient_error + 5.0 * U * terms + TINY;
    let v = o.beta2 * v0 + (1.0 - o.beta2) * g * g;
    let square_error = (2.0 * g.abs() + gradient_error) * gradient_error;
    let v_error = o.beta2 * ev0 + (1.0 - o.beta2) * square_error + 6.0 * U * v + 2.0 * TINY;
    let c1 = 1.0 - o.beta1.powf(t as f64);
    let inverse_root = 1.0 / (1.0 - o.beta2.powf(t as f64)).sqrt();
    let root = v.sqrt();
    let root_error = ((v + v_error).sqrt() - root).max(root - (v - v_error).max(0.0).sqrt());
    let denominator = root * inverse_root + o.epsilon;
    let denominator_error = root_error * inverse_root + 10.0 * U * denominator;
    let least = denominator - denominator_error;
    let size = o.learning_rate / c1;
    let m = o.beta1 * m0 + (1.0 - o.beta1) * g;
    let change_error = if least > 0.0 {
        size * (m_error + 8.0 * U * terms) / least + size * m.abs() / denominator * (denominator_error / least)
    } else {
        f64::INFINITY
    };
    let decay = o.learning_rate * o.weight_decay;
    Weight {
        w: error.w
            + change_error
            + 2.0 * U * before.w.abs()
            + 5.0 * U * decay * before.w.abs()
            + 2.0 * U * size * m.abs() / denominator
            + TINY,
        m: m_error,
        v: v_error,
    }
}
