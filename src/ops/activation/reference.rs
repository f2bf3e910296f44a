//! The oracle: sigmoid, log_sigmoid, softplus and their gradients as plain mathematics in f64. Nothing is rounded to a storage
//! type. Values agree with 50-digit ones to about 1e-15.
//!
//! | x | sigmoid | log_sigmoid | softplus |
//! |---|---|---|---|
//! | -inf | 0 | -inf | 0 |
//! | +inf | 1 | -0 | +inf |
//! | NaN | NaN | NaN | NaN |

use super::options::ActivationKind;

/// `1 / (1 + exp(-x))`, without cancellation in the lower tail.
pub fn sigmoid(x: f64) -> f64 {
    if x < 0.0 {
        x.exp() / (1.0 + x.exp())
    } else {
        1.0 / (1.0 + (-x).exp())
    }
}

/// `log(1 + exp(x))` as `max(x, 0) + log(1 + exp(-|x|))`.
pub fn softplus(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// The function of an element.
pub fn forward(kind: ActivationKind, x: f64) -> f64 {
    match kind {
        ActivationKind::Sigmoid => sigmoid(x),
        ActivationKind::LogSigmoid => -softplus(-x),
        ActivationKind::Softplus => softplus(x),
    }
}

/// `upstream` times the derivative at `x`.
///
/// The derivative of a finite x is never 0: f64 holds it down to x = 700 below, and what lies further counts as that, so that an infinite
/// upstream gradient gives an infinity. At an infinite x it may be 0, and infinity times it is NaN.
pub fn backward(kind: ActivationKind, x: f64, upstream: f64) -> f64 {
    let x = if x.is_finite() { x.clamp(-700.0, 700.0) } else { x };
    let slope = match kind {
        // sigmoid(x) * sigmoid(-x), not s * (1 - s).
        ActivationKind::Sigmoid => sigmoid(x) * sigmoid(-x),
        ActivationKind::LogSigmoid => sigmoid(-x),
        ActivationKind::Softplus => sigmoid(x),
    };
    upstream * slope
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hand_written_values() {
        use ActivationKind::*;
        assert_eq!(forward(Sigmoid, 0.0), 0.5);
        assert_eq!(forward(Softplus, 0.0), std::f64::consts::LN_2);
        assert_eq!(forward(LogSigmoid, 0.0), -std::f64::consts::LN_2);
        assert_eq!(backward(Sigmoid, 0.0, 4.0), 1.0);
        assert_eq!(backward(Softplus, 0.0, 4.0), 2.0);
        let three = 3f64.ln();
        assert!((forward(Sigmoid, three) - 0.75).abs() < 1e-15);
        assert!((forward(Softplus, three) - 4f64.ln()).abs() < 1e-15);
        // Lower tails keep all of their digits.
        assert_eq!(forward(Sigmoid, -100.0), (-100f64).exp());
        assert_eq!(forward(Softplus, -100.0), (-100f64).exp());
        assert_eq!(forward(LogSigmoid, 100.0), -(-100f64).exp());
        assert_eq!(forward(Softplus, 1e30), 1e30);
    }

    #[test]
    fn every_class() {
        use ActivationKind::*;
        const INF: f64 = f64::INFINITY;
        for (x, sigmoid, log_sigmoid, softplus) in [(-INF, 0.0, -INF, 0.0), (INF, 1.0, 0.0, INF)] {
            assert_eq!(forward(Sigmoid, x), sigmoid);
            assert_eq!(forward(LogSigmoid, x), log_sigmoid);
            assert_eq!(forward(Softplus, x), softplus);
            assert_eq!(backward(Sigmoid, x, 2.0), 0.0);
            assert!(backward(Sigmoid, x, INF).is_nan());
        }
        assert!(forward(LogSigmoid, INF).is_sign_negative());
        for kind in ActivationKind::ALL {
            assert!(forward(kind, f64::NAN).is_nan() && backward(kind, f64::NAN, 1.0).is_nan());
            assert!(backward(kind, 0.0, f64::NAN).is_nan());
            assert_eq!(backward(kind, -1e30, -INF), -INF);
            assert_eq!(backward(kind, 1e30, INF), INF);
        }
    }
}
