//! Formats, the numbers in them, and their bits.

use half::{bf16, f16};
use std::fmt;
use std::num::FpCategory;

/// `2^exponent`; subnormal, 0 or infinity where the exponent asks for it.
pub(super) const fn power_of_two(exponent: i32) -> f64 {
    if exponent > 1023 {
        f64::INFINITY
    } else if exponent >= -1022 {
        f64::from_bits(((exponent + 1023) as u64) << 52)
    } else if exponent >= -1074 {
        f64::from_bits(1 << (exponent + 1074))
    } else {
        0.0
    }
}

/// `value = m * 2^e` with `0.5 <= |m| < 1`, exact for every number, subnormal ones too.
///
/// Zeros, infinities and NaN come back as they are, with `e = 0`.
///
/// ```
/// assert_eq!(macheps::float::frexp(-10.0), (-0.625, 4));
/// assert_eq!(macheps::float::frexp(f64::from_bits(1)), (0.5, -1073));
/// ```
pub fn frexp(value: f64) -> (f64, i32) {
    if value == 0.0 || !value.is_finite() {
        return (value, 0);
    }
    let (normal, shift) = if value.abs() < f64::MIN_POSITIVE {
        (value * power_of_two(54), -54)
    } else {
        (value, 0)
    };
    let bits = normal.to_bits();
    let exponent = ((bits >> 52) & 0x7ff) as i32 - 1022;
    let mantissa = f64::from_bits(bits & !(0x7ff << 52) | 1022 << 52);
    (mantissa, exponent + shift)
}

/// `value * 2^exponent`, rounded once: to nearest even among the subnormals, to infinity above the largest number.
///
/// ```
/// use macheps::float::ldexp;
/// assert_eq!(ldexp(0.75, 4), 12.0);
/// assert_eq!(ldexp(1.0, -1074), f64::from_bits(1));
/// assert_eq!(ldexp(f64::from_bits(1), 1074), 1.0);
/// assert_eq!(ldexp(1.0, 5000), f64::INFINITY);
/// ```
pub fn ldexp(value: f64, exponent: i32) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let (mantissa, own) = frexp(value);
    // The last product is the only one that may round. Beyond this range the answer is 0 or an infinity anyway.
    let total = own.saturating_add(exponent).clamp(-1200, 1200);
    if total >= 1025 {
        mantissa * f64::INFINITY
    } else if total >= -1073 {
        2.0 * mantissa * power_of_two(total - 1)
    } else {
        mantissa * power_of_two(total)
    }
}

/// A binary floating-point format: one sign bit, an exponent, a fraction with a hidden leading bit, subnormals,
/// infinities and NaN, as IEEE 754 lays them out.
///
/// Figures are f64, which holds those of every format here exactly.
///
/// ```
/// use macheps::float::Format;
/// for format in Format::ALL {
///     println!("{format}: epsilon {:e}, largest {:e}", format.machine_epsilon(), format.max_finite());
/// }
/// assert_eq!(Format::BF16.machine_epsilon(), 0.0078125);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Format {
    name: &'static str,
    bits: u32,
    exponent_bits: u32,
}

impl Format {
    /// IEEE 754 binary16.
    pub const F16: Format = Format::new("f16", 16, 5);
    /// bfloat16: the upper half of a binary32.
    pub const BF16: Format = Format::new("bf16", 16, 8);
    /// IEEE 754 binary32.
    pub const F32: Format = Format::new("f32", 32, 8);
    /// IEEE 754 binary64.
    pub const F64: Format = Format::new("f64", 64, 11);
    /// All four, narrow ones first.
    pub const ALL: [Format; 4] = [Format::F16, Format::BF16, Format::F32, Format::F64];

    const fn new(name: &'static str, bits: u32, exponent_bits: u32) -> Format {
        Format {
            name,
            bits,
            exponent_bits,
        }
    }

