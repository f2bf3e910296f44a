//! Sparse matrices on the host: what is refused, what is counted, and real files.

use macheps::float::Neumaier;
use macheps::sparse::matrix_market::{self, Field, Matrix, Storage};
use macheps::sparse::{Coo, Csr, Dense, Narrowing};
use macheps::{CsrDefect, Error, bf16, f16};
use proptest::prelude::*;
use std::path::Path;

use crate::data::{json, shared_data};

fn csr(rows: usize, cols: usize, row_ptr: &[u32], columns: &[u32], values: &[f32]) -> Result<Csr<f32>, Error> {
    Csr::try_new(rows, cols, row_ptr.to_vec(), columns.to_vec(), values.to_vec())
}

fn dense(rows: usize, cols: usize, values: &[f64]) -> Csr<f64> {
    Dense::new(rows, cols, values.to_vec()).unwrap().to_csr().unwrap()
}

#[test]
fn csr_names_its_defect() {
    let (v, inf) = ([1.0f32, 2.0, 3.0], f32::INFINITY);
    let cases: [(Result<Csr<f32>, Error>, usize, CsrDefect); 11] = [
        (
            csr(2, 2, &[0, 1], &[0], &v[..1]),
            2,
            CsrDefect::RowPtrLength { expected: 3, got: 2 },
        ),
        (
            csr(1, 1, &[0, 1, 1], &[0], &v[..1]),
            1,
            CsrDefect::RowPtrLength { expected: 2, got: 3 },
        ),
        (
            csr(1, 3, &[0, 3], &[0, 1, 2], &v[..2]),
            0,
            CsrDefect::ValuesLength { columns: 3, values: 2 },
        ),
        (csr(1, 3, &[1, 3], &[0, 1, 2], &v), 0, CsrDefect::RowPtrStart { got: 1 }),
        (
            csr(3, 3, &[0, 2, 1, 3], &[0, 1, 2], &v),
            1,
            CsrDefect::RowPtrOrder { this: 2, next: 1 },
        ),
        (
            csr(2, 3, &[0, 4, 4], &[0, 1, 2], &v),
            0,
            CsrDefect::RowPtrEnd { entries: 3, got: 4 },
        ),
        (
            csr(2, 3, &[0, 1, 2], &[0, 1, 2], &v),
            1,
            CsrDefect::RowPtrEnd { entries: 3, got: 2 },
        ),
        (
            csr(2, 3, &[0, 1, 3], &[0, 1, 3], &v),
            1,
            CsrDefect::ColumnOutOfRange { column: 3, cols: 3 },
        ),
        (
            csr(2, 3, &[0, 1, 3], &[0, 2, 1], &v),
            1,
            CsrDefect::Unsorted { column: 1, after: 2 },
        ),
        (
            csr(2, 3, &[0, 1, 3], &[0, 1, 1], &v),
            1,
            CsrDefect::Duplicate { column: 1 },
        ),
        (
            csr(2, 3, &[0, 1, 3], &[0, 1, 2], &[1.0, 2.0, inf]),
            1,
            CsrDefect::NonFinite {
                column: 2,
                value: f64::INFINITY,
            },
        ),
    ];
    for (got, at, expected) in cases {
        match got {
            Err(Error::Csr { row, defect }) => assert_eq!((row, &defect), (at, &expected)),
            other => panic!("{expected:?}: {other:?}"),
        }
    }
    for (rows, cols) in [(0, 0), (0, 5), (5, 0)] {
        assert_eq!(csr(rows, cols, &vec![0; rows + 1], &[], &[]).unwrap().entries(), 0);
    }
    let a = csr(3, 3, &[0, 2, 2, 3], &[0, 2, 1], &v).unwrap();
    assert_eq!(
        (a.get(0, 2), a.get(1, 1), a.get(2, 1), a.get(7, 0)),
        (Some(2.0), None, Some(3.0), None)
    );
    match a.with_values(vec![1.0f64, 2.0, f64::NAN]) {
        Err(Error::Csr {
            row: 2,
            defect: CsrDefect::NonFinite { column: 1, .. },
        }) => (),
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        a.with_values(vec![1.0f64]),
        Err(Error::Csr {
            defect: CsrDefect::ValuesLength { columns: 3, values: 1 },
            ..
        })
    ));
}

