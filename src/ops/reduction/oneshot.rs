//! One call from host data to host data, on a GPU or on the CPU path; and tensors on the device.

use super::kernels::{self, Call, Input, Operand, Piece, Plan};
use super::layout::{Dim, Layout};
use super::options::{ReductionKind, ReductionOptions};
use super::{BoundReduction, Reduction, ReductionGradientViews, ReductionViews, bounds, cpu, reference};
use crate::accuracy::{MaxError, check};
use crate::context::{Context, CrossCheck};
use crate::element::{DType, Element};
use crate::error::{Error, Result};
use crate::gpu::{BufferView, Gpu, Recording};
use crate::job::{self, BoundJob, Job, Simple, allocate, append, checked_rows, elements};
use crate::rows::{RowDim, RowMap, contiguous_strides};
#[cfg(not(target_arch = "wasm32"))]
use crate::tensor::Chain;
use crate::tensor::{Tensor, check_len, checked_count};
use std::collections::VecDeque;

/// Input of a reduction in host memory.
#[derive(Clone, Copy, Debug)]
pub struct ReductionInput<'a, T> {
    /// Values in C order.
    pub x: &'a [T],
    /// Shape.
    pub shape: &'a [usize],
    /// The second tensor of a dot product, of the same shape.
    pub second: Option<&'a [T]>,
}

impl<'a, T> ReductionInput<'a, T> {
    /// Of one tensor.
    pub fn new(x: &'a [T], shape: &'a [usize]) -> Self {
        ReductionInput { x, shape, second: None }
    }

    /// Of two tensors of one shape, for dot products.
    pub fn pair(x: &'a [T], second: &'a [T], shape: &'a [usize]) -> Self {
        ReductionInput {
            x,
            shape,
            second: Some(second),
        }
    }
}

/// A checked call.
pub(super) struct Problem<'a, T: Element> {
    kind: ReductionKind,
    input: ReductionInput<'a, T>,
    options: &'a ReductionOptions,
    layout: Layout,
    /// Elements of the result.
    rows: usize,
    chunk: Option<usize>,
}

/// Values, or indices of argmin and argmax.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Reduced<T> {
    Values(Vec<T>),
    Indices(Vec<u64>),
}

impl<'a, T: Element> Problem<'a, T> {
    pub(super) fn new(
        kind: ReductionKind,
        input: &ReductionInput<'a, T>,
        options: &'a ReductionOptions,
    ) -> Result<Self> {
        let shape = input.shape;
        options.check(kind, shape)?;
        check_len("x", input.x.len(), shape)?;
        if kind.takes_two() != input.second.is_some() {
            let (expected, got) = if kind.takes_two() {
                ("one", "none")
            } else {
                ("none", "one")
            };
            return Err(Error::shape("second tensor", expected, got));
        }
        if let Some(second) = input.second {
            check_len("the second tensor", second.len(), shape)?;
        }
        let rows = checked_count("the result", &options.output_shape(shape)?)?;
        Ok(Problem {
            kind,
            input: *input,
            options,
            layout: Layout::contiguous(shape, options)?,
            rows,
            chunk: None,
        })
    }

    pub(super) fn with_chunk(mut self, chunk: Option<usize>) -> Self {
        self.chunk = chunk;
        self
    }

    /// Computes into `y`, which has an element for every row.
    pub(super) fn write_on_cpu(&self, y: &mut [T]) {
        cpu::forward(
            self.kind,
            self.input.x,
            self.input.second,
            &self.layout,
            self.options,
            y,
        );
    }

    pub(super) fn expected_row(&self, row: usize) -> reference::Row {
        let (x, second) = reference::gather(&self.layout, self.input.x, self.input.second, row);
        reference::row(self.kind, &x, &second, self.options.correction)
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Bound on the error of a row's result.
    pub(super) fn bound(&self, expected: &reference::Row) -> f64 {
        bounds::bound(self.kind, self.options.mode, T::DTYPE, expected)
    }

    /// Recomputes rows by the oracle and compares.
    fn compare(&self, how: CrossCheck, output: &Reduced<T>) -> Result<()> {
        for row in checked_rows(how, self.rows) {
            let expected = self.expected_row(row);
            let mismatch = |got: f64, bound: f64| Error::Mismatch {
                kernel: self.kind.name(),
                index: row,
                gpu: got,
                cpu: expected.value,
                bound,
            };
            match output {
                Reduced::Values(y) => {
                    let bound = self.bound(&expected);
                    check(&y[row..=row], &[expected.value], &[bound]).map_err(|m| mismatch(m.got, m.bound))?;
                }
                Reduced::Indices(y) if y[row] as f64 != expected.value => return Err(mismatch(y[row] as f64, 0.0)),
                Reduced::Indices(_) => (),
            }
        }
        Ok(())
    }

    pub(super) fn bound_on(&self, gpu: &Gpu) -> Result<(BoundReduction, wgpu::Buffer, u64)> {
        let context = Context::from_gpu(gpu.clone());
        let view = |values: &[T]| {
            let tensor = context.upload(values, self.input.shape)?;
            tensor.view().ok_or_else(|| gpu.lost_error())
        };
        let shape = self.options.output_shape(self.input.shape)?;
        let x = view(self.input.x)?;
        let second = self.input.second.map(view).transpose()?;
        let y = if self.kind.is_arg() {
            Tensor::<f32>::on_gpu(gpu, &shape)?.view()
        } else {
            Tensor::<T>::on_gpu(gpu, &shape)?.view()
        };
        let (y, size) = (y.ok_or_else(|| gpu.lost_error())?, self.result_type().size());
        let buffer = y.buffer.clone();
        let mut reduction = Reduction::new(gpu, self.kind, T::DTYPE, self.options.clone())?;
        reduction.chunk = self.chunk;
        let bound = reduction.bind(&ReductionViews {
            x,
            second,
            y,
            workspace: None,
        })?;
        Ok((bound, buffer, (self.rows * size) as u64))
    }
}

/// A call bound to buffers of its own: all of it or, where its input passes the largest buffer, a piece of that.
pub(super) struct OnDevice<T> {
    part: Simple,
    /// Rows that are done together: those under way, and those to come.
    group: Option<Group<T>>,
    groups: VecDeque<RowMap>,
}

impl<T> BoundJob for OnDevice<T> {
    fn recording(&self) -> &Recording {
        self.part.recording()
    }