    /// `f16`, `bf16`, `f32` or `f64`.
    pub const fn name(self) -> &'static str {
        self.name
    }

    /// Bits a number takes.
    pub const fn bits(self) -> u32 {
        self.bits
    }

    /// Bits of the exponent field.
    pub const fn exponent_bits(self) -> u32 {
        self.exponent_bits
    }

    /// Bits of the fraction field.
    pub const fn fraction_bits(self) -> u32 {
        self.bits - 1 - self.exponent_bits
    }

    /// Bits of the significand, the hidden one included: `p`.
    pub const fn precision(self) -> i32 {
        self.fraction_bits() as i32 + 1
    }

    /// What is added to an exponent before it is stored.
    pub const fn bias(self) -> i32 {
        (1 << (self.exponent_bits - 1)) - 1
    }

    /// Exponent of the smallest normal number: it is 2 to this power.
    pub const fn min_exponent(self) -> i32 {
        1 - self.bias()
    }

    /// Exponent of the largest finite number.
    pub const fn max_exponent(self) -> i32 {
        self.bias()
    }

    /// Distance from 1 to the next larger number: `2^(1 - p)`.
    ///
    /// Some authors call half of this the machine epsilon; see [`Format::unit_roundoff`].
    pub const fn machine_epsilon(self) -> f64 {
        power_of_two(1 - self.precision())
    }

    /// Largest relative error of rounding to nearest within the normal range: `u = 2^-p`, half of the machine epsilon.
    pub const fn unit_roundoff(self) -> f64 {
        power_of_two(-self.precision())
    }

    /// Smallest positive normal number.
    pub const fn min_normal(self) -> f64 {
        power_of_two(self.min_exponent())
    }

    /// Smallest positive number.
    pub const fn min_subnormal(self) -> f64 {
        power_of_two(self.min_exponent() - (self.precision() - 1))
    }

    /// Largest finite number.
    pub const fn max_finite(self) -> f64 {
        (2.0 - self.machine_epsilon()) * power_of_two(self.max_exponent())
    }

    /// Unit in the last place of the binade that `value` lies in; that of the subnormals below the smallest normal
    /// number.
    ///
    /// `value` need not be a number of the format: the error of a result is measured in ulps of the true value. Beyond
    /// the largest finite number the exponent goes on as if it had no bound. Infinity for infinities, NaN for NaN.
    #[inline]
    pub fn ulp(self, value: f64) -> f64 {
        let magnitude = value.abs();
        if !magnitude.is_finite() {
            return magnitude;
        }
        let exponent = if magnitude < self.min_normal() {
            self.min_exponent()
        } else {
            // Normal in this format is normal in f64.
            (magnitude.to_bits() >> 52) as i32 - 1023
        };
        power_of_two(exponent - (self.precision() - 1))
    }

    /// The fields of a bit pattern. Bits above those of the format are ignored.
    pub const fn layout(self, bits: u64) -> Layout {
        Layout {
            format: self,
            bits: bits & (u64::MAX >> (64 - self.bits)),
        }
    }

    const fn sign_bit(self) -> u64 {
        1 << (self.bits - 1)
    }

    /// Bits of positive infinity.
    const fn infinity(self) -> u64 {
        ((1 << self.exponent_bits) - 1) << self.fraction_bits()
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// The bits of one number, field by field.
///
/// `{}` prints one line, `{:#}` a line a field:
///
/// ```
/// use macheps::float::Float;
/// let layout = 0.1f32.layout();
/// assert_eq!(
///     layout.to_string(),
///     "f32 0x3dcccccd: 0 01111011 10011001100110011001101  +0x1.99999ap-4 = 0.10000000149011612, normal"
/// );
/// assert_eq!(
///     format!("{layout:#}"),
///     "f32       0x3dcccccd\n\
///      sign      0  +\n\
///      exponent  01111011  123 - 127 = -4\n\
///      fraction  10011001100110011001101  1 + 5033165 / 2^23\n\
///      value     +0x1.99999ap-4 = 0.10000000149011612\n\
///      class     normal"
/// );
/// assert_eq!((layout.sign(), layout.biased_exponent(), layout.fraction()), (false, 123, 0x4ccccd));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    format: Format,
    bits: u64,
}

impl Layout {
    /// The format.
    pub const fn format(self) -> Format {
        self.format
    }

    /// All bits, in the lower end.
    pub const fn bits(self) -> u64 {
        self.bits
    }

    /// The sign bit: true for negative numbers, -0 among them.
    pub const fn sign(self) -> bool {
        self.bits & self.format.sign_bit() != 0
    }

