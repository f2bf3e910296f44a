//! NumPy's `.npy`, versions 1 to 3.
//!
//! The header is parsed here and not by a general reader of Python literals: it comes from outside, and a small
//! grammar without recursion has no depth, no size and no arithmetic that a file could exhaust.

use std::io::Read;

use super::read_exactly;
use crate::tensor::{Stored, Tensor};

/// Longer headers exist only for records of hundreds of fields, which no operation takes.
const LONGEST_HEADER: u64 = 1 << 20;

/// Reads an array from `length` bytes, and says how many bytes are left after it.
pub fn read(input: &mut impl Read, length: u64) -> Result<(Tensor, u64), String> {
    let mut left = length;
    let mut take = |count: u64, what: &str| {
        left = left
            .checked_sub(count)
            .ok_or_else(|| format!("truncated: expected {count} bytes of {what}, {left} are left"))?;
        Ok::<_, String>((read_exactly(input, count)?, left))
    };
    let (preamble, _) = take(8, "magic and version")?;
    if &preamble[..6] != b"\x93NUMPY" {
        return Err("not an npy file: expected it to start with \\x93NUMPY".to_string());
    }
    let header_length = match (preamble[6], preamble[7]) {
        (1, 0) => little_endian(&take(2, "header length")?.0),
        (2 | 3, 0) => little_endian(&take(4, "header length")?.0),
        (major, minor) => {
            return Err(format!("npy version {major}.{minor}; expected 1.0, 2.0 or 3.0"));
        }
    };
    if header_length > LONGEST_HEADER {
        return Err(format!(
            "npy header of {header_length} bytes; expected at most {LONGEST_HEADER}"
        ));
    }
    let (header, follows) = take(header_length, "npy header")?;
    let Header {
        stored,
        big_endian,
        column_major,
        shape,
    } = Header::parse(&header)?;
    let bytes = shape
        .iter()
        .try_fold(stored.size() as u64, |n, &s| n.checked_mul(s as u64))
        .or_else(|| shape.contains(&0).then_some(0))
        .ok_or_else(|| format!("shape {shape:?} overflows: expected at most 2^64 bytes"))?;
    if bytes > follows {
        return Err(format!(
            "data is too short: shape {shape:?} of {} needs {bytes} bytes, {follows} follow the header",
            stored.name()
        ));
    }
    let (data, rest) = take(bytes, "data")?;
    Ok((Tensor::new(shape, stored, data, big_endian, column_major)?, rest))
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b))
}

struct Header {
    stored: Stored,
    big_endian: bool,
    column_major: bool,
    shape: Vec<usize>,
}

impl Header {
    fn parse(bytes: &[u8]) -> Result<Header, String> {
        let text = std::str::from_utf8(bytes)
            .map_err(|_| "npy header is not text; expected a Python dictionary".to_string())?;
        let (mut descr, mut order, mut shape) = (None, None, None);
        let mut p = Parser { rest: text };
        p.expect('{')?;
        while !p.take('}') {
            let key = p.string()?;
            p.expect(':')?;
            match key.as_str() {
                "descr" if p.peek() == Some('[') => {
                    return Err("the array has records for elements; expected plain numbers".to_string());
                }
                "descr" => descr = Some(p.string()?),
                "fortran_order" => order = Some(p.boolean()?),
                "shape" => shape = Some(p.tuple()?),
                other => {
                    return Err(format!(
                        "npy header has the key '{other}'; expected descr, fortran_order and shape"
                    ));
                }
            }
            if !p.take(',') && p.peek() != Some('}') {
                return Err(p.wrong("a comma or }"));
            }
        }
        if !p.rest.trim().is_empty() {
            return Err(p.wrong("the end of the npy header"));
        }
        let missing = |key: &str| format!("npy header lacks '{key}'; expected descr, fortran_order and shape");
        let (stored, big_endian) = element(&descr.ok_or_else(|| missing("descr"))?)?;
        let column_major = order.ok_or_else(|| missing("fortran_order"))?;
        Ok(Header {
            stored,
            big_endian,
            column_major,
            shape: shape.ok_or_else(|| missing("shape"))?,
        })
    }
}

