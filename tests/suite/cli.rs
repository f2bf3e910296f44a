//! The program `macheps`, run as a user runs it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use macheps::ops::softmax::bounds::{Accuracy, Expected, Quantity};
use macheps::ops::softmax::{MaskedRows, SoftmaxKind, SoftmaxOptions, reference};
use macheps::rows::RowMap;
use macheps::{DType, Element, bf16, f16};
use serde_json::Value;

/// Runs `macheps` and returns what it said. A panic fails the test.
pub fn macheps<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_macheps"))
        .args(args)
        .env_remove("MACHEPS_DEVICE")
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .output()
        .expect("macheps starts");
    assert!(!stderr(&output).contains("panicked"), "{}", stderr(&output));
    output
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn code(output: &Output) -> i32 {
    output.status.code().expect("not killed by a signal")
}

#[track_caller]
pub fn succeeds<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Output {
    let output = macheps(args);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    output
}

/// Exit code 2 and one line on stderr that contains each of `parts`.
#[track_caller]
pub fn refuses<S: AsRef<std::ffi::OsStr>>(args: &[S], parts: &[&str]) {
    let output = macheps(args);
    let said = stderr(&output);
    assert_eq!(code(&output), 2, "{said}");
    // Drivers may have something to say beside us when devices are listed.
    let ours: Vec<&str> = said.lines().filter(|line| line.starts_with("macheps: ")).collect();
    assert_eq!(ours.len(), 1, "{said}");
    assert!(stdout(&output).is_empty(), "{}", stdout(&output));
    for part in parts {
        assert!(ours[0].contains(part), "{said:?} should contain {part:?}");
    }
}

/// A folder for the files of a test.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Folder {
        Folder(tempfile::tempdir().expect("a temporary folder"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The same file by another path.
    pub fn detour(&self, name: &str) -> PathBuf {
        let own = self.0.path().file_name().expect("a name");
        self.0.path().join("..").join(own).join(name)
    }

    /// `name=folder/file` for `--input` and `--output`.
    pub fn arg(&self, name: &str, file: &str) -> String {
        format!("{name}={}", self.path(file).display())
    }

    pub fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).expect("the folder is writable");
    }

    /// Names of the files.
    pub fn list(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.0.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

/// An npy file from a header's three values and the data.
pub fn npy(descr: &str, fortran: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}");
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

pub fn shape_text(shape: &[usize]) -> String {
    format!("({})", shape.iter().map(|n| format!("{n},")).collect::<String>())
}

fn npy_f32(shape: &[usize], values: &[f32]) -> Vec<u8> {
    npy(
        "<f4",
        "False",
        &shape_text(shape),
        &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>(),
    )
}

fn safetensors(tensors: &[(&str, safetensors::Dtype, Vec<usize>, Vec<u8>)]) -> Vec<u8> {
    let views = tensors.iter().map(|(name, dtype, shape, data)| {
        (
            *name,
            safetensors::tensor::TensorView::new(*dtype, shape.clone(), data).expect("a valid tensor"),
        )
    });
    safetensors::serialize(views, None).expect("serialises")
}

fn npz(arrays: &[(&str, &[f32])]) -> Vec<u8> {
    use npyz::WriterBuilder;
    let mut bytes = std::io::Cursor::new(Vec::new());
    let mut writer = npyz::npz::NpzWriter::new(&mut bytes);
    for (name, values) in arrays {
        let mut array = writer
            .array::<f32>(name, Default::default())
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

/// Shape and elements of an npy file of `T`, as the program writes it.
fn read_npy<T: Element>(path: &Path) -> (Vec<usize>, Vec<T>) {
    let file = npyz::NpyFile::new(std::io::BufReader::new(
        std::fs::File::open(path).expect("the output exists"),
    ))
    .expect("valid npy");
    let shape: Vec<usize> = file.shape().iter().map(|&n| n as usize).collect();
    let bits = match T::DTYPE {
        DType::F32 => file
            .into_vec::<f32>()
            .expect("f32")
            .iter()
            .flat_map(|v| v.to_ne_bytes())
            .collect::<Vec<u8>>(),
        _ => file
            .into_vec::<f16>()
            .expect("f16")
            .iter()
            .flat_map(|v| v.to_ne_bytes())
            .collect(),
    };
    (shape, elements(&bits))
}

fn elements<T: Element>(bytes: &[u8]) -> Vec<T> {
    bytes
        .chunks_exact(size_of::<T>())
        .map(|chunk| {
            let mut value = T::default();
            bytemuck::bytes_of_mut(&mut value).copy_from_slice(chunk);
            value
        })
        .collect()
}

fn read_safetensors<T: Element>(path: &Path, name: &str) -> (Vec<usize>, Vec<T>) {
    let bytes = std::fs::read(path).expect("the output exists");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("valid safetensors");
    let view = file.tensor(name).expect("the tensor is there");
    (view.shape().to_vec(), elements(view.data()))
}

fn ramp(count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 37) % 101) as f32 * 0.17 - 8.0).collect()
}

// ---- Wrong usage ----

#[test]
fn wrong_words_get_one_line() {
    for (args, part) in [
        (&["bogus"][..], "bogus"),
        (&["run", "softmax", "--bogus"], "--bogus"),
        (&["run", "softmax", "--dtype", "f64"], "expected f32, f16 or bf16"),
        (&["run"], "OP"),
        (&["devices", "--json"], "--json"),
    ] {
        refuses(args, &[part, "see macheps --help"]);
    }
    for args in [&["--help"][..], &["run", "--help"], &["--version"]] {
        assert!(stdout(&succeeds(args)).contains("macheps"), "{args:?}");
    }
}

/// Reports that would replace each other, or cannot be written, are refused before anything is measured.
#[test]
fn reports_are_refused_early() {
    let folder = Folder::new();
    let text = |path: PathBuf| path.display().to_string();
    let (one, same) = (text(folder.path("one")), text(folder.detour("one")));
    let (picture, same_picture) = (text(folder.path("one.svg")), text(folder.detour("one.svg")));
    refuses(
        &["bench", "--device", "cpu", "--json", &one, "--csv", &same],
        &["both --json and --csv"],
    );
    refuses(
        &["bench", "--device", "cpu", "--csv", &picture, "--svg", &same_picture],
        &["both --csv and --svg"],
    );
    refuses(&["bench", "--device", "cpu", "--csv", "-"], &["--csv -", "only --json"]);
    let nowhere = text(folder.path("nowhere/x.json"));
    for command in ["devices", "probe", "verify", "bench"] {
        refuses(&[command, "--json", &nowhere], &["there is no folder"]);
    }
    assert!(folder.list().is_empty());
}

/// f64 is audited as f32, but what only f32 cannot hold is neither zero nor infinite.
#[test]
fn audit_of_f64_keeps_classes() {
    let folder = Folder::new();
    let values = [1e-300, 1e300, 1.0, 0.0, 5e-324, -1e39];
    let bytes: Vec<u8> = values.iter().flat_map(|v: &f64| v.to_le_bytes()).collect();
    folder.write(
        "m.safetensors",
        &safetensors(&[("t", safetensors::Dtype::F64, vec![6], bytes)]),
    );
    let path = folder.path("m.safetensors").display().to_string();
    let output = succeeds(&["audit", &path, "--device", "cpu", "--json", "-"]);
    assert!(
        stderr(&output).contains("2 values beyond its range"),
        "{}",
        stderr(&output)
    );
    let json: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    let tensor = &json["tensors"][0];
    for (key, expected) in [
        ("zeros", 1),
        ("positive_infinities", 0),
        ("negative_infinities", 0),
        ("nans", 0),
    ] {
        assert_eq!(tensor[key], expected, "{key}");
    }
    assert_eq!(tensor["f16"]["overflows"], 2);
    assert_eq!(tensor["f16"]["vanishes"], 2);
    let largest = tensor["max_magnitude"].as_f64().unwrap();
    assert!((largest / f64::from(f32::MAX) - 1.0).abs() < 1e-15, "{largest:e}");
}

