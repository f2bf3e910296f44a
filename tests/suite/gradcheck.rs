//! The gradient check itself, and every backward pass held to it: the oracle by its digits, the CPU path within its
//! stated bounds. [`operations`] is the list; `gpu_gradcheck` runs those marked for it on every adapter.

use macheps::float::Format;
use macheps::gradcheck::{Options, Scheme, Verdict, check, check_bounded, check_directions, check_vjp};
use macheps::ops::softmax::bounds::{Accuracy, Expected, Quantity};
use macheps::ops::softmax::{Mask, backward, reference};
use macheps::rows::{RowMap, resolve_axis};
use macheps::{Context, DType, Error, SoftmaxInput, SoftmaxKind, SoftmaxOptions};

type Forward = Box<dyn Fn(&[f64]) -> Vec<f64>>;
type Backward = Box<dyn Fn(&Context) -> macheps::Result<Vec<f32>>>;

/// A backward pass at one point.
pub struct Operation {
    pub name: String,
    /// Inputs and upstream gradient, exact in f32.
    pub x: Vec<f64>,
    pub upstream: Vec<f64>,
    /// The function in f64; results that do not depend on x may be any finite number.
    pub forward: Forward,
    /// The oracle's gradient.
    pub oracle: Vec<f64>,
    /// Absolute error allowed to each element of an f32 gradient.
    pub bounds: Vec<f64>,
    /// The gradient by the library, on the device of a context.
    pub backward: Backward,
    /// Also run on every GPU.
    pub on_gpu: bool,
}

/// Every backward pass. To add an operation, add the list of its own.
pub fn operations() -> Vec<Operation> {
    let lists: [fn() -> Vec<Operation>; 6] = [
        softmax_family,
        crate::cpu_layer_norm::backward_passes,
        crate::backward::losses,
        crate::backward::binary_losses,
        crate::backward::activations,
        crate::backward::reductions,
    ];
    lists.into_iter().flat_map(|list| list()).collect()
}

/// Multiples of 1/64, so that products with a short scale and sums with another such number are exact in f32.
pub fn grid(n: usize, seed: u64, size: f64) -> Vec<f64> {
    let mut state = seed;
    let mut next = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 33) as f64 / (1u64 << 31) as f64
    };
    (0..n)
        .map(|_| (64.0 * size * (2.0 * next() - 1.0)).round() / 64.0)
        .collect()
}

pub fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&v| v as f32).collect()
}

/// One softmax, log-softmax or log-sum-exp with its options.
#[derive(Clone)]
struct Softmax {
    kind: SoftmaxKind,
    shape: Vec<usize>,
    options: SoftmaxOptions,
    /// Additive mask in the full shape.
    mask: Option<Vec<f64>>,
}

impl Softmax {
    fn maps(&self) -> (RowMap, RowMap, usize) {
        let axis = resolve_axis(self.options.axis, self.shape.len()).unwrap();
        let mut out = self.shape.clone();
        if self.kind.reduces() {
            out[axis] = 1;
        }
        let queries = if self.shape.len() > 1 {
            self.shape[self.shape.len() - 2]
        } else {
            1
        };
        (
            RowMap::contiguous(&self.shape, axis),
            RowMap::contiguous(&out, axis),
            queries,
        )
    }

    /// Rows in f64 throughout. Results at hidden entries and -inf are constants: they come out as 0.
    fn forward(&self, x: &[f64]) -> Vec<f64> {
        let (map, out, queries) = self.maps();
        let mut y = vec![0.0; out.end()];
        for row in 0..map.rows() {
            let visible = match self.options.causal {
                None => map.len,
                Some(d) => ((row % queries) as i64 + d + 1).clamp(0, map.len as i64) as usize,
            };
            let at = |j: usize| map.start(row) + j * map.len_stride;
            let z: Vec<f64> = (0..visible)
                .map(|j| x[at(j)] * f64::from(self.options.scale) + self.mask.as_ref().map_or(0.0, |m| m[at(j)]))
                .collect();
            let answers = reference::forward_row(self.kind, &z, map.len, self.options.masked_rows).values;
            for (j, v) in answers.into_iter().enumerate() {
                y[out.start(row) + j * out.len_stride] = if v.is_finite() { v } else { 0.0 };
            }
        }
        y
    }

