//! The oracle: one step of an optimizer on one weight, plain mathematics in f64.

use super::options::{AdamWOptions, SgdOptions};

/// A weight with what its optimizer keeps of it; `m` is the momentum or the first moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Weight {
    /// The weight.
    pub w: f64,
    /// Momentum, or first moment.
    pub m: f64,
    /// Second moment.
    pub v: f64,
}

/// Step `t`, counted from 1, of stochastic gradient descent with gradient g.
pub fn sgd(o: &SgdOptions, t: u64, weight: Weight, g: f64) -> Weight {
    let d = g + o.weight_decay * weight.w;
    if o.momentum == 0.0 {
        return Weight {
            w: weight.w - o.learning_rate * d,
            ..weight
        };
    }
    let m = if t == 1 {
        d
    } else {
        o.momentum * weight.m + (1.0 - o.dampening) * d
    };
    let direction = if o.nesterov { d + o.momentum * m } else { m };
    Weight {
        w: weight.w - o.learning_rate * direction,
        m,
        ..weight
    }
}

/// Step `t`, counted from 1, of AdamW with gradient g.
pub fn adamw(o: &AdamWOptions, t: u64, weight: Weight, g: f64) -> Weight {
    let (before_m, before_v) = if t == 1 { (0.0, 0.0) } else { (weight.m, weight.v) };
    let m = o.beta1 * before_m + (1.0 - o.beta1) * g;
    let v = o.beta2 * before_v + (1.0 - o.beta2) * g * g;
    let m_hat = m / (1.0 - o.beta1.powf(t as f64));
    let v_hat = v / (1.0 - o.beta2.powf(t as f64));
    let decayed = weight.w * (1.0 - o.learning_rate * o.weight_decay);
    let w = decayed - o.learning_rate * m_hat / (v_hat.sqrt() + o.epsilon);
    Weight { w, m, v }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three steps with gradients 1, 0.5 and -2 from w = 1, worked out with pencil and paper.
    #[test]
    fn by_hand() {
        let run = |step: &dyn Fn(u64, Weight, f64) -> Weight| {
            let mut at = Weight {
                w: 1.0,
                ..Weight::default()
            };
            [1.0, 0.5, -2.0]
                .into_iter()
                .zip(1..)
                .map(|(g, t)| {
                    at = step(t, at, g);
                    at.w
                })
                .collect::<Vec<f64>>()
        };
        let close = |got: Vec<f64>, want: [f64; 3]| {
            for (g, w) in got.iter().zip(want) {
                assert!((g - w).abs() < 1e-12, "{got:?} should be {want:?}");
            }
        };
        let plain = SgdOptions {
            learning_rate: 0.1,
            ..SgdOptions::default()
        };
        close(run(&|t, w, g| sgd(&plain, t, w, g)), [0.9, 0.85, 1.05]);
        // m: 1, 0.9 + 0.5 * 0.5 = 1.15, 1.035 - 1 = 0.035.
        let dampened = SgdOptions {
            momentum: 0.9,
            dampening: 0.5,
            ..plain
        };
        close(run(&|t, w, g| sgd(&dampened, t, w, g)), [0.9, 0.785, 0.7815]);
        // m: 1, 1.4, -0.74; directions 1.9, 1.76, -2.666.
        let nesterov = SgdOptions {
            momentum: 0.9,
            nesterov: true,
            ..plain
        };
        close(run(&|t, w, g| sgd(&nesterov, t, w, g)), [0.81, 0.634, 0.9006]);
        // beta1 = beta2 = 1/2, no epsilon. t = 1: m^ = 1, v^ = 1. t = 2: m = 1/2, m^ = 2/3, v = 3/8, v^ = 1/2.
        // t = 3: m = -3/4, m^ = -6/7, v = 35/16, v^ = 5/2.
        let adam = AdamWOptions {
            learning_rate: 0.1,
            beta1: 0.5,
            beta2: 0.5,
            epsilon: 0.0,
            weight_decay: 0.0,
        };
        let second = 0.9 - 0.1 * (2.0 / 3.0) * 2f64.sqrt();
        close(
            run(&|t, w, g| adamw(&adam, t, w, g)),
            [0.9, second, second + 0.1 * (6.0 / 7.0) / 2.5f64.sqrt()],
        );
        // The first step of AdamW is the learning rate's, whatever the gradient, after the decay.
        let defaults = AdamWOptions::default();
        let first = adamw(
            &defaults,
            1,
            Weight {
                w: 1.0,
                ..Weight::default()
            },
            0.25,
        );
        assert!((first.w - (1.0 - 1e-5 - 1e-3 * 0.25 / (0.25 + 1e-8))).abs() < 1e-15);
    }
}
