//! Holds gradients to difference quotients of the function they belong to.
//!
//! The function is given in f64, the gradient as numbers: from a hand-written backward pass, a kernel on a device, or a
//! program that differentiates. [`check`] moves one input at a time, [`check_vjp`] does so for a function with many
//! results and an upstream gradient, [`check_directions`] moves all inputs together along random directions, for inputs
//! too many to move singly.
//!
//! ```
//! use macheps::gradcheck::{self, Options};
//!
//! let f = |x: &[f64]| x[0] * x[1].exp();
//! let x = [3.0, 0.5];
//! let gradient = [0.5f64.exp(), 3.0 * 0.5f64.exp()];
//! gradcheck::check(f, &x, &gradient, &Options::default())?.require()?;
//!
//! // A factor is missing: the report names the element.
//! let report = gradcheck::check(f, &x, &[0.5f64.exp(), 0.5f64.exp()], &Options::default())?;
//! assert!(!report.passed());
//! assert_eq!(report.worst().map(|e| e.index), Some(1));
//! println!("{report}");
//! # Ok::<(), macheps::Error>(())
//! ```
//!
//! # Numerics
//! A difference quotient is wrong by truncation, which shrinks with the step, and by rounding in the function, which
//! grows as the step shrinks. Both are estimated for every element: truncation by a second step of twice the size,
//! rounding from [`Options::noise`]. Together they are the element's [`Element::uncertainty`] and go into its
//! tolerance, so that a right gradient passes whatever the scale. Where the uncertainty is too large to tell right from
//! wrong, at a kink or beside a discontinuity, the element is [`Verdict::Unresolved`] and does not pass.
//!
//! Steps are relative to `max(|x|, 1)`, and quotients divide by the distance between the points as they are in f64, so
//! that representing `x + h` costs nothing.

use crate::error::{Error, Result};
use crate::float::{Format, Summation, norm};
use std::fmt;
use std::ops::Range;

/// Which difference quotient.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// `(f(x + h) - f(x)) / h`, error O(h): where f is not defined to the left of x. 2 evaluations an element, and one.
    Forward,
    /// `(f(x + h) - f(x - h)) / 2h`, error O(h^2). 4 evaluations an element.
    #[default]
    Central,
    /// Central quotients of h and 2h extrapolated to h = 0 (Richardson), error O(h^4): to about 12 digits. 6
    /// evaluations an element.
    Richardson,
}

impl Scheme {
    /// The step that balances truncation and rounding for a function whose derivatives are of its own size:
    /// `eps^(1/2)`, `eps^(1/3)`, `eps^(1/5)`, as a power of two.
    pub const fn default_step(self) -> f64 {
        match self {
            Scheme::Forward => 1.0 / (1u64 << 26) as f64,
            Scheme::Central => 1.0 / (1u64 << 17) as f64,
            Scheme::Richardson => 1.0 / (1u64 << 10) as f64,
        }
    }
}

/// How gradients are checked.
///
/// An element passes if `|analytic - numeric| <= rtol * max(|analytic|, |numeric|) + atol + uncertainty`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Difference quotient.
    pub scheme: Scheme,
    /// Step h as a multiple of `max(|x|, 1)`; that of [`Scheme::default_step`] if `None`. Positive, at most 0.25.
    pub step: Option<f64>,
    /// Relative error that the gradient itself may have: its rounding. For an f32 gradient a multiple of `2^-24`.
    pub rtol: f64,
    /// Absolute error that every element of the gradient may have; [`check_bounded`] takes one for each.
    pub atol: f64,
    /// Relative error of a value of the function, of the sum of the magnitudes of its terms for [`check_vjp`].
    pub noise: f64,
    /// Uncertainty allowed to a difference quotient, as a multiple of `max(1, the largest of the quotients)`; beyond it
    /// the element is unresolved, unless `atol` is larger still.
    pub resolution: f64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            scheme: Scheme::Central,
            step: None,
            rtol: 1e-9,
            atol: 0.0,
            noise: 4.0 * Format::F64.machine_epsilon(),
            resolution: 1e-5,
        }
    }
}

