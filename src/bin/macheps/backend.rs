//! Every call into the library that the commands make, and nothing else.

use std::time::Duration;

use macheps::ops::audit::TensorAudit;
use macheps::ops::softmax::bounds::{Accuracy, Expected, Quantity};
use macheps::ops::softmax::{self, Mask, SoftmaxInput, SoftmaxKind, SoftmaxOptions, reference};
use macheps::rows::{RowMap, resolve_axis};
use macheps::{Context, ContextOptions, CrossCheck, DeviceInfo, DeviceKind, DeviceSelector, Element, bench, verify};

use crate::failure::{Failure, Outcome};
use crate::output;
use crate::report::{Adapter, BenchCase, Seconds, VerifyCase};
use crate::table;

/// A softmax, log_softmax or logsumexp to compute.
pub struct Problem<'a, T> {
    pub kind: SoftmaxKind,
    pub x: &'a [T],
    pub shape: &'a [usize],
    pub mask: Option<(&'a [T], &'a [usize])>,
    pub options: SoftmaxOptions,
}

/// Every device, the CPU path first.
pub fn devices() -> Vec<DeviceInfo> {
    macheps::devices()
}

/// A word for a kind of device.
pub fn kind(kind: DeviceKind) -> &'static str {
    match kind {
        DeviceKind::Cpu => "CPU path",
        DeviceKind::Discrete => "discrete GPU",
        DeviceKind::Integrated => "integrated GPU",
        DeviceKind::Virtual => "virtual GPU",
        DeviceKind::Software => "software",
        DeviceKind::Other => "other",
    }
}

/// An open device.
pub struct Device {
    context: Context,
    adapter: Adapter,
}

impl Device {
    /// Opens the device that `--device` names.
    pub fn open(selector: &str) -> Outcome<Device> {
        let Ok(device) = selector.parse::<DeviceSelector>();
        let options = ContextOptions {
            device,
            ..Default::default()
        };
        let context = Context::with_options(options)?;
        let info = &context.choice().device;
        let adapter = Adapter {
            name: info.name.clone(),
            backend: info.backend.clone(),
            driver: info.driver.clone(),
        };
        Ok(Device { context, adapter })
    }

    /// What documents and tables call it.
    pub fn adapter(&self) -> &Adapter {
        &self.adapter
    }

    /// Where the library computes.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Position in the list of devices.
    pub fn index(&self) -> usize {
        self.context.choice().device.index
    }

    /// Why it was chosen.
    pub fn reason(&self) -> &str {
        &self.context.choice().reason
    }

    /// Computes y.
    pub fn forward<T: Element>(&self, p: &Problem<T>) -> Outcome<Vec<T>> {
        Ok(softmax::forward(&self.context, p.kind, &p.input(), &p.options)?)
    }

    /// Computes the gradient of x.
    pub fn backward<T: Element>(&self, p: &Problem<T>, upstream: &[T]) -> Outcome<Vec<T>> {
        Ok(softmax::backward(
            &self.context,
            p.kind,
            &p.input(),
            upstream,
            &p.options,
        )?)
    }

    /// Compares y with the CPU reference within the stated bound; says how close it is.
    pub fn check_forward<T: Element>(&self, p: &Problem<T>, y: &[T]) -> Outcome<String> {
        let maps = Maps::new(p)?;
        let want = reference::forward(p.kind, p.x, &maps.x, maps.mask(p), &p.options, maps.queries, &maps.y);
        self.judge(&want, y, Quantity::Forward(p.kind), |context| {
            softmax::forward(context, p.kind, &p.input(), &p.options).map(drop)
        })
    }

    /// The same for a gradient.
    pub fn check_backward<T: Element>(&self, p: &Problem<T>, upstream: &[T], grad: &[T]) -> Outcome<String> {
        let maps = Maps::new(p)?;
        let (mask, options) = (maps.mask(p), &p.options);
        let want = reference::backward(
            p.kind,
            p.x,
            &maps.x,
            mask,
            upstream,
            &maps.y,
            options,
            maps.queries,
            &maps.x,
        );
        self.judge(&want, grad, Quantity::Backward(p.kind), |context| {
            softmax::backward(context, p.kind, &p.input(), upstream, options).map(drop)
        })
    }

    /// Strategies that rescale partial sums have a wider bound, and only the library knows which one ran: what misses the
    /// narrow one is left to its own cross-check. A device gives the same bits every time.
    fn judge<T: Element>(
        &self,
        want: &Expected,
        got: &[T],
        quantity: Quantity,
        again: impl FnOnce(&Context) -> macheps::Result<()>,
    ) -> Outcome<String> {
        let (accuracy, outcome) = match want.check(got, quantity, Accuracy::Standard) {
            Err(_) if self.context.gpu().is_some() => {
                again(&self.context.clone().with_cross_check(CrossCheck::Full))?;
                (Accuracy::Relaxed, want.check(got, quantity, Accuracy::Relaxed))
            }
            outcome => (Accuracy::Standard, outcome),
        };
        let bound = if accuracy == Accuracy::Relaxed {
            "relaxed bound"
        } else {
            "bound"
        };
        match outcome {
            // Where the terms of a gradient cancel, units in the last place of the difference say nothing.
            Ok(worst) if matches!(quantity, Quantity::Backward(_)) => Ok(format!(
                "largest error {} of the {bound}",
                table::percent(worst.of_bound)
            )),
            Ok(worst) => {
                let (ulp, used) = (table::short(worst.ulp), table::percent(worst.of_bound));
                Ok(format!("largest error {ulp} ulp, {used} of the {bound}"))
            }
            Err(mismatch) => Err(Failure::Check(mismatch.to_string())),
        }
    }
}