#[test]
fn coordinates_add_up() {
    let mut coo = Coo::new(2, 3).unwrap();
    for (i, j, v) in [
        (1, 2, 1.0),
        (0, 1, 5.0),
        (1, 2, 2.0),
        (1, 0, 7.0),
        (0, 1, -5.0),
        (1, 2, 4.0),
    ] {
        coo.push(i, j, v).unwrap();
    }
    let a = coo.to_csr().unwrap();
    assert_eq!(a.row_ptr(), [0, 1, 3]);
    assert_eq!(a.columns(), [1, 0, 2]);
    assert_eq!(a.values(), [0.0, 7.0, 7.0]);
    assert!(matches!(coo.push(2, 0, 1.0), Err(Error::Shape { .. })));
    assert!(matches!(coo.push(0, 3, 1.0), Err(Error::Shape { .. })));
    assert!(matches!(Coo::<f32>::new(1 << 32, 1), Err(Error::Limit { .. })));
    // In f16 the third one would be lost beside the first.
    let mut halves = Coo::new(1, 1).unwrap();
    for v in [2048.0, 1.0, 1.0] {
        halves.push(0, 0, f16::from_f32(v)).unwrap();
    }
    assert_eq!(halves.to_csr().unwrap().values()[0].to_f32(), 2050.0);
    for v in [f64::MAX, f64::MAX] {
        coo.push(1, 1, v).unwrap();
    }
    assert!(matches!(
        coo.to_csr(),
        Err(Error::Csr {
            row: 1,
            defect: CsrDefect::NonFinite { column: 1, .. }
        })
    ));
    // Many more rows than entries.
    let mut wide = Coo::new(100_000, 100_000).unwrap();
    for k in 0..10 {
        wide.push(99_999 - 7 * (k % 3), k * 5_000, k as f64).unwrap();
    }
    let a = wide.to_csr().unwrap();
    assert_eq!((a.entries(), a.row_statistics().empty), (10, 99_997));
    assert_eq!(Coo::from(&a).to_csr().unwrap(), a);
}

#[test]
fn narrowing_counts() {
    let a = dense(2, 3, &[1.0, 1e-50, 1e-40, 0.1, 1e39, -1e300]);
    match a.narrow::<f32>(Narrowing::Refuse) {
        Err(Error::Csr {
            row: 1,
            defect: CsrDefect::Overflow {
                column: 1, value: 1e39, ..
            },
        }) => (),
        other => panic!("{other:?}"),
    }
    let n = a.narrow::<f32>(Narrowing::Saturate).unwrap();
    assert_eq!((n.rounded, n.overflowed, n.vanished, n.subnormal), (5, 2, 1, 1));
    assert_eq!(n.matrix.values()[4..], [f32::MAX, -f32::MAX]);
    assert_eq!(n.matrix.entries(), 6);
    assert_eq!(n.matrix.widen().values()[3], 0.1f32 as f64);
    let halves = dense(1, 2, &[65504.0, 65520.0]);
    assert!(halves.narrow::<f16>(Narrowing::Refuse).is_err());
    assert_eq!(halves.narrow::<bf16>(Narrowing::Refuse).unwrap().rounded, 2);
}

