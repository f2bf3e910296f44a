//! `macheps run OP`: one operation on files.
//!
//! An operation is a file here and a line in [`OPERATIONS`]. It parses its [`Call`], reads its inputs, computes, and leaves its
//! [`Results`], which are summed up on stdout and written all or none.

mod activation;
mod bce_with_logits;
mod cross_entropy;
mod layer_norm;
mod prune;
mod reduction;
mod softmax;
mod spmv;
mod unscale;

use std::path::Path;

use macheps::{DType, Element};

use crate::args::RunArgs;
use crate::destination::{self, Destination, Kind, Output};
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::source::Source;
use crate::table;
use crate::tensor::{self, Stored, Tensor};

/// A family of operations: their names, and what runs one of them.
struct Family {
    names: &'static [&'static str],
    run: fn(&RunArgs) -> Outcome,
}

const OPERATIONS: &[Family] = &[
    Family {
        names: &["softmax", "log_softmax", "logsumexp"],
        run: softmax::run,
    },
    Family {
        names: &["cross_entropy", "nll_loss"],
        run: cross_entropy::run,
    },
    Family {
        names: &["bce_with_logits"],
        run: bce_with_logits::run,
    },
    Family {
        names: &["sigmoid", "log_sigmoid", "softplus"],
        run: activation::run,
    },
    Family {
        names: reduction::NAMES,
        run: reduction::run,
    },
    Family {
        names: &["layer_norm", "rms_norm"],
        run: layer_norm::run,
    },
    Family {
        names: &["unscale"],
        run: unscale::run,
    },
    Family {
        names: &["prune"],
        run: prune::run,
    },
    Family {
        names: &["spmv", "spmm"],
        run: spmv::run,
    },
];

pub fn run(args: &RunArgs) -> Outcome {
    match OPERATIONS
        .iter()
        .find(|family| family.names.contains(&args.op.as_str()))
    {
        Some(family) => (family.run)(args),
        None => {
            let all: Vec<&str> = OPERATIONS.iter().flat_map(|family| family.names).copied().collect();
            Err(Failure::usage(format!(
                "no operation named '{}'; there is {}",
                args.op,
                all.join(", ")
            )))
        }
    }
}

/// What was asked for, its names checked.
pub struct Call {
    op: String,
    inputs: Vec<(String, Source)>,
    /// Inputs that are sparse matrices, and their files.
    matrices: Vec<(String, String)>,
    settings: Vec<(String, String)>,
    outputs: Vec<(String, Destination)>,
    dtype: Option<DType>,
    /// `--device`.
    pub device: String,
    /// `--check`.
    pub check: bool,
}

/// The names that an operation knows.
#[derive(Default)]
pub struct Names<'a> {
    /// Inputs that are sparse matrices.
    pub matrices: &'a [&'a str],
    /// Other inputs.
    pub inputs: &'a [&'a str],
    /// What can be set.
    pub settings: &'a [&'a str],
    /// Outputs that are tensors.
    pub outputs: &'a [&'a str],
    /// Outputs that are sparse matrices.
    pub written_matrices: &'a [&'a str],
}

impl Call {
    /// Parses a call of an operation that knows these names.
    pub fn parse(args: &RunArgs, inputs: &[&str], settings: &[&str], outputs: &[&str]) -> Outcome<Call> {
        let names = Names {
            inputs,
            settings,
            outputs,
            ..Names::default()
        };
        Call::parse_names(args, &names)
    }