impl Options {
    fn check(&self) -> Result<()> {
        let refuse = |name, expected, got: f64| {
            Err(Error::Option {
                name,
                expected,
                got: got.to_string(),
            })
        };
        if let Some(step) = self.step.filter(|h| !(*h > 0.0 && *h <= 0.25)) {
            return refuse("step", "a positive number up to 0.25", step);
        }
        let non_negative = [
            ("rtol", self.rtol),
            ("atol", self.atol),
            ("noise", self.noise),
            ("resolution", self.resolution),
        ];
        match non_negative.into_iter().find(|(_, v)| v.is_nan() || *v < 0.0) {
            Some((name, value)) => refuse(name, "a number of at least 0", value),
            None => Ok(()),
        }
    }
}

/// What is to be said of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Gradient and difference quotient agree.
    Agrees,
    /// They do not.
    Differs,
    /// The difference quotient is too uncertain to judge by.
    Unresolved,
    /// The gradient, or the function at one of the points, is infinite or NaN.
    NotFinite,
}

impl Verdict {
    /// `agrees`, `differs`, `unresolved` or `not finite`.
    pub const fn name(self) -> &'static str {
        match self {
            Verdict::Agrees => "agrees",
            Verdict::Differs => "differs",
            Verdict::Unresolved => "unresolved",
            Verdict::NotFinite => "not finite",
        }
    }
}

/// One element of the gradient, or one direction, and its difference quotient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Element {
    /// Index of the input; of the direction for [`check_directions`].
    pub index: usize,
    /// The gradient as given; its component along the direction.
    pub analytic: f64,
    /// The difference quotient.
    pub numeric: f64,
    /// `|analytic - numeric|`.
    pub error: f64,
    /// What the error may be.
    pub tolerance: f64,
    /// The part of the tolerance that is due to the difference quotient: estimated truncation and rounding.
    pub uncertainty: f64,
    /// Whether it passes.
    pub verdict: Verdict,
}

impl Element {
    /// Error relative to the larger of both values; 0 where they are equal.
    pub fn relative_error(&self) -> f64 {
        if self.error == 0.0 {
            0.0
        } else {
            self.error / self.analytic.abs().max(self.numeric.abs())
        }
    }

    /// How bad it is, to find the worst: not finite, then unresolved, then the error as a multiple of the tolerance.
    fn badness(&self) -> (u8, f64) {
        let class = match self.verdict {
            Verdict::NotFinite => 3,
            Verdict::Differs => 2,
            Verdict::Unresolved => 1,
            Verdict::Agrees => 0,
        };
        let ratio = if self.error == 0.0 {
            0.0
        } else {
            self.error / self.tolerance
        };
        (class, ratio)
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: given {:e}, by differences {:e} +- {:.1e}: error {:.2e}, allowed {:.2e}, relative {:.2e}: {}",
            self.index,
            self.analytic,
            self.numeric,
            self.uncertainty,
            self.error,
            self.tolerance,
            self.relative_error(),
            self.verdict.name()
        )
    }
}

/// The outcome of a check. `{}` prints a summary, the worst element and up to ten that fail.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// What was compared, in order.
    pub elements: Vec<Element>,
    /// How often the function was evaluated.
    pub evaluations: usize,
    /// After [`check_directions`] with a direction that differs: an input whose gradient is to blame, found by halving.
    pub located: Option<Element>,
}

impl Report {
    /// Whether every element agrees.
    pub fn passed(&self) -> bool {
        self.failures().next().is_none()
    }

    /// The elements that do not agree.
    pub fn failures(&self) -> impl Iterator<Item = &Element> {
        self.elements.iter().filter(|e| e.verdict != Verdict::Agrees)
    }

    /// The element that is worst: one that is not finite, else one that differs, else one that is unresolved, else the
    /// one that uses most of its tolerance. `None` if there are no elements.
    pub fn worst(&self) -> Option<&Element> {
        self.elements.iter().reduce(|worst, e| {
            let (a, b) = (worst.badness(), e.badness());
            if b.0 > a.0 || (b.0 == a.0 && b.1 > a.1) {
                e
            } else {
                worst
            }
        })
    }

