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
    let stored = zip.file_names().find(|file| array_name_from_file_name(file) == Some(name.as_str())).map(str::to_string);
    let stored = stored.unwrap_or_else(|| file_name_from_array_name(&name));
    let mut file = zip.by_name(&stored).map_err(|e| format!("array '{name}': {e}"))?;
    let length = file.size();
    let (tensor, rest) = npy::read(&mut file, length).map_err(|problem| format!("array '{name}': {problem}"))?;
    if rest > 0 {
        return Err(format!("array '{name}': {rest} bytes follow the data; expected none"));
    }
    Ok(tensor)
}
