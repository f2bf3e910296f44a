//! The CPU path against the oracle: every kind, storage type, layout and option, at lengths around the block sizes.

use macheps::element::{Element, bf16, f16};
use macheps::ops::softmax::bounds::{Accuracy, MaxError, Quantity};
use macheps::ops::softmax::{MaskedRows, SoftmaxKind, SoftmaxOptions, cpu, reference};
use macheps::random::Random;
use macheps::rows::{RowMap, contiguous_strides};

/// How the entries of a row are spread.
#[derive(Clone, Copy, Debug)]
enum Rows {
    /// Uniform over so much.
    Spread(f64),
    /// A maximum of 0 and the rest about so far below.
    Dominated(f64),
    /// Uniform over the magnitudes up to this.
    Huge(f64),
    /// Equal entries and two levels.
    Levels(f64),
    /// A third is -inf.
    Masked,
    /// Rows of each class that is not ordinary, in turn.
    Exceptional,
}

const ROWS: [Rows; 13] = [
    Rows::Spread(0.0),
    Rows::Spread(1e-3),
    Rows::Spread(1.0),
    Rows::Spread(20.0),
    Rows::Spread(87.0),
    Rows::Spread(110.0),
    Rows::Dominated(15.0),
    Rows::Dominated(80.0),
    Rows::Huge(1e30),
    Rows::Huge(3e38),
    Rows::Levels(3.7),
    Rows::Masked,
    Rows::Exceptional,
];

impl Rows {
    /// Entry `j` of row `row` of length `len`.
    fn entry(self, row: usize, j: usize, len: usize, random: &mut Random) -> f64 {
        match self {
            Rows::Spread(spread) => random.unit() * spread - 0.3 * spread,
            Rows::Dominated(gap) => {
                if j == len / 2 {
                    0.0
                } else {
                    -gap - random.unit()
                }
            }
            Rows::Huge(size) => (random.unit() * 2.0 - 1.0) * size,
            Rows::Levels(gap) => -gap * f64::from((j % 3) as u32) * 0.618,
            Rows::Masked => {
                if random.unit() < 0.33 {
                    f64::NEG_INFINITY
                } else {
                    random.unit() * 9.0
                }
            }
            Rows::Exceptional => match row % 6 {
                0 => f64::NEG_INFINITY,
                1 if j + 1 == len => f64::NAN,
                2 if j == 0 => f64::INFINITY,
                3 if j == len / 2 => f64::NAN,
                3 if j == 0 => f64::INFINITY,
                4 => {
                    if j + 1 == len {
                        f64::NAN
                    } else {
                        f64::NEG_INFINITY
                    }
                }
                _ => random.unit(),
            },
        }
    }
}

/// One problem: where everything lies and the options.
struct Problem {
    shape: Vec<usize>,
    options: SoftmaxOptions,
    rows: Rows,
    /// Shape of an additive mask.
    mask: Option<Vec<usize>>,
    /// Put gaps between the elements of input and output.
    gaps: bool,
}

/// What the output holds before a call; elements outside of it must keep this.
const SENTINEL: f32 = -7.0;

