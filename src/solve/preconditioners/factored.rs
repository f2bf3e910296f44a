//! M = (D/w + L) (w/(2-w)) D^-1 (D/w + L)^T with rows in groups: what SSOR is with the triangle and the diagonal of A, and an incomplete
//! factorisation with w = 1 and those of its factors.

use super::super::sweep::{PerDevice, Step, Uploaded, on_host, on_host_with_bound};
use super::super::views::{Vectors, check_active};
use super::super::{PreconditionerCall, Record};
use crate::error::{Error, Result};
use crate::gpu::{Dispatches, Gpu};
use crate::sparse::Csr;

#[derive(Debug)]
pub(super) struct Factored {
    name: &'static str,
    /// Rows that read earlier groups only, on the way forward.
    groups: Vec<Vec<u32>>,
    /// Each row's entries in earlier groups.
    lower: Csr<f64>,
    /// Each row's entries in later groups.
    upper: Csr<f64>,
    inverse: Vec<f64>,
    forward: Vec<Step>,
    backward: Vec<Step>,
    uploaded: PerDevice<[Uploaded; 2]>,
}

impl Factored {
    /// `lower` holds the entries before the diagonal in the order of the groups; `inverse` is 1/d.
    pub(super) fn new(
        name: &'static str,
        groups: Vec<Vec<u32>>,
        lower: Csr<f64>,
        inverse: Vec<f64>,
        omega: f64,
    ) -> Result<Factored> {
        let upper = lower.transpose()?;
        let last = groups.len().saturating_sub(1);
        // t = (D/w + L)^-1 r, then z = (2-w) t - w D^-1 L^T z. Rows of the last group have nothing in L^T: they are done at once.
        let forward = (0..groups.len()).map(|group| Step {
            group,
            keep: 0.0,
            weight: if group == last { omega * (2.0 - omega) } else { omega },
            with_b: true,
        });
        let backward = (0..last).rev().map(|group| Step {
            group,
            keep: 2.0 - omega,
            weight: omega,
            with_b: false,
        });
        Ok(Factored {
            name,
            forward: forward.collect(),
            backward: backward.collect(),
            groups,
            lower,
            upper,
            inverse,
            uploaded: PerDevice::default(),
        })
    }

    pub(super) fn size(&self) -> usize {
        self.lower.rows()
    }

    pub(super) fn groups(&self) -> usize {
        self.groups.len()
    }

    pub(super) fn apply(&self, r: &[f64], z: &mut [f64]) {
        on_host(&self.forward, &self.groups, &self.lower, &self.inverse, r, z);
        on_host(&self.backward, &self.groups, &self.upper, &self.inverse, r, z);
    }

    pub(super) fn apply_with_bound(&self, r: &[f64], z: &mut [f64], bound: &mut [f64]) {
        bound.fill(0.0);
        on_host_with_bound(&self.forward, &self.groups, &self.lower, &self.inverse, r, z, bound);
        on_host_with_bound(&self.backward, &self.groups, &self.upper, &self.inverse, r, z, bound);
    }

    pub(super) fn bind(&self, gpu: &Gpu, call: &PreconditionerCall<'_>) -> Result<Box<dyn Record>> {
        let uploaded = self.uploaded.get(gpu, || {
            Ok([
                Uploaded::new(gpu, &self.groups, &self.lower, &self.inverse)?,
                Uploaded::new(gpu, &self.groups, &self.upper, &self.inverse)?,
            ])
        })?;
        let (r, z) = vectors(gpu, call, self.size())?;
        let mut dispatches = Dispatches::new(gpu, self.name);
        uploaded[0].add(gpu, &mut dispatches, &self.forward, &r, &z, call.active)?;
        uploaded[1].add(gpu, &mut dispatches, &self.backward, &r, &z, call.active)?;
        Ok(Box::new(dispatches.finish()?))
    }
}

/// The checked vectors of a call.
pub(super) fn vectors(gpu: &Gpu, call: &PreconditionerCall<'_>, n: usize) -> Result<(Vectors, Vectors)> {
    let r = Vectors::of(gpu, call.r, "r", n, false)?;
    let z = Vectors::of(gpu, call.z, "z", n, true)?;
    if call.r.overlaps(call.z) {
        return Err(Error::Aliased {
            first: "r",
            second: "z",
        });
    }
    if r.count != z.count {
        return Err(Error::shape(
            "z",
            format!("{} vectors, as r", r.count),
            z.count.to_string(),
        ));
    }
    check_active(call.active, z.count)?;
    Ok((r, z))
}
