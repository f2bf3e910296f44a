//! Eigenvalues of symmetric tridiagonal matrices by bisection, and the matrix that is hidden in the coefficients of conjugate
//! gradients.

use super::vector::{exponent_of, norm_inf, scaled};
use crate::float::ldexp;

/// A symmetric tridiagonal matrix. Elements of any magnitude will do: inside it is kept times a power of two that brings the largest
/// of them near 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Tridiagonal {
    form: Form,
    /// The matrix is 2^exponent of what `form` has.
    exponent: i32,
}

#[derive(Clone, Debug, PartialEq)]
enum Form {
    /// Diagonal, and squares of what is beside it.
    Plain { diagonal: Vec<f64>, squares: Vec<f64> },
    /// L D L^T with unit lower bidiagonal L: D, and squares of L's elements. Its small eigenvalues are known to as many digits as
    /// the large ones.
    Factored { d: Vec<f64>, squares: Vec<f64> },
}

impl Tridiagonal {
    /// From the diagonal and what is beside it (one element less; more are left out).
    pub fn new(diagonal: &[f64], beside: &[f64]) -> Tridiagonal {
        let beside = &beside[..beside.len().min(diagonal.len().saturating_sub(1))];
        let exponent = exponent_of(norm_inf(diagonal).max(norm_inf(beside)));
        Tridiagonal {
            form: Form::Plain {
                diagonal: scaled(diagonal, -exponent),
                squares: scaled(beside, -exponent).iter().map(|v| v * v).collect(),
            },
            exponent,
        }
    }

    /// The matrix of Lanczos's method that conjugate gradients with these coefficients went through: alpha = r.z / p.Ap and
    /// beta = r'.z' / r.z of each iteration, beta 0 where it started anew. Its eigenvalues lie within the spectrum of M^-1 A, and its
    /// extreme ones tend to the extreme ones there. Coefficients from the first one on that is not positive and finite are left out.
    pub fn from_conjugate_gradient(alphas: &[f64], betas: &[f64]) -> Tridiagonal {
        let good = alphas.iter().take_while(|a| a.is_finite() && **a > 0.0).count();
        let betas: Vec<f64> = betas
            .iter()
            .copied()
            .take(good.saturating_sub(1))
            .take_while(|b| b.is_finite() && *b >= 0.0)
            .collect();
        let good = good.min(betas.len() + 1);
        let smallest = alphas[..good].iter().copied().fold(f64::INFINITY, f64::min);
        let exponent = -exponent_of(smallest);
        Tridiagonal {
            form: Form::Factored {
                d: scaled(&alphas[..good], exponent).iter().map(|a| 1.0 / a).collect(),
                squares: betas,
            },
            exponent,
        }
    }

    /// Its size.
    pub fn size(&self) -> usize {
        match &self.form {
            Form::Plain { diagonal, .. } => diagonal.len(),
            Form::Factored { d, .. } => d.len(),
        }
    }

    /// How many eigenvalues are below x: the negative pivots of the matrix less x I. O(size).
    pub fn count_below(&self, x: f64) -> usize {
        self.count_below_scaled(ldexp(x, -self.exponent))
    }

    fn count_below_scaled(&self, x: f64) -> usize {
        // A pivot of 0 stands for a tiny one of either sign: the count belongs to a matrix that differs by less than rounding does.
        let guarded = |pivot: f64| if pivot == 0.0 { f64::MIN_POSITIVE } else { pivot };
        let mut count = 0;
        match &self.form {
            Form::Plain { diagonal, squares } => {
                let mut pivot = 1.0;
                for (i, d) in diagonal.iter().enumerate() {
                    let carried = if i == 0 { 0.0 } else { squares[i - 1] / guarded(pivot) };
                    pivot = d - x - carried;
                    count += usize::from(pivot < 0.0);
                }
            }
            Form::Factored { d, squares } => {
                // Stationary qd: no cancellation of the matrix's own elements.
                let mut shift = -x;
                for (i, d) in d.iter().enumerate() {
                    let pivot = d + shift;
                    count += usize::from(pivot < 0.0);
                    if let Some(l) = squares.get(i) {
                        let ratio = shift / guarded(pivot);
                        // Where it overflows the next pivot follows the sign.
                        shift = (l * d * ratio).clamp(-f64::MAX, f64::MAX) - x;
                    }
                }
            }
        }
        count
    }

