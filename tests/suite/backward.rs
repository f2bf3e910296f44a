//! The backward passes of the losses, the sigmoid family and the reductions, for the gradient check: what they are the gradients of
//! stands here once more, in f64 and straight from the definitions.

use crate::gradcheck::{Operation, grid, narrow};
use macheps::ops::activation::{self, reference::forward as activated};
use macheps::ops::bce_with_logits::{self, reference::Inputs};
use macheps::ops::cross_entropy::{self, CrossEntropyInput, LossKind, Target, Wanted};
use macheps::ops::reduction;
use macheps::ops::softmax::reference::forward_row;
use macheps::{ActivationKind, BceInput, BceOptions, CrossEntropyOptions, DType, LossReduction, MaskedRows};
use macheps::{ReductionInput, ReductionKind, ReductionOptions, SoftmaxKind, Weights};

/// A loss over classes at one point.
#[derive(Clone)]
struct Loss {
    kind: LossKind,
    shape: Vec<usize>,
    labels: Vec<i64>,
    probabilities: Option<Vec<f64>>,
    weight: Option<Vec<f64>>,
    options: CrossEntropyOptions,
}

impl Loss {
    fn classes(&self) -> usize {
        self.shape[1]
    }

    fn inner(&self) -> usize {
        self.shape[2..].iter().product()
    }

    fn rows(&self) -> usize {
        self.shape[0] * self.inner()
    }

    /// Place of a class of a row.
    fn at(&self, row: usize, class: usize) -> usize {
        let inner = self.inner();
        (row / inner * self.classes() + class) * inner + row % inner
    }

    fn input<'a>(
        &'a self,
        x: &'a [f32],
        weight: Option<&'a [f32]>,
        probabilities: Option<&'a [f32]>,
    ) -> CrossEntropyInput<'a, f32> {
        CrossEntropyInput {
            x,
            shape: &self.shape,
            target: match probabilities {
                Some(p) => Target::Probabilities(p),
                None => Target::Indices((&self.labels).into()),
            },
            weight,
        }
    }

    fn forward(&self, x: &[f64]) -> Vec<f64> {
        let (classes, o) = (self.classes(), &self.options);
        let smoothing = f64::from(o.label_smoothing);
        let weight_of = |class: usize| self.weight.as_ref().map_or(1.0, |w| w[class]);
        // What the mean divides by: the weights of the labels that count, or the rows.
        let (mut divisor, mut counted) = (0.0, 0.0);
        let (mut targets, mut penalties) = (Vec::new(), Vec::new());
        for row in 0..self.rows() {
            let label = self.labels.get(row).copied();
            if label.is_some() && label == o.ignore_index {
                targets.push(0.0);
                penalties.push(0.0);
                continue;
            }
            let z: Vec<f64> = (0..classes).map(|c| x[self.at(row, c)]).collect();
            let log_p = match self.kind {
                LossKind::CrossEntropy => forward_row(SoftmaxKind::LogSoftmax, &z, classes, MaskedRows::Nan).values,
                LossKind::NllLoss => z.clone(),
            };
            let share = |class: usize| match (&self.probabilities, label) {
                (Some(p), _) => p[self.at(row, class)],
                (None, Some(label)) => f64::from(u8::from(label as usize == class)),
                (None, None) => unreachable!("labels or probabilities"),
            };
            let coefficient = |c: usize| weight_of(c) * ((1.0 - smoothing) * share(c) + smoothing / classes as f64);
            targets.push(-(0..classes).map(|c| coefficient(c) * log_p[c]).sum::<f64>());
            let lse = forward_row(SoftmaxKind::LogSumExp, &z, classes, MaskedRows::Nan).values[0];
            penalties.push(f64::from(o.z_loss) * lse * lse);
            divisor += match (&self.probabilities, label) {
                (None, Some(label)) => weight_of(label as usize),
                _ => 1.0,
            };
            counted += 1.0;
        }
        let sum = |values: &[f64]| values.iter().sum::<f64>();
        match o.reduction {
            LossReduction::None => targets.iter().zip(&penalties).map(|(t, p)| t + p).collect(),
            LossReduction::Sum => vec![sum(&targets) + sum(&penalties)],
            LossReduction::Mean => vec![sum(&targets) / divisor + sum(&penalties) / counted],
        }
    }

    fn operation(self, name: &str) -> Operation {
        let x = grid(self.shape.iter().product(), 21, 4.0);
        let losses = match self.options.reduction {
            LossReduction::None => self.rows(),
            _ => 1,
        };
        let upstream = grid(losses, 22, 2.0);
        let (x32, g32) = (narrow(&x), narrow(&upstream));
        let weight = self.weight.as_deref().map(narrow);
        let probabilities = self.probabilities.as_deref().map(narrow);
        let gradient = {
            let input = self.input(&x32, weight.as_deref(), probabilities.as_deref());
            let answer = cross_entropy::reference::answer(self.kind, &input, Some(&g32), &self.options);
            answer.expect("a valid call").gradient
        };
        let (forward, own) = (self.clone(), self.clone());
        Operation {
            name: format!("{}_backward {name}", self.kind.name()),
            x,
            upstream,
            forward: Box::new(move |x| forward.forward(x)),
            oracle: gradient.values,
            bounds: gradient.bounds,
            backward: Box::new(move |context| {
                let input = own.input(&x32, weight.as_deref(), probabilities.as_deref());
                let wanted = Wanted {
                    gradient: true,
                    upstream: Some(&g32),
                    ..Wanted::default()
                };
                let out = cross_entropy::compute(context, own.kind, &input, &wanted, &own.options)?;
                Ok(out.gradient.expect("a gradient was wanted"))
            }),
            on_gpu: true,
        }
    }
}