#[test]
fn properties_in_small() {
    let a = dense(3, 3, &[4.0, -1.0, 0.0, -1.0, 4.0, -1.0, 0.0, -1.0, 1.0]);
    assert_eq!(
        (a.norm_inf(), a.norm_frobenius(), a.largest()),
        (6.0, 37f64.sqrt(), 4.0)
    );
    let (symmetry, dominance, rows) = (a.symmetry(), a.diagonal_dominance(), a.row_statistics());
    assert!(symmetry.exact && symmetry.pattern && symmetry.largest_difference == 0.0);
    assert!(!dominance.strict && dominance.weak);
    assert_eq!((dominance.largest_ratio, dominance.row), (1.0, 2));
    assert_eq!((rows.min, rows.max, rows.empty, rows.mean), (2, 3, 0, 7.0 / 3.0));
    assert!(a.shifted(0.5).unwrap().diagonal_dominance().strict);
    let b = dense(2, 2, &[0.0, 2.0, 1.0, 0.0]);
    assert_eq!(b.symmetry().largest_difference, 0.5);
    assert_eq!(b.diagonal_dominance().largest_ratio, f64::INFINITY);
    assert_eq!(b.shifted(3.0).unwrap(), dense(2, 2, &[3.0, 2.0, 1.0, 3.0]));
    assert!(dense(1, 2, &[1.0, 1.0]).shifted(1.0).is_err());
    assert!(!dense(1, 2, &[1.0, 1.0]).symmetry().exact);
    // Squares beyond the range of f64, and below it.
    assert_eq!(dense(1, 2, &[3e300, 4e300]).norm_frobenius(), 5e300);
    let tiny = dense(1, 2, &[3e-310, 4e-310]).norm_frobenius();
    assert!((tiny - 5e-310).abs() < 1e-322, "{tiny:e}");
    // 1 against 1/3 three times, whose f64 is below a third: dominated strictly; against a hair more, not even weakly.
    assert!(dense(1, 4, &[1.0, 0.3, 0.3, 0.3]).diagonal_dominance().strict);
    assert!(!dense(1, 3, &[1.0, 1.0, 1e-30]).diagonal_dominance().weak);
}

proptest! {
    #[test]
    fn conversions_undo_each_other(
        (rows, cols) in (0usize..12, 0usize..12),
        raw in prop::collection::vec((0usize..1000, 0usize..1000, -4i8..=4), 0..40),
    ) {
        let mut coo = Coo::new(rows, cols).unwrap();
        let mut sums = vec![0.0; rows * cols];
        if rows * cols > 0 {
            for (i, j, v) in raw {
                let (i, j) = (i % rows, j % cols);
                coo.push(i, j, f64::from(v)).unwrap();
                sums[i * cols + j] += f64::from(v);
            }
        }
        let a = coo.to_csr().unwrap();
        let expanded = a.to_dense().unwrap();
        prop_assert_eq!(expanded.values(), &sums[..]);
        let checked = Csr::try_new(rows, cols, a.row_ptr().to_vec(), a.columns().to_vec(), a.values().to_vec());
        prop_assert_eq!(checked.as_ref().unwrap(), &a);
        let t = a.transpose().unwrap();
        prop_assert_eq!(&t.transpose().unwrap(), &a);
        prop_assert!(is_transpose(&a, &t));
        let mut text = Vec::new();
        matrix_market::write(&mut text, &a).unwrap();
        prop_assert_eq!(&matrix_market::read(&text[..]).unwrap().to_csr().unwrap(), &a);
        text.clear();
        matrix_market::write_array(&mut text, &a.to_dense().unwrap()).unwrap();
        prop_assert_eq!(&matrix_market::read(&text[..]).unwrap().to_csr().unwrap(), &a.to_dense().unwrap().to_csr().unwrap());
    }

    /// Whatever the bytes: an answer or a typed error.
    #[test]
    fn any_bytes_are_read_or_refused(text in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = matrix_market::read(&text[..]);
        let mut with_banner = b"%%MatrixMarket matrix coordinate real general\n".to_vec();
        with_banner.extend_from_slice(&text);
        let _ = matrix_market::read(&with_banner[..]);
    }

    /// Values come back bit for bit.
    #[test]
    fn values_survive_the_text(bits in any::<u64>()) {
        let value = f64::from_bits(bits);
        prop_assume!(value.is_finite());
        let a = Csr::try_new(1, 1, vec![0, 1], vec![0], vec![value]).unwrap();
        let mut text = Vec::new();
        matrix_market::write(&mut text, &a).unwrap();
        let back = matrix_market::read(&text[..]).unwrap().to_csr().unwrap();
        prop_assert_eq!(back.values()[0].to_bits(), bits);
    }
}

