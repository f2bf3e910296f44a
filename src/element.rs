//! Storage types: f32, f16 and bf16. All arithmetic is in f32; these only say how values are kept.

use crate::float::{Float, Format};
pub use half::{bf16, f16};

/// Storage type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// bfloat16: the upper half of a binary32.
    Bf16,
}

impl DType {
    /// All storage types.
    pub const ALL: [DType; 3] = [DType::F32, DType::F16, DType::Bf16];

    /// Bytes an element takes.
    pub const fn size(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::Bf16 => 2,
        }
    }

    /// Lower-case name: `f32`, `f16`, `bf16`.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::Bf16 => "bf16",
        }
    }

    /// The floating-point format, with every figure that follows from it.
    pub const fn format(self) -> Format {
        match self {
            DType::F32 => Format::F32,
            DType::F16 => Format::F16,
            DType::Bf16 => Format::BF16,
        }
    }

    /// Bits of the significand, the hidden one included.
    pub const fn precision(self) -> i32 {
        self.format().precision()
    }

    /// Exponent of the smallest normal number: it is 2 to this power.
    pub const fn min_exponent(self) -> i32 {
        self.format().min_exponent()
    }

    /// Smallest positive normal number.
    pub fn min_normal(self) -> f64 {
        self.format().min_normal()
    }

    /// Largest finite number.
    pub fn max_finite(self) -> f64 {
        self.format().max_finite()
    }

    /// Unit in the last place of the binade that `value` lies in: [`Format::ulp`].
    #[inline]
    pub fn ulp(self, value: f64) -> f64 {
        self.format().ulp(value)
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for DType {
    type Err = crate::Error;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        DType::ALL
            .into_iter()
            .find(|d| d.name() == s)
            .ok_or_else(|| crate::Error::Option {
                name: "dtype",
                expected: "f32, f16 or bf16",
                got: s.to_string(),
            })
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::f16 {}
    impl Sealed for half::bf16 {}
    impl Sealed for u32 {}
}

/// What a tensor can hold: the storage types, and [`u32`] for indices. Sealed.
pub trait Storable:
    sealed::Sealed + bytemuck::Pod + Copy + Default + PartialEq + std::fmt::Debug + Send + Sync + 'static
{
    /// The type of a view of such elements. Indices take the place of f32: 32-bit words.
    const VIEW: DType;
}

impl Storable for f32 {
    const VIEW: DType = DType::F32;
}

impl Storable for f16 {
    const VIEW: DType = DType::F16;
}

impl Storable for bf16 {
    const VIEW: DType = DType::Bf16;
}

impl Storable for u32 {
    const VIEW: DType = DType::F32;
}

/// A storage type: [`f32`], [`struct@f16`] or [`bf16`]. Sealed.
pub trait Element: Storable {
    /// The type as a value.
    const DTYPE: DType;
    /// Widens; exact.
    fn to_f32(self) -> f32;
    /// Rounds to nearest, ties to even; overflow becomes infinity.
    fn from_f32(value: f32) -> Self;
    /// Rounds once from f64, to nearest, ties to even; overflow becomes infinity.
    fn from_f64(value: f64) -> Self;
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }
    #[inline(always)]
    fn from_f64(value: f64) -> Self {
        value as f32
    }
}

macro_rules! half_element {
    ($type:ty, $dtype:expr) => {
        impl Element for $type {
            const DTYPE: DType = $dtype;
            #[inline(always)]
            fn to_f32(self) -> f32 {
                <$type>::to_f32(self)
            }
            #[inline(always)]
            fn from_f32(value: f32) -> Self {
                <$type>::from_f32(value)
            }
            #[inline(always)]
            fn from_f64(value: f64) -> Self {
                Float::rounded(value)
            }
        }
    };
}
half_element!(f16, DType::F16);
half_element!(bf16, DType::Bf16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_f64_once() {
        let tie = 1.0 + 2f64.powi(-11);
        for (value, expected) in [
            (tie, 0x3c00),
            (tie + 2f64.powi(-45), 0x3c01),
            (tie - 2f64.powi(-45), 0x3c00),
            (-tie - 2f64.powi(-45), 0xbc01),
            (65520.0 - 2f64.powi(-30), 0x7bff),
            (65520.0, 0x7c00),
            (1e300, 0x7c00),
            (f64::NEG_INFINITY, 0xfc00),
            (2f64.powi(-25), 0),
            (2f64.powi(-25) + 2f64.powi(-70), 1),
            (1e-300, 0),
            (-0.0, 0x8000),
        ] {
            assert_eq!(<f16 as Element>::from_f64(value).to_bits(), expected, "{value:e}");
        }
        let tie = 1.0 + 2f64.powi(-8);
        assert_eq!(<bf16 as Element>::from_f64(tie + 2f64.powi(-50)).to_bits(), 0x3f81);
        assert_eq!(<bf16 as Element>::from_f64(tie).to_bits(), 0x3f80);
        assert_eq!(<bf16 as Element>::from_f64(f32::MAX as f64).to_bits(), 0x7f80);
        assert!(<f16 as Element>::from_f64(f64::NAN).is_nan() && <bf16 as Element>::from_f64(f64::NAN).is_nan());
    }
}