    /// The same for an operation that reads or writes sparse matrices.
    pub fn parse_names(args: &RunArgs, names: &Names<'_>) -> Outcome<Call> {
        let given = pairs("input", &args.inputs, &[names.matrices, names.inputs].concat())?;
        let (own, tensors): (Vec<_>, Vec<_>) = given.into_iter().partition(|(name, _)| names.matrices.contains(name));
        let matrices = own
            .into_iter()
            .map(|(name, text)| (name.to_string(), text.to_string()))
            .collect();
        let inputs = tensors
            .into_iter()
            .map(|(name, text)| {
                let source = Source::parse(text).map_err(|refused| refused.within(&format!("--input {name}")))?;
                Ok((name.to_string(), source))
            })
            .collect::<Outcome<_>>()?;
        let settings = pairs("set", &args.settings, names.settings)?
            .into_iter()
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect();
        let outputs = pairs(
            "output",
            &args.outputs,
            &[names.outputs, names.written_matrices].concat(),
        )?
        .into_iter()
        .map(|(name, text)| {
            let kind = if names.written_matrices.contains(&name) {
                Kind::Matrix
            } else {
                Kind::Tensor
            };
            let destination = Destination::parse(&format!("--output {name}"), text, kind)?;
            Ok((name.to_string(), destination))
        })
        .collect::<Outcome<_>>()?;
        let call = Call {
            op: args.op.clone(),
            inputs,
            matrices,
            settings,
            outputs,
            dtype: args.dtype,
            device: args.device.device.clone(),
            check: args.check,
        };
        call.check_places()?;
        Ok(call)
    }

    /// Refuses outputs that cannot be put where they are asked for, or would replace an input.
    fn check_places(&self) -> Outcome {
        let tensors = self.inputs.iter().map(|(name, source)| (name, source.path()));
        let matrices = self.matrices.iter().map(|(name, path)| (name, Path::new(path)));
        let named: Vec<(String, &Path)> = tensors
            .chain(matrices)
            .map(|(name, path)| (format!("--input {name}"), path))
            .collect();
        let inputs: Vec<_> = named.iter().map(|(option, path)| (option.as_str(), *path)).collect();
        destination::check(&inputs, &self.outputs)
    }

    /// Name of the operation.
    pub fn op(&self) -> &str {
        &self.op
    }

    /// Whether an input is given.
    pub fn has(&self, name: &str) -> bool {
        self.inputs.iter().any(|(n, _)| n == name)
    }

    /// Reads an input, if it is given.
    pub fn read(&self, name: &str) -> Outcome<Option<Tensor>> {
        let given = self.inputs.iter().find(|(n, _)| n == name);
        given
            .map(|(_, source)| source.read().map_err(|f| f.within(&format!("--input {name}"))))
            .transpose()
    }

    /// Reads an input that must be given.
    pub fn need(&self, name: &str) -> Outcome<Tensor> {
        self.read(name)?
            .ok_or_else(|| Failure::usage(format!("{} needs an input {name}: --input {name}=FILE", self.op)))
    }

    /// The file of an input that is a sparse matrix, if it is given.
    pub fn matrix(&self, name: &str) -> Option<&str> {
        let given = self.matrices.iter().find(|(n, _)| n == name);
        given.map(|(_, text)| text.as_str())
    }

    /// Whether an output is to be written.
    pub fn writes(&self, name: &str) -> bool {
        self.outputs.iter().any(|(n, _)| n == name)
    }

    /// Whether nothing is to be written: results are only summed up.
    pub fn only_shows(&self) -> bool {
        self.outputs.is_empty()
    }

    /// The text of a setting, if it is given.
    pub fn setting(&self, key: &str) -> Option<&str> {
        self.settings
            .iter()
            .find(|(k, _)| k == key)
            .map(|(_, value)| value.as_str())
    }

    /// A setting, parsed; `expected` says what would have been right.
    pub fn parsed<T>(&self, key: &str, expected: &str, parse: impl FnOnce(&str) -> Option<T>) -> Outcome<Option<T>> {
        self.setting(key)
            .map(|value| {
                parse(value).ok_or_else(|| Failure::usage(format!("--set {key}={value}: expected {expected}")))
            })
            .transpose()
    }

    /// A setting that is true or false.
    pub fn boolean(&self, key: &str) -> Outcome<Option<bool>> {
        self.parsed(key, "true or false", |value| value.parse().ok())
    }

    /// A setting that is a finite number.
    pub fn number(&self, key: &str) -> Outcome<Option<f64>> {
        self.parsed(key, "a finite number", |value| {
            value.parse().ok().filter(|v: &f64| v.is_finite())
        })
    }

