//! Cases of the audit: what tests, `verify` and `bench` share.

use super::oneshot::{Chunk, difference};
use super::{TensorAudit, reference};
use crate::context::Context;
use crate::element::{DType, Element, bf16, f16};
use crate::error::Result;
use crate::job;
use crate::random::Random;
use crate::verify::{self, Verdict};

/// What the values look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Normal-like.
    Ordinary,
    /// Any bit pattern of the type.
    Bits,
    /// Around the values at which rounding to a 16-bit type turns over.
    Borders,
    /// Of gradients: magnitudes from 1e-12 to 1, a third zeros.
    Gradients,
}

impl Fill {
    /// All of them.
    pub const ALL: [Fill; 4] = [Fill::Ordinary, Fill::Bits, Fill::Borders, Fill::Gradients];
}

/// One case: a tensor of `len` values.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// Storage type.
    pub dtype: DType,
    /// Number of values.
    pub len: usize,
    /// Values.
    pub fill: Fill,
}

/// Bits of f32 at which an answer changes.
const BORDERS: [u32; 12] = [
    0,
    0x0000_8000,
    0x007f_8000,
    0x0080_0000,
    0x3300_0000,
    0x3380_0000,
    0x387f_e000,
    0x3880_0000,
    0x477f_f000,
    0x4780_0000,
    0x7f7f_8000,
    0x7f80_0000,
];

impl Case {
    /// The case's values; the same for every device.
    pub fn data<T: Element>(&self) -> Vec<T> {
        let mut random = Random::new(0xa0d1 ^ self.len as u64);
        let mut value = || match self.fill {
            Fill::Ordinary => T::from_f64(random.normal()),
            Fill::Bits => {
                let bits = random.bits();
                match T::DTYPE {
                    DType::F32 => bytemuck::cast_slice::<u32, T>(&[bits as u32])[0],
                    _ => bytemuck::cast_slice::<u16, T>(&[bits as u16])[0],
                }
            }
            Fill::Borders => {
                let at = BORDERS[random.below(BORDERS.len() as u64) as usize];
                let near = at.wrapping_add(random.below(5) as u32).wrapping_sub(2) & 0x7fff_ffff;
                T::from_f32(f32::from_bits(near | (random.bits() as u32 & 0x8000_0000)))
            }
            Fill::Gradients if random.unit() < 0.33 => T::default(),
            Fill::Gradients => T::from_f64(random.normal().signum() * 10f64.powf(-12.0 * random.unit())),
        };
        (0..self.len).map(|_| value()).collect()
    }

    /// Computes the case on a context; the answer and the oracle's.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn run(&self, context: &Context) -> Result<(TensorAudit, TensorAudit)> {
        pollster::block_on(self.run_async(context))
    }

    /// As `run`, under any executor.
    pub async fn run_async(&self, context: &Context) -> Result<(TensorAudit, TensorAudit)> {
        match self.dtype {
            DType::F32 => self.run_as::<f32>(context).await,
            DType::F16 => self.run_as::<f16>(context).await,
            DType::Bf16 => self.run_as::<bf16>(context).await,
        }
    }

    async fn run_as<T: Element>(&self, context: &Context) -> Result<(TensorAudit, TensorAudit)> {
        let values = self.data::<T>();
        let got = job::run_async(&Chunk { values: &values }, context).await?;
        Ok((got, reference::audit(&values)))
    }
}

impl verify::Case for Case {
    fn op(&self) -> &'static str {
        "audit"
    }

    fn shape(&self) -> String {
        self.len.to_string()
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn detail(&self) -> String {
        format!("{:?}", self.fill).to_lowercase()
    }

    fn run_async<'a>(&'a self, context: &'a Context) -> verify::Judging<'a> {
        Box::pin(async move {
            let (got, want) = self.run_async(context).await?;
            let difference = difference(&got, &want);
            Ok(Verdict {
                max_error: difference.map_or(0.0, |(_, a, b)| (a - b).abs()),
                bound: 0.0,
                unit: "count",
                mismatch: difference.map(|(at, got, want)| format!("counter {at} is {got}, should be {want}")),
            })
        })
    }
}

/// The cases of `verify`.
pub fn verify_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for dtype in DType::ALL {
        for fill in Fill::ALL {
            cases.push(Case {
                dtype,
                len: 40_001,
                fill,
            });
        }
        for len in [0, 1, 16_384] {
            cases.push(Case {
                dtype,
                len,
                fill: Fill::Bits,
            });
        }
    }
    cases
}

/// The cases of `bench`.
pub fn bench_cases(quick: bool) -> Vec<Case> {
    let len = if quick { 1 << 22 } else { 1 << 24 };
    DType::ALL
        .into_iter()
        .map(|dtype| Case {
            dtype,
            len,
            fill: Fill::Gradients,
        })
        .collect()
}
