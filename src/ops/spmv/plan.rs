//! The plan of a matrix: how its rows are dealt out to workgroups, made on the host from the lengths of the rows.

use super::SpmvStrategy;
use crate::error::{Error, Result};

/// Loop iterations that an invocation may spend in one dispatch: drivers cut loops beyond 65,535, and none shall come near a
/// watchdog.
const MOST_ITERATIONS: u64 = 25_000;
/// Most entries of a matrix on a device: indices are u32, and sums of two of them must not overflow.
const MOST_ENTRIES: u64 = 1 << 31;
/// Words of a block or split row in the plan.
const BLOCK_WORDS: usize = 4;

/// What the plan is made for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Layout {
    pub strategy: SpmvStrategy,
    /// Invocations of a workgroup, a power of two.
    pub workgroup: u32,
    /// Workgroups that take turns.
    pub groups: u32,
    /// Invocations for each row of [`SpmvStrategy::Team`].
    pub team: u32,
    /// Rows of more entries are split into pieces of no more.
    pub piece: u32,
    /// Entries that a lane takes before a wider team is worth its barriers.
    pub lane_entries: u32,
    /// Entries that each lane of a team should have.
    pub per_lane: u32,
    /// Neighbouring rows among which rows may change places, and entries after which no more are taken.
    pub tile_rows: usize,
    pub tile_entries: u64,
    /// Entries of a dispatch, both ends of which may be moved by `alignment` entries.
    pub window_entries: u64,
    pub alignment: u64,
}

/// A dispatch: blocks of the plan, and the entries that they touch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Window {
    /// Word of the plan where the blocks begin.
    pub first_block: u32,
    pub blocks: u32,
    /// First entry, aligned, and one past the last.
    pub entries: std::ops::Range<u64>,
}

/// The rows of a matrix, dealt out.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Plan {
    /// Row pointers, the order of the rows, blocks, split rows.
    pub words: Vec<u32>,
    /// Words where the order begins, if rows change places.
    pub order: Option<u32>,
    pub windows: Vec<Window>,
    /// Word where the split rows begin, their number, and the records that they leave.
    pub splits: u32,
    pub split_rows: u32,
    pub records: u32,
    /// Rows merged in each dispatch.
    pub merges: Vec<std::ops::Range<u32>>,
}

/// A block in the making.
struct Block {
    words: [u32; BLOCK_WORDS],
    entries: std::ops::Range<u64>,
    /// Loop iterations of its busiest invocation.
    iterations: u64,
}

/// Iterations that a lane spends on so many entries, in chunks of eight.
fn lane_iterations(entries: u64) -> u64 {
    entries + entries.div_ceil(8) + 1
}

impl Layout {
    /// Log2 of the team of a row of this length.
    fn shift(&self, len: u32, wide: u32) -> u32 {
        match self.strategy {
            SpmvStrategy::Row => 0,
            SpmvStrategy::Team => self.team.ilog2(),
            SpmvStrategy::Balanced if len <= self.lane_entries => 0,
            SpmvStrategy::Balanced => len.div_ceil(self.per_lane).next_power_of_two().clamp(1, wide).ilog2(),
        }
    }
}