    /// A setting that is a list of axes.
    pub fn axes(&self, key: &str) -> Outcome<Option<Vec<isize>>> {
        self.parsed(key, "integers with commas between, at least one", |value| {
            value.split(',').map(|axis| axis.trim().parse().ok()).collect()
        })
    }

    /// The storage type to run with: the one asked for, else that of the input.
    pub fn dtype(&self, x: &Tensor) -> DType {
        self.dtype.unwrap_or(x.stored.runs_as().0)
    }

    /// Refuses outputs whose files cannot hold them, before anything is computed; `stored` tells the type of an output.
    pub fn check_outputs(&self, stored: impl Fn(&str) -> Stored) -> Outcome {
        destination::check_types(&self.outputs, stored)
    }

    /// The elements of an input as `T`; says on stderr what that changed.
    pub fn values<T: Element>(&self, name: &str, tensor: &Tensor) -> Vec<T> {
        convert(name, tensor, self.dtype)
    }
}

/// What an operation gave.
#[derive(Default)]
pub struct Results {
    rows: Vec<(String, Vec<String>)>,
    outputs: Vec<Output>,
    checks: Vec<(String, Outcome<String>)>,
}

impl Results {
    /// A result of floats.
    pub fn floats<T: Element>(&mut self, name: &str, shape: &[usize], values: &[T]) {
        self.rows.push((name.to_string(), summary(name, shape, values)));
        self.outputs.push(Output {
            name: name.to_string(),
            dtype: T::DTYPE.into(),
            shape: shape.to_vec(),
            bytes: tensor::to_bytes(values),
        });
    }

    /// A result of flags.
    pub fn booleans(&mut self, name: &str, shape: &[usize], values: &[bool]) {
        let numbers = values.iter().map(|&v| i64::from(v));
        let bytes = values.iter().map(|&v| u8::from(v)).collect();
        self.whole_numbers(name, shape, Stored::Bool, numbers, bytes);
    }

    /// Numbers that are what they are: none can be NaN or infinite.
    fn whole_numbers(
        &mut self,
        name: &str,
        shape: &[usize],
        dtype: Stored,
        values: impl Iterator<Item = i64> + Clone,
        bytes: Vec<u8>,
    ) {
        let shown = |v: Option<i64>| v.map_or("-".to_string(), |v| v.to_string());
        let row = vec![
            name.to_string(),
            format!("{shape:?}"),
            dtype.name().to_string(),
            shown(values.clone().min()),
            shown(values.max()),
            "0".to_string(),
            "0".to_string(),
        ];
        self.rows.push((name.to_string(), row));
        self.outputs.push(Output {
            name: name.to_string(),
            dtype,
            shape: shape.to_vec(),
            bytes,
        });
    }

    /// A sparse matrix.
    pub fn matrix<T: Element + macheps::float::Float>(&mut self, name: &str, a: &macheps::Csr<T>) -> Outcome {
        let mut row = summary(name, &[a.rows(), a.cols()], a.values());
        row[1] += &format!(", {} entries", a.entries());
        self.rows.push((name.to_string(), row));
        let mut bytes = Vec::new();
        macheps::sparse::matrix_market::write(&mut bytes, a)?;
        self.outputs.push(Output {
            name: name.to_string(),
            dtype: T::DTYPE.into(),
            shape: vec![a.rows(), a.cols()],
            bytes,
        });
        Ok(())
    }

    /// A result of indices or counts.
    pub fn integers(&mut self, name: &str, shape: &[usize], values: &[i64]) {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.whole_numbers(name, shape, Stored::I64, values.iter().copied(), bytes);
    }

    /// What comparing a result with the CPU reference found.
    pub fn checked(&mut self, name: &str, found: Outcome<String>) {
        self.checks.push((name.to_string(), found));
    }

