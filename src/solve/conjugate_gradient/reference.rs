//! Preconditioned conjugate gradients in f64 on the host: what the device is judged by, and what solves where there is none.

use crate::error::{Error, Result};
use crate::float::ldexp;
use crate::solve::range::check_finite;
use crate::solve::vector::{add_scaled, dot, exponent, is_finite, norm, scale_and_add, scaled};
use crate::solve::{Breakdown, Outcome};

/// y = A x or z = M^-1 r: input, output.
pub type Map<'a> = dyn FnMut(&[f64], &mut [f64]) + 'a;

/// When the iteration ends.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Control {
    /// Goal: `||b - A x|| <= rtol ||b||` in the 2-norm.
    pub rtol: f64,
    /// The most iterations, those after restarts included.
    pub max_iterations: usize,
    /// Whether the goal is tested on the residual recomputed from x when the recurrence says that it is reached, with a restart
    /// from there if it is not. Without, the recurrence is believed, and [`CgRun::relative_residual`] tells.
    pub verify: bool,
}

impl Control {
    /// With verification.
    pub fn new(rtol: f64, max_iterations: usize) -> Control {
        Control {
            rtol,
            max_iterations,
            verify: true,
        }
    }

    /// Believes the recurrence.
    pub fn unverified(rtol: f64, max_iterations: usize) -> Control {
        Control {
            verify: false,
            ..Control::new(rtol, max_iterations)
        }
    }
}

/// What an iteration leaves.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct CgRun {
    /// x.
    pub x: Vec<f64>,
    /// Products with p.
    pub iterations: usize,
    /// How it ended.
    pub outcome: Outcome,
    /// ||r|| / ||b|| by the recurrence after 0, 1, .. iterations.
    pub residual_history: Vec<f64>,
    /// ||b - A x|| / ||b|| from the x that is returned; 0 for b = 0.
    pub relative_residual: f64,
    /// `r.z / p.Ap` of every iteration.
    pub alphas: Vec<f64>,
    /// `r'.z' / r.z` of every iteration; 0 where the iteration started anew, so that the tridiagonal matrix of these numbers falls
    /// into one block a start.
    pub betas: Vec<f64>,
    /// How often the recurrence was wrong about the goal.
    pub restarts: usize,
}

/// Solves A x = b for symmetric positive definite A, from `x0` or from 0, with M^-1 or without.
///
/// # Definition
/// The method of Hestenes and Stiefel. Converged means what [`Control`] says, never a norm of the preconditioned residual.
/// A breakdown is named with its iteration: p.Ap <= 0 or r.M^-1 r <= 0 (not positive definite), numbers that are not finite, and
/// stagnation, when a restart from the recomputed residual does not halve it. x is the iterate before the breakdown.
///
/// # Numerics
/// f64. Vectors other than x are kept near 1 by a power of two, so that no square overflows or vanishes for that reason.
/// Dot products are sums of fixed chunks: the same bits at any number of threads.
///
/// # Cost
/// One product, one M^-1, about 11 n numbers read or written an iteration; five vectors.
///
/// # Errors
/// [`Error::Shape`] if x0 and b differ in length, [`Error::NonFinite`] for either.
///
/// ```
/// use macheps::solve::{Outcome, conjugate_gradient::reference::{Control, conjugate_gradient}};
/// // [4 1; 1 3] x = [1; 2]
/// let mut product = |x: &[f64], y: &mut [f64]| (y[0], y[1]) = (4.0 * x[0] + x[1], x[0] + 3.0 * x[1]);
/// let run = conjugate_gradient(&mut product, None, &[1.0, 2.0], None, &Control::new(1e-12, 10))?;
/// assert_eq!((run.outcome, run.iterations), (Outcome::Converged, 2));
/// assert!((run.x[0] - 1.0 / 11.0).abs() < 1e-15 && (run.x[1] - 7.0 / 11.0).abs() < 1e-15);
/// # Ok::<(), macheps::Error>(())
/// ```
pub fn conjugate_gradient(
    product: &mut Map<'_>,
    precondition: Option<&mut Map<'_>>,
    b: &[f64],
    x0: Option<&[f64]>,
    control: &Control,
) -> Result<CgRun> {
    solve(Form::HestenesStiefel, product, precondition, b, x0, control)
}

/// The same by the recurrences of Chronopoulos and Gear, which need one point of reduction an iteration in place of two: in exact
/// arithmetic the same iterates. `s = A p` comes by a recurrence of its own, so rounding errors grow a little faster.
///
/// # Errors
/// [`Error::Shape`] if x0 and b differ in length, [`Error::NonFinite`] for either.
pub fn chronopoulos_gear(
    product: &mut Map<'_>,
    precondition: Option<&mut Map<'_>>,
    b: &[f64],
    x0: Option<&[f64]>,
    control: &Control,
) -> Result<CgRun> {
    solve(Form::ChronopoulosGear, product, precondition, b, x0, control)
}

#[derive(Clone, Copy)]
enum Form {
    HestenesStiefel,
    ChronopoulosGear,
}