    /// Elements of the output that are constants, -inf.
    fn constant(&self, i: usize) -> bool {
        self.kind == SoftmaxKind::LogSoftmax && self.mask.as_ref().is_some_and(|m| m[i] == f64::NEG_INFINITY)
    }

    fn operation(self, name: &str, on_gpu: bool) -> Operation {
        let (map, out, queries) = self.maps();
        let x = grid(map.end(), 1, 4.0);
        let mut upstream = grid(out.end(), 2, 2.0);
        for (i, g) in upstream.iter_mut().enumerate() {
            if self.constant(i) {
                *g = 0.0;
            }
        }
        let (x32, g32) = (narrow(&x), narrow(&upstream));
        let mask: Option<Vec<f32>> = self.mask.as_deref().map(narrow);
        let expected: Expected = reference::backward(
            self.kind,
            &x32,
            &map,
            mask.as_ref().map(|m| (m.as_slice(), &map)),
            &g32,
            &out,
            &self.options,
            queries,
            &map,
        );
        let (forward, own) = (self.clone(), self);
        Operation {
            name: format!("{} {name}", Quantity::Backward(own.kind).name()),
            x,
            upstream,
            forward: Box::new(move |x| forward.forward(x)),
            bounds: expected.bounds(Quantity::Backward(own.kind), DType::F32, Accuracy::Standard),
            oracle: expected.values,
            backward: Box::new(move |context| {
                let input = SoftmaxInput {
                    x: &x32,
                    shape: &own.shape,
                    mask: mask.as_ref().map(|values| Mask {
                        values,
                        shape: &own.shape,
                    }),
                };
                backward(context, own.kind, &input, &g32, &own.options)
            }),
            on_gpu,
        }
    }
}

fn softmax_family() -> Vec<Operation> {
    let mut list = Vec::new();
    for kind in SoftmaxKind::ALL {
        let plain = Softmax {
            kind,
            shape: vec![3, 7],
            options: SoftmaxOptions::default(),
            mask: None,
        };
        let scaled = Softmax {
            options: SoftmaxOptions {
                scale: -0.3125,
                ..plain.options
            },
            ..plain.clone()
        };
        let mut mask = grid(21, 3, 3.0);
        mask[4] = f64::NEG_INFINITY;
        mask[8] = f64::NEG_INFINITY;
        let masked = Softmax {
            mask: Some(mask),
            ..scaled.clone()
        };
        let causal = Softmax {
            shape: vec![2, 4, 5],
            options: SoftmaxOptions {
                causal: Some(1),
                scale: 0.375,
                ..plain.options
            },
            ..plain.clone()
        };
        let other_axis = Softmax {
            shape: vec![3, 4, 2],
            options: SoftmaxOptions {
                axis: 1,
                ..plain.options
            },
            ..plain.clone()
        };
        let one = Softmax {
            shape: vec![4, 1],
            ..plain.clone()
        };
        list.push(plain.operation("plain", false));
        list.push(scaled.operation("with scale", false));
        list.push(masked.operation("with scale and mask", true));
        list.push(causal.operation("causal", false));
        list.push(other_axis.operation("along axis 1", false));
        list.push(one.operation("of one entry", false));
    }
    list
}

/// Holds an f32 gradient to difference quotients within the bounds that its operation states.
pub fn hold(operation: &Operation, gradient: &[f32]) -> macheps::Result<()> {
    let gradient: Vec<f64> = gradient.iter().map(|&v| v.into()).collect();
    check_bounded(
        &operation.forward,
        &operation.x,
        &operation.upstream,
        &gradient,
        &operation.bounds,
        &Options {
            scheme: Scheme::Richardson,
            ..Options::default()
        },
    )?
    .require()?;
    Ok(())
}