    /// The report again if it passes.
    ///
    /// # Errors
    /// [`Error::Gradient`] with the worst element, or the one that was located.
    pub fn require(self) -> Result<Report> {
        match self.worst().filter(|e| e.verdict != Verdict::Agrees) {
            None => Ok(self),
            Some(worst) => {
                let e = self.located.as_ref().unwrap_or(worst);
                Err(Error::Gradient {
                    index: e.index,
                    analytic: e.analytic,
                    numeric: e.numeric,
                    tolerance: e.tolerance,
                    verdict: e.verdict.name(),
                })
            }
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failed = self.failures().count();
        write!(
            f,
            "gradient: {} of {} agree, {} evaluations",
            self.elements.len() - failed,
            self.elements.len(),
            self.evaluations
        )?;
        if let Some(worst) = self.worst() {
            write!(f, "\n  worst {worst}")?;
        }
        for element in self.failures().take(10) {
            write!(f, "\n  fails {element}")?;
        }
        if failed > 10 {
            write!(f, "\n  and {} more", failed - 10)?;
        }
        if let Some(located) = &self.located {
            write!(f, "\n  input {located}")?;
        }
        Ok(())
    }
}

/// A value of the function, with the magnitude that its rounding error is relative to.
#[derive(Clone, Copy)]
struct Value {
    value: f64,
    magnitude: f64,
}

/// A difference quotient along some inputs, and what the gradient says.
struct Quotient {
    analytic: f64,
    numeric: f64,
    uncertainty: f64,
}

/// One side of a difference: the value there, and how far each of the moved inputs went.
struct Side {
    value: Value,
    moved: Vec<f64>,
}

struct Checker<'a, F> {
    f: F,
    x: &'a [f64],
    gradient: &'a [f64],
    options: &'a Options,
    point: Vec<f64>,
    centre: Option<Value>,
    evaluations: usize,
}

