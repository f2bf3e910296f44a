//! The CPU path of the softmax family: the same contract as the GPU kernels and [`super::reference`], made fast.
//!
//! f32 goes in and out, and what lies between is f64, but for softmax of f32 in rows that lie in one piece: that rounds more
//! than once and comes within 2 ulp (`docs/accuracy.md`). Rows run in parallel; a long row is cut into chunks of fixed
//! length whose partial results are merged in order, so the result has the same bits for any number of threads.
//!
//! Three ways through memory, chosen by the layout of the output:
//! - rows that lie in one piece go row by row, a chunk that fits the first-level cache at a time. Softmax of f32 leaves
//!   `exp(z - maximum of the chunk)` in the output and scales it when the row is known: x is read once;
//! - rows across a wide inner dimension go as tiles of neighbouring columns, one column a vector lane;
//! - rows across a narrow inner dimension, and outputs with gaps, go row by row through a copy.

#[cfg(target_arch = "x86_64")]
mod avx2;
pub(crate) mod kernels;

use std::borrow::Cow;

use super::options::{MaskedRows, SoftmaxKind, SoftmaxOptions};
use super::reference::RowClass;
use crate::element::{DType, Element, f16};
use crate::rows::RowMap;
use half::slice::HalfFloatSliceExt;
use kernels::{LANES, TILE_COLUMNS};

/// Elements of a row that are handled at a time: input and output of a chunk stay in the first-level cache.
pub(crate) const CHUNK: usize = 4096;

/// Elements of a parallel task of short rows.
pub(crate) const TASK: usize = 32 * 1024;

/// Up to this length, rows of a packed input go through one kernel together: a call for each would be felt.
const SHORT: usize = 256;

/// Rows of a tile of columns.
const TILE_ROWS: usize = 128;

/// From this inner dimension on, rows across it are vectorised over columns.
pub(crate) const MIN_COLUMNS: usize = 8;

/// Softmax, log-softmax or log-sum-exp of every row of `x`, written to `y`.
///
/// # Shapes
/// Row `r` of `x` (as `x_map` places it) gives row `r` of `y` (as `y_map` does): `x_map.len` elements, or one for logsumexp.
/// `mask` is added after scaling; its map has the rows of `x`. `queries` is the size of the second to last dimension,
/// which the causal mask of `options` goes by. Elements of `y` that `y_map` does not reach are left alone.
///
/// # Numerics
/// As [`super::bounds`] states for [`Accuracy::Standard`](super::bounds::Accuracy::Standard). Rows with NaN, infinities or
/// nothing visible are answered as the table in [`super::reference`] says; a NaN is written as 0x7fc00000 (f16 0x7e00, bf16 0x7fc0).
///
/// # Panics
/// If a map reaches beyond its slice or the maps differ in rows: the public operations check both before they call this.
#[allow(clippy::too_many_arguments)]
pub fn forward<T: Element>(
    kind: SoftmaxKind,
    x: &[T],
    x_map: &RowMap,
    mask: Option<(&[T], &RowMap)>,
    options: &SoftmaxOptions,
    queries: usize,
    y: &mut [T],
    y_map: &RowMap,
) {
    let job = Job::new(kind, x, x_map, mask, None, options, queries);
    job.run(x_map, y, y_map);
}

/// Gradient of `sum(upstream * forward(x))` with respect to `x`, written to `dx`.
///
/// `upstream` has the rows of `x`, of the same length, or of length 1 for logsumexp. The rest is as for [`forward`].
///
/// # Panics
/// As [`forward`].
#[allow(clippy::too_many_arguments)]
pub fn backward<T: Element>(
    kind: SoftmaxKind,
    x: &[T],
    x_map: &RowMap,
    mask: Option<(&[T], &RowMap)>,
    upstream: &[T],
    upstream_map: &RowMap,
    options: &SoftmaxOptions,
    queries: usize,
    dx: &mut [T],
    dx_map: &RowMap,
) {
    let job = Job::new(
        kind,
        x,
        x_map,
        mask,
        Some(Source::new(upstream, upstream_map)),
        options,
        queries,
    );
    job.run(x_map, dx, dx_map);
}

/// A tensor that is read by rows.
struct Source<'a, T> {
    values: &'a [T],
    starts: Starts,
    stride: usize,
}

/// Where rows begin.
enum Starts {
    Uniform { offset: usize, stride: usize },
    Table(Vec<usize>),
}

impl Starts {
    fn new(map: &RowMap) -> Starts {
        // Dimensions merge into one stride where each steps over the whole of those inside it.
        let mut dims = map.dims.iter().rev().filter(|d| d.size != 1);
        let Some(last) = dims.next() else {
            return Starts::Uniform {
                offset: map.offset,
                stride: 0,
            };
        };
        let mut next = last.stride * last.size;
        if dims.all(|d| d.stride == std::mem::replace(&mut next, d.stride * d.size)) {
            return Starts::Uniform {
                offset: map.offset,
                stride: last.stride,
            };
        }
        let mut table = vec![map.offset];
        for dim in &map.dims {
            let mut inner = Vec::with_capacity(table.len() * dim.size);
            for &start in &table {
                inner.extend((0..dim.size).map(|i| start + i * dim.stride));
            }
            table = inner;
        }
        Starts::Table(table)
    }

