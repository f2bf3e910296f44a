//! Sparse products on a device: variants of the shaders, the matrix in buffers, and the dispatches of a call.

use super::plan::{self, Layout, Plan, Window};
use super::{SpmvOptions, SpmvStrategy};
use crate::element::{DType, Element};
use crate::error::{CsrDefect, Error, Result};
use crate::float::Float;
use crate::gpu::source::{Composition, boolean, compose, lib, unsigned};
use crate::gpu::{Bind, BufferView, Capabilities, Dispatches, Gpu, Recording};
use crate::sparse::Csr;
use wgpu::BufferUsages as Usages;

const SPMV: &str = include_str!("../../../shaders/spmv.wgsl");
const MERGE: &str = include_str!("../../../shaders/spmv_merge.wgsl");
const ROWS: &str = include_str!("../../../shaders/lib/spmv_rows.wgsl");
const ONE: &str = include_str!("../../../shaders/lib/spmv_one.wgsl");
const FOUR: &str = include_str!("../../../shaders/lib/spmv_four.wgsl");
const VALUES_F32: &str = include_str!("../../../shaders/lib/spmv_values_f32.wgsl");
const VALUES_16: &str = include_str!("../../../shaders/lib/spmv_values_16.wgsl");
const CODEC_F16: &str = include_str!("../../../shaders/lib/codec_f16.wgsl");
const CODEC_BF16: &str = include_str!("../../../shaders/lib/codec_bf16.wgsl");

/// Records of a row that a lane of the merging workgroup takes at most.
const LANE_RECORDS: u32 = 8192;

/// Parameters as lib/spmv_rows.wgsl declares them.
#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    zero: u32,
    groups: u32,
    blocks: u32,
    first_block: u32,
    order: u32,
    row_ptr: u32,
    entry_base: u32,
    vectors: u32,
    x_base: u32,
    x_row: u32,
    x_vector: u32,
    y_base: u32,
    y_row: u32,
    y_vector: u32,
    parts_base: u32,
    parts_vector: u32,
    parts_part: u32,
    parts_low: u32,
    parts_fresh: u32,
    records: u32,
    first_vector: u32,
    spare: [u32; 3],
}

/// A variant of the shaders.
#[derive(Clone, Copy, Debug)]
struct Variant {
    dtype: DType,
    workgroup: u32,
    /// Four vectors at a time.
    four: bool,
    ordered: bool,
    dot: bool,
    active: bool,
    /// x lies in a buffer that is written: WebGPU refuses `read` beside `read_write` on one buffer.
    shared: bool,
}

impl Variant {
    fn source(&self, kernel: &'static str) -> String {
        let vectors = if self.four { FOUR } else { ONE };
        let mut fragments = vec![lib::BITS, lib::ERROR_FREE, ROWS, vectors];
        match self.dtype {
            DType::F32 => fragments.push(VALUES_F32),
            DType::F16 => fragments.extend([lib::ROUND16, CODEC_F16, VALUES_16]),
            DType::Bf16 => fragments.extend([lib::ROUND16, CODEC_BF16, VALUES_16]),
        }
        let text = compose(&Composition {
            constants: &[
                ("WG", unsigned(self.workgroup)),
                ("ORDERED", boolean(self.ordered)),
                ("DOT", boolean(self.dot)),
                ("ACTIVE", boolean(self.active)),
            ],
            tensors: &[],
            alias: None,
            shader_f16: false,
            all_read_write: false,
            fragments: &fragments,
            kernel,
        });
        if self.shared {
            // Of x alone: where blocks are read has to be uniform, which WGSL believes only of what is not written.
            return text.replace("var<storage, read> x_data", "var<storage, read_write> x_data");
        }
        text
    }
}

/// Columns and values of a range of entries.
struct Chunk {
    columns: wgpu::Buffer,
    values: wgpu::Buffer,
    entries: std::ops::Range<u64>,
}

