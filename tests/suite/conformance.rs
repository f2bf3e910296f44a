//! The cases of the data sets by their names: that each is taken by the tests of its family, and that each goes through
//! `macheps run`, on the CPU path and on every driver of Vulkan.
//!
//! What the library makes of the cases stands with the families: `onnx`, `hard_rows`, `cross_entropy`, `activation`,
//! `reduction`, `gpu_elementary`. Here they are counted, so that none is lost between two of them. All operations in the data
//! sets are operations of this crate. ReduceProd, ReduceL1, ReduceL2, ReduceMin and ReduceMax of the standards have no cases
//! there; of these a product is the one that the crate does not have, as no loss or norm needs it.

use crate::data::{self, shared_data};
use crate::{activation, cross_entropy, gpu_elementary, hard_rows, onnx, reduction};
use macheps::element::{bf16, f16};
use std::collections::BTreeMap;

/// How often the families take each case of a folder: each exactly once.
fn taken_once(folder: &str, families: &[Vec<String>]) {
    let Some(shared) = shared_data("every case is taken") else {
        return;
    };
    let index = data::json(shared.join(folder).join("index.json"));
    let mut taken: BTreeMap<String, usize> = BTreeMap::new();
    for case in index["cases"].as_array().unwrap() {
        assert_eq!(taken.insert(case["file"].as_str().unwrap().to_string(), 0), None);
    }
    for name in families.iter().flatten() {
        *taken
            .get_mut(name)
            .unwrap_or_else(|| panic!("{name} is not in the index")) += 1;
    }
    let lost: Vec<_> = taken.iter().filter(|(_, count)| **count != 1).collect();
    assert!(lost.is_empty(), "cases that are not taken once: {lost:?}");
    println!("{folder}: {} cases", taken.len());
}

#[test]
fn every_case_of_onnx_and_webnn_is_taken() {
    let test = "every case of ONNX and WebNN";
    let families = [
        onnx::onnx_cases(test).into_iter().map(|c| c.name).collect(),
        cross_entropy::onnx_cases(test).into_iter().map(|c| c.name).collect(),
        reduction::onnx_cases(test).into_iter().map(|c| c.name).collect(),
        activation::names(test, "onnx", &activation::ONNX),
    ];
    taken_once("onnx", &families);
}

#[test]
fn every_hard_row_is_taken() {
    let test = "every hard row";
    let families = [
        hard_rows::hard_cases::<f32>(test).into_iter().map(|c| c.name).collect(),
        hard_rows::hard_cases::<f16>(test).into_iter().map(|c| c.name).collect(),
        hard_rows::hard_cases::<bf16>(test)
            .into_iter()
            .map(|c| c.name)
            .collect(),
        cross_entropy::hard_cases(test).into_iter().map(|c| c.name).collect(),
        activation::names(test, "hard_rows", &activation::HARD),
        reduction::hard_rows::<f32>(test).into_iter().map(|c| c.name).collect(),
        reduction::hard_rows::<f16>(test).into_iter().map(|c| c.name).collect(),
        reduction::hard_rows::<bf16>(test).into_iter().map(|c| c.name).collect(),
        gpu_elementary::CONVERSIONS.map(String::from).to_vec(),
    ];
    taken_once("hard_rows", &families);
}

/// The cases as runs of the program. Those of the sigmoid family and of binary cross-entropy are in `activation` and `gpu_activation`.
#[cfg(feature = "cli")]
mod program {
    use super::*;
    use crate::data::{Tensor, tensor};
    use macheps::element::{DType, Element};
    use macheps::ops::softmax::SoftmaxKind;
    use macheps::ops::softmax::bounds::{Accuracy, Expected, Quantity};
    use macheps::{LossReduction, ReductionInput, ReductionKind, ReductionOptions};
    use safetensors::SafeTensors;
    use safetensors::tensor::TensorView;
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::rc::Rc;
    use std::time::Instant;

    const TEST: &str = "the data sets by the program";

    /// Whether the tensors that came are right; an error says what is wrong.
    type Judge = Box<dyn Fn(&[Tensor]) -> Result<(), String>>;

    /// One run of the program.
    struct Run {
        /// Case of the data set.
        case: String,
        op: &'static str,
        inputs: Vec<(&'static str, String)>,
        settings: Vec<String>,
        outputs: Vec<&'static str>,
        judge: Judge,
    }

