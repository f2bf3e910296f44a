//! `SRC`: where an input comes from.
//!
//! Nothing that a file says is believed before it is checked against the file's length, so a header cannot make the
//! program allocate, and nothing here panics.

pub mod market;
mod npy;
mod npz;
pub mod safe;

use std::fs::File;
use std::io::{BufReader, Cursor, Read, Seek};
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Outcome};
use crate::tensor::Tensor;

/// A parsed `SRC`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    format: Format,
    path: PathBuf,
    name: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Npy,
    Npz,
    Safetensors,
    MatrixMarket,
}

impl Format {
    fn of(path: &str) -> Option<Format> {
        if market::is_one(path) {
            return Some(Format::MatrixMarket);
        }
        let extension = Path::new(path).extension()?.to_str()?;
        match extension.to_ascii_lowercase().as_str() {
            "npy" => Some(Format::Npy),
            "npz" => Some(Format::Npz),
            "safetensors" => Some(Format::Safetensors),
            _ => None,
        }
    }
}

impl Source {
    /// Parses `x.npy`, `x.npz#name`, `x.safetensors#name`, `x.mtx` or `x.mtx.gz`.
    pub fn parse(text: &str) -> Outcome<Source> {
        // A whole name first: `#` may be part of a path.
        if let Some(format) = Format::of(text) {
            return Ok(Source {
                format,
                path: text.into(),
                name: None,
            });
        }
        if let Some((path, name)) = text
            .match_indices('#')
            .map(|(i, _)| (&text[..i], &text[i + 1..]))
            .find(|(path, _)| Format::of(path).is_some())
        {
            match Format::of(path) {
                Some(format @ (Format::Npy | Format::MatrixMarket)) => {
                    let kind = if format == Format::Npy {
                        "an npy"
                    } else {
                        "a Matrix Market"
                    };
                    return Err(Failure::usage(format!(
                        "{path}: {kind} file holds one array without a name; expected {path} without #{name}"
                    )));
                }
                Some(format) => {
                    return Ok(Source {
                        format,
                        path: path.into(),
                        name: Some(name.to_string()),
                    });
                }
                None => {}
            }
        }
        let text = if text.is_empty() { "''" } else { text };
        Err(Failure::usage(format!(
            "{text}: unknown kind of file; expected x.npy, x.npz#name, x.safetensors#name or a Matrix Market array file, such as x.mtx"
        )))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file, if all tensors of a safetensors file are meant or the one named.
    pub fn safetensors(&self) -> Option<(&Path, Option<&str>)> {
        (self.format == Format::Safetensors).then_some((self.path.as_path(), self.name.as_deref()))
    }

    /// Reads the tensor.
    pub fn read(&self) -> Outcome<Tensor> {
        if self.format == Format::MatrixMarket {
            return market::tensor(&self.path);
        }
        let name = self.name.as_deref();
        let read = || -> Result<Tensor, String> {
            let (mut input, length) = open(&self.path)?;
            match self.format {
                Format::Npy => {
                    let (tensor, rest) = npy::read(&mut input, length)?;
                    if rest > 0 {
                        crate::output::remark(&format!(
                            "{}: {rest} bytes after the array are ignored",
                            self.path.display()
                        ));
                    }
                    Ok(tensor)
                }
                Format::Npz => npz::read(input, name),
                Format::Safetensors => safe::read(&mut input, length, name),
                Format::MatrixMarket => Err("is no file of tensors".to_string()),
            }
        };
        read().map_err(|problem| Failure::file(&self.path, problem))
    }
}

/// What the readers read from.
trait Input: Read + Seek {}
impl<T: Read + Seek> Input for T {}

/// Opens a file and tells its length. What is not a regular file (a pipe) is read into memory.
fn open(path: &Path) -> Result<(Box<dyn Input>, u64), String> {
    let mut file = File::open(path).map_err(|e| format!("cannot be opened: {e}"))?;
    let metadata = file.metadata().map_err(|e| format!("cannot be read: {e}"))?;
    if metadata.is_dir() {
        return Err("is a folder; expected a file".to_string());
    }
    if metadata.is_file() {
        return Ok((Box::new(BufReader::with_capacity(1 << 16, file)), metadata.len()));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)
        .map_err(|e| format!("cannot be read: {e}"))?;
    let length = bytes.len() as u64;
    Ok((Box::new(Cursor::new(bytes)), length))
}

/// Exactly `count` bytes. The caller has held `count` against the file's length.
fn read_exactly(input: &mut impl Read, count: u64) -> Result<Vec<u8>, String> {
    let capacity = usize::try_from(count).map_err(|_| format!("{count} bytes do not fit in memory"))?;
    let mut bytes = Vec::new();
    bytes
        .try_reserve_exact(capacity)
        .map_err(|_| format!("{count} bytes do not fit in memory"))?;
    input
        .take(count)
        .read_to_end(&mut bytes)
        .map_err(|e| format!("cannot be read: {e}"))?;
    if bytes.len() as u64 != count {
        return Err(format!("ends after {} of {count} bytes", bytes.len()));
    }
    Ok(bytes)
}

/// The tensor meant among `names`: the one named, or the only one.
fn choose(mut names: Vec<String>, name: Option<&str>, what: &str) -> Result<String, String> {
    names.sort();
    let list = || {
        if names.is_empty() {
            format!("there is no {what}")
        } else {
            format!("there is {}", names.join(", "))
        }
    };
    match name {
        Some(name) if names.iter().any(|n| n == name) => Ok(name.to_string()),
        Some(name) => Err(format!("no {what} named '{name}'; {}", list())),
        None if names.len() == 1 => Ok(names.remove(0)),
        None if names.is_empty() => Err(format!("holds no {what}; expected one")),
        None => Err(format!(
            "holds {} {what}s, expected one of them as #name; {}",
            names.len(),
            list()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses() {
        let of = |text: &str| Source::parse(text).map(|s| (s.format, s.path.display().to_string(), s.name));
        assert_eq!(of("a/x.npy"), Ok((Format::Npy, "a/x.npy".into(), None)));
        assert_eq!(of("x.npz#a#b"), Ok((Format::Npz, "x.npz".into(), Some("a#b".into()))));
        assert_eq!(
            of("a#1/x.SafeTensors#w.0"),
            Ok((Format::Safetensors, "a#1/x.SafeTensors".into(), Some("w.0".into())))
        );
        assert_eq!(of("x#1.npy"), Ok((Format::Npy, "x#1.npy".into(), None)));
        assert_eq!(of("b.mtx.gz"), Ok((Format::MatrixMarket, "b.mtx.gz".into(), None)));
        assert!(of("b.mtx#a").is_err());
        assert!(of("x.npy#a").is_err());
        assert!(of("x.txt").is_err());
        assert!(of("").is_err());
    }

    #[test]
    fn chooses() {
        let names = || vec!["b".to_string(), "a".to_string()];
        assert_eq!(choose(names(), Some("a"), "tensor"), Ok("a".into()));
        assert_eq!(choose(vec!["a".into()], None, "tensor"), Ok("a".into()));
        assert_eq!(
            choose(names(), Some("c"), "tensor"),
            Err("no tensor named 'c'; there is a, b".into())
        );
        assert_eq!(
            choose(names(), None, "tensor"),
            Err("holds 2 tensors, expected one of them as #name; there is a, b".into())
        );
    }
}
