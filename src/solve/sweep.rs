//! Sweeps over groups of rows on a device: the kernels of `shaders/sweep.wgsl`, and the lists that they go through.
//!
//! Rows of up to [`SHORT`] entries go one an invocation. 64 of them share a slice in which entry k of all stands side by side, so that
//! neighbouring invocations read neighbouring memory (sliced ELLPACK: Kreutzer, Hager, Wellein, Fehske and Bishop 2014), the longest rows
//! of a window first. Longer rows get a workgroup each. Nothing depends on the width of subgroups.

use super::views::{Vectors, within};
use crate::accuracy::U;
use crate::error::{CsrDefect, Error, Result};
use crate::gpu::source::lib;
use crate::gpu::{Bind, Dispatches, Gpu, grid, lock};
use crate::sparse::Csr;
use std::ops::Range;
use std::sync::{Arc, Mutex};

const SHADER: &str = include_str!("../../shaders/sweep.wgsl");

/// Rows of a slice, and invocations of a workgroup.
const TEAM: usize = 64;
/// The longest row that one invocation takes: its sum by eight accumulators stays within (log2 n + 6) u.
const SHORT: usize = 64;
/// The longest row that a workgroup takes in 30,000 steps.
const LONGEST: usize = 30_000 * TEAM;
/// Rows are sorted by length within this many, so that neighbours stay near each other.
const SORTED: usize = 4096;
const ROW_BYTES: u64 = 16;
const ENTRY_BYTES: u64 = 8;

/// The parameters, as the shader knows them.
#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct Params {
    zero: u32,
    count: u32,
    entry_base: u32,
    row_base: u32,
    b_base: u32,
    y_base: u32,
    n: u32,
    vectors: u32,
    grid_x: u32,
    groups: u32,
    flags: u32,
    keep: f32,
    weight: f32,
    b_pitch: u32,
    y_pitch: u32,
    spare: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Row {
    row: u32,
    length: u32,
    first: u32,
    inverse: f32,
}

#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
struct Entry {
    column: u32,
    value: f32,
}

/// b beside y in one buffer: WebGPU refuses `read` beside `read_write`.
fn source(b_beside_y: bool) -> String {
    let text = [lib::BITS, lib::ERROR_FREE, SHADER].concat();
    if b_beside_y {
        text.replace("var<storage, read> b:", "var<storage, read_write> b:")
    } else {
        text
    }
}

/// Every variant of the shader, as a name and its WGSL.
pub(crate) fn shader_variants() -> Vec<(String, String)> {
    [false, true]
        .map(|beside| (format!("sweep{}", if beside { "_beside" } else { "" }), source(beside)))
        .to_vec()
}

/// What a group does to its rows: y = keep y + weight inverse (b - sum), with or without b.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Step {
    /// The group.
    pub group: usize,
    /// Factor of the old y; 0 does not read it.
    pub keep: f64,
    /// Factor of the rest.
    pub weight: f64,
    /// Whether b counts.
    pub with_b: bool,
}

/// Rows of a group that one dispatch takes.
struct Share {
    teams: bool,
    rows: Range<usize>,
    entries: Range<usize>,
}

/// The lists of a sweep in the memory of a device.
pub(crate) struct Uploaded {
    n: usize,
    rows: wgpu::Buffer,
    entries: wgpu::Buffer,
    /// The shares of each group.
    groups: Vec<Vec<Share>>,
}

fn to_f32(value: f64, row: usize, column: usize) -> Result<f32> {
    let narrow = value as f32;
    if narrow.is_finite() {
        return Ok(narrow);
    }
    Err(Error::Csr {
        row,
        defect: CsrDefect::Overflow {
            column,
            value,
            largest: f64::from(f32::MAX),
        },
    })
}

/// Lists under construction.
struct Lists {
    rows: Vec<Row>,
    entries: Vec<Entry>,
    /// Most rows and entries that a binding holds.
    room: (usize, usize),
}

impl Lists {
    /// Appends a slice of short rows, or one long row, to the shares of its group.
    fn append(&mut self, shares: &mut Vec<Share>, slice: &[u32], a: &Csr<f64>, inverse: &[f64]) -> Result<()> {
        let longest = slice.iter().map(|&i| a.row(i as usize).0.len()).max().unwrap_or(0);
        let teams = longest > SHORT;
        let step = slice.len();
        let at = self.entries.len();
        within("entries of a row on a device", longest as u64, LONGEST as u64)?;
        let end = at + longest * step;
        within("entries of a sweep on a device", end as u64, u64::from(u32::MAX))?;
        within(
            "bytes of 64 rows in one storage binding",
            (longest * step) as u64 * ENTRY_BYTES,
            self.room.1 as u64 * ENTRY_BYTES,
        )?;
        self.entries.resize(end, Entry::default());
        let first_row = self.rows.len();
        for (lane, &i) in slice.iter().enumerate() {
            let i = i as usize;
            let (columns, values) = a.row(i);
            for (k, (&column, &value)) in columns.iter().zip(values).enumerate() {
                let value = to_f32(value, i, column as usize)?;
                self.entries[at + k * step + lane] = Entry { column, value };
            }
            let length = columns.len() as u32;
            self.rows.push(Row {
                row: i as u32,
                length: if teams { length } else { length | (step as u32) << 16 },
                first: (at + lane) as u32,
                inverse: to_f32(inverse[i], i, i)?,
            });
        }
        let joined = shares.last_mut().filter(|share| {
            share.teams == teams
                && self.rows.len() - share.rows.start <= self.room.0
                && end - share.entries.start <= self.room.1
        });
        match joined {
            Some(share) => {
                share.rows.end = self.rows.len();
                share.entries.end = end;
            }
            None => shares.push(Share {
                teams,
                rows: first_row..self.rows.len(),
                entries: at..end,
            }),
        }
        Ok(())
    }
}

