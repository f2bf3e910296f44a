//! Tensors as files hold them, and their conversion to what the kernels run with.

use macheps::{DType, Element, bf16, f16};

/// Element type in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    Bool,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    F16,
    Bf16,
    F32,
    F64,
}

impl Stored {
    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            Stored::Bool | Stored::I8 | Stored::U8 => 1,
            Stored::I16 | Stored::U16 | Stored::F16 | Stored::Bf16 => 2,
            Stored::I32 | Stored::U32 | Stored::F32 => 4,
            Stored::I64 | Stored::U64 | Stored::F64 => 8,
        }
    }

    /// Name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Stored::Bool => "bool",
            Stored::I8 => "i8",
            Stored::I16 => "i16",
            Stored::I32 => "i32",
            Stored::I64 => "i64",
            Stored::U8 => "u8",
            Stored::U16 => "u16",
            Stored::U32 => "u32",
            Stored::U64 => "u64",
            Stored::F16 => "f16",
            Stored::Bf16 => "bf16",
            Stored::F32 => "f32",
            Stored::F64 => "f64",
        }
    }

    /// The type that a kernel runs with by default; `false` if that is not the stored one.
    pub fn runs_as(self) -> (DType, bool) {
        match self {
            Stored::F16 => (DType::F16, true),
            Stored::Bf16 => (DType::Bf16, true),
            Stored::F32 => (DType::F32, true),
            _ => (DType::F32, false),
        }
    }
}

impl From<DType> for Stored {
    fn from(dtype: DType) -> Stored {
        match dtype {
            DType::F32 => Stored::F32,
            DType::F16 => Stored::F16,
            DType::Bf16 => Stored::Bf16,
        }
    }
}

/// A tensor in C order.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Type of the elements in the file.
    pub stored: Stored,
    /// The elements, little-endian.
    bytes: Vec<u8>,
}

/// What a conversion lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// Finite values that became infinite.
    pub overflowed: usize,
}

impl Tensor {
    /// From bytes as stored: big-endian and column-major ones are put in order. `bytes` has exactly the size of the shape.
    pub fn new(
        shape: Vec<usize>,
        stored: Stored,
        mut bytes: Vec<u8>,
        big_endian: bool,
        column_major: bool,
    ) -> Result<Tensor, String> {
        debug_assert_eq!(bytes.len(), shape.iter().product::<usize>() * stored.size());
        if stored == Stored::Bool
            && let Some(at) = bytes.iter().position(|&b| b > 1)
        {
            return Err(format!("element {at} is {}; expected a bool, 0 or 1", bytes[at]));
        }
        if big_endian {
            bytes.chunks_exact_mut(stored.size()).for_each(<[u8]>::reverse);
        }
        if column_major && shape.len() > 1 {
            bytes = to_row_major(&bytes, &shape, stored.size());
        }
        Ok(Tensor { shape, stored, bytes })
    }

    /// The elements as `T`, rounded once to nearest, ties to even, and what was lost.
    pub fn convert<T: Element>(&self) -> (Vec<T>, Loss) {
        let mut loss = Loss::default();
        let mut narrow = |value: f64| {
            let result = T::from_f64(value);
            if value.is_finite() && !result.to_f32().is_finite() {
                loss.overflowed += 1;
            }
            result
        };
        let values = match self.stored {
            // The same type: the bits stay, NaN payloads included.
            stored if stored == Stored::from(T::DTYPE) => self
                .bytes
                .chunks_exact(size_of::<T>())
                .map(|c| {
                    let mut value = T::default();
                    bytemuck::bytes_of_mut(&mut value).copy_from_slice(c);
                    if cfg!(target_endian = "big") {
                        bytemuck::bytes_of_mut(&mut value).reverse();
                    }
                    value
                })
                .collect(),
            Stored::Bool | Stored::U8 => self.bytes.iter().map(|&b| narrow(f64::from(b))).collect(),
            Stored::I8 => self.bytes.iter().map(|&b| narrow(f64::from(b as i8))).collect(),
            Stored::I16 => self.elements(|b| narrow(f64::from(i16::from_le_bytes(b)))),
            Stored::U16 => self.elements(|b| narrow(f64::from(u16::from_le_bytes(b)))),
            Stored::I32 => self.elements(|b| narrow(f64::from(i32::from_le_bytes(b)))),
            Stored::U32 => self.elements(|b| narrow(f64::from(u32::from_le_bytes(b)))),
            Stored::I64 => self.elements(|b| {
                let value = i64::from_le_bytes(b);
                let magnitude = magnitude_to_odd(value.unsigned_abs());
                narrow(if value < 0 { -magnitude } else { magnitude })
            }),
            Stored::U64 => self.elements(|b| narrow(magnitude_to_odd(u64::from_le_bytes(b)))),
            Stored::F16 => self.elements(|b| narrow(f16::from_le_bytes(b).to_f64())),
            Stored::Bf16 => self.elements(|b| narrow(bf16::from_le_bytes(b).to_f64())),
            Stored::F32 => self.elements(|b| narrow(f64::from(f32::from_le_bytes(b)))),
            Stored::F64 => self.elements(|b| narrow(f64::from_le_bytes(b))),
        };
        (values, loss)
    }