/// A matrix on a device.
pub(super) struct Device {
    gpu: Gpu,
    rows: usize,
    cols: usize,
    entries: usize,
    dtype: DType,
    layout: Layout,
    plan: Plan,
    words: wgpu::Buffer,
    /// One for all entries, or, where they do not fit a buffer, one for each window.
    chunks: Vec<Chunk>,
    /// For each entry as stored, its place in the matrix as given.
    places: Option<Vec<u32>>,
}

/// The buffers of one call.
pub(crate) struct Call<'a> {
    /// `[cols]` or `[cols, k]`.
    pub x: &'a BufferView,
    /// `[rows]` or `[rows, k]`.
    pub y: &'a BufferView,
    /// Parts of x.y, `[k, partials, 2]`.
    pub dot: Option<&'a BufferView>,
    /// A word a vector.
    pub active: Option<&'a wgpu::Buffer>,
    /// alpha and beta: a uniform of 16 bytes.
    pub scale: &'a wgpu::Buffer,
}

/// Workgroups that take turns: as many parts does a fused dot product leave.
pub(super) fn groups(capabilities: &Capabilities) -> u32 {
    if capabilities.software { 128 } else { 1024 }.min(capabilities.max_workgroups)
}

fn layout(capabilities: &Capabilities, row_ptr: &[u32], strategy: SpmvStrategy) -> Layout {
    let software = capabilities.software;
    let workgroup = if software {
        8
    } else {
        128u32.min(1 << capabilities.max_invocations.ilog2())
    };
    let rows = (row_ptr.len() - 1).max(1);
    let mean = row_ptr[row_ptr.len() - 1] / rows as u32;
    let longest = row_ptr.windows(2).map(|w| w[1].saturating_sub(w[0])).max().unwrap_or(0);
    Layout {
        strategy,
        workgroup,
        groups: groups(capabilities),
        team: (mean / 2).next_power_of_two().clamp(2, workgroup.min(32)),
        piece: 4096.max(longest.div_ceil(workgroup * LANE_RECORDS)),
        lane_entries: if software { 64 } else { 4 },
        per_lane: if software { 8 } else { 4 },
        tile_rows: if software { 512 } else { 1024 },
        tile_entries: 8192,
        window_entries: capabilities.max_binding / 4 - 64,
        // The narrowest values have two bytes.
        alignment: capabilities.storage_alignment / 2,
    }
}

/// The transpose of a pattern, and for each of its entries the place in the pattern as given.
fn transposed<T: Float>(a: &Csr<T>) -> Result<(Vec<u32>, Vec<u32>, Vec<u32>)> {
    let mut row_ptr = vec![0u32; a.cols() + 1];
    for &j in a.columns() {
        row_ptr[j as usize + 1] += 1;
    }
    for j in 0..a.cols() {
        row_ptr[j + 1] += row_ptr[j];
    }
    let mut next = row_ptr.clone();
    let mut columns = crate::job::allocate::<u32>(a.entries())?;
    let mut places = crate::job::allocate::<u32>(a.entries())?;
    for i in 0..a.rows() {
        for k in a.row_ptr()[i]..a.row_ptr()[i + 1] {
            let slot = &mut next[a.columns()[k as usize] as usize];
            columns[*slot as usize] = i as u32;
            places[*slot as usize] = k;
            *slot += 1;
        }
    }
    Ok((row_ptr, columns, places))
}

fn in_order<'a, T: Element>(
    values: &'a [T],
    places: Option<&[u32]>,
    range: std::ops::Range<u64>,
) -> std::borrow::Cow<'a, [T]> {
    let range = range.start as usize..range.end as usize;
    match places {
        None => values[range].into(),
        Some(places) => places[range]
            .iter()
            .map(|&k| values[k as usize])
            .collect::<Vec<T>>()
            .into(),
    }
}