impl<'a, T> Problem<'a, T> {
    fn input(&self) -> SoftmaxInput<'a, T> {
        SoftmaxInput {
            x: self.x,
            shape: self.shape,
            mask: self.mask.map(|(values, shape)| Mask { values, shape }),
        }
    }
}

/// Where the rows of a problem's tensors lie.
struct Maps {
    x: RowMap,
    mask: Option<RowMap>,
    y: RowMap,
    queries: usize,
}

impl Maps {
    fn new<T>(p: &Problem<T>) -> Outcome<Maps> {
        let axis = resolve_axis(p.options.axis, p.shape.len())?;
        let mask = p
            .mask
            .map(|(_, shape)| RowMap::broadcast("mask", shape, p.shape, axis))
            .transpose()?;
        let mut result = p.shape.to_vec();
        if p.kind.reduces() {
            result[axis] = 1;
        }
        let queries = if p.shape.len() < 2 {
            1
        } else {
            p.shape[p.shape.len() - 2]
        };
        Ok(Maps {
            x: RowMap::contiguous(p.shape, axis),
            mask,
            y: RowMap::contiguous(&result, axis),
            queries,
        })
    }

    fn mask<'a, T>(&'a self, p: &Problem<'a, T>) -> Option<(&'a [T], &'a RowMap)> {
        p.mask.map(|(values, _)| values).zip(self.mask.as_ref())
    }
}

/// The cases of `verify`, of one operation or of all.
pub fn verify_cases(op: Option<&str>) -> Outcome<Vec<Box<dyn verify::Case>>> {
    known(verify::cases(op), op, || {
        verify::cases(None).iter().map(|c| c.op()).collect()
    })
}

/// The cases of `bench`, of one operation or of all.
pub fn bench_cases(quick: bool, op: Option<&str>) -> Outcome<Vec<Box<dyn bench::Workload>>> {
    known(bench::cases(quick, op), op, || {
        bench::cases(quick, None).iter().map(|c| c.op()).collect()
    })
}

/// Cases, unless there is none since no operation has the name.
fn known<T>(cases: Vec<T>, op: Option<&str>, names: impl FnOnce() -> Vec<&'static str>) -> Outcome<Vec<T>> {
    match op {
        Some(op) if cases.is_empty() => {
            let mut there: Vec<&str> = Vec::new();
            for name in names() {
                if !there.contains(&name) {
                    there.push(name);
                }
            }
            Err(Failure::usage(format!(
                "no operation named '{op}'; there is {}",
                there.join(", ")
            )))
        }
        _ => Ok(cases),
    }
}

impl Device {
    /// Measures the device's arithmetic: a table, and the same for JSON.
    pub fn probe(&self) -> Outcome<(String, serde_json::Value)> {
        let report = match self.context.gpu() {
            Some(gpu) => gpu.probe()?,
            None => macheps::probe::cpu(),
        };
        let json = serde_json::to_value(&report)
            .map_err(|e| Failure::usage(format!("the probe cannot be written as JSON: {e}")))?;
        Ok((report.to_string(), json))
    }

    /// Audits values.
    pub fn audit<T: Element>(&self, values: &[T]) -> Outcome<TensorAudit> {
        Ok(macheps::ops::audit::audit(&self.context, values)?)
    }

    /// Runs a case of `verify`.
    pub fn verify(&self, case: &dyn verify::Case) -> VerifyCase {
        let report = verify::run(&self.context, case);
        VerifyCase {
            op: report.op,
            shape: report.shape,
            dtype: report.dtype.name(),
            detail: report.detail,
            device: self.adapter.short(),
            max_error: report.max_error,
            bound: report.bound,
            unit: report.unit,
            ok: report.ok,
            message: report.message,
        }
    }

    /// Runs a case of `bench`. A wrong result is a case that is not verified and has no times.
    pub fn bench(&self, case: &dyn bench::Workload, quick: bool) -> Outcome<BenchCase> {
        let budget = Duration::from_millis(if quick { 300 } else { 1500 });
        let mut result = BenchCase {
            op: case.op().to_string(),
            shape: case.shape(),
            dtype: case.dtype().name(),
            device: self.adapter.short(),
            seconds: Seconds {
                min: f64::NAN,
                median: f64::NAN,
                p95: f64::NAN,
            },
            bytes: case.bytes(),
            gbps: f64::NAN,
            copy_gbps: f64::NAN,
            fraction_of_copy: f64::NAN,
            verified: false,
            timer: "none",
        };
        match bench::run(&self.context, case, budget) {
            Ok(report) => {
                result.seconds = Seconds {
                    min: report.seconds_min,
                    median: report.seconds_median,
                    p95: report.seconds_p95,
                };
                result.gbps = report.gbps();
                result.copy_gbps = report.copy_gbps;
                result.fraction_of_copy = report.fraction_of_copy();
                result.verified = report.verified;
                result.timer = report.timer;
            }
            Err(error @ macheps::Error::DeviceLost { .. }) => return Err(error.into()),
            Err(error) => output::note(&format!(
                "bench {} {} {}: {error}",
                result.op, result.shape, result.dtype
            )),
        }
        Ok(result)
    }
}