/// Every operation that `bench` names can be had alone, quickly too.
#[test]
fn bench_has_every_operation_in_quick() {
    let full = macheps::bench::cases(false, None);
    assert!(full.len() > 50);
    for case in &full {
        let quick = macheps::bench::cases(true, Some(case.op()));
        assert!(!quick.is_empty(), "{}", case.op());
    }
    let norms = macheps::bench::cases(true, Some("norm"));
    assert_eq!(norms.len(), 3, "one of each order");
    assert!(macheps::bench::cases(true, Some("nothing")).is_empty());
}

/// A gap in the numbers of gradients is a slip.
#[test]
fn unscale_wants_every_gradient() {
    let folder = Folder::new();
    folder.write("g.npy", &npy_f32(&[3], &ramp(3)));
    let (g0, g2) = (folder.arg("g0", "g.npy"), folder.arg("g2", "g.npy"));
    refuses(
        &["run", "unscale", "--input", &g0, "--input", &g2],
        &["needs an input g1"],
    );
}

#[test]
fn wrong_usage_is_said_in_one_line() {
    let folder = Folder::new();
    folder.write("x.npy", &npy_f32(&[2, 3], &ramp(6)));
    let x = folder.arg("x", "x.npy");
    let run = |rest: &[&str]| {
        let mut args = vec!["run", "softmax", "--device", "cpu", "--input", &x];
        args.extend_from_slice(rest);
        args.iter().map(|a| a.to_string()).collect::<Vec<_>>()
    };
    refuses(
        &["run", "sofmax", "--input", &x],
        &["sofmax", "softmax, log_softmax, logsumexp"],
    );
    refuses(&["run", "softmax", "--device", "cpu"], &["needs an input x"]);
    refuses(&["run", "softmax", "--input", "x"], &["expected NAME="]);
    refuses(&run(&["--input", "z=a.npy"]), &["--input z", "x, mask, upstream"]);
    refuses(&run(&["--input", &x]), &["given twice"]);
    refuses(&run(&["--output", "z=a.npy"]), &["--output z", "y, grad"]);
    refuses(&run(&["--output", "y=a.txt"]), &["a.txt", "expected y.npy"]);
    // One file under two spellings: the second result would replace the first.
    let (y, grad) = (
        folder.arg("y", "one.npy"),
        format!("grad={}", folder.detour("one.npy").display()),
    );
    refuses(
        &run(&["--output", &y, "--output", &grad]),
        &["is the file of both y and grad"],
    );
    refuses(&run(&["--set", "axes=0"]), &["axes", "axis, scale, causal, masked"]);
    refuses(&run(&["--set", "axis=2"]), &["axis", "2"]);
    refuses(&run(&["--set", "axis=-3"]), &["axis", "-3"]);
    refuses(&run(&["--set", "scale=inf"]), &["scale=inf", "finite"]);
    refuses(&run(&["--set", "masked=maybe"]), &["nan or zero"]);
    refuses(&run(&["--set", "causal=true", "--set", "axis=0"]), &["causal"]);
    let args: Vec<String> = run(&[])
        .into_iter()
        .map(|a| if a == "cpu" { "no such device".to_string() } else { a })
        .collect();
    refuses(&args, &["no such device", "there is"]);
    refuses(&["verify", "--device", "cpu", "--op", "spmw"], &["spmw", "softmax"]);
    refuses(&["bench", "--device", "cpu", "--op", "spmw"], &["spmw", "softmax"]);
    // clap's own messages have more lines.
    for args in [
        &["devices", "--jsn", "-"][..],
        &["solve-it"],
        &["run"],
        &["run", "softmax", "--dtype", "f64"],
        &["bench", "--quick=3"],
    ] {
        let output = macheps(args);
        assert_eq!(code(&output), 2, "{args:?}");
        assert!(!output.stderr.is_empty());
    }
    assert_eq!(folder.list(), ["x.npy"]);
}

#[test]
fn help_and_version_are_fine() {
    assert!(stdout(&succeeds(&["--help"])).contains("run"));
    assert!(stdout(&succeeds(&["--version"])).contains(env!("CARGO_PKG_VERSION")));
    assert!(stdout(&succeeds(&["run", "--help"])).contains("KEY=VALUE"));
}

// ---- Malformed files ----