    #[inline]
    fn of(&self, row: usize) -> usize {
        match self {
            Starts::Uniform { offset, stride } => offset + row * stride,
            Starts::Table(table) => table[row],
        }
    }

    /// Whether rows `row ..` begin at consecutive elements.
    fn consecutive(&self, row: usize, count: usize) -> bool {
        let first = self.of(row);
        (1..count).all(|i| self.of(row + i) == first + i)
    }
}

impl<'a, T: Element> Source<'a, T> {
    fn new(values: &'a [T], map: &RowMap) -> Self {
        Source {
            values,
            starts: Starts::new(map),
            stride: map.len_stride,
        }
    }

    /// Elements `from ..` of a row, widened.
    fn load_row(&self, row: usize, from: usize, out: &mut [f32]) {
        let start = self.starts.of(row) + from * self.stride;
        if self.stride == 1 {
            widen(&self.values[start..start + out.len()], out);
        } else {
            for (j, o) in out.iter_mut().enumerate() {
                *o = self.values[start + j * self.stride].to_f32();
            }
        }
    }

    /// Element `j` of rows `row ..`, widened.
    fn load_column(&self, row: usize, consecutive: bool, j: usize, out: &mut [f32]) {
        let at = j * self.stride;
        if consecutive {
            let start = self.starts.of(row) + at;
            widen(&self.values[start..start + out.len()], out);
        } else {
            for (i, o) in out.iter_mut().enumerate() {
                *o = self.values[self.starts.of(row + i) + at].to_f32();
            }
        }
    }
}

/// Buffers that a thread keeps while it works.
#[derive(Default)]
struct Scratch {
    z: Vec<f32>,
    g: Vec<f32>,
    out: Vec<f32>,
    second: Vec<f32>,
}

/// The first `len` elements of a buffer that grows as needed.
pub(crate) fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

/// What a row, or a part of one, is reduced to.
#[derive(Clone, Copy, Debug)]
struct Partial {
    /// Maximum of what is not NaN.
    max: f32,
    /// Elements equal to the maximum; kept in `others` where only the sum of both is wanted.
    ties: f64,
    /// Sum of `exp(z - max)` over the others; NaN if there is a NaN.
    others: f64,
    /// Sum of `exp(z - max) * g`.
    dot: f64,
    /// Sum of g.
    total: f64,
}

impl Partial {
    const EMPTY: Partial = Partial {
        max: f32::NEG_INFINITY,
        ties: 0.0,
        others: 0.0,
        dot: 0.0,
        total: 0.0,
    };

    fn class(&self) -> RowClass {
        if self.others.is_nan() {
            RowClass::Nan
        } else if self.max == f32::INFINITY {
            RowClass::Infinite
        } else if self.max == f32::NEG_INFINITY {
            RowClass::Masked
        } else {
            RowClass::Ordinary
        }
    }

    /// The statistics of two parts of a row.
    fn merge(self, other: Partial) -> Partial {
        let total = self.total + other.total;
        if self.others.is_nan() || other.others.is_nan() {
            return Partial {
                others: f64::NAN,
                total,
                ..self
            };
        }
        let max = self.max.max(other.max);
        if max == f32::INFINITY {
            return Partial {
                max,
                total,
                ..Partial::EMPTY
            };
        }
        let (mut ties, mut others, mut dot) = (0.0, 0.0, 0.0);
        for part in [self, other] {
            if part.max == max {
                ties += part.ties;
                others += part.others;
                dot += part.dot;
            } else {
                let weight = (f64::from(part.max) - f64::from(max)).exp();
                others += (part.ties + part.others) * weight;
                dot += part.dot * weight;
            }
        }
        Partial {
            max,
            ties,
            others,
            dot,
            total,
        }
    }

    fn sum(&self) -> f64 {
        self.ties + self.others
    }

    /// `log(sum exp(z - max))`; in a dominated row the others drown in the ties, so they meet in log1p.
    fn log_sum(&self) -> f64 {
        self.ties.ln() + (self.others / self.ties).ln_1p()
    }
}

/// What the second pass over a row needs to know.
#[derive(Clone, Copy, Debug)]
struct Finish {
    /// Maximum.
    max: f64,
    /// `1 / sum exp(z - max)`.
    factor: f64,
    /// log_softmax: the log of that sum; gradients: mean of g, sum of g, or scale times g.
    constant: f64,
}

/// One call: the function, its input and its options.
struct Job<'a, T> {
    kind: SoftmaxKind,
    x: Source<'a, T>,
    mask: Option<Source<'a, T>>,
    /// Of the gradient.
    upstream: Option<Source<'a, T>>,
    options: &'a SoftmaxOptions,
    queries: usize,
    len: usize,
    rows: usize,
}