    fn outputs(&self) -> Vec<(&wgpu::Buffer, u64)> {
        self.part.outputs()
    }
}

/// Rows under way, whose pieces leave records until the last of them merges these.
struct Group<T> {
    plan: Plan,
    pieces: VecDeque<Piece>,
    /// x and the second tensor where these rows' elements lie among many others.
    copies: Vec<Vec<T>>,
    output: (wgpu::Buffer, u64),
}

/// Where the elements of some rows lie.
struct Geometry {
    shape: Vec<usize>,
    strides: Vec<usize>,
    offset: usize,
    /// Elements from the first to the last.
    extent: usize,
}

impl Geometry {
    fn operand(&self, dtype: DType, elements: usize) -> Operand<'_> {
        Operand {
            dtype,
            shape: &self.shape,
            strides: &self.strides,
            offset: self.offset,
            bytes: ((elements * dtype.size()) as u64).next_multiple_of(4),
        }
    }

    /// The elements in C order.
    fn gather<T: Element>(&self, values: &[T]) -> Result<Vec<T>> {
        let Some(last) = self.shape.len().checked_sub(1) else {
            return Ok(values.to_vec());
        };
        let lines = RowMap::strided(&self.shape, &self.strides, self.offset, last);
        let mut all = Vec::new();
        append(&mut all, Vec::new(), lines.rows() * lines.len)?;
        for line in 0..lines.rows() {
            all.extend_from_slice(&values[lines.start(line)..][..lines.len]);
        }
        Ok(all)
    }
}

impl Geometry {
    /// Puts elements in C order to their places: the inverse of `gather`.
    fn scatter<T: Element>(&self, part: &[T], all: &mut [T]) {
        let Some(last) = self.shape.len().checked_sub(1) else {
            return all.copy_from_slice(part);
        };
        let lines = RowMap::strided(&self.shape, &self.strides, self.offset, last);
        for (line, values) in part.chunks(lines.len.max(1)).enumerate() {
            all[lines.start(line)..][..values.len()].copy_from_slice(values);
        }
    }
}

impl<T: Element> Problem<'_, T> {
    /// The rows of the result, as a map of where they begin in x.
    fn row_map(&self) -> RowMap {
        let row = |dim: &Dim| RowDim {
            size: dim.size,
            stride: dim.strides[0],
        };
        RowMap {
            offset: 0,
            dims: self.layout.kept.iter().map(row).collect(),
            len: 1,
            len_stride: 0,
        }
    }

    /// The elements of some rows as they lie in x.
    fn geometry(&self, rows: &RowMap) -> Result<Geometry> {
        let reduced = self.options.reduced(self.input.shape)?;
        let mut sizes = rows.dims.iter().map(|d| d.size);
        let size = |(&size, &gone): (&usize, &bool)| if gone { size } else { sizes.next().unwrap_or(1) };
        let shape: Vec<usize> = self.input.shape.iter().zip(&reduced).map(size).collect();
        let strides = contiguous_strides(self.input.shape);
        let steps = shape.iter().zip(&strides).map(|(size, stride)| (size - 1) * stride);
        Ok(Geometry {
            extent: steps.sum::<usize>() + 1,
            shape,
            strides,
            offset: rows.offset,
        })
    }

    /// The same, C-ordered, where the elements are better copied than uploaded with what lies between them.
    fn apart(&self, rows: &RowMap) -> Result<Option<Geometry>> {
        let lying = self.geometry(rows)?;
        let count: usize = lying.shape.iter().product();
        Ok((count < lying.extent / 2).then(|| Geometry {
            strides: contiguous_strides(&lying.shape),
            offset: 0,
            extent: count,
            ..lying
        }))
    }

    /// The rows in groups whose records and results fit the device's buffers.
    fn groups(&self, gpu: &Gpu) -> Result<VecDeque<RowMap>> {
        let capabilities = gpu.capabilities();
        let all = self.row_map();
        let mut most = self.rows.max(1);
        loop {
            let groups: VecDeque<RowMap> = all.groups(most).into_iter().map(|(_, rows)| rows).collect();
            let rows = &groups[0];
            let place = match self.apart(rows)? {
                Some(copied) => copied,
                None => self.geometry(rows)?,
            };
            let x = place.operand(T::DTYPE, self.input.x.len());
            let second = self.input.second.map(|_| x);
            let cutting = kernels::cutting(gpu, self.kind, self.options, x, second, self.chunk)?;
            let results = (rows.rows() * self.result_type().size()) as u64;
            // What does not fit with a single row is refused where it is bound.
            if most == 1 || (cutting.fits(capabilities) && results <= capabilities.max_buffer) {
                return Ok(groups);
            }
            most = most.div_ceil(2);
        }
    }

    /// Indices take the place of f32.
    fn result_type(&self) -> DType {
        if self.kind.is_arg() { DType::F32 } else { T::DTYPE }
    }

    fn start_group(&self, gpu: &Gpu, rows: &RowMap) -> Result<Group<T>> {
        use wgpu::BufferUsages as U;
        let inputs = || std::iter::once(self.input.x).chain(self.input.second);
        let lying = self.geometry(rows)?;
        let (place, copies) = match self.apart(rows)? {
            Some(copied) => (
                copied,
                inputs().map(|values| lying.gather(values)).collect::<Result<_>>()?,
            ),
            None => (lying, Vec::new()),
        };
        let elements = if copies.is_empty() {
            self.input.x.len()
        } else {
            place.extent
        };
        let x = place.operand(T::DTYPE, elements);
        let reduced = self.options.reduced(self.input.shape)?;
        let kept = |(&size, &gone): (&usize, &bool)| if gone { 1 } else { size };
        let shape: Vec<usize> = place.shape.iter().zip(&reduced).map(kept).collect();
        let bytes = (rows.rows() * self.result_type().size()) as u64;
        let buffer = gpu.create_buffer("macheps y", bytes, U::STORAGE | U::COPY_SRC)?;
        let call = Call {
            kind: self.kind,
            output: kernels::Output::of(self.kind),
            options: self.options,
            x,
            second: self.input.second.map(|_| x),
            y: &BufferView::new(&buffer, self.result_type(), &shape),
            workspace: None,
            chunk: self.chunk,
            shared: false,
        };
        let cutting = kernels::cutting(gpu, call.kind, call.options, call.x, call.second, call.chunk)?;
        let mut plan = Plan::new(gpu, &call, &cutting)?;
        Ok(Group {
            pieces: plan.take_pieces(gpu.capabilities().max_buffer).into(),
            plan,
            copies,
            output: (buffer, bytes),
        })
    }

    /// Uploads and binds the next piece of the group.
    fn bind_piece(&self, gpu: &Gpu, group: &mut Group<T>) -> Result<Simple> {
        let Some(piece) = group.pieces.pop_front() else {
            return Ok(Simple::default());
        };
        let last = group.pieces.is_empty();
        let host: Vec<&[T]> = match group.copies.is_empty() {
            true => std::iter::once(self.input.x).chain(self.input.second).collect(),
            false => group.copies.iter().map(Vec::as_slice).collect(),
        };
        let upload = |values: &&[T]| {
            let bytes: &[u8] = bytemuck::cast_slice(values);
            // Windows are whole words, values need not be.
            let end = bytes.len().min(piece.bytes.end as usize);
            gpu.upload("macheps x", &bytes[piece.bytes.start as usize..end])
        };
        let buffers = host.iter().map(upload).collect::<Result<Vec<_>>>()?;
        let begin = piece.bytes.start;
        let inputs: Vec<_> = buffers.iter().map(|buffer| Input { buffer, begin }).collect();
        Ok(Simple {
            recording: group.plan.recording(gpu, &piece.windows, &inputs, last)?,
            outputs: last.then(|| group.output.clone()).into_iter().collect(),
        })
    }
}