#[test]
fn malformed_files_are_refused_and_nothing_is_written() {
    let zip = npz(&[("a", &[1.0, 2.0]), ("b", &[3.0])]);
    let mut bad_array = npz(&[("a", &[1.0, 2.0])]);
    // Into the compressed data, which follow the name.
    let at = bad_array
        .windows(5)
        .position(|w| w == b"a.npy")
        .expect("the entry's name");
    bad_array[at + 8..at + 16].fill(0xff);
    let header_beyond = {
        let mut bytes = npy_f32(&[2], &[1.0, 2.0]);
        bytes[8..10].copy_from_slice(&u16::MAX.to_le_bytes());
        bytes
    };
    let tensor = |dtype: &str, shape: &str, offsets: &str, data: usize| {
        let header = format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#);
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(vec![0; data]);
        bytes
    };
    let two = safetensors(&[
        ("a", safetensors::Dtype::F32, vec![2], vec![0; 8]),
        ("b", safetensors::Dtype::F32, vec![1], vec![0; 4]),
    ]);
    let cases: Vec<(&str, Vec<u8>, &[&str])> = vec![
        // file, bytes, what the line names beside the file
        ("x.npy", vec![], &["truncated", "expected 8 bytes"]),
        (
            "x.npy",
            npy_f32(&[2], &[1.0, 2.0])[..40].to_vec(),
            &["truncated", "npy header"],
        ),
        ("x.npy", b"not numpy, but long enough".to_vec(), &["expected", "NUMPY"]),
        ("x.npy", header_beyond, &["truncated", "65535"]),
        (
            "x.npy",
            b"\x93NUMPY\x02\x00\xff\xff\xff\xffxx".to_vec(),
            &["header", "4294967295"],
        ),
        (
            "x.npy",
            b"\x93NUMPY\x07\x00\x04\x00{}  ".to_vec(),
            &["version 7.0", "expected 1.0"],
        ),
        (
            "x.npy",
            npy("<f4", "False", "(4294967296, 4294967296)", &[0; 8]),
            &["overflow"],
        ),
        (
            "x.npy",
            npy("<f4", "False", "(3,)", &[0; 8]),
            &["too short", "needs 12 bytes, 8 follow"],
        ),
        (
            "x.npy",
            npy("<f8", "True", "(1000000, 1000000)", &[0; 8]),
            &["needs 8000000000000 bytes"],
        ),
        ("x.npy", npy("<f4", "False", "(-1,)", &[0; 8]), &["non-negative"]),
        ("x.npy", npy("<f9", "False", "(1,)", &[0; 8]), &["'<f9'", "expected"]),
        ("x.npy", npy("|O", "False", "(1,)", &[0; 8]), &["'|O'", "expected"]),
        ("x.npy", npy("<c8", "False", "(1,)", &[0; 8]), &["'<c8'", "expected"]),
        ("x.npy", npy("|b1", "False", "(2,)", &[1, 2]), &["expected a bool"]),
        ("x.npy", npy("<f4", "Maybe", "(2,)", &[0; 8]), &["True or False"]),
        ("x.npz", vec![0; 100], &["not an npz file"]),
        ("x.npz", zip[..zip.len() - 30].to_vec(), &["not an npz file"]),
        ("x.npz", bad_array, &["'a'"]),
        ("x.npz", zip.clone(), &["#name", "a, b"]),
        ("x.npz#c", zip, &["no array named 'c'", "a, b"]),
        ("x.safetensors", vec![1, 2, 3], &["truncated"]),
        (
            "x.safetensors",
            vec![0xff; 64],
            &["header claims", "expected at most 56"],
        ),
        (
            "x.safetensors",
            tensor("F32", "[2]", "[0,8]", 8)[..30].to_vec(),
            &["truncated"],
        ),
        (
            "x.safetensors",
            tensor("F32", "[2]", "[0,8]", 7),
            &["take 8 bytes, 7 follow"],
        ),
        ("x.safetensors", tensor("F32", "[2]", "[4,12]", 12), &["offset"]),
        ("x.safetensors", tensor("F32", "[2]", "[8,0]", 8), &["offset"]),
        ("x.safetensors", tensor("F32", "[9]", "[0,8]", 8), &["shape"]),
        (
            "x.safetensors",
            tensor("F32", "[4294967296,4294967296,4]", "[0,8]", 8),
            &["overflow"],
        ),
        ("x.safetensors", tensor("F12", "[2]", "[0,8]", 8), &["F12"]),
        (
            "x.safetensors",
            tensor("F8_E4M3", "[8]", "[0,8]", 8),
            &["F8_E4M3", "expected"],
        ),
        ("x.safetensors", two.clone(), &["#name", "a, b"]),
        ("x.safetensors#c", two, &["no tensor named 'c'", "a, b"]),
    ];
    for (name, bytes, parts) in cases {
        let folder = Folder::new();
        let file = name.split('#').next().unwrap();
        folder.write(file, &bytes);
        folder.write("y.npy", b"from before");
        let mut parts = parts.to_vec();
        parts.push(file);
        for input in ["x", "mask"] {
            let mut args = vec![
                "run".into(),
                "softmax".into(),
                "--device".into(),
                "cpu".into(),
                "--output".into(),
                folder.arg("y", "y.npy"),
            ];
            args.extend(["--input".into(), folder.arg(input, name)]);
            if input == "mask" {
                folder.write("good.npy", &npy_f32(&[2], &[0.0, 1.0]));
                args.extend(["--input".into(), folder.arg("x", "good.npy")]);
            }
            refuses(&args, &parts);
        }
        assert_eq!(std::fs::read(folder.path("y.npy")).unwrap(), b"from before", "{name}");
        assert_eq!(folder.list(), ["good.npy", file, "y.npy"]);
    }
    let folder = Folder::new();
    refuses(
        &["run", "softmax", "--input", &folder.arg("x", "none.npy")],
        &["none.npy", "cannot be opened"],
    );
    refuses(
        &[
            "run",
            "softmax",
            "--input",
            &format!("x={}", folder.path("").with_extension("npy").display()),
        ],
        &["cannot be opened"],
    );
    refuses(&["run", "softmax", "--input", "x=a.csv"], &["a.csv", "expected x.npy"]);
    std::fs::create_dir(folder.path("d.npy")).unwrap();
    refuses(
        &["run", "softmax", "--input", &folder.arg("x", "d.npy")],
        &["is a folder"],
    );
}

#[test]
fn damaged_archives_never_panic() {
    let zip = npz(&[("a", &[1.0, 2.0]), ("b", &[3.0])]);
    let folder = Folder::new();
    let mut state = 1u64;
    for round in 0..60 {
        let mut bytes = zip.clone();
        for _ in 0..1 + round % 3 {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            let at = (state >> 33) as usize % bytes.len();
            bytes[at] = (state >> 20) as u8;
        }
        folder.write("x.npz", &bytes);
        let output = macheps(&[
            "run",
            "softmax",
            "--device",
            "cpu",
            "--input",
            &format!("{}#a", folder.arg("x", "x.npz")),
        ]);
        assert!(matches!(code(&output), 0 | 2), "{}", stderr(&output));
    }
}

// ---- Results ----

/// Checks a result against the library's reference within the stated bound.
#[track_caller]
fn agrees<T: Element>(quantity: Quantity, want: &Expected, got: &[T]) {
    if let Err(mismatch) = want.check(got, quantity, Accuracy::Standard) {
        panic!("{}: {mismatch}", quantity.name());
    }
}

fn queries(shape: &[usize]) -> usize {
    if shape.len() < 2 { 1 } else { shape[shape.len() - 2] }
}

/// The reference's y for a C-ordered x.
fn expected<T: Element>(
    kind: SoftmaxKind,
    x: &[T],
    shape: &[usize],
    mask: Option<(&[T], &[usize])>,
    options: &SoftmaxOptions,
) -> Expected {
    let axis = macheps::rows::resolve_axis(options.axis, shape.len()).unwrap();
    let map = RowMap::contiguous(shape, axis);
    let mask_map = mask.map(|(_, small)| RowMap::broadcast("mask", small, shape, axis).unwrap());
    let mut result = shape.to_vec();
    if kind.reduces() {
        result[axis] = 1;
    }
    let y_map = RowMap::contiguous(&result, axis);
    reference::forward(
        kind,
        x,
        &map,
        mask.map(|m| m.0).zip(mask_map.as_ref()),
        options,
        queries(shape),
        &y_map,
    )
}

#[test]
fn softmax_and_its_gradient_of_an_npy_file() {
    let folder = Folder::new();
    let shape = [3, 4, 5];
    let x = ramp(60);
    let upstream: Vec<f32> = ramp(60).into_iter().rev().collect();
    folder.write("x.npy", &npy_f32(&shape, &x));
    folder.write("u.npy", &npy_f32(&shape, &upstream));
    for (kind, axis) in [
        (SoftmaxKind::Softmax, -1),
        (SoftmaxKind::Softmax, 0),
        (SoftmaxKind::LogSoftmax, 1),
    ] {
        let output = succeeds(&[
            "run",
            kind.name(),
            "--device",
            "cpu",
            "--check",
            "--input",
            &folder.arg("x", "x.npy"),
            "--input",
            &folder.arg("upstream", "u.npy"),
            "--set",
            &format!("axis={axis}"),
            "--set",
            "scale=0.125",
            "--output",
            &folder.arg("y", "y.npy"),
            "--output",
            &folder.arg("grad", "g.npy"),
        ]);
        assert!(
            stdout(&output).contains("check: y agrees") && stdout(&output).contains("check: grad agrees"),
            "{}",
            stdout(&output)
        );
        let options = SoftmaxOptions {
            axis,
            scale: 0.125,
            ..Default::default()
        };
        let (got_shape, y) = read_npy::<f32>(&folder.path("y.npy"));
        assert_eq!(got_shape, shape);
        agrees(Quantity::Forward(kind), &expected(kind, &x, &shape, None, &options), &y);
        let map = RowMap::contiguous(&shape, macheps::rows::resolve_axis(axis, 3).unwrap());
        let want = reference::backward(kind, &x, &map, None, &upstream, &map, &options, queries(&shape), &map);
        agrees(
            Quantity::Backward(kind),
            &want,
            &read_npy::<f32>(&folder.path("g.npy")).1,
        );
    }
}