impl<'a, T: Element> Job<'a, T> {
    fn new(
        kind: SoftmaxKind,
        x: &'a [T],
        x_map: &RowMap,
        mask: Option<(&'a [T], &RowMap)>,
        upstream: Option<Source<'a, T>>,
        options: &'a SoftmaxOptions,
        queries: usize,
    ) -> Self {
        Job {
            kind,
            x: Source::new(x, x_map),
            mask: mask.map(|(values, map)| Source::new(values, map)),
            upstream,
            options,
            queries,
            len: x_map.len,
            rows: x_map.rows(),
        }
    }

    /// Whether the result is one element a row.
    fn reduces(&self) -> bool {
        self.kind.reduces() && self.upstream.is_none()
    }

    /// Elements of a row of the output.
    fn width(&self) -> usize {
        if self.reduces() { 1 } else { self.len }
    }

    /// What hidden entries hold.
    fn hidden(&self) -> f32 {
        if self.kind == SoftmaxKind::LogSoftmax && self.upstream.is_none() {
            f32::NEG_INFINITY
        } else {
            0.0
        }
    }

    fn run(&self, x_map: &RowMap, y: &mut [T], y_map: &RowMap) {
        if self.rows == 0 || self.width() == 0 {
            return;
        }
        assert!(
            y_map.rows() == self.rows && y_map.len == self.width(),
            "the output has the rows of the input"
        );
        let count = self.rows * self.width();
        match inner_size(y_map) {
            Some(inner) => {
                let y = &mut y[y_map.offset..y_map.offset + count];
                if self.reduces() {
                    match inner_size(x_map) {
                        Some(inner) if inner >= MIN_COLUMNS => self.reduce_columns(inner, y),
                        _ => self.run_rows(y),
                    }
                } else if inner == 1 {
                    self.run_rows(y);
                } else if inner >= MIN_COLUMNS || self.len * inner >= 1 << 20 {
                    self.run_columns(inner, y);
                } else {
                    self.run_narrow(inner, y);
                }
            }
            None => {
                // Gaps in the output: compute in one piece, then place.
                let mut packed = vec![T::default(); count];
                self.run_rows(&mut packed);
                let starts = Starts::new(y_map);
                for (row, values) in packed.chunks(self.width()).enumerate() {
                    let start = starts.of(row);
                    for (j, &v) in values.iter().enumerate() {
                        y[start + j * y_map.len_stride] = v;
                    }
                }
            }
        }
    }

    // Rows in one piece.

    /// All rows into a packed output.
    fn run_rows(&self, y: &mut [T]) {
        let width = self.width();
        // Few long rows leave threads idle unless each is split.
        if self.len > 4 * CHUNK && self.rows < 4 * parallel::threads() {
            let mut scratch = Scratch::default();
            for (row, out) in y.chunks_mut(width).enumerate() {
                self.run_row(row, out, true, &mut scratch);
            }
            return;
        }
        let rows_per_task = (TASK / self.len.max(1)).max(1);
        if let Some(x) = self.plain_rows() {
            let rows_per_block = (CHUNK / self.len).max(1);
            parallel::for_each_chunk(y, rows_per_task * width, |task, piece, scratch: &mut Scratch| {
                for (i, out) in piece.chunks_mut(rows_per_block * width).enumerate() {
                    self.run_block(x, task * rows_per_task + i * rows_per_block, out, scratch);
                }
            });
            return;
        }
        parallel::for_each_chunk(y, rows_per_task * width, |task, piece, scratch: &mut Scratch| {
            for (i, out) in piece.chunks_mut(width).enumerate() {
                self.run_row(task * rows_per_task + i, out, false, scratch);
            }
        });
    }

    /// The input, if this is softmax of short packed rows and nothing else.
    fn plain_rows(&self) -> Option<&'a [T]> {
        let plain = self.kind == SoftmaxKind::Softmax
            && self.upstream.is_none()
            && self.mask.is_none()
            && self.options.scale == 1.0
            && self.options.causal.is_none()
            && (1..=SHORT).contains(&self.len)
            && (self.x.stride == 1 || self.len == 1);
        match self.x.starts {
            Starts::Uniform { offset, stride } if plain && (stride == self.len || self.rows == 1) => {
                self.x.values.get(offset..offset + self.rows * self.len)
            }
            _ => None,
        }
    }

    /// Softmax of the rows `first ..` of a packed input.
    fn run_block(&self, x: &[T], first: usize, out: &mut [T], scratch: &mut Scratch) {
        let x = &x[first * self.len..first * self.len + out.len()];
        let mut others = Vec::new();
        match (as_f32(x), as_f32_mut(out)) {
            (Some(z), Some(out)) => kernels::softmax_rows(z, self.len, out, &mut others),
            _ => {
                let (z, buffer) = (sized(&mut scratch.z, x.len()), sized(&mut scratch.out, x.len()));
                widen(x, z);
                kernels::softmax_rows(z, self.len, buffer, &mut others);
                narrow(buffer, out);
            }
        }
        for row in others {
            self.run_row(
                first + row,
                &mut out[row * self.len..(row + 1) * self.len],
                false,
                scratch,
            );
        }
    }

    /// Rows that step over a narrow inner dimension.
    fn run_narrow(&self, inner: usize, y: &mut [T]) {
        let outer_size = self.len * inner;
        let outers_per_task = (TASK / outer_size).max(1);
        parallel::for_each_chunk(y, outers_per_task * outer_size, |task, piece, scratch: &mut Scratch| {
            let mut packed = vec![T::default(); self.len];
            for (i, block) in piece.chunks_mut(outer_size).enumerate() {
                let first = (task * outers_per_task + i) * inner;
                for column in 0..inner {
                    self.run_row(first + column, &mut packed, false, scratch);
                    for (&v, o) in packed.iter().zip(block[column..].iter_mut().step_by(inner)) {
                        *o = v;
                    }
                }
            }
        });
    }

