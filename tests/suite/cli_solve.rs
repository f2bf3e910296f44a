//! `macheps solve`, run as a user runs it: every option, and a mistake for each.

use macheps::sparse::{Coo, matrix_market};
use serde_json::Value;

use crate::cli::{Folder, code, macheps, npy, refuses, shape_text, stderr, stdout, succeeds};
use crate::data::shared_data;

/// Twenty unknowns in a row: [-1 2 -1], written as a symmetric file.
fn chain(folder: &Folder, name: &str) {
    let n = 20;
    let mut coo = Coo::new(n, n).unwrap();
    for i in 0..n {
        coo.push(i, i, 2.0).unwrap();
        if i > 0 {
            coo.push(i, i - 1, -1.0).unwrap();
            coo.push(i - 1, i, -1.0).unwrap();
        }
    }
    let mut text = Vec::new();
    matrix_market::write(&mut text, &coo.to_csr().unwrap()).unwrap();
    folder.write(name, &text);
}

fn npy_f64(values: &[f64]) -> Vec<u8> {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    npy("<f8", "False", &shape_text(&[values.len()]), &bytes)
}

/// The doubles of an npy file.
fn read_f64(folder: &Folder, name: &str) -> Vec<f64> {
    let bytes = std::fs::read(folder.path(name)).expect("the output exists");
    let file = npyz::NpyFile::new(&bytes[..]).expect("valid npy");
    assert_eq!(file.shape().len(), 1);
    file.into_vec::<f64>().expect("f64")
}

/// The solution for b = 1.
fn parabola() -> Vec<f64> {
    (1..=20).map(|i| f64::from(i * (21 - i)) / 2.0).collect()
}

#[track_caller]
fn near(got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= tolerance * largest, "{i}: {g} {w}");
    }
}

fn json(folder: &Folder, name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(folder.path(name)).expect("the output exists")).expect("valid JSON")
}

#[test]
fn solve_reports() {
    let folder = Folder::new();
    chain(&folder, "a.mtx");
    let at = |name: &str| folder.path(name).display().to_string();
    let said = succeeds(&[
        "solve",
        &at("a.mtx"),
        "--device",
        "cpu",
        "--output",
        &at("x.npy"),
        "--json",
        &at("r.json"),
        "--plot",
        &at("r.svg"),
    ]);
    let text = stdout(&said);
    for part in [
        "converged",
        "relative residual",
        "condition of A",
        "digits",
        "a.mtx, 20 rows, 58 entries, by cg with jacobi",
    ] {
        assert!(text.contains(part), "{text}");
    }
    assert!(
        !stderr(&said).contains("residual"),
        "no progress bar off a terminal: {}",
        stderr(&said)
    );
    near(&read_f64(&folder, "x.npy"), &parabola(), 1e-6);
    let report = json(&folder, "r.json");
    assert_eq!(
        (report["schema"].as_str(), report["version"].as_str()),
        (Some("macheps.solve/1"), Some(env!("CARGO_PKG_VERSION")))
    );
    assert!(report["adapter"]["name"].is_string() && report["adapter"]["backend"].is_string());
    assert_eq!(
        (report["outcome"].as_str(), report["iterations"].as_u64()),
        (Some("converged"), Some(10))
    );
    assert_eq!(report["residual_history"].as_array().unwrap().len(), 11);
    let number = |key: &str| report[key].as_f64().unwrap_or_else(|| panic!("{key}: {report}"));
    assert!(number("relative_residual") <= 1e-6 && number("backward_error") <= 1e-6 && number("seconds") >= 0.0);
    // lambda_k = 2 - 2 cos(k pi / 21)
    let angle = std::f64::consts::PI / 21.0;
    let condition = (1.0 + angle.cos()) / (1.0 - angle.cos());
    assert!((number("condition_estimate") / condition - 1.0).abs() < 0.1, "{report}");
    assert!(number("forward_error_bound") < 1e-3);
    let svg = std::fs::read_to_string(folder.path("r.svg")).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("iterations") && svg.contains("polyline"));
    // JSON alone on stdout.
    let said = succeeds(&["solve", &at("a.mtx"), "--device", "cpu", "--json", "-"]);
    let report: Value = serde_json::from_slice(&said.stdout).expect("JSON and nothing else");
    assert_eq!(report["preconditioner"], "jacobi");
}

