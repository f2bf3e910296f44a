//! Safetensors: only the header and the wanted tensor are read.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::Metadata;

use super::{choose, read_exactly};
use crate::tensor::{Stored, Tensor};

/// The format's own limit.
const LONGEST_HEADER: u64 = 100_000_000;

/// Reads the header of a file of `length` bytes: the tensors, and where their bytes begin.
fn header(input: &mut impl Read, length: u64) -> Result<(Metadata, u64), String> {
    let Some(after_size) = length.checked_sub(8) else {
        return Err(format!(
            "truncated: expected the 8 bytes of a safetensors header's length, the file has {length}"
        ));
    };
    let size = read_exactly(input, 8)?
        .iter()
        .rev()
        .fold(0, |n, &b| n << 8 | u64::from(b));
    if size > LONGEST_HEADER.min(after_size) {
        return Err(format!(
            "not a safetensors file, or truncated: the header claims {size} bytes; expected at most {}",
            LONGEST_HEADER.min(after_size)
        ));
    }
    let header = read_exactly(input, size)?;
    let metadata: Metadata = serde_json::from_slice(&header).map_err(|e| format!("safetensors header: {e}"))?;
    let (have, need) = (after_size - size, metadata.data_len() as u64);
    if have != need {
        return Err(format!(
            "the tensors take {need} bytes, {have} follow the header; expected as many"
        ));
    }
    Ok((metadata, 8 + size))
}

/// A file in the address space: what is not looked at is not read.
pub struct Mapped {
    map: memmap2::Mmap,
    metadata: Metadata,
    data: usize,
}

/// A tensor of a mapped file.
pub struct MappedTensor<'a> {
    pub name: String,
    pub shape: Vec<usize>,
    /// Type of the elements, where it is one of ours, and its name in the file.
    pub stored: Option<Stored>,
    pub type_name: String,
    /// The elements, little-endian, at any alignment.
    pub bytes: &'a [u8],
}

impl Mapped {
    /// Maps a regular file.
    pub fn open(path: &Path) -> Result<Mapped, String> {
        let file = File::open(path).map_err(|e| format!("cannot be opened: {e}"))?;
        if !file.metadata().is_ok_and(|m| m.is_file()) {
            return Err("is not a regular file; expected one that can be mapped into memory".to_string());
        }
        // SAFETY: the mapping is private and read-only, and nothing here takes its bytes for more than numbers: a file that
        // another program changes meanwhile gives other numbers. One that shrinks ends the program by SIGBUS, as it would any
        // program that maps it.
        #[allow(unsafe_code)]
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| format!("cannot be mapped: {e}"))?;
        let mut bytes: &[u8] = &map;
        let (metadata, data) = header(&mut bytes, map.len() as u64)?;
        Ok(Mapped {
            data: data as usize,
            map,
            metadata,
        })
    }

    /// The tensors in the order of their bytes.
    pub fn tensors(&self) -> impl Iterator<Item = MappedTensor<'_>> {
        self.metadata.offset_keys().into_iter().filter_map(|name| {
            let info = self.metadata.info(&name)?;
            let (begin, end) = info.data_offsets;
            Some(MappedTensor {
                shape: info.shape.clone(),
                stored: stored(info.dtype),
                type_name: info.dtype.to_string(),
                bytes: self.map.get(self.data + begin..self.data + end)?,
                name,
            })
        })
    }
}

/// Reads the tensor `name`, or the only one, from a file of `length` bytes.
pub fn read(input: &mut (impl Read + Seek), length: u64, name: Option<&str>) -> Result<Tensor, String> {
    let (metadata, data) = header(input, length)?;
    let tensors = metadata.tensors();
    let name = choose(tensors.keys().cloned().collect(), name, "tensor")?;
    let Some(info) = tensors.get(&name) else {
        return Err(format!("no tensor named '{name}'"));
    };
    let stored = stored(info.dtype).ok_or_else(|| {
        format!(
            "tensor '{name}' has elements of type {}; expected BOOL, an integer, F16, BF16, F32 or F64",
            info.dtype
        )
    })?;
    // The library has checked begin <= end, the shape's product and the sizes.
    let (begin, end) = (info.data_offsets.0 as u64, info.data_offsets.1 as u64);
    input
        .seek(SeekFrom::Start(data + begin))
        .map_err(|e| format!("cannot be read: {e}"))?;
    let bytes = read_exactly(input, end - begin)?;
    Tensor::new(info.shape.clone(), stored, bytes, false, false)
        .map_err(|problem| format!("tensor '{name}': {problem}"))
}