impl<F: FnMut(&[f64]) -> Value> Checker<'_, F> {
    fn evaluate(&mut self) -> Value {
        self.evaluations += 1;
        (self.f)(&self.point)
    }

    /// The function with the inputs of `range` moved by `steps` times their step times their weight.
    fn side(&mut self, range: &Range<usize>, weight: &dyn Fn(usize) -> f64, steps: f64) -> Side {
        let h = self.options.step.unwrap_or(self.options.scheme.default_step());
        let mut moved = Vec::with_capacity(range.len());
        for i in range.clone() {
            self.point[i] = self.x[i] + steps * h * weight(i) * self.x[i].abs().max(1.0);
            moved.push(self.point[i]);
        }
        let value = self.evaluate();
        self.point[range.clone()].copy_from_slice(&self.x[range.clone()]);
        Side { value, moved }
    }

    fn centre(&mut self) -> Value {
        match self.centre {
            Some(value) => value,
            None => {
                let value = self.evaluate();
                self.centre = Some(value);
                value
            }
        }
    }

    /// Difference quotient between two points, per unit of Euclidean distance; the gradient along the same way;
    /// rounding.
    fn between(&self, range: &Range<usize>, low: &Side, high: &Side) -> Quotient {
        let way: Vec<f64> = high.moved.iter().zip(&low.moved).map(|(h, l)| h - l).collect();
        let distance = norm(&way);
        let analytic = match way.as_slice() {
            [way] => self.gradient[range.start] * way.signum(),
            _ => {
                let terms = way.iter().zip(&self.gradient[range.clone()]).map(|(d, g)| d * g);
                terms.sum_neumaier::<f64>() / distance
            }
        };
        let magnitude = low.value.magnitude.max(high.value.magnitude);
        Quotient {
            analytic,
            numeric: (high.value.value - low.value.value) / distance,
            uncertainty: 2.0 * self.options.noise * magnitude / distance,
        }
    }

    /// The difference quotient of the scheme with its uncertainty.
    fn quotient(&mut self, range: Range<usize>, weight: &dyn Fn(usize) -> f64) -> Quotient {
        let central = |checker: &mut Self, steps: f64| {
            let low = checker.side(&range, weight, -steps);
            let high = checker.side(&range, weight, steps);
            checker.between(&range, &low, &high)
        };
        match self.options.scheme {
            Scheme::Forward => {
                let here = Side {
                    value: self.centre(),
                    moved: self.x[range.clone()].to_vec(),
                };
                let near = self.side(&range, weight, 1.0);
                let far = self.side(&range, weight, 2.0);
                let (one, two) = (self.between(&range, &here, &near), self.between(&range, &here, &far));
                // The error doubles with the step, so the difference is the error itself; twice that to be safe.
                Quotient {
                    uncertainty: one.uncertainty + 2.0 * (two.numeric - one.numeric).abs(),
                    ..one
                }
            }
            Scheme::Central => {
                let (one, two) = (central(self, 1.0), central(self, 2.0));
                // The error grows fourfold: a third of the difference is the error. Twice that and some more.
                Quotient {
                    uncertainty: one.uncertainty + (two.numeric - one.numeric).abs(),
                    ..one
                }
            }
            Scheme::Richardson => {
                let (one, two, four) = (central(self, 1.0), central(self, 2.0), central(self, 4.0));
                let fine = one.numeric + (one.numeric - two.numeric) / 3.0;
                let coarse = two.numeric + (two.numeric - four.numeric) / 3.0;
                // Sixteenfold: a fifteenth of the difference is the error.
                Quotient {
                    analytic: one.analytic,
                    numeric: fine,
                    uncertainty: 2.0 * one.uncertainty + (coarse - fine).abs() / 5.0,
                }
            }
        }
    }

    /// Judges quotients; `allowed` is the absolute error that each gradient may have.
    fn judge(&self, quotients: Vec<Quotient>, allowed: &dyn Fn(usize) -> f64) -> Vec<Element> {
        let largest = quotients
            .iter()
            .map(|q| q.numeric.abs())
            .filter(|v| v.is_finite())
            .fold(1.0, f64::max);
        let judged = quotients.into_iter().enumerate();
        judged
            .map(|(index, q)| self.element(index, q, allowed(index), largest))
            .collect()
    }

    fn element(&self, index: usize, q: Quotient, allowed: f64, largest: f64) -> Element {
        let error = (q.analytic - q.numeric).abs();
        let own = self.options.rtol * q.analytic.abs().max(q.numeric.abs()) + allowed;
        let tolerance = own + q.uncertainty;
        let verdict = if !(error.is_finite() && q.uncertainty.is_finite()) {
            Verdict::NotFinite
        } else if error > tolerance {
            Verdict::Differs
        } else if q.uncertainty > (self.options.resolution * largest).max(allowed) {
            Verdict::Unresolved
        } else {
            Verdict::Agrees
        };
        Element {
            index,
            analytic: q.analytic,
            numeric: q.numeric,
            error,
            tolerance,
            uncertainty: q.uncertainty,
            verdict,
        }
    }
}

/// A checker for valid arguments.
fn checker<'a, F: FnMut(&[f64]) -> Value>(
    f: F,
    x: &'a [f64],
    gradient: &'a [f64],
    options: &'a Options,
) -> Result<Checker<'a, F>> {
    options.check()?;
    if gradient.len() != x.len() {
        return Err(Error::shape(
            "gradient",
            format!("{} elements, as x has", x.len()),
            gradient.len().to_string(),
        ));
    }
    if let Some(at) = x.iter().position(|v| !v.is_finite()) {
        return Err(Error::shape(
            format!("x[{at}]"),
            "a finite number to take differences at",
            x[at].to_string(),
        ));
    }
    Ok(Checker {
        f,
        x,
        gradient,
        options,
        point: x.to_vec(),
        centre: None,
        evaluations: 0,
    })
}

fn scalar(mut f: impl FnMut(&[f64]) -> f64) -> impl FnMut(&[f64]) -> Value {
    move |x| {
        let value = f(x);
        Value {
            value,
            magnitude: value.abs(),
        }
    }
}

fn elementwise<F: FnMut(&[f64]) -> Value>(mut checker: Checker<'_, F>, allowed: &dyn Fn(usize) -> f64) -> Report {
    let quotients = (0..checker.x.len())
        .map(|i| checker.quotient(i..i + 1, &|_| 1.0))
        .collect();
    Report {
        elements: checker.judge(quotients, allowed),
        evaluations: checker.evaluations,
        located: None,
    }
}