#[test]
fn solve_takes_its_options() {
    let folder = Folder::new();
    chain(&folder, "a.mtx");
    let at = |name: &str| folder.path(name).display().to_string();
    let mut b = vec![0.0; 20];
    (b[0], b[19]) = (3.0, 3.0);
    // x = 3 everywhere.
    folder.write("b.npy", &npy_f64(&b));
    let mut column = "%%MatrixMarket matrix array real general\n20 1\n".to_string();
    b.iter().for_each(|v| column += &format!("{v}\n"));
    folder.write("b.mtx", column.as_bytes());
    folder.write("x0.npy", &npy_f64(&[3.0; 20]));
    let solve = |more: &[&str]| {
        let (matrix, x, r) = (at("a.mtx"), at("x.npy"), at("r.json"));
        let mut all = vec!["solve", &matrix, "--device", "cpu", "--output", &x, "--json", &r];
        all.extend(more);
        let output = macheps(&all);
        assert_eq!(code(&output), 0, "{more:?}: {}", stderr(&output));
        (read_f64(&folder, "x.npy"), json(&folder, "r.json"))
    };
    let (b_npy, b_mtx, x0) = (at("b.npy"), at("b.mtx"), at("x0.npy"));
    for rhs in [&b_npy, &b_mtx] {
        let (x, _) = solve(&["--rhs", rhs]);
        near(&x, &[3.0; 20], 1e-5);
    }
    let (_, report) = solve(&["--rhs", &b_npy, "--x0", &x0]);
    assert_eq!(report["iterations"], 0);
    let (x, report) = solve(&["--rhs", "ones", "--rtol", "1e-12", "--max-iter", "50"]);
    near(&x, &parabola(), 1e-11);
    assert_eq!(
        (report["rtol"].as_f64(), report["max_iterations"].as_u64()),
        (Some(1e-12), Some(50))
    );
    for precond in ["none", "jacobi", "ssor", "ic0"] {
        let (x, report) = solve(&["--precond", precond, "--method", "cg"]);
        near(&x, &parabola(), 1e-5);
        let name = report["preconditioner"].as_str().unwrap_or("none").to_lowercase();
        assert!(name.contains(precond) || precond == "ic0", "{precond}: {name}");
    }
    let (_, report) = solve(&["--precond", "ssor", "--omega", "1.2"]);
    assert_eq!(report["omega"], 1.2);
    for (method, omega) in [
        ("jacobi", None),
        ("jacobi", Some("0.9")),
        ("gauss-seidel", None),
        ("sor", Some("1.7")),
        ("sor", None),
    ] {
        let mut more = vec!["--method", method, "--max-iter", "5000"];
        if let Some(omega) = omega {
            more.extend(["--omega", omega]);
        }
        let (x, report) = solve(&more);
        near(&x, &parabola(), 1e-3);
        assert_eq!(
            (report["method"].as_str(), report["preconditioner"].as_str()),
            (Some(method), None)
        );
    }
    // (A + 2 I) x = b
    let (x, report) = solve(&["--shift", "2", "--rhs", &b_npy, "--rtol", "1e-10"]);
    assert!((4.0 * x[0] - x[1] - 3.0).abs() < 1e-8 && report["shift"] == 2.0);
    let (x, _) = solve(&["--refine", "--rtol", "1e-13"]);
    near(&x, &parabola(), 1e-12);
    solve(&["--dtype", "f16"]);
}

