//! The oracle: plain mathematics in f64, and the state machine of the scale.

use super::options::{CLIP_EPSILON, LossScalerOptions, LossScalerState};

/// What unscaling gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Expected {
    /// The gradients, unscaled and clipped.
    pub values: Vec<Vec<f64>>,
    /// Their norm before clipping.
    pub norm: f64,
    /// The clip factor.
    pub clip: f64,
    /// Whether one of them is not finite.
    pub found_nonfinite: bool,
}

/// Gradients divided by the scale and clipped by their norm. Where one is not finite nothing is clipped.
pub fn unscale(gradients: &[Vec<f64>], scale: f64, max_norm: Option<f64>) -> Expected {
    let all = || gradients.iter().flatten().copied();
    let found_nonfinite = all().any(|g| !g.is_finite());
    // Squares of f32 values neither overflow nor vanish in f64.
    let norm = if all().any(f64::is_nan) {
        f64::NAN
    } else {
        all().map(|g| g * g).sum::<f64>().sqrt() / scale
    };
    let clip = match max_norm {
        Some(bound) if !found_nonfinite => (bound / (norm + CLIP_EPSILON)).min(1.0),
        _ => 1.0,
    };
    Expected {
        values: gradients
            .iter()
            .map(|tensor| tensor.iter().map(|g| g * clip / scale).collect())
            .collect(),
        norm,
        clip,
        found_nonfinite,
    }
}

/// The scale and the counters after a step whose verdict is in `state`.
pub fn update(state: &mut LossScalerState, options: &LossScalerOptions) {
    if state.found_nonfinite {
        state.scale = (state.scale * options.backoff_factor).max(options.min_scale);
        state.growth_tracker = 0;
        state.skipped = state.skipped.wrapping_add(1);
        return;
    }
    state.steps = state.steps.wrapping_add(1);
    state.growth_tracker += 1;
    if state.growth_tracker >= options.growth_interval {
        let grown = state.scale * options.growth_factor;
        if grown <= options.max_scale {
            state.scale = grown;
        }
        state.growth_tracker = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        // 3-4-12: the norm is 13, times 1/2 by the scale.
        let e = unscale(&[vec![3.0, -4.0], vec![12.0]], 2.0, None);
        assert_eq!((e.norm, e.clip, e.found_nonfinite), (6.5, 1.0, false));
        assert_eq!(e.values, [vec![1.5, -2.0], vec![6.0]]);
        let e = unscale(&[vec![3.0, -4.0], vec![12.0]], 2.0, Some(1.0));
        assert!((e.clip - 1.0 / 6.500001).abs() < 1e-15);
        let e = unscale(&[vec![f64::INFINITY], vec![1.0]], 2.0, Some(1.0));
        assert!(e.found_nonfinite && e.norm == f64::INFINITY && e.values[1] == [0.5]);
        assert!(unscale(&[vec![f64::NAN]], 1.0, None).norm.is_nan());
    }

    #[test]
    fn the_scale_moves_as_torch_moves_it() {
        let options = LossScalerOptions {
            growth_interval: 2,
            ..Default::default()
        };
        let mut state = LossScalerState::new(&options);
        let mut scales = Vec::new();
        for bad in [false, false, false, true, false, false] {
            state.found_nonfinite = bad;
            update(&mut state, &options);
            scales.push((state.scale, state.growth_tracker));
        }
        assert_eq!(
            scales,
            [
                (65536.0, 1),
                (131072.0, 0),
                (131072.0, 1),
                (65536.0, 0),
                (65536.0, 1),
                (131072.0, 0)
            ]
        );
        assert_eq!((state.steps, state.skipped), (5, 1));
    }
}
