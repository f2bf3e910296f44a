//! What an audit finds.

use crate::element::DType;
use crate::error::{Error, Result};

/// Binary exponent of the smallest positive f32: that of bin 0 of [`TensorAudit::exponents`].
pub const LOWEST_EXPONENT: i32 = -149;

/// Number of binary exponents that an f32 can have.
pub const EXPONENTS: usize = 277;

/// Counters of the kernel: the exponents, eleven sums and three extremes.
pub(crate) const SLOTS: usize = EXPONENTS + 14;

/// What rounding to a 16-bit type, to nearest with ties to even, would do to the finite values that are not zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Narrowing {
    /// Values that become infinite.
    pub overflows: u64,
    /// Values that become zero.
    pub vanishes: u64,
    /// Values that become subnormal: they keep fewer digits than the type has.
    pub subnormals: u64,
}

/// A power of two for a loss, such that gradients survive in f16; see [`TensorAudit::loss_scale`].
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct LossScale {
    /// The scale is 2 to this power.
    pub exponent: u32,
    /// Share of the finite values other than zero that reach 2^-24, the smallest f16, without the scale.
    pub share_before: f64,
    /// The same share with the scale.
    pub share_after: f64,
    /// Values that the scale lifts to 2^16 or beyond, which f16 cannot hold.
    pub overflows: u64,
}

/// What the values of a tensor are.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct TensorAudit {
    /// Storage type of the values.
    pub dtype: DType,
    /// Number of values.
    pub elements: u64,
    /// NaNs.
    pub nans: u64,
    /// Values that are +inf.
    pub positive_infinities: u64,
    /// Values that are -inf.
    pub negative_infinities: u64,
    /// Zeros of either sign.
    pub zeros: u64,
    /// Subnormal numbers of the storage type.
    pub subnormals: u64,
    /// Bits, as f32, of the smallest magnitude of the finite values other than zero; see [`TensorAudit::min_magnitude`].
    #[serde(skip)]
    pub(crate) smallest: Option<u32>,
    /// Bits, as f32, of the largest finite magnitude.
    #[serde(skip)]
    pub(crate) largest: Option<u32>,
    /// Number of finite values `x` other than zero by binary exponent: bin i holds 2^e <= abs(x) < 2^(e+1) with
    /// e = i + [`LOWEST_EXPONENT`].
    pub exponents: Vec<u64>,
    /// In f16.
    pub f16: Narrowing,
    /// In bf16.
    pub bf16: Narrowing,
    /// Flat index, in C order, of the first NaN or infinity.
    pub first_bad: Option<u64>,
}

impl TensorAudit {
    /// An audit of no values.
    pub fn empty(dtype: DType) -> TensorAudit {
        TensorAudit {
            dtype,
            elements: 0,
            nans: 0,
            positive_infinities: 0,
            negative_infinities: 0,
            zeros: 0,
            subnormals: 0,
            smallest: None,
            largest: None,
            exponents: vec![0; EXPONENTS],
            f16: Narrowing::default(),
            bf16: Narrowing::default(),
            first_bad: None,
        }
    }

    /// Counters of the kernel as an audit of `elements` values.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are too few counters.
    pub fn from_counts(dtype: DType, elements: u64, counts: &[u32]) -> Result<TensorAudit> {
        let Some(counts) = counts.get(..SLOTS) else {
            return Err(Error::shape(
                "counts of an audit",
                format!("{SLOTS} counters"),
                counts.len().to_string(),
            ));
        };
        let (exponents, rest) = counts.split_at(EXPONENTS);
        let at = |i: usize| u64::from(rest[i]);
        let narrowing = |first: usize| Narrowing {
            overflows: at(first),
            vanishes: at(first + 1),
            subnormals: at(first + 2),
        };
        Ok(TensorAudit {
            dtype,
            elements,
            nans: at(0),
            positive_infinities: at(1),
            negative_infinities: at(2),
            zeros: at(3),
            subnormals: at(4),
            f16: narrowing(5),
            bf16: narrowing(8),
            largest: (rest[11] > 0).then_some(rest[11]),
            smallest: (rest[12] > 0).then(|| 0x7f80_0000 - rest[12]),
            first_bad: (rest[13] > 0).then(|| u64::from(u32::MAX - rest[13])),
            exponents: exponents.iter().map(|&n| u64::from(n)).collect(),
        })
    }

    /// The largest finite magnitude that is not zero.
    pub fn max_magnitude(&self) -> Option<f32> {
        self.largest.map(f32::from_bits)
    }

    /// The smallest finite magnitude that is not zero.
    pub fn min_magnitude(&self) -> Option<f32> {
        self.smallest.map(f32::from_bits)
    }

    /// NaNs and infinities.
    pub fn bad(&self) -> u64 {
        self.nans + self.positive_infinities + self.negative_infinities
    }

    /// Finite values that are not zero.
    pub fn nonzero(&self) -> u64 {
        self.exponents.iter().sum()
    }

    /// Takes in the audit of the values that follow.
    pub fn append(&mut self, next: &TensorAudit) {
        if self.first_bad.is_none() {
            self.first_bad = next.first_bad.map(|at| at + self.elements);
        }
        self.elements += next.elements;
        self.nans += next.nans;
        self.positive_infinities += next.positive_infinities;
        self.negative_infinities += next.negative_infinities;
        self.zeros += next.zeros;
        self.subnormals += next.subnormals;
        for (own, other) in [(&mut self.f16, next.f16), (&mut self.bf16, next.bf16)] {
            own.overflows += other.overflows;
            own.vanishes += other.vanishes;
            own.subnormals += other.subnormals;
        }
        self.largest = self.largest.max(next.largest);
        self.smallest = match (self.smallest, next.smallest) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        for (own, other) in self.exponents.iter_mut().zip(&next.exponents) {
            *own += other;
        }
    }

    /// Values with a binary exponent of at least `exponent`.
    fn reaching(&self, exponent: i32) -> u64 {
        let first = (exponent - LOWEST_EXPONENT).clamp(0, EXPONENTS as i32) as usize;
        self.exponents[first..].iter().sum()
    }

    /// The smallest power of two that lifts at least `share` of the finite values other than zero to 2^-24, the smallest f16, or
    /// above: with it as the loss scale, that share of these gradients does not underflow (Micikevicius et al. 2018, section 3.2).
    /// `None` if there is no such value.
    ///
    /// # Errors
    /// [`Error::Option`] for a share that is not in 0 to 1.
    pub fn loss_scale(&self, share: f64) -> Result<Option<LossScale>> {
        if !(0.0..=1.0).contains(&share) {
            return Err(Error::Option {
                name: "share",
                expected: "a number from 0 to 1",
                got: share.to_string(),
            });
        }
        let all = self.nonzero();
        if all == 0 {
            return Ok(None);
        }
        let of = |count: u64| count as f64 / all as f64;
        let lifted = |power: u32| self.reaching(-24 - power as i32);
        // At 125 every f32 is lifted.
        let exponent = (0..=125u32)
            .find(|&power| lifted(power) as f64 >= share * all as f64)
            .unwrap_or(125);
        Ok(Some(LossScale {
            exponent,
            share_before: of(lifted(0)),
            share_after: of(lifted(exponent)),
            overflows: self.reaching(16 - exponent as i32),
        }))
    }
}