    /// One row into its place.
    fn run_row(&self, row: usize, out: &mut [T], split: bool, scratch: &mut Scratch) {
        let visible = self.options.visible(row, self.queries, self.len);
        let softmax = self.kind == SoftmaxKind::Softmax && self.upstream.is_none();
        if visible <= CHUNK {
            let Scratch {
                z,
                g,
                out: buffer,
                second,
            } = scratch;
            let z = self.row_z(row, 0, visible, z, second);
            let g = self.row_g(row, 0, visible, g);
            if softmax && self.len > 0 {
                return match as_f32_mut(&mut out[..visible]) {
                    Some(direct) => {
                        let stats = self.reduce(&z, &g, Some(&mut *direct));
                        if stats.class() == RowClass::Ordinary {
                            kernels::scale(direct, 1.0 / stats.sum());
                            fill(&mut out[visible..], self.hidden());
                        } else {
                            self.fill_exceptional(stats.class(), out, visible);
                        }
                    }
                    None => {
                        let buffer = sized(buffer, visible);
                        let stats = self.reduce(&z, &g, Some(&mut *buffer));
                        if stats.class() == RowClass::Ordinary {
                            kernels::scale(buffer, 1.0 / stats.sum());
                            narrow(buffer, &mut out[..visible]);
                            fill(&mut out[visible..], self.hidden());
                        } else {
                            self.fill_exceptional(stats.class(), out, visible);
                        }
                    }
                };
            }
            let stats = self.reduce(&z, &g, None);
            if self.reduces() {
                out[0] = T::from_f32(self.logsumexp(&stats));
            } else if stats.class() == RowClass::Ordinary {
                let finish = self.finish(row, &stats);
                write(&mut out[..visible], buffer, |out| self.write_row(&z, &g, &finish, out));
                fill(&mut out[visible..], self.hidden());
            } else {
                self.fill_exceptional(stats.class(), out, visible);
            }
            return;
        }
        let stored = if softmax { as_f32_mut(&mut out[..visible]) } else { None };
        let in_place = stored.is_some();
        let partials: Vec<Partial> = match stored {
            Some(direct) => {
                parallel::map_chunks(split, scratch, direct, CHUNK, |chunk, piece, scratch: &mut Scratch| {
                    let z = self.row_z(row, chunk * CHUNK, piece.len(), &mut scratch.z, &mut scratch.second);
                    self.reduce(&z, &[], Some(piece))
                })
            }
            None => parallel::map(
                split,
                scratch,
                visible.div_ceil(CHUNK),
                |chunk, scratch: &mut Scratch| {
                    let from = chunk * CHUNK;
                    let count = CHUNK.min(visible - from);
                    let z = self.row_z(row, from, count, &mut scratch.z, &mut scratch.second);
                    let g = self.row_g(row, from, count, &mut scratch.g);
                    self.reduce(&z, &g, None)
                },
            ),
        };
        let stats = partials.iter().fold(Partial::EMPTY, |all, &part| all.merge(part));
        if self.reduces() {
            out[0] = T::from_f32(self.logsumexp(&stats));
            return;
        }
        if stats.class() != RowClass::Ordinary {
            self.fill_exceptional(stats.class(), out, visible);
            return;
        }
        let finish = self.finish(row, &stats);
        parallel::map_chunks(
            split,
            scratch,
            &mut out[..visible],
            CHUNK,
            |chunk, piece, scratch: &mut Scratch| {
                let weight = (f64::from(partials[chunk].max) - finish.max).exp();
                match as_f32_mut(piece) {
                    // A chunk of nothing but -inf holds no exponentials.
                    Some(direct) if in_place && weight == 0.0 => direct.fill(0.0),
                    Some(direct) if in_place => kernels::scale(direct, weight * finish.factor),
                    _ => {
                        let Scratch {
                            z,
                            g,
                            out: buffer,
                            second,
                        } = scratch;
                        let z = self.row_z(row, chunk * CHUNK, piece.len(), z, second);
                        let g = self.row_g(row, chunk * CHUNK, piece.len(), g);
                        write(piece, buffer, |out| self.write_row(&z, &g, &finish, out));
                    }
                }
            },
        );
        fill(&mut out[visible..], self.hidden());
    }