/// Compares each element of `gradient` with the difference quotient of `f` at `x`.
///
/// # Cost
/// As [`Scheme`] says, for each element of x.
///
/// # Errors
/// [`Error::Shape`] if the lengths differ or x is not finite, [`Error::Option`] for options outside their domain. A
/// gradient that is wrong is no error here: ask the report, or [`Report::require`].
///
/// # Example
/// ```
/// use macheps::gradcheck::{Options, Scheme, check};
/// let options = Options { scheme: Scheme::Richardson, rtol: 1e-11, ..Options::default() };
/// let report = check(|x| x[0].sin(), &[1.0], &[1f64.cos()], &options)?;
/// assert!(report.passed(), "{report}");
/// # Ok::<(), macheps::Error>(())
/// ```
pub fn check(f: impl FnMut(&[f64]) -> f64, x: &[f64], gradient: &[f64], options: &Options) -> Result<Report> {
    let checker = checker(scalar(f), x, gradient, options)?;
    Ok(elementwise(checker, &|_| options.atol))
}

/// As [`check_vjp`] with an absolute error of its own for each element of the gradient, on top of [`Options::atol`]:
/// the stated bounds of a kernel.
///
/// # Errors
/// Those of [`check_vjp`], and [`Error::Shape`] if there are not as many bounds as elements.
pub fn check_bounded(
    f: impl FnMut(&[f64]) -> Vec<f64>,
    x: &[f64],
    upstream: &[f64],
    gradient: &[f64],
    bounds: &[f64],
    options: &Options,
) -> Result<Report> {
    if bounds.len() != gradient.len() {
        return Err(Error::shape(
            "bounds",
            format!("{} elements, as the gradient has", gradient.len()),
            bounds.len().to_string(),
        ));
    }
    vjp(f, x, upstream, gradient, options, &|i| options.atol + bounds[i])
}

/// Compares a vector-Jacobian product, the gradient of `sum_j upstream_j f(x)_j`, with difference quotients of that
/// sum: what a backward pass computes for a function with many results.
///
/// The sum is compensated; its rounding is taken relative to `sum |upstream_j f(x)_j|`.
///
/// # Errors
/// Those of [`check`], and [`Error::Shape`] if `f` returns other than `upstream.len()` values.
///
/// # Example
/// ```
/// use macheps::gradcheck::{Options, check_vjp};
/// // f(x) = (x0 x1, x0^2)
/// let f = |x: &[f64]| vec![x[0] * x[1], x[0] * x[0]];
/// let (x, g) = ([3.0, 5.0], [2.0, -1.0]);
/// let gradient = [g[0] * x[1] + g[1] * 2.0 * x[0], g[0] * x[0]];
/// check_vjp(f, &x, &g, &gradient, &Options::default())?.require()?;
/// # Ok::<(), macheps::Error>(())
/// ```
pub fn check_vjp(
    f: impl FnMut(&[f64]) -> Vec<f64>,
    x: &[f64],
    upstream: &[f64],
    gradient: &[f64],
    options: &Options,
) -> Result<Report> {
    vjp(f, x, upstream, gradient, options, &|_| options.atol)
}

fn vjp(
    mut f: impl FnMut(&[f64]) -> Vec<f64>,
    x: &[f64],
    upstream: &[f64],
    gradient: &[f64],
    options: &Options,
    allowed: &dyn Fn(usize) -> f64,
) -> Result<Report> {
    let mut wrong = None;
    let weighted = |x: &[f64]| {
        let y = f(x);
        if y.len() != upstream.len() {
            wrong = Some(y.len());
        }
        let terms = || y.iter().zip(upstream).map(|(y, g)| y * g);
        Value {
            value: terms().sum_neumaier(),
            magnitude: terms().map(f64::abs).sum(),
        }
    };
    let report = elementwise(checker(weighted, x, gradient, options)?, allowed);
    match wrong {
        None => Ok(report),
        Some(got) => Err(Error::shape(
            "values of f",
            format!("{}, as upstream has", upstream.len()),
            got.to_string(),
        )),
    }
}