impl<T: Element> Job for Problem<'_, T> {
    type Output = Reduced<T>;
    type Bound = OnDevice<T>;

    fn name(&self) -> &'static str {
        self.kind.name()
    }

    fn on_cpu(&self) -> Result<Reduced<T>> {
        if self.kind.is_arg() {
            return Ok(Reduced::Indices(cpu::indices(self.kind, self.input.x, &self.layout)));
        }
        let mut y = allocate(self.rows)?;
        self.write_on_cpu(&mut y);
        Ok(Reduced::Values(y))
    }

    fn bind(&self, gpu: &Gpu) -> Result<OnDevice<T>> {
        let mut bound = OnDevice {
            part: Simple::default(),
            group: None,
            groups: VecDeque::new(),
        };
        if !self.input.x.is_empty() {
            let bytes = std::mem::size_of_val(self.input.x) as u64;
            bound.groups = self.groups(gpu)?;
            if bytes > gpu.capabilities().max_buffer || bound.groups.len() > 1 {
                self.bind_next(gpu, &mut bound)?;
                return Ok(bound);
            }
            bound.groups.clear();
        }
        let (whole, buffer, bytes) = self.bound_on(gpu)?;
        bound.part = Simple {
            recording: whole.into_recording(),
            outputs: vec![(buffer, bytes)],
        };
        Ok(bound)
    }

    fn bind_next(&self, gpu: &Gpu, bound: &mut OnDevice<T>) -> Result<bool> {
        // The buffers of the part that is done make room first.
        bound.part = Simple::default();
        if bound.group.as_ref().is_none_or(|group| group.pieces.is_empty()) {
            bound.group = None;
            let Some(rows) = bound.groups.pop_front() else {
                return Ok(false);
            };
            bound.group = Some(self.start_group(gpu, &rows)?);
        }
        if let Some(group) = &mut bound.group {
            bound.part = self.bind_piece(gpu, group)?;
        }
        Ok(true)
    }

    fn decode(&self, outputs: &[&[u8]]) -> Result<Reduced<T>> {
        // Pieces before the last give nothing.
        let bytes = outputs.first().copied().unwrap_or_default();
        if !self.kind.is_arg() {
            return Ok(Reduced::Values(elements(bytes)));
        }
        let words: Vec<u32> = bytemuck::pod_collect_to_vec(bytes);
        Ok(Reduced::Indices(words.into_iter().map(u64::from).collect()))
    }

    fn join(&self, parts: Vec<Reduced<T>>) -> Result<Reduced<T>> {
        let (mut values, mut indices) = (Vec::new(), Vec::new());
        for part in parts {
            match part {
                Reduced::Values(part) => append(&mut values, part, self.rows)?,
                Reduced::Indices(part) => append(&mut indices, part, self.rows)?,
            }
        }
        Ok(match self.kind.is_arg() {
            true => Reduced::Indices(indices),
            false => Reduced::Values(values),
        })
    }

    fn cross_check(&self, how: CrossCheck, output: &Reduced<T>, _: Option<&OnDevice<T>>) -> Result<()> {
        self.compare(how, output)
    }
}

impl<T: Element> Problem<'_, T> {
    /// Records the call on a device.
    pub(super) fn record(&self, gpu: &Gpu) -> Result<Recording> {
        Ok(self.bound_on(gpu)?.0.into_recording())
    }
}

fn values<T: Element>(kind: ReductionKind, reduced: Reduced<T>) -> Result<Vec<T>> {
    match reduced {
        Reduced::Values(values) => Ok(values),
        Reduced::Indices(_) => Err(Error::Unsupported {
            what: format!("{kind} as values"),
            reason: "its results are indices; use arg_reduce".into(),
        }),
    }
}