    /// The exponent field as it is stored.
    pub const fn biased_exponent(self) -> u32 {
        ((self.bits & self.format.infinity()) >> self.format.fraction_bits()) as u32
    }

    /// The exponent that the significand is scaled by: that of the smallest normal number for zeros and subnormals,
    /// `None` for infinities and NaN.
    pub const fn exponent(self) -> Option<i32> {
        match self.biased_exponent() as i32 {
            0 => Some(self.format.min_exponent()),
            e if e == (1 << self.format.exponent_bits) - 1 => None,
            e => Some(e - self.format.bias()),
        }
    }

    /// The fraction field, without the hidden bit.
    pub const fn fraction(self) -> u64 {
        self.bits & ((1 << self.format.fraction_bits()) - 1)
    }

    /// Kind of number.
    pub const fn class(self) -> FpCategory {
        match (self.exponent(), self.biased_exponent(), self.fraction()) {
            (None, _, 0) => FpCategory::Infinite,
            (None, ..) => FpCategory::Nan,
            (_, 0, 0) => FpCategory::Zero,
            (_, 0, _) => FpCategory::Subnormal,
            _ => FpCategory::Normal,
        }
    }

    /// Whether it is a NaN that signals: the first bit of its fraction is 0.
    pub const fn is_signaling(self) -> bool {
        matches!(self.class(), FpCategory::Nan) && self.fraction() >> (self.format.fraction_bits() - 1) == 0
    }

    /// The number, exactly. A NaN loses its payload.
    pub fn value(self) -> f64 {
        let magnitude = match (self.exponent(), self.class()) {
            (_, FpCategory::Nan) => f64::NAN,
            (None, _) => f64::INFINITY,
            (Some(exponent), class) => {
                let hidden = u64::from(class == FpCategory::Normal) << self.format.fraction_bits();
                (hidden | self.fraction()) as f64 * power_of_two(exponent - (self.format.precision() - 1))
            }
        };
        if self.sign() { -magnitude } else { magnitude }
    }

