//! The CPU path of binary cross-entropy: f32 in and out, f64 between. Sums are f64, over tasks of fixed length and then over tasks in
//! their order, so that they do not depend on the number of threads.

use crate::element::Element;
use crate::ops::activation::cpu::{BLOCK, TASK, exp_tail, log1p_unit, narrow, positive, rounded, widen};
use crate::rows::RowMap;
use multiversion::multiversion;
use multiversion::target::target_cfg_f;

/// A tensor of f32 that broadcasts to the shape of the logits: its values, and rows along the innermost dimension of the layout.
pub(crate) type Broadcast<'a> = (&'a [f32], RowMap);

/// What a call reads. The logits and targets are contiguous.
pub(crate) struct Call<'a, T> {
    pub x: &'a [T],
    pub target: &'a [f32],
    /// Elements of a row of the maps of what broadcasts.
    pub len: usize,
    pub weight: Option<Broadcast<'a>>,
    pub pos_weight: Option<Broadcast<'a>>,
    pub upstream: Option<Broadcast<'a>>,
    /// 1 / n for means, else 1.
    pub scale: f64,
}

/// A block of inputs as f32.
struct Block {
    x: [f32; BLOCK],
    weight: [f32; BLOCK],
    pos_weight: [f32; BLOCK],
    upstream: [f32; BLOCK],
    loss: [f64; BLOCK],
    grad: [f32; BLOCK],
    tail: [f64; BLOCK],
}

/// The elements from `begin` on of a tensor that broadcasts.
fn gather((values, map): &Broadcast<'_>, len: usize, begin: usize, into: &mut [f32]) {
    let mut done = 0;
    while done < into.len() {
        let (row, j) = ((begin + done) / len, (begin + done) % len);
        let taken = (len - j).min(into.len() - done);
        let start = map.start(row) + j * map.len_stride;
        let part = &mut into[done..done + taken];
        match map.len_stride {
            0 => part.fill(values[start]),
            1 => part.copy_from_slice(&values[start..start + taken]),
            step => {
                for (i, v) in part.iter_mut().enumerate() {
                    *v = values[start + i * step];
                }
            }
        }
        done += taken;
    }
}

#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512cd+avx512dq+avx512vl+avx2+fma",
    "x86_64+avx2+fma",
    "aarch64+neon",
))]
fn tail_block(x: &[f32], tail: &mut [f64]) {
    const FMA: bool = target_cfg_f!(any(target_feature = "fma", target_feature = "neon"));
    for (e, &x) in tail.iter_mut().zip(x) {
        *e = exp_tail::<FMA>(f64::from(x));
    }
}

#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512cd+avx512dq+avx512vl+avx2+fma",
    "x86_64+avx2+fma",
    "aarch64+neon",
))]
fn loss_block(x: &[f32], target: &[f32], weight: &[f32], pos_weight: &[f32], tail: &[f64], loss: &mut [f64]) {
    const FMA: bool = target_cfg_f!(any(target_feature = "fma", target_feature = "neon"));
    for (i, loss) in loss.iter_mut().enumerate() {
        let (x, t) = (f64::from(x[i]), f64::from(target[i]));
        let log = log1p_unit::<FMA>(tail[i]);
        let value = (1.0 - t) * (positive(x) + log) + f64::from(pos_weight[i]) * t * (positive(-x) + log);
        let value = if x == f64::NEG_INFINITY { f64::NAN } else { value };
        *loss = f64::from(weight[i]) * value;
    }
}

#[allow(clippy::too_many_arguments)]
#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512cd+avx512dq+avx512vl+avx2+fma",
    "x86_64+avx2+fma",
    "aarch64+neon",
))]
fn gradient_block(
    x: &[f32],
    target: &[f32],
    weight: &[f32],
    pos_weight: &[f32],
    upstream: &[f32],
    scale: f64,
    tail: &[f64],
    grad: &mut [f32],
) {
    for (i, grad) in grad.iter_mut().enumerate() {
        let t = f64::from(target[i]);
        let c = f64::from(upstream[i]) * scale * f64::from(weight[i]);
        let inverse = 1.0 / (1.0 + tail[i]);
        let small = tail[i] * inverse;
        let (above, below) = if x[i] < 0.0 { (small, inverse) } else { (inverse, small) };
        let value = c * ((1.0 - t) * above - f64::from(pos_weight[i]) * t * below);
        *grad = rounded(if (c as f32).is_finite() { value } else { f64::NAN });
    }
}