fn indices<T: Element>(kind: ReductionKind, reduced: Reduced<T>) -> Result<Vec<u64>> {
    match reduced {
        Reduced::Indices(indices) => Ok(indices),
        Reduced::Values(_) => Err(Error::Unsupported {
            what: format!("{kind} as indices"),
            reason: "its results are values; use reduce".into(),
        }),
    }
}

/// Reduces host data over the axes of the options. The result is in C order, its shape
/// [`ReductionOptions::output_shape`].
///
/// Blocks until the result is here. For definitions, bounds and rows that are not ordinary see the [module](super).
///
/// # Shapes
/// `input.x` has as many elements as `input.shape` says, and so has the second tensor of a dot product. Empty ones are valid.
///
/// # Cost
/// On a GPU: upload, one submission, readback, and buffers of its own; input beyond the largest buffer goes in pieces, each
/// uploaded and submitted when the one before is done, whose records are merged at the end: the same dispatches as in one piece, and the same
/// bounds. Rows whose results or records pass a buffer go in groups, each with an upload of its own. On the CPU path one pass over
/// memory, on all threads.
///
/// # Errors
/// [`Error::Shape`] for shapes, lengths and axes that do not fit, and for minima and maxima of nothing; [`Error::Option`] for a
/// correction that is negative or not finite; [`Error::Unsupported`] for argmin and argmax ([`arg_reduce`] does them);
/// [`Error::Limit`] for rows of more than about 2^32 elements and for other limits of the device, [`Error::DeviceLost`],
/// [`Error::Timeout`], and [`Error::Mismatch`] from a cross-check.
///
/// ```
/// use macheps::{Context, ReductionInput, ReductionKind, ReductionOptions};
/// use macheps::ops::reduction::reduce;
/// let input = ReductionInput::new(&[1.0f32, 2.0, 3.0, 4.0], &[2, 2]);
/// let y = reduce(&Context::cpu(), ReductionKind::Sum, &input, &ReductionOptions::over(&[0]))?;
/// assert_eq!(y, [4.0, 6.0]);
/// # Ok::<(), macheps::Error>(())
/// ```
#[cfg(not(target_arch = "wasm32"))]
pub fn reduce<T: Element>(
    context: &Context,
    kind: ReductionKind,
    input: &ReductionInput<'_, T>,
    options: &ReductionOptions,
) -> Result<Vec<T>> {
    values(kind, job::run(&Problem::new(kind, input, options)?, context)?)
}

/// As `reduce`, under any executor. On the CPU path it computes when first polled.
///
/// # Errors
/// Those of `reduce`.
pub async fn reduce_async<T: Element>(
    context: &Context,
    kind: ReductionKind,
    input: &ReductionInput<'_, T>,
    options: &ReductionOptions,
) -> Result<Vec<T>> {
    values(
        kind,
        job::run_async(&Problem::new(kind, input, options)?, context).await?,
    )
}

/// Indices of extremes of host data: argmin and argmax. They count the elements of the reduced axes in C order.
///
/// # Errors
/// Those of [`reduce`]; [`Error::Unsupported`] for every other kind.
///
/// ```
/// use macheps::{Context, ReductionInput, ReductionKind, ReductionOptions};
/// let input = ReductionInput::new(&[1.0f32, 7.0, 7.0, f32::NAN], &[2, 2]);
/// let options = ReductionOptions::over(&[1]);
/// let at = macheps::ops::reduction::arg_reduce(&Context::cpu(), ReductionKind::ArgMax, &input, &options)?;
/// assert_eq!(at, [1, 1]);
/// # Ok::<(), macheps::Error>(())
/// ```
#[cfg(not(target_arch = "wasm32"))]
pub fn arg_reduce<T: Element>(
    context: &Context,
    kind: ReductionKind,
    input: &ReductionInput<'_, T>,
    options: &ReductionOptions,
) -> Result<Vec<u64>> {
    indices(kind, job::run(&Problem::new(kind, input, options)?, context)?)
}

/// As `arg_reduce`, under any executor.
///
/// # Errors
/// Those of `arg_reduce`.
pub async fn arg_reduce_async<T: Element>(
    context: &Context,
    kind: ReductionKind,
    input: &ReductionInput<'_, T>,
    options: &ReductionOptions,
) -> Result<Vec<u64>> {
    indices(
        kind,
        job::run_async(&Problem::new(kind, input, options)?, context).await?,
    )
}

macro_rules! plain {
    ($($name:ident, $name_async:ident, $kind:ident, $what:literal;)*) => {$(
        #[doc = concat!($what, " over the axes of the options; see [`reduce`] and the [module](crate::ops::reduction) for the contract.")]
        ///
        /// # Errors
        /// Those of [`reduce`].
        #[cfg(not(target_arch = "wasm32"))]
        pub fn $name<T: Element>(
            context: &Context,
            x: &[T],
            shape: &[usize],
            options: &ReductionOptions,
        ) -> Result<Vec<T>> {
            reduce(context, ReductionKind::$kind, &ReductionInput::new(x, shape), options)
        }

        #[doc = concat!($what, " over the axes of the options, under any executor.")]
        ///
        /// # Errors
        /// Those of [`reduce_async`].
        pub async fn $name_async<T: Element>(
            context: &Context,
            x: &[T],
            shape: &[usize],
            options: &ReductionOptions,
        ) -> Result<Vec<T>> {
            reduce_async(context, ReductionKind::$kind, &ReductionInput::new(x, shape), options).await
        }
    )*};
}
plain! {
    sum, sum_async, Sum, "Sum";
    mean, mean_async, Mean, "Mean";
    variance, variance_async, Variance, "Variance";
    std, std_async, Std, "Standard deviation";
    norm_l1, norm_l1_async, NormL1, "Sum of magnitudes";
    norm_l2, norm_l2_async, NormL2, "Euclidean norm";
    norm_max, norm_max_async, NormMax, "Largest magnitude";
    min, min_async, Min, "Smallest element";
    max, max_async, Max, "Largest element";
    sum_square, sum_square_async, SumSquare, "Sum of squares";
    log_sum, log_sum_async, LogSum, "Logarithm of the sum";
}