impl Device {
    pub(super) fn new<T: Element + Float>(gpu: &Gpu, a: &Csr<T>, options: &SpmvOptions) -> Result<Device> {
        let capabilities = gpu.capabilities();
        let strategy = options.strategy.unwrap_or(SpmvStrategy::Balanced);
        let given;
        let (row_ptr, columns, places) = if options.transpose {
            given = transposed(a)?;
            (&given.0[..], &given.1[..], Some(given.2.clone()))
        } else {
            (a.row_ptr(), a.columns(), None)
        };
        let (rows, cols) = if options.transpose {
            (a.cols(), a.rows())
        } else {
            (a.rows(), a.cols())
        };
        let layout = layout(capabilities, row_ptr, strategy);
        let plan = plan::plan(row_ptr, &layout)?;
        let bytes = plan.words.len() as u64 * 4;
        if bytes > capabilities.max_binding {
            return Err(Error::Limit {
                what: "bytes of the plan of a sparse matrix in one storage binding",
                need: bytes,
                have: capabilities.max_binding,
            });
        }
        let words = gpu.upload("macheps spmv plan", bytemuck::cast_slice(&plan.words))?;
        let entries = a.entries() as u64;
        let ranges: Vec<std::ops::Range<u64>> = if entries * 4 <= capabilities.max_buffer {
            std::iter::once(0..entries).collect()
        } else {
            plan.windows.iter().map(|w| w.entries.clone()).collect()
        };
        let chunks = ranges
            .into_iter()
            .map(|range| {
                let own = &columns[range.start as usize..range.end as usize];
                let values = in_order(a.values(), places.as_deref(), range.clone());
                Ok(Chunk {
                    columns: gpu.upload("macheps spmv columns", bytemuck::cast_slice(own))?,
                    values: gpu.upload("macheps spmv values", bytemuck::cast_slice(&values))?,
                    entries: range,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Device {
            gpu: gpu.clone(),
            rows,
            cols,
            entries: a.entries(),
            dtype: T::DTYPE,
            layout,
            plan: Plan {
                words: Vec::new(),
                ..plan
            },
            words,
            chunks,
            places,
        })
    }

    pub(super) fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    pub(super) fn shape(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    pub(super) fn entries(&self) -> usize {
        self.entries
    }

    pub(super) fn dtype(&self) -> DType {
        self.dtype
    }

    pub(super) fn strategy(&self) -> SpmvStrategy {
        self.layout.strategy
    }

    pub(super) fn partials(&self) -> usize {
        self.layout.groups as usize
    }

    pub(super) fn places(&self) -> Option<&[u32]> {
        self.places.as_deref()
    }

    /// The values, where one buffer holds them.
    pub(super) fn values(&self) -> Option<BufferView> {
        match &self.chunks[..] {
            [all] if all.entries == (0..self.entries as u64) => {
                Some(BufferView::new(&all.values, self.dtype, &[self.entries]))
            }
            _ => None,
        }
    }

    pub(super) fn update_values<T: Element>(&self, values: &[T]) -> Result<()> {
        if T::DTYPE != self.dtype {
            return Err(Error::DTypeMismatch {
                what: "values",
                expected: self.dtype,
                got: T::DTYPE,
            });
        }
        if values.len() != self.entries {
            return Err(Error::Csr {
                row: 0,
                defect: CsrDefect::ValuesLength {
                    columns: self.entries,
                    values: values.len(),
                },
            });
        }
        self.gpu.check_alive()?;
        for chunk in &self.chunks {
            let own = in_order(values, self.places(), chunk.entries.clone());
            let bytes: &[u8] = bytemuck::cast_slice(&own);
            let whole = bytes.len() / 4 * 4;
            self.gpu.write(&chunk.values, 0, &bytes[..whole])?;
            if whole < bytes.len() {
                self.gpu
                    .write(&chunk.values, whole as u64, &[bytes[whole], bytes[whole + 1], 0, 0])?;
            }
        }
        Ok(())
    }

    /// The bindings of columns and values for a window, and the entry at their element 0.
    fn bind_entries(&self, number: usize, window: &Window) -> ([Bind; 2], u32) {
        let chunk = if self.chunks.len() == 1 {
            &self.chunks[0]
        } else {
            &self.chunks[number]
        };
        let first = window.entries.start - chunk.entries.start.min(window.entries.start);
        let count = (window.entries.end - window.entries.start).max(1);
        let slice = |name, buffer: &wgpu::Buffer, size: u64| Bind {
            name,
            buffer: buffer.clone(),
            offset: first * size,
            size: (count * size).next_multiple_of(4),
        };
        let bindings = [
            slice("columns_data", &chunk.columns, 4),
            slice("values_data", &chunk.values, self.dtype.size() as u64),
        ];
        (bindings, window.entries.start as u32)
    }

    /// Plans, builds and binds the dispatches of a call.
    pub(super) fn bind(&self, call: &Call<'_>) -> Result<Recording> {
        let gpu = &self.gpu;
        let capabilities = gpu.capabilities();
        let vectors = self.check(call)?;
        let mut dispatches = Dispatches::new(gpu, "spmv");
        if vectors == 0 || (self.rows == 0 && call.dot.is_none()) {
            return dispatches.finish();
        }
        let four = vectors > 1;
        let step = if four { 4 } else { 1 };
        let variant = Variant {
            dtype: self.dtype,
            workgroup: self.layout.workgroup,
            four,
            ordered: self.plan.order.is_some(),
            dot: call.dot.is_some(),
            active: call.active.is_some(),
            shared: call.x.buffer == call.y.buffer || call.dot.is_some_and(|d| d.buffer == call.x.buffer),
        };
        let kernel = gpu.kernel("spmv", &variant.source(SPMV), "main")?;
        let merge = match self.plan.split_rows {
            0 => None,
            _ => {
                let variant = Variant {
                    dtype: DType::F32,
                    ordered: false,
                    ..variant
                };
                Some(gpu.kernel("spmv", &variant.source(MERGE), "merge")?)
            }
        };
        // As many vectors at a time as fit bindings and the grid.
        let records = |together: usize| u64::from(self.plan.records) * 8 * together.next_multiple_of(step) as u64;
        let views = |first: usize, count: usize| -> Result<[Slice; 3]> {
            Ok([
                Slice::of("x_data", &Grid::of(call.x), first, count, capabilities)?,
                Slice::of("y_data", &Grid::of(call.y), first, count, capabilities)?,
                match call.dot {
                    Some(dot) => Slice::of("parts_data", &Grid::of_parts(dot), first, count, capabilities)?,
                    None => Slice::default(),
                },
            ])
        };
        let mut together = vectors.min(capabilities.max_workgroups as usize * step);
        while together > 1 && (views(0, together).is_err() || records(together) > capabilities.max_binding) {
            together = together.div_ceil(2).next_multiple_of(step).min(together - 1);
        }
        if records(together) > capabilities.max_binding {
            return Err(Error::Limit {
                what: "bytes of records of split rows in one storage binding",
                need: records(together),
                have: capabilities.max_binding,
            });
        }
        let scratch = gpu.create_buffer("macheps spmv records", records(together).max(16), Usages::STORAGE)?;
        // What stands in for what a call does not have.
        let unread = gpu.create_buffer("macheps nothing", 16, Usages::STORAGE)?;
        let unwritten = gpu.create_buffer("macheps nothing", 16, Usages::STORAGE)?;
        for first in (0..vectors).step_by(together) {
            let count = together.min(vectors - first);
            let [x, y, parts] = views(first, count)?;
            let bindings = vec![
                Bind::whole("plan_data", &self.words),
                Bind::whole("scale", call.scale),
                Bind::whole("records_data", &scratch),
                x.bind("x_data", call.x, &unread),
                y.bind("y_data", call.y, &unwritten),
                parts.bind("parts_data", call.dot.unwrap_or(call.y), &unwritten),
                Bind::whole("active_data", call.active.unwrap_or(&unread)),
            ];
            let params = Params {
                order: self.plan.order.unwrap_or(0),
                vectors: count as u32,
                x_base: x.base,
                x_row: x.row,
                x_vector: x.vector,
                y_base: y.base,
                y_row: y.row,
                y_vector: y.vector,
                parts_base: parts.base,
                parts_vector: parts.vector,
                parts_part: parts.row,
                parts_low: parts.low,
                records: self.plan.records,
                first_vector: first as u32,
                ..Params::default()
            };
            let across = count.div_ceil(step) as u32;
            // Without a row there is still a dispatch that leaves zeros as parts.
            let none = [Window {
                first_block: 0,
                blocks: 0,
                entries: 0..0,
            }];
            let windows = if self.plan.windows.is_empty() {
                &none[..]
            } else {
                &self.plan.windows[..]
            };
            for (number, window) in windows.iter().enumerate() {
                let (entries, entry_base) = self.bind_entries(number, window);
                let groups = match call.dot {
                    Some(_) => self.layout.groups,
                    None => self.layout.groups.min(window.blocks),
                };
                let params = Params {
                    groups,
                    blocks: window.blocks,
                    first_block: window.first_block,
                    entry_base,
                    parts_fresh: u32::from(number == 0),
                    ..params
                };
                dispatches.add(
                    &kernel,
                    params,
                    [groups, across],
                    [&bindings[..], &entries[..]].concat(),
                );
            }
            for rows in &self.plan.merges {
                let Some(merge) = &merge else { break };
                let groups = self.layout.groups.min(rows.end - rows.start);
                let params = Params {
                    groups,
                    blocks: rows.end - rows.start,
                    first_block: self.plan.splits + rows.start * 4,
                    ..params
                };
                dispatches.add(merge, params, [groups, across], bindings.clone());
            }
        }
        dispatches.finish()
    }

    /// Checks the views of a call and gives the number of its vectors.
    fn check(&self, call: &Call<'_>) -> Result<usize> {
        let (x, y) = (call.x, call.y);
        for (what, view, n) in [("x", x, self.cols), ("y", y, self.rows)] {
            if view.dtype != DType::F32 {
                return Err(Error::DTypeMismatch {
                    what,
                    expected: DType::F32,
                    got: view.dtype,
                });
            }
            if !matches!(view.shape.len(), 1 | 2) || view.shape[0] != n || view.shape.len() != x.shape.len() {
                return Err(Error::shape(
                    what,
                    format!("[{n}], or [{n}, k] for k vectors, x and y alike"),
                    format!("{:?}", view.shape),
                ));
            }
        }
        x.check("x")?;
        y.check_writable("y")?;
        let vectors = x.shape.get(1).copied().unwrap_or(1);
        let given = y.shape.get(1).copied().unwrap_or(1);
        if given != vectors {
            return Err(Error::shape(
                "y",
                format!("{vectors} vectors as in x"),
                format!("{given}"),
            ));
        }
        let alias = |first, second| Err(Error::Aliased { first, second });
        if x.overlaps(y) {
            return alias("x", "y");
        }
        if let Some(dot) = call.dot {
            if dot.dtype != DType::F32 || dot.shape != [vectors, self.partials(), 2] || self.rows != self.cols {
                return Err(Error::shape(
                    "parts of x.y",
                    format!("f32 [{vectors}, {}, 2] and a square matrix", self.partials()),
                    format!("{} {:?} and {} x {}", dot.dtype, dot.shape, self.rows, self.cols),
                ));
            }
            dot.check_writable("parts of x.y")?;
            if dot.overlaps(x) {
                return alias("x", "parts of x.y");
            }
            if dot.overlaps(y) {
                return alias("y", "parts of x.y");
            }
        }
        if let Some(active) = call.active
            && active.size() < vectors as u64 * 4
        {
            return Err(Error::shape(
                "active words",
                format!("{} bytes", vectors * 4),
                format!("{} bytes", active.size()),
            ));
        }
        Ok(vectors)
    }
}

/// A view as vectors: the sizes and strides of entries, vectors, and for parts of the two numbers.
struct Grid<'a> {
    view: &'a BufferView,
    rows: (usize, usize),
    vectors: usize,
    lows: (usize, usize),
}

impl Grid<'_> {
    fn of(view: &BufferView) -> Grid<'_> {
        Grid {
            view,
            rows: (view.shape[0], view.strides[0]),
            vectors: view.strides.get(1).copied().unwrap_or(0),
            lows: (1, 0),
        }
    }

    fn of_parts(view: &BufferView) -> Grid<'_> {
        Grid {
            view,
            rows: (view.shape[1], view.strides[1]),
            vectors: view.strides[0],
            lows: (view.shape[2], view.strides[2]),
        }
    }
}