impl<T: Element> Call<'_, T> {
    /// A task: elements from `begin` on, as many as an output has. Returns the sum of the losses if they are asked for.
    fn task(
        &self,
        begin: usize,
        count: usize,
        sum: bool,
        mut loss: Option<&mut [f32]>,
        mut grad: Option<&mut [T]>,
    ) -> f64 {
        let mut b = Block {
            x: [0.0; BLOCK],
            weight: [1.0; BLOCK],
            pos_weight: [1.0; BLOCK],
            upstream: [1.0; BLOCK],
            loss: [0.0; BLOCK],
            grad: [0.0; BLOCK],
            tail: [0.0; BLOCK],
        };
        let mut total = 0.0;
        for at in (0..count).step_by(BLOCK) {
            let n = BLOCK.min(count - at);
            let first = begin + at;
            let target = &self.target[first..first + n];
            widen(&self.x[first..first + n], &mut b.x[..n]);
            for (from, into) in [
                (&self.weight, &mut b.weight),
                (&self.pos_weight, &mut b.pos_weight),
                (&self.upstream, &mut b.upstream),
            ] {
                if let Some(from) = from {
                    gather(from, self.len, first, &mut into[..n]);
                }
            }
            tail_block(&b.x[..n], &mut b.tail[..n]);
            let (x, weight, pos_weight, tail) = (&b.x[..n], &b.weight[..n], &b.pos_weight[..n], &b.tail[..n]);
            if sum || loss.is_some() {
                loss_block(x, target, weight, pos_weight, tail, &mut b.loss[..n]);
                total += b.loss[..n].iter().sum::<f64>();
            }
            if let Some(out) = &mut loss {
                for (out, &loss) in out[at..at + n].iter_mut().zip(&b.loss[..n]) {
                    *out = rounded(loss);
                }
            }
            if let Some(out) = &mut grad {
                let upstream = &b.upstream[..n];
                gradient_block(
                    x,
                    target,
                    weight,
                    pos_weight,
                    upstream,
                    self.scale,
                    tail,
                    &mut b.grad[..n],
                );
                narrow(&b.grad[..n], &mut out[at..at + n]);
            }
        }
        total
    }

    /// Computes the losses of the elements, their gradients, and if `sum` is set the scaled sum of the losses.
    pub(crate) fn run(&self, sum: bool, loss: Option<&mut [f32]>, grad: Option<&mut [T]>) -> f32 {
        let count = self.x.len();
        let mut losses = loss.map(|l| l.chunks_mut(TASK));
        let mut grads = grad.map(|g| g.chunks_mut(TASK));
        let tasks: Vec<_> = (0..count)
            .step_by(TASK)
            .map(|begin| {
                let taken = (
                    losses.as_mut().and_then(Iterator::next),
                    grads.as_mut().and_then(Iterator::next),
                );
                (begin, TASK.min(count - begin), taken)
            })
            .collect();
        type Taken<'a, T> = (Option<&'a mut [f32]>, Option<&'a mut [T]>);
        let work = |(begin, n, (loss, grad)): (usize, usize, Taken<'_, T>)| self.task(begin, n, sum, loss, grad);
        #[cfg(not(target_arch = "wasm32"))]
        let sums: Vec<f64> = {
            use rayon::prelude::*;
            tasks.into_par_iter().map(work).collect()
        };
        #[cfg(target_arch = "wasm32")]
        let sums: Vec<f64> = tasks.into_iter().map(work).collect();
        // From +0: the standard library's sum of nothing is -0.
        rounded(sums.iter().fold(0.0, |all, sum| all + sum) * self.scale)
    }
}
