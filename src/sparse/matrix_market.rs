//! Matrix Market files: coordinate and array format; real, integer and pattern fields; general, symmetric and skew-symmetric
//! matrices; plain or, with the feature `gz`, gzipped.
//!
//! The reader streams line by line, believes no size before it has seen the entries, and names the line of everything that it
//! refuses. Where readers differ, this one
//! - reads words of the banner in any case, blank lines, indented lines, CR LF and comments anywhere;
//! - takes entries of a symmetric or skew-symmetric matrix from either triangle and mirrors each of them;
//! - keeps a diagonal that a skew-symmetric file should not have;
//! - leaves repeated entries as they are: [`Coo::to_csr`] adds them up;
//! - rounds integers beyond 2^53 to the nearest f64, and refuses values beyond f64's range, `inf` and `nan`;
//! - takes a Hermitian matrix of real numbers as symmetric;
//! - refuses complex matrices, vectors, more than one value of an array on a line, and files without a banner.
//!
//! Source: R. F. Boisvert, R. Pozo, K. A. Remington, "The Matrix Market exchange formats: initial design", NISTIR 5935 (1996).

use std::io::{BufRead, Read, Write};
use std::path::Path;

use super::{Coo, Csr, Dense, MAX_INDEX};
use crate::error::{Error, Result};
use crate::float::Float;

/// What a file's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Field {
    /// Decimal numbers.
    Real,
    /// Whole numbers.
    Integer,
    /// Places only; every value is 1.
    Pattern,
}

/// Which part of a matrix a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Storage {
    /// All of it.
    General,
    /// One triangle with the diagonal; the other is its mirror image.
    Symmetric,
    /// One triangle without the diagonal; the other is its negative mirror image.
    SkewSymmetric,
}

/// The matrix of a file, with both triangles.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Matrix {
    /// Of a coordinate file.
    Coordinate(Coo<f64>),
    /// Of an array file.
    Array(Dense<f64>),
}

/// What a file says.
#[derive(Clone, Debug, PartialEq)]
pub struct Contents {
    /// Kind of its values.
    pub field: Field,
    /// The part that it holds.
    pub storage: Storage,
    /// The matrix.
    pub matrix: Matrix,
}

impl Contents {
    /// Compressed rows: repeated entries of a coordinate file are added up, zeros of an array file left out.
    ///
    /// # Errors
    /// [`Error::Csr`] where a sum of repeated entries overflows, [`Error::Limit`] without memory.
    pub fn to_csr(&self) -> Result<Csr<f64>> {
        match &self.matrix {
            Matrix::Coordinate(coo) => coo.to_csr(),
            Matrix::Array(dense) => dense.to_csr(),
        }
    }

    /// The values of a matrix with one column or one row.
    ///
    /// # Errors
    /// [`Error::Shape`] for any other, and those of [`Contents::to_csr`].
    pub fn to_vector(&self) -> Result<Vec<f64>> {
        let dense = match &self.matrix {
            Matrix::Array(dense) => dense.clone(),
            Matrix::Coordinate(coo) => {
                one_line(coo.rows(), coo.cols())?;
                coo.to_csr()?.to_dense()?
            }
        };
        one_line(dense.rows(), dense.cols())?;
        Ok(dense.into_values())
    }
}

fn one_line(rows: usize, cols: usize) -> Result<()> {
    if rows == 1 || cols == 1 {
        return Ok(());
    }
    Err(Error::shape(
        "vector",
        "one row or one column",
        format!("{rows} x {cols}"),
    ))
}

/// A line longer than this is no line of a matrix.
const LONGEST_LINE: usize = 1 << 16;
/// Room made for entries before any has been seen.
const FIRST_ROOM: usize = 1 << 16;

/// Reads a file from any reader.
///
/// # Cost
/// One pass; memory for what was read, twice for symmetric matrices.
///
/// # Errors
/// [`Error::Parse`] with the line; [`Error::Unsupported`] for complex matrices and vectors; [`Error::Limit`] for more than
/// 2^32 - 1 rows, columns or entries; [`Error::Io`].
///
/// ```
/// let text = "%%MatrixMarket matrix coordinate real symmetric\n2 2 2\n1 1 4\n2 1 -1\n";
/// let a = macheps::sparse::matrix_market::read(text.as_bytes())?.to_csr()?;
/// assert_eq!(a.to_dense()?.values(), [4.0, -1.0, -1.0, 0.0]);
/// # Ok::<(), macheps::Error>(())
/// ```
pub fn read(reader: impl BufRead) -> Result<Contents> {
    let mut lines = Lines {
        reader,
        line: Vec::new(),
        number: 0,
    };
    let header = lines.banner()?;
    if header.array {
        lines.array(&header)
    } else {
        lines.coordinate(&header)
    }
}

