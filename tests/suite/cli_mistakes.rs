//! A mistake for every option of `macheps`: each is named in one line, with what was expected, and nothing is written.

use serde_json::Value;

use crate::cli::{Folder, code, macheps, npy, refuses, shape_text, stderr, stdout, succeeds};

fn npy_f64(values: &[f64]) -> Vec<u8> {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    npy("<f8", "False", &shape_text(&[values.len()]), &bytes)
}

const TWO: &[u8] = b"%%MatrixMarket matrix coordinate real symmetric\n2 2 3\n1 1 4\n2 2 3\n2 1 1\n";

/// A folder with a matrix `a.mtx`, vectors `b.npy` and `x.npy`, and what is wrong to be read from.
fn folder() -> Folder {
    let folder = Folder::new();
    folder.write("a.mtx", TWO);
    folder.write("b.npy", &npy_f64(&[1.0, 2.0]));
    folder.write("x.npy", &npy_f64(&[0.5, -1.0]));
    folder.write("empty.npy", b"");
    folder.write("empty.mtx", b"");
    folder.write("empty.safetensors", b"");
    folder.write("empty.npz", b"");
    folder.write("array.mtx", b"%%MatrixMarket matrix array real general\n2 1\n1\n2\n");
    folder.write("complex.npy", &npy("<c16", "False", "(2,)", &[0; 32]));
    folder.write("short.npy", &npy("<f8", "False", "(2,)", &[0; 8]));
    folder.write("three.npy", &npy_f64(&[1.0, 2.0, 3.0]));
    std::fs::create_dir(folder.path("folder.npy")).expect("a folder");
    std::fs::create_dir(folder.path("folder.mtx")).expect("a folder");
    std::fs::create_dir(folder.path("folder.svg")).expect("a folder");
    folder
}

/// Names and bytes of all files.
fn contents(folder: &Folder) -> Vec<(String, Option<Vec<u8>>)> {
    let read = |name: String| (name.clone(), std::fs::read(folder.path(&name)).ok());
    folder.list().into_iter().map(read).collect()
}

/// The words with `@name` in place of the path of a file of the folder.
fn words(folder: &Folder, text: &str) -> Vec<String> {
    let root = folder.path("").display().to_string();
    text.split_whitespace().map(|word| word.replace('@', &root)).collect()
}

/// Refused in one line that has these parts, and no file is changed.
#[track_caller]
fn mistake(folder: &Folder, text: &str, parts: &[&str]) {
    let before = contents(folder);
    refuses(&words(folder, text), parts);
    assert!(contents(folder) == before, "{text}: {:?}", folder.list());
}

