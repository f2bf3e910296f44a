//! `DST`: where an output goes. Files appear whole or not at all.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use npyz::WriterBuilder;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use tempfile::NamedTempFile;

use crate::failure::{Failure, Outcome};
use crate::tensor::Stored;

/// A parsed `DST`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// An npy file.
    Npy(PathBuf),
    /// A tensor of a safetensors file; without a name it gets that of the output.
    Safetensors(PathBuf, Option<String>),
    /// A Matrix Market file, for sparse matrices.
    MatrixMarket(PathBuf),
}

/// What an output is, which says where it can go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A tensor.
    Tensor,
    /// A vector that is to be the only one in its file.
    Vector,
    /// A sparse matrix.
    Matrix,
}

impl Kind {
    /// The files that it can go to, in words.
    fn expected(self) -> &'static str {
        match self {
            Kind::Tensor => "y.npy or y.safetensors#name",
            Kind::Vector => "an npy file, such as x.npy",
            Kind::Matrix => "a Matrix Market file, such as a.mtx",
        }
    }

    fn takes(self, destination: &Destination) -> bool {
        matches!(
            (self, destination),
            (Kind::Tensor, Destination::Npy(_) | Destination::Safetensors(..))
                | (Kind::Vector, Destination::Npy(_))
                | (Kind::Matrix, Destination::MatrixMarket(_))
        )
    }
}

/// A result to be written.
#[derive(Clone, Debug)]
pub struct Output {
    /// Name of the output, such as `y`.
    pub name: String,
    /// Type of the elements.
    pub dtype: Stored,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Elements in C order, little-endian; of a matrix the text of its file.
    pub bytes: Vec<u8>,
}

impl Destination {
    /// Parses `y.npy`, `y.safetensors`, `y.safetensors#name` or `a.mtx`, as far as outputs of this kind go there. `option` is what asks
    /// for it.
    pub fn parse(option: &str, text: &str, kind: Kind) -> Outcome<Destination> {
        let shown = if text.is_empty() { "''" } else { text };
        let unknown = |what: &str| Failure::usage(format!("{option}: {shown}: {what}; expected {}", kind.expected()));
        let destination = Destination::of_any_kind(option, text)?.ok_or_else(|| unknown("unknown kind of file"))?;
        if kind.takes(&destination) {
            return Ok(destination);
        }
        Err(unknown("a kind of file that this output cannot be written to"))
    }

    /// `None` if the name's ending says nothing.
    fn of_any_kind(option: &str, text: &str) -> Outcome<Option<Destination>> {
        let extension = |path: &str| {
            Path::new(path)
                .extension()
                .and_then(|e| e.to_str())
                .map(str::to_ascii_lowercase)
        };
        match extension(text).as_deref() {
            Some("npy") => return Ok(Some(Destination::Npy(text.into()))),
            Some("safetensors") => return Ok(Some(Destination::Safetensors(text.into(), None))),
            Some("mtx") => return Ok(Some(Destination::MatrixMarket(text.into()))),
            _ => {}
        }
        for (i, _) in text.match_indices('#') {
            let (path, name) = (&text[..i], &text[i + 1..]);
            match extension(path).as_deref() {
                Some("npy") => {
                    return Err(Failure::usage(format!(
                        "{option}: {path}: an npy file holds one array without a name; expected {path} without #{name}"
                    )));
                }
                Some("safetensors") if name.is_empty() || name == "__metadata__" => {
                    return Err(Failure::usage(format!(
                        "{option}: {text}: '{name}' is no name for a tensor"
                    )));
                }
                Some("safetensors") => {
                    return Ok(Some(Destination::Safetensors(path.into(), Some(name.to_string()))));
                }
                _ => {}
            }
        }
        Ok(None)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        let (Destination::Npy(path) | Destination::Safetensors(path, _) | Destination::MatrixMarket(path)) = self;
        path
    }

    fn tensor<'a>(&'a self, output: &'a str) -> &'a str {
        match self {
            Destination::Safetensors(_, Some(name)) => name,
            _ => output,
        }
    }
}