/// Reads a file by name; gzipped where the name ends in `.gz`.
///
/// # Errors
/// Those of [`read`], in an [`Error::File`] that names the file; [`Error::Unsupported`] for a gzipped file without the feature `gz`.
pub fn read_file(path: impl AsRef<Path>) -> Result<Contents> {
    let path = path.as_ref();
    open(path).and_then(read).map_err(|e| e.in_file(path))
}

fn open(path: &Path) -> Result<Box<dyn BufRead>> {
    let file = std::fs::File::open(path)?;
    if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gz")) {
        #[cfg(feature = "gz")]
        return Ok(Box::new(std::io::BufReader::with_capacity(
            1 << 16,
            flate2::read::MultiGzDecoder::new(file),
        )));
        #[cfg(not(feature = "gz"))]
        return Err(Error::Unsupported {
            what: "a gzipped file".into(),
            reason: "this build lacks the feature `gz`".into(),
        });
    }
    Ok(Box::new(std::io::BufReader::with_capacity(1 << 16, file)))
}

struct Header {
    array: bool,
    field: Field,
    storage: Storage,
}

struct Lines<R> {
    reader: R,
    line: Vec<u8>,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    fn error(&self, expected: impl Into<String>, got: impl Into<String>) -> Error {
        Error::Parse {
            line: self.number,
            expected: expected.into(),
            got: got.into(),
        }
    }

    /// The line's beginning, printable.
    fn quoted(&self) -> String {
        quote(&self.line)
    }

    /// Reads the next line; false at the end of the file.
    fn next(&mut self) -> Result<bool> {
        self.line.clear();
        self.number += 1;
        let limit = LONGEST_LINE as u64 + 1;
        let length = Read::by_ref(&mut self.reader)
            .take(limit)
            .read_until(b'\n', &mut self.line)?;
        if length > LONGEST_LINE {
            return Err(self.error(
                format!("a line of at most {LONGEST_LINE} bytes"),
                "a longer one".to_string(),
            ));
        }
        Ok(length > 0)
    }

    /// The next line that is neither blank nor a comment.
    fn next_content(&mut self) -> Result<bool> {
        while self.next()? {
            match self.line.iter().find(|c| !c.is_ascii_whitespace()) {
                None | Some(b'%') => (),
                Some(_) => return Ok(true),
            }
        }
        Ok(false)
    }

    fn banner(&mut self) -> Result<Header> {
        let expected =
            "the banner '%%MatrixMarket matrix coordinate|array real|integer|pattern general|symmetric|skew-symmetric'";
        if !self.next()? {
            return Err(self.error(expected, "an empty file"));
        }
        let text = String::from_utf8_lossy(&self.line).to_ascii_lowercase();
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let [banner, object, format, field, storage] = words[..] else {
            return Err(self.error(expected, self.quoted()));
        };
        if banner != "%%matrixmarket" {
            return Err(self.error(expected, self.quoted()));
        }
        let unsupported = |what: &str| Error::Unsupported {
            what: format!("line 1: {what}"),
            reason: "matrices of real, integer or pattern values are read".into(),
        };
        match object {
            "matrix" => (),
            "vector" => return Err(unsupported("a vector object")),
            _ => return Err(self.error("the object 'matrix'", quote(object.as_bytes()))),
        }
        let array = match format {
            "coordinate" => false,
            "array" => true,
            _ => return Err(self.error("'coordinate' or 'array'", quote(format.as_bytes()))),
        };
        let field = match field {
            "real" | "double" => Field::Real,
            "integer" | "unsigned-integer" => Field::Integer,
            "pattern" => Field::Pattern,
            "complex" => return Err(unsupported("a complex matrix")),
            _ => return Err(self.error("'real', 'integer' or 'pattern'", quote(field.as_bytes()))),
        };
        let storage = match storage {
            "general" => Storage::General,
            // Without imaginary parts the two are the same.
            "symmetric" | "hermitian" => Storage::Symmetric,
            "skew-symmetric" => Storage::SkewSymmetric,
            _ => {
                return Err(self.error("'general', 'symmetric' or 'skew-symmetric'", quote(storage.as_bytes())));
            }
        };
        if field == Field::Pattern && (array || storage == Storage::SkewSymmetric) {
            return Err(self.error("a pattern in coordinate format, general or symmetric", self.quoted()));
        }
        Ok(Header { array, field, storage })
    }