#[test]
fn masks_and_masked_rows() {
    let folder = Folder::new();
    let x = ramp(2 * 3 * 4);
    let mut mask = vec![0.0f32; 3 * 4];
    mask[..4].fill(f32::NEG_INFINITY);
    mask[5] = -2.0;
    folder.write("x.npy", &npy_f32(&[2, 3, 4], &x));
    folder.write("m.npy", &npy_f32(&[3, 4], &mask));
    for masked_rows in [MaskedRows::Nan, MaskedRows::Zero] {
        let setting = if masked_rows == MaskedRows::Zero {
            "masked=zero"
        } else {
            "masked=nan"
        };
        succeeds(&[
            "run",
            "softmax",
            "--device",
            "cpu",
            "--input",
            &folder.arg("x", "x.npy"),
            "--input",
            &folder.arg("mask", "m.npy"),
            "--set",
            setting,
            "--set",
            "causal=true",
            "--output",
            &folder.arg("y", "y.npy"),
        ]);
        let options = SoftmaxOptions {
            causal: Some(0),
            masked_rows,
            ..Default::default()
        };
        let want = expected(SoftmaxKind::Softmax, &x, &[2, 3, 4], Some((&mask, &[3, 4])), &options);
        let (_, y) = read_npy::<f32>(&folder.path("y.npy"));
        agrees(Quantity::Forward(SoftmaxKind::Softmax), &want, &y);
        assert_eq!(y[0].is_nan(), masked_rows == MaskedRows::Nan);
    }
    refuses(
        &[
            "run",
            "softmax",
            "--device",
            "cpu",
            "--input",
            &folder.arg("x", "m.npy"),
            "--input",
            &folder.arg("mask", "x.npy"),
        ],
        &["mask", "[2, 3, 4]"],
    );
    folder.write("b.npy", &npy("|b1", "False", "(4,)", &[1, 0, 1, 0]));
    refuses(
        &[
            "run",
            "softmax",
            "--device",
            "cpu",
            "--input",
            &folder.arg("x", "x.npy"),
            "--input",
            &folder.arg("mask", "b.npy"),
        ],
        &["mask", "bools", "-inf"],
    );
}

#[test]
fn logsumexp_over_axes() {
    let folder = Folder::new();
    let shape = [2, 3, 4];
    let x = ramp(24);
    folder.write("x.npy", &npy_f32(&shape, &x));
    folder.write("m.npy", &npy_f32(&[4], &[0.0, -1.0, 0.5, f32::NEG_INFINITY]));
    let run = |settings: &[&str]| {
        let mut args: Vec<String> = ["run", "logsumexp", "--device", "cpu", "--check"]
            .map(String::from)
            .to_vec();
        args.extend([
            "--input".into(),
            folder.arg("x", "x.npy"),
            "--input".into(),
            folder.arg("mask", "m.npy"),
        ]);
        args.extend([
            "--output".into(),
            folder.arg("y", "y.npy"),
            "--output".into(),
            folder.arg("grad", "g.npy"),
        ]);
        args.extend(settings.iter().flat_map(|s| ["--set".to_string(), s.to_string()]));
        succeeds(&args);
        (
            read_npy::<f32>(&folder.path("y.npy")),
            read_npy::<f32>(&folder.path("g.npy")),
        )
    };
    // Over axes 0 and 2: turn by hand to rows of eight.
    let mask = [0.0, -1.0, 0.5, f32::NEG_INFINITY];
    let turned: Vec<f32> = (0..3)
        .flat_map(|j| (0..8).map(move |k| (j, k)))
        .map(|(j, k)| x[(k / 4) * 12 + j * 4 + k % 4] + mask[k % 4])
        .collect();
    let want = expected(
        SoftmaxKind::LogSumExp,
        &turned,
        &[3, 8],
        None,
        &SoftmaxOptions::default(),
    );
    let ((y_shape, y), (g_shape, grad)) = run(&["axes=0,2", "upstream=2.5"]);
    assert_eq!((y_shape, g_shape), (vec![3], shape.to_vec()));
    agrees(Quantity::Forward(SoftmaxKind::LogSumExp), &want, &y);
    let p = expected(SoftmaxKind::Softmax, &turned, &[3, 8], None, &SoftmaxOptions::default());
    for (at, &g) in grad.iter().enumerate() {
        let (i, j, k) = (at / 12, at / 4 % 3, at % 4);
        let want = 2.5 * p.values[j * 8 + i * 4 + k];
        assert!((f64::from(g) - want).abs() <= 1e-6 * want.abs(), "{at}: {g} {want}");
    }
    let ((y_shape, kept), _) = run(&["axes=2,0", "keepdims=true"]);
    assert_eq!((y_shape, kept), (vec![1, 3, 1], y));
    let ((y_shape, all), _) = run(&["axes=0,1,2"]);
    assert_eq!((y_shape.len(), all.len()), (0, 1));
    let ((y_shape, _), _) = run(&["axis=1", "keepdims=true"]);
    assert_eq!(y_shape, [2, 1, 4]);
    for (set, part) in [("axes=", "at least one"), ("axes=0,-3", "twice"), ("axes=0,5", "axis")] {
        refuses(
            &[
                "run",
                "logsumexp",
                "--device",
                "cpu",
                "--input",
                &folder.arg("x", "x.npy"),
                "--set",
                set,
            ],
            &[part],
        );
    }
}