/// A file that is read: what asks for it, and its path.
pub type InputFile<'a> = (&'a str, &'a Path);

/// Refuses a file that cannot be put where it is asked for, or that would take the place of one that is read.
fn check_place(option: &str, path: &Path, inputs: &[InputFile<'_>]) -> Outcome {
    let refused = |problem: String| Err(Failure::usage(format!("{option}: {}: {problem}", path.display())));
    if path.as_os_str().is_empty() {
        return Err(Failure::usage(format!("{option}: expected a file, got an empty name")));
    }
    if path.is_dir() {
        return refused("is a folder; expected a file".to_string());
    }
    let target = identity(path);
    let folder = folder(&target);
    if !folder.is_dir() {
        return refused(format!("there is no folder {}", self::folder(path).display()));
    }
    // A device or a pipe is written to, not replaced.
    match target.metadata() {
        Ok(found) if !found.is_file() => return Ok(()),
        Ok(found) if found.permissions().readonly() => {
            return refused("is there and read-only; expected a file that can be replaced".to_string());
        }
        _ => {}
    }
    if let Some((input, _)) = inputs.iter().find(|(_, file)| identity(file) == target) {
        return refused(format!("would write over the file of {input}; expected another file"));
    }
    match NamedTempFile::new_in(folder) {
        Ok(_) => Ok(()),
        Err(e) => refused(format!("cannot be written, as nothing can be in its folder: {}", e)),
    }
}

/// The same for every spelling of a file's path, also of one that is yet to be made.
fn identity(path: &Path) -> PathBuf {
    let made = || Some(folder(path).canonicalize().ok()?.join(path.file_name()?));
    path.canonicalize().ok().or_else(made).unwrap_or(path.to_path_buf())
}

/// Options whose files are pictures.
const PICTURES: [&str; 2] = ["--svg", "--plot"];

/// Refuses reports that cannot be written, before the minutes that making them takes: the options and their files, and the files that
/// are read. stdout is there for JSON.
pub fn check_reports(inputs: &[InputFile<'_>], reports: &[(&str, Option<&Path>)]) -> Outcome {
    let mut taken: Vec<(&str, PathBuf)> = Vec::new();
    for &(option, path) in reports {
        let Some(path) = path else { continue };
        if crate::report::is_stdout(path) {
            if option == "--json" {
                continue;
            }
            return Err(Failure::usage(format!(
                "{option} -: expected a file; only --json writes to stdout"
            )));
        }
        check_place(option, path, inputs)?;
        let file = identity(path);
        // A device or a pipe takes any number of reports, and has no ending.
        if file.exists() && !file.is_file() {
            continue;
        }
        let is_svg = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("svg"));
        if PICTURES.contains(&option) && !is_svg {
            return Err(Failure::usage(format!(
                "{option}: {}: unknown kind of picture; expected an SVG file, such as {}",
                path.display(),
                path.with_extension("svg").display()
            )));
        }
        if let Some((other, _)) = taken.iter().find(|(_, other)| *other == file) {
            return Err(Failure::file(path, format!("is the file of both {other} and {option}")));
        }
        taken.push((option, file));
    }
    Ok(())
}

/// Refuses types that their files cannot hold, before anything is computed. `dtype` tells the type of an output by its name.
pub fn check_types(outputs: &[(String, Destination)], dtype: impl Fn(&str) -> Stored) -> Outcome {
    for (name, destination) in outputs {
        if matches!(destination, Destination::Npy(_)) && dtype(name) == Stored::Bf16 {
            return Err(Failure::file(
                destination.path(),
                "npy has no bf16; expected a .safetensors file for this output, or --dtype f32 or f16",
            ));
        }
    }
    Ok(())
}

/// Refuses what cannot be written, before anything is read. `outputs` are names and where they go.
pub fn check(inputs: &[InputFile<'_>], outputs: &[(String, Destination)]) -> Outcome {
    for (i, (name, destination)) in outputs.iter().enumerate() {
        let path = destination.path();
        check_place(&format!("--output {name}"), path, inputs)?;
        if matches!(destination, Destination::Safetensors(..)) {
            let check = existing(path).and_then(|bytes| parse(&bytes).map(drop));
            check.map_err(|problem| Failure::file(path, problem))?;
        }
        for (other_name, other) in &outputs[..i] {
            if other_name == name {
                return Err(Failure::usage(format!("--output {name} is given twice")));
            }
            if identity(other.path()) != identity(path) {
                continue;
            }
            match destination {
                Destination::Npy(_) | Destination::MatrixMarket(_) => {
                    return Err(Failure::file(
                        path,
                        format!("is the file of both {other_name} and {name}"),
                    ));
                }
                Destination::Safetensors(..) if other.tensor(other_name) == destination.tensor(name) => {
                    return Err(Failure::file(
                        path,
                        format!("tensor '{}' is both {other_name} and {name}", destination.tensor(name)),
                    ));
                }
                Destination::Safetensors(..) => {}
            }
        }
    }
    Ok(())
}

/// Writes outputs, those of one safetensors file together. Every file is complete on disk before the first takes its name.
pub fn write(outputs: &[(Output, Destination)]) -> Outcome {
    let mut files: BTreeMap<PathBuf, Vec<&(Output, Destination)>> = BTreeMap::new();
    for output in outputs {
        files.entry(identity(output.1.path())).or_default().push(output);
    }
    let mut staged = Vec::new();
    for parts in files.into_values() {
        let path = parts[0].1.path();
        let bytes = match parts.as_slice() {
            [(output, Destination::Npy(_))] => npy(output),
            [(output, Destination::MatrixMarket(_))] => Ok(output.bytes.clone()),
            _ => safe(path, &parts),
        };
        staged.push(Staged::new(path, &bytes.map_err(|e| Failure::file(path, e))?)?);
    }
    staged.into_iter().try_for_each(Staged::publish)
}

/// Writes a text file whole or not at all.
pub fn write_text(path: &Path, text: &str) -> Outcome {
    Staged::new(path, text.as_bytes())?.publish()
}

fn npy(output: &Output) -> Result<Vec<u8>, String> {
    let descr = match output.dtype {
        Stored::Bool => "|b1",
        Stored::I8 => "|i1",
        Stored::U8 => "|u1",
        Stored::I16 => "<i2",
        Stored::U16 => "<u2",
        Stored::I32 => "<i4",
        Stored::U32 => "<u4",
        Stored::I64 => "<i8",
        Stored::U64 => "<u8",
        Stored::F16 => "<f2",
        Stored::F32 => "<f4",
        Stored::F64 => "<f8",
        Stored::Bf16 => return Err("npy has no bf16".to_string()),
    };
    let dtype = npyz::DType::new_scalar(descr.parse().map_err(|e| format!("{e}"))?);
    let shape: Vec<u64> = output.shape.iter().map(|&n| n as u64).collect();
    let mut bytes = npyz::WriteOptions::new_header_only()
        .dtype(dtype)
        .shape(&shape)
        .writer(Vec::with_capacity(128 + output.bytes.len()))
        .write_header_only()
        .map_err(|e| e.to_string())?;
    bytes.extend_from_slice(&output.bytes);
    Ok(bytes)
}

/// What a safetensors file holds before it is written to: nothing if there is none, or an empty one.
fn existing(path: &Path) -> Result<Vec<u8>, String> {
    match path.metadata() {
        Ok(found) if found.is_file() => std::fs::read(path).map_err(|e| format!("cannot be read: {e}")),
        _ => Ok(Vec::new()),
    }
}

fn parse(bytes: &[u8]) -> Result<Option<SafeTensors<'_>>, String> {
    if bytes.is_empty() {
        return Ok(None);
    }
    SafeTensors::deserialize(bytes)
        .map(Some)
        .map_err(|e| format!("exists and is no safetensors file, so it is left alone: {e}"))
}

/// The tensors together with those that the file holds under other names.
fn safe(path: &Path, parts: &[&(Output, Destination)]) -> Result<Vec<u8>, String> {
    let before = existing(path)?;
    let mut views: Vec<(String, TensorView)> = Vec::new();
    let mut metadata = None;
    if let Some(file) = parse(&before)? {
        metadata = SafeTensors::read_metadata(&before)
            .ok()
            .and_then(|(_, header)| header.metadata().clone());
        let written = |name: &str| parts.iter().any(|(output, to)| to.tensor(&output.name) == name);
        views.extend(file.tensors().into_iter().filter(|(name, _)| !written(name)));
    }
    for (output, destination) in parts {
        let dtype = match output.dtype {
            Stored::Bool => Dtype::BOOL,
            Stored::I8 => Dtype::I8,
            Stored::U8 => Dtype::U8,
            Stored::I16 => Dtype::I16,
            Stored::U16 => Dtype::U16,
            Stored::I32 => Dtype::I32,
            Stored::U32 => Dtype::U32,
            Stored::I64 => Dtype::I64,
            Stored::U64 => Dtype::U64,
            Stored::F16 => Dtype::F16,
            Stored::Bf16 => Dtype::BF16,
            Stored::F32 => Dtype::F32,
            Stored::F64 => Dtype::F64,
        };
        let view = TensorView::new(dtype, output.shape.clone(), &output.bytes).map_err(|e| e.to_string())?;
        views.push((destination.tensor(&output.name).to_string(), view));
    }
    safetensors::serialize(views, metadata).map_err(|e| e.to_string())
}

fn folder(path: &Path) -> &Path {
    path.parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// A file written under a temporary name beside its target.
enum Staged {
    File(NamedTempFile, PathBuf),
    /// A device or a pipe cannot be replaced, only written to.
    Special(Vec<u8>, PathBuf),
}

impl Staged {
    fn new(path: &Path, bytes: &[u8]) -> Outcome<Staged> {
        let cannot = |e: std::io::Error| Failure::file(path, format!("cannot be written: {e}"));
        // Through a link to what it names, so that the link stays one.
        let target = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        match target.metadata() {
            Ok(found) if found.is_dir() => {
                return Err(Failure::file(path, "is a folder; expected a file"));
            }
            Ok(found) if !found.is_file() => return Ok(Staged::Special(bytes.to_vec(), target)),
            _ => {}
        }
        let mut builder = tempfile::Builder::new();
        builder.prefix(".macheps-");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // As any new file: the umask takes its share.
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let mut file = builder.tempfile_in(folder(&target)).map_err(cannot)?;
        file.write_all(bytes).map_err(cannot)?;
        file.as_file().sync_all().map_err(cannot)?;
        Ok(Staged::File(file, target))
    }

    fn publish(self) -> Outcome {
        match self {
            Staged::File(file, target) => file
                .persist(&target)
                .map(drop)
                .map_err(|e| Failure::file(&target, format!("cannot be written: {}", e.error))),
            Staged::Special(bytes, target) => std::fs::OpenOptions::new()
                .write(true)
                .open(&target)
                .and_then(|mut file| file.write_all(&bytes))
                .map_err(|e| Failure::file(&target, format!("cannot be written: {e}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Source;
    use macheps::DType;

    fn output(name: &str, dtype: DType, values: &[f32]) -> Output {
        let bytes = match dtype {
            DType::F32 => crate::tensor::to_bytes(values),
            DType::F16 => {
                crate::tensor::to_bytes(&values.iter().map(|&v| macheps::f16::from_f32(v)).collect::<Vec<_>>())
            }
            DType::Bf16 => {
                crate::tensor::to_bytes(&values.iter().map(|&v| macheps::bf16::from_f32(v)).collect::<Vec<_>>())
            }
        };
        Output {
            name: name.to_string(),
            dtype: dtype.into(),
            shape: vec![values.len()],
            bytes,
        }
    }

    fn read(text: &str) -> Vec<f32> {
        Source::parse(text).unwrap().read().unwrap().convert::<f32>().0
    }

    #[test]
    fn parses() {
        let of = |text| Destination::parse("--output", text, Kind::Tensor);
        assert_eq!(of("y.npy"), Ok(Destination::Npy("y.npy".into())));
        assert_eq!(
            of("o.safetensors#y"),
            Ok(Destination::Safetensors("o.safetensors".into(), Some("y".into())))
        );
        assert_eq!(
            of("o#1/o.safetensors"),
            Ok(Destination::Safetensors("o#1/o.safetensors".into(), None))
        );
        for bad in [
            "y.npz#y",
            "y",
            "",
            "y.npy#y",
            "o.safetensors#",
            "o.safetensors#__metadata__",
        ] {
            assert!(of(bad).is_err(), "{bad}");
        }
        // Each kind has its own files, and says so.
        for (kind, good, bad) in [
            (Kind::Tensor, "y.safetensors#a", "a.mtx"),
            (Kind::Vector, "x.npy", "x.safetensors"),
            (Kind::Matrix, "a.mtx", "a.npy"),
        ] {
            assert!(Destination::parse("--output", good, kind).is_ok(), "{good}");
            let refused = Destination::parse("--output", bad, kind).unwrap_err().to_string();
            assert!(refused.contains(bad) && refused.contains(kind.expected()), "{refused}");
        }
    }

    #[test]
    fn writes_what_the_reader_reads() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let values = [1.0, -2.5, f32::INFINITY];
        let to = |text: &str| Destination::parse("--output", text, Kind::Tensor).unwrap();
        write(&[
            (output("y", DType::F32, &values), to(&at("y.npy"))),
            (output("h", DType::F16, &values), to(&at("h.npy"))),
            (output("y", DType::Bf16, &values), to(&at("o.safetensors#a"))),
            (output("grad", DType::F16, &values[..1]), to(&at("o.safetensors"))),
        ])
        .unwrap();
        assert_eq!(read(&at("y.npy")), values);
        assert_eq!(read(&at("h.npy")), values);
        assert_eq!(read(&at("o.safetensors#a")), values);
        assert_eq!(read(&at("o.safetensors#grad")), values[..1]);
        // What the file holds under other names stays.
        write(&[(output("y", DType::F32, &values[..2]), to(&at("o.safetensors#grad")))]).unwrap();
        assert_eq!(read(&at("o.safetensors#a")), values);
        assert_eq!(read(&at("o.safetensors#grad")), values[..2]);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
    }

    #[test]
    fn checks_before() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| {
            Destination::parse(
                "--output",
                &folder.path().join(name).display().to_string(),
                Kind::Tensor,
            )
            .unwrap()
        };
        let two = |a: &str, b: &str| [("y".to_string(), at(a)), ("grad".to_string(), at(b))];
        assert!(check(&[], &two("y.npy", "g.npy")).is_ok());
        assert!(check_types(&two("y.npy", "g.npy"), |_| Stored::F32).is_ok());
        assert!(check_types(&two("y.npy", "g.npy"), |_| Stored::Bf16).is_err());
        assert!(check(&[], &two("y.npy", "y.npy")).is_err());
        assert!(check(&[], &two("o.safetensors#a", "o.safetensors#b")).is_ok());
        assert!(check_types(&two("o.safetensors#a", "o.safetensors#b"), |_| Stored::Bf16).is_ok());
        assert!(check(&[], &two("o.safetensors#a", "o.safetensors#a")).is_err());
        assert!(check(&[], &two("o.safetensors", "none/o.safetensors")).is_err());
        std::fs::write(folder.path().join("text.safetensors"), "not tensors").unwrap();
        assert!(check(&[], &two("text.safetensors", "y.npy")).is_err());
        // An input by another path.
        std::fs::write(folder.path().join("x.npy"), "an input").unwrap();
        let input = folder.path().join(".").join("x.npy");
        let refused = check(&[("--input x", input.as_path())], &two("y.npy", "x.npy")).unwrap_err();
        assert!(refused.to_string().contains("--output grad") && refused.to_string().contains("--input x"));
    }
}