    /// An interval that holds every eigenvalue of what is kept (Gershgorin's).
    fn interval(&self) -> (f64, f64) {
        let (diagonal, beside): (Vec<f64>, Vec<f64>) = match &self.form {
            Form::Plain { diagonal, squares } => (diagonal.clone(), squares.iter().map(|v| v.sqrt()).collect()),
            Form::Factored { d, squares } => (
                (0..d.len())
                    .map(|i| d[i] + if i > 0 { squares[i - 1] * d[i - 1] } else { 0.0 })
                    .collect(),
                squares.iter().zip(d).map(|(l, d)| l.sqrt() * d).collect(),
            ),
        };
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for (i, d) in diagonal.iter().enumerate() {
            let radius = beside.get(i).copied().unwrap_or(0.0) + if i > 0 { beside[i - 1] } else { 0.0 };
            let slack = 4.0 * f64::EPSILON * (d.abs() + radius) + f64::MIN_POSITIVE;
            low = low.min(d - radius - slack);
            high = high.max(d + radius + slack);
        }
        if matches!(self.form, Form::Factored { .. }) {
            low = low.max(0.0);
        }
        (low, high.min(f64::MAX))
    }

    /// The k-th eigenvalue, from 0 for the smallest, or `None` if there are not so many. At most 64 counts: bisection goes by the numbers
    /// there are, so that a small eigenvalue gets as many digits as a large one.
    pub fn eigenvalue(&self, k: usize) -> Option<f64> {
        if k >= self.size() {
            return None;
        }
        let (low, high) = self.interval();
        let (mut low, mut high) = (ordered(low), ordered(high));
        // As many eigenvalues as k or less lie below `low`, more below `high`.
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.count_below_scaled(unordered(middle)) > k {
                high = middle;
            } else {
                low = middle;
            }
        }
        Some(ldexp(unordered(low), self.exponent))
    }

    /// The smallest and the largest eigenvalue, or `None` of a matrix of size 0.
    pub fn extremes(&self) -> Option<(f64, f64)> {
        Some((self.eigenvalue(0)?, self.eigenvalue(self.size() - 1)?))
    }

    /// All eigenvalues in ascending order. O(size^2).
    pub fn eigenvalues(&self) -> Vec<f64> {
        (0..self.size()).filter_map(|k| self.eigenvalue(k)).collect()
    }

    /// The last element of the eigenvector to an eigenvalue, the vector being of length 1: how much a Lanczos run still misses. By the
    /// recurrence from both ends, joined where it is largest.
    pub fn last_element(&self, eigenvalue: f64) -> f64 {
        let eigenvalue = ldexp(eigenvalue, -self.exponent);
        let (diagonal, squares) = match &self.form {
            Form::Plain { diagonal, squares } => (diagonal.clone(), squares.clone()),
            Form::Factored { d, squares } => (
                (0..d.len())
                    .map(|i| d[i] + if i > 0 { squares[i - 1] * d[i - 1] } else { 0.0 })
                    .collect(),
                squares.iter().zip(d).map(|(l, d)| l * d * d).collect(),
            ),
        };
        let m = diagonal.len();
        if m < 2 {
            return 1.0;
        }
        let scale =
            diagonal.iter().fold(0.0f64, |a, b| a.max(b.abs())) + squares.iter().fold(0.0f64, |a, b| a.max(*b)).sqrt();
        let guarded = |v: f64| {
            if v.abs() < f64::EPSILON * scale {
                f64::EPSILON * scale
            } else {
                v
            }
        };
        // Pivots from the top and from the bottom; their twist says where the vector is largest.
        let (mut down, mut up) = (vec![0.0; m], vec![0.0; m]);
        down[0] = guarded(diagonal[0] - eigenvalue);
        for i in 1..m {
            down[i] = guarded(diagonal[i] - eigenvalue - squares[i - 1] / down[i - 1]);
        }
        up[m - 1] = guarded(diagonal[m - 1] - eigenvalue);
        for i in (0..m - 1).rev() {
            up[i] = guarded(diagonal[i] - eigenvalue - squares[i] / up[i + 1]);
        }
        let twist = (0..m)
            .min_by(|&i, &j| {
                let gamma = |i: usize| (down[i] + up[i] - (diagonal[i] - eigenvalue)).abs();
                gamma(i).total_cmp(&gamma(j))
            })
            .unwrap_or(0);
        // Squares of the elements relative to the one at the twist.
        let (mut sum, mut last, mut square) = (1.0, 1.0, 1.0);
        for i in (0..twist).rev() {
            square *= squares[i] / (down[i] * down[i]);
            sum += square;
        }
        square = 1.0;
        for i in twist + 1..m {
            square *= squares[i - 1] / (up[i] * up[i]);
            sum += square;
            last = square;
        }
        (last / sum).sqrt()
    }
}