    /// The elements in f64: exact but for integers beyond 2^53, which are rounded.
    pub fn to_f64(&self) -> Vec<f64> {
        match self.stored {
            Stored::Bool | Stored::U8 => self.bytes.iter().map(|&b| f64::from(b)).collect(),
            Stored::I8 => self.bytes.iter().map(|&b| f64::from(b as i8)).collect(),
            Stored::I16 => self.elements(|b| f64::from(i16::from_le_bytes(b))),
            Stored::U16 => self.elements(|b| f64::from(u16::from_le_bytes(b))),
            Stored::I32 => self.elements(|b| f64::from(i32::from_le_bytes(b))),
            Stored::U32 => self.elements(|b| f64::from(u32::from_le_bytes(b))),
            Stored::I64 => self.elements(|b| i64::from_le_bytes(b) as f64),
            Stored::U64 => self.elements(|b| u64::from_le_bytes(b) as f64),
            Stored::F16 => self.elements(|b| f16::from_le_bytes(b).to_f64()),
            Stored::Bf16 => self.elements(|b| bf16::from_le_bytes(b).to_f64()),
            Stored::F32 => self.elements(|b| f64::from(f32::from_le_bytes(b))),
            Stored::F64 => self.elements(f64::from_le_bytes),
        }
    }

    /// The elements, little-endian.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The elements as integers; refuses floats and what does not fit.
    pub fn integers(&self) -> Result<Vec<i64>, String> {
        Ok(match self.stored {
            Stored::I8 => self.bytes.iter().map(|&b| i64::from(b as i8)).collect(),
            Stored::U8 => self.bytes.iter().map(|&b| i64::from(b)).collect(),
            Stored::I16 => self.elements(|b| i64::from(i16::from_le_bytes(b))),
            Stored::U16 => self.elements(|b| i64::from(u16::from_le_bytes(b))),
            Stored::I32 => self.elements(|b| i64::from(i32::from_le_bytes(b))),
            Stored::U32 => self.elements(|b| i64::from(u32::from_le_bytes(b))),
            Stored::I64 => self.elements(i64::from_le_bytes),
            Stored::U64 => {
                let values = self.elements(u64::from_le_bytes);
                if let Some(at) = values.iter().position(|&v| v > i64::MAX as u64) {
                    return Err(format!("element {at} is {}, beyond 2^63", values[at]));
                }
                values.into_iter().map(|v| v as i64).collect()
            }
            other => return Err(format!("expected integers, got {}", other.name())),
        })
    }

    /// The elements, `N` bytes each, through `f`.
    fn elements<const N: usize, T>(&self, mut f: impl FnMut([u8; N]) -> T) -> Vec<T> {
        self.bytes
            .chunks_exact(N)
            .map(|chunk| {
                let mut element = [0; N];
                element.copy_from_slice(chunk);
                f(element)
            })
            .collect()
    }
}

/// An integer as f64, such that rounding the result to fewer than 40 bits rounds the integer correctly: what f64
/// cannot hold only sets a sticky bit.
fn magnitude_to_odd(value: u64) -> f64 {
    const LOW: u64 = 0xfff;
    if value >> 53 == 0 {
        value as f64
    } else {
        ((value & !LOW) | (u64::from(value & LOW != 0) << 12)) as f64
    }
}

/// Little-endian bytes of elements.
pub fn to_bytes<T: Element>(values: &[T]) -> Vec<u8> {
    let mut bytes = bytemuck::cast_slice::<T, u8>(values).to_vec();
    if cfg!(target_endian = "big") {
        bytes.chunks_exact_mut(size_of::<T>()).for_each(<[u8]>::reverse);
    }
    bytes
}

/// Reorders elements of `size` bytes from column-major to row-major.
fn to_row_major(bytes: &[u8], shape: &[usize], size: usize) -> Vec<u8> {
    let mut strides = Vec::with_capacity(shape.len());
    let mut stride = size;
    for &n in shape {
        strides.push(stride);
        stride *= n;
    }
    let mut out = Vec::with_capacity(bytes.len());
    for_each_offset(shape, &strides, |at| out.extend_from_slice(&bytes[at..at + size]));
    out
}

