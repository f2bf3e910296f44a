//! What the commands report: the JSON documents and the CSV.

use std::path::Path;

use serde::Serialize;

use crate::destination;
use crate::failure::{Failure, Outcome};
use crate::output;

/// The device that a document speaks of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Adapter {
    pub name: String,
    pub backend: String,
    pub driver: String,
}

impl Adapter {
    /// Name and backend: the same driver may speak both Vulkan and GL.
    pub fn short(&self) -> String {
        if self.backend.is_empty() || self.backend == "cpu" {
            self.name.clone()
        } else {
            format!("{} ({})", self.name, self.backend)
        }
    }
}

impl std::fmt::Display for Adapter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let details: Vec<&str> = [&self.backend, &self.driver]
            .into_iter()
            .map(String::as_str)
            .filter(|s| !s.is_empty())
            .collect();
        f.write_str(&self.name)?;
        if !details.is_empty() {
            write!(f, " ({})", details.join(", "))?;
        }
        Ok(())
    }
}

/// A document: the head that all have, and its own fields. Numbers that are not finite become `null`.
#[derive(Debug, Serialize)]
pub struct Document<'a, T> {
    schema: String,
    version: &'static str,
    adapter: &'a Adapter,
    #[serde(flatten)]
    body: T,
}

impl<'a, T: Serialize> Document<'a, T> {
    /// A document of the command `command`.
    pub fn new(command: &str, adapter: &'a Adapter, body: T) -> Self {
        Document {
            schema: format!("macheps.{command}/1"),
            version: env!("CARGO_PKG_VERSION"),
            adapter,
            body,
        }
    }

    /// Writes it to a file, or to stdout for `-`.
    pub fn write(&self, to: &Path) -> Outcome {
        let text = serde_json::to_string_pretty(self)
            .map_err(|e| Failure::usage(format!("the results cannot be written as JSON: {e}")))?;
        if is_stdout(to) {
            output::print(&text)
        } else {
            destination::write_text(to, &(text + "\n"))
        }
    }
}

/// Whether `--json` asks for JSON alone on stdout.
pub fn is_stdout(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// A verified case.
#[derive(Clone, Debug, Serialize)]
pub struct VerifyCase {
    pub op: String,
    pub shape: String,
    pub dtype: &'static str,
    pub detail: String,
    pub device: String,
    pub max_error: f64,
    pub bound: f64,
    /// What `max_error` and `bound` count.
    pub unit: &'static str,
    pub ok: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// A timed case.
#[derive(Clone, Debug, Serialize)]
pub struct BenchCase {
    pub op: String,
    pub shape: String,
    pub dtype: &'static str,
    pub device: String,
    pub seconds: Seconds,
    /// The fewest bytes that have to move.
    pub bytes: u64,
    /// Those bytes by the median time.
    pub gbps: f64,
    /// What a copy reaches on this device.
    pub copy_gbps: f64,
    pub fraction_of_copy: f64,
    pub verified: bool,
    pub timer: &'static str,
}

/// Times of a case.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Seconds {
    pub min: f64,
    pub median: f64,
    pub p95: f64,
}

/// The cases of a bench as CSV.
pub fn csv(cases: &[BenchCase]) -> Outcome<String> {
    let failed = |e: &dyn std::fmt::Display| Failure::usage(format!("the results cannot be written as CSV: {e}"));
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer
        .write_record([
            "op",
            "shape",
            "dtype",
            "device",
            "seconds_min",
            "seconds_median",
            "seconds_p95",
            "bytes",
            "gbps",
            "copy_gbps",
            "fraction_of_copy",
            "verified",
            "timer",
        ])
        .map_err(|e| failed(&e))?;
    for case in cases {
        let Seconds { min, median, p95 } = case.seconds;
        let number = |value: f64| value.to_string();
        writer
            .write_record([
                case.op.clone(),
                case.shape.clone(),
                case.dtype.to_string(),
                case.device.clone(),
                number(min),
                number(median),
                number(p95),
                case.bytes.to_string(),
                number(case.gbps),
                number(case.copy_gbps),
                number(case.fraction_of_copy),
                case.verified.to_string(),
                case.timer.to_string(),
            ])
            .map_err(|e| failed(&e))?;
    }
    let bytes = writer.into_inner().map_err(|e| failed(&e))?;
    String::from_utf8(bytes).map_err(|e| failed(&e))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A case that took `median` seconds.
    pub fn case(op: &str, shape: &str, median: f64) -> BenchCase {
        let (bytes, copy_gbps) = (32 << 20, 20.0);
        let gbps = bytes as f64 / median * 1e-9;
        BenchCase {
            op: op.to_string(),
            shape: shape.to_string(),
            dtype: "f32",
            device: "test".to_string(),
            seconds: Seconds {
                min: median * 0.9,
                median,
                p95: median * 1.2,
            },
            bytes,
            gbps,
            copy_gbps,
            fraction_of_copy: gbps / copy_gbps,
            verified: true,
            timer: "wall",
        }
    }

    pub fn adapter() -> Adapter {
        Adapter {
            name: "test".to_string(),
            backend: "cpu".to_string(),
            driver: String::new(),
        }
    }

    #[derive(Serialize)]
    struct Cases {
        cases: Vec<BenchCase>,
    }

    #[test]
    fn documents_have_a_head_and_no_nan() {
        let mut bad = case("softmax", "2x3", 1e-3);
        bad.fraction_of_copy = f64::NAN;
        let adapter = adapter();
        let document = Document::new("bench", &adapter, Cases { cases: vec![bad] });
        let value = serde_json::to_value(&document).unwrap();
        assert_eq!(value["schema"], "macheps.bench/1");
        assert_eq!(value["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(value["adapter"]["backend"], "cpu");
        assert_eq!(value["cases"][0]["seconds"]["median"], 1e-3);
        assert!(value["cases"][0]["fraction_of_copy"].is_null());
    }

    #[test]
    fn csv_quotes() {
        let mut odd = case("softmax", "2x3", 1e-3);
        odd.device = "a, \"b\"".to_string();
        let text = csv(&[odd]).unwrap();
        assert_eq!(text.lines().count(), 2);
        assert!(text.contains("\"a, \"\"b\"\"\""), "{text}");
    }
}
