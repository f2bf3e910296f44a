//! NumPy's `.npz`: a zip archive of npy files.

use std::io::{Read, Seek};

use npyz::npz::{NpzArchive, array_name_from_file_name, file_name_from_array_name};

use super::{choose, npy};
use crate::tensor::Tensor;

/// Reads the array `name`, or the only one.
pub fn read(input: impl Read + Seek, name: Option<&str>) -> Result<Tensor, String> {
    let mut archive = NpzArchive::new(input).map_err(|e| format!("not an npz file (a zip archive): {e}"))?;
    let names = archive.array_names().map(str::to_string).collect();
    let name = choose(names, name, "array")?;
    let zip = archive.zip_archive();
    // The stored name may go on after a NUL, which does not belong to the array's name.
    let stored = zip
        .file_names()
        .find(|file| array_name_from_file_name(file) == Some(name.as_str()))
        .map(str::to_string);
    let stored = stored.unwrap_or_else(|| file_name_from_array_name(&name));
    let mut file = zip.by_name(&stored).map_err(|e| format!("array '{name}': {e}"))?;
    let length = file.size();
    let (tensor, rest) = npy::read(&mut file, length).map_err(|problem| format!("array '{name}': {problem}"))?;
    if rest > 0 {
        return Err(format!("array '{name}': {rest} bytes follow the data; expected none"));
    }
    Ok(tensor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use npyz::WriterBuilder;
    use std::io::Cursor;

    fn archive() -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        let mut writer = npyz::npz::NpzWriter::new(&mut bytes);
        for (name, values) in [("a", &[1.0f32, 2.0][..]), ("b", &[3.0])] {
            let mut array = writer
                .array(name, Default::default())
                .unwrap()
                .default_dtype()
                .shape(&[values.len() as u64])
                .begin_nd()
                .unwrap();
            array.extend(values.iter().copied()).unwrap();
            array.finish().unwrap();
        }
        drop(writer);
        bytes.into_inner()
    }

    fn parse(bytes: &[u8]) -> Result<Tensor, String> {
        read(Cursor::new(bytes), Some("a"))
    }

    #[test]
    fn reads_the_array_named() {
        assert_eq!(parse(&archive()).unwrap().convert::<f32>().0, [1.0, 2.0]);
        assert!(read(Cursor::new(archive()), None).unwrap_err().contains("a, b"));
    }

    #[test]
    fn survives_any_prefix_and_any_flipped_byte() {
        let good = archive();
        for n in 0..good.len() {
            assert!(parse(&good[..n]).is_err());
            for value in (0..8).map(|bit| good[n] ^ (1 << bit)).chain([0, 0x7f, 0x80, 0xff]) {
                let mut bad = good.clone();
                bad[n] = value;
                let _ = parse(&bad);
            }
        }
    }
}