/// Runs forward and backward of every kind and returns the worst error.
fn check<T: Element>(problem: &Problem) -> Vec<(Quantity, MaxError)> {
    let Problem {
        shape,
        options,
        rows,
        mask,
        gaps,
    } = problem;
    let axis = macheps::rows::resolve_axis(options.axis, shape.len()).unwrap();
    let queries = if shape.len() > 1 { shape[shape.len() - 2] } else { 1 };
    let map_of = |shape: &[usize]| {
        let (factor, offset) = if *gaps { (3, 5) } else { (1, 0) };
        let strides: Vec<usize> = contiguous_strides(shape).iter().map(|s| s * factor).collect();
        RowMap::strided(shape, &strides, offset, axis)
    };
    let mut reduced = shape.clone();
    reduced[axis] = 1;
    let (map, one) = (map_of(shape), map_of(&reduced));
    let mut random = Random::new(shape.iter().fold(42, |a, &s| a * 31 + s as u64));
    let mut x = vec![T::from_f32(SENTINEL); map.end()];
    // Also for logsumexp, whose upstream has other places and is longer than an empty x.
    let g: Vec<T> = (0..map.end().max(one.end()))
        .map(|_| T::from_f64(random.unit() * 4.0 - 2.0))
        .collect();
    for row in 0..map.rows() {
        for j in 0..map.len {
            let at = map.start(row) + j * map.len_stride;
            x[at] = T::from_f64(rows.entry(row, j, map.len, &mut random));
        }
    }
    let mask_values: Option<(Vec<T>, RowMap)> = mask.as_ref().map(|small| {
        let mask_map = RowMap::broadcast("mask", small, shape, axis).unwrap();
        let values = (0..small.iter().product())
            .map(|_| {
                T::from_f64(if random.unit() < 0.2 {
                    f64::NEG_INFINITY
                } else {
                    random.unit()
                })
            })
            .collect();
        (values, mask_map)
    });
    let mask = mask_values.as_ref().map(|(values, map)| (&values[..], map));
    let mut worst = Vec::new();
    for kind in SoftmaxKind::ALL {
        let y_map = if kind.reduces() { &one } else { &map };
        for quantity in [Quantity::Forward(kind), Quantity::Backward(kind)] {
            let (expected, out_map) = match quantity {
                Quantity::Forward(_) => (reference::forward(kind, &x, &map, mask, options, queries, y_map), y_map),
                Quantity::Backward(_) => (
                    reference::backward(kind, &x, &map, mask, &g, y_map, options, queries, &map),
                    &map,
                ),
            };
            let mut got = vec![T::from_f32(SENTINEL); out_map.end() + 4];
            match quantity {
                Quantity::Forward(_) => cpu::forward(kind, &x, &map, mask, options, queries, &mut got, y_map),
                Quantity::Backward(_) => {
                    cpu::backward(kind, &x, &map, mask, &g, y_map, options, queries, &mut got, &map)
                }
            }
            let mut reached = vec![false; got.len()];
            for row in 0..out_map.rows() {
                (0..out_map.len).for_each(|j| reached[out_map.start(row) + j * out_map.len_stride] = true);
            }
            for (at, _) in reached.iter().enumerate().filter(|(_, r)| !**r) {
                assert_eq!(
                    got[at].to_f32(),
                    SENTINEL,
                    "{} wrote element {at}, which is not its own",
                    quantity.name()
                );
                // Not compared below.
                got[at] = T::from_f32(0.0);
            }
            for v in &got {
                let bits = v.to_f32().to_bits();
                assert!(!v.to_f32().is_nan() || bits == 0x7fc0_0000, "a NaN with bits {bits:x}");
            }
            got.truncate(expected.values.len());
            let error = expected.check(&got, quantity, Accuracy::Standard).unwrap_or_else(|e| {
                panic!(
                    "{} {} {shape:?} {options:?} {rows:?} gaps {gaps}: {e}",
                    T::DTYPE,
                    quantity.name()
                )
            });
            worst.push((quantity, error));
        }
    }
    worst
}