/// Between a residual and what the recurrence has made of it: beyond this quotient rounding errors in x are larger than r.
const TRUSTED: f64 = 1e-14;

/// Why a run of the recurrence ended.
enum Stop {
    /// ||r|| <= rtol ||b||, it says, or so small that it cannot be believed any more.
    Goal,
    Limit,
    Breakdown(Breakdown),
}

/// An iteration under way. r and all that comes from it are 2^-shift of what they are; x is as it is.
struct State<'a, 'b, 'c> {
    product: &'a mut Map<'b>,
    precondition: Option<&'a mut Map<'c>>,
    control: &'a Control,
    shift: i32,
    b_norm: f64,
    /// Below this norm of r the recurrence has to be looked after.
    floor: f64,
    x: Vec<f64>,
    r: Vec<f64>,
    iterations: usize,
    residual_history: Vec<f64>,
    alphas: Vec<f64>,
    betas: Vec<f64>,
}

fn solve(
    form: Form,
    product: &mut Map<'_>,
    precondition: Option<&mut Map<'_>>,
    b: &[f64],
    x0: Option<&[f64]>,
    control: &Control,
) -> Result<CgRun> {
    let n = b.len();
    if let Some(x0) = x0.filter(|x0| x0.len() != n) {
        return Err(Error::shape("start vector", n.to_string(), x0.len().to_string()));
    }
    check_finite("b", b)?;
    check_finite("x0", x0.unwrap_or(&[]))?;
    let x = x0.map_or_else(|| vec![0.0; n], <[f64]>::to_vec);
    let ended = |x: Vec<f64>, outcome: Outcome, relative_residual: f64| CgRun {
        x,
        iterations: 0,
        outcome,
        residual_history: vec![relative_residual],
        relative_residual,
        alphas: Vec::new(),
        betas: Vec::new(),
        restarts: 0,
    };
    if b.iter().all(|&v| v == 0.0) {
        return Ok(ended(vec![0.0; n], Outcome::Converged, 0.0));
    }
    let not_finite = Outcome::Breakdown {
        kind: Breakdown::NonFinite,
        iteration: 0,
    };
    let mut r = vec![0.0; n];
    if x0.is_some() {
        residual(product, b, &x, &mut r);
    } else {
        r.copy_from_slice(b);
    }
    if !is_finite(&r) {
        return Ok(ended(x, not_finite, f64::NAN));
    }
    let mut state = State {
        product,
        precondition,
        control,
        shift: 0,
        b_norm: 0.0,
        floor: 0.0,
        x,
        r,
        iterations: 0,
        residual_history: Vec::new(),
        alphas: Vec::new(),
        betas: Vec::new(),
    };
    let first = state.rescale(b);
    state.residual_history.push(first);
    let mut restarts = 0;
    // x and its residual as last recomputed.
    let mut verified: Option<(Vec<f64>, f64)> = None;
    let outcome = loop {
        let stop = match form {
            Form::HestenesStiefel => state.hestenes_stiefel(),
            Form::ChronopoulosGear => state.chronopoulos_gear(),
        };
        let iteration = state.iterations;
        let breakdown = |kind| Outcome::Breakdown { kind, iteration };
        match stop {
            Stop::Goal if !control.verify => break Outcome::Converged,
            Stop::Goal => (),
            Stop::Limit => break Outcome::IterationLimit,
            Stop::Breakdown(kind) => break breakdown(kind),
        }
        let relative = state.recompute(b);
        if relative <= control.rtol {
            break Outcome::Converged;
        }
        if relative.is_nan() {
            break breakdown(Breakdown::NonFinite);
        }
        if let Some((better, last)) = &mut verified {
            let stagnates = relative > 0.5 * *last;
            if relative > *last {
                std::mem::swap(&mut state.x, better);
            }
            if stagnates {
                break breakdown(Breakdown::Stagnation);
            }
        }
        verified = Some((state.x.clone(), relative));
        restarts += 1;
        if let Some(beta) = state.betas.last_mut() {
            *beta = 0.0;
        }
    };
    if !is_finite(&state.x) {
        // Nothing of it is worth keeping.
        state.x = x0.map_or_else(|| vec![0.0; n], <[f64]>::to_vec);
    }
    let relative_residual = state.recompute(b);
    let outcome = match outcome {
        Outcome::IterationLimit if control.verify && relative_residual <= control.rtol => Outcome::Converged,
        outcome => outcome,
    };
    Ok(CgRun {
        x: state.x,
        iterations: state.iterations,
        outcome,
        residual_history: state.residual_history,
        relative_residual,
        alphas: state.alphas,
        betas: state.betas,
        restarts,
    })
}

/// r = b - A x
fn residual(product: &mut Map<'_>, b: &[f64], x: &[f64], r: &mut [f64]) {
    product(x, r);
    scale_and_add(r, -1.0, b);
}