#[test]
fn mistakes_of_solve() {
    let folder = folder();
    let solve = |text: &str, parts: &[&str]| mistake(&folder, &format!("solve {text} --device cpu"), parts);
    // The matrix.
    solve("@none.mtx", &["none.mtx", "No such file"]);
    solve("@empty.mtx", &["empty.mtx", "expected"]);
    solve("@folder.mtx", &["folder.mtx", "folder"]);
    solve("@x.npy", &["x.npy", "expected a Matrix Market file"]);
    solve("@short.npy", &["short.npy", "expected a Matrix Market file"]);
    // Vectors: what there is, and what is named.
    for option in ["--rhs", "--x0"] {
        for (file, parts) in [
            ("@none.npy", &["none.npy", "No such file"][..]),
            ("@empty.npy", &["empty.npy", "truncated"]),
            ("@empty.mtx", &["empty.mtx", "expected"]),
            ("@empty.npz", &["empty.npz", "not an npz file"]),
            ("@empty.safetensors", &["empty.safetensors", "truncated"]),
            ("@folder.npy", &["folder.npy", "is a folder"]),
            ("@complex.npy", &["complex.npy", "'<c16'", "expected"]),
            ("@short.npy", &["short.npy", "needs 16 bytes, 8 follow"]),
            ("@three.npy", &["three.npy", "expected 2 elements", "[3]"]),
            ("@b.txt", &["b.txt", "x.npz#name", "Matrix Market array file"]),
            ("@a.mtx", &["a.mtx", "expected"]),
        ] {
            let mut parts = parts.to_vec();
            parts.push(option);
            solve(&format!("@a.mtx {option} {file}"), &parts);
        }
    }
    solve("@a.mtx --rhs zeros", &["--rhs", "ones", "zeros"]);
    // Numbers and names.
    solve("@a.mtx --shift -1", &["--shift -1", "positive"]);
    solve("@a.mtx --shift=-1e-30", &["--shift -1e-30", "positive"]);
    solve("@a.mtx --shift nan", &["--shift NaN", "finite"]);
    solve("@a.mtx --rtol -1e-6", &["--rtol", "positive"]);
    solve("@a.mtx --rtol x", &["--rtol", "x"]);
    solve("@a.mtx --omega 0 --method sor", &["--omega 0", "between 0 and 2"]);
    solve(
        "@a.mtx --method conjugate",
        &["--method", "conjugate", "cg, jacobi, gauss-seidel, sor"],
    );
    solve("@a.mtx --precond amg", &["--precond", "amg", "none, jacobi, ssor, ic0"]);
    solve("@a.mtx --max-iter 1.5", &["--max-iter", "1.5"]);
    solve("@a.mtx --dtype f64", &["--dtype", "expected f32, f16 or bf16"]);
    mistake(&folder, "solve @a.mtx --device gpx", &["gpx", "there is"]);
    // Where results go: named before anything is read.
    solve(
        "@none.mtx --plot @r.png",
        &["--plot", "r.png", "expected an SVG file", "r.svg"],
    );
    solve("@none.mtx --plot @r", &["--plot", "expected an SVG file"]);
    solve("@none.mtx --plot @folder.svg", &["--plot", "is a folder"]);
    solve("@none.mtx --plot @none/r.svg", &["--plot", "there is no folder"]);
    solve("@none.mtx --json @folder.npy", &["--json", "is a folder"]);
    solve("@none.mtx --json @none/r.json", &["--json", "there is no folder"]);
    for name in ["y.txt", "y.mtx", "y.safetensors", "y.safetensors#y", "y"] {
        let output = macheps(&words(
            &folder,
            &format!("solve @none.mtx --device cpu --output @{name}"),
        ));
        let said = stderr(&output);
        assert!(
            code(&output) == 2 && said.contains("--output") && said.contains("expected an npy file"),
            "{said}"
        );
        assert!(!said.contains("or y.safetensors"), "{said}");
    }
    solve("@none.mtx --output @folder.npy", &["--output", "is a folder"]);
    solve("@none.mtx --output @none/y.npy", &["--output", "there is no folder"]);
}

/// No command replaces a file that it reads, by whatever path.
#[test]
fn inputs_are_not_written_over() {
    let folder = folder();
    let rooted = folder.detour("b.npy").display().to_string();
    for (text, parts) in [
        (
            "solve @a.mtx --rhs @b.npy --device cpu --output @b.npy".to_string(),
            &["--output", "--rhs"][..],
        ),
        (
            format!("solve @a.mtx --rhs @b.npy --device cpu --output {rooted}"),
            &["--output", "--rhs"],
        ),
        (
            "solve @a.mtx --x0 @x.npy --device cpu --output @x.npy".into(),
            &["--output", "--x0"],
        ),
        (
            "solve @a.mtx --device cpu --json @a.mtx".into(),
            &["--json", "the matrix"],
        ),
        (
            "run softmax --device cpu --input x=@x.npy --output y=@x.npy".into(),
            &["--output y", "--input x"],
        ),
        (
            format!("run dot --device cpu --input x=@x.npy --input x2=@b.npy --output y={rooted}"),
            &["--output y", "--input x2"],
        ),
        (
            "run unscale --device cpu --input g0=@b.npy --output g0=@b.npy".into(),
            &["--output g0", "--input g0"],
        ),
        ("audit @b.npy --device cpu --json @b.npy".into(), &["--json", "b.npy"]),
        (
            "bench --device cpu --quick --compare @array.mtx --json @array.mtx".into(),
            &["--json", "--compare"],
        ),
        (
            "bench --device cpu --quick --compare @array.mtx --csv @array.mtx".into(),
            &["--csv", "--compare"],
        ),
    ] {
        let mut parts = parts.to_vec();
        parts.push("would write over");
        mistake(&folder, &text, &parts);
    }
    // A sparse matrix that would replace the one it comes from, through a link.
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(folder.path("x.npy"), folder.path("link.npy")).expect("a link");
        mistake(
            &folder,
            "run softmax --device cpu --input x=@x.npy --output y=@link.npy",
            &["--output y", "would write over", "--input x"],
        );
        mistake(
            &folder,
            "solve @a.mtx --rhs @link.npy --device cpu --output @x.npy",
            &["--output", "would write over", "--rhs"],
        );
    }
}