    /// Entries of a row as they enter the exponential; the input itself where nothing is to be done.
    fn row_z<'b>(
        &'b self,
        row: usize,
        from: usize,
        count: usize,
        buffer: &'b mut Vec<f32>,
        second: &mut Vec<f32>,
    ) -> Cow<'b, [f32]> {
        if count == 0 {
            // Such a row may begin beyond the end of an empty slice.
            return Cow::Borrowed(&[]);
        }
        if self.mask.is_none() && self.options.scale == 1.0 && self.x.stride == 1 {
            let start = self.x.starts.of(row) + from;
            if let Some(direct) = as_f32(&self.x.values[start..start + count]) {
                return Cow::Borrowed(direct);
            }
        }
        let buffer = sized(buffer, count);
        self.x.load_row(row, from, buffer);
        if self.options.scale != 1.0 {
            kernels::scale_f32(buffer, self.options.scale);
        }
        if let Some(mask) = &self.mask {
            let terms = sized(second, count);
            mask.load_row(row, from, terms);
            kernels::add_f32(buffer, terms);
        }
        Cow::Borrowed(buffer)
    }

    /// Upstream values of a row; nothing where each element does not have its own.
    fn row_g<'b>(&'b self, row: usize, from: usize, count: usize, buffer: &'b mut Vec<f32>) -> Cow<'b, [f32]> {
        match &self.upstream {
            Some(upstream) if !self.kind.reduces() && count > 0 => {
                if upstream.stride == 1 {
                    let start = upstream.starts.of(row) + from;
                    if let Some(direct) = as_f32(&upstream.values[start..start + count]) {
                        return Cow::Borrowed(direct);
                    }
                }
                let buffer = sized(buffer, count);
                upstream.load_row(row, from, buffer);
                Cow::Borrowed(buffer)
            }
            _ => Cow::Borrowed(&[]),
        }
    }

    /// Statistics of a part of a row; leaves `exp(z - max)` in `store`.
    fn reduce(&self, z: &[f32], g: &[f32], store: Option<&mut [f32]>) -> Partial {
        let max = kernels::max(z);
        if !max.is_finite() {
            let others = if z.iter().any(|v| v.is_nan()) { f64::NAN } else { 0.0 };
            // In a longer row, what goes with -inf takes part with weight 0.
            let [_, dot, total] = if g.is_empty() {
                [0.0; 3]
            } else {
                kernels::exp_dot(z, g, 0.0)
            };
            return Partial {
                max,
                others,
                dot,
                total,
                ..Partial::EMPTY
            };
        }
        if let Some(out) = store {
            return Partial {
                max,
                others: kernels::exp_store(z, max, out),
                ..Partial::EMPTY
            };
        }
        if !g.is_empty() {
            let [others, dot, total] = kernels::exp_dot(z, g, max);
            return Partial {
                max,
                others,
                dot,
                total,
                ..Partial::EMPTY
            };
        }
        if self.kind == SoftmaxKind::Softmax || self.upstream.is_some() {
            return Partial {
                max,
                others: kernels::exp_sum(z, max),
                ..Partial::EMPTY
            };
        }
        let (ties, others) = kernels::ties_and_others(z, max);
        Partial {
            max,
            ties,
            others,
            ..Partial::EMPTY
        }
    }

    fn finish(&self, row: usize, stats: &Partial) -> Finish {
        let factor = 1.0 / stats.sum();
        let constant = match (&self.upstream, self.kind) {
            (None, SoftmaxKind::Softmax | SoftmaxKind::LogSumExp) => 0.0,
            (None, SoftmaxKind::LogSoftmax) => stats.log_sum(),
            (Some(_), SoftmaxKind::Softmax) => stats.dot * factor,
            (Some(_), SoftmaxKind::LogSoftmax) => stats.total,
            (Some(upstream), SoftmaxKind::LogSumExp) => {
                f64::from(self.options.scale) * f64::from(upstream.values[upstream.starts.of(row)].to_f32())
            }
        };
        Finish {
            max: f64::from(stats.max),
            factor,
            constant,
        }
    }

    /// Results of a part of an ordinary row.
    fn write_row(&self, z: &[f32], g: &[f32], finish: &Finish, out: &mut [f32]) {
        let &Finish { max, factor, constant } = finish;
        let scale = f64::from(self.options.scale);
        match (&self.upstream, self.kind) {
            (None, SoftmaxKind::LogSoftmax) => kernels::log_softmax(z, max, constant, out),
            (None, _) => kernels::softmax(z, max, factor, out),
            (Some(_), SoftmaxKind::Softmax) => kernels::softmax_gradient(z, g, max, factor, constant, scale, out),
            (Some(_), SoftmaxKind::LogSoftmax) => {
                kernels::log_softmax_gradient(z, g, max, factor, constant, scale, out)
            }
            (Some(_), SoftmaxKind::LogSumExp) => kernels::logsumexp_gradient(z, max, factor, constant, out),
        }
    }

    fn logsumexp(&self, stats: &Partial) -> f32 {
        match stats.class() {
            RowClass::Ordinary => (f64::from(stats.max) + stats.log_sum()) as f32,
            RowClass::Masked => f32::NEG_INFINITY,
            RowClass::Infinite => f32::INFINITY,
            RowClass::Nan => f32::NAN,
        }
    }

    /// What the visible entries of a row that is not ordinary hold, and the hidden ones.
    fn exceptional(&self, class: RowClass) -> (f32, f32) {
        match (class, self.options.masked_rows) {
            (RowClass::Masked, MaskedRows::Zero) => (self.hidden(), self.hidden()),
            (RowClass::Masked, MaskedRows::Nan) => (f32::NAN, f32::NAN),
            _ => (f32::NAN, self.hidden()),
        }
    }

    fn fill_exceptional(&self, class: RowClass, out: &mut [T], visible: usize) {
        let (seen, hidden) = self.exceptional(class);
        fill(&mut out[..visible], seen);
        fill(&mut out[visible..], hidden);
    }

    // Rows across a wide inner dimension. The causal mask does not come here: it needs the last axis.

    /// Statistics of the columns `row ..` of a block.
    fn column_statistics(&self, row: usize, columns: usize) -> Vec<Partial> {
        // At most 64 segments, each of whole tiles: few enough to merge, enough for many threads.
        let segment = self.len.div_ceil(64).next_multiple_of(TILE_ROWS).max(TILE_ROWS);
        let x_consecutive = self.x.starts.consecutive(row, columns);
        let mask_consecutive = self.mask.as_ref().is_some_and(|m| m.starts.consecutive(row, columns));
        let g = self.upstream.as_ref().filter(|_| !self.kind.reduces());
        let g_consecutive = g.is_some_and(|g| g.starts.consecutive(row, columns));
        let segments = parallel::map(
            true,
            &mut Scratch::default(),
            self.len.div_ceil(segment),
            |index, scratch: &mut Scratch| {
                let mut all = vec![Partial::EMPTY; columns];
                let end = self.len.min((index + 1) * segment);
                for first in (index * segment..end).step_by(TILE_ROWS) {
                    let rows = TILE_ROWS.min(end - first);
                    let Scratch {
                        z: tile,
                        g: g_tile,
                        second,
                        ..
                    } = &mut *scratch;
                    let tile = sized(tile, rows * TILE_COLUMNS);
                    for (j, line) in tile.chunks_mut(TILE_COLUMNS).enumerate() {
                        line[columns..].fill(f32::NEG_INFINITY);
                        self.column_z(
                            row,
                            x_consecutive,
                            mask_consecutive,
                            first + j,
                            &mut line[..columns],
                            second,
                        );
                    }
                    let g_tile = if g.is_some() {
                        sized(g_tile, rows * TILE_COLUMNS)
                    } else {
                        &mut []
                    };
                    if let Some(g) = g {
                        for (j, line) in g_tile.chunks_mut(TILE_COLUMNS).enumerate() {
                            line[columns..].fill(0.0);
                            g.load_column(row, g_consecutive, first + j, &mut line[..columns]);
                        }
                    }
                    for (group, into) in all.chunks_mut(LANES).enumerate() {
                        let parts =
                            self.reduce_group(&tile[group * LANES..], g_tile.get(group * LANES..).unwrap_or(&[]));
                        for (all, part) in into.iter_mut().zip(parts) {
                            *all = all.merge(part);
                        }
                    }
                }
                all
            },
        );
        let mut segments = segments.into_iter();
        let mut all = segments.next().unwrap_or_else(|| vec![Partial::EMPTY; columns]);
        for segment in segments {
            for (all, part) in all.iter_mut().zip(segment) {
                *all = all.merge(part);
            }
        }
        all
    }

    /// Statistics of [`LANES`] columns of a tile.
    fn reduce_group(&self, tile: &[f32], g: &[f32]) -> [Partial; LANES] {
        let max = kernels::column_max(tile);
        // Stands in for an infinite maximum: the sums of such a column are put right below.
        let shift = max.map(|m| if m.is_finite() { f64::from(m) } else { 0.0 });
        let [ties, others, dot, total] = if g.is_empty() {
            let [ties, others] = kernels::column_ties(tile, &shift);
            [ties, others, [0.0; LANES], [0.0; LANES]]
        } else {
            let [others, dot, total] = kernels::column_dot(tile, g, &shift);
            [[0.0; LANES], others, dot, total]
        };
        std::array::from_fn(|i| {
            let mut part = Partial {
                max: max[i],
                ties: ties[i],
                others: others[i],
                dot: dot[i],
                total: total[i],
            };
            if !part.max.is_finite() {
                let nan = tile.iter().skip(i).step_by(TILE_COLUMNS).any(|v| v.is_nan());
                part = Partial {
                    ties: 0.0,
                    others: if nan { f64::NAN } else { 0.0 },
                    ..part
                };
            }
            part
        })
    }

    /// Element `j` of the rows `row ..` as it enters the exponential.
    fn column_z(
        &self,
        row: usize,
        x_consecutive: bool,
        mask_consecutive: bool,
        j: usize,
        out: &mut [f32],
        second: &mut Vec<f32>,
    ) {
        self.x.load_column(row, x_consecutive, j, out);
        if self.options.scale != 1.0 {
            kernels::scale_f32(out, self.options.scale);
        }
        if let Some(mask) = &self.mask {
            let terms = sized(second, out.len());
            mask.load_column(row, mask_consecutive, j, terms);
            kernels::add_f32(out, terms);
        }
    }

    /// Log-sum-exp across an inner dimension of `inner` columns.
    fn reduce_columns(&self, inner: usize, y: &mut [T]) {
        let blocks: Vec<(usize, usize)> = column_blocks(self.rows / inner, inner, TILE_COLUMNS);
        let results = parallel::map(true, &mut Scratch::default(), blocks.len(), |block, _: &mut Scratch| {
            let (row, columns) = blocks[block];
            self.column_statistics(row, columns)
        });
        for (y, stats) in y.iter_mut().zip(results.iter().flatten()) {
            *y = T::from_f32(self.logsumexp(stats));
        }
    }

    /// Everything else across an inner dimension of `inner` columns.
    fn run_columns(&self, inner: usize, y: &mut [T]) {
        let outer = self.rows / inner;
        let blocks = column_blocks(outer, inner, TILE_COLUMNS);
        let finishes: Vec<(Vec<Finish>, Vec<RowClass>)> =
            parallel::map(true, &mut Scratch::default(), blocks.len(), |block, _: &mut Scratch| {
                let (row, columns) = blocks[block];
                let stats = self.column_statistics(row, columns);
                let finish = stats
                    .iter()
                    .enumerate()
                    .map(|(i, stats)| self.finish(row + i, stats))
                    .collect();
                (finish, stats.iter().map(Partial::class).collect())
            });
        // One array for each quantity, as the kernels want them.
        let (mut max, mut factor, mut constant) = (
            Vec::with_capacity(self.rows),
            Vec::with_capacity(self.rows),
            Vec::with_capacity(self.rows),
        );
        let mut exceptional = Vec::new();
        for (finish, class) in finishes.iter().flat_map(|(f, c)| f.iter().zip(c)) {
            if *class != RowClass::Ordinary {
                exceptional.push((max.len(), self.exceptional(*class).0));
            }
            max.push(finish.max);
            factor.push(finish.factor);
            constant.push(finish.constant);
        }
        let lines = (TASK / inner).clamp(1, self.len);
        let pieces: Vec<(usize, usize, &mut [T])> = y
            .chunks_mut(self.len * inner)
            .enumerate()
            .flat_map(|(o, block)| {
                block
                    .chunks_mut(lines * inner)
                    .enumerate()
                    .map(move |(i, piece)| (o * inner, i * lines, piece))
            })
            .collect();
        parallel::consume(pieces, |(first_row, first, piece), scratch: &mut Scratch| {
            for (row, columns) in column_blocks(1, inner, 16 * TILE_COLUMNS) {
                let (column, row) = (row, first_row + row);
                let of = |values: &[f64]| -> std::ops::Range<usize> {
                    debug_assert!(row + columns <= values.len());
                    row..row + columns
                };
                let (max, factor, constant) = (&max[of(&max)], &factor[of(&factor)], &constant[of(&constant)]);
                let x_consecutive = self.x.starts.consecutive(row, columns);
                let mask_consecutive = self.mask.as_ref().is_some_and(|m| m.starts.consecutive(row, columns));
                let g_consecutive = self
                    .upstream
                    .as_ref()
                    .is_some_and(|g| g.starts.consecutive(row, columns));
                for (j, line) in piece.chunks_mut(inner).enumerate() {
                    let Scratch {
                        z,
                        g,
                        out: buffer,
                        second,
                    } = &mut *scratch;
                    let (z, g) = (sized(z, columns), sized(g, columns));
                    self.column_z(row, x_consecutive, mask_consecutive, first + j, z, second);
                    match &self.upstream {
                        Some(upstream) if !self.kind.reduces() => {
                            upstream.load_column(row, g_consecutive, first + j, g)
                        }
                        // Not used for the sum, but must be finite.
                        _ => g.fill(0.0),
                    }
                    let scale = f64::from(self.options.scale);
                    write(&mut line[column..column + columns], buffer, |out| {
                        match (&self.upstream, self.kind) {
                            (None, SoftmaxKind::LogSoftmax) => kernels::columns_log_softmax(z, max, constant, out),
                            (None, _) => kernels::columns_softmax(z, max, factor, out),
                            (Some(_), kind) => kernels::columns_gradient(z, g, max, factor, constant, kind, scale, out),
                        }
                    });
                }
            }
            let from = exceptional.partition_point(|&(row, _)| row < first_row);
            for &(row, value) in exceptional[from..]
                .iter()
                .take_while(|&&(row, _)| row < first_row + inner)
            {
                for line in piece.chunks_mut(inner) {
                    line[row - first_row] = T::from_f32(value);
                }
            }
        });
    }
}