/// Makes the plan of a matrix with these row pointers.
pub(super) fn plan(row_ptr: &[u32], layout: &Layout) -> Result<Plan> {
    let rows = row_ptr.len() - 1;
    let entries = u64::from(row_ptr[rows]);
    if entries > MOST_ENTRIES {
        return Err(Error::Limit {
            what: "entries of a sparse matrix on a device",
            need: entries,
            have: MOST_ENTRIES,
        });
    }
    let len = |row: usize| row_ptr[row + 1] - row_ptr[row];
    let mut order: Option<Vec<u32>> =
        (layout.strategy == SpmvStrategy::Balanced && uneven(row_ptr, layout)).then(Vec::new);
    let mut blocks: Vec<Block> = Vec::new();
    let mut splits: Vec<[u32; BLOCK_WORDS]> = Vec::new();
    let mut records = 0u64;
    let mut first = 0;
    let mut places: Vec<u32> = Vec::new();
    while first < rows {
        // A tile of neighbouring rows; rows that are split stay out of the order.
        let begin = first;
        places.clear();
        while first < rows
            && first - begin < layout.tile_rows
            && u64::from(row_ptr[first] - row_ptr[begin]) < layout.tile_entries
        {
            if len(first) > layout.piece {
                break;
            }
            places.push(first as u32);
            first += 1;
        }
        if order.is_some() {
            places.sort_by_key(|&row| len(row as usize));
        }
        let base = order.as_ref().map_or(begin, Vec::len);
        if let Some(order) = &mut order {
            order.extend_from_slice(&places);
        }
        // Runs of rows with teams of one size. Rows that keep their places have one size for all: runs would be short.
        let alike = order.is_none().then(|| {
            let entries: u32 = row_ptr[first] - row_ptr[begin];
            layout.shift(entries.div_ceil((first - begin).max(1) as u32), layout.workgroup)
        });
        let shift_of = |row: u32| alike.unwrap_or_else(|| layout.shift(len(row as usize), layout.workgroup));
        let mut at = 0;
        while at < places.len() {
            let shift = shift_of(places[at]);
            let run = places[at..]
                .iter()
                .position(|&row| shift_of(row) != shift)
                .map_or(places.len(), |k| at + k);
            let teams = (layout.workgroup >> shift) as usize;
            let iterations = places[at..run]
                .chunks(teams)
                .map(|step| {
                    let longest = step.iter().map(|&row| len(row as usize)).max().unwrap_or(0);
                    2 + lane_iterations(u64::from(longest.div_ceil(1 << shift))) + u64::from(shift)
                })
                .sum::<u64>();
            let low = places[at..run]
                .iter()
                .map(|&row| row_ptr[row as usize])
                .min()
                .unwrap_or(0);
            let high = places[at..run]
                .iter()
                .map(|&row| row_ptr[row as usize + 1])
                .max()
                .unwrap_or(0);
            blocks.push(Block {
                words: [(base + at) as u32, (run - at) as u32, shift * 2, 0],
                entries: low.into()..high.into(),
                iterations: iterations + 1,
            });
            at = run;
        }
        if first < rows && len(first) > layout.piece {
            let (start, count) = (u64::from(row_ptr[first]), u64::from(len(first)));
            let pieces = count.div_ceil(layout.piece.into());
            splits.push([first as u32, records as u32, pieces as u32, 0]);
            for k in 0..pieces {
                // Pieces of equal length, but for one entry.
                let (from, to) = (start + count * k / pieces, start + count * (k + 1) / pieces);
                blocks.push(Block {
                    words: [from as u32, (to - from) as u32, 1, (records + k) as u32],
                    entries: from..to,
                    iterations: lane_iterations((to - from).div_ceil(layout.workgroup.into())) + 12,
                });
            }
            records += pieces;
            first += 1;
        }
    }
    let mut words = row_ptr.to_vec();
    // Split rows have no place in the order: places beyond the last are not reached.
    let order = order.map(|order| {
        let at = words.len() as u32;
        words.extend(order);
        at
    });
    let first_block = words.len();
    words.extend(blocks.iter().flat_map(|b| b.words));
    let first_split = words.len();
    words.extend(splits.iter().flatten());
    if words.len() as u64 > u64::from(u32::MAX) {
        return Err(Error::Limit {
            what: "words of the plan of a sparse matrix",
            need: words.len() as u64,
            have: u32::MAX.into(),
        });
    }
    Ok(Plan {
        windows: windows(&blocks, first_block, layout)?,
        merges: merges(&splits, layout),
        words,
        order,
        splits: first_split as u32,
        split_rows: splits.len() as u32,
        records: records as u32,
    })
}