macro_rules! plain_index {
    ($($name:ident, $name_async:ident, $kind:ident, $what:literal;)*) => {$(
        #[doc = concat!("Index of the first ", $what, " element over the axes of the options; see [`arg_reduce`].")]
        ///
        /// # Errors
        /// Those of [`arg_reduce`].
        #[cfg(not(target_arch = "wasm32"))]
        pub fn $name<T: Element>(
            context: &Context,
            x: &[T],
            shape: &[usize],
            options: &ReductionOptions,
        ) -> Result<Vec<u64>> {
            arg_reduce(context, ReductionKind::$kind, &ReductionInput::new(x, shape), options)
        }

        #[doc = concat!("Index of the first ", $what, " element over the axes of the options, under any executor.")]
        ///
        /// # Errors
        /// Those of [`arg_reduce_async`].
        pub async fn $name_async<T: Element>(
            context: &Context,
            x: &[T],
            shape: &[usize],
            options: &ReductionOptions,
        ) -> Result<Vec<u64>> {
            arg_reduce_async(context, ReductionKind::$kind, &ReductionInput::new(x, shape), options).await
        }
    )*};
}
plain_index! {
    argmin, argmin_async, ArgMin, "smallest";
    argmax, argmax_async, ArgMax, "largest";
}

/// Sum of products of two tensors over the axes of the options; see [`reduce`].
///
/// # Errors
/// Those of [`reduce`].
#[cfg(not(target_arch = "wasm32"))]
pub fn dot<T: Element>(
    context: &Context,
    x: &[T],
    second: &[T],
    shape: &[usize],
    options: &ReductionOptions,
) -> Result<Vec<T>> {
    let input = ReductionInput::pair(x, second, shape);
    reduce(context, ReductionKind::Dot, &input, options)
}

/// Sum of products of two tensors over the axes of the options, under any executor.
///
/// # Errors
/// Those of [`reduce_async`].
pub async fn dot_async<T: Element>(
    context: &Context,
    x: &[T],
    second: &[T],
    shape: &[usize],
    options: &ReductionOptions,
) -> Result<Vec<T>> {
    let input = ReductionInput::pair(x, second, shape);
    reduce_async(context, ReductionKind::Dot, &input, options).await
}

/// A checked call of a gradient.
pub(super) struct GradientProblem<'a, T: Element> {
    problem: Problem<'a, T>,
    upstream: &'a [T],
}

impl<'a, T: Element> GradientProblem<'a, T> {
    pub(super) fn new(
        kind: ReductionKind,
        input: &ReductionInput<'a, T>,
        upstream: &'a [T],
        options: &'a ReductionOptions,
    ) -> Result<Self> {
        if kind.is_arg() {
            return Err(super::no_gradient(kind));
        }
        let problem = Problem::new(kind, input, options)?;
        check_len("upstream", upstream.len(), &options.output_shape(input.shape)?)?;
        Ok(GradientProblem { problem, upstream })
    }

    pub(super) fn with_chunk(self, chunk: Option<usize>) -> Self {
        GradientProblem {
            problem: self.problem.with_chunk(chunk),
            ..self
        }
    }

    /// Computes into `dx`, which has the input's length.
    pub(super) fn write_on_cpu(&self, dx: &mut [T]) {
        let p = &self.problem;
        cpu::backward(
            p.kind,
            p.input.x,
            p.input.second,
            self.upstream,
            &p.layout,
            p.options,
            dx,
        );
    }

    /// The rows in groups that fit the device's buffers, each with its first one.
    fn groups(&self, gpu: &Gpu) -> VecDeque<(usize, RowMap)> {
        let p = &self.problem;
        // Beside the elements there are up to 64 bytes a row of what the gradient needs of it.
        let row = (p.layout.len() * T::DTYPE.size()).max(64) as u64;
        let most = (gpu.capabilities().max_buffer / row).max(1);
        p.row_map().groups(usize::try_from(most).unwrap_or(usize::MAX)).into()
    }

    /// Whether a row alone is more than a buffer of the device holds: the CPU code takes such calls.
    fn is_beyond(&self, gpu: &Gpu) -> bool {
        let row = self.problem.layout.len().saturating_mul(T::DTYPE.size());
        self.problem.rows > 0 && row as u64 > gpu.capabilities().max_buffer
    }

    /// Uploads and binds a group of rows: the call as it is, or its elements gathered.
    fn bind_rows(&self, gpu: &Gpu, first: usize, rows: &RowMap) -> Result<Simple> {
        let p = &self.problem;
        let context = Context::from_gpu(gpu.clone());
        let view = |values: &[T], shape: &[usize]| {
            let tensor = context.upload(values, shape)?;
            tensor.view().ok_or_else(|| gpu.lost_error())
        };
        let whole = rows.rows() == p.rows;
        let (shape, [x, second]) = if whole || p.input.x.is_empty() {
            let second = p.input.second.map(|w| view(w, p.input.shape)).transpose()?;
            (p.input.shape.to_vec(), [Some(view(p.input.x, p.input.shape)?), second])
        } else {
            let place = p.geometry(rows)?;
            let gathered = |values: &[T]| view(&place.gather(values)?, &place.shape);
            let second = p.input.second.map(gathered).transpose()?;
            (place.shape.clone(), [Some(gathered(p.input.x)?), second])
        };
        let Some(x) = x else {
            return Ok(Simple::default());
        };
        let mut reduction = Reduction::new(gpu, p.kind, T::DTYPE, p.options.clone())?;
        reduction.chunk = p.chunk;
        let dx = Tensor::<T>::on_gpu(gpu, &shape)?
            .view()
            .ok_or_else(|| gpu.lost_error())?;
        let output = dx.buffer.clone();
        let bytes = (shape.iter().product::<usize>() * T::DTYPE.size()) as u64;
        let bound = reduction.bind_backward(&ReductionGradientViews {
            x,
            second,
            upstream: view(&self.upstream[first..][..rows.rows()], &p.options.output_shape(&shape)?)?,
            dx,
            workspace: None,
        })?;
        Ok(Simple {
            recording: bound.into_recording(),
            outputs: vec![(output, bytes)],
        })
    }