/// All three storage types; prints nothing, panics on the first mismatch.
fn check_all(problem: &Problem, worst: &mut Vec<(&'static str, Quantity, MaxError)>) {
    let results = [
        ("f32", check::<f32>(problem)),
        ("f16", check::<f16>(problem)),
        ("bf16", check::<bf16>(problem)),
    ];
    for (dtype, result) in results {
        for (quantity, error) in result {
            match worst.iter_mut().find(|(d, q, _)| *d == dtype && *q == quantity) {
                Some((_, _, all)) => *all = all.merge(error),
                None => worst.push((dtype, quantity, error)),
            }
        }
    }
}

fn report(worst: &[(&'static str, Quantity, MaxError)]) {
    for (dtype, quantity, error) in worst {
        println!(
            "{dtype} {}: {:.3} ulp, {:.3} of the bound",
            quantity.name(),
            error.ulp,
            error.of_bound
        );
    }
}

fn plain(shape: &[usize], rows: Rows) -> Problem {
    Problem {
        shape: shape.to_vec(),
        options: SoftmaxOptions::default(),
        rows,
        mask: None,
        gaps: false,
    }
}

#[test]
fn lengths_and_spreads() {
    let mut worst = Vec::new();
    for rows in ROWS {
        for len in [
            0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 1000, 4095, 4096, 4097, 9000,
        ] {
            check_all(&plain(&[7, len], rows), &mut worst);
        }
        check_all(&plain(&[1, 100_000], rows), &mut worst);
    }
    check_all(&plain(&[0, 5], Rows::Spread(1.0)), &mut worst);
    check_all(&plain(&[300], Rows::Spread(1.0)), &mut worst);
    report(&worst);
}

#[test]
fn axes() {
    let mut worst = Vec::new();
    for rows in [
        Rows::Spread(30.0),
        Rows::Dominated(15.0),
        Rows::Masked,
        Rows::Exceptional,
        Rows::Huge(1e30),
    ] {
        for shape in [[5, 3, 4], [2, 7, 70], [3, 300, 9], [1, 5, 200], [33, 1, 17], [2, 9, 1]] {
            for axis in 0..3 {
                let mut problem = plain(&shape, rows);
                problem.options.axis = axis;
                check_all(&problem, &mut worst);
                problem.gaps = true;
                check_all(&problem, &mut worst);
            }
        }
        for shape in [[20_000, 11], [40_000, 3]] {
            let mut problem = plain(&shape, rows);
            problem.options.axis = 0;
            check_all(&problem, &mut worst);
        }
    }
    report(&worst);
}

#[test]
fn scale_masks_and_causal() {
    let mut worst = Vec::new();
    for masked_rows in [MaskedRows::Nan, MaskedRows::Zero] {
        for rows in [Rows::Spread(20.0), Rows::Masked, Rows::Exceptional] {
            for (shape, axis, mask) in [
                (vec![2, 3, 6, 33], -1, Some(vec![6, 33])),
                (vec![2, 3, 6, 33], -1, Some(vec![2, 1, 1, 33])),
                (vec![2, 3, 6, 33], -1, Some(vec![1])),
                (vec![2, 5, 40], 1, Some(vec![5, 40])),
                (vec![2, 5, 40], 1, Some(vec![2, 5, 1])),
                (vec![4, 5000], -1, Some(vec![4, 5000])),
                (vec![4, 5000], -1, None),
            ] {
                for scale in [0.125, -1.5] {
                    let mut problem = plain(&shape, rows);
                    problem.options = SoftmaxOptions {
                        axis,
                        scale,
                        masked_rows,
                        ..Default::default()
                    };
                    problem.mask.clone_from(&mask);
                    check_all(&problem, &mut worst);
                    if axis == -1 {
                        for diagonal in [0, 3, -2, 4500, -100_000] {
                            problem.options.causal = Some(diagonal);
                            check_all(&problem, &mut worst);
                        }
                    }
                }
            }
        }
    }
    report(&worst);
}

/// Results just above the smallest normal number: there the low digits of the factor are the first to be lost. Sums near a
/// power of two give factors with large low digits.
#[test]
fn results_near_the_smallest_normal_number() {
    let mut random = Random::new(99);
    let mut worst = MaxError::default();
    for trial in 0..300 {
        let power = 4 + trial % 3;
        let ties = [17, 34, 68][trial % 3];
        let near = ((2f64.powi(power as i32) - 1.0) * (1.0 + random.unit() * 2e-3) / ties as f64).ln();
        let mut x = vec![0.0f32];
        x.extend(std::iter::repeat_n(near as f32, ties));
        x.push(-(8.0 + 4.0 * random.unit()) as f32);
        let lowest = -(125.0 - power as f64) * std::f64::consts::LN_2;
        x.extend((0..400).map(|_| (lowest - 0.7 + 1.4 * random.unit()) as f32));
        let map = RowMap::contiguous(&[1, x.len()], 1);
        let options = SoftmaxOptions::default();
        let mut y = vec![0.0f32; x.len()];
        cpu::forward(SoftmaxKind::Softmax, &x, &map, None, &options, 1, &mut y, &map);
        let expected = reference::forward(SoftmaxKind::Softmax, &x, &map, None, &options, 1, &map);
        let error = expected.check(&y, Quantity::Forward(SoftmaxKind::Softmax), Accuracy::Standard);
        worst = worst.merge(error.unwrap_or_else(|m| panic!("trial {trial}: {m}")));
    }
    eprintln!("worst: {:.2} ulp", worst.ulp);
}

#[test]
fn hidden_entries_are_not_read() {
    let map = RowMap::contiguous(&[3, 3], 1);
    let options = SoftmaxOptions {
        causal: Some(0),
        ..Default::default()
    };
    let nan = f32::NAN;
    let x = [1.0, nan, nan, 1.0, 1.0, nan, 1.0, 1.0, 1.0];
    let mut y = [0.0f32; 9];
    cpu::forward(SoftmaxKind::Softmax, &x, &map, None, &options, 3, &mut y, &map);
    assert_eq!(y[..6], [1.0, 0.0, 0.0, 0.5, 0.5, 0.0]);
}

#[test]
fn same_bits_for_any_number_of_threads() {
    let (rows, len) = (3, 50_000);
    let map = RowMap::contiguous(&[rows, len], 1);
    let mut random = Random::new(7);
    let x: Vec<f32> = (0..rows * len).map(|_| (random.unit() * 20.0) as f32).collect();
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut y = vec![0.0f32; x.len()];
            cpu::forward(
                SoftmaxKind::Softmax,
                &x,
                &map,
                None,
                &SoftmaxOptions::default(),
                rows,
                &mut y,
                &map,
            );
            y
        })
    };
    let one = run(1);
    for threads in [2, 3, 8] {
        assert!(run(threads) == one, "{threads} threads");
    }
}

/// A shape with a 0 in it holds nothing, whatever its other dimensions claim.
#[test]
fn empty_shapes_may_claim_anything() {
    use macheps::{Context, Error, SoftmaxInput, SoftmaxOptions, ops::softmax};
    let ctx = Context::cpu();
    let run = |kind, shape: &[usize]| {
        let input = SoftmaxInput::<f32>::new(&[], shape);
        softmax::forward(&ctx, kind, &input, &SoftmaxOptions::default())
    };
    assert!(run(SoftmaxKind::Softmax, &[1 << 40, 0]).unwrap().is_empty());
    assert!(matches!(
        run(SoftmaxKind::LogSumExp, &[1 << 62, 0]),
        Err(Error::Limit { .. })
    ));
    assert!(matches!(
        run(SoftmaxKind::LogSumExp, &[1 << 33, 1 << 33, 0]),
        Err(Error::Shape { .. })
    ));
    assert!(softmax::logsumexp_axes::<f32>(&ctx, &[], &[1 << 33, 1 << 33, 0], &[2], false).is_err());
    assert_eq!(run(SoftmaxKind::LogSumExp, &[2, 0]).unwrap(), [f32::NEG_INFINITY; 2]);
}