    impl Run {
        /// Runs with `--check` and judges what was written.
        fn execute(&self, device: &str, folder: &Path) {
            let mut command = Command::new(env!("CARGO_BIN_EXE_macheps"));
            command
                .args(["run", self.op, "--device", device, "--check"])
                .env_remove("MACHEPS_DEVICE");
            for (name, source) in &self.inputs {
                command.args(["--input", &format!("{name}={source}")]);
            }
            for setting in &self.settings {
                command.args(["--set", setting]);
            }
            let out = folder.join("out.safetensors");
            for name in &self.outputs {
                command.args(["--output", &format!("{name}={}#{name}", out.display())]);
            }
            let output = command.output().expect("macheps starts");
            let said = String::from_utf8_lossy(&output.stderr);
            let what = format!("{} by {} {:?} on {device}", self.case, self.op, self.settings);
            assert_eq!(output.status.code(), Some(0), "{what}: {said}");
            let bytes = std::fs::read(&out).expect("the output is written");
            let file = SafeTensors::deserialize(&bytes).expect("valid safetensors");
            let written: Vec<Tensor> = self
                .outputs
                .iter()
                .map(|name| tensor(&file, name).expect("every output is there"))
                .collect();
            (self.judge)(&written).unwrap_or_else(|e| panic!("{what}: {e}"));
        }
    }

    /// Files for inputs that the data sets do not have in the shape that the program takes.
    struct Scratch {
        folder: tempfile::TempDir,
        data: PathBuf,
    }

    impl Scratch {
        fn save(&self, name: &str, values: &[f64], shape: &[usize], dtype: Option<DType>) -> String {
            let (dtype, bytes): (_, Vec<u8>) = match dtype {
                Some(DType::F32) => (
                    safetensors::Dtype::F32,
                    values.iter().flat_map(|&v| (v as f32).to_le_bytes()).collect(),
                ),
                Some(DType::F16) => (
                    safetensors::Dtype::F16,
                    values.iter().flat_map(|&v| f16::from_f64(v).to_le_bytes()).collect(),
                ),
                Some(DType::Bf16) => (
                    safetensors::Dtype::BF16,
                    values.iter().flat_map(|&v| bf16::from_f64(v).to_le_bytes()).collect(),
                ),
                None => (
                    safetensors::Dtype::F64,
                    values.iter().flat_map(|v| v.to_le_bytes()).collect(),
                ),
            };
            let path = self.folder.path().join(name);
            let view = TensorView::new(dtype, shape.to_vec(), &bytes).expect("a tensor");
            safetensors::serialize_to_file([("x", view)], None, &path).expect("the folder is writable");
            format!("{}#x", path.display())
        }

        /// `SRC` of a tensor of a case.
        fn source(&self, folder: &str, case: &str, name: &str) -> String {
            format!("{}#{name}", self.data.join(folder).join(case).display())
        }
    }

    fn shape_is(tensor: &Tensor, want: &[usize]) -> Result<(), String> {
        if tensor.shape == want {
            Ok(())
        } else {
            Err(format!("shape {:?}, not {want:?}", tensor.shape))
        }
    }

    fn axes_setting<A: ToString>(axes: impl IntoIterator<Item = A>) -> String {
        let axes: Vec<String> = axes.into_iter().map(|a| a.to_string()).collect();
        format!("axes={}", axes.join(","))
    }

    fn softmax_of_onnx(scratch: &Scratch) -> Vec<Run> {
        fn run<T: Element>(case: onnx::OnnxCase, scratch: &Scratch) -> Run {
            let mut source = scratch.source("onnx", &case.name, "in0");
            let mut settings = Vec::new();
            if !case.kind.reduces() {
                settings.push(format!("axis={}", case.axis));
            } else if case.file_axes.is_empty() {
                // The program refuses an empty list: what stays is one axis of size 1, behind.
                let shape = [&case.file_shape[..], &[1]].concat();
                source = scratch.save(&case.name, &case.x, &shape, Some(case.dtype));
                settings.push("axis=-1".into());
            } else {
                settings.push(axes_setting(&case.file_axes));
                settings.push(format!("keepdims={}", case.keepdims));
            }
            let expected = case.expected::<T>();
            Run {
                case: case.name,
                op: case.kind.name(),
                inputs: vec![("x", source)],
                settings,
                outputs: vec!["y"],
                judge: Box::new(move |written| {
                    shape_is(&written[0], &case.want_shape)?;
                    softmax_is(
                        Quantity::Forward(case.kind),
                        &expected,
                        &written[0].to::<T>(),
                        Accuracy::Standard,
                    )
                }),
            }
        }
        onnx::onnx_cases(TEST)
            .into_iter()
            .map(|case| match case.dtype {
                DType::F32 => run::<f32>(case, scratch),
                DType::F16 => run::<f16>(case, scratch),
                DType::Bf16 => run::<bf16>(case, scratch),
            })
            .collect()
    }

