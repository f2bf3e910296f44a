//! stdout, stderr and the progress bar.

use std::io::{ErrorKind, Write};
use std::sync::{Mutex, PoisonError};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::failure::{Failure, Outcome};

/// What is to be said beside a result. A refusal is one line, so this waits until there is one.
static REMARKS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Says something about a result on stderr, once there is one.
pub fn remark(text: &str) {
    REMARKS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(text.to_string());
}

/// Says the remarks so far.
pub fn say_remarks() {
    let remarks = std::mem::take(&mut *REMARKS.lock().unwrap_or_else(PoisonError::into_inner));
    remarks.iter().for_each(|text| note(text));
}

/// Prints text and a newline on stdout, after the remarks so far. A reader that has gone away (`| head`) is no error.
pub fn print(text: &str) -> Outcome {
    say_remarks();
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Failure::usage(format!("stdout cannot be written: {e}"))),
        _ => Ok(()),
    }
}

/// Prints one line on stderr.
pub fn note(text: &str) {
    // Without stderr there is nobody to tell.
    let _ = writeln!(std::io::stderr().lock(), "macheps: {text}");
}

/// A progress bar on stderr, invisible unless that is a terminal.
pub fn progress(count: usize) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(count as u64), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}") {
        bar.set_style(style);
    }
    bar
}

/// A progress bar of bytes.
pub fn progress_bytes(count: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(count), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {msg}") {
        bar.set_style(style);
    }
    bar
}