/// Cross-entropy and nll_loss with each of their options.
pub fn losses() -> Vec<Operation> {
    let plain = |reduction| Loss {
        kind: LossKind::CrossEntropy,
        shape: vec![4, 5],
        // The third row is ignored.
        labels: vec![1, 4, -100, 0],
        probabilities: None,
        weight: None,
        options: CrossEntropyOptions {
            reduction,
            ..Default::default()
        },
    };
    let weight = Some(vec![0.5, 2.0, 0.25, 1.5, 3.0]);
    let [none, sum, mean] = [LossReduction::None, LossReduction::Sum, LossReduction::Mean].map(plain);
    let mut everything = Loss {
        weight: weight.clone(),
        ..mean.clone()
    };
    everything.options.label_smoothing = 0.125;
    everything.options.z_loss = 0.25;
    let images = Loss {
        shape: vec![2, 3, 2],
        labels: vec![2, -100, 0, 1],
        ..mean.clone()
    };
    // Rows that sum to 1, and one that does not.
    let shares = [0.5, 0.25, 0.125, 0.125, 0.0];
    let probabilities = (0..20).map(|i| shares[(i + i / 5) % 5] * if i < 15 { 1.0 } else { 1.5 });
    let soft = Loss {
        labels: Vec::new(),
        probabilities: Some(probabilities.collect()),
        weight: weight.clone(),
        options: CrossEntropyOptions {
            label_smoothing: 0.25,
            z_loss: 0.125,
            ..mean.options
        },
        ..mean.clone()
    };
    let soft_plain = Loss {
        weight: None,
        options: none.options,
        ..soft.clone()
    };
    let mut smooth_sum = Loss {
        weight: weight.clone(),
        ..sum.clone()
    };
    smooth_sum.options.label_smoothing = 0.5;
    let nll = |loss: &Loss| Loss {
        kind: LossKind::NllLoss,
        weight: weight.clone(),
        ..loss.clone()
    };
    let (nll_none, nll_mean) = (nll(&none), nll(&mean));
    vec![
        none.operation("with an ignored row"),
        sum.operation("summed"),
        mean.operation("averaged"),
        everything.operation("averaged, with weights, smoothing and z-loss"),
        smooth_sum.operation("summed, with weights and smoothing"),
        images.operation("averaged over positions"),
        soft_plain.operation("of probabilities"),
        soft.operation("of probabilities, averaged, with weights, smoothing and z-loss"),
        nll_none.operation("with weights and an ignored row"),
        nll_mean.operation("averaged, with weights"),
    ]
}

/// Binary cross-entropy with and without its weights.
pub fn binary_losses() -> Vec<Operation> {
    const SHAPE: [usize; 2] = [3, 5];
    let mut list = Vec::new();
    for reduction in LossReduction::ALL {
        for weighted in [false, true] {
            let x = grid(15, 31, 4.0);
            let targets: Vec<f64> = (0..15).map(|i| f64::from(i % 5) * 0.25).collect();
            let weight = [0.5, 2.0, 1.0, 0.25, 4.0];
            let pos_weight = [3.0, 1.0, 0.5, 2.0, 0.125];
            let upstream = grid(if reduction == LossReduction::None { 15 } else { 1 }, 32, 2.0);
            let scale = if reduction == LossReduction::Mean {
                1.0 / 15.0
            } else {
                1.0
            };
            let inputs = {
                let targets = targets.clone();
                move |x: &[f64]| -> Vec<Inputs> {
                    let of = |i: usize| Inputs {
                        x: x[i],
                        target: targets[i],
                        weight: if weighted { weight[i % 5] } else { 1.0 },
                        pos_weight: if weighted { pos_weight[i % 5] } else { 1.0 },
                    };
                    (0..15).map(of).collect()
                }
            };
            let expected: Vec<_> = inputs(&x)
                .iter()
                .enumerate()
                .map(|(i, input)| input.gradient(upstream[if upstream.len() == 1 { 0 } else { i }] * scale))
                .collect();
            let (x32, t32, g32) = (narrow(&x), narrow(&targets), narrow(&upstream));
            let (w32, p32) = (narrow(&weight), narrow(&pos_weight));
            list.push(Operation {
                name: format!(
                    "bce_with_logits_backward {}{}",
                    reduction.name(),
                    if weighted { " with weights" } else { "" }
                ),
                x,
                upstream,
                forward: Box::new(move |x| {
                    let losses: Vec<f64> = inputs(x).iter().map(|i| i.loss().value).collect();
                    match reduction {
                        LossReduction::None => losses,
                        _ => vec![losses.iter().sum::<f64>() * scale],
                    }
                }),
                oracle: expected.iter().map(|e| e.value).collect(),
                bounds: expected
                    .iter()
                    .map(|e| bce_with_logits::bounds::gradient(DType::F32, e.value, e.magnitude, e.lost))
                    .collect(),
                backward: Box::new(move |context| {
                    let of = |values| Weights { values, shape: &[5] };
                    let input = BceInput {
                        weight: weighted.then(|| of(&w32)),
                        pos_weight: weighted.then(|| of(&p32)),
                        ..BceInput::new(&x32, &t32, &SHAPE)
                    };
                    bce_with_logits::backward(context, &input, Some(&g32), &BceOptions { reduction })
                }),
                on_gpu: true,
            });
        }
    }
    list
}

