//! The oracle of the audit: every value on its own, by what the `half` crate and f64 make of it.

use super::report::{LOWEST_EXPONENT, Narrowing, TensorAudit};
use crate::element::{DType, Element, bf16, f16};

/// Audits values one by one.
pub fn audit<T: Element>(values: &[T]) -> TensorAudit {
    let mut audit = TensorAudit::empty(T::DTYPE);
    audit.elements = values.len() as u64;
    for (index, value) in values.iter().enumerate() {
        let x = value.to_f32();
        if !x.is_finite() {
            audit.first_bad.get_or_insert(index as u64);
            match x {
                _ if x.is_nan() => audit.nans += 1,
                _ if x > 0.0 => audit.positive_infinities += 1,
                _ => audit.negative_infinities += 1,
            }
            continue;
        }
        if x == 0.0 {
            audit.zeros += 1;
            continue;
        }
        let magnitude = f64::from(x.abs());
        audit.exponents[(exponent(magnitude) - LOWEST_EXPONENT) as usize] += 1;
        audit.subnormals += u64::from(magnitude < smallest_normal(T::DTYPE));
        let (h, b) = (f16::from_f32(x), bf16::from_f32(x));
        count(&mut audit.f16, f64::from(h.to_f32()), smallest_normal(DType::F16));
        count(&mut audit.bf16, f64::from(b.to_f32()), smallest_normal(DType::Bf16));
        let largest = audit.max_magnitude().unwrap_or(0.0).max(x.abs());
        let smallest = audit.min_magnitude().unwrap_or(f32::INFINITY).min(x.abs());
        (audit.largest, audit.smallest) = (Some(largest.to_bits()), Some(smallest.to_bits()));
    }
    audit
}

fn smallest_normal(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 2f64.powi(-14),
        DType::Bf16 | DType::F32 => 2f64.powi(-126),
    }
}

/// The integer e with 2^e <= x < 2^(e+1). As an f64 every f32 is normal, so the exponent field has it.
fn exponent(x: f64) -> i32 {
    ((x.to_bits() >> 52) & 0x7ff) as i32 - 1023
}

fn count(narrowing: &mut Narrowing, rounded: f64, smallest_normal: f64) {
    if rounded.is_infinite() {
        narrowing.overflows += 1;
    } else if rounded == 0.0 {
        narrowing.vanishes += 1;
    } else if rounded.abs() < smallest_normal {
        narrowing.subnormals += 1;
    }
}