    /// The N numbers of the size line.
    fn sizes<const N: usize>(&mut self, header: &Header) -> Result<[usize; N]> {
        let expected = if N == 3 {
            "the size line 'rows columns entries'"
        } else {
            "the size line 'rows columns'"
        };
        if !self.next_content()? {
            return Err(self.error(expected, "the end of the file"));
        }
        let mut sizes = [0; N];
        let mut words = words(&self.line);
        for size in &mut sizes {
            let word = words.next().ok_or_else(|| self.error(expected, self.quoted()))?;
            let n = whole(word).ok_or_else(|| self.error(expected, self.quoted()))?;
            if n > MAX_INDEX {
                return Err(self.error(format!("sizes of at most {MAX_INDEX}"), self.quoted()));
            }
            *size = n as usize;
        }
        if words.next().is_some() {
            return Err(self.error(expected, self.quoted()));
        }
        if header.storage != Storage::General && sizes[0] != sizes[1] {
            return Err(self.error("as many rows as columns in a symmetric matrix", self.quoted()));
        }
        Ok(sizes)
    }

    fn coordinate(&mut self, header: &Header) -> Result<Contents> {
        let [rows, cols, entries] = self.sizes::<3>(header)?;
        let mut coo = Coo::new(rows, cols)?;
        coo.reserve(entries.min(FIRST_ROOM));
        let expected = if header.field == Field::Pattern {
            "an entry 'row column'"
        } else {
            "an entry 'row column value'"
        };
        for k in 0..entries {
            if !self.next_content()? {
                return Err(self.error(format!("{entries} entries"), format!("the end of the file after {k}")));
            }
            let mut words = words(&self.line);
            let mut index = |what: &str, n: usize| {
                let word = words.next().ok_or_else(|| self.error(expected, self.quoted()))?;
                match whole(word) {
                    Some(i) if i >= 1 && i <= n as u64 => Ok(i as usize - 1),
                    Some(_) => Err(self.error(format!("a {what} from 1 to {n}"), quote(word))),
                    None => Err(self.error(expected, self.quoted())),
                }
            };
            let row = index("row", rows)?;
            let column = index("column", cols)?;
            let value = match header.field {
                Field::Pattern => 1.0,
                field => {
                    let word = words.next().ok_or_else(|| self.error(expected, self.quoted()))?;
                    self.value(word, field)?
                }
            };
            if words.next().is_some() {
                return Err(self.error(expected, self.quoted()));
            }
            match header.storage {
                Storage::Symmetric if row != column => coo.push(column, row, value)?,
                Storage::SkewSymmetric if row != column => coo.push(column, row, -value)?,
                _ => (),
            }
            coo.push(row, column, value)?;
        }
        self.end(format!("{entries} entries"))?;
        Ok(Contents {
            field: header.field,
            storage: header.storage,
            matrix: Matrix::Coordinate(coo),
        })
    }

    fn array(&mut self, header: &Header) -> Result<Contents> {
        let [rows, cols] = self.sizes::<2>(header)?;
        // The first row of each column that the file holds.
        let first = |column: usize| match header.storage {
            Storage::General => 0,
            Storage::Symmetric => column,
            Storage::SkewSymmetric => (column + 1).min(rows),
        };
        let count: u128 = match header.storage {
            Storage::General => rows as u128 * cols as u128,
            Storage::Symmetric => rows as u128 * (rows as u128 + 1) / 2,
            Storage::SkewSymmetric => rows as u128 * (rows as u128).saturating_sub(1) / 2,
        };
        let mut read = Vec::with_capacity(count.min(FIRST_ROOM as u128) as usize);
        while (read.len() as u128) < count {
            if !self.next_content()? {
                return Err(self.error(
                    format!("{count} values"),
                    format!("the end of the file after {}", read.len()),
                ));
            }
            let mut words = words(&self.line);
            let word = words.next().unwrap_or_default();
            let value = self.value(word, header.field)?;
            if words.next().is_some() {
                return Err(self.error("one value a line", self.quoted()));
            }
            read.push(value);
        }
        self.end(format!("{count} values"))?;
        // Columns in the file, rows in memory.
        let mut values = super::filled(rows * cols, 0.0)?;
        let mut read = read.into_iter();
        for column in 0..cols {
            for (row, value) in (first(column)..rows).zip(&mut read) {
                values[row * cols + column] = value;
                match header.storage {
                    Storage::Symmetric => values[column * cols + row] = value,
                    Storage::SkewSymmetric => values[column * cols + row] = -value,
                    Storage::General => (),
                }
            }
        }
        Ok(Contents {
            field: header.field,
            storage: header.storage,
            matrix: Matrix::Array(Dense::new(rows, cols, values)?),
        })
    }