fn stored(dtype: Dtype) -> Option<Stored> {
    Some(match dtype {
        Dtype::BOOL => Stored::Bool,
        Dtype::U8 => Stored::U8,
        Dtype::I8 => Stored::I8,
        Dtype::I16 => Stored::I16,
        Dtype::U16 => Stored::U16,
        Dtype::F16 => Stored::F16,
        Dtype::BF16 => Stored::Bf16,
        Dtype::I32 => Stored::I32,
        Dtype::U32 => Stored::U32,
        Dtype::F32 => Stored::F32,
        Dtype::F64 => Stored::F64,
        Dtype::I64 => Stored::I64,
        Dtype::U64 => Stored::U64,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn parse(bytes: &[u8], name: Option<&str>) -> Result<Tensor, String> {
        read(&mut Cursor::new(bytes), bytes.len() as u64, name)
    }

    const TWO: &str = r#"{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]},"b":{"dtype":"I32","shape":[],"data_offsets":[4,8]}}"#;

    #[test]
    fn reads() {
        let bytes = file(TWO, &[0x80, 0x3f, 0, 0xc0, 7, 0, 0, 0]);
        assert_eq!(parse(&bytes, Some("a")).unwrap().convert::<f32>().0, [1.0, -2.0]);
        assert_eq!(parse(&bytes, Some("b")).unwrap().convert::<f32>().0, [7.0]);
        assert!(parse(&bytes, None).unwrap_err().contains("a, b"));
        assert!(
            parse(&bytes, Some("c"))
                .unwrap_err()
                .contains("no tensor named 'c'; there is a, b")
        );
    }

    #[test]
    fn refuses_what_is_wrong() {
        let one = |dtype: &str, shape: &str, offsets: &str, data: usize| {
            file(
                &format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#),
                &vec![0; data],
            )
        };
        let cases: Vec<(Vec<u8>, &str)> = vec![
            (vec![1, 2, 3], "truncated"),
            (vec![0xff; 40], "expected at most 32"),
            (one("F32", "[2]", "[0,8]", 8)[..20].to_vec(), "expected at most 12"),
            (one("F32", "[2]", "[0,8]", 7), "take 8 bytes, 7 follow"),
            (one("F32", "[2]", "[0,8]", 9), "take 8 bytes, 9 follow"),
            (one("F32", "[2]", "[4,12]", 12), "invalid offset"),
            (one("F32", "[2]", "[8,0]", 8), "invalid offset"),
            (one("F32", "[3]", "[0,8]", 8), "invalid shape"),
            (one("F32", "[4294967296,4294967296]", "[0,8]", 8), "overflow"),
            (one("F32", "[-1]", "[0,8]", 8), "safetensors header"),
            (one("F99", "[2]", "[0,8]", 8), "F99"),
            (one("F8_E4M3", "[8]", "[0,8]", 8), "F8_E4M3"),
            (
                one("BOOL", "[1]", "[0,1]", 1)
                    .into_iter()
                    .rev()
                    .skip(1)
                    .rev()
                    .chain([3])
                    .collect(),
                "expected a bool",
            ),
            (file("{}", &[]), "holds no tensor"),
            (file("{\"a\":", &[]), "safetensors header"),
            (file(&"[".repeat(5000), &[]), "safetensors header"),
        ];
        for (bytes, expected) in cases {
            let error = parse(&bytes, None).map(|t| t.shape).unwrap_err();
            assert!(error.contains(expected), "{error:?} should contain {expected:?}");
        }
    }

    #[test]
    fn survives_any_prefix_and_any_flipped_byte() {
        let good = file(TWO, &[1; 8]);
        for n in 0..good.len() {
            assert!(parse(&good[..n], Some("a")).is_err());
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[n] ^= 1 << bit;
                let _ = parse(&bad, Some("a"));
            }
        }
    }
}