impl Uploaded {
    /// Puts the rows of `a` (without what they are divided by, which `inverse` holds) on a device, by groups.
    ///
    /// # Errors
    /// [`Error::Csr`] where a value or an inverse is beyond the range of f32; [`Error::Limit`] for what a device cannot hold.
    pub(crate) fn new(gpu: &Gpu, groups: &[Vec<u32>], a: &Csr<f64>, inverse: &[f64]) -> Result<Uploaded> {
        let capabilities = gpu.capabilities();
        // The distance to an aligned offset comes on top.
        let room = capabilities
            .max_binding
            .saturating_sub(capabilities.storage_alignment + 16);
        let mut lists = Lists {
            rows: Vec::with_capacity(a.rows()),
            entries: Vec::with_capacity(a.entries()),
            room: ((room / ROW_BYTES) as usize, (room / ENTRY_BYTES) as usize),
        };
        let length = |&i: &u32| a.row(i as usize).0.len();
        let mut shares = Vec::with_capacity(groups.len());
        for group in groups {
            let mut own = Vec::new();
            let (short, long): (Vec<u32>, Vec<u32>) = group.iter().partition(|i| length(i) <= SHORT);
            for window in short.chunks(SORTED) {
                let mut window = window.to_vec();
                window.sort_by_key(|i| std::cmp::Reverse(length(i)));
                for slice in window.chunks(TEAM) {
                    lists.append(&mut own, slice, a, inverse)?;
                }
            }
            for &i in &long {
                lists.append(&mut own, &[i], a, inverse)?;
            }
            shares.push(own);
        }
        Ok(Uploaded {
            n: a.rows(),
            rows: gpu.upload("macheps sweep rows", bytemuck::cast_slice(&lists.rows))?,
            entries: gpu.upload("macheps sweep entries", bytemuck::cast_slice(&lists.entries))?,
            groups: shares,
        })
    }

    /// Number of groups.
    pub(crate) fn groups(&self) -> usize {
        self.groups.len()
    }

    /// Adds the dispatches of the steps, in order: one a step, more where lists pass a binding or long rows stand beside short ones.
    pub(crate) fn add(
        &self,
        gpu: &Gpu,
        dispatches: &mut Dispatches<'_, Params>,
        steps: &[Step],
        b: &Vectors,
        y: &Vectors,
        active: Option<&wgpu::Buffer>,
    ) -> Result<()> {
        if self.n == 0 || y.count == 0 {
            return Ok(());
        }
        let capabilities = gpu.capabilities();
        let source = source(b.shares_buffer(y));
        for step in steps {
            for share in &self.groups[step.group] {
                let kernel = gpu.kernel("sweep", &source, if share.teams { "teams" } else { "rows" })?;
                let groups = if share.teams {
                    share.rows.len()
                } else {
                    share.rows.len().div_ceil(TEAM)
                };
                let grid = grid(groups as u64 * u64::from(y.count), capabilities.max_workgroups)?;
                let (rows, row_base) = self.part(gpu, "rows_data", &self.rows, &share.rows, ROW_BYTES);
                let (entries, entry_lead) = self.part(gpu, "entries", &self.entries, &share.entries, ENTRY_BYTES);
                let params = Params {
                    zero: 0,
                    count: share.rows.len() as u32,
                    entry_base: share.entries.start as u32 - entry_lead,
                    row_base,
                    b_base: b.base,
                    y_base: y.base,
                    n: self.n as u32,
                    vectors: y.count,
                    grid_x: grid[0],
                    groups: groups as u32,
                    flags: u32::from(step.with_b) | u32::from(active.is_some()) << 1,
                    keep: step.keep as f32,
                    weight: step.weight as f32,
                    b_pitch: b.pitch,
                    y_pitch: y.pitch,
                    spare: 0,
                };
                let mut bindings = vec![rows, entries, b.named("b"), y.named("y")];
                // Something has to be bound; without the flag it is not read.
                bindings.push(match active {
                    Some(words) => Bind::whole("active_words", words),
                    None => Bind {
                        name: "active_words",
                        ..bindings[0].clone()
                    },
                });
                dispatches.add(&kernel, params, grid, bindings);
            }
        }
        Ok(())
    }