/// Outputs are there and the exit code is 1.
#[test]
fn solve_says_when_it_did_not_converge() {
    let folder = Folder::new();
    chain(&folder, "a.mtx");
    folder.write(
        "indefinite.mtx",
        b"%%MatrixMarket matrix coordinate real symmetric\n2 2 3\n1 1 1\n2 2 1\n2 1 2\n",
    );
    let at = |name: &str| folder.path(name).display().to_string();
    let solve = |matrix: &str, more: &[&str]| {
        let (matrix, x, r) = (at(matrix), at("x.npy"), at("r.json"));
        let mut all = vec!["solve", &matrix, "--device", "cpu", "--output", &x, "--json", &r];
        all.extend(more);
        let output = macheps(&all);
        assert_eq!(code(&output), 1, "{more:?}: {} {}", stdout(&output), stderr(&output));
        let found = json(&folder, "r.json");
        assert!(!read_f64(&folder, "x.npy").is_empty());
        std::fs::remove_file(&x).unwrap();
        std::fs::remove_file(&r).unwrap();
        (found, stdout(&output), stderr(&output))
    };
    let (report, _, said) = solve("a.mtx", &["--max-iter", "3"]);
    assert_eq!(
        (report["outcome"].as_str(), report["iterations"].as_u64()),
        (Some("iteration limit"), Some(3))
    );
    assert!(said.contains("iteration limit after 3 iterations"), "{said}");
    // b = (1, -1): p.Ap = 2 - 4.
    folder.write("b.npy", &npy_f64(&[1.0, -1.0]));
    let b = at("b.npy");
    let (report, text, _) = solve("indefinite.mtx", &["--rhs", &b]);
    assert_eq!(report["outcome"], "breakdown: not positive definite");
    assert_eq!(report["breakdown_iteration"], 0);
    assert!(
        text.contains("Advice: ") && text.contains("not positive definite in iteration 0"),
        "{text}"
    );
    // A diagonal that no preconditioner can be made of is named with its row and iteration 0; x is the start.
    folder.write(
        "hole.mtx",
        b"%%MatrixMarket matrix coordinate real symmetric\n2 2 2\n1 1 4\n2 1 1\n",
    );
    folder.write(
        "negative.mtx",
        b"%%MatrixMarket matrix coordinate real symmetric\n2 2 3\n1 1 4\n2 1 1\n2 2 -3\n",
    );
    for precond in ["jacobi", "ssor", "ic0"] {
        for (matrix, outcome) in [("hole.mtx", "zero"), ("negative.mtx", "negative")] {
            let (report, text, said) = solve(matrix, &["--precond", precond]);
            let outcome = format!("breakdown: {outcome} diagonal in row 1");
            assert_eq!(report["outcome"], outcome.as_str(), "{precond}");
            assert_eq!(report["breakdown_iteration"], 0);
            assert_eq!(report["preconditioner"], precond);
            assert_eq!(report["residual_history"], serde_json::json!([1.0]));
            assert!(text.contains(&format!("{outcome} in iteration 0")), "{text}");
            assert!(text.contains("Advice: ") && said.contains(&outcome), "{text} {said}");
        }
    }
    let (report, ..) = solve(
        "indefinite.mtx",
        &["--method", "jacobi", "--rhs", &b, "--max-iter", "1000"],
    );
    assert!(report["outcome"].as_str().unwrap().starts_with("breakdown"), "{report}");
}

/// Exit code 2, one line, and nothing written.
#[test]
fn solve_refuses() {
    let folder = Folder::new();
    chain(&folder, "a.mtx");
    folder.write(
        "line.mtx",
        b"%%MatrixMarket matrix coordinate real general\n2 2 2\n1 1 4\n2 x 4\n",
    );
    folder.write(
        "wide.mtx",
        b"%%MatrixMarket matrix coordinate real general\n1 2 1\n1 1 4\n",
    );
    folder.write("short.npy", &npy_f64(&[1.0; 19]));
    let mut nan = vec![1.0; 20];
    nan[7] = f64::NAN;
    folder.write("nan.npy", &npy_f64(&nan));
    folder.write("text.npy", b"1 2 3");
    let before = folder.list();
    let at = |name: &str| folder.path(name).display().to_string();
    let (a, x) = (at("a.mtx"), at("x.npy"));
    let solve = |matrix: &str, more: &[&str], parts: &[&str]| {
        let matrix = at(matrix);
        let mut all = vec!["solve", matrix.as_str(), "--device", "cpu", "--output", &x];
        all.extend(more);
        refuses(&all, parts);
        assert_eq!(folder.list(), before, "{more:?}");
    };
    solve("line.mtx", &[], &["line.mtx", "line 4", "expected"]);
    solve("none.mtx", &[], &["none.mtx"]);
    solve("wide.mtx", &[], &["wide.mtx", "expected a square matrix, got 1 x 2"]);
    solve(
        "a.mtx",
        &["--rhs", &at("short.npy")],
        &["--rhs", "expected 20 elements", "19"],
    );
    solve("a.mtx", &["--rhs", &at("nan.npy")], &["--rhs", "element 7 is NaN"]);
    solve("a.mtx", &["--rhs", &at("text.npy")], &["text.npy"]);
    solve("a.mtx", &["--rhs", "zeros"], &["zeros", "expected"]);
    solve("a.mtx", &["--rhs", &at("line.mtx")], &["line 4"]);
    solve("a.mtx", &["--x0", &at("short.npy")], &["--x0", "expected 20 elements"]);
    solve("a.mtx", &["--omega", "1.5"], &["--omega", "--method jacobi or sor"]);
    solve(
        "a.mtx",
        &["--omega", "2", "--method", "sor"],
        &["--omega 2", "between 0 and 2"],
    );
    solve(
        "a.mtx",
        &["--method", "sor", "--precond", "ic0"],
        &["--precond ic0 goes with --method cg"],
    );
    solve("a.mtx", &["--rtol", "0"], &["--rtol 0", "positive"]);
    solve("a.mtx", &["--rtol", "nan"], &["--rtol NaN", "positive"]);
    solve("a.mtx", &["--shift", "inf"], &["--shift inf", "finite"]);
    solve("a.mtx", &["--plot", &at("none/r.svg")], &["there is no folder"]);
    solve("a.mtx", &["--plot", "-"], &["--plot -"]);
    solve("a.mtx", &["--shift", "-2"], &["--shift -2", "positive"]);
    solve("a.mtx", &["--json", &x], &["is the file of both"]);
    refuses(&["solve", &a, "--output", &at("x.txt")], &["x.txt", "npy"]);
    refuses(
        &["solve", &a, "--output", &at("x.safetensors#x")],
        &["--output", "expected an npy file"],
    );
    refuses(&["solve", &a, "--device", "no such device"], &["no such device"]);
    // What clap refuses has its own words; the code is the same.
    for bad in [
        &["--method", "gmres"],
        &["--precond", "amg"],
        &["--max-iter", "-1"],
        &["--dtype", "f64"],
        &["--rtol", "small"],
    ] {
        let output = macheps(&[&["solve", a.as_str()], &bad[..]].concat());
        assert_eq!(code(&output), 2, "{bad:?}");
    }
    assert_eq!(code(&macheps(&["solve"])), 2);
    assert_eq!(folder.list(), before);
}