#[test]
fn every_format_and_type_in_and_out() {
    let folder = Folder::new();
    let values: Vec<f32> = ramp(12).into_iter().map(|v| bf16::from_f32(v).to_f32()).collect();
    let f64s: Vec<u8> = values.iter().flat_map(|&v| f64::from(v).to_be_bytes()).collect();
    let halves: Vec<u8> = values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect();
    let brains: Vec<u8> = values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect();
    folder.write("x.npy", &npy_f32(&[3, 4], &values));
    folder.write("x.npz", &npz(&[("only", &values)]));
    folder.write("big.npy", &npy(">f8", "False", "(3, 4)", &f64s));
    let columns: Vec<u8> = (0..12)
        .flat_map(|i| values[(i % 3) * 4 + i / 3].to_le_bytes())
        .collect();
    folder.write("columns.npy", &npy("<f4", "True", "(3, 4)", &columns));
    folder.write("half.npy", &npy("<f2", "False", "(3, 4)", &halves));
    folder.write("ints.npy", &npy("<i4", "False", "(2,)", &[3, 0, 0, 0, 1, 0, 0, 0]));
    folder.write(
        "x.safetensors",
        &safetensors(&[
            ("w.half", safetensors::Dtype::F16, vec![3, 4], halves.clone()),
            ("w.brain", safetensors::Dtype::BF16, vec![3, 4], brains),
        ]),
    );
    let run = |input: &str, output: &str, more: &[&str]| {
        let mut args = vec![
            "run".to_string(),
            "softmax".into(),
            "--device".into(),
            "cpu".into(),
            "--check".into(),
        ];
        args.extend([
            "--input".into(),
            folder.arg("x", input),
            "--output".into(),
            folder.arg("y", output),
        ]);
        args.extend(more.iter().map(|m| m.to_string()));
        stderr(&succeeds(&args))
    };
    let want = expected(SoftmaxKind::Softmax, &values, &[3, 4], None, &SoftmaxOptions::default());
    let softmax = Quantity::Forward(SoftmaxKind::Softmax);

    assert_eq!(run("x.npy", "y.npy", &[]), "");
    let (shape, y) = read_npy::<f32>(&folder.path("y.npy"));
    assert_eq!(shape, [3, 4]);
    agrees(softmax, &want, &y);
    assert!(run("big.npy", "b.npy", &[]).contains("f64 runs as f32"));
    assert_eq!(read_npy::<f32>(&folder.path("b.npy")).1, y);
    run("columns.npy", "c.npy", &[]);
    assert_eq!(read_npy::<f32>(&folder.path("c.npy")).1, y);
    run("x.npz", "z.npy", &[]);
    assert_eq!(read_npy::<f32>(&folder.path("z.npy")).0, [12]);
    assert!(run("ints.npy", "i.npy", &[]).contains("i32 runs as f32"));
    assert!((read_npy::<f32>(&folder.path("i.npy")).1[0] - 0.880797).abs() < 1e-6);

    // 16-bit types stay what they are.
    run("half.npy", "h.npy", &[]);
    let (_, halved) = read_npy::<f16>(&folder.path("h.npy"));
    let stored: Vec<f16> = elements(&halves);
    agrees(
        softmax,
        &expected(SoftmaxKind::Softmax, &stored, &[3, 4], None, &SoftmaxOptions::default()),
        &halved,
    );
    run("x.safetensors#w.half", "h.safetensors#s", &[]);
    assert_eq!(read_safetensors::<f16>(&folder.path("h.safetensors"), "s").1, halved);
    run("x.safetensors#w.brain", "b.safetensors", &[]);
    agrees(
        softmax,
        &want,
        &read_safetensors::<bf16>(&folder.path("b.safetensors"), "y").1,
    );
    refuses(
        &[
            "run",
            "softmax",
            "--device",
            "cpu",
            "--input",
            &folder.arg("x", "x.safetensors#w.brain"),
            "--output",
            &folder.arg("y", "n.npy"),
        ],
        &["n.npy", "bf16", ".safetensors"],
    );

    // --dtype converts and says what it lost.
    assert!(run("x.npy", "d.safetensors", &["--dtype", "bf16"]).contains("f32 converted to bf16"));
    agrees(
        softmax,
        &want,
        &read_safetensors::<bf16>(&folder.path("d.safetensors"), "y").1,
    );
    folder.write("large.npy", &npy_f32(&[3], &[70000.0, 1.0, f32::NEG_INFINITY]));
    assert!(run("large.npy", "l.npy", &["--dtype", "f16"]).contains("1 of 3 values overflow"));

    // Two outputs of one file.
    succeeds(&[
        "run",
        "logsumexp",
        "--device",
        "cpu",
        "--input",
        &folder.arg("x", "x.npy"),
        "--output",
        &folder.arg("y", "o.safetensors#y"),
        "--output",
        &folder.arg("grad", "o.safetensors#grad"),
    ]);
    assert_eq!(read_safetensors::<f32>(&folder.path("o.safetensors"), "y").0, [3]);
    let (shape, grad) = read_safetensors::<f32>(&folder.path("o.safetensors"), "grad");
    assert_eq!(shape, [3, 4]);
    // The gradient of logsumexp is softmax.
    assert!(grad.iter().zip(&y).all(|(g, y)| (g - y).abs() <= 1e-6), "{grad:?}");
}

#[test]
fn odd_shapes() {
    let folder = Folder::new();
    folder.write("empty.npy", &npy_f32(&[0, 3], &[]));
    folder.write("hollow.npy", &npy_f32(&[2, 0], &[]));
    folder.write("scalar.npy", &npy("<f4", "False", "()", &1f32.to_le_bytes()));
    for (input, kind, shape, values) in [
        ("empty.npy", "softmax", vec![0, 3], vec![]),
        ("hollow.npy", "softmax", vec![2, 0], vec![]),
        ("hollow.npy", "logsumexp", vec![2], vec![f32::NEG_INFINITY; 2]),
    ] {
        succeeds(&[
            "run",
            kind,
            "--device",
            "cpu",
            "--check",
            "--input",
            &folder.arg("x", input),
            "--output",
            &folder.arg("y", "y.npy"),
        ]);
        assert_eq!(read_npy::<f32>(&folder.path("y.npy")), (shape, values), "{input}");
    }
    refuses(
        &[
            "run",
            "softmax",
            "--device",
            "cpu",
            "--input",
            &folder.arg("x", "scalar.npy"),
        ],
        &["axis"],
    );
}

#[test]
fn outputs_appear_together_or_not_at_all() {
    let folder = Folder::new();
    folder.write("x.npy", &npy_f32(&[2, 3], &ramp(6)));
    let x = folder.arg("x", "x.npy");
    let run = |y: &str, grad: &str| {
        vec![
            "run", "softmax", "--device", "cpu", "--input", &x, "--output", y, "--output", grad,
        ]
        .into_iter()
        .map(String::from)
        .collect::<Vec<_>>()
    };
    let y = folder.arg("y", "y.npy");
    refuses(
        &run(&y, "grad=/nonexistent/g.npy"),
        &["/nonexistent/g.npy", "no folder"],
    );
    // Not even root can make a file there.
    if Path::new("/proc/self").exists() {
        refuses(&run(&y, "grad=/proc/g.npy"), &["/proc/g.npy", "cannot be written"]);
    }
    refuses(&run(&y, &folder.arg("grad", "y.npy")), &["y.npy", "both"]);
    assert_eq!(folder.list(), ["x.npy"]);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let locked = folder.path("locked");
        std::fs::create_dir(&locked).unwrap();
        std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o555)).unwrap();
        // A superuser writes there all the same.
        if std::fs::write(locked.join("probe"), b"").is_err() {
            refuses(
                &run(&y, &folder.arg("grad", "locked/g.npy")),
                &["g.npy", "cannot be written"],
            );
            assert_eq!(folder.list(), ["locked", "x.npy"]);
        }
        std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o755)).unwrap();
        // Through a link that stays one.
        folder.write("old.npy", b"from before");
        std::os::unix::fs::symlink(folder.path("old.npy"), folder.path("link.npy")).unwrap();
        succeeds(&[
            "run",
            "softmax",
            "--device",
            "cpu",
            "--input",
            &x,
            "--output",
            &folder.arg("y", "link.npy"),
        ]);
        assert!(folder.path("link.npy").is_symlink());
        let (_, y) = read_npy::<f32>(&folder.path("old.npy"));
        assert!((y[..3].iter().sum::<f32>() - 1.0).abs() < 1e-6);
    }
}

// ---- devices, probe, verify, bench ----

fn json(output: &Output, schema: &str) -> Value {
    let value: Value = serde_json::from_slice(&output.stdout).expect("JSON alone on stdout");
    assert_eq!(value["schema"], schema);
    assert_eq!(value["version"], env!("CARGO_PKG_VERSION"));
    for key in ["name", "backend", "driver"] {
        assert!(value["adapter"][key].is_string(), "{value}");
    }
    value
}

#[test]
fn devices_lists_the_cpu_first() {
    let value = json(&succeeds(&["devices", "--json", "-"]), "macheps.devices/1");
    assert_eq!(value["devices"][0]["index"], 0);
    assert_eq!(value["devices"][0]["backend"], "cpu");
    assert!(value["default"]["reason"].is_string());
    assert!(stdout(&succeeds(&["devices"])).contains("default:"));
    // A reader that does not read.
    let mut child = Command::new(env!("CARGO_BIN_EXE_macheps"))
        .arg("devices")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(!stderr(&output).contains("panicked"));
}

