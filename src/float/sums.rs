//! Sums and dot products that keep their digits.

use super::Float;
use crate::error::{Error, Result};
use std::borrow::Borrow;

/// `(s, e)` with `s = fl(a + b)` and `s + e = a + b` exactly (TwoSum).
///
/// Exact for all finite numbers of which the sum does not overflow. After Knuth, *The Art of Computer Programming* 2,
/// 4.2.2.
///
/// ```
/// assert_eq!(macheps::float::two_sum(1e16, 1.0), (1e16, 1.0));
/// ```
#[inline]
pub fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let s = a + b;
    let b_part = s - a;
    let a_part = s - b_part;
    (s, (a - a_part) + (b - b_part))
}

/// `(p, e)` with `p = fl(a * b)` and `p + e = a * b` exactly (TwoProduct, by a fused multiply-add).
///
/// Exact where the product neither overflows nor comes below about `2^-969`, from where on `e` would be subnormal.
///
/// ```
/// let x = 1.0 + f64::EPSILON;
/// assert_eq!(macheps::float::two_product(x, x), (1.0 + 2.0 * f64::EPSILON, f64::EPSILON * f64::EPSILON));
/// ```
#[inline]
pub fn two_product(a: f64, b: f64) -> (f64, f64) {
    let p = a * b;
    (p, a.mul_add(b, -p))
}

/// A running sum with its rounding errors added up beside it: Kahan's idea in the form that Babuška and Neumaier gave
/// it, where a term may also be larger than the sum.
///
/// # Numerics
/// `|error| <= u |s| + 2 n^2 u^2 sum |x|` for n terms: as if computed in twice the precision, then rounded once (Ogita,
/// Rump and Oishi, *Accurate sum and dot product*, SIAM J. Sci. Comput. 26, 2005: their Sum2, which is this one). A NaN
/// or an infinity gives what a plain sum gives. A partial sum beyond the largest f64 is an infinity and stays one.
///
/// ```
/// use macheps::float::Neumaier;
/// let mut sum = Neumaier::default();
/// for x in [1.0, 1e100, 1.0, -1e100] {
///     sum.add(x);
/// }
/// assert_eq!(sum.value(), 2.0);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Neumaier {
    sum: f64,
    lost: f64,
}

impl Neumaier {
    /// Adds a term.
    #[inline]
    pub fn add(&mut self, x: f64) {
        let (sum, lost) = two_sum(self.sum, x);
        // Beside an infinity there is nothing to correct, and its error term is NaN.
        if sum.is_finite() {
            self.lost += lost;
        }
        self.sum = sum;
    }

    /// Adds a product, with its rounding error.
    #[inline]
    pub fn add_product(&mut self, x: f64, y: f64) {
        let (product, lost) = two_product(x, y);
        self.add(product);
        if product.is_finite() {
            self.lost += lost;
        }
    }

    /// Adds another sum, so that parts can be summed apart.
    pub fn merge(&mut self, other: Neumaier) {
        self.add(other.sum);
        self.lost += other.lost;
    }

    /// The sum so far.
    #[inline]
    pub fn value(&self) -> f64 {
        if self.sum.is_finite() {
            self.sum + self.lost
        } else {
            self.sum
        }
    }
}

impl Extend<f64> for Neumaier {
    fn extend<I: IntoIterator<Item = f64>>(&mut self, terms: I) {
        terms.into_iter().for_each(|x| self.add(x));
    }
}

/// A running pairwise sum: terms meet in a balanced tree, whose open branches are all that is kept.
///
/// # Numerics
/// `|error| <= (log2(n) + 4) u sum |x|` to first order, for n terms one after another; a plain loop has `(n - 1) u`.
/// See Higham, *The accuracy of floating point summation*, SIAM J. Sci. Comput. 14, 1993. Infinities and NaN as in a
/// plain sum.
///
/// # Cost
/// One addition a term; 64 partial sums at most.
#[derive(Clone, Debug)]
pub struct Pairwise {
    /// Terms that wait until there are eight.
    leaf: [f64; 8],
    waiting: usize,
    /// `branches[k]` is the sum of `2^k` leaves where bit k of `leaves` is set.
    branches: [f64; 64],
    leaves: u64,
}

impl Default for Pairwise {
    fn default() -> Self {
        Pairwise {
            leaf: [0.0; 8],
            waiting: 0,
            branches: [0.0; 64],
            leaves: 0,
        }
    }
}