    /// Records the call on a device.
    pub(super) fn record(&self, gpu: &Gpu) -> Result<Recording> {
        Ok(self.bind_rows(gpu, 0, &self.problem.row_map())?.recording)
    }

    /// Recomputes the gradients of rows by the oracle and compares; gives the largest error as a fraction of its bound.
    pub(super) fn compare(&self, how: CrossCheck, dx: &[T]) -> Result<MaxError> {
        let p = &self.problem;
        check_len("dx", dx.len(), p.input.shape)?;
        let mut worst = MaxError::default();
        for row in checked_rows(how, p.rows) {
            let (x, second) = reference::gather(&p.layout, p.input.x, p.input.second, row);
            let start = p.layout.start(row)[0];
            let g = f64::from(self.upstream[row].to_f32());
            let expected = reference::backward_row(p.kind, &x, &second, p.options.correction, g);
            for (i, (value, magnitude)) in expected.into_iter().enumerate() {
                let at = start + p.layout.element(i)[0];
                let bound = bounds::gradient_bound(p.kind, T::DTYPE, value, magnitude);
                let found = check(&dx[at..=at], &[value], &[bound]).map_err(|m| Error::Mismatch {
                    kernel: p.kind.backward_name(),
                    index: at,
                    gpu: m.got,
                    cpu: m.want,
                    bound: m.bound,
                })?;
                worst = worst.merge(MaxError { index: at, ..found });
            }
        }
        Ok(worst)
    }
}

/// A gradient on a device: the rows at hand, and those that are still to come.
pub(super) struct GradientOnDevice {
    part: Simple,
    rest: VecDeque<(usize, RowMap)>,
}

impl BoundJob for GradientOnDevice {
    fn recording(&self) -> &Recording {
        self.part.recording()
    }

    fn outputs(&self) -> Vec<(&wgpu::Buffer, u64)> {
        self.part.outputs()
    }
}

impl<T: Element> Job for GradientProblem<'_, T> {
    type Output = Vec<T>;
    type Bound = GradientOnDevice;

    fn name(&self) -> &'static str {
        self.problem.kind.backward_name()
    }

    fn on_cpu(&self) -> Result<Vec<T>> {
        let mut dx = allocate(self.problem.input.x.len())?;
        self.write_on_cpu(&mut dx);
        Ok(dx)
    }

    fn bind(&self, gpu: &Gpu) -> Result<GradientOnDevice> {
        let mut bound = GradientOnDevice {
            part: Simple::default(),
            rest: self.groups(gpu),
        };
        self.bind_next(gpu, &mut bound)?;
        Ok(bound)
    }

    fn bind_next(&self, gpu: &Gpu, bound: &mut GradientOnDevice) -> Result<bool> {
        // The buffers of the part that is done make room first.
        bound.part = Simple::default();
        let Some((first, rows)) = bound.rest.pop_front() else {
            return Ok(false);
        };
        bound.part = self.bind_rows(gpu, first, &rows)?;
        Ok(true)
    }

    fn decode(&self, outputs: &[&[u8]]) -> Result<Vec<T>> {
        Ok(elements(outputs.first().copied().unwrap_or_default()))
    }

    fn join(&self, parts: Vec<Vec<T>>) -> Result<Vec<T>> {
        let p = &self.problem;
        let mut dx = allocate(p.input.x.len())?;
        // Groups are cut by sizes alone, so the parts say how they were cut.
        let most = parts.iter().map(Vec::len).max().unwrap_or(0) / p.layout.len().max(1);
        for ((_, rows), part) in p.row_map().groups(most.max(1)).into_iter().zip(parts) {
            p.geometry(&rows)?.scatter(&part, &mut dx);
        }
        Ok(dx)
    }

    fn cross_check(&self, how: CrossCheck, dx: &Vec<T>, _: Option<&GradientOnDevice>) -> Result<()> {
        self.compare(how, dx).map(drop)
    }
}

/// Gradient of `sum(upstream * reduce(x))` with respect to `x`, in the input's shape.
///
/// Blocks until the result is here. For definitions and rows that are not ordinary see the [module](super).
///
/// # Shapes
/// As [`reduce`]; `upstream` has the result's elements, C-ordered.
///
/// # Numerics
/// Within the bounds of [`bounds::gradient_bound`]; on the CPU path f64 inside, rounded once. Where there is no derivative: 0 for a
/// norm or std at 0, and the first of several extreme elements takes all. For the gradient with respect to the second
/// tensor of a dot product exchange the two.
///
/// # Cost
/// On a GPU: upload, one submission, readback, and buffers of its own; more where a tensor is beyond the device's largest buffer, and the
/// CPU code where a row is. See [`Reduction::bind_backward`].
///
/// # Errors
/// Those of [`reduce`]; [`Error::Unsupported`] for argmin and argmax.
///
/// ```
/// use macheps::{Context, ReductionInput, ReductionKind, ReductionOptions};
/// let input = ReductionInput::new(&[3.0f32, 4.0], &[2]);
/// let options = ReductionOptions::default();
/// let dx = macheps::ops::reduction::backward(&Context::cpu(), ReductionKind::NormL2, &input, &[5.0], &options)?;
/// assert_eq!(dx, [3.0, 4.0]);
/// # Ok::<(), macheps::Error>(())
/// ```
#[cfg(not(target_arch = "wasm32"))]
pub fn backward<T: Element>(
    context: &Context,
    kind: ReductionKind,
    input: &ReductionInput<'_, T>,
    upstream: &[T],
    options: &ReductionOptions,
) -> Result<Vec<T>> {
    let problem = GradientProblem::new(kind, input, upstream, options)?;
    if context.gpu().is_some_and(|gpu| problem.is_beyond(gpu)) {
        return problem.on_cpu();
    }
    job::run(&problem, context)
}