#[test]
fn mistakes_of_run() {
    let folder = folder();
    folder.write("x.safetensors", &[0; 4]);
    let run = |text: &str, parts: &[&str]| mistake(&folder, &format!("run {text} --device cpu"), parts);
    run("softmx --input x=@x.npy", &["softmx", "softmax", "spmv"]);
    run("softmax", &["needs an input x", "--input x=FILE"]);
    run("softmax --input @x.npy", &["--input", "expected NAME="]);
    run("softmax --input y=@x.npy", &["--input y", "there is x, mask, upstream"]);
    for (file, parts) in [
        ("@none.npy", &["none.npy", "No such file"][..]),
        ("@empty.npy", &["empty.npy", "truncated"]),
        ("@empty.npz", &["empty.npz", "not an npz file"]),
        ("@empty.safetensors", &["empty.safetensors", "truncated"]),
        ("@folder.npy", &["folder.npy", "is a folder"]),
        ("@complex.npy", &["'<c16'", "expected"]),
        ("@x.txt", &["x.txt", "expected x.npy", "Matrix Market"]),
    ] {
        let mut parts = parts.to_vec();
        parts.push("--input x");
        run(&format!("softmax --input x={file}"), &parts);
    }
    run(
        "softmax --input x=@x.npy --set axis=first",
        &["--set axis=first", "an integer"],
    );
    run(
        "softmax --input x=@x.npy --set scales=2",
        &["--set scales", "there is axis"],
    );
    run("softmax --input x=@x.npy --set axis", &["--set axis", "expected NAME="]);
    run(
        "softmax --input x=@x.npy --dtype i8",
        &["--dtype", "expected f32, f16 or bf16"],
    );
    run(
        "softmax --input x=@x.npy --output y=@y.mtx",
        &["--output y", "y.mtx", "expected y.npy or y.safetensors#name"],
    );
    run(
        "softmax --input x=@x.npy --output y=@y.npz",
        &["--output y", "y.npz", "expected y.npy"],
    );
    run(
        "softmax --input x=@x.npy --output y=",
        &["--output y", "expected y.npy"],
    );
    run(
        "softmax --input x=@x.npy --output y=@folder.npy",
        &["--output y", "is a folder"],
    );
    run(
        "softmax --input x=@x.npy --output y=@none/y.npy",
        &["--output y", "there is no folder"],
    );
    run(
        "softmax --input x=@x.npy --output y=@x.safetensors#y",
        &["x.safetensors", "left alone"],
    );
    run(
        "prune --input x=@x.npy --set sparsity=0.5 --output A=@a.npy",
        &["--output A", "a.npy", "expected a Matrix Market file"],
    );
    run(
        "prune --input x=@x.npy --set sparsity=0.5 --output A=@p.mtx.gz",
        &["--output A", "expected a Matrix Market file"],
    );
    run(
        "prune --input x=@x.npy --set sparsity=2",
        &["--set sparsity=2", "from 0 to 1"],
    );
    run("prune --input x=@x.npy", &["--set sparsity="]);
    run("spmv --input x=@x.npy", &["needs an input A", "--input A=FILE.mtx"]);
    run(
        "spmv --input A=@a.npy --input x=@x.npy",
        &["--input A", "a.npy", "expected a Matrix Market file"],
    );
    run(
        "spmv --input A=@none.mtx --input x=@x.npy",
        &["--input A", "none.mtx", "No such file"],
    );
    run(
        "spmv --input A=@a.mtx --input x=@three.npy",
        &["x", "expected the shape [2]", "[3]"],
    );
    run(
        "spmv --input A=@a.mtx --input x=@x.npy --output y=@y.mtx",
        &["--output y", "expected y.npy"],
    );
    run("norm --input x=@x.npy --set ord=3", &["--set ord=3", "1, 2 or inf"]);
    run("sum --input x=@x.npy --set axes=", &["--set axes=", "at least one"]);
    run("sum --input x=@x.npy --set axes=4", &["4"]);
    run(
        "argmax --input x=@x.npy --output grad=@g.npy",
        &["argmax", "no gradient"],
    );
}