/// Blocks of at most `size` columns that stay within their outer index, as (first row, columns).
fn column_blocks(outer: usize, inner: usize, size: usize) -> Vec<(usize, usize)> {
    (0..outer)
        .flat_map(|o| {
            (0..inner)
                .step_by(size)
                .map(move |c| (o * inner + c, size.min(inner - c)))
        })
        .collect()
}

/// The size of the inner dimension, if the map is that of a C-ordered tensor `[outer, len, inner]`.
fn inner_size(map: &RowMap) -> Option<usize> {
    // The stride along a single element says nothing.
    let stride = if map.len == 1 { 1 } else { map.len_stride };
    let mut dims = map.dims.iter().rev().filter(|d| d.size != 1).peekable();
    let mut inner = 1;
    while inner < stride {
        let dim = dims.next_if(|d| d.stride == inner)?;
        inner *= dim.size;
    }
    let mut expected = inner * map.len;
    let packed = dims.all(|d| {
        let fits = d.stride == expected;
        expected *= d.size;
        fits
    });
    (inner == stride && packed).then_some(inner)
}

/// The slice itself where the type is f32.
pub(crate) fn as_f32<T: Element>(values: &[T]) -> Option<&[f32]> {
    (T::DTYPE == DType::F32).then(|| bytemuck::cast_slice(values))
}