    /// Name of the class: `normal`, `subnormal`, `zero`, `infinity`, `quiet NaN` or `signaling NaN`.
    pub const fn class_name(self) -> &'static str {
        match self.class() {
            FpCategory::Normal => "normal",
            FpCategory::Subnormal => "subnormal",
            FpCategory::Zero => "zero",
            FpCategory::Infinite => "infinity",
            FpCategory::Nan if self.is_signaling() => "signaling NaN",
            FpCategory::Nan => "quiet NaN",
        }
    }

    /// The number as a hexadecimal literal of C (`%a`), exact: `+0x1.8p+1`. The leading digit is the hidden bit.
    pub fn hexadecimal(self) -> String {
        let sign = if self.sign() { '-' } else { '+' };
        let Some(exponent) = self.exponent() else {
            let name = if self.fraction() == 0 { "inf" } else { "nan" };
            return format!("{sign}{name}");
        };
        if self.class() == FpCategory::Zero {
            return format!("{sign}0x0p+0");
        }
        let digits = self.format.fraction_bits().div_ceil(4);
        let aligned = self.fraction() << (4 * digits - self.format.fraction_bits());
        let all = format!("{aligned:0width$x}", width = digits as usize);
        let shown = all.trim_end_matches('0');
        let point = if shown.is_empty() { "" } else { "." };
        let hidden = u32::from(self.class() == FpCategory::Normal);
        format!("{sign}0x{hidden}{point}{shown}p{exponent:+}")
    }

    /// `hexadecimal = decimal`, or the name alone where there is no number.
    fn shown_value(self) -> String {
        match self.class() {
            FpCategory::Nan | FpCategory::Infinite => self.hexadecimal(),
            _ => format!("{} = {:?}", self.hexadecimal(), self.value()),
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let format = self.format;
        let sign = u32::from(self.sign());
        let exponent = format!("{:0w$b}", self.biased_exponent(), w = format.exponent_bits() as usize);
        let fraction = format!("{:0w$b}", self.fraction(), w = format.fraction_bits() as usize);
        let digits = format.bits() as usize / 4;
        let (value, class) = (self.shown_value(), self.class_name());
        if !f.alternate() {
            return write!(
                f,
                "{format} 0x{:0digits$x}: {sign} {exponent} {fraction}  {value}, {class}",
                self.bits
            );
        }
        let meaning = match (self.exponent(), self.biased_exponent()) {
            (None, _) => "infinity or NaN".into(),
            (Some(e), 0) => format!("subnormal: {e}"),
            (Some(e), biased) => format!("{biased} - {} = {e}", format.bias()),
        };
        let hidden = u32::from(self.class() == FpCategory::Normal);
        let significand = match self.exponent() {
            None if self.fraction() == 0 => "0".into(),
            None => format!("payload {:#x}", self.fraction()),
            Some(_) => format!("{hidden} + {} / 2^{}", self.fraction(), format.fraction_bits()),
        };
        writeln!(f, "{:<10}0x{:0digits$x}", format.name(), self.bits)?;
        writeln!(f, "sign      {sign}  {}", if self.sign() { '-' } else { '+' })?;
        writeln!(f, "exponent  {exponent}  {meaning}")?;
        writeln!(f, "fraction  {fraction}  {significand}")?;
        writeln!(f, "value     {value}")?;
        write!(f, "class     {class}")
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
    impl Sealed for half::f16 {}
    impl Sealed for half::bf16 {}
}

/// A number of a [`Format`]: [`struct@f16`], [`struct@bf16`], [`f32`] or [`f64`]. Sealed.
///
/// ```
/// use macheps::f16;
/// use macheps::float::Float;
///
/// let x = f16::from_f32(2048.0);
/// assert_eq!(x.ulp().to_f32(), 2.0);
/// assert_eq!(Float::next_up(x).to_f32(), 2050.0);
/// // Below a power of two the numbers lie twice as close.
/// assert_eq!(Float::next_down(x).to_f32(), 2047.0);
/// ```
pub trait Float:
    sealed::Sealed + Copy + Default + PartialEq + PartialOrd + fmt::Debug + fmt::Display + Send + Sync + 'static
{
    /// The format.
    const FORMAT: Format;

    /// The bits, in the lower end.
    fn bit_pattern(self) -> u64;

    /// The number with these bits; bits above those of the format are ignored.
    fn from_bit_pattern(bits: u64) -> Self;

    /// As f64; exact.
    fn widen(self) -> f64;

    /// Rounds once from f64, to nearest, ties to even; overflow becomes infinity.
    fn rounded(value: f64) -> Self;

    /// The fields of its bits, printable.
    fn layout(self) -> Layout {
        Self::FORMAT.layout(self.bit_pattern())
    }

    /// Unit in the last place: distance to the next number of larger magnitude, also for the largest finite number,
    /// where that next one would lie. The smallest subnormal for zero, infinity for infinities, NaN for NaN.
    fn ulp(self) -> Self {
        Self::rounded(Self::FORMAT.ulp(self.widen()))
    }

    /// Signed distance to the next number away from zero, as NumPy's `spacing`: [`Float::ulp`] with the sign of `self`.
    /// NaN for infinities and NaN, infinite for the largest finite number, whose neighbour is infinity.
    fn spacing(self) -> Self {
        let bits = self.bit_pattern();
        let magnitude = bits & !Self::FORMAT.sign_bit();
        if magnitude >= Self::FORMAT.infinity() {
            return Self::rounded(f64::NAN);
        }
        Self::rounded(Self::from_bit_pattern(bits + 1).widen() - self.widen())
    }

    /// The smallest number greater than `self`: the smallest subnormal for both zeros, -0 for its negative, infinity
    /// for the largest finite number and for infinity. A NaN stays as it is.
    fn next_up(self) -> Self {
        let (bits, sign) = (self.bit_pattern(), Self::FORMAT.sign_bit());
        let magnitude = bits & !sign;
        let next = if magnitude > Self::FORMAT.infinity() || bits == Self::FORMAT.infinity() {
            bits
        } else if magnitude == 0 {
            1
        } else if bits == magnitude {
            bits + 1
        } else {
            bits - 1
        };
        Self::from_bit_pattern(next)
    }

    /// The largest number less than `self`: as [`Float::next_up`] with signs turned round.
    fn next_down(self) -> Self {
        let sign = Self::FORMAT.sign_bit();
        let negated = Self::from_bit_pattern(self.bit_pattern() ^ sign);
        if self.bit_pattern() & !sign > Self::FORMAT.infinity() {
            return self;
        }
        Self::from_bit_pattern(Float::next_up(negated).bit_pattern() ^ sign)
    }

    /// How many steps of [`Float::next_up`] or [`Float::next_down`] lead from one number to the other. The two zeros
    /// are the same place, infinity is one step beyond the largest finite number. `None` if either is NaN.
    ///
    /// ```
    /// use macheps::float::Float;
    /// assert_eq!((0.1f64 + 0.2).ulp_distance(0.3), Some(1));
    /// assert_eq!((-0.0f32).ulp_distance(0.0), Some(0));
    /// assert_eq!((-f32::from_bits(1)).ulp_distance(f32::from_bits(1)), Some(2));
    /// assert_eq!(f64::NAN.ulp_distance(f64::NAN), None);
    /// ```
    fn ulp_distance(self, other: Self) -> Option<u64> {
        let difference = position(self)? - position(other)?;
        u64::try_from(difference.unsigned_abs()).ok()
    }

    /// The number so many steps up, or down for negative counts; no further than the infinities. A NaN stays as it is.
    ///
    /// ```
    /// use macheps::float::Float;
    /// assert_eq!(1.0f32.step(-1), 1.0 - f32::EPSILON / 2.0);
    /// assert_eq!(f64::MAX.step(7), f64::INFINITY);
    /// ```
    fn step(self, steps: i64) -> Self {
        let Some(from) = position(self) else {
            return self;
        };
        let infinity = i128::from(Self::FORMAT.infinity());
        let to = (from + i128::from(steps)).clamp(-infinity, infinity);
        let sign = if to < 0 { Self::FORMAT.sign_bit() } else { 0 };
        // At most the bits of infinity, which fit.
        Self::from_bit_pattern(sign | to.unsigned_abs() as u64)
    }
}

/// Place of a number on the line of its format: 0 for the zeros, counting up and down from there.
fn position<T: Float>(value: T) -> Option<i128> {
    let bits = value.bit_pattern();
    let magnitude = bits & !T::FORMAT.sign_bit();
    match (magnitude > T::FORMAT.infinity(), bits == magnitude) {
        (true, _) => None,
        (false, true) => Some(magnitude.into()),
        (false, false) => Some(-i128::from(magnitude)),
    }
}

/// An f64 as f32 such that a second rounding, to a type with at least two bits fewer, gives what a single one would:
/// inexact values go to the neighbour with an odd significand.
#[inline(always)]
fn round_to_odd(value: f64) -> f32 {
    let nearest = value as f32;
    if nearest as f64 == value || value.is_nan() {
        return nearest;
    }
    // Towards zero, then odd. From an infinity this steps to the largest finite number, which is odd.
    let truncated = nearest.to_bits() - u32::from((nearest as f64).abs() > value.abs());
    f32::from_bits(truncated | 1)
}

macro_rules! float {
    ($type:ty, $bits:ty, $format:expr, $widen:expr, $round:expr) => {
        impl Float for $type {
            const FORMAT: Format = $format;
            #[inline(always)]
            fn bit_pattern(self) -> u64 {
                self.to_bits().into()
            }
            #[inline(always)]
            fn from_bit_pattern(bits: u64) -> Self {
                <$type>::from_bits(bits as $bits)
            }
            #[inline(always)]
            fn widen(self) -> f64 {
                $widen(self)
            }
            #[inline(always)]
            fn rounded(value: f64) -> Self {
                $round(value)
            }
        }
    };
}
// `half` drops the lower half of an f64's significand, or rounds twice where the CPU converts: hence the odd f32 between.
float!(f16, u16, Format::F16, f16::to_f64, |v| f16::from_f32(round_to_odd(v)));
// By way of f32, which is one shift.
float!(bf16, u16, Format::BF16, |v: bf16| f64::from(v.to_f32()), |v| {
    bf16::from_f32(round_to_odd(v))
});
float!(f32, u32, Format::F32, f64::from, |v| v as f32);
float!(f64, u64, Format::F64, |v| v, |v| v);