/// Whether neighbouring invocations would wait long for each other if rows kept their places.
fn uneven(row_ptr: &[u32], layout: &Layout) -> bool {
    let (mut spent, mut needed) = (0u64, 0u64);
    let rows = row_ptr.len() - 1;
    for first in (0..rows).step_by(layout.workgroup as usize) {
        let last = rows.min(first + layout.workgroup as usize);
        let lengths = row_ptr[first..=last].windows(2).map(|w| w[1] - w[0]);
        let (mut longest, mut sum, mut count) = (0, 0, 0);
        for n in lengths.filter(|&n| n <= layout.piece) {
            longest = longest.max(n);
            sum += u64::from(n) + 2;
            count += 1;
        }
        spent += (u64::from(longest) + 2) * count;
        needed += sum;
    }
    spent > needed + needed / 8
}

/// A dispatch in the making: its first block, and the entries touched so far, if there are any.
struct Open {
    begin: usize,
    entries: Option<(u64, u64)>,
}

impl Open {
    /// With the entries of one more block.
    fn joined(&self, block: &Block, alignment: u64) -> Option<(u64, u64)> {
        if block.entries.is_empty() {
            return self.entries;
        }
        let low = block.entries.start / alignment * alignment;
        let (from, to) = self.entries.unwrap_or((low, low));
        Some((from.min(low), to.max(block.entries.end)))
    }

    fn close(&self, end: usize, first_block: usize) -> Window {
        let (from, to) = self.entries.unwrap_or_default();
        Window {
            first_block: (first_block + self.begin * BLOCK_WORDS) as u32,
            blocks: (end - self.begin) as u32,
            entries: from..to,
        }
    }
}

/// Cuts the blocks into dispatches.
fn windows(blocks: &[Block], first_block: usize, layout: &Layout) -> Result<Vec<Window>> {
    let width = |entries: Option<(u64, u64)>| entries.map_or(0, |(from, to)| to - from);
    let mut windows: Vec<Window> = Vec::new();
    let mut spent = vec![0u64; layout.groups as usize];
    let mut open = Open {
        begin: 0,
        entries: None,
    };
    for (k, block) in blocks.iter().enumerate() {
        // Workgroups take turns, so this block adds to what one of them spends.
        let slot = (k - open.begin) % spent.len();
        let too_long = spent[slot] + block.iterations > MOST_ITERATIONS;
        let too_wide = width(open.joined(block, layout.alignment)) > layout.window_entries;
        if k > open.begin && (too_long || too_wide) {
            windows.push(open.close(k, first_block));
            open = Open {
                begin: k,
                entries: None,
            };
            spent.fill(0);
        }
        spent[(k - open.begin) % layout.groups as usize] += block.iterations;
        open.entries = open.joined(block, layout.alignment);
        if width(open.entries) > layout.window_entries {
            return Err(Error::Limit {
                what: "entries of a few rows in one storage binding",
                need: width(open.entries),
                have: layout.window_entries,
            });
        }
    }
    if open.begin < blocks.len() {
        windows.push(open.close(blocks.len(), first_block));
    }
    Ok(windows)
}

/// Cuts the split rows into dispatches.
fn merges(splits: &[[u32; BLOCK_WORDS]], layout: &Layout) -> Vec<std::ops::Range<u32>> {
    let mut merges = Vec::new();
    let mut spent = vec![0u64; layout.groups as usize];
    let mut begin = 0;
    for (k, split) in splits.iter().enumerate() {
        let iterations = u64::from(split[2].div_ceil(layout.workgroup)) + 12;
        let slot = (k - begin) % spent.len();
        if k > begin && spent[slot] + iterations > MOST_ITERATIONS {
            merges.push(begin as u32..k as u32);
            begin = k;
            spent.fill(0);
            spent[0] = iterations;
        } else {
            spent[slot] += iterations;
        }
    }
    if begin < splits.len() {
        merges.push(begin as u32..splits.len() as u32);
    }
    merges
}