/// A range of a view's vectors as a binding.
#[derive(Clone, Copy, Default)]
struct Slice {
    offset: u64,
    size: u64,
    base: u32,
    row: u32,
    vector: u32,
    low: u32,
}

impl Slice {
    fn of(
        name: &'static str,
        grid: &Grid<'_>,
        first: usize,
        count: usize,
        capabilities: &Capabilities,
    ) -> Result<Slice> {
        let (rows, row) = grid.rows;
        if rows == 0 || count == 0 {
            return Ok(Slice::default());
        }
        let (lows, low) = grid.lows;
        let begin = (grid.view.offset + first * grid.vectors) as u64 * 4;
        let last = (rows - 1) * row + (count - 1) * grid.vectors + (lows - 1) * low;
        let offset = begin / capabilities.storage_alignment * capabilities.storage_alignment;
        let size = begin - offset + (last as u64 + 1) * 4;
        let have = capabilities.max_binding.min(u64::from(u32::MAX));
        if size > have {
            return Err(Error::Limit {
                what: match name {
                    "x_data" => "bytes of x in one storage binding",
                    "y_data" => "bytes of y in one storage binding",
                    _ => "bytes of parts of x.y in one storage binding",
                },
                need: size,
                have,
            });
        }
        // Strides along dimensions of size 1 may be anything: they do not count.
        let stride = |n: usize, stride: usize| if n > 1 { stride as u32 } else { 0 };
        Ok(Slice {
            offset,
            size,
            base: ((begin - offset) / 4) as u32,
            row: stride(rows, row),
            vector: stride(count, grid.vectors),
            low: stride(lows, low),
        })
    }