#[test]
fn solve_real_matrices() {
    let Some(data) = shared_data("cli_solve::solve_real_matrices") else {
        return;
    };
    let folder = Folder::new();
    let at = |name: &str| folder.path(name).display().to_string();
    let of = |name: &str| data.join("matrices").join(name).display().to_string();
    let (matrix, b) = (of("cantilever2D.mtx.gz"), of("cantilever2D_b.mtx.gz"));
    succeeds(&[
        "solve",
        &matrix,
        "--rhs",
        &b,
        "--device",
        "cpu",
        "--precond",
        "ic0",
        "--output",
        &at("x.npy"),
        "--json",
        &at("r.json"),
    ]);
    let report = json(&folder, "r.json");
    assert_eq!(report["rows"], 1458);
    let condition = report["condition_estimate"].as_f64().unwrap();
    assert!((condition / 4.95e7 - 1.0).abs() < 0.5, "{condition:e}");
    // Negative definite: no diagonal to divide by the root of, and without it a breakdown at once.
    let output = macheps(&["solve", &of("sherman1.mtx.gz"), "--device", "cpu"]);
    assert_eq!(code(&output), 1);
    assert!(
        stdout(&output).contains("negative diagonal in row 0 in iteration 0"),
        "{}",
        stdout(&output)
    );
    let output = macheps(&["solve", &of("sherman1.mtx.gz"), "--device", "cpu", "--precond", "none"]);
    assert_eq!(code(&output), 1);
    assert!(
        stdout(&output).contains("not positive definite in iteration 0"),
        "{}",
        stdout(&output)
    );
}