/// Whether every entry is where it belongs.
fn is_transpose(a: &Csr<f64>, t: &Csr<f64>) -> bool {
    (t.rows(), t.cols(), t.entries()) == (a.cols(), a.rows(), a.entries())
        && a.iter().all(|(i, j, v)| t.get(j, i) == Some(v))
}

/// Transposes with their indices or values in the wrong order are seen.
#[test]
fn planted_transposes() {
    let a = Csr::try_new(
        3,
        3,
        vec![0, 2, 3, 5],
        vec![0, 2, 0, 1, 2],
        vec![1.0, 2.0, 3.0, 4.0, 5.0],
    )
    .unwrap();
    let t = a.transpose().unwrap();
    assert!(is_transpose(&a, &t));
    // Values as given, under the transposed pattern; and nothing transposed at all.
    assert!(!is_transpose(&a, &t.with_values(a.values().to_vec()).unwrap()));
    assert!(!is_transpose(&a, &a));
}

/// Small files broken in every byte, and cut at every one.
#[test]
fn broken_files_end_in_an_answer() {
    let files = [
        "%%MatrixMarket matrix coordinate real symmetric\n% c\n3 3 4\n1 1 2.5e0\n2 1 -1\n3 2 1d3\n3 3 .5\n",
        "%%MatrixMarket matrix array integer skew-symmetric\n3 3\n1\n-2\n3\n",
        "%%MatrixMarket matrix coordinate pattern general\r\n2 4 2\r\n1 4\r\n2 1\r\n",
    ];
    for file in files {
        let bytes = file.as_bytes();
        assert!(matrix_market::read(bytes).is_ok(), "{file}");
        for at in 0..bytes.len() {
            let _ = matrix_market::read(&bytes[..at]);
            for bit in 0..8 {
                let mut broken = bytes.to_vec();
                broken[at] ^= 1 << bit;
                let _ = matrix_market::read(&broken[..]);
            }
        }
    }
}