#[test]
fn oracles_are_the_gradients_of_their_functions() {
    for operation in operations() {
        for scheme in [Scheme::Central, Scheme::Richardson] {
            let report = check_vjp(
                &operation.forward,
                &operation.x,
                &operation.upstream,
                &operation.oracle,
                &Options {
                    scheme,
                    ..Options::default()
                },
            )
            .unwrap();
            assert!(report.passed(), "{} {scheme:?}: {report}", operation.name);
            let uncertainty = report.elements.iter().map(|e| e.uncertainty).fold(0.0, f64::max);
            // The check is worth something: it would see the eighth digit.
            assert!(uncertainty < 1e-8, "{} {scheme:?}: {uncertainty:e}", operation.name);
        }
    }
}

#[test]
fn the_cpu_path_is_held_to_differences() {
    let context = Context::cpu();
    for operation in operations() {
        let gradient = (operation.backward)(&context).unwrap();
        hold(&operation, &gradient).unwrap_or_else(|e| panic!("{}: {e}", operation.name));
    }
}

#[test]
fn wrong_gradients_are_caught() {
    let operations = operations();
    let of = |name: &str| operations.iter().find(|o| o.name == name).expect(name);
    let context = Context::cpu();
    let caught = |operation: &Operation, gradient: &[f32]| match hold(operation, gradient) {
        Err(Error::Gradient { index, verdict, .. }) => {
            assert_eq!(verdict, "differs");
            index
        }
        other => panic!("{}: {other:?}", operation.name),
    };
    for kind in SoftmaxKind::ALL {
        let operation = of(&format!("{} with scale and mask", Quantity::Backward(kind).name()));
        let right = (operation.backward)(&context).unwrap();
        // The factor of the scale dropped.
        let dropped: Vec<f32> = right.iter().map(|v| v / -0.3125).collect();
        caught(operation, &dropped);
        // The gradient of another upstream gradient.
        let doubled: Vec<f32> = right.iter().map(|v| 2.0 * v).collect();
        caught(operation, &doubled);
        // One element, by a little more than its bound.
        let mut nudged = right.clone();
        nudged[10] += (4.0 * operation.bounds[10]) as f32;
        assert_eq!(caught(operation, &nudged), 10);
        let mut lost = right.clone();
        lost[3] = f32::NAN;
        let verdict = hold(operation, &lost).unwrap_err().to_string();
        assert!(
            verdict.contains("element 3") && verdict.contains("not finite"),
            "{verdict}"
        );
    }
    // The sum over the row forgotten: p g instead of p (g - sum p g).
    let operation = of("softmax_backward plain");
    let y = (operation.forward)(&operation.x);
    let wrong: Vec<f32> = y.iter().zip(&operation.upstream).map(|(p, g)| (p * g) as f32).collect();
    caught(operation, &wrong);
}

// The check itself

#[test]
fn schemes_have_their_orders() {
    let f = |x: &[f64]| (1.3 * x[0]).sin() * (0.7 * x[1]).exp();
    let x = [0.9f64, -1.1];
    let exact = [
        1.3 * (1.3 * x[0]).cos() * (0.7 * x[1]).exp(),
        0.7 * (1.3 * x[0]).sin() * (0.7 * x[1]).exp(),
    ];
    for (scheme, order, evaluations) in [
        (Scheme::Forward, 1, 5),
        (Scheme::Central, 2, 8),
        (Scheme::Richardson, 4, 12),
    ] {
        let run = |step| {
            let options = Options {
                scheme,
                step: Some(step),
                resolution: 1.0,
                ..Options::default()
            };
            check(f, &x, &exact, &options).unwrap()
        };
        let (coarse, fine) = (run(1.0 / 16.0), run(1.0 / 32.0));
        assert_eq!(coarse.evaluations, evaluations);
        assert!(coarse.passed() && fine.passed(), "{scheme:?}: {coarse}");
        for (c, f) in coarse.elements.iter().zip(&fine.elements) {
            let ratio = c.error / f.error;
            let expected = 2f64.powi(order);
            assert!((ratio / expected - 1.0).abs() < 0.2, "{scheme:?}: {ratio}");
            // The estimate covers the error without drowning it.
            assert!(
                c.error <= c.uncertainty && c.uncertainty < 20.0 * c.error,
                "{scheme:?}: {c}"
            );
        }
        // With the default step the quotient is as good as the scheme allows.
        let options = Options {
            scheme,
            ..Options::default()
        };
        let best = check(f, &x, &exact, &options).unwrap();
        let error = best.elements.iter().map(|e| e.relative_error()).fold(0.0, f64::max);
        let allowed = [(1, 1e-7), (2, 1e-9), (4, 1e-11)]
            .iter()
            .find(|(o, _)| *o == order)
            .unwrap()
            .1;
        assert!(best.passed() && error < allowed, "{scheme:?}: {best}");
    }
}