/// sigmoid, log_sigmoid and softplus.
pub fn activations() -> Vec<Operation> {
    let of = |kind: ActivationKind| {
        let (x, upstream) = (grid(30, 41, 6.0), grid(30, 42, 2.0));
        let oracle: Vec<f64> = x
            .iter()
            .zip(&upstream)
            .map(|(&x, &g)| activation::reference::backward(kind, x, g))
            .collect();
        let (x32, g32) = (narrow(&x), narrow(&upstream));
        Operation {
            name: format!("{}_backward", kind.name()),
            x,
            upstream,
            forward: Box::new(move |x| x.iter().map(|&x| activated(kind, x)).collect()),
            bounds: oracle
                .iter()
                .map(|&v| activation::bounds::bound(DType::F32, true, v))
                .collect(),
            oracle,
            backward: Box::new(move |context| activation::backward(context, kind, &x32, &g32)),
            on_gpu: true,
        }
    };
    ActivationKind::ALL.into_iter().map(of).collect()
}

/// Every reduction that has a gradient, over an axis in the middle and over everything.
pub fn reductions() -> Vec<Operation> {
    const SHAPE: [usize; 3] = [3, 4, 2];
    let mut list = Vec::new();
    for kind in ReductionKind::ALL.into_iter().filter(|kind| !kind.is_arg()) {
        for axes in [Some(vec![1]), None] {
            // No two magnitudes are the same and none is 0: a derivative is everywhere. A sum to take the logarithm of is positive.
            let x: Vec<f64> = (0..24)
                .map(|i| f64::from(i * 37 % 101 - 50) / 32.0 + 1.0 / 128.0)
                .map(|v| if kind == ReductionKind::LogSum { v.abs() } else { v })
                .collect();
            let second = grid(24, 52, 2.0);
            let options = ReductionOptions {
                axes,
                ..Default::default()
            };
            // Elements of each row of the result.
            let rows: Vec<Vec<usize>> = match &options.axes {
                None => vec![(0..24).collect()],
                Some(_) => (0..6)
                    .map(|r| (0..4).map(|b| (r / 2 * 4 + b) * 2 + r % 2).collect())
                    .collect(),
            };
            let upstream = grid(rows.len(), 51, 2.0);
            let (mut oracle, mut bounds) = (vec![0.0; 24], vec![0.0; 24]);
            let pick = |values: &[f64], row: &[usize]| row.iter().map(|&i| values[i]).collect::<Vec<f64>>();
            for (row, &g) in rows.iter().zip(&upstream) {
                let (x, second) = (pick(&x, row), pick(&second, row));
                let found = reduction::reference::backward_row(kind, &x, &second, options.correction, g);
                for (&i, (value, magnitude)) in row.iter().zip(found) {
                    oracle[i] = value;
                    bounds[i] = reduction::bounds::gradient_bound(kind, DType::F32, value, magnitude);
                }
            }
            let (x32, s32, g32) = (narrow(&x), narrow(&second), narrow(&upstream));
            let over = if options.axes.is_some() {
                "over an axis"
            } else {
                "over everything"
            };
            list.push(Operation {
                name: format!("{} {over}", kind.backward_name()),
                x,
                upstream,
                on_gpu: options.axes.is_some(),
                forward: Box::new(move |x| {
                    let value = |row: &Vec<usize>| {
                        reduction::reference::row(kind, &pick(x, row), &pick(&second, row), options.correction).value
                    };
                    rows.iter().map(value).collect()
                }),
                oracle,
                bounds,
                backward: {
                    let options = ReductionOptions {
                        axes: over.ends_with("axis").then(|| vec![1]),
                        ..Default::default()
                    };
                    Box::new(move |context| {
                        let input = ReductionInput {
                            x: &x32,
                            shape: &SHAPE,
                            second: kind.takes_two().then_some(&s32[..]),
                        };
                        reduction::backward(context, kind, &input, &g32, &options)
                    })
                },
            });
        }
    }
    list
}