#[test]
fn mistakes_of_reports() {
    let folder = folder();
    for command in [
        "devices",
        "probe --device cpu",
        "verify --device cpu",
        "bench --device cpu",
        "audit @b.npy --device cpu",
    ] {
        mistake(
            &folder,
            &format!("{command} --json @folder.npy"),
            &["--json", "is a folder"],
        );
        mistake(
            &folder,
            &format!("{command} --json @none/r.json"),
            &["--json", "there is no folder"],
        );
    }
    for command in ["probe", "verify", "bench", "audit @b.npy"] {
        mistake(&folder, &format!("{command} --device gpx"), &["gpx", "there is"]);
        mistake(&folder, &format!("{command} --device 999"), &["999", "there is"]);
    }
    for command in ["verify", "bench"] {
        mistake(
            &folder,
            &format!("{command} --device cpu --op sofmax"),
            &["sofmax", "there is softmax"],
        );
    }
    mistake(
        &folder,
        "bench --device cpu --svg @s.png",
        &["--svg", "s.png", "expected an SVG file"],
    );
    mistake(
        &folder,
        "audit @b.npy --device cpu --svg @s.pdf",
        &["--svg", "s.pdf", "expected an SVG file"],
    );
    mistake(
        &folder,
        "bench --device cpu --csv @none/s.csv",
        &["--csv", "there is no folder"],
    );
    mistake(
        &folder,
        "bench --device cpu --compare @none.json",
        &["none.json", "No such file"],
    );
    mistake(
        &folder,
        "bench --device cpu --compare @a.mtx",
        &["a.mtx", "expected what bench --json wrote"],
    );
    mistake(
        &folder,
        "bench --device cpu --compare @folder.npy",
        &["folder.npy", "folder"],
    );
    mistake(&folder, "audit --device cpu", &["SRC"]);
    mistake(
        &folder,
        "audit @none.safetensors --device cpu",
        &["none.safetensors", "No such file"],
    );
    mistake(&folder, "audit @folder.npy --device cpu", &["is a folder"]);
    mistake(
        &folder,
        "audit @empty.safetensors --device cpu",
        &["empty.safetensors", "truncated"],
    );
    mistake(&folder, "audit @b.txt --device cpu", &["b.txt", "expected x.npy"]);
}

/// A file that is there and must not be changed is refused, and pipes take what they are given.
#[cfg(unix)]
#[test]
fn protected_files_stay() {
    use std::os::unix::fs::PermissionsExt;
    let folder = folder();
    folder.write("kept.npy", b"kept");
    let mode = std::fs::Permissions::from_mode(0o444);
    std::fs::set_permissions(folder.path("kept.npy"), mode).expect("permissions");
    mistake(
        &folder,
        "solve @a.mtx --device cpu --output @kept.npy",
        &["--output", "kept.npy", "read-only"],
    );
    mistake(
        &folder,
        "run softmax --device cpu --input x=@x.npy --output y=@kept.npy",
        &["--output y", "read-only"],
    );
    mistake(
        &folder,
        "solve @a.mtx --device cpu --json @kept.npy",
        &["--json", "read-only"],
    );
    succeeds(&words(
        &folder,
        "solve @a.mtx --device cpu --json /dev/null --plot /dev/null",
    ));
}

