//! Gradients in host memory, each with a storage type of its own.

use crate::element::{DType, Element, bf16, f16};

/// A gradient tensor in host memory.
///
/// ```
/// use macheps::Gradient;
/// let mut g = vec![1.0f32, 2.0];
/// assert_eq!(Gradient::from(&mut g).len(), 2);
/// ```
#[derive(Debug)]
pub enum Gradient<'a> {
    /// f32.
    F32(&'a mut [f32]),
    /// f16.
    F16(&'a mut [f16]),
    /// bf16.
    Bf16(&'a mut [bf16]),
}

/// Runs a generic function on the slice of a gradient.
macro_rules! with_slice {
    ($gradient:expr, $slice:ident => $body:expr) => {
        match $gradient {
            crate::ops::unscale::Gradient::F32($slice) => $body,
            crate::ops::unscale::Gradient::F16($slice) => $body,
            crate::ops::unscale::Gradient::Bf16($slice) => $body,
        }
    };
}
pub(crate) use with_slice;

impl Gradient<'_> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        with_slice!(self, g => g.len())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Storage type.
    pub fn dtype(&self) -> DType {
        match self {
            Gradient::F32(_) => DType::F32,
            Gradient::F16(_) => DType::F16,
            Gradient::Bf16(_) => DType::Bf16,
        }
    }

    /// The values; exact.
    pub fn values(&self) -> Vec<f64> {
        fn widen<T: Element>(g: &[T]) -> Vec<f64> {
            g.iter().map(|v| f64::from(v.to_f32())).collect()
        }
        with_slice!(self, g => widen(g))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        with_slice!(self, g => bytemuck::cast_slice(g))
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        with_slice!(self, g => bytemuck::cast_slice_mut(g))
    }
}

impl<'a> From<&'a mut [f32]> for Gradient<'a> {
    fn from(g: &'a mut [f32]) -> Self {
        Gradient::F32(g)
    }
}

impl<'a> From<&'a mut [f16]> for Gradient<'a> {
    fn from(g: &'a mut [f16]) -> Self {
        Gradient::F16(g)
    }
}

impl<'a> From<&'a mut [bf16]> for Gradient<'a> {
    fn from(g: &'a mut [bf16]) -> Self {
        Gradient::Bf16(g)
    }
}

impl<'a, T> From<&'a mut Vec<T>> for Gradient<'a>
where
    Gradient<'a>: From<&'a mut [T]>,
{
    fn from(g: &'a mut Vec<T>) -> Self {
        g.as_mut_slice().into()
    }
}

/// The values of a gradient, owned.
#[derive(Debug)]
pub(crate) enum Values {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
}

impl Values {
    /// From bytes, as a device gives them.
    pub(crate) fn of(dtype: DType, bytes: &[u8]) -> Values {
        match dtype {
            DType::F32 => Values::F32(bytemuck::pod_collect_to_vec(bytes)),
            DType::F16 => Values::F16(bytemuck::pod_collect_to_vec(bytes)),
            DType::Bf16 => Values::Bf16(bytemuck::pod_collect_to_vec(bytes)),
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Values::F32(v) => bytemuck::cast_slice(v),
            Values::F16(v) => bytemuck::cast_slice(v),
            Values::Bf16(v) => bytemuck::cast_slice(v),
        }
    }

    pub(crate) fn gradient(&mut self) -> Gradient<'_> {
        match self {
            Values::F32(v) => v.into(),
            Values::F16(v) => v.into(),
            Values::Bf16(v) => v.into(),
        }
    }
}