    fn softmax_is<T: Element>(
        quantity: Quantity,
        expected: &Expected,
        got: &[T],
        accuracy: Accuracy,
    ) -> Result<(), String> {
        let found = expected.check(got, quantity, accuracy);
        found.map(|_| ()).map_err(|m| format!("{}: {m}", quantity.name()))
    }

    fn softmax_of_hard_rows<T: Element>(scratch: &Scratch) -> Vec<Run> {
        let mut runs = Vec::new();
        for case in hard_rows::hard_cases::<T>(TEST) {
            let case = Rc::new(case);
            for kind in SoftmaxKind::ALL {
                let has = |quantity| case.expected.iter().any(|(q, _)| *q == quantity);
                let quantities: Vec<(Quantity, &'static str)> =
                    [(Quantity::Forward(kind), "y"), (Quantity::Backward(kind), "grad")]
                        .into_iter()
                        .filter(|(quantity, _)| has(*quantity))
                        .collect();
                if quantities.is_empty() {
                    continue;
                }
                let mut inputs = vec![("x", scratch.source("hard_rows", &case.name, "x"))];
                if has(Quantity::Backward(kind)) {
                    inputs.push(("upstream", scratch.source("hard_rows", &case.name, "upstream")));
                }
                // A device may split long rows over workgroups, which has the other promise; `--check` knows whether it did.
                let accuracy = if case.shape[1] > 4096 {
                    Accuracy::Relaxed
                } else {
                    Accuracy::Standard
                };
                let (name, case) = (case.name.clone(), case.clone());
                runs.push(Run {
                    case: name,
                    op: kind.name(),
                    inputs,
                    settings: Vec::new(),
                    outputs: quantities.iter().map(|(_, output)| *output).collect(),
                    judge: Box::new(move |written| {
                        for ((quantity, _), tensor) in quantities.iter().zip(written) {
                            let expected = case.expected.iter().find(|(q, _)| q == quantity);
                            let expected = &expected.expect("looked for above").1;
                            softmax_is(*quantity, expected, &tensor.to::<T>(), accuracy)?;
                        }
                        Ok(())
                    }),
                });
            }
        }
        runs
    }

    fn losses(scratch: &Scratch) -> Vec<Run> {
        fn run<T: Element>(folder: &str, case: cross_entropy::FileCase, scratch: &Scratch) -> Run {
            let o = &case.options;
            let mut settings = vec![format!("reduction={}", o.reduction.name())];
            settings.extend(o.ignore_index.map(|i| format!("ignore_index={i}")));
            settings.extend(case.upstream_setting.map(|u| format!("upstream={u}")));
            if o.label_smoothing != 0.0 {
                settings.push(format!("label_smoothing={}", o.label_smoothing));
            }
            let mut outputs = vec!["loss", "grad"];
            if case.log_prob.is_some() {
                outputs.push("log_prob");
            }
            let inputs = case
                .names
                .iter()
                .map(|(ours, theirs)| (*ours, scratch.source(folder, &case.name, theirs)));
            Run {
                case: case.name.clone(),
                op: case.kind.name(),
                inputs: inputs.collect(),
                settings,
                outputs,
                judge: Box::new(move |written| {
                    let answer = case.answer::<T>();
                    let rows = match case.options.reduction {
                        LossReduction::None if case.shape.len() > 1 => [&case.shape[..1], &case.shape[2..]].concat(),
                        _ => Vec::new(),
                    };
                    shape_is(&written[0], &rows)?;
                    shape_is(&written[1], &case.shape)?;
                    let of = |what: &str, e: macheps::accuracy::Mismatch| format!("{what}: {e}");
                    answer.loss.check(&written[0].to::<f32>()).map_err(|e| of("loss", e))?;
                    answer
                        .gradient
                        .check(&written[1].to::<T>())
                        .map_err(|e| of("gradient", e))?;
                    if let Some(log_prob) = written.get(2) {
                        answer
                            .log_prob
                            .check(&log_prob.to::<T>())
                            .map_err(|e| of("log_prob", e))?;
                    }
                    Ok(())
                }),
            }
        }
        let onnx = cross_entropy::onnx_cases(TEST).into_iter().map(|c| ("onnx", c));
        let hard = cross_entropy::hard_cases(TEST).into_iter().map(|c| ("hard_rows", c));
        onnx.chain(hard)
            .map(|(folder, case)| match case.dtype {
                DType::F32 => run::<f32>(folder, case, scratch),
                DType::F16 => run::<f16>(folder, case, scratch),
                DType::Bf16 => run::<bf16>(folder, case, scratch),
            })
            .collect()
    }

    /// A reduction of values that `source` holds, too.
    fn reduction_run<T: Element>(
        case: &str,
        kind: ReductionKind,
        (x, shape, want_shape): (Vec<T>, Vec<usize>, Vec<usize>),
        options: ReductionOptions,
        source: String,
    ) -> Run {
        let mut settings = vec![format!("keepdims={}", options.keepdims)];
        settings.extend(options.axes.as_ref().map(axes_setting));
        let op = match kind {
            ReductionKind::NormL1 => {
                settings.push("ord=1".into());
                "norm"
            }
            ReductionKind::Variance | ReductionKind::Std => {
                settings.push(format!("correction={}", options.correction));
                kind.name()
            }
            _ => kind.name(),
        };
        if kind.has_mode() {
            settings.push(format!("mode={}", options.mode));
        }
        Run {
            case: case.to_string(),
            op,
            inputs: vec![("x", source)],
            settings,
            outputs: vec!["y"],
            judge: Box::new(move |written| {
                shape_is(&written[0], &want_shape)?;
                let input = ReductionInput::new(&x, &shape);
                let y = written[0].to::<T>();
                let found = macheps::ops::reduction::check_forward(kind, &input, &options, &y);
                found.map(|_| ()).map_err(|e| e.to_string())
            }),
        }
    }

    fn reductions_of_onnx(scratch: &Scratch) -> Vec<Run> {
        fn run<T: Element>(case: reduction::OnnxCase, scratch: &Scratch) -> Run {
            let source = if case.over_nothing {
                scratch.save(&case.name, &case.x, &case.shape, Some(case.dtype))
            } else {
                scratch.source("onnx", &case.name, "in0")
            };
            let x = case.x.iter().map(|&v| T::from_f64(v)).collect();
            reduction_run::<T>(
                &case.name,
                case.kind,
                (x, case.shape, case.want_shape),
                case.options,
                source,
            )
        }
        reduction::onnx_cases(TEST)
            .into_iter()
            .map(|case| match case.dtype {
                DType::F32 => run::<f32>(case, scratch),
                DType::F16 => run::<f16>(case, scratch),
                DType::Bf16 => run::<bf16>(case, scratch),
            })
            .collect()
    }

    /// The rows of a file that are as long make one tensor. On a device, where a run costs its start, the reductions take turns over
    /// these tensors, so that each file and each reduction has its run; all of each are a matter of the library's tests.
    fn reductions_of_hard_rows<T: Element>(scratch: &Scratch, all: bool) -> Vec<Run> {
        let mut runs = Vec::new();
        for (number, case) in reduction::hard_rows::<T>(TEST).into_iter().enumerate() {
            let mut lengths: BTreeMap<usize, Vec<_>> = BTreeMap::new();
            for row in &case.rows {
                lengths.entry(row.len()).or_default().push(row.clone());
            }
            for (turn, (len, rows)) in lengths.into_iter().enumerate() {
                let gather = |range: &std::ops::Range<usize>| case.stored[range.clone()].iter().copied();
                let stored: Vec<f64> = rows.iter().flat_map(gather).collect();
                let x: Vec<T> = stored.iter().map(|&v| T::from_f64(v)).collect();
                let shape = [rows.len(), len];
                let dtype = Some(T::DTYPE).filter(|_| !case.name.ends_with("f64.safetensors"));
                let source = scratch.save(&format!("{len}_{}", case.name), &stored, &shape, dtype);
                for (i, (kind, correction, mode, _)) in reduction::STATED.into_iter().enumerate() {
                    let its_turn = all || (turn + 3 * number) % reduction::STATED.len() == i;
                    if (kind.needs_elements() && len == 0) || !its_turn {
                        continue;
                    }
                    let options = ReductionOptions {
                        axes: Some(vec![1]),
                        mode,
                        correction,
                        ..Default::default()
                    };
                    runs.push(reduction_run::<T>(
                        &case.name,
                        kind,
                        (x.clone(), shape.to_vec(), vec![rows.len()]),
                        options,
                        source.clone(),
                    ));
                }
            }
        }
        runs
    }

    /// Every case of the families above on a device, by `workers` processes at a time.
    fn everything(device: &str, workers: usize) {
        let Some(data) = shared_data(TEST) else { return };
        let start = Instant::now();
        let count = std::thread::scope(|scope| {
            let work = (0..workers).map(|worker| {
                let data = data.clone();
                scope.spawn(move || {
                    let scratch = Scratch {
                        folder: tempfile::tempdir().expect("a temporary folder"),
                        data,
                    };
                    let runs = all_runs(&scratch, device == "cpu");
                    let own = runs.iter().skip(worker).step_by(workers);
                    own.map(|run| run.execute(device, scratch.folder.path())).count()
                })
            });
            let work: Vec<_> = work.collect();
            work.into_iter()
                .map(|w| w.join().expect("a worker that passed"))
                .sum::<usize>()
        });
        crate::adapters::say(&format!(
            "{TEST} on {device}: {count} runs in {:.1} s",
            start.elapsed().as_secs_f64()
        ));
    }

    fn all_runs(scratch: &Scratch, all: bool) -> Vec<Run> {
        let mut runs = softmax_of_onnx(scratch);
        runs.extend(softmax_of_hard_rows::<f32>(scratch));
        runs.extend(softmax_of_hard_rows::<f16>(scratch));
        runs.extend(softmax_of_hard_rows::<bf16>(scratch));
        runs.extend(losses(scratch));
        runs.extend(reductions_of_onnx(scratch));
        runs.extend(reductions_of_hard_rows::<f32>(scratch, all));
        runs.extend(reductions_of_hard_rows::<f16>(scratch, all));
        runs.extend(reductions_of_hard_rows::<bf16>(scratch, all));
        runs
    }

    #[test]
    fn every_case_on_the_cpu() {
        everything("cpu", 1);
    }

    /// Each case that the program's runs here and in `activation` are made of, against the indices.
    #[test]
    fn no_case_is_left_out() {
        let Some(data) = shared_data(TEST) else { return };
        let scratch = Scratch {
            folder: tempfile::tempdir().expect("a temporary folder"),
            data: data.clone(),
        };
        for all in [true, false] {
            let mut run: std::collections::BTreeSet<String> =
                all_runs(&scratch, all).into_iter().map(|run| run.case).collect();
            run.extend(activation::names(TEST, "onnx", &activation::ONNX));
            run.extend(activation::names(TEST, "hard_rows", &activation::HARD));
            for folder in ["onnx", "hard_rows"] {
                let index = data::json(data.join(folder).join("index.json"));
                for case in index["cases"].as_array().unwrap() {
                    let name = case["file"].as_str().unwrap();
                    // Conversions of storage types are no operation of the program.
                    let meant = !gpu_elementary::CONVERSIONS.contains(&name);
                    assert_eq!(run.contains(name), meant, "{name}");
                }
            }
        }
    }

    mod gpu_drivers {
        use super::everything;
        use crate::adapters;

        /// The drivers that `--device` tells apart by name: GL on llvmpipe has the name of Vulkan on it.
        fn on(name: &str) {
            if adapters::all(name).iter().any(|a| a.is(name)) {
                everything(name, 2);
            }
        }

        #[test]
        fn every_case_on_llvmpipe() {
            on("llvmpipe");
        }

        #[test]
        fn every_case_on_swiftshader() {
            on("swiftshader");
        }
    }
}