/// What a matrix holds beyond the range of f32 stops a device, and the line says what can be done; the CPU path solves in f64.
#[test]
fn values_beyond_f32() {
    let folder = folder();
    folder.write(
        "large.mtx",
        b"%%MatrixMarket matrix coordinate real general\n2 2 2\n1 1 2\n2 2 4e40\n",
    );
    mistake(
        &folder,
        "run spmv --device cpu --input A=@large.mtx --input x=@x.npy",
        &[
            "large.mtx",
            "row 2, column 2",
            "4e40",
            "largest number of f32",
            "expected a scaled matrix",
        ],
    );
    folder.write(
        "half.mtx",
        b"%%MatrixMarket matrix coordinate real general\n2 2 2\n1 1 2\n2 2 1e5\n",
    );
    mistake(
        &folder,
        "run spmv --device cpu --input A=@half.mtx --input x=@x.npy --dtype f16",
        &["half.mtx", "largest number of f16", "--dtype bf16 or f32"],
    );
    let report = |text: &str| -> Value {
        let output = macheps(&words(&folder, text));
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("{e}: {} {}", stdout(&output), stderr(&output)))
    };
    let on_cpu = report("solve @large.mtx --device cpu --json -");
    assert_eq!(
        (
            on_cpu["dtype"].as_str(),
            on_cpu["arithmetic"].as_str(),
            on_cpu["outcome"].as_str()
        ),
        (Some("f64"), Some("f64"), Some("converged"))
    );
    let software = macheps::devices()
        .into_iter()
        .find(|d| d.kind != macheps::DeviceKind::Cpu);
    let Some(device) = software else { return };
    let device = device.index;
    mistake(
        &folder,
        &format!("solve @half.mtx --device {device} --dtype f16"),
        &[
            "half.mtx",
            "row 2, column 2",
            "--dtype bf16 or f32, whose range is wider",
        ],
    );
    for dtype in ["f32", "bf16"] {
        let on_device = report(&format!("solve @a.mtx --device {device} --dtype {dtype} --json -"));
        assert_eq!(
            (on_device["dtype"].as_str(), on_device["arithmetic"].as_str()),
            (Some(dtype), Some("f32"))
        );
    }
}

/// What a plot shows: the curve, the residuals recomputed in f64, and the goal, each named.
#[test]
fn plots_show_true_residuals() {
    let folder = folder();
    let plot = |text: &str| -> String {
        macheps(&words(&folder, &format!("solve {text} --device cpu --plot @r.svg")));
        std::fs::read_to_string(folder.path("r.svg")).expect("a plot")
    };
    let markers = |svg: &str| svg.matches("r=\"5\"").count();
    for (text, parts) in [
        ("@a.mtx", &["converged after 2 iterations", "rtol 1e-6"][..]),
        (
            "@a.mtx --max-iter 1 --rtol 1e-9",
            &["iteration limit after 1 iteration", "rtol 1e-9"],
        ),
        ("@a.mtx --method sor", &["by sor", "rtol 1e-6"]),
    ] {
        let svg = plot(text);
        // The start, the end, and the legend.
        assert_eq!(markers(&svg), 3, "{svg}");
        for part in parts
            .iter()
            .chain(&["recomputed in f64", "residual as the iteration knows it"])
        {
            assert!(svg.contains(part), "{text}: {part} in {svg}");
        }
    }
    // Nothing to do: the start is the end.
    folder.write("zero.npy", &npy_f64(&[0.0, 0.0]));
    let svg = plot("@a.mtx --rhs @zero.npy");
    assert!(
        markers(&svg) == 2 && svg.contains("converged after 0 iterations"),
        "{svg}"
    );
}