    fn end(&mut self, expected: String) -> Result<()> {
        if self.next_content()? {
            return Err(self.error(format!("nothing after {expected}"), self.quoted()));
        }
        Ok(())
    }

    fn value(&self, word: &[u8], field: Field) -> Result<f64> {
        let text = std::str::from_utf8(word).unwrap_or_default();
        if field == Field::Integer {
            // i128 holds every 64-bit integer, signed or not.
            return match text.parse::<i128>() {
                Ok(value) => Ok(value as f64),
                Err(_) => Err(self.error("a whole number", quote(word))),
            };
        }
        let value = match text.parse::<f64>() {
            Ok(value) => value,
            // Fortran writes its double precision exponents with a D.
            Err(_) => text
                .replace(['d', 'D'], "e")
                .parse()
                .map_err(|_| self.error("a number", quote(word)))?,
        };
        if !value.is_finite() {
            return Err(self.error("a finite number", quote(word)));
        }
        Ok(value)
    }
}

fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|c| c.is_ascii_whitespace()).filter(|word| !word.is_empty())
}

/// Digits only, after a plus perhaps; nothing that does not fit.
fn whole(word: &[u8]) -> Option<u64> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

fn quote(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text.trim_ascii());
    let mut short: String = text.chars().take(40).collect();
    if short.len() < text.len() {
        short.push_str("...");
    }
    format!("'{}'", short.escape_debug())
}

/// Writes a matrix in coordinate format. A matrix that equals its transpose is written as symmetric, its lower triangle only. Every value
/// has as many digits as bring it back exactly.
///
/// # Errors
/// [`Error::Io`].
///
/// ```
/// use macheps::sparse::{Csr, matrix_market};
/// let mut text = Vec::new();
/// matrix_market::write(&mut text, &Csr::<f32>::identity(1)?)?;
/// assert_eq!(text, b"%%MatrixMarket matrix coordinate real symmetric\n1 1 1\n1 1 1e0\n");
/// # Ok::<(), macheps::Error>(())
/// ```
pub fn write<T: Float>(mut writer: impl Write, a: &Csr<T>) -> Result<()> {
    let symmetry = a.symmetry();
    // A stored zero without a partner would be lost or doubled.
    let symmetric = symmetry.exact && symmetry.pattern;
    let kept = |row: usize, column: usize| !symmetric || column <= row;
    let count = a.iter().filter(|&(row, column, _)| kept(row, column)).count();
    let storage = if symmetric { "symmetric" } else { "general" };
    writeln!(writer, "%%MatrixMarket matrix coordinate real {storage}")?;
    writeln!(writer, "{} {} {count}", a.rows(), a.cols())?;
    for (row, column, value) in a.iter().filter(|&(row, column, _)| kept(row, column)) {
        writeln!(writer, "{} {} {:e}", row + 1, column + 1, value.widen())?;
    }
    writer.flush()?;
    Ok(())
}

/// Writes a dense matrix in array format.
///
/// # Errors
/// [`Error::Io`].
pub fn write_array<T: Float>(mut writer: impl Write, a: &Dense<T>) -> Result<()> {
    writeln!(writer, "%%MatrixMarket matrix array real general")?;
    writeln!(writer, "{} {}", a.rows(), a.cols())?;
    for column in 0..a.cols() {
        for row in 0..a.rows() {
            writeln!(writer, "{:e}", a.row(row)[column].widen())?;
        }
    }
    writer.flush()?;
    Ok(())
}