    /// A range of one of the lists as a binding, and how many elements of it come before the range.
    fn part(
        &self,
        gpu: &Gpu,
        name: &'static str,
        buffer: &wgpu::Buffer,
        range: &Range<usize>,
        element: u64,
    ) -> (Bind, u32) {
        let alignment = gpu.capabilities().storage_alignment;
        let begin = range.start as u64 * element;
        // A group without entries begins where the list may end.
        let offset = (begin / alignment * alignment).min((buffer.size() - element) / alignment * alignment);
        let end = (range.end as u64 * element).max(offset + element);
        let bind = Bind {
            name,
            buffer: buffer.clone(),
            offset,
            size: end - offset,
        };
        (bind, ((begin - offset) / element) as u32)
    }
}

/// What was made for devices, once for each.
pub(crate) struct PerDevice<T>(Mutex<Vec<(Gpu, Arc<T>)>>);

impl<T> Default for PerDevice<T> {
    fn default() -> Self {
        PerDevice(Mutex::new(Vec::new()))
    }
}

impl<T> std::fmt::Debug for PerDevice<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PerDevice({})", lock(&self.0).len())
    }
}

impl<T> PerDevice<T> {
    /// What there is for this device, made at first use.
    pub(crate) fn get(&self, gpu: &Gpu, make: impl FnOnce() -> Result<T>) -> Result<Arc<T>> {
        let find = |all: &[(Gpu, Arc<T>)]| {
            let found = all.iter().find(|(known, _)| known.same_device(gpu));
            found.map(|(_, made)| made.clone())
        };
        if let Some(made) = find(&lock(&self.0)) {
            return Ok(made);
        }
        // Made outside the lock; of two threads the first to finish is kept.
        let made = Arc::new(make()?);
        let mut all = lock(&self.0);
        if let Some(earlier) = find(&all) {
            return Ok(earlier);
        }
        all.retain(|(known, _)| !known.is_lost());
        all.push((gpu.clone(), made.clone()));
        Ok(made)
    }
}

/// Groups below this many rows are not worth threads.
#[cfg(not(target_arch = "wasm32"))]
const PARALLEL: usize = 4096;

/// The steps on the host, in f64.
pub(crate) fn on_host(steps: &[Step], groups: &[Vec<u32>], a: &Csr<f64>, inverse: &[f64], b: &[f64], y: &mut [f64]) {
    for step in steps {
        let relaxed = |&i: &u32, y: &[f64]| {
            let i = i as usize;
            let (columns, values) = a.row(i);
            let sum: f64 = columns.iter().zip(values).map(|(&j, &v)| v * y[j as usize]).sum();
            let rest = if step.with_b { b[i] - sum } else { -sum };
            let kept = if step.keep == 0.0 { 0.0 } else { step.keep * y[i] };
            kept + step.weight * inverse[i] * rest
        };
        let group = &groups[step.group];
        #[cfg(not(target_arch = "wasm32"))]
        if group.len() >= PARALLEL {
            use rayon::prelude::*;
            let old: &[f64] = y;
            let new: Vec<f64> = group.par_iter().with_min_len(512).map(|i| relaxed(i, old)).collect();
            for (&i, value) in group.iter().zip(new) {
                y[i as usize] = value;
            }
            continue;
        }
        for i in group {
            y[*i as usize] = relaxed(i, y);
        }
    }
}

/// The steps on the host in f64, beside a bound on what the device's y may differ from them: rounding of the coefficients to f32, sums within
/// (log2 n + 6) u, the update, and the errors of what a row reads.
pub(crate) fn on_host_with_bound(
    steps: &[Step],
    groups: &[Vec<u32>],
    a: &Csr<f64>,
    inverse: &[f64],
    b: &[f64],
    y: &mut [f64],
    bound: &mut [f64],
) {
    for step in steps {
        for &i in &groups[step.group] {
            let i = i as usize;
            let (columns, values) = a.row(i);
            let (mut sum, mut magnitude, mut inherited) = (0.0, 0.0, 0.0);
            for (&j, &v) in columns.iter().zip(values) {
                let j = j as usize;
                sum += v * y[j];
                magnitude += (v * y[j]).abs() + v.abs() * bound[j];
                inherited += v.abs() * bound[j];
            }
            let rest = if step.with_b { b[i] - sum } else { -sum };
            let kept = if step.keep == 0.0 { 0.0 } else { step.keep * y[i] };
            let kept_error = if step.keep == 0.0 {
                0.0
            } else {
                step.keep.abs() * bound[i]
            };
            let factor = (step.weight * inverse[i]).abs();
            let depth = (columns.len().max(1) as f64).log2() + 7.0;
            let rounding =
                factor * (depth * magnitude + 7.0 * (rest.abs() + inherited)) + 3.0 * (kept.abs() + kept_error);
            // Flushed products of the sum, relative to nothing, come on top.
            let flushed = f64::from(f32::MIN_POSITIVE) * (factor * (columns.len() as f64 + 2.0) + 3.0);
            bound[i] = (factor * inherited + kept_error + U * rounding) * (1.0 + 1e-3) + flushed;
            y[i] = kept + step.weight * inverse[i] * rest;
        }
    }
}