impl State<'_, '_, '_> {
    /// Replaces r by what x gives; ||r|| / ||b||.
    fn recompute(&mut self, b: &[f64]) -> f64 {
        residual(self.product, b, &self.x, &mut self.r);
        self.rescale(b)
    }

    /// Scales an r that is as it is; ||r|| / ||b||.
    fn rescale(&mut self, b: &[f64]) -> f64 {
        self.shift = exponent(&self.r).max(exponent(b));
        // Of an r 1e308 times b nothing of b is left in this scale.
        self.b_norm = norm(&scaled(b, -self.shift)).max(f64::MIN_POSITIVE);
        self.r = scaled(&self.r, -self.shift);
        let r_norm = norm(&self.r);
        self.floor = if self.control.verify { TRUSTED * r_norm } else { 0.0 };
        r_norm / self.b_norm
    }

    fn precondition(&mut self, z: &mut [f64]) {
        match &mut self.precondition {
            Some(map) => map(&self.r, z),
            None => z.copy_from_slice(&self.r),
        }
    }

    /// Why there is nothing to do at a residual of this norm, if so.
    fn is_over(&self, r_norm: f64) -> Option<Stop> {
        if r_norm <= (self.control.rtol * self.b_norm).max(self.floor) {
            Some(Stop::Goal)
        } else if !r_norm.is_finite() {
            Some(Stop::Breakdown(Breakdown::NonFinite))
        } else if self.iterations >= self.control.max_iterations {
            Some(Stop::Limit)
        } else {
            None
        }
    }

    /// x += alpha p, r -= alpha q; ||r||.
    fn step(&mut self, alpha: f64, p: &[f64], q: &[f64]) -> f64 {
        add_scaled(&mut self.x, ldexp(alpha, self.shift), p);
        add_scaled(&mut self.r, -alpha, q);
        self.iterations += 1;
        let r_norm = norm(&self.r);
        self.residual_history.push(r_norm / self.b_norm);
        self.alphas.push(alpha);
        r_norm
    }

    fn hestenes_stiefel(&mut self) -> Stop {
        if let Some(stop) = self.is_over(norm(&self.r)) {
            return stop;
        }
        let n = self.r.len();
        let (mut z, mut q) = (vec![0.0; n], vec![0.0; n]);
        self.precondition(&mut z);
        let mut rho = match positive(dot(&self.r, &z)) {
            Ok(rho) => rho,
            Err(kind) => return Stop::Breakdown(kind),
        };
        let mut p = z.clone();
        loop {
            (self.product)(&p, &mut q);
            let alpha = match positive(dot(&p, &q)).and_then(|curvature| positive(rho / curvature)) {
                Ok(alpha) => alpha,
                Err(kind) => return Stop::Breakdown(kind),
            };
            let r_norm = self.step(alpha, &p, &q);
            if let Some(stop) = self.is_over(r_norm) {
                self.betas.push(0.0);
                return stop;
            }
            self.precondition(&mut z);
            let next = match positive(dot(&self.r, &z)) {
                Ok(next) => next,
                Err(kind) => {
                    self.betas.push(0.0);
                    return Stop::Breakdown(kind);
                }
            };
            self.betas.push(next / rho);
            scale_and_add(&mut p, next / rho, &z);
            rho = next;
        }
    }

    fn chronopoulos_gear(&mut self) -> Stop {
        if let Some(stop) = self.is_over(norm(&self.r)) {
            return stop;
        }
        let n = self.r.len();
        let (mut u, mut w) = (vec![0.0; n], vec![0.0; n]);
        let (mut p, mut s) = (vec![0.0; n], vec![0.0; n]);
        let (mut gamma, mut alpha) = (0.0, 0.0);
        loop {
            self.precondition(&mut u);
            (self.product)(&u, &mut w);
            let next = match positive(dot(&self.r, &u)) {
                Ok(next) => next,
                Err(kind) => {
                    self.betas.extend((alpha != 0.0).then_some(0.0));
                    return Stop::Breakdown(kind);
                }
            };
            let delta = dot(&w, &u);
            // The first step has no direction before it.
            let (beta, curvature) = if alpha == 0.0 {
                (0.0, delta)
            } else {
                let beta = next / gamma;
                self.betas.push(beta);
                (beta, delta - beta * next / alpha)
            };
            alpha = match positive(curvature).and_then(|curvature| positive(next / curvature)) {
                Ok(alpha) => alpha,
                Err(kind) => return Stop::Breakdown(kind),
            };
            gamma = next;
            scale_and_add(&mut p, beta, &u);
            scale_and_add(&mut s, beta, &w);
            let r_norm = self.step(alpha, &p, &s);
            if let Some(stop) = self.is_over(r_norm) {
                self.betas.push(0.0);
                return stop;
            }
        }
    }
}

/// A number that is positive and finite, or what else it means.
fn positive(value: f64) -> Result<f64, Breakdown> {
    if !value.is_finite() {
        Err(Breakdown::NonFinite)
    } else if value <= 0.0 {
        Err(Breakdown::NotPositiveDefinite)
    } else {
        Ok(value)
    }
}