/// The same commands on every adapter.
#[test]
fn solve_on_devices() {
    let folder = Folder::new();
    chain(&folder, "a.mtx");
    let at = |name: &str| folder.path(name).display().to_string();
    succeeds(&[
        "solve",
        &at("a.mtx"),
        "--shift",
        "1",
        "--device",
        "cpu",
        "--output",
        &at("want.npy"),
        "--rtol",
        "1e-12",
    ]);
    let want = read_f64(&folder, "want.npy");
    folder.write(
        "b.npy",
        &npy_f64(&(0..20).map(|i| 1.0 / (3.0 + f64::from(i))).collect::<Vec<_>>()),
    );
    let (a, b, x) = (at("a.mtx"), at("b.npy"), at("beyond.npy"));
    succeeds(&[
        "solve", &a, "--rhs", &b, "--device", "cpu", "--output", &x, "--rtol", "1e-12",
    ]);
    let beyond = read_f64(&folder, "beyond.npy");
    for (index, info) in macheps::devices().iter().enumerate() {
        if info.kind == macheps::DeviceKind::Cpu {
            continue;
        }
        let device = index.to_string();
        for more in [
            &["--method", "cg"][..],
            &["--method", "cg", "--precond", "ic0"],
            &["--method", "sor", "--omega", "1.7"],
            &["--refine", "--rtol", "1e-12"],
        ] {
            let (a, x, r) = (at("a.mtx"), at("x.npy"), at("r.json"));
            // Shifted, since f32 does not reach 1e-6 where x is fifty times b.
            let mut all = vec![
                "solve", &a, "--shift", "1", "--device", &device, "--output", &x, "--json", &r,
            ];
            all.extend(more);
            let output = macheps(&all);
            assert_eq!(code(&output), 0, "{} {more:?}: {}", info.label(), stderr(&output));
            let report = json(&folder, "r.json");
            assert!(report["relative_residual"].as_f64().unwrap() <= report["rtol"].as_f64().unwrap());
            near(&read_f64(&folder, "x.npy"), &want, 1e-5);
        }
        // Beyond f32: exit code 1, the best x, and what to do about it. The solution for ones would be one of integers.
        let (a, b, x) = (at("a.mtx"), at("b.npy"), at("x.npy"));
        let output = macheps(&[
            "solve", &a, "--rhs", &b, "--rtol", "1e-9", "--device", &device, "--output", &x,
        ]);
        let text = stdout(&output);
        assert_eq!(code(&output), 1, "{}: {text}", info.label());
        assert!(
            text.contains("stagnation") && text.contains("--refine"),
            "{}: {text}",
            info.label()
        );
        near(&read_f64(&folder, "x.npy"), &beyond, 1e-3);
    }
}

/// Matrices whose answer cannot be trusted: no digits are promised, and the advice says why.
#[test]
fn solve_promises_no_digits_that_it_does_not_have() {
    let folder = Folder::new();
    let mtx = |entries: &str, n: usize, count: usize| {
        format!("%%MatrixMarket matrix coordinate real general\n{n} {n} {count}\n{entries}")
    };
    // Singular to working precision; exactly singular with a consistent b; not symmetric.
    folder.write(
        "near.mtx",
        mtx("1 1 1\n1 2 1\n2 1 1\n2 2 1.0000000000000002\n", 2, 4).as_bytes(),
    );
    folder.write(
        "singular.mtx",
        mtx("1 1 1\n1 2 -1\n2 1 -1\n2 2 2\n2 3 -1\n3 2 -1\n3 3 1\n", 3, 7).as_bytes(),
    );
    folder.write("skewed.mtx", mtx("1 1 4\n1 2 1\n2 2 4\n", 2, 3).as_bytes());
    folder.write("two.npy", &npy_f64(&[2.0, 2.0]));
    folder.write("three.npy", &npy_f64(&[1.0, 0.0, -1.0]));
    for (name, rhs) in [("near", "two"), ("singular", "three"), ("skewed", "two")] {
        let matrix = folder.path(&format!("{name}.mtx")).display().to_string();
        let rhs = folder.path(&format!("{rhs}.npy")).display().to_string();
        let json = folder.path("report.json").display().to_string();
        let args = [
            "solve",
            &matrix,
            "--rhs",
            &rhs,
            "--precond",
            "none",
            "--device",
            "cpu",
            "--json",
            &json,
        ];
        macheps(&args);
        let report = self::json(&folder, "report.json");
        let bound = report["forward_error_bound"].as_f64();
        assert!(bound.is_none_or(|bound| bound >= 0.1), "{name}: {report}");
        assert!(
            !report["advice"].as_array().expect("a list").is_empty(),
            "{name}: {report}"
        );
    }
}

#[test]
fn solve_keeps_its_inputs() {
    let folder = Folder::new();
    let text = "%%MatrixMarket matrix coordinate real general\n1 1 1\n1 1 2\n";
    folder.write("a.mtx", text.as_bytes());
    folder.write("b.npy", &npy_f64(&[2.0]));
    let path = |name: &str| folder.path(name).display().to_string();
    let (a, b) = (path("a.mtx"), path("b.npy"));
    for (option, file) in [("--plot", &a), ("--json", &a), ("--json", &b), ("--output", &b)] {
        let args = ["solve", &a, "--rhs", &b, "--device", "cpu", option, file];
        refuses(&args, &["would write over"]);
    }
    assert_eq!(
        std::fs::read(folder.path("a.mtx")).expect("still there"),
        text.as_bytes()
    );
}