    fn bind(&self, name: &'static str, view: &BufferView, nothing: &wgpu::Buffer) -> Bind {
        match self.size {
            0 => Bind::whole(name, nothing),
            size => Bind {
                name,
                buffer: view.buffer.clone(),
                offset: self.offset,
                size,
            },
        }
    }
}

/// Every variant of the shaders that can come about, as a name and its WGSL.
#[doc(hidden)]
pub fn shader_variants() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for workgroup in [8, 128] {
        for dtype in DType::ALL {
            for four in [false, true] {
                for ordered in [false, true] {
                    for (dot, active, shared) in [
                        (false, false, false),
                        (false, false, true),
                        (true, false, false),
                        (true, true, true),
                    ] {
                        let variant = Variant {
                            dtype,
                            workgroup,
                            four,
                            ordered,
                            dot,
                            active,
                            shared,
                        };
                        let word = |on: bool, word: &'static str| if on { word } else { "" };
                        let name = format!(
                            "{workgroup}_{dtype}{}{}{}{}{}",
                            word(four, "_four"),
                            word(ordered, "_ordered"),
                            word(dot, "_dot"),
                            word(active, "_active"),
                            word(shared, "_shared"),
                        );
                        all.push((format!("spmv_{name}"), variant.source(SPMV)));
                        if dtype == DType::F32 && !ordered {
                            all.push((format!("spmv_merge_{name}"), variant.source(MERGE)));
                        }
                    }
                }
            }
        }
    }
    all
}