#[test]
fn scales_from_tiny_to_huge() {
    // f = sum c_i x_i^2 with inputs and gradients over many magnitudes.
    let x = [1e-12, 0.0, 3.5, -2e6, 7e9];
    let c = [1e3, 1.0, 1e-2, 2e-13, 1e-20];
    let f = |x: &[f64]| x.iter().zip(c).map(|(x, c)| c * x * x).sum::<f64>();
    let mut gradient: Vec<f64> = x.iter().zip(c).map(|(x, c)| 2.0 * c * x).collect();
    let options = Options::default();
    let report = check(f, &x, &gradient, &options).unwrap();
    assert!(report.passed(), "{report}");
    gradient[3] *= 1.0 + 1e-5;
    let report = check(f, &x, &gradient, &options).unwrap();
    assert_eq!(
        report.worst().map(|e| (e.index, e.verdict)),
        Some((3, Verdict::Differs)),
        "{report}"
    );
    assert_eq!(report.failures().count(), 1);
}

#[test]
fn forward_differences_stay_on_their_side() {
    // Not defined left of 0.
    let f = |x: &[f64]| x[0].powf(2.5) + 3.0 * x[0];
    let run = |scheme| {
        let options = Options {
            scheme,
            ..Options::default()
        };
        check(f, &[0.0], &[3.0], &options).unwrap()
    };
    assert!(run(Scheme::Forward).passed(), "{}", run(Scheme::Forward));
    assert_eq!(run(Scheme::Central).elements[0].verdict, Verdict::NotFinite);
}

#[test]
fn what_cannot_be_judged_does_not_pass() {
    let options = Options::default();
    // A kink between the points: neither slope is the derivative of a smooth function.
    let h = Scheme::Central.default_step();
    let relu = |x: &[f64]| (x[0] - 1.5 * h).max(0.0);
    let report = check(relu, &[0.0], &[0.0], &options).unwrap();
    assert_eq!(report.elements[0].verdict, Verdict::Unresolved, "{report}");
    assert!(matches!(
        report.require(),
        Err(Error::Gradient {
            verdict: "unresolved",
            ..
        })
    ));
    // A value so large that the slope drowns in its rounding.
    let drowned = |x: &[f64]| 1e12 + x[0];
    let verdict = |gradient| check(drowned, &[1.0], &[gradient], &options).unwrap().elements[0].verdict;
    assert_eq!((verdict(1.0), verdict(0.0)), (Verdict::Unresolved, Verdict::Unresolved));
    // Unless the caller allows as much.
    let allowing = Options {
        atol: 1000.0,
        ..options
    };
    assert!(check(drowned, &[1.0], &[1.0], &allowing).unwrap().passed());
    // A constant has the gradient 0, whatever its rounding.
    assert!(check(|_| 5.0, &[1.0, 2.0], &[0.0, 0.0], &options).unwrap().passed());
    // Not a number.
    for gradient in [f64::NAN, f64::INFINITY] {
        let report = check(|x| x[0], &[1.0], &[gradient], &options).unwrap();
        assert_eq!(report.elements[0].verdict, Verdict::NotFinite);
    }
    let report = check(|x| if x[0] > 1.0 { f64::NAN } else { x[0] }, &[1.0], &[1.0], &options).unwrap();
    assert_eq!(report.elements[0].verdict, Verdict::NotFinite);
}

