//! Cases of pruning: what tests, `verify` and `bench` share.

use super::oneshot::Problem;
use super::{Pruned, prune_async};
use crate::context::Context;
use crate::element::{DType, Element, bf16, f16};
use crate::error::Result;
use crate::random::Random;
use crate::verify::{self, Verdict, shape_text};

/// What the values look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Normal-like.
    Ordinary,
    /// Any bit pattern of the type but NaN: subnormals, both zeros, both infinities.
    Bits,
    /// One of five magnitudes, zero among them: many ties.
    Ties,
    /// Neighbours in the order of f32: they differ in the last digit only.
    Close,
}

impl Fill {
    /// All of them.
    pub const ALL: [Fill; 4] = [Fill::Ordinary, Fill::Bits, Fill::Ties, Fill::Close];
}

/// Where a result is wrong: element, result and oracle's.
pub type Compared = std::result::Result<(), (usize, f64, f64)>;

/// One case.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// Storage type.
    pub dtype: DType,
    /// Shape.
    pub shape: Vec<usize>,
    /// Values.
    pub fill: Fill,
    /// Share to be dropped.
    pub sparsity: f64,
}

impl Case {
    /// The case's values; the same for every device.
    pub fn data<T: Element>(&self) -> Vec<T> {
        let count: usize = self.shape.iter().product();
        let mut random = Random::new(0x9a1e ^ count as u64);
        let mut value = || match self.fill {
            Fill::Ordinary => T::from_f64(random.normal()),
            Fill::Bits => loop {
                let bits = random.bits();
                let value = match T::DTYPE {
                    DType::F32 => bytemuck::cast_slice::<u32, T>(&[bits as u32])[0],
                    _ => bytemuck::cast_slice::<u16, T>(&[bits as u16])[0],
                };
                if !value.to_f32().is_nan() {
                    break value;
                }
            },
            Fill::Ties => {
                let magnitude = [0.0, 0.5, 1.0, 3.0, f64::INFINITY][random.below(5) as usize];
                T::from_f64(if random.unit() < 0.5 { -magnitude } else { magnitude })
            }
            Fill::Close => {
                let near = f32::from_bits(0x3f80_0000 + random.below(700) as u32);
                T::from_f32(if random.unit() < 0.5 { -near } else { near })
            }
        };
        (0..count).map(|_| value()).collect()
    }

    /// Computes the case on a context; the result, and where it is wrong: element, result and oracle's.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn run(&self, context: &Context) -> Result<(Pruned, Compared)> {
        pollster::block_on(self.run_async(context))
    }

    /// As `run`, under any executor.
    pub async fn run_async(&self, context: &Context) -> Result<(Pruned, Compared)> {
        match self.dtype {
            DType::F32 => self.run_as::<f32>(context).await,
            DType::F16 => self.run_as::<f16>(context).await,
            DType::Bf16 => self.run_as::<bf16>(context).await,
        }
    }

    async fn run_as<T: Element>(&self, context: &Context) -> Result<(Pruned, Compared)> {
        let values = self.data::<T>();
        let got = prune_async(context, &values, &self.shape, self.sparsity).await?;
        let verdict = Problem::new(&values, &self.shape, self.sparsity)?.compare(&got);
        Ok((got, verdict))
    }
}

impl verify::Case for Case {
    fn op(&self) -> &'static str {
        "prune"
    }

    fn shape(&self) -> String {
        shape_text(&self.shape)
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn detail(&self) -> String {
        format!("{:?}, sparsity {}", self.fill, self.sparsity).to_lowercase()
    }

    fn run_async<'a>(&'a self, context: &'a Context) -> verify::Judging<'a> {
        Box::pin(async move {
            let (_, verdict) = self.run_async(context).await?;
            let difference = verdict.err();
            Ok(Verdict {
                max_error: difference.map_or(0.0, |(_, got, want)| (got - want).abs()),
                bound: 0.0,
                unit: "value",
                mismatch: difference.map(|(at, got, want)| format!("element {at} is {got}, should be {want}")),
            })
        })
    }
}

/// The cases of `verify`.
pub fn verify_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for dtype in DType::ALL {
        let case = |shape: &[usize], fill, sparsity| Case {
            dtype,
            shape: shape.to_vec(),
            fill,
            sparsity,
        };
        for fill in Fill::ALL {
            cases.push(case(&[150, 267], fill, 0.9));
        }
        for sparsity in [0.0, 1e-9, 0.5, 1.0] {
            cases.push(case(&[1001], Fill::Bits, sparsity));
        }
        cases.push(case(&[0, 3], Fill::Ordinary, 0.5));
        cases.push(case(&[1], Fill::Ordinary, 1.0));
    }
    cases
}

/// The cases of `bench`.
pub fn bench_cases(quick: bool) -> Vec<Case> {
    let shape = if quick { vec![2048, 1024] } else { vec![4096, 4096] };
    DType::ALL
        .into_iter()
        .map(|dtype| Case {
            dtype,
            shape: shape.clone(),
            fill: Fill::Ordinary,
            sparsity: 0.9,
        })
        .collect()
}