/// The slice itself where the type is f32.
pub(crate) fn as_f32_mut<T: Element>(values: &mut [T]) -> Option<&mut [f32]> {
    (T::DTYPE == DType::F32).then(|| bytemuck::cast_slice_mut(values))
}

fn fill<T: Element>(out: &mut [T], value: f32) {
    out.fill(T::from_f32(value));
}

/// Lets `work` write f32 and rounds that to the storage type.
fn write<T: Element>(out: &mut [T], buffer: &mut Vec<f32>, work: impl FnOnce(&mut [f32])) {
    match as_f32_mut(out) {
        Some(direct) => work(direct),
        None => {
            let buffer = sized(buffer, out.len());
            work(buffer);
            narrow(buffer, out);
        }
    }
}

/// Widens a slice; exact.
pub(crate) fn widen<T: Element>(from: &[T], into: &mut [f32]) {
    match T::DTYPE {
        DType::F32 => into.copy_from_slice(bytemuck::cast_slice(from)),
        DType::F16 => bytemuck::cast_slice::<T, f16>(from).convert_to_f32_slice(into),
        DType::Bf16 => kernels::widen_bf16(bytemuck::cast_slice(from), into),
    }
}

/// Rounds a slice to the storage type.
pub(crate) fn narrow<T: Element>(from: &[f32], into: &mut [T]) {
    match T::DTYPE {
        DType::F32 => into.copy_from_slice(bytemuck::cast_slice(from)),
        DType::F16 => bytemuck::cast_slice_mut::<T, f16>(into).convert_from_f32_slice(from),
        DType::Bf16 => kernels::narrow_bf16(from, bytemuck::cast_slice_mut(into)),
    }
}

