//! The CPU path of the audit. A 16-bit type has 65,536 values: they are counted, and what there is of each is examined
//! once. An f32 is counted by its exponent field; only blocks with values from its two ends are looked at twice.

use super::report::{EXPONENTS, LOWEST_EXPONENT, Narrowing, TensorAudit};
use crate::element::{DType, Element};

/// Values of a parallel task.
const TASK: usize = 1 << 18;
/// Values between additions to wide counters.
const BLOCK: usize = 1 << 12;

/// Audits values in parallel.
pub fn audit<T: Element>(values: &[T]) -> TensorAudit {
    #[cfg(not(target_arch = "wasm32"))]
    let parts: Vec<TensorAudit> = {
        use rayon::prelude::*;
        values.par_chunks(TASK).map(part).collect()
    };
    #[cfg(target_arch = "wasm32")]
    let parts: Vec<TensorAudit> = values.chunks(TASK).map(part).collect();
    let mut all = TensorAudit::empty(T::DTYPE);
    for part in &parts {
        all.append(part);
    }
    all
}

fn part<T: Element>(values: &[T]) -> TensorAudit {
    let mut audit = TensorAudit::empty(T::DTYPE);
    if T::DTYPE == DType::F32 {
        for block in bytemuck::cast_slice::<T, u32>(values).chunks(BLOCK) {
            of_f32(block, &mut audit);
        }
    } else {
        of_16_bits(values, &mut audit);
    }
    audit
}

/// Adds `count` values of the same bits (as f32).
fn add(audit: &mut TensorAudit, bits: u32, count: u64, dtype: DType) {
    let a = bits & 0x7fff_ffff;
    if a > 0x7f80_0000 {
        audit.nans += count;
    } else if a == 0x7f80_0000 {
        if bits == a {
            audit.positive_infinities += count;
        } else {
            audit.negative_infinities += count;
        }
    } else if a == 0 {
        audit.zeros += count;
    } else {
        // In f64 every one of them is normal.
        let exponent = ((f64::from(f32::from_bits(a)).to_bits() >> 52) as i32) - 1023;
        audit.exponents[(exponent - LOWEST_EXPONENT) as usize] += count;
        let border = if dtype == DType::F16 { 0x3880_0000 } else { 0x0080_0000 };
        audit.subnormals += if a < border { count } else { 0 };
        narrow(&mut audit.f16, a, count, [0x477f_f000, 0x3300_0000, 0x387f_e000]);
        narrow(&mut audit.bf16, a, count, [0x7f7f_8000, 0x0000_8000, 0x007f_8000]);
        extend(audit, a, a);
    }
}

/// `borders`: from here on to infinity; up to here to zero; below here to a subnormal.
fn narrow(narrowing: &mut Narrowing, a: u32, count: u64, borders: [u32; 3]) {
    if a >= borders[0] {
        narrowing.overflows += count;
    } else if a <= borders[1] {
        narrowing.vanishes += count;
    } else if a < borders[2] {
        narrowing.subnormals += count;
    }
}

fn extend(audit: &mut TensorAudit, smallest: u32, largest: u32) {
    audit.largest = audit.largest.max(Some(largest));
    audit.smallest = Some(audit.smallest.map_or(smallest, |s| s.min(smallest)));
}

fn of_16_bits<T: Element>(values: &[T], audit: &mut TensorAudit) {
    let patterns: &[u16] = bytemuck::cast_slice(values);
    let mut counts = vec![0u32; 1 << 16];
    for &pattern in patterns {
        counts[usize::from(pattern)] += 1;
    }
    for (pattern, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let value: T = bytemuck::pod_read_unaligned(&(pattern as u16).to_ne_bytes());
        add(audit, value.to_f32().to_bits(), u64::from(count), T::DTYPE);
    }
    if audit.bad() > 0 {
        audit.first_bad = values.iter().position(|v| !v.to_f32().is_finite()).map(|at| at as u64);
    }
    audit.elements = values.len() as u64;
}

fn of_f32(values: &[u32], audit: &mut TensorAudit) {
    let mut fields = [[0u32; 256]; 4];
    let (mut largest, mut smallest) = (0u32, u32::MAX);
    let mut over = [0u32; 2];
    let mut under = [[0u32; 2]; 2];
    for &bits in values {
        let a = bits & 0x7fff_ffff;
        largest = largest.max(a);
        smallest = smallest.min(a);
        over[0] += u32::from(a >= 0x477f_f000);
        over[1] += u32::from(a >= 0x7f7f_8000);
        under[0][0] += u32::from(a <= 0x3300_0000);
        under[0][1] += u32::from(a < 0x387f_e000);
        under[1][0] += u32::from(a <= 0x0000_8000);
        under[1][1] += u32::from(a < 0x007f_8000);
    }
    // Four sets of counters, since neighbours often share an exponent.
    let (quads, rest) = values.as_chunks::<4>();
    for quad in quads {
        for (fields, bits) in fields.iter_mut().zip(quad) {
            fields[(bits >> 23 & 0xff) as usize] += 1;
        }
    }
    for bits in rest {
        fields[0][(bits >> 23 & 0xff) as usize] += 1;
    }
    let of = |field: usize| -> u64 { fields.iter().map(|f| u64::from(f[field])).sum() };
    if of(0) > 0 || of(255) > 0 {
        // Zeros, subnormals, infinities or NaNs: one by one.
        let before = audit.elements;
        for (index, &bits) in values.iter().enumerate() {
            if bits & 0x7f80_0000 == 0x7f80_0000 {
                audit.first_bad.get_or_insert(before + index as u64);
            }
            add(audit, bits, 1, DType::F32);
        }
    } else {
        for field in 1..255 {
            audit.exponents[field + (EXPONENTS - 255)] += of(field);
        }
        for (narrowing, over, under) in [
            (&mut audit.f16, over[0], under[0]),
            (&mut audit.bf16, over[1], under[1]),
        ] {
            narrowing.overflows += u64::from(over);
            narrowing.vanishes += u64::from(under[0]);
            narrowing.subnormals += u64::from(under[1] - under[0]);
        }
        if !values.is_empty() {
            extend(audit, smallest, largest);
        }
    }
    audit.elements += values.len() as u64;
}