/// The element type of a descr such as `<f4`, and whether it is big-endian.
fn element(descr: &str) -> Result<(Stored, bool), String> {
    let unknown = || format!("element type '{descr}'; expected bool, an integer of 1 to 8 bytes, f2, f4 or f8");
    let (big_endian, kind) = match descr.as_bytes().first() {
        Some(b'<' | b'|') => (false, &descr[1..]),
        Some(b'>') => (true, &descr[1..]),
        Some(b'=') => (cfg!(target_endian = "big"), &descr[1..]),
        _ => return Err(unknown()),
    };
    let stored = match kind {
        "b1" => Stored::Bool,
        "i1" => Stored::I8,
        "i2" => Stored::I16,
        "i4" => Stored::I32,
        "i8" => Stored::I64,
        "u1" => Stored::U8,
        "u2" => Stored::U16,
        "u4" => Stored::U32,
        "u8" => Stored::U64,
        "f2" => Stored::F16,
        "f4" => Stored::F32,
        "f8" => Stored::F64,
        "V2" => {
            return Err("element type 'V2' (npy has no bf16, writers that try leave this); expected f2, f4 or f8, or bf16 in a safetensors file".to_string());
        }
        _ => return Err(unknown()),
    };
    Ok((stored, big_endian))
}

/// The few Python literals that a header has.
struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn peek(&mut self) -> Option<char> {
        self.rest = self.rest.trim_start();
        self.rest.chars().next()
    }

    fn take(&mut self, c: char) -> bool {
        let found = self.peek() == Some(c);
        if found {
            self.rest = &self.rest[c.len_utf8()..];
        }
        found
    }

    fn wrong(&self, expected: &str) -> String {
        let got: String = self.rest.trim().chars().take(20).collect();
        format!(
            "npy header is malformed: expected {expected} at '{}'",
            got.escape_debug()
        )
    }

    fn expect(&mut self, c: char) -> Result<(), String> {
        if self.take(c) {
            Ok(())
        } else {
            Err(self.wrong(&format!("'{c}'")))
        }
    }

    fn string(&mut self) -> Result<String, String> {
        let quote = self
            .peek()
            .filter(|c| matches!(c, '\'' | '"'))
            .ok_or_else(|| self.wrong("a string"))?;
        let body = &self.rest[1..];
        let end = body.find(quote).ok_or_else(|| self.wrong("a string that ends"))?;
        self.rest = &body[end + 1..];
        Ok(body[..end].to_string())
    }

    fn boolean(&mut self) -> Result<bool, String> {
        self.peek();
        for (word, value) in [("True", true), ("False", false)] {
            if let Some(rest) = self.rest.strip_prefix(word) {
                self.rest = rest;
                return Ok(value);
            }
        }
        Err(self.wrong("True or False"))
    }

    fn tuple(&mut self) -> Result<Vec<usize>, String> {
        let close = if self.take('[') {
            ']'
        } else {
            self.expect('(').map(|()| ')')?
        };
        let mut values = Vec::new();
        while !self.take(close) {
            self.peek();
            let end = self.rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.rest.len());
            let (digits, rest) = self.rest.split_at(end);
            if digits.is_empty() {
                return Err(self.wrong("a dimension, a non-negative integer"));
            }
            let value = digits
                .parse()
                .map_err(|_| format!("dimension {digits} is too large: expected less than 2^64"))?;
            values.push(value);
            // Python 2 wrote long integers so.
            self.rest = rest.strip_prefix('L').unwrap_or(rest);
            if !self.take(',') && self.peek() != Some(close) {
                return Err(self.wrong("a comma or the end of the shape"));
            }
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(version: u8, header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY".to_vec();
        bytes.extend([version, 0]);
        if version == 1 {
            bytes.extend((header.len() as u16).to_le_bytes());
        } else {
            bytes.extend((header.len() as u32).to_le_bytes());
        }
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn parse(bytes: &[u8]) -> Result<(Tensor, u64), String> {
        read(&mut &bytes[..], bytes.len() as u64)
    }

    #[test]
    fn reads_every_version() {
        for version in [1, 2, 3] {
            let (tensor, rest) = parse(&file(
                version,
                "{'descr': '<f2', 'fortran_order': False, 'shape': (2,), }  \n",
                &[0, 0x3c, 0, 0xc0, 9],
            ))
            .unwrap();
            assert_eq!(
                (tensor.shape.as_slice(), tensor.stored, rest),
                (&[2][..], Stored::F16, 1)
            );
            assert_eq!(tensor.convert::<f32>().0, [1.0, -2.0]);
        }
        let (scalar, _) = parse(&file(
            1,
            "{\"shape\": (), \"descr\": \">i2\", \"fortran_order\": True}",
            &[1, 0],
        ))
        .unwrap();
        assert_eq!((scalar.shape.len(), scalar.convert::<f32>().0), (0, vec![256.0]));
        let (empty, _) = parse(&file(
            1,
            "{'descr': '<f8', 'fortran_order': False, 'shape': (18446744073709551615L, 0, 9)}",
            &[],
        ))
        .unwrap();
        assert!(empty.convert::<f32>().0.is_empty());
    }

    #[test]
    fn refuses_what_is_wrong() {
        let header =
            |shape: &str, descr: &str| format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}");
        let cases: Vec<(Vec<u8>, &str)> = vec![
            (vec![], "truncated"),
            (b"\x93NUM".to_vec(), "truncated"),
            (b"PK\x03\x04aaaaaaaa".to_vec(), "not an npy file"),
            (b"\x93NUMPY\x09\x00\x00\x00".to_vec(), "version 9.0"),
            (b"\x93NUMPY\x01\x00\xff\xff{".to_vec(), "npy header, 1 are left"),
            (
                b"\x93NUMPY\x02\x00\xff\xff\xff\xff{".to_vec(),
                "npy header of 4294967295 bytes",
            ),
            (file(1, &header("(4,)", "'<f4'"), &[0; 15]), "needs 16 bytes, 15 follow"),
            (
                file(1, &header("(4294967296, 4294967296)", "'<f4'"), &[0; 16]),
                "overflows",
            ),
            (file(1, &header("(99999999999999999999,)", "'<f4'"), &[]), "too large"),
            (
                file(1, &header("(1000000000000,)", "'<f4'"), &[0; 16]),
                "needs 4000000000000 bytes",
            ),
            (file(1, &header("(-1,)", "'<f4'"), &[]), "non-negative"),
            (file(1, &header("(1 2)", "'<f4'"), &[]), "comma"),
            (file(1, &header("4", "'<f4'"), &[]), "expected '('"),
            (file(1, &header("(1,)", "'<f3'"), &[0; 8]), "element type '<f3'"),
            (file(1, &header("(1,)", "'|V2'"), &[0; 8]), "bf16"),
            (file(1, &header("(1,)", "'<c8'"), &[0; 8]), "element type '<c8'"),
            (file(1, &header("(1,)", "'|O'"), &[0; 8]), "element type '|O'"),
            (file(1, &header("(1,)", "'é4'"), &[0; 8]), "element type"),
            (file(1, &header("(1,)", "[('a', '<f4')]"), &[0; 8]), "records"),
            (file(1, &header("(1,)", "'|b1'"), &[7]), "expected a bool"),
            (
                file(1, "{'descr': '<f4', 'shape': (1,)}", &[0; 4]),
                "lacks 'fortran_order'",
            ),
            (
                file(1, "{'descr': '<f4', 'fortran_order': 0}", &[0; 4]),
                "True or False",
            ),
            (file(1, "{'descr': '<f4', 'x': 0}", &[0; 4]), "key 'x'"),
            (file(1, "{'descr: ", &[0; 4]), "a string that ends"),
            (file(1, "{", &[]), "a string"),
            (file(1, "", &[]), "expected '{'"),
            (
                file(1, &(header("(1,)", "'<f4'") + "x"), &[0; 4]),
                "the end of the npy header",
            ),
        ];
        for (bytes, expected) in cases {
            let error = parse(&bytes).map(|(t, _)| t.shape).unwrap_err();
            assert!(error.contains(expected), "{error:?} should contain {expected:?}");
        }
    }

    #[test]
    fn survives_any_prefix_and_any_flipped_byte() {
        let good = file(
            1,
            "{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }",
            &[1; 24],
        );
        assert!(parse(&good).is_ok());
        for n in 0..good.len() {
            assert!(parse(&good[..n]).is_err());
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[n] ^= 1 << bit;
                let _ = parse(&bad);
            }
        }
    }
}
