//! Test data from files: where it lies and how it is read.

use macheps::element::DType;
#[cfg(feature = "cli")]
use macheps::element::Element;
use safetensors::{Dtype, SafeTensors};
use std::path::PathBuf;

/// The folder with the data sets that are not part of the package, or `None` with a note on the console.
pub fn shared_data(test: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("MACHEPS_SHARED_DATA").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data"),
        PathBuf::from,
    );
    if folder.is_dir() {
        return Some(folder);
    }
    let why = format!("no data at {} (set MACHEPS_SHARED_DATA)", folder.display());
    crate::adapters::skipped(test, &why);
    None
}

/// A JSON file.
pub fn json(path: PathBuf) -> serde_json::Value {
    let text = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A tensor as f64, which holds every value of the types read here exactly.
pub struct Tensor {
    /// Size of each dimension.
    pub shape: Vec<usize>,
    /// The elements in C order.
    pub values: Vec<f64>,
    /// How they are stored; `None` for types that are not storage types of the crate.
    pub dtype: Option<DType>,
}

impl Tensor {
    /// The elements in a storage type, which must hold them exactly.
    #[cfg(feature = "cli")]
    pub fn to<T: Element>(&self) -> Vec<T> {
        assert_eq!(self.dtype, Some(T::DTYPE));
        self.values.iter().map(|&v| T::from_f64(v)).collect()
    }
}

/// Finds a tensor in a safetensors file; `None` if it is not there.
pub fn tensor(file: &SafeTensors, name: &str) -> Option<Tensor> {
    let view = file.tensor(name).ok()?;
    let bytes = view.data();
    let (values, dtype): (Vec<f64>, _) = match view.dtype() {
        Dtype::F64 => (
            bytes
                .chunks_exact(8)
                .map(|b| f64::from_le_bytes(b.try_into().unwrap()))
                .collect(),
            None,
        ),
        Dtype::F32 => (
            bytes
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes(b.try_into().unwrap()).into())
                .collect(),
            Some(DType::F32),
        ),
        Dtype::F16 => (
            bytes
                .chunks_exact(2)
                .map(|b| macheps::f16::from_le_bytes(b.try_into().unwrap()).into())
                .collect(),
            Some(DType::F16),
        ),
        Dtype::BF16 => (
            bytes
                .chunks_exact(2)
                .map(|b| macheps::bf16::from_le_bytes(b.try_into().unwrap()).into())
                .collect(),
            Some(DType::Bf16),
        ),
        Dtype::I64 => (
            bytes
                .chunks_exact(8)
                .map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f64)
                .collect(),
            None,
        ),
        other => panic!("{name}: type {other:?} is not read here"),
    };
    Some(Tensor {
        shape: view.shape().to_vec(),
        values,
        dtype,
    })
}