#[test]
fn the_environment_names_the_default_and_the_option_wins() {
    let run = |variable: &str, args: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_macheps"))
            .args(args)
            .env("MACHEPS_DEVICE", variable)
            .output()
            .unwrap()
    };
    assert_eq!(code(&run("no such device", &["devices"])), 2);
    let folder = Folder::new();
    folder.write("x.npy", &npy_f32(&[2], &[1.0, 2.0]));
    let x = folder.arg("x", "x.npy");
    assert_eq!(code(&run("no such device", &["run", "softmax", "--input", &x])), 2);
    assert_eq!(
        code(&run(
            "no such device",
            &["run", "softmax", "--input", &x, "--device", "cpu"]
        )),
        0
    );
    assert_eq!(code(&run("cpu", &["run", "softmax", "--input", &x])), 0);
}

#[test]
fn probe_reports_the_cpu() {
    let value = json(
        &succeeds(&["probe", "--device", "cpu", "--json", "-"]),
        "macheps.probe/1",
    );
    assert!(value["probe"].is_object());
    assert!(stdout(&succeeds(&["probe", "--device", "cpu"])).len() > 100);
}

#[test]
fn verify_passes_on_the_cpu() {
    let folder = Folder::new();
    let file = folder.path("v.json");
    let output = succeeds(&[
        "verify",
        "--device",
        "cpu",
        "--op",
        "logsumexp",
        "--json",
        file.to_str().unwrap(),
    ]);
    assert!(stdout(&output).contains("logsumexp") && stdout(&output).contains("ok"));
    let value: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let cases = value["cases"].as_array().unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        assert_eq!(case["ok"], true, "{case}");
        for key in ["op", "shape", "dtype", "device"] {
            assert!(case[key].is_string(), "{case}");
        }
        assert!(
            case["max_error"].as_f64().unwrap() <= case["bound"].as_f64().unwrap(),
            "{case}"
        );
    }
}

#[test]
fn bench_writes_all_its_files_and_compares() {
    let folder = Folder::new();
    let at = |name: &str| folder.path(name).display().to_string();
    let args = ["bench", "--device", "cpu", "--quick", "--op", "logsumexp"];
    let mut first = args.map(String::from).to_vec();
    first.extend([
        "--json".into(),
        at("old.json"),
        "--csv".into(),
        at("b.csv"),
        "--svg".into(),
        at("b.svg"),
    ]);
    assert!(stdout(&succeeds(&first)).contains("GB/s"));
    assert_eq!(folder.list(), ["b.csv", "b.svg", "old.json"]);
    let old: Value = serde_json::from_slice(&std::fs::read(folder.path("old.json")).unwrap()).unwrap();
    let cases = old["cases"].as_array().unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        assert_eq!(case["verified"], true);
        for key in ["min", "median", "p95"] {
            assert!(case["seconds"][key].as_f64().unwrap() > 0.0, "{case}");
        }
        let gbps = case["bytes"].as_f64().unwrap() / case["seconds"]["median"].as_f64().unwrap() * 1e-9;
        assert!((case["gbps"].as_f64().unwrap() / gbps - 1.0).abs() < 1e-9, "{case}");
        assert!(
            case["fraction_of_copy"].is_number() && case["timer"].is_string(),
            "{case}"
        );
    }
    assert_eq!(
        std::fs::read_to_string(folder.path("b.csv")).unwrap().lines().count(),
        cases.len() + 1
    );
    assert!(
        std::fs::read_to_string(folder.path("b.svg"))
            .unwrap()
            .contains("</svg>")
    );

    let mut second = args.map(String::from).to_vec();
    second.extend(["--compare".into(), at("old.json")]);
    assert!(stdout(&succeeds(&second)).contains(&format!("{} compared", cases.len())));
    second.extend(["--json".into(), "-".into()]);
    json(&succeeds(&second), "macheps.bench/1");
    folder.write("bad.json", b"{\"schema\":");
    refuses(
        &["bench", "--device", "cpu", "--compare", &at("bad.json")],
        &["bad.json", "bench --json"],
    );
    refuses(
        &["bench", "--device", "cpu", "--compare", &at("none.json")],
        &["none.json"],
    );
}

#[test]
fn the_first_visit_lists_verifies_and_times() {
    let output = Command::new(env!("CARGO_BIN_EXE_macheps"))
        .env("MACHEPS_DEVICE", "cpu")
        .env_remove("RUST_LOG")
        .output()
        .unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let said = stdout(&output);
    for part in [
        "* default: CPU path",
        "Verified on CPU path",
        "Timed on CPU path",
        "GB/s",
        "All verified.",
    ] {
        assert!(said.contains(part), "{part} in\n{said}");
    }
}

#[test]
fn prunes_to_a_mask_and_a_matrix() {
    let folder = Folder::new();
    folder.write("x.npy", &npy_f32(&[2, 3], &[0.5, -3.0, 0.0, 2.0, -0.5, 1.0]));
    folder.write("v.npy", &npy_f32(&[2], &[1.0, f32::NAN]));
    let x = folder.arg("x", "x.npy");
    let run = |more: &[&str]| -> Vec<String> {
        ["run", "prune", "--device", "cpu", "--input", x.as_str()]
            .iter()
            .chain(more)
            .map(|s| s.to_string())
            .collect()
    };
    let (mask, threshold, a) = (
        folder.arg("mask", "mask.npy"),
        folder.arg("threshold", "t.npy"),
        folder.arg("A", "a.mtx"),
    );
    let said = stdout(&succeeds(&run(&[
        "--set",
        "sparsity=0.5",
        "--output",
        &mask,
        "--output",
        &threshold,
        "--output",
        &a,
        "--check",
    ])));
    assert!(
        said.contains("3 of 6 elements kept") && said.contains("agrees"),
        "{said}"
    );
    let bytes = |file: &str| std::fs::read(folder.path(file)).unwrap();
    assert!(bytes("mask.npy").ends_with(&[0, 1, 0, 1, 0, 1]));
    assert!(bytes("t.npy").ends_with(&0.5f32.to_le_bytes()));
    let text = String::from_utf8(bytes("a.mtx")).unwrap();
    assert!(text.ends_with("2 3 3\n1 2 -3e0\n2 1 2e0\n2 3 1e0\n"), "{text}");
    refuses(&run(&[]), &["sparsity"]);
    refuses(&run(&["--set", "sparsity=1.5"]), &["sparsity=1.5", "from 0 to 1"]);
    let matrix = folder.arg("A", "a.npy");
    refuses(
        &run(&["--set", "sparsity=0.5", "--output", &matrix]),
        &["Matrix Market"],
    );
    let tensor = folder.arg("mask", "mask.mtx");
    refuses(
        &run(&["--set", "sparsity=0.5", "--output", &tensor]),
        &["mask.mtx", "npy"],
    );
    let v = folder.arg("x", "v.npy");
    let nan = [
        "run",
        "prune",
        "--device",
        "cpu",
        "--input",
        v.as_str(),
        "--set",
        "sparsity=0.5",
    ];
    refuses(&nan, &["element 1 of x is NaN"]);
    let flat = [&nan[..], &["--output", a.as_str()]].concat();
    refuses(&flat, &["two dimensions"]);
}

