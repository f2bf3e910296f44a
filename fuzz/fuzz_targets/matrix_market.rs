//! Whatever the bytes: the reader answers or refuses, what it reads is a valid matrix, and what is written reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use macheps::sparse::{Csr, matrix_market};

fuzz_target!(|bytes: &[u8]| {
    let Ok(contents) = matrix_market::read(bytes) else {
        return;
    };
    let Ok(a) = contents.to_csr() else {
        return;
    };
    let (row_ptr, columns, values) = (a.row_ptr().to_vec(), a.columns().to_vec(), a.values().to_vec());
    assert_eq!(Csr::try_new(a.rows(), a.cols(), row_ptr, columns, values).as_ref().ok(), Some(&a));
    let mut text = Vec::new();
    matrix_market::write(&mut text, &a).expect("a vector takes everything");
    let back = matrix_market::read(&text[..]).and_then(|contents| contents.to_csr());
    assert_eq!(back.ok().as_ref(), Some(&a));
});