    /// Writes the results that are asked for, sums all of them up under `title`, and gives the verdict of the checks.
    pub fn finish(self, call: &Call, title: &str) -> Outcome {
        let rows: Vec<Vec<String>> = self
            .rows
            .into_iter()
            .map(|(name, mut row)| {
                let file = call.outputs.iter().find(|(n, _)| *n == name);
                row.push(file.map_or("not written".to_string(), |(_, d)| d.path().display().to_string()));
                row
            })
            .collect();
        let mut written = Vec::new();
        for output in self.outputs {
            if let Some((_, destination)) = call.outputs.iter().find(|(n, _)| *n == output.name) {
                written.push((output, destination.clone()));
            }
        }
        destination::write(&written)?;
        let columns = [
            ("output", false),
            ("shape", false),
            ("dtype", false),
            ("min", true),
            ("max", true),
            ("NaN", true),
            ("inf", true),
            ("file", false),
        ];
        output::print(&format!("{title}\n{}", table::table(&columns, rows)))?;
        verdict(self.checks)
    }
}

/// Splits `NAME=REST`s. Each name is known and comes once.
pub fn pairs<'a>(what: &str, texts: &'a [String], known: &[&str]) -> Outcome<Vec<(&'a str, &'a str)>> {
    let mut found: Vec<(&str, &str)> = Vec::new();
    for text in texts {
        let (name, rest) = text.split_once('=').ok_or_else(|| {
            Failure::usage(format!(
                "--{what} {text}: expected NAME=...; NAME is {}",
                known.join(", ")
            ))
        })?;
        if !known.contains(&name) {
            return Err(Failure::usage(format!(
                "--{what} {name}: there is {}",
                known.join(", ")
            )));
        }
        if found.iter().any(|(n, _)| *n == name) {
            return Err(Failure::usage(format!("--{what} {name} is given twice")));
        }
        found.push((name, rest));
    }
    Ok(found)
}

/// Says what the checks found.
fn verdict(checks: Vec<(String, Outcome<String>)>) -> Outcome {
    let mut worst: Option<Failure> = None;
    for (name, check) in checks {
        match check {
            Ok(found) => output::print(&format!("check: {name} agrees with the CPU reference ({found})"))?,
            Err(failure) => {
                let named = failure.within(&format!("check of {name}"));
                if let Some(earlier) = worst.replace(named) {
                    output::note(&earlier.to_string());
                }
            }
        }
    }
    worst.map_or(Ok(()), Err)
}

/// The elements as `T`; says on stderr what that changed.
fn convert<T: Element>(name: &str, tensor: &Tensor, asked: Option<DType>) -> Vec<T> {
    let (values, loss) = tensor.convert::<T>();
    let stored = tensor.stored;
    let mut notes = Vec::new();
    if asked.is_none() && !stored.runs_as().1 {
        notes.push(format!("{} runs as {}", stored.name(), T::DTYPE));
    } else if stored != Stored::from(T::DTYPE) {
        notes.push(format!("{} converted to {}", stored.name(), T::DTYPE));
    }
    if loss.overflowed > 0 {
        notes.push(format!(
            "{} of {} values overflow to infinity",
            loss.overflowed,
            values.len()
        ));
    }
    if !notes.is_empty() {
        output::remark(&format!("{name}: {}", notes.join(", ")));
    }
    values
}

/// A row of the table of outputs.
fn summary<T: Element>(name: &str, shape: &[usize], values: &[T]) -> Vec<String> {
    let (mut low, mut high, mut nans, mut infinities) = (f32::INFINITY, f32::NEG_INFINITY, 0usize, 0usize);
    for value in values.iter().map(|v| v.to_f32()) {
        if value.is_nan() {
            nans += 1;
        } else {
            infinities += usize::from(value.is_infinite());
            low = low.min(value);
            high = high.max(value);
        }
    }
    let number = |value: f32| {
        if nans == values.len() {
            "-".to_string()
        } else {
            table::short(f64::from(value))
        }
    };
    vec![
        name.to_string(),
        format!("{shape:?}"),
        T::DTYPE.to_string(),
        number(low),
        number(high),
        nans.to_string(),
        infinities.to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_operations() {
        use clap::Parser;
        let cli = crate::args::Cli::try_parse_from(["macheps", "run", "soft"]).unwrap();
        let Some(crate::args::Command::Run(args)) = cli.command else {
            panic!("not a run")
        };
        let refused = run(&args).unwrap_err().to_string();
        assert!(
            refused.contains("there is softmax, log_softmax, logsumexp"),
            "{refused}"
        );
    }
}