#[test]
fn parse_errors_name_the_line() {
    let banner = "%%MatrixMarket matrix coordinate real general";
    for (text, line, word) in [
        (String::new(), 1, "empty"),
        (
            "%%MatrixMarkt matrix coordinate real general\n1 1 0\n".into(),
            1,
            "banner",
        ),
        (format!("{banner}\n% c\n\n2 2\n"), 4, "rows columns entries"),
        (format!("{banner}\n2 2 1\n3 1 1.0\n"), 3, "a row from 1 to 2"),
        (format!("{banner}\n2 2 1\n1 0 1.0\n"), 3, "a column from 1 to 2"),
        (format!("{banner}\n2 2 1\n1 1 x\n"), 3, "a number"),
        (format!("{banner}\n2 2 1\n1 1 nan\n"), 3, "a finite number"),
        (format!("{banner}\n2 2 1\n1 1 1e999\n"), 3, "a finite number"),
        (format!("{banner}\n2 2 2\n1 1 1\n"), 4, "the end of the file after 1"),
        (
            format!("{banner}\n2 2 1\n1 1 1\n%\n2 2 2\n"),
            5,
            "nothing after 1 entries",
        ),
        (format!("{banner}\n2 2 18446744073709551616\n"), 2, "size line"),
        (format!("{banner}\n4294967296 1 0\n"), 2, "at most 4294967295"),
        (format!("{banner}\n2 2 4294967295\n1 1 1\n"), 4, "4294967295 entries"),
        (
            banner.replace("general", "symmetric") + "\n2 3 0\n",
            2,
            "as many rows as columns",
        ),
        (
            banner.replace("coordinate", "array") + "\n1 1\n1 2\n",
            3,
            "one value a line",
        ),
        (format!("{banner}\n{}\n", " ".repeat(1 << 17)), 2, "at most 65536 bytes"),
    ] {
        match matrix_market::read(text.as_bytes()) {
            Err(Error::Parse {
                line: at,
                expected,
                got,
            }) => {
                assert_eq!(at, line, "{text}");
                assert!(format!("{expected}, got {got}").contains(word), "{expected}, got {got}");
            }
            other => panic!("{text}: {other:?}"),
        }
    }
    let complex = matrix_market::read(&b"%%MatrixMarket matrix coordinate complex general\n1 1 1\n1 1 1 1\n"[..]);
    assert!(matches!(complex, Err(Error::Unsupported { .. })));
    let hermitian = matrix_market::read(&b"%%MatrixMarket matrix coordinate real Hermitian\n2 2 1\n2 1 3\n"[..]);
    let hermitian = hermitian.and_then(|m| m.to_csr()).unwrap();
    assert_eq!(hermitian.iter().collect::<Vec<_>>(), [(0, 1, 3.0), (1, 0, 3.0)]);
    match matrix_market::read_file("/nonexistent/a.mtx") {
        Err(Error::File { path, source }) => {
            assert_eq!(path, "/nonexistent/a.mtx");
            assert!(matches!(
                *source,
                Error::Io {
                    kind: std::io::ErrorKind::NotFound,
                    ..
                }
            ));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn malformed_files() {
    let Some(folder) = shared_data("sparse::malformed_files") else {
        return;
    };
    let folder = folder.join("mtx_malformed");
    let index = json(folder.join("index.json"));
    let (mut read, mut refused) = (0, 0);
    for file in index["files"].as_array().unwrap() {
        let name = file["file"].as_str().unwrap();
        let got = matrix_market::read_file(folder.join(name)).map_err(|e| match e {
            Error::File { source, .. } => *source,
            other => panic!("{name}: {other} does not name the file"),
        });
        // What is left out by design is refused as such.
        let by_design = matches!(got, Err(Error::Unsupported { .. }));
        if let Err(e) = &got {
            refused += 1;
            assert!(
                matches!(e, Error::Parse { .. } | Error::Unsupported { .. }),
                "{name}: {e:?}"
            );
        } else {
            read += 1;
        }
        match file["expect"].as_str().unwrap() {
            "error" => assert!(got.is_err(), "{name} was read"),
            "ok" => assert!(got.is_ok() || by_design, "{name}: {}", got.unwrap_err()),
            _ => (),
        }
        let Ok(contents) = got else { continue };
        if let Some(expected) = file["dense_row_major"].as_array() {
            let expected: Vec<f64> = expected
                .iter()
                .flat_map(|row| row.as_array().unwrap())
                .map(|v| v.as_f64().unwrap_or_else(|| v.as_str().unwrap().parse().unwrap()))
                .collect();
            let a = match &contents.matrix {
                Matrix::Array(dense) => dense.clone(),
                _ => contents.to_csr().unwrap().to_dense().unwrap(),
            };
            assert_eq!(
                [a.rows() as u64, a.cols() as u64],
                [0, 1].map(|d| file["shape"][d].as_u64().unwrap()),
                "{name}"
            );
            assert_eq!(a.values(), &expected[..], "{name}");
        } else if let Some(sum) = file["sum_of_values"].as_f64() {
            let a = contents.to_csr().unwrap();
            let got: f64 = a.values().iter().sum();
            assert!((got - sum).abs() <= 1e-12 * sum.abs(), "{name}: {got} {sum}");
            assert_eq!(
                a.entries() as u64,
                file["entries_after_symmetry_expansion"].as_u64().unwrap(),
                "{name}"
            );
        }
    }
    println!("malformed and unusual files: {read} read, {refused} refused");
    assert_eq!(read + refused, 102);
}

/// The x of the index: `(((7919 j) mod 1009) - 504) / 256`.
pub fn exact_vector(n: usize) -> Vec<f64> {
    (0..n)
        .map(|j| ((7919 * j as u64 % 1009) as f64 - 504.0) / 256.0)
        .collect()
}

/// A matrix of the index, in f64.
pub fn matrix(folder: &Path, entry: &serde_json::Value) -> Csr<f64> {
    matrix_market::read_file(folder.join("matrices").join(entry["file"].as_str().unwrap()))
        .and_then(|contents| contents.to_csr())
        .unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn real_matrices() {
    let Some(folder) = shared_data("sparse::real_matrices") else {
        return;
    };
    let index = json(folder.join("matrices/index.json"));
    let entries = index["matrices"].as_array().unwrap();
    for entry in entries {
        let name = entry["name"].as_str().unwrap();
        let number = |key: &str| entry[key].as_f64().unwrap_or_else(|| panic!("{name}: {key}"));
        let a = matrix(&folder, entry);
        let rows = a.row_statistics();
        for (key, got) in [
            ("rows", a.rows()),
            ("cols", a.cols()),
            ("nnz", a.entries()),
            ("max_row_length", rows.max),
            ("empty_rows", rows.empty),
            ("stored_zeros", a.values().iter().filter(|&&v| v == 0.0).count()),
        ] {
            assert_eq!(got as f64, number(key), "{name}: {key}");
        }
        assert!((rows.mean - number("mean_row_length")).abs() < 1e-3, "{name}");
        // Repeated entries may have been added up in another order.
        let (largest, expected) = (a.largest(), number("largest_abs_value"));
        assert!(
            (largest - expected).abs() <= f64::EPSILON * expected,
            "{name}: {largest:e} {expected:e}"
        );
        let symmetry = a.symmetry();
        assert_eq!(Some(symmetry.exact), entry["symmetric"].as_bool(), "{name}");
        for (key, a) in [("spmv_check", &a), ("spmv_check_transpose", &a.transpose().unwrap())] {
            let check = &entry[key];
            let (Some(at), Some(y)) = (check["rows"].as_array(), check["y"].as_array()) else {
                continue;
            };
            let x = exact_vector(a.cols());
            for (row, y) in at.iter().zip(y) {
                let (columns, values) = a.row(row.as_u64().unwrap() as usize);
                let mut sum = Neumaier::default();
                for (&j, &v) in columns.iter().zip(values) {
                    sum.add_product(v, x[j as usize]);
                }
                let (got, y) = (sum.value(), y.as_f64().unwrap());
                assert!(
                    (got - y).abs() <= 2.0 * f64::EPSILON * y.abs(),
                    "{name} row {row}: {got:e} {y:e}"
                );
            }
        }
    }
    println!("{} matrices", entries.len());
}

#[test]
fn banners_say_what_is_inside() {
    let text = b"%%matrixmarket MATRIX Array Integer Symmetric\n2 2\n1\n2\n3\n";
    let contents = matrix_market::read(&text[..]).unwrap();
    assert_eq!((contents.field, contents.storage), (Field::Integer, Storage::Symmetric));
    assert_eq!(contents.to_csr().unwrap(), dense(2, 2, &[1.0, 2.0, 2.0, 3.0]));
    assert!(contents.to_vector().is_err());
    let column = matrix_market::read(&b"%%MatrixMarket matrix array real general\n2 1\n1\n0\n"[..]).unwrap();
    assert_eq!(column.to_vector().unwrap(), [1.0, 0.0]);
    let sparse = matrix_market::read(&b"%%MatrixMarket matrix coordinate real general\n1 3 1\n1 2 4\n"[..]).unwrap();
    assert_eq!(sparse.to_vector().unwrap(), [0.0, 4.0, 0.0]);
}