/// Transposes: dimension `d` of the result is dimension `order[d]` of the C-ordered input.
pub fn permute<T: Copy>(values: &[T], shape: &[usize], order: &[usize]) -> Vec<T> {
    let own = macheps::rows::contiguous_strides(shape);
    let sizes: Vec<usize> = order.iter().map(|&d| shape[d]).collect();
    let strides: Vec<usize> = order.iter().map(|&d| own[d]).collect();
    let mut out = Vec::with_capacity(values.len());
    for_each_offset(&sizes, &strides, |at| out.push(values[at]));
    out
}

/// The C-ordered tensor of shape `small`, repeated to `shape` by NumPy's rules; `None` if it does not broadcast.
pub fn broadcast<T: Copy>(values: &[T], small: &[usize], shape: &[usize]) -> Option<Vec<T>> {
    let missing = shape.len().checked_sub(small.len())?;
    let own = macheps::rows::contiguous_strides(small);
    let mut strides = vec![0; missing];
    for (d, &n) in small.iter().enumerate() {
        match n {
            _ if n == shape[missing + d] => strides.push(own[d]),
            1 => strides.push(0),
            _ => return None,
        }
    }
    let mut out = Vec::with_capacity(shape.iter().product());
    for_each_offset(shape, &strides, |at| out.push(values[at]));
    Some(out)
}

/// Calls `f` with the offset of every index of `shape`, the last dimension fastest.
fn for_each_offset(shape: &[usize], strides: &[usize], mut f: impl FnMut(usize)) {
    if shape.contains(&0) {
        return;
    }
    let mut index = vec![0; shape.len()];
    let mut at = 0;
    loop {
        f(at);
        let mut d = shape.len();
        loop {
            if d == 0 {
                return;
            }
            d -= 1;
            index[d] += 1;
            at += strides[d];
            if index[d] < shape[d] {
                break;
            }
            at -= strides[d] * shape[d];
            index[d] = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(stored: Stored, bytes: Vec<u8>) -> Tensor {
        Tensor::new(vec![bytes.len() / stored.size()], stored, bytes, false, false).unwrap()
    }

    #[test]
    fn converts_with_one_rounding() {
        // Half an f16 ulp above 1, and a little more in bits that an f32 does not hold.
        let above = 1.0 + 2f64.powi(-11) + 2f64.powi(-40);
        let values = [above, 1.0 + 2f64.powi(-11), 65520.0, 65519.9, f64::NEG_INFINITY, 1e-30];
        let t = tensor(Stored::F64, values.iter().flat_map(|v| v.to_le_bytes()).collect());
        let (got, loss) = t.convert::<f16>();
        let got: Vec<f32> = got.iter().map(|v| v.to_f32()).collect();
        assert_eq!(got, [1.0009766, 1.0, f32::INFINITY, 65504.0, f32::NEG_INFINITY, 0.0]);
        assert_eq!(loss.overflowed, 1);
    }

    #[test]
    fn converts_integers() {
        let t = tensor(
            Stored::I64,
            [i64::MIN, -1, (1 << 24) + 1, (1 << 60) + (1 << 36) + 1]
                .iter()
                .flat_map(|v| v.to_le_bytes())
                .collect(),
        );
        let (got, _) = t.convert::<f32>();
        assert_eq!(got, [-9.223372e18, -1.0, 16777216.0, 2f32.powi(60) + 2f32.powi(37)]);
        let t = tensor(Stored::U64, u64::MAX.to_le_bytes().to_vec());
        assert_eq!(t.convert::<bf16>().0[0].to_f32(), 2f32.powi(64));
        let t = tensor(Stored::I8, vec![0xff, 0x7f]);
        assert_eq!(t.convert::<f32>().0, [-1.0, 127.0]);
        assert!(Tensor::new(vec![1], Stored::Bool, vec![2], false, false).is_err());
    }

    #[test]
    fn orders() {
        let bytes = vec![0, 0, 0, 3, 0, 1, 0, 4, 0, 2, 0, 5];
        let t = Tensor::new(vec![2, 3], Stored::I16, bytes, true, true).unwrap();
        assert_eq!(t.convert::<f32>().0, [0., 1., 2., 3., 4., 5.]);
        assert_eq!(permute(&[0, 1, 2, 3, 4, 5], &[2, 3], &[1, 0]), [0, 3, 1, 4, 2, 5]);
        assert_eq!(permute(&[7], &[], &[]), [7]);
        assert_eq!(
            broadcast(&[1, 2], &[2, 1], &[2, 2, 3]),
            Some(vec![1, 1, 1, 2, 2, 2, 1, 1, 1, 2, 2, 2])
        );
        assert_eq!(broadcast(&[1, 2], &[2], &[3]), None);
        assert_eq!(broadcast(&[1], &[1, 1], &[3]), None);
    }
}