/// Work spread over threads, in an order that results do not depend on.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) mod parallel {
    use rayon::prelude::*;

    pub(crate) fn threads() -> usize {
        rayon::current_num_threads()
    }

    pub(crate) fn for_each_chunk<T: Send, S: Default>(
        data: &mut [T],
        size: usize,
        work: impl Fn(usize, &mut [T], &mut S) + Sync,
    ) {
        data.par_chunks_mut(size)
            .enumerate()
            .for_each_init(S::default, |scratch, (index, chunk)| work(index, chunk, scratch));
    }

    /// With `split` over threads, else in this one with `own` scratch.
    pub(crate) fn map_chunks<T: Send, R: Send, S: Default>(
        split: bool,
        own: &mut S,
        data: &mut [T],
        size: usize,
        work: impl Fn(usize, &mut [T], &mut S) -> R + Sync,
    ) -> Vec<R> {
        if !split {
            return data
                .chunks_mut(size)
                .enumerate()
                .map(|(index, chunk)| work(index, chunk, own))
                .collect();
        }
        data.par_chunks_mut(size)
            .enumerate()
            .map_init(S::default, |scratch, (index, chunk)| work(index, chunk, scratch))
            .collect()
    }

    pub(crate) fn map<R: Send, S: Default>(
        split: bool,
        own: &mut S,
        count: usize,
        work: impl Fn(usize, &mut S) -> R + Sync,
    ) -> Vec<R> {
        if !split || count < 2 {
            return (0..count).map(|index| work(index, own)).collect();
        }
        (0..count)
            .into_par_iter()
            .map_init(S::default, |scratch, index| work(index, scratch))
            .collect()
    }

    pub(crate) fn consume<I: Send, S: Default>(items: Vec<I>, work: impl Fn(I, &mut S) + Sync) {
        items
            .into_par_iter()
            .for_each_init(S::default, |scratch, item| work(item, scratch));
    }
}

/// The same in the one thread that a browser's wasm has.
#[cfg(target_arch = "wasm32")]
pub(crate) mod parallel {
    pub(crate) fn threads() -> usize {
        1
    }

    pub(crate) fn for_each_chunk<T, S: Default>(data: &mut [T], size: usize, work: impl Fn(usize, &mut [T], &mut S)) {
        let mut scratch = S::default();
        data.chunks_mut(size)
            .enumerate()
            .for_each(|(index, chunk)| work(index, chunk, &mut scratch));
    }

    pub(crate) fn map_chunks<T, R, S: Default>(
        _split: bool,
        own: &mut S,
        data: &mut [T],
        size: usize,
        work: impl Fn(usize, &mut [T], &mut S) -> R,
    ) -> Vec<R> {
        data.chunks_mut(size)
            .enumerate()
            .map(|(index, chunk)| work(index, chunk, own))
            .collect()
    }

    pub(crate) fn map<R, S: Default>(
        _split: bool,
        own: &mut S,
        count: usize,
        work: impl Fn(usize, &mut S) -> R,
    ) -> Vec<R> {
        (0..count).map(|index| work(index, own)).collect()
    }

    pub(crate) fn consume<I, S: Default>(items: Vec<I>, work: impl Fn(I, &mut S)) {
        let mut scratch = S::default();
        items.into_iter().for_each(|item| work(item, &mut scratch));
    }
}