/// The place of a number in the order of all numbers.
fn ordered(value: f64) -> i128 {
    let magnitude = i128::from(value.abs().to_bits());
    if value.is_sign_negative() {
        -magnitude
    } else {
        magnitude
    }
}

fn unordered(place: i128) -> f64 {
    let value = f64::from_bits(place.unsigned_abs() as u64);
    if place < 0 { -value } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_differences() {
        for n in [1usize, 2, 3, 10, 101] {
            let t = Tridiagonal::new(&vec![2.0; n], &vec![-1.0; n]);
            for (k, got) in t.eigenvalues().into_iter().enumerate() {
                let angle = (k + 1) as f64 * std::f64::consts::PI / (n + 1) as f64;
                assert!((got - (2.0 - 2.0 * angle.cos())).abs() < 1e-14, "{n} {k} {got}");
            }
            let (low, _) = t.extremes().unwrap();
            // The eigenvector is a sine.
            let angle = std::f64::consts::PI / (n + 1) as f64;
            let length: f64 = (1..=n).map(|i| (i as f64 * angle).sin().powi(2)).sum();
            let want = (n as f64 * angle).sin() / length.sqrt();
            assert!(
                (t.last_element(low) - want).abs() < 1e-9,
                "{n}: {} {want}",
                t.last_element(low)
            );
        }
        assert_eq!(Tridiagonal::new(&[], &[]).extremes(), None);
        // Squares that would overflow or vanish.
        for scale in [-1040, -1000, -700, 700, 1000, 1020] {
            let times = |v: &[f64]| scaled(v, scale);
            let (far, near) = (
                Tridiagonal::new(&times(&[2.0; 9]), &times(&[-1.0; 8])),
                Tridiagonal::new(&[2.0; 9], &[-1.0; 8]),
            );
            assert_eq!(far.eigenvalues(), times(&near.eigenvalues()), "{scale}");
            let low = far.extremes().unwrap().0;
            assert!((far.last_element(low) - near.last_element(near.extremes().unwrap().0)).abs() < 1e-9);
            assert_eq!(far.count_below(ldexp(2.5, scale)), near.count_below(2.5));
            // Steps that are numbers themselves.
            let scale = scale.max(-1000);
            let alphas = [0.5, 0.25, 0.75];
            let near = Tridiagonal::from_conjugate_gradient(&alphas, &[0.5, 0.25]).eigenvalues();
            let far = Tridiagonal::from_conjugate_gradient(&scaled(&alphas, -scale), &[0.5, 0.25]).eigenvalues();
            assert_eq!(far, scaled(&near, scale), "{scale}");
        }
        let off = Tridiagonal::new(&[0.0; 2], &[1e-200]).extremes();
        assert_eq!(off, Some((-1e-200, 1e-200)));
        assert_eq!(
            Tridiagonal::new(&[-3.0, 5.0], &[0.0])
                .extremes()
                .map(|e| (e.0 as f32, e.1 as f32)),
            Some((-3.0, 5.0))
        );
    }

    /// L D L^T with D = 1 and the squares of L's elements s: a graded case of which the smallest eigenvalue is known.
    #[test]
    fn small_eigenvalues_keep_their_digits() {
        // [1 s; s s^2 + t]: determinant t, trace 1 + s^2 + t.
        let (s, t) = (1e5f64, 1e-6);
        let tridiagonal = Tridiagonal::from_conjugate_gradient(&[1.0, 1.0 / t], &[s * s, 7.0]);
        let (low, high) = tridiagonal.extremes().unwrap();
        let want_high = 1.0 + s * s + t - t / (1.0 + s * s);
        assert!((high / want_high - 1.0).abs() < 1e-14, "{high:e}");
        assert!(
            (low / (t / want_high) - 1.0).abs() < 1e-12,
            "{low:e} {:e}",
            t / want_high
        );
        let broken = Tridiagonal::from_conjugate_gradient(&[1.0, f64::NAN, 1.0], &[0.5, 0.5, 0.5]);
        assert_eq!(broken.size(), 1);
        assert_eq!(Tridiagonal::from_conjugate_gradient(&[], &[]).extremes(), None);
        // Blocks of two runs.
        let two = Tridiagonal::from_conjugate_gradient(&[0.5, 0.125], &[0.0, 0.0]);
        assert_eq!(
            two.eigenvalues().iter().map(|v| v.round()).collect::<Vec<_>>(),
            [2.0, 8.0]
        );
    }
}
