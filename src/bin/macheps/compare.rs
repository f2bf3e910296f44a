//! `bench --compare`: this run against an earlier one.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;

use crate::failure::{Failure, Outcome};
use crate::report::{Adapter, BenchCase};
use crate::table;

/// A time longer by more than this counts as slower.
const SLOWER: f64 = 1.10;

/// An earlier run.
#[derive(Debug, Deserialize)]
pub struct Old {
    schema: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    adapter: OldAdapter,
    cases: Vec<OldCase>,
}

#[derive(Debug, Default, Deserialize)]
struct OldAdapter {
    #[serde(default)]
    name: String,
    #[serde(default)]
    backend: String,
    #[serde(default)]
    driver: String,
}

#[derive(Debug, Deserialize)]
struct OldCase {
    op: String,
    shape: String,
    dtype: String,
    seconds: OldSeconds,
}

#[derive(Debug, Deserialize)]
struct OldSeconds {
    median: Option<f64>,
}

impl Old {
    /// Reads a document that `bench --json` wrote.
    pub fn read(path: &Path) -> Outcome<Old> {
        let text = std::fs::read(path).map_err(|e| Failure::file(path, format!("cannot be read: {e}")))?;
        let old: Old = serde_json::from_slice(&text)
            .map_err(|e| Failure::file(path, format!("expected what bench --json wrote: {e}")))?;
        if old.schema != "macheps.bench/1" {
            return Err(Failure::file(
                path,
                format!("has the schema '{}'; expected macheps.bench/1", old.schema),
            ));
        }
        Ok(old)
    }

    /// The comparison, as text.
    pub fn compare(&self, adapter: &Adapter, cases: &[BenchCase]) -> String {
        type Key<'a> = (&'a str, &'a str, &'a str);
        let mut old: HashMap<Key, f64> = HashMap::new();
        for case in &self.cases {
            old.insert(
                (&case.op, &case.shape, &case.dtype),
                case.seconds.median.unwrap_or(f64::NAN),
            );
        }
        let (mut rows, mut only_new, mut slower) = (Vec::new(), Vec::new(), 0);
        let same_device = self.adapter.name == adapter.name && self.adapter.backend == adapter.backend;
        for case in cases {
            let Some(before) = old.remove(&(&case.op, &case.shape, case.dtype)) else {
                only_new.push(format!("{} {} {}", case.op, case.shape, case.dtype));
                continue;
            };
            let ratio = case.seconds.median / before;
            let flag = match ratio {
                r if r.is_finite() && !same_device => "",
                r if r > SLOWER => {
                    slower += 1;
                    "slower"
                }
                r if r < 1.0 / SLOWER => "faster",
                r if r.is_finite() => "",
                _ => "not comparable",
            };
            rows.push(vec![
                case.op.clone(),
                case.shape.clone(),
                case.dtype.to_string(),
                table::seconds(before),
                table::seconds(case.seconds.median),
                if ratio.is_finite() {
                    format!("{ratio:.2}")
                } else {
                    "-".to_string()
                },
                flag.to_string(),
            ]);
        }
        // In the order of the file, each once.
        let only_old: Vec<String> = self
            .cases
            .iter()
            .filter(|c| {
                old.remove(&(c.op.as_str(), c.shape.as_str(), c.dtype.as_str()))
                    .is_some()
            })
            .map(|c| format!("{} {} {}", c.op, c.shape, c.dtype))
            .collect();
        let compared = rows.len();
        let columns = [
            ("op", false),
            ("shape", true),
            ("dtype", false),
            ("old median", true),
            ("new median", true),
            ("new/old", true),
            ("", false),
        ];
        let mut text = format!("Against an earlier run (macheps {}):\n", self.version);
        if !same_device {
            text += &format!(
                "DIFFERENT DEVICES: {} then, {adapter} now. The ratios compare the devices.\n",
                self.adapter()
            );
        } else if self.adapter.driver != adapter.driver {
            text += &format!(
                "Different drivers: {} then, {} now.\n",
                self.adapter.driver, adapter.driver
            );
        }
        if compared > 0 {
            text += &table::table(&columns, rows);
            text.push('\n');
        }
        text += &match same_device {
            true => format!("{compared} compared, {slower} slower by more than 10 %."),
            false => format!("{compared} compared."),
        };
        for (names, which) in [(only_old, "the earlier run"), (only_new, "this run")] {
            if !names.is_empty() {
                text += &format!("\nOnly in {which}: {}.", names.join("; "));
            }
        }
        text
    }

    fn adapter(&self) -> Adapter {
        let OldAdapter { name, backend, driver } = &self.adapter;
        Adapter {
            name: name.clone(),
            backend: backend.clone(),
            driver: driver.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{adapter, case};

    fn old(text: &str) -> Outcome<Old> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("old.json");
        std::fs::write(&path, text).unwrap();
        Old::read(&path)
    }

    /// An earlier run, of the device named.
    fn earlier(device: &str) -> Old {
        old(&r#"{"schema":"macheps.bench/1","version":"0.0.1","adapter":{"name":"DEVICE","backend":"cpu","driver":""},"cases":[
            {"op":"softmax","shape":"2x3","dtype":"f32","seconds":{"min":1,"median":0.001,"p95":1}},
            {"op":"softmax","shape":"9x9","dtype":"f32","seconds":{"min":1,"median":0.001,"p95":1}},
            {"op":"logsumexp","shape":"2x3","dtype":"f32","seconds":{"min":1,"median":null,"p95":1}}]}"#
            .replace("DEVICE", device))
        .unwrap()
    }

    #[test]
    fn compares() {
        let now = [
            case("softmax", "2x3", 1.2e-3),
            case("logsumexp", "2x3", 1e-3),
            case("log_softmax", "2x3", 1e-3),
        ];
        let text = earlier(&adapter().name).compare(&adapter(), &now);
        for expected in [
            "1.20",
            "slower",
            "not comparable",
            "2 compared, 1 slower",
            "Only in the earlier run: softmax 9x9 f32.",
            "Only in this run: log_softmax 2x3 f32.",
        ] {
            assert!(text.contains(expected), "{expected} in\n{text}");
        }
        assert!(!text.contains("DIFFERENT DEVICES"), "{text}");
    }

    /// Another device's times are set beside these, but judged by nobody.
    #[test]
    fn different_devices_get_no_verdict() {
        let text = earlier("other").compare(&adapter(), &[case("softmax", "2x3", 1.2e-3)]);
        assert!(
            text.contains("DIFFERENT DEVICES: other (cpu) then, test (cpu) now."),
            "{text}"
        );
        assert!(text.contains("1.20"), "{text}");
        assert!(!text.contains("slower"), "{text}");
    }

    #[test]
    fn refuses() {
        assert!(old("").is_err());
        assert!(old("[]").is_err());
        assert!(
            old(r#"{"schema":"macheps.verify/1","cases":[]}"#)
                .unwrap_err()
                .to_string()
                .contains("macheps.verify/1")
        );
        assert!(Old::read(Path::new("/nonexistent/old.json")).is_err());
    }
}