/// As `backward`, under any executor.
///
/// # Errors
/// Those of `backward`.
pub async fn backward_async<T: Element>(
    context: &Context,
    kind: ReductionKind,
    input: &ReductionInput<'_, T>,
    upstream: &[T],
    options: &ReductionOptions,
) -> Result<Vec<T>> {
    let problem = GradientProblem::new(kind, input, upstream, options)?;
    if context.gpu().is_some_and(|gpu| problem.is_beyond(gpu)) {
        return problem.on_cpu();
    }
    job::run_async(&problem, context).await
}

/// Compares values with the CPU reference; gives the largest error as a fraction of its bound.
///
/// # Errors
/// [`Error::Mismatch`] for the first element beyond its bound, and those of [`reduce`].
#[cfg(not(target_arch = "wasm32"))]
pub fn check_forward<T: Element>(
    kind: ReductionKind,
    input: &ReductionInput<'_, T>,
    options: &ReductionOptions,
    y: &[T],
) -> Result<f64> {
    let problem = Problem::new(kind, input, options)?;
    let rows: Vec<_> = (0..problem.rows).map(|row| problem.expected_row(row)).collect();
    let want: Vec<f64> = rows.iter().map(|r| r.value).collect();
    let bounds: Vec<f64> = rows.iter().map(|r| problem.bound(r)).collect();
    judge(kind.name(), y, &want, &bounds)
}

/// Compares indices with the CPU reference.
///
/// # Errors
/// [`Error::Mismatch`] for the first that differs, and those of [`arg_reduce`].
#[cfg(not(target_arch = "wasm32"))]
pub fn check_indices<T: Element>(
    kind: ReductionKind,
    input: &ReductionInput<'_, T>,
    options: &ReductionOptions,
    y: &[u64],
) -> Result<()> {
    let problem = Problem::new(kind, input, options)?;
    check_len("indices", y.len(), &options.output_shape(input.shape)?)?;
    problem.compare(CrossCheck::Full, &Reduced::Indices(y.to_vec()))
}

/// Compares a gradient with the CPU reference; gives the largest error as a fraction of its bound.
///
/// # Errors
/// [`Error::Mismatch`] for the first element beyond its bound, and those of [`backward`].
#[cfg(not(target_arch = "wasm32"))]
pub fn check_backward<T: Element>(
    kind: ReductionKind,
    input: &ReductionInput<'_, T>,
    upstream: &[T],
    options: &ReductionOptions,
    dx: &[T],
) -> Result<f64> {
    let problem = GradientProblem::new(kind, input, upstream, options)?;
    Ok(problem.compare(CrossCheck::Full, dx)?.of_bound)
}

#[cfg(not(target_arch = "wasm32"))]
fn judge<T: Element>(kernel: &'static str, got: &[T], want: &[f64], bounds: &[f64]) -> Result<f64> {
    match check(got, want, bounds) {
        Ok(worst) => Ok(worst.of_bound),
        Err(m) => Err(Error::Mismatch {
            kernel,
            index: m.index,
            gpu: m.got,
            cpu: m.want,
            bound: m.bound,
        }),
    }
}