/// Compares the component of `gradient` along random directions with difference quotients of `f` along them: for inputs
/// of which there are too many to move singly.
///
/// Every direction moves all inputs, each by a random share of its own step, between a half and one, up or down. An
/// error in the gradient goes unseen only if its component along every direction stays within the tolerance.
/// `directions` of 3 to 10 are usual; the same `seed` gives the same directions. If a direction differs, an input that
/// is to blame is searched for by halving the inputs again and again and put into [`Report::located`].
///
/// # Cost
/// As [`Scheme`] says, for each direction; about `2 log2(n)` times that again to locate a wrong element.
///
/// # Errors
/// Those of [`check`].
///
/// # Example
/// ```
/// use macheps::gradcheck::{Options, check_directions};
/// let x: Vec<f64> = (0..10_000).map(|i| (i as f64).sin()).collect();
/// let f = |x: &[f64]| x.iter().map(|v| v * v * v).sum::<f64>();
/// let mut gradient: Vec<f64> = x.iter().map(|v| 3.0 * v * v).collect();
/// assert!(check_directions(f, &x, &gradient, 3, 42, &Options::default())?.passed());
///
/// gradient[1234] *= 0.5;
/// let report = check_directions(f, &x, &gradient, 3, 42, &Options::default())?;
/// assert_eq!(report.located.map(|e| e.index), Some(1234));
/// # Ok::<(), macheps::Error>(())
/// ```
pub fn check_directions(
    f: impl FnMut(&[f64]) -> f64,
    x: &[f64],
    gradient: &[f64],
    directions: usize,
    seed: u64,
    options: &Options,
) -> Result<Report> {
    let mut checker = checker(scalar(f), x, gradient, options)?;
    if x.is_empty() {
        return Ok(Report {
            elements: Vec::new(),
            evaluations: 0,
            located: None,
        });
    }
    let weights = |direction: usize| move |i: usize| weight(seed, direction as u64, i as u64);
    let quotients = (0..directions)
        .map(|d| checker.quotient(0..x.len(), &weights(d)))
        .collect();
    let elements = checker.judge(quotients, &|_| options.atol);
    let largest = elements.iter().map(|e| e.numeric.abs()).fold(1.0, f64::max);
    let located = elements
        .iter()
        .find(|e| e.verdict == Verdict::Differs)
        .and_then(|e| locate(&mut checker, &weights(e.index), largest));
    Ok(Report {
        elements,
        evaluations: checker.evaluations,
        located,
    })
}

/// Follows the half whose component is further from its difference quotient, down to one input. `None` if that one
/// agrees: the error was spread.
fn locate<F: FnMut(&[f64]) -> Value>(
    checker: &mut Checker<'_, F>,
    weight: &dyn Fn(usize) -> f64,
    largest: f64,
) -> Option<Element> {
    let mut range = 0..checker.x.len();
    while range.len() > 1 {
        let middle = range.start + range.len() / 2;
        let halves = [range.start..middle, middle..range.end];
        let [left, right] = halves.clone().map(|half| {
            let q = checker.quotient(half.clone(), weight);
            // Components are per unit of distance; what is wrong with a half is the error times its length.
            let error = (q.analytic - q.numeric).abs() * (half.len() as f64).sqrt();
            if error.is_nan() { f64::INFINITY } else { error }
        });
        let [first, second] = halves;
        range = if right > left { second } else { first };
    }
    let q = checker.quotient(range.clone(), &|_| 1.0);
    let element = checker.element(range.start, q, checker.options.atol, largest);
    (element.verdict != Verdict::Agrees).then_some(element)
}

/// Share of an input in a direction: of magnitude 1/2 to 1, of either sign (splitmix64).
fn weight(seed: u64, direction: u64, index: u64) -> f64 {
    let mut z = seed
        .wrapping_add(direction.wrapping_mul(0xd1b5_4a32_d192_ed03))
        .wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    let share = 0.5 + (z >> 12) as f64 / (1u64 << 53) as f64;
    if z & 1 == 0 { share } else { -share }
}