fn tree_of_eight(x: &[f64; 8]) -> f64 {
    ((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7]))
}

impl Pairwise {
    /// Adds a term.
    #[inline]
    pub fn add(&mut self, x: f64) {
        self.leaf[self.waiting] = x;
        self.waiting += 1;
        if self.waiting == 8 {
            self.close_leaf();
        }
    }

    /// Adding one to the count of leaves carries through as many bits as there are branches to join.
    fn close_leaf(&mut self) {
        let mut sum = tree_of_eight(&self.leaf);
        let joined = self.leaves.trailing_ones() as usize;
        for branch in &self.branches[..joined] {
            sum += branch;
        }
        self.branches[joined] = sum;
        self.leaves += 1;
        self.waiting = 0;
    }

    /// The sum so far.
    pub fn value(&self) -> f64 {
        let mut rest = [0.0; 8];
        rest[..self.waiting].copy_from_slice(&self.leaf[..self.waiting]);
        let mut sum = tree_of_eight(&rest);
        // Small branches first: every term then passes about as many additions as the tree is deep.
        for (k, branch) in self.branches.iter().enumerate() {
            if self.leaves >> k & 1 == 1 {
                sum += branch;
            }
        }
        sum
    }
}

impl Extend<f64> for Pairwise {
    fn extend<I: IntoIterator<Item = f64>>(&mut self, terms: I) {
        terms.into_iter().for_each(|x| self.add(x));
    }
}

/// Careful sums of iterators over numbers, or references to them, of any of the four formats.
///
/// As with [`Iterator::sum`] the type of the result has to be named. The accumulators are f64 whatever the format, and
/// the result is rounded once: with f16, bf16 and f32 the bounds below hold with the `u` of f64, plus half a unit in
/// the last place of the result. The sum of nothing is 0.
///
/// ```
/// use macheps::float::Summation;
///
/// let tenths = vec![0.1f32; 1_000_000];
/// assert_eq!(tenths.iter().sum::<f32>(), 100958.34);
/// assert_eq!(tenths.iter().sum_pairwise::<f32>(), 100000.0);
/// assert_eq!((1..=10).map(f64::from).sum_neumaier::<f64>(), 55.0);
/// ```
pub trait Summation: Iterator + Sized {
    /// Compensated sum: see [`Neumaier`] for definition and bound.
    fn sum_neumaier<T: Float>(self) -> T
    where
        Self::Item: Borrow<T>,
    {
        let mut sum = Neumaier::default();
        self.for_each(|x| sum.add(x.borrow().widen()));
        T::rounded(sum.value())
    }

    /// Pairwise sum: see [`Pairwise`] for definition and bound.
    fn sum_pairwise<T: Float>(self) -> T
    where
        Self::Item: Borrow<T>,
    {
        let mut sum = Pairwise::default();
        self.for_each(|x| sum.add(x.borrow().widen()));
        T::rounded(sum.value())
    }
}

impl<I: Iterator> Summation for I {}

/// Compensated dot product `sum x_i y_i`.
///
/// # Numerics
/// `|error| <= u |s| + 2 n^2 u^2 sum |x_i y_i|` (Dot2 of Ogita, Rump and Oishi 2005): products are split exactly by
/// [`two_product`], their parts summed as by [`Neumaier`]. For f16, bf16 and f32 the products are exact, and the result
/// is rounded once more, to the type. Products below `2^-969` lose their last digits. Infinities and NaN as in a plain
/// loop; nothing gives 0.
///
/// # Errors
/// [`Error::Shape`] if the lengths differ.
///
/// ```
/// use macheps::float::dot;
/// // 1e20 * 1 + 2.5 * 2 - 1e20 * 1: a plain loop gives 0.
/// assert_eq!(dot(&[1e20, 2.5, -1e20], &[1.0, 2.0, 1.0])?, 5.0);
/// # Ok::<(), macheps::Error>(())
/// ```
pub fn dot<T: Float>(x: &[T], y: &[T]) -> Result<T> {
    if x.len() != y.len() {
        return Err(Error::shape(
            "y of dot",
            format!("{} elements, as x has", x.len()),
            format!("{}", y.len()),
        ));
    }
    let mut sum = Neumaier::default();
    for (x, y) in x.iter().zip(y) {
        sum.add_product(x.widen(), y.widen());
    }
    Ok(T::rounded(sum.value()))
}