#[test]
fn misuse_is_an_error() {
    let options = Options::default();
    let f = |x: &[f64]| x[0];
    assert!(matches!(check(f, &[1.0], &[], &options), Err(Error::Shape { .. })));
    assert!(matches!(
        check(f, &[f64::NAN], &[1.0], &options),
        Err(Error::Shape { .. })
    ));
    let vector = |x: &[f64]| x.to_vec();
    assert!(matches!(
        check_vjp(vector, &[1.0, 2.0], &[1.0], &[1.0, 1.0], &options),
        Err(Error::Shape { .. })
    ));
    let bounded = check_bounded(vector, &[1.0], &[1.0], &[1.0], &[], &options);
    assert!(matches!(bounded, Err(Error::Shape { .. })));
    for wrong in [
        Options {
            step: Some(0.0),
            ..options
        },
        Options {
            step: Some(f64::NAN),
            ..options
        },
        Options {
            step: Some(0.5),
            ..options
        },
        Options { rtol: -1.0, ..options },
        Options {
            atol: f64::NAN,
            ..options
        },
        Options {
            noise: -1e-3,
            ..options
        },
        Options {
            resolution: f64::NAN,
            ..options
        },
    ] {
        assert!(
            matches!(check(f, &[1.0], &[1.0], &wrong), Err(Error::Option { .. })),
            "{wrong:?}"
        );
    }
    let nothing = check(|_| 1.0, &[], &[], &options).unwrap();
    assert!(nothing.passed() && nothing.worst().is_none());
    assert!(check_directions(|_| 1.0, &[], &[], 3, 1, &options).unwrap().passed());
}

#[test]
fn directions_find_the_wrong_element() {
    let n = 5000;
    let x = grid(n, 9, 3.0);
    let f = |x: &[f64]| {
        let terms = x.windows(2).map(|w| w[0].sin() * w[1]);
        macheps::float::Summation::sum_neumaier::<f64>(terms)
    };
    let mut gradient: Vec<f64> = (0..n)
        .map(|i| {
            let left = if i > 0 { x[i - 1].sin() } else { 0.0 };
            let right = if i + 1 < n { x[i].cos() * x[i + 1] } else { 0.0 };
            left + right
        })
        .collect();
    for scheme in [Scheme::Central, Scheme::Richardson] {
        let options = Options {
            scheme,
            ..Options::default()
        };
        let report = check_directions(f, &x, &gradient, 4, 7, &options).unwrap();
        assert!(
            report.passed() && report.elements.len() == 4 && report.located.is_none(),
            "{report}"
        );
        // One input is moved by weights that no two directions share.
        assert!(report.elements[0].numeric != report.elements[1].numeric);
    }
    let right = gradient.clone();
    for at in [0, 2499, 2500, n - 1] {
        gradient.copy_from_slice(&right);
        gradient[at] += 0.25;
        let report = check_directions(f, &x, &gradient, 2, 7, &Options::default()).unwrap();
        assert!(!report.passed());
        assert_eq!(report.located.map(|e| e.index), Some(at), "{report}");
        assert!(report.evaluations < 200, "{}", report.evaluations);
        match report.require() {
            Err(Error::Gradient { index, .. }) => assert_eq!(index, at),
            other => panic!("{other:?}"),
        }
    }
    // All of it scaled.
    let scaled: Vec<f64> = right.iter().map(|g| 0.999 * g).collect();
    assert!(
        !check_directions(f, &x, &scaled, 2, 7, &Options::default())
            .unwrap()
            .passed()
    );
}

#[test]
fn reports_in_print() {
    let f = |x: &[f64]| x.iter().map(|v| v * v).sum::<f64>();
    let x = vec![1.0; 14];
    let report = check(f, &x, &[1.0; 14], &Options::default()).unwrap();
    let text = report.to_string();
    assert!(
        text.starts_with("gradient: 0 of 14 agree, 56 evaluations\n  worst 0: given 1e0, by differences 2"),
        "{text}"
    );
    assert!(
        text.ends_with("and 4 more") && text.matches("\n  fails ").count() == 10,
        "{text}"
    );
    let error = report.require().unwrap_err().to_string();
    assert!(
        error.starts_with("gradient element 0: given 1e0, by differences 2") && error.ends_with(": differs"),
        "{error}"
    );
    // An f32 gradient passes with the rounding of f32.
    let rough = Options {
        rtol: 4.0 * Format::F32.unit_roundoff(),
        ..Options::default()
    };
    assert!(check(f, &x, &[2.0000002; 14], &rough).unwrap().passed());
    assert!(!check(f, &x, &[2.0000002; 14], &Options::default()).unwrap().passed());
}