#[test]
fn unscales_tensors_by_their_names() {
    let folder = Folder::new();
    folder.write("a.npy", &npy_f32(&[2], &[3072.0, -4096.0]));
    folder.write("b.npy", &npy_f32(&[1, 1], &[12288.0]));
    folder.write("bad.npy", &npy_f32(&[1], &[f32::NAN]));
    let last = |file: &str| -> Vec<u8> { std::fs::read(folder.path(file)).unwrap() };
    let run = |second: &str, more: &[&str]| -> Output {
        let mut args = vec!["run".to_string(), "unscale".into(), "--device".into(), "cpu".into()];
        for (option, value) in [
            ("--input", folder.arg("g0", "a.npy")),
            ("--input", folder.arg("g1", second)),
            ("--set", "scale=1024".into()),
            ("--output", folder.arg("g0", "a_out.npy")),
            ("--output", folder.arg("norm", "norm.npy")),
            ("--output", folder.arg("found_nonfinite", "found.npy")),
        ] {
            args.extend([option.to_string(), value]);
        }
        args.extend(more.iter().map(|s| s.to_string()));
        succeeds(&args)
    };
    run("b.npy", &["--check"]);
    assert!(last("norm.npy").ends_with(&13f32.to_le_bytes()));
    assert!(last("a_out.npy").ends_with(&[3f32.to_le_bytes(), (-4f32).to_le_bytes()].concat()));
    assert!(last("found.npy").ends_with(&0i64.to_le_bytes()));
    // Clipped to half the norm.
    run("b.npy", &["--set", "max_norm=6.5", "--check"]);
    let clipped: [u8; 4] = last("a_out.npy").last_chunk().copied().unwrap();
    assert!((f32::from_le_bytes(clipped) + 2.0).abs() < 1e-6);
    run("bad.npy", &["--check"]);
    assert!(last("found.npy").ends_with(&1i64.to_le_bytes()));
    refuses(&["run", "unscale"], &["g0"]);
    let input = folder.arg("g0", "a.npy");
    refuses(
        &["run", "unscale", "--input", &input, "--set", "scale=0"],
        &["scale=0", "positive"],
    );
    refuses(&["run", "unscale", "--input", "g01=a.npy"], &["g01"]);
}

/// [1 0 2; -3 4 0]
const SMALL_MATRIX: &[u8] = b"%%MatrixMarket matrix coordinate integer general\n2 3 4\n1 1 1\n1 3 2\n2 1 -3\n2 2 4\n";

#[test]
fn sparse_products_of_matrix_market_files() {
    let folder = Folder::new();
    folder.write("a.mtx", SMALL_MATRIX);
    folder.write(
        "x.mtx",
        b"%%MatrixMarket matrix array real general\n3 1\n10\n100\n1000\n",
    );
    folder.write(
        "two.mtx",
        b"%%MatrixMarket matrix array real general\n2 2\n1\n2\n3\n4\n",
    );
    folder.write("half.npy", &npy_f32(&[2], &[0.5, f32::NAN]));
    folder.write(
        "bad.mtx",
        b"%%MatrixMarket matrix coordinate real general\n2 3 1\n1 4 1\n",
    );
    folder.write(
        "large.mtx",
        b"%%MatrixMarket matrix coordinate real general\n2 3 1\n1 2 1e39\n",
    );
    let run = |op: &str, a: &str, x: &str, rest: &[&str]| {
        let (a, x) = (folder.arg("A", a), folder.arg("x", x));
        let mut args: Vec<String> = ["run", op, "--device", "cpu", "--check", "--input", &a, "--input", &x]
            .map(String::from)
            .to_vec();
        args.extend(rest.iter().map(|s| s.to_string()));
        args
    };
    let (y, y0) = (folder.arg("y", "y.npy"), folder.arg("y0", "half.npy"));
    let result = || read_npy::<f32>(&folder.path("y.npy"));
    let said = succeeds(&run("spmv", "a.mtx", "x.mtx", &["--output", &y]));
    assert!(
        stdout(&said).contains("2 x 3 matrix with 4 entries in f32"),
        "{}",
        stdout(&said)
    );
    assert_eq!(result(), (vec![2], vec![2010.0, 370.0]));
    // y0 does not count where beta is 0.
    succeeds(&run(
        "spmv",
        "a.mtx",
        "x.mtx",
        &["--output", &y, "--input", &y0, "--dtype", "bf16", "--set", "alpha=2"],
    ));
    assert_eq!(result(), (vec![2], vec![4020.0, 740.0]));
    succeeds(&run(
        "spmm",
        "a.mtx",
        "two.mtx",
        &["--output", &y, "--set", "transpose=true"],
    ));
    assert_eq!(result(), (vec![3, 2], vec![-5.0, -9.0, 8.0, 16.0, 2.0, 6.0]));
    refuses(
        &run("spmv", "a.mtx", "two.mtx", &[]),
        &["x: expected the shape [3], got [2, 2]"],
    );
    refuses(
        &run("spmv", "bad.mtx", "x.mtx", &[]),
        &["bad.mtx", "line 3", "a column from 1 to 3"],
    );
    refuses(
        &run("spmv", "large.mtx", "x.mtx", &[]),
        &["large.mtx", "row 1, column 2", "beyond"],
    );
    refuses(
        &run("spmv", "x.npy", "x.mtx", &[]),
        &["x.npy", "expected a Matrix Market file"],
    );
    refuses(&run("spmv", "a.mtx", "x.mtx", &["--set", "beta=2"]), &["y0"]);
    refuses(
        &run("spmv", "a.mtx", "x.mtx", &["--set", "alpha=inf"]),
        &["alpha=inf", "finite"],
    );
    refuses(
        &["run", "spmv", "--input", &folder.arg("x", "x.mtx")],
        &["needs an input A"],
    );
}

// ---- Every operation of `run` ----

/// A way to run some operations, and a way to run them wrongly.
struct Way {
    ops: &'static [&'static str],
    /// Inputs by name and file.
    inputs: &'static [(&'static str, &'static str)],
    settings: &'static [&'static str],
    /// Outputs by name and shape.
    outputs: &'static [(&'static str, &'static [usize])],
    /// An option and its value that do not fit, and what the line says. An input takes the place of that of its name.
    wrong: (&'static str, &'static str, &'static str),
}

const TABLE: [usize; 2] = [2, 3];

