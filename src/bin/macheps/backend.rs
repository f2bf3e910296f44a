//! Every call into the library that the commands make, and nothing else.

use macheps::Element;
use macheps::ops::softmax::bounds::{Accuracy, Expected, Quantity};
use macheps::ops::softmax::{SoftmaxKind, SoftmaxOptions, reference};
use macheps::rows::{RowMap, resolve_axis};
use serde::Serialize;

use crate::failure::{Failure, Outcome};
use crate::report::{Adapter, BenchCase, VerifyCase};
use crate::table;

/// A row of `macheps devices`.
#[derive(Clone, Debug, Serialize)]
pub struct DeviceRow {
    pub index: usize,
    pub name: String,
    pub kind: String,
    pub backend: String,
    pub driver: String,
}

/// A softmax, log_softmax or logsumexp to compute.
pub struct Problem<'a, T> {
    pub kind: SoftmaxKind,
    pub x: &'a [T],
    pub shape: &'a [usize],
    pub mask: Option<(&'a [T], &'a [usize])>,
    pub options: SoftmaxOptions,
}

pub fn devices() -> Vec<DeviceRow> {
    Vec::new()
}

pub struct Device {
    adapter: Adapter,
}

pub fn verify_cases(_op: Option<&str>) -> Outcome<Vec<()>> {
    Ok(Vec::new())
}
pub fn bench_cases(_quick: bool, _op: Option<&str>) -> Outcome<Vec<()>> {
    Ok(Vec::new())
}
pub fn bench_label(_case: &()) -> String {
    String::new()
}

impl Device {
    pub fn open(_selector: &str) -> Outcome<Device> {
        Ok(Device {
            adapter: Adapter {
                name: "none".into(),
                backend: "none".into(),
                driver: String::new(),
            },
        })
    }
    pub fn adapter(&self) -> &Adapter {
        &self.adapter
    }
    pub fn index(&self) -> usize {
        0
    }
    pub fn reason(&self) -> &str {
        "none"
    }
    pub fn probe(&self) -> Outcome<(String, serde_json::Value)> {
        Err(Failure::usage("no probe"))
    }
    pub fn verify(&self, _case: &()) -> VerifyCase {
        unreachable!()
    }
    pub fn bench(&self, _case: &(), _quick: bool) -> Outcome<BenchCase> {
        Err(Failure::usage("no bench"))
    }
    pub fn forward<T: Element>(&self, p: &Problem<T>) -> Outcome<Vec<T>> {
        let maps = Maps::new(p)?;
        let mut y = vec![T::default(); maps.y.rows() * maps.y.len];
        macheps::ops::softmax::cpu::forward(
            p.kind,
            p.x,
            &maps.x,
            maps.mask(p),
            &p.options,
            maps.queries,
            &mut y,
            &maps.y,
        );
        Ok(y)
    }
    pub fn backward<T: Element>(&self, p: &Problem<T>, upstream: &[T]) -> Outcome<Vec<T>> {
        let maps = Maps::new(p)?;
        let mut y = vec![T::default(); p.x.len()];
        macheps::ops::softmax::cpu::backward(
            p.kind,
            p.x,
            &maps.x,
            maps.mask(p),
            upstream,
            &maps.y,
            &p.options,
            maps.queries,
            &mut y,
            &maps.x,
        );
        Ok(y)
    }

    /// Compares y with the CPU reference within the stated bound; says how close it is.
    pub fn check_forward<T: Element>(&self, p: &Problem<T>, y: &[T]) -> Outcome<String> {
        let maps = Maps::new(p)?;
        let want = reference::forward(
            p.kind,
            p.x,
            &maps.x,
            maps.mask(p),
            &p.options,
            maps.queries,
            &maps.y,
        );
        self.judge(&want, y, Quantity::Forward(p.kind))
    }

    /// The same for a gradient.
    pub fn check_backward<T: Element>(
        &self,
        p: &Problem<T>,
        upstream: &[T],
        grad: &[T],
    ) -> Outcome<String> {
        let maps = Maps::new(p)?;
        let want = reference::backward(
            p.kind,
            p.x,
            &maps.x,
            maps.mask(p),
            upstream,
            &maps.y,
            &p.options,
            maps.queries,
            &maps.x,
        );
        self.judge(&want, grad, Quantity::Backward(p.kind))
    }

    fn judge<T: Element>(&self, want: &Expected, got: &[T], quantity: Quantity) -> Outcome<String> {
        match want.check(got, quantity, Accuracy::Standard) {
            Ok(worst) => Ok(format!(
                "largest error {} ulp, {} of the bound",
                table::short(worst.ulp),
                table::percent(worst.of_bound)
            )),
            Err(mismatch) => Err(Failure::Check(mismatch.to_string())),
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
        if p.options.causal.is_some() && (p.shape.len() < 2 || axis + 1 != p.shape.len()) {
            return Err(Failure::usage(
                "causal needs two dimensions and the last axis",
            ));
        }
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
