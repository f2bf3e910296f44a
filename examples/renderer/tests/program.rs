//! The program, as it is called.

mod common;

use common::hosts;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder of a test's own, removed in the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(test: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("macheps-smoke-{}-{test}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary folder");
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A folder that stays behind is no reason to fail.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn smoke(out: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_smoke"));
    command.arg("--out").arg(out).args(arguments);
    command.output().expect("the program starts")
}

fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn pictures_animation_and_plot() {
    if hosts("pictures_animation_and_plot").is_empty() {
        return;
    }
    let scratch = Scratch::new("pictures");
    let arguments = "--size 48x40 --frames 12 --every 4 --scale 2 --dispatches 60";
    let output = smoke(&scratch.0, &arguments.split(' ').collect::<Vec<_>>());
    assert!(output.status.success(), "{}", complaint(&output));
    let said = String::from_utf8_lossy(&output.stdout);
    for word in ["Jacobi", "CG", "PCG", "frames/s"] {
        assert!(said.contains(word), "{said}");
    }

    let mut names: Vec<String> = std::fs::read_dir(&scratch.0)
        .expect("the folder")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    let expected = [
        "divergence.svg",
        "frame-00004.png",
        "frame-00008.png",
        "frame-00012.png",
        "smoke.gif",
    ];
    assert_eq!(names, expected);

    let file = std::fs::File::open(scratch.0.join("frame-00012.png")).expect("a picture");
    let reader = png::Decoder::new(std::io::BufReader::new(file))
        .read_info()
        .expect("a PNG");
    assert_eq!((reader.info().width, reader.info().height), (96, 80));

    let file = std::fs::File::open(scratch.0.join("smoke.gif")).expect("an animation");
    let mut options = gif::DecodeOptions::new();
    options.set_color_output(gif::ColorOutput::RGBA);
    let mut decoder = options.read_info(file).expect("a GIF");
    assert_eq!((decoder.width(), decoder.height()), (48, 40));
    let mut frames = 0;
    while decoder.read_next_frame().expect("a frame").is_some() {
        frames += 1;
    }
    assert_eq!(frames, 3);

    let plot = std::fs::read_to_string(scratch.0.join("divergence.svg")).expect("a plot");
    assert_eq!(
        plot.matches("<polyline").count(),
        4,
        "before, and after by three methods"
    );
    assert!(plot.contains("smoke around a ball, 48 x 40 cells, at most 60 dispatches a frame, on "));
}

#[test]
fn refusals_say_what_and_what_is_expected() {
    let scratch = Scratch::new("refusals");
    let file = scratch.0.join("file");
    std::fs::write(&file, "no folder").expect("a file");
    let inside = file.join("folder");

    let wrong = |out: &Path, arguments: &str, words: &[&str]| {
        let output = smoke(out, &arguments.split(' ').filter(|a| !a.is_empty()).collect::<Vec<_>>());
        let said = complaint(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments}: {said}");
        for word in words {
            assert!(said.contains(word), "{arguments}: {said}");
        }
    };
    wrong(&scratch.0, "--size 100", &["100", "WIDTHxHEIGHT"]);
    wrong(&scratch.0, "--size 8x9000", &["8", "9000", "16 to 2048"]);
    wrong(&scratch.0, "--pressure multigrid", &["multigrid", "jacobi"]);
    wrong(&scratch.0, "--frames 0", &["0", "1"]);
    wrong(&inside, "--frames 1", &["folder", "write"]);
    if !hosts("refusals_say_what_and_what_is_expected").is_empty() {
        wrong(&scratch.0, "--device nonsense", &["nonsense", "expected"]);
        wrong(&scratch.0, "--dispatches 2 --size 32x32", &["2", "at least"]);
    }
    wrong(&scratch.0, "--device=", &["--device", "value"]);
    #[cfg(not(feature = "window"))]
    wrong(&scratch.0, "--window", &["--features window"]);
    // Nothing was left behind.
    assert_eq!(std::fs::read_dir(&scratch.0).expect("the folder").count(), 1);
}