const WAYS: &[Way] = &[
    Way {
        ops: &["softmax", "log_softmax"],
        inputs: &[("x", "x"), ("mask", "row"), ("upstream", "x")],
        settings: &["axis=0"],
        outputs: &[("y", &TABLE), ("grad", &TABLE)],
        wrong: ("--input", "upstream=row", "upstream"),
    },
    Way {
        ops: &["logsumexp"],
        inputs: &[("x", "x")],
        settings: &["axes=0,1", "upstream=2"],
        outputs: &[("y", &[]), ("grad", &TABLE)],
        wrong: ("--set", "scale=inf", "finite"),
    },
    Way {
        ops: &["cross_entropy"],
        inputs: &[("x", "x"), ("target", "labels"), ("weight", "row")],
        settings: &["reduction=none", "z_loss=0.5"],
        outputs: &[("loss", &[2]), ("log_prob", &TABLE), ("grad", &TABLE)],
        wrong: ("--input", "target=far", "label 1 is 9"),
    },
    Way {
        ops: &["nll_loss"],
        inputs: &[("x", "x"), ("target", "labels"), ("weight", "row")],
        settings: &["ignore_index=2"],
        outputs: &[("loss", &[]), ("grad", &TABLE)],
        wrong: ("--input", "weight=short", "weight"),
    },
    Way {
        ops: &["bce_with_logits"],
        inputs: &[("x", "x"), ("target", "x"), ("weight", "row"), ("pos_weight", "row")],
        settings: &["reduction=sum", "upstream=0.5"],
        outputs: &[("loss", &[]), ("grad", &TABLE)],
        wrong: ("--input", "target=row", "target"),
    },
    Way {
        ops: &["sigmoid", "log_sigmoid", "softplus"],
        inputs: &[("x", "x"), ("upstream", "x")],
        settings: &[],
        outputs: &[("y", &TABLE), ("grad", &TABLE)],
        wrong: ("--input", "upstream=row", "upstream"),
    },
    Way {
        ops: &["sum", "mean"],
        inputs: &[("x", "x"), ("upstream", "pair")],
        settings: &["axes=-1", "mode=reproducible"],
        outputs: &[("y", &[2]), ("grad", &TABLE)],
        wrong: ("--set", "correction=1", "correction"),
    },
    Way {
        ops: &["variance", "std"],
        inputs: &[("x", "x")],
        settings: &["axes=0", "keepdims=true", "correction=0"],
        outputs: &[("y", &[1, 3]), ("grad", &TABLE)],
        wrong: ("--input", "upstream=labels", "upstream"),
    },
    Way {
        ops: &["norm"],
        inputs: &[("x", "x")],
        settings: &["ord=inf"],
        outputs: &[("y", &[]), ("grad", &TABLE)],
        wrong: ("--set", "axes=2", "axis"),
    },
    Way {
        ops: &["min", "max", "sum_square", "log_sum"],
        inputs: &[("x", "x")],
        settings: &["axes=0"],
        outputs: &[("y", &[3]), ("grad", &TABLE)],
        wrong: ("--set", "keepdims=perhaps", "true or false"),
    },
    Way {
        ops: &["dot"],
        inputs: &[("x", "x"), ("x2", "x")],
        settings: &["axes=1"],
        outputs: &[("y", &[2]), ("grad", &TABLE)],
        wrong: ("--input", "x2=row", "x2"),
    },
    Way {
        ops: &["argmin", "argmax"],
        inputs: &[("x", "x")],
        settings: &["axes=1"],
        outputs: &[("y", &[2])],
        wrong: ("--output", "grad=grad", "no gradient"),
    },
    Way {
        ops: &["layer_norm"],
        inputs: &[("x", "x"), ("weight", "row"), ("bias", "row"), ("upstream", "x")],
        settings: &["eps=0.001"],
        outputs: &[("y", &TABLE), ("grad", &TABLE)],
        wrong: ("--input", "weight=short", "expected the shape [3]"),
    },
    Way {
        ops: &["rms_norm"],
        inputs: &[("x", "x"), ("weight", "row")],
        settings: &["upstream=2"],
        outputs: &[("y", &TABLE), ("grad", &TABLE)],
        wrong: ("--input", "bias=row", "there is x, weight"),
    },
    Way {
        ops: &["unscale"],
        inputs: &[("g0", "x"), ("g1", "row")],
        settings: &["scale=4"],
        outputs: &[("g0", &TABLE), ("norm", &[]), ("found_nonfinite", &[])],
        wrong: ("--set", "max_norm=-1", "positive"),
    },
    Way {
        ops: &["prune"],
        inputs: &[("x", "x")],
        settings: &["sparsity=0.5"],
        outputs: &[("mask", &TABLE), ("threshold", &[])],
        wrong: ("--set", "sparsity=1.5", "sparsity"),
    },
    Way {
        ops: &["spmv"],
        inputs: &[("A", "a.mtx"), ("x", "row"), ("y0", "pair")],
        settings: &["alpha=2", "beta=-1"],
        outputs: &[("y", &[2])],
        wrong: ("--input", "x=pair", "expected the shape [3]"),
    },
    Way {
        ops: &["spmm"],
        inputs: &[("A", "a.mtx"), ("x", "tall")],
        settings: &["transpose=false"],
        outputs: &[("y", &[2, 2])],
        wrong: ("--set", "beta=1", "y0"),
    },
];

/// The operations that the program names when asked for one that it does not have.
fn all_operations() -> Vec<String> {
    let said = stderr(&macheps(&["run", "no such operation"]));
    let (_, list) = said.split_once("there is ").expect("a list");
    list.trim().split(", ").map(String::from).collect()
}

#[test]
fn every_operation_runs_and_refuses() {
    let folder = Folder::new();
    let positive: Vec<f32> = (0..6).map(|i| 0.25 + (i * 5 % 6) as f32 * 0.125).collect();
    let integers = |values: &[i64]| {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        npy("<i8", "False", &shape_text(&[values.len()]), &bytes)
    };
    folder.write("x.npy", &npy_f32(&TABLE, &positive));
    folder.write("row.npy", &npy_f32(&[3], &[0.5, 2.0, 1.0]));
    folder.write("pair.npy", &npy_f32(&[2], &[0.5, 2.0]));
    folder.write("tall.npy", &npy_f32(&[3, 2], &positive));
    folder.write("a.mtx", SMALL_MATRIX);
    folder.write("short.npy", &npy_f32(&[4], &[1.0; 4]));
    folder.write("labels.npy", &integers(&[2, 0]));
    folder.write("far.npy", &integers(&[2, 9]));
    let inputs_alone = folder.list();
    let mut run: Vec<&str> = Vec::new();
    for way in WAYS {
        for &op in way.ops {
            run.push(op);
            let call = |wrong: Option<(&str, &str)>| {
                let mut args: Vec<String> = ["run", op, "--device", "cpu", "--check"].map(String::from).to_vec();
                let mut add = |option: &str, value: String| args.extend([option.to_string(), value]);
                let replaced = wrong.filter(|w| w.0 == "--input").and_then(|w| w.1.split_once('='));
                for (name, file) in way.inputs {
                    if replaced.is_none_or(|(wrong, _)| wrong != *name) {
                        let extension = if file.contains('.') { "" } else { ".npy" };
                        add("--input", folder.arg(name, &format!("{file}{extension}")));
                    }
                }
                for setting in way.settings {
                    add("--set", setting.to_string());
                }
                for (name, _) in way.outputs {
                    add("--output", folder.arg(name, &format!("out_{name}.npy")));
                }
                match wrong {
                    Some((option @ ("--input" | "--output"), value)) => {
                        let (name, file) = value.split_once('=').expect("a name and a file");
                        add(option, folder.arg(name, &format!("{file}.npy")));
                    }
                    Some((option, value)) => add(option, value.to_string()),
                    None => {}
                }
                args
            };
            let said = stdout(&succeeds(&call(None)));
            assert!(said.contains("agrees with the CPU reference"), "{op}: {said}");
            for (name, shape) in way.outputs {
                let file = std::fs::File::open(folder.path(&format!("out_{name}.npy"))).expect("the output is written");
                let file = npyz::NpyFile::new(std::io::BufReader::new(file)).expect("valid npy");
                let got: Vec<usize> = file.shape().iter().map(|&n| n as usize).collect();
                assert_eq!(got, *shape, "{op}: {name}");
                folder.write(&format!("out_{name}.npy"), b"from before");
            }
            let (option, value, part) = way.wrong;
            let before = folder.list();
            refuses(&call(Some((option, value))), &[part]);
            assert_eq!(folder.list(), before, "{op}");
            for (name, _) in way.outputs {
                let path = folder.path(&format!("out_{name}.npy"));
                assert_eq!(std::fs::read(&path).unwrap(), b"from before", "{op}: {name}");
                std::fs::remove_file(path).unwrap();
            }
            assert_eq!(folder.list(), inputs_alone, "{op}");
        }
    }
    let mut all = all_operations();
    all.sort();
    run.sort_unstable();
    assert_eq!(run, all, "operations without a way to run them here");
}