#[cfg(not(target_arch = "wasm32"))]
impl Chain<'_> {
    /// A reduction from tensor to tensor, of `x`, or of `x` and `second` for a dot product.
    ///
    /// On a device it is recorded and runs with [`Chain::submit`]; with cross-check on, it is submitted and compared at once.
    ///
    /// # Errors
    /// Those of [`Reduction::bind`]; [`Error::Unsupported`] for a tensor of another context, and for argmin and argmax, which
    /// [`Chain::arg_reduce`] does.
    pub fn reduce<T: Element>(
        &mut self,
        kind: ReductionKind,
        x: &Tensor<T>,
        second: Option<&Tensor<T>>,
        options: &ReductionOptions,
    ) -> Result<Tensor<T>> {
        if kind.is_arg() {
            return Err(Error::Unsupported {
                what: format!("{kind} as values"),
                reason: "its results are indices; use arg_reduce".into(),
            });
        }
        let shape = options.output_shape(x.shape())?;
        check_second(x, second)?;
        let Some(gpu) = self.context().gpu().cloned() else {
            let input = on_host(x, second)?;
            let y = values(kind, Problem::new(kind, &input, options)?.on_cpu()?)?;
            return Ok(Tensor::on_cpu(y, &shape));
        };
        let y = Tensor::on_gpu(&gpu, &shape)?;
        let bound = Reduction::new(&gpu, kind, T::DTYPE, options.clone())?.bind(&ReductionViews {
            x: x.view_on(&gpu)?,
            second: second.map(|s| s.view_on(&gpu)).transpose()?,
            y: y.view_on(&gpu)?,
            workspace: None,
        })?;
        self.record(&bound.into_recording());
        if self.context().cross_check() != CrossCheck::Off {
            self.flush()?;
            let (host, second) = (x.download()?, second.map(Tensor::download).transpose()?);
            let input = ReductionInput {
                x: &host,
                shape: x.shape(),
                second: second.as_deref(),
            };
            let problem = Problem::new(kind, &input, options)?;
            problem.compare(self.context().cross_check(), &Reduced::Values(y.download()?))?;
        }
        Ok(y)
    }

    /// Indices of extremes from tensor to tensor, argmin or argmax: a tensor of u32. Else as [`Chain::reduce`].
    ///
    /// # Errors
    /// Those of [`Chain::reduce`]; [`Error::Unsupported`] for every other kind; [`Error::Limit`] for rows of 2^32 elements.
    ///
    /// ```
    /// use macheps::{Context, ReductionKind, ReductionOptions};
    /// let ctx = Context::cpu();
    /// let x = ctx.upload(&[1.0f32, 7.0, 7.0, 0.5], &[2, 2])?;
    /// let mut chain = ctx.chain();
    /// let at = chain.arg_reduce(ReductionKind::ArgMax, &x, &ReductionOptions::over(&[1]))?;
    /// chain.submit()?;
    /// assert_eq!(at.download()?, [1u32, 0]);
    /// # Ok::<(), macheps::Error>(())
    /// ```
    pub fn arg_reduce<T: Element>(
        &mut self,
        kind: ReductionKind,
        x: &Tensor<T>,
        options: &ReductionOptions,
    ) -> Result<Tensor<u32>> {
        if !kind.is_arg() {
            return Err(Error::Unsupported {
                what: format!("{kind} as indices"),
                reason: "its results are values; use reduce".into(),
            });
        }
        let shape = options.output_shape(x.shape())?;
        let Some(gpu) = self.context().gpu().cloned() else {
            let input = on_host(x, None)?;
            let problem = Problem::new(kind, &input, options)?;
            let found = indices(kind, problem.on_cpu()?)?;
            let narrow = |at: u64| {
                u32::try_from(at).map_err(|_| Error::Limit {
                    what: "elements of a row",
                    need: at,
                    have: u32::MAX.into(),
                })
            };
            return Ok(Tensor::on_cpu(
                found.into_iter().map(narrow).collect::<Result<_>>()?,
                &shape,
            ));
        };
        let y = Tensor::<u32>::on_gpu(&gpu, &shape)?;
        let views = ReductionViews::new(x.view_on(&gpu)?, y.view_on(&gpu)?);
        let bound = Reduction::new(&gpu, kind, T::DTYPE, options.clone())?.bind(&views)?;
        self.record(&bound.into_recording());
        if self.context().cross_check() != CrossCheck::Off {
            self.flush()?;
            let host = x.download()?;
            let input = ReductionInput::new(&host, x.shape());
            let found = y.download()?.into_iter().map(u64::from).collect();
            let problem = Problem::new(kind, &input, options)?;
            problem.compare(self.context().cross_check(), &Reduced::Indices(found))?;
        }
        Ok(y)
    }

    /// Gradient of `sum(upstream * reduce(x))` with respect to `x`, from tensor to tensor. `upstream` has the result's elements, with
    /// or without the reduced axes. Else as [`Chain::reduce`].
    ///
    /// # Errors
    /// Those of [`Reduction::bind_backward`]; [`Error::Unsupported`] for a tensor of another context.
    ///
    /// ```
    /// use macheps::{Context, ReductionKind, ReductionOptions};
    /// let ctx = Context::cpu();
    /// let x = ctx.upload(&[3.0f32, 4.0], &[2])?;
    /// let upstream = ctx.upload(&[5.0f32], &[])?;
    /// let mut chain = ctx.chain();
    /// let dx = chain.reduce_backward(ReductionKind::NormL2, &x, None, &upstream, &ReductionOptions::default())?;
    /// chain.submit()?;
    /// assert_eq!(dx.download()?, [3.0, 4.0]);
    /// # Ok::<(), macheps::Error>(())
    /// ```
    pub fn reduce_backward<T: Element>(
        &mut self,
        kind: ReductionKind,
        x: &Tensor<T>,
        second: Option<&Tensor<T>>,
        upstream: &Tensor<T>,
        options: &ReductionOptions,
    ) -> Result<Tensor<T>> {
        check_second(x, second)?;
        let result = |keepdims| {
            let options = ReductionOptions {
                keepdims,
                ..options.clone()
            };
            options.output_shape(x.shape())
        };
        let (kept, dropped) = (result(true)?, result(false)?);
        if upstream.shape() != kept && upstream.shape() != dropped {
            return Err(Error::shape(
                "shape of upstream",
                format!("{dropped:?} or {kept:?}"),
                format!("{:?}", upstream.shape()),
            ));
        }
        let Some(gpu) = self.context().gpu().cloned() else {
            let input = on_host(x, second)?;
            let g = upstream.host().ok_or_else(crate::tensor::elsewhere)?;
            let dx = GradientProblem::new(kind, &input, g, options)?.on_cpu()?;
            return Ok(Tensor::on_cpu(dx, x.shape()));
        };
        let dx = Tensor::on_gpu(&gpu, x.shape())?;
        let reduction = Reduction::new(&gpu, kind, T::DTYPE, options.clone())?;
        let bound = reduction.bind_backward(&ReductionGradientViews {
            x: x.view_on(&gpu)?,
            second: second.map(|s| s.view_on(&gpu)).transpose()?,
            upstream: upstream.view_on(&gpu)?,
            dx: dx.view_on(&gpu)?,
            workspace: None,
        })?;
        self.record(&bound.into_recording());
        if self.context().cross_check() != CrossCheck::Off {
            self.flush()?;
            let (host, second) = (x.download()?, second.map(Tensor::download).transpose()?);
            let input = ReductionInput {
                x: &host,
                shape: x.shape(),
                second: second.as_deref(),
            };
            let g = upstream.download()?;
            let problem = GradientProblem::new(kind, &input, &g, options)?;
            problem.compare(self.context().cross_check(), &dx.download()?)?;
        }
        Ok(dx)
    }
}

#[cfg(not(target_arch = "wasm32"))]
fn check_second<T: Element>(x: &Tensor<T>, second: Option<&Tensor<T>>) -> Result<()> {
    match second.filter(|s| s.shape() != x.shape()) {
        None => Ok(()),
        Some(second) => Err(Error::shape(
            "shape of the second tensor",
            format!("{:?}", x.shape()),
            format!("{:?}", second.shape()),
        )),
    }
}

/// Tensors of the CPU path as an input.
#[cfg(not(target_arch = "wasm32"))]
fn on_host<'a, T: Element>(x: &'a Tensor<T>, second: Option<&'a Tensor<T>>) -> Result<ReductionInput<'a, T>> {
    let host = |t: &'a Tensor<T>| t.host().ok_or_else(crate::tensor::elsewhere);
    Ok(ReductionInput {
        x: host(x)?,
        shape: x.shape(),
        second: second.map(host).transpose()?,
    })
}
