//! Softmax family on every adapter: every strategy at boundary lengths and with rows of every kind, axes, masks, the bits
//! that strategies, runs and subgroup widths must share, exact properties, and random problems.
//!
//! llvmpipe takes everything. SwiftShader and GL, which compile a pipeline several times slower, take all strategies and
//! lengths for softmax and a few lengths for the other functions.

use crate::adapters::{self, Adapter};
use macheps::element::{DType, Element, bf16, f16};
use macheps::ops::softmax::bounds::{Accuracy, Expected, Quantity};
use macheps::ops::softmax::cases::{Case, Data, Fill, MaskShape};
use macheps::ops::softmax::reference;
use macheps::rows::{RowMap, resolve_axis};
use macheps::{Context, MaskedRows, SoftmaxInput, SoftmaxKind, SoftmaxOptions, Strategy};
use std::collections::HashMap;

/// The three functions and their gradients.
pub fn quantities() -> impl Iterator<Item = Quantity> {
    SoftmaxKind::ALL
        .into_iter()
        .flat_map(|k| [Quantity::Forward(k), Quantity::Backward(k)])
}

pub fn case_of(quantity: Quantity, dtype: DType, shape: &[usize], fill: Fill) -> Case {
    let (Quantity::Forward(kind) | Quantity::Backward(kind)) = quantity;
    Case {
        quantity,
        fill,
        ..Case::new(kind, dtype, shape)
    }
}

/// Rows of every fill, twelve of each: every special row is among them.
fn of_all_fills<T: Element>(quantity: Quantity, len: usize) -> (Case, Data<T>) {
    let mut all = Data {
        x: Vec::new(),
        mask: None,
        upstream: None,
    };
    for fill in Fill::ALL {
        let data = case_of(quantity, T::DTYPE, &[12, len], fill).data::<T>();
        all.x.extend(data.x);
        if let Some(g) = data.upstream {
            all.upstream.get_or_insert_default().extend(g);
        }
    }
    if quantity == Quantity::Backward(SoftmaxKind::LogSumExp) {
        // One upstream value a row, also where a row has no entry.
        let g = all.upstream.get_or_insert_default();
        g.resize(12 * Fill::ALL.len(), T::from_f32(0.75));
    }
    (
        case_of(quantity, T::DTYPE, &[12 * Fill::ALL.len(), len], Fill::Ordinary),
        all,
    )
}

/// What must come out of a case.
pub fn oracle<T: Element>(case: &Case, data: &Data<T>) -> Expected {
    let (kind, options) = (case.kind(), &case.options);
    let axis = resolve_axis(options.axis, case.shape.len()).unwrap();
    let map = RowMap::contiguous(&case.shape, axis);
    let mut reduced = case.shape.clone();
    reduced[axis] = 1;
    let one = RowMap::contiguous(&reduced, axis);
    let out = if kind.reduces() { &one } else { &map };
    let mask_map = data
        .mask
        .as_ref()
        .map(|(_, shape)| RowMap::broadcast("mask", shape, &case.shape, axis).unwrap());
    let mask = data
        .mask
        .as_ref()
        .map(|(values, _)| values.as_slice())
        .zip(mask_map.as_ref());
    let queries = if options.causal.is_some() {
        case.shape[axis - 1]
    } else {
        1
    };
    match &data.upstream {
        Some(g) => reference::backward(kind, &data.x, &map, mask, g, out, options, queries, &map),
        None => reference::forward(kind, &data.x, &map, mask, options, queries, out),
    }
}

/// Failures of a test, told together at its end.
#[derive(Default)]
pub struct Failures(Vec<String>);

impl Failures {
    pub fn add(&mut self, what: impl std::fmt::Display) {
        self.0.push(what.to_string());
    }

    /// Holds results to the oracle; a NaN must be the canonical one.
    pub fn judge<T: Element>(
        &mut self,
        adapter: &str,
        case: &Case,
        y: &[T],
        expected: &Expected,
        accuracy: Accuracy,
    ) -> bool {
        let what = || {
            format!(
                "{adapter}: {} {} {:?}, {}",
                case.quantity.name(),
                case.dtype,
                case.shape,
                case.detail()
            )
        };
        let before = self.0.len();
        if let Err(e) = expected.check(y, case.quantity, accuracy) {
            self.add(format!("{}: {e}", what()));
        }
        let odd = |v: &T| v.to_f32().is_nan() && v.to_f32().to_bits() != 0x7fc0_0000;
        if let Some(at) = y.iter().position(odd) {
            let bits = y[at].to_f32().to_bits();
            self.add(format!("{}: element {at} is a NaN with bits {bits:x}", what()));
        }
        self.0.len() == before
    }

    /// Computes a case and holds it to the oracle.
    pub fn run<T: Element>(&mut self, adapter: &str, context: &Context, case: &Case, data: &Data<T>) -> Option<Vec<T>> {
        self.run_against(adapter, context, case, data, &oracle(case, data))
    }

    pub fn run_against<T: Element>(
        &mut self,
        adapter: &str,
        context: &Context,
        case: &Case,
        data: &Data<T>,
        expected: &Expected,
    ) -> Option<Vec<T>> {
        match case
            .compute(context, data)
            .and_then(|y| Ok((y, case.accuracy(context)?)))
        {
            Ok((y, accuracy)) => self.judge(adapter, case, &y, expected, accuracy).then_some(y),
            Err(e) => {
                self.add(format!("{adapter}: {case:?}: {e}"));
                None
            }
        }
    }

    /// As [`Failures::run`], in the case's own storage type and with its own data.
    pub fn run_case(&mut self, adapter: &str, context: &Context, case: &Case) {
        fn run<T: Element>(failures: &mut Failures, adapter: &str, context: &Context, case: &Case) {
            failures.run(adapter, context, case, &case.data::<T>());
        }
        match case.dtype {
            DType::F32 => run::<f32>(self, adapter, context, case),
            DType::F16 => run::<f16>(self, adapter, context, case),
            DType::Bf16 => run::<bf16>(self, adapter, context, case),
        }
    }

    pub fn done(self) {
        let shown: Vec<_> = self.0.iter().take(25).cloned().collect();
        assert!(self.0.is_empty(), "{} failures:\n{}", self.0.len(), shown.join("\n"));
    }
}

pub fn bytes_of<T: Element>(values: &[T]) -> &[u8] {
    bytemuck::cast_slice(values)
}

/// Lengths around the widths that matter to a strategy: quads, blocks of 4, 16 and 64 quads, 3 W + 7, odd ones.
fn lengths(strategy: Strategy, brief: bool) -> &'static [usize] {
    match (strategy, brief) {
        (Strategy::Short, false) => &[0, 1, 4, 5, 15, 16, 17, 33, 55, 63, 64],
        (Strategy::Short, true) => &[1, 33, 63],
        // A variant for every block of 64 that is held.
        (Strategy::OnChip, false) => &[0, 1, 16, 63, 64, 65, 199, 1000, 1023, 1024],
        (Strategy::OnChip, true) => &[1023],
        (Strategy::Workgroup, false) => &[0, 1, 63, 64, 65, 256, 257, 1000, 1023, 1024, 1025],
        (Strategy::Workgroup, true) => &[1023],
        (_, false) => &[
            0, 1, 4, 15, 16, 17, 55, 63, 64, 65, 199, 255, 256, 257, 775, 1000, 1023, 1024, 1025,
        ],
        (_, true) => &[1, 63, 65, 199, 1025],
    }
}

fn quick(adapter: &Adapter) -> bool {
    !adapter.is("swiftshader") && !adapter.is("gl")
}

#[test]
fn every_strategy_at_boundary_lengths() {
    let mut failures = Failures::default();
    // Results of the three strategies that promise the same bits, by adapter.
    let mut shared: HashMap<(String, Quantity, usize), (Strategy, Vec<u32>)> = HashMap::new();
    let mut all_lengths: Vec<usize> = Strategy::ALL.iter().flat_map(|&s| lengths(s, false)).copied().collect();
    all_lengths.sort_unstable();
    all_lengths.dedup();
    let adapters = adapters::all("every_strategy_at_boundary_lengths");
    for quantity in quantities() {
        let backward = matches!(quantity, Quantity::Backward(_));
        let softmax = quantity == Quantity::Forward(SoftmaxKind::Softmax);
        for &len in &all_lengths {
            if adapters.is_empty() {
                continue;
            }
            let (case, data) = of_all_fills::<f32>(quantity, len);
            let expected = oracle(&case, &data);
            for adapter in adapters {
                let brief = !quick(adapter) && !softmax;
                for strategy in Strategy::ALL {
                    let capabilities = adapter.gpu().capabilities();
                    if !lengths(strategy, brief).contains(&len) || !strategy.serves(capabilities, len, 1, backward) {
                        continue;
                    }
                    let case = Case {
                        strategy: Some(strategy),
                        ..case.clone()
                    };
                    let y = failures.run_against(&adapter.name, &adapter.context, &case, &data, &expected);
                    let same = matches!(strategy, Strategy::Short | Strategy::Subgroup | Strategy::OnChip);
                    let Some(y) = y.filter(|_| same) else { continue };
                    let bits: Vec<u32> = y.iter().map(|v| v.to_bits()).collect();
                    let key = (adapter.name.clone(), quantity, len);
                    match shared.get(&key) {
                        None => {
                            shared.insert(key, (strategy, bits));
                        }
                        Some((first, other)) => {
                            if let Some(at) = (0..bits.len()).find(|&i| bits[i] != other[i]) {
                                failures.add(format!(
                                    "{}: {} of {len} columns: {strategy} and {first} differ at element {at}: {:x}, {:x}",
                                    adapter.name,
                                    quantity.name(),
                                    bits[at],
                                    other[at],
                                ));
                            }
                        }
                    }
                }
            }
        }
    }
    for adapter in adapters.iter().filter(|a| !a.is("llvmpipe")) {
        let theirs = shared.iter().filter(|((name, ..), _)| *name == adapter.name);
        let pairs: Vec<_> = theirs
            .filter_map(|((_, q, len), v)| Some((v, shared.get(&("llvmpipe".to_string(), *q, *len))?)))
            .collect();
        let equal = pairs.iter().filter(|(a, b)| a.1 == b.1).count();
        println!(
            "{}: same bits as llvmpipe in {equal} of {} tensors",
            adapter.name,
            pairs.len()
        );
    }
    failures.done();
}

#[test]
fn sixteen_bits_at_boundary_lengths() {
    fn all<T: Element>(failures: &mut Failures, name: &str, context: &Context, full: bool) {
        let softmax = [
            Quantity::Forward(SoftmaxKind::Softmax),
            Quantity::Backward(SoftmaxKind::Softmax),
        ];
        for quantity in quantities().filter(|q| full || softmax.contains(q)) {
            let backward = matches!(quantity, Quantity::Backward(_));
            let strategies: &[Strategy] = match (full, backward) {
                (true, false) => &[Strategy::Subgroup, Strategy::Short, Strategy::Split, Strategy::Columns],
                (true, true) => &[Strategy::Subgroup, Strategy::Split],
                (false, false) => &[Strategy::Subgroup, Strategy::Columns],
                (false, true) => &[Strategy::Subgroup],
            };
            for &strategy in strategies {
                for &len in &[0, 1, 7, 63, 64, 199, 1000, 1023] {
                    if len > 64 && strategy == Strategy::Short {
                        continue;
                    }
                    let (case, data) = of_all_fills::<T>(quantity, len);
                    let case = Case {
                        strategy: Some(strategy),
                        ..case
                    };
                    failures.run(name, context, &case, &data);
                }
            }
        }
    }
    let mut failures = Failures::default();
    for adapter in adapters::all("sixteen_bits_at_boundary_lengths") {
        let full = quick(adapter);
        all::<f16>(&mut failures, &adapter.name, &adapter.context, full);
        all::<bf16>(&mut failures, &adapter.name, &adapter.context, full);
        if adapter.gpu().capabilities().shader_f16 {
            let packed = Context::from_gpu(adapter.gpu().with_capabilities(|c| c.shader_f16 = false));
            all::<f16>(&mut failures, "packed f16", &packed, false);
        }
    }
    failures.done();
}

#[test]
fn without_subgroups() {
    let mut failures = Failures::default();
    for adapter in adapters::all("without_subgroups") {
        if !adapter.is("llvmpipe") {
            continue;
        }
        let with = adapter.gpu();
        let without = Context::from_gpu(with.with_capabilities(|c| c.subgroup = 1));
        for strategy in [
            Strategy::Short,
            Strategy::Subgroup,
            Strategy::OnChip,
            Strategy::Workgroup,
            Strategy::Split,
        ] {
            for len in [1, 17, 63, 1000] {
                if !strategy.serves(with.capabilities(), len, 1, false) {
                    continue;
                }
                let (case, data) = of_all_fills::<f32>(Quantity::Forward(SoftmaxKind::Softmax), len);
                let case = Case {
                    strategy: Some(strategy),
                    ..case
                };
                let there = failures.run("no subgroups", &without, &case, &data);
                let here = failures.run(&adapter.name, &adapter.context, &case, &data);
                if let Some((a, b)) = there.zip(here)
                    && bytes_of(&a) != bytes_of(&b)
                {
                    failures.add(format!("{strategy}, {len} columns: other bits without subgroups"));
                }
            }
        }
    }
    failures.done();
}

#[test]
fn long_rows() {
    let mut failures = Failures::default();
    for adapter in adapters::all("long_rows") {
        let full = quick(adapter);
        for quantity in quantities() {
            let softmax = quantity == Quantity::Forward(SoftmaxKind::Softmax);
            if !full && !softmax {
                continue;
            }
            let mut run = |rows: usize, len: usize, strategy: Option<Strategy>, fill: Fill| {
                let case = Case {
                    strategy,
                    ..case_of(quantity, DType::F32, &[rows, len], fill)
                };
                failures.run_case(&adapter.name, &adapter.context, &case);
            };
            for fill in [Fill::Ordinary, Fill::Spread, Fill::Rising, Fill::Dominated] {
                run(2, 100_003, Some(Strategy::Split), fill);
            }
            run(12, 20_001, Some(Strategy::Split), Fill::Special);
            if softmax {
                run(2, 300_001, Some(Strategy::Split), Fill::Spread);
                run(2, 300_001, None, Fill::Rising);
                for strategy in [Strategy::Online, Strategy::Workgroup, Strategy::Subgroup] {
                    run(2, 100_003, Some(strategy), Fill::Spread);
                    run(2, 100_003, Some(strategy), Fill::Rising);
                }
                // Three sizes of the team, held in registers up to 16,384 columns.
                for len in [3001, 16_384, 16_385] {
                    run(12, len, Some(Strategy::Workgroup), Fill::Special);
                }
            }
            if full
                && matches!(
                    quantity,
                    Quantity::Forward(SoftmaxKind::Softmax | SoftmaxKind::LogSumExp)
                )
            {
                run(1, 1 << 20, None, Fill::Ordinary);
            }
        }
    }
    failures.done();
}

/// The fixed cases whose bits must not depend on the subgroup width: default strategies only.
fn bit_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for quantity in quantities() {
        for (shape, fill) in [
            (vec![24, 5], Fill::Ordinary),
            (vec![24, 64], Fill::Special),
            (vec![24, 199], Fill::Spread),
            (vec![24, 1000], Fill::Ordinary),
            (vec![9, 5000], Fill::Rising),
            (vec![3, 20_001], Fill::Ordinary),
        ] {
            cases.push(case_of(quantity, DType::F32, &shape, fill));
        }
        let axis = SoftmaxOptions {
            axis: 0,
            ..Default::default()
        };
        cases.push(Case {
            options: axis,
            ..case_of(quantity, DType::F32, &[300, 11], Fill::Spread)
        });
    }
    for dtype in [DType::F16, DType::Bf16] {
        let forward = Quantity::Forward(SoftmaxKind::Softmax);
        cases.push(case_of(forward, dtype, &[24, 199], Fill::Ordinary));
    }
    // Few long rows are split over chunks, here 40 of them a row: more than the lanes that merge them.
    for quantity in [
        Quantity::Forward(SoftmaxKind::Softmax),
        Quantity::Backward(SoftmaxKind::LogSoftmax),
    ] {
        cases.push(case_of(quantity, DType::F32, &[2, 320_000], Fill::Spread));
    }
    let attention = SoftmaxOptions {
        scale: 0.125,
        causal: Some(0),
        masked_rows: MaskedRows::Zero,
        ..Default::default()
    };
    cases.push(Case {
        options: attention,
        mask: MaskShape::Padding,
        ..case_of(
            Quantity::Forward(SoftmaxKind::Softmax),
            DType::F32,
            &[2, 3, 17, 77],
            Fill::Ordinary,
        )
    });
    cases
}

fn output_bytes(case: &Case, context: &Context) -> Vec<u8> {
    fn run<T: Element>(case: &Case, context: &Context) -> Vec<u8> {
        bytes_of(&case.compute(context, &case.data::<T>()).unwrap()).to_vec()
    }
    match case.dtype {
        DType::F32 => run::<f32>(case, context),
        DType::F16 => run::<f16>(case, context),
        DType::Bf16 => run::<bf16>(case, context),
    }
}

/// FNV-1a.
fn digest(bytes: &[u8], start: u64) -> u64 {
    bytes
        .iter()
        .fold(start, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// With MACHEPS_BITS_FILE the digests are also compared with those of earlier runs, which that file holds: scripts/test.sh
/// runs the suite at each of lavapipe's subgroup widths with the same file.
#[test]
fn default_strategies_give_the_same_bits_everywhere() {
    let adapters = adapters::all("default_strategies_give_the_same_bits_everywhere");
    let cases = bit_cases();
    let mut lines = Vec::new();
    let mut failures = Failures::default();
    for adapter in adapters {
        let mut total = 0xcbf2_9ce4_8422_2325;
        for (i, case) in cases.iter().enumerate() {
            let bytes = output_bytes(case, &adapter.context);
            if i % 5 == 0 && bytes != output_bytes(case, &adapter.context) {
                failures.add(format!("{}: {case:?}: other bits the second time", adapter.name));
            }
            let own = digest(&bytes, 0xcbf2_9ce4_8422_2325);
            total = digest(&own.to_le_bytes(), total);
            lines.push(format!("{} {i} {own:016x}", adapter.name));
        }
        println!("{}: bits {total:016x} of {} cases", adapter.name, cases.len());
    }
    if let Some(path) = std::env::var_os("MACHEPS_BITS_FILE").filter(|_| !adapters.is_empty()) {
        let earlier = std::fs::read_to_string(&path).unwrap_or_default();
        let known: HashMap<&str, &str> = earlier.lines().filter_map(|l| l.rsplit_once(' ')).collect();
        let mut fresh = earlier.clone();
        for line in &lines {
            let (key, bits) = line.rsplit_once(' ').unwrap();
            match known.get(key) {
                None => fresh.push_str(&format!("{line}\n")),
                Some(before) if *before == bits => {}
                Some(before) => {
                    let index: usize = key.rsplit_once(' ').unwrap().1.parse().unwrap();
                    failures.add(format!("{key}: bits {bits}, earlier {before}: {:?}", cases[index]));
                }
            }
        }
        std::fs::write(&path, fresh).unwrap();
    }
    failures.done();
}

#[test]
fn any_axis() {
    let mut failures = Failures::default();
    for adapter in adapters::all("any_axis") {
        let full = quick(adapter);
        for quantity in quantities() {
            let softmax = matches!(
                quantity,
                Quantity::Forward(SoftmaxKind::Softmax) | Quantity::Backward(SoftmaxKind::Softmax)
            );
            let mut run = |shape: &[usize], axis: isize, dtype, fill, strategy| {
                let case = Case {
                    options: SoftmaxOptions {
                        axis,
                        ..Default::default()
                    },
                    strategy,
                    ..case_of(quantity, dtype, shape, fill)
                };
                failures.run_case(&adapter.name, &adapter.context, &case);
            };
            for axis in [0, 1, 2, -1] {
                for fill in [Fill::Ordinary, Fill::Special] {
                    run(&[2, 3, 5, 7], axis, DType::F32, fill, None);
                }
            }
            run(&[3, 40, 13], 1, DType::F32, Fill::Special, None);
            run(&[70, 1, 3], 0, DType::F32, Fill::Masked, None);
            if full || softmax {
                for strategy in [Strategy::Short, Strategy::Subgroup, Strategy::Split] {
                    run(&[3, 40, 13], 1, DType::F32, Fill::Special, Some(strategy));
                }
                for dtype in [DType::F16, DType::Bf16] {
                    run(&[3, 41, 5], 1, dtype, Fill::Special, None);
                }
                run(&[30_000, 3], 0, DType::F32, Fill::Ordinary, Some(Strategy::Columns));
                run(&[30_000, 3], 0, DType::F32, Fill::Ordinary, None);
                run(&[100_000, 2], 0, DType::F32, Fill::Spread, None);
            }
        }
    }
    failures.done();
}

#[test]
fn nothing_in_nothing_out() {
    for adapter in adapters::all("nothing_in_nothing_out") {
        for (shape, axis) in [
            (vec![0, 5], -1),
            (vec![5, 0], -1),
            (vec![0, 0], 0),
            (vec![3, 0, 4], 1),
            (vec![0], 0),
        ] {
            for quantity in quantities() {
                let options = SoftmaxOptions {
                    axis,
                    ..Default::default()
                };
                let kind = case_of(quantity, DType::F32, &shape, Fill::Ordinary).kind();
                let axis = resolve_axis(axis, shape.len()).unwrap();
                let rows: usize = (0..shape.len()).filter(|&d| d != axis).map(|d| shape[d]).product();
                let input = SoftmaxInput::new(&[] as &[f32], &shape);
                let what = format!("{}, {} {shape:?}", adapter.name, quantity.name());
                match quantity {
                    Quantity::Forward(_) => {
                        let y = macheps::ops::softmax::forward(&adapter.context, kind, &input, &options).expect(&what);
                        let want = vec![f32::NEG_INFINITY; if kind.reduces() { rows } else { 0 }];
                        assert_eq!(y, want, "{what}");
                    }
                    Quantity::Backward(_) => {
                        let g = vec![1.0f32; if kind.reduces() { rows } else { 0 }];
                        let dx = macheps::ops::softmax::backward(&adapter.context, kind, &input, &g, &options);
                        assert!(dx.expect(&what).is_empty(), "{what}");
                    }
                }
            }
        }
    }
}

#[test]
fn four_million_rows() {
    for adapter in adapters::all("four_million_rows") {
        if !adapter.is("llvmpipe") {
            continue;
        }
        let rows = 1usize << 22;
        let x: Vec<f32> = (0..2 * rows).map(|i| (i % 1013) as f32 * 0.01).collect();
        let y = macheps::softmax(&adapter.context, &x, &[rows, 2]).unwrap();
        // Every row is checked by what the two entries must add up to, one in 101 by the oracle.
        assert!(
            y.chunks(2)
                .all(|p| (f64::from(p[0]) + f64::from(p[1]) - 1.0).abs() <= 4.0 * f64::from(f32::EPSILON))
        );
        for row in (0..rows).step_by(101).chain([rows - 1]) {
            let z: Vec<f64> = x[2 * row..2 * row + 2].iter().map(|&v| v.into()).collect();
            reference::forward_row(SoftmaxKind::Softmax, &z, 2, MaskedRows::Nan)
                .check(
                    &y[2 * row..2 * row + 2],
                    Quantity::Forward(SoftmaxKind::Softmax),
                    Accuracy::Standard,
                )
                .unwrap_or_else(|e| panic!("row {row}: {e}"));
        }
    }
}

#[test]
fn masks_scale_and_causal() {
    let mut failures = Failures::default();
    let [b, h, q, k] = [2usize, 3, 6, 33];
    let shape = [b, h, q, k];
    for adapter in adapters::all("masks_scale_and_causal") {
        for quantity in quantities() {
            if !quick(adapter) && quantity != Quantity::Forward(SoftmaxKind::Softmax) {
                continue;
            }
            let mut random = 12345u32;
            let mut next = || {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                random >> 8
            };
            for masked_rows in [MaskedRows::Nan, MaskedRows::Zero] {
                for mask_shape in [
                    vec![k],
                    vec![q, k],
                    vec![b, 1, 1, k],
                    vec![b, 1, q, k],
                    vec![h, 1, 1],
                    vec![1],
                ] {
                    for scale in [1.0, -0.3] {
                        let mut case = case_of(quantity, DType::F32, &shape, Fill::Masked);
                        case.options.scale = scale;
                        case.options.masked_rows = masked_rows;
                        let mut data = case.data::<f32>();
                        let count: usize = mask_shape.iter().product();
                        let values = (0..count)
                            .map(|i| match next() % 5 {
                                // The last rows of a [Q, K] mask are hidden whole.
                                _ if count > k && i + k >= count => f32::NEG_INFINITY,
                                0 => f32::NEG_INFINITY,
                                v => v as f32 - 2.5,
                            })
                            .collect();
                        data.mask = Some((values, mask_shape.clone()));
                        for causal in [
                            None,
                            Some(0),
                            Some((k - q) as i64),
                            Some(-3),
                            Some(-100_000),
                            Some(i64::MAX),
                        ] {
                            case.options.causal = causal;
                            failures.run(&adapter.name, &adapter.context, &case, &data);
                        }
                    }
                }
                // What a causal mask hides is not read, in any of the tensors.
                for (len, strategy) in [
                    (33, None),
                    (33, Some(Strategy::Subgroup)),
                    (9001, Some(Strategy::Split)),
                ] {
                    let mut case = case_of(quantity, DType::F32, &[2, 4, len], Fill::Ordinary);
                    case.strategy = strategy;
                    case.options.masked_rows = masked_rows;
                    for diagonal in [0i64, 2, -2, len as i64 - 4, 8190] {
                        case.options.causal = Some(diagonal);
                        let mut data = case.data::<f32>();
                        let mut mask = vec![0.0f32; 4 * len];
                        for row in 0..8 {
                            let first = (row as i64 % 4 + diagonal + 1).clamp(0, len as i64) as usize;
                            data.x[row * len + first..(row + 1) * len].fill(f32::NAN);
                            mask[row % 4 * len + first..(row % 4 + 1) * len].fill(f32::NAN);
                            if let Some(g) = data.upstream.as_mut().filter(|g| g.len() == 8 * len) {
                                g[row * len + first..(row + 1) * len].fill(f32::NAN);
                            }
                        }
                        data.mask = Some((mask, vec![4, len]));
                        failures.run(&adapter.name, &adapter.context, &case, &data);
                    }
                }
            }
            // A mask beside other axes than the last.
            let mut case = case_of(quantity, DType::F32, &[3, 20, 5], Fill::Masked);
            case.options.axis = 1;
            let mut data = case.data::<f32>();
            for mask_shape in [vec![20, 5], vec![20, 1], vec![3, 1, 5]] {
                let values = (0..mask_shape.iter().product::<usize>())
                    .map(|i| if i % 7 == 0 { f32::NEG_INFINITY } else { i as f32 * 0.1 })
                    .collect();
                data.mask = Some((values, mask_shape));
                failures.run(&adapter.name, &adapter.context, &case, &data);
            }
        }
    }
    failures.done();
}

#[test]
fn exact_cases() {
    for adapter in adapters::all("exact_cases") {
        let context = &adapter.context;
        for len in [1usize, 2, 4, 64, 1024, 16_384] {
            let rows = 3;
            let x = vec![2.5f32; rows * len];
            let name = &adapter.name;
            let shape = [rows, len];
            let y = macheps::softmax(context, &x, &shape).unwrap();
            assert!(
                y.iter().all(|&p| p == 1.0 / len as f32),
                "{name}: softmax of {len} equal entries"
            );
            let expected = |kind| reference::forward_row(kind, &[2.5; 1], 1, MaskedRows::Nan).magnitudes[0];
            let y = macheps::logsumexp(context, &x, &shape).unwrap();
            let want = 2.5 + (len as f64).ln();
            let bound = macheps::ops::softmax::bounds::bound(
                Quantity::Forward(SoftmaxKind::LogSumExp),
                DType::F32,
                Accuracy::Standard,
                want,
                expected(SoftmaxKind::LogSumExp).max((len as f64).ln()),
            );
            assert!(
                y.iter().all(|&v| (f64::from(v) - want).abs() <= bound),
                "{name}: logsumexp of {len} equal entries is {y:?}"
            );
            let y = macheps::log_softmax(context, &x, &shape).unwrap();
            assert!(y.iter().all(|&v| v == y[0]) && (len > 1 || y[0] == 0.0), "{name}");
        }
        // Shifts by which all entries stay exact move nothing.
        let x: Vec<f32> = (0..5 * 199).map(|i| (i * 37 % 64) as f32 * 0.25).collect();
        for kind in [SoftmaxKind::Softmax, SoftmaxKind::LogSoftmax] {
            let run = |shift: f32| {
                let x: Vec<f32> = x.iter().map(|v| v + shift).collect();
                let input = SoftmaxInput::new(&x, &[5, 199]);
                macheps::ops::softmax::forward(context, kind, &input, &SoftmaxOptions::default()).unwrap()
            };
            let plain = run(0.0);
            for shift in [1024.0, -4096.0, 0.25] {
                assert!(
                    bytes_of(&run(shift)) == bytes_of(&plain),
                    "{}: {kind:?}, shift {shift}",
                    adapter.name
                );
            }
        }
    }
}

#[test]
fn rows_sum_to_one() {
    for adapter in adapters::all("rows_sum_to_one") {
        for len in [63usize, 199, 1000, 20_001] {
            let case = case_of(
                Quantity::Forward(SoftmaxKind::Softmax),
                DType::F32,
                &[10, len],
                Fill::Spread,
            );
            let data = case.data::<f32>();
            let y = case.compute(&adapter.context, &data).unwrap();
            let accuracy = case.accuracy(&adapter.context).unwrap();
            let bounds = oracle(&case, &data).bounds(case.quantity, DType::F32, accuracy);
            for row in 0..10 {
                let at = row * len..(row + 1) * len;
                let sum: f64 = y[at.clone()].iter().map(|&p| f64::from(p)).sum();
                let allowed: f64 = bounds[at].iter().sum();
                assert!(
                    (sum - 1.0).abs() <= allowed,
                    "{}: a row of {len} sums to {sum}",
                    adapter.name
                );
            }
        }
    }
}

#[test]
fn chains_equal_one_shots() {
    for adapter in adapters::all("chains_equal_one_shots") {
        let context = &adapter.context;
        let options = SoftmaxOptions::default();
        let case = case_of(
            Quantity::Backward(SoftmaxKind::LogSoftmax),
            DType::F32,
            &[7, 199],
            Fill::Ordinary,
        );
        let Data { x, upstream, .. } = case.data::<f32>();
        let g = upstream.unwrap();
        let tensor = context.upload(&x, &[7, 199]).unwrap();
        let upstream = context.upload(&g, &[7, 199]).unwrap();
        let mut chain = context.chain();
        let y = chain.softmax(SoftmaxKind::Softmax, &tensor, None, &options).unwrap();
        let z = chain.softmax(SoftmaxKind::LogSumExp, &y, None, &options).unwrap();
        let dx = chain
            .softmax_backward(SoftmaxKind::LogSoftmax, &y, Some(&tensor), &upstream, &options)
            .unwrap();
        chain.submit().unwrap();
        let own_y = macheps::softmax(context, &x, &[7, 199]).unwrap();
        let own_z = macheps::logsumexp(context, &own_y, &[7, 199]).unwrap();
        let input = SoftmaxInput {
            mask: Some(macheps::ops::softmax::Mask {
                values: &x,
                shape: &[7, 199],
            }),
            ..SoftmaxInput::new(&own_y, &[7, 199])
        };
        let own_dx = macheps::ops::softmax::backward(context, SoftmaxKind::LogSoftmax, &input, &g, &options).unwrap();
        let name = &adapter.name;
        assert!(bytes_of(&y.download().unwrap()) == bytes_of(&own_y), "{name}: softmax");
        assert!(
            bytes_of(&z.download().unwrap()) == bytes_of(&own_z),
            "{name}: logsumexp"
        );
        assert!(
            bytes_of(&dx.download().unwrap()) == bytes_of(&own_dx),
            "{name}: gradient"
        );
    }
}

#[test]
fn hard_rows() {
    fn all<T: Element>(failures: &mut Failures, adapters: &[Adapter]) {
        for hard in crate::hard_rows::hard_cases::<T>("hard rows on adapters") {
            for (quantity, expected) in &hard.expected {
                let backward = matches!(quantity, Quantity::Backward(_));
                let case = case_of(*quantity, T::DTYPE, &hard.shape, Fill::Ordinary);
                let data = Data {
                    x: hard.x.clone(),
                    mask: None,
                    upstream: hard.upstream.clone().filter(|_| backward),
                };
                for adapter in adapters {
                    let name = format!("{}, {}", adapter.name, hard.name);
                    failures.run_against(&name, &adapter.context, &case, &data, expected);
                }
            }
        }
    }
    let adapters = adapters::all("hard_rows");
    let mut failures = Failures::default();
    all::<f32>(&mut failures, adapters);
    all::<f16>(&mut failures, adapters);
    all::<bf16>(&mut failures, adapters);
    failures.done();
}

#[test]
fn onnx() {
    fn all<T: Element>(adapter: &Adapter) {
        let test = format!("ONNX on {}", adapter.name);
        crate::onnx::run_onnx_cases::<T>(&test, Accuracy::Standard, |kind, x, shape, options| {
            macheps::ops::softmax::forward(&adapter.context, kind, &SoftmaxInput::new(x, shape), options).unwrap()
        });
    }
    for adapter in adapters::all("onnx") {
        all::<f32>(adapter);
        all::<f16>(adapter);
    }
}

mod random {
    use super::{Case, Context, DType, Data, Element, Failures, Fill, MaskedRows, SoftmaxOptions};
    use super::{adapters, bf16, case_of, f16, oracle, quantities};
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    struct Problem {
        case: Case,
        /// Shape of an additive mask.
        mask: Option<Vec<usize>>,
        seed: u64,
    }

    fn problem() -> impl Strategy<Value = Problem> {
        let numbers = (
            prop::collection::vec(0usize..=9, 1..=4),
            0usize..4,
            0usize..6,
            0usize..3,
        );
        let options = (any::<bool>(), any::<bool>(), prop::option::of(-4i64..6));
        let mask = prop::option::of((prop::collection::vec(any::<bool>(), 4), 0usize..3));
        (numbers, options, mask, any::<u64>()).prop_map(|(numbers, options, mask, seed)| {
            let (shape, axis, quantity, dtype) = numbers;
            let (halved, zero, causal) = options;
            let axis = axis % shape.len();
            let quantity = quantities().nth(quantity).unwrap();
            let mut case = case_of(quantity, DType::ALL[dtype], &shape, Fill::Ordinary);
            case.options = SoftmaxOptions {
                axis: axis as isize,
                scale: if halved { 0.5 } else { 1.0 },
                causal: causal.filter(|_| shape.len() > 1 && axis + 1 == shape.len()),
                masked_rows: if zero { MaskedRows::Zero } else { MaskedRows::Nan },
            };
            let mask = mask.map(|(ones, dropped)| {
                let full = shape.iter().zip(&ones).map(|(&s, &one)| if one { 1 } else { s });
                full.skip(dropped.min(shape.len() - 1)).collect()
            });
            Problem { case, mask, seed }
        })
    }

    fn run<T: Element>(problem: &Problem, contexts: &[(&str, &Context)]) -> Result<(), TestCaseError> {
        let mut state = problem.seed;
        let mut next = |special: bool| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            let r = (state >> 33) as u32;
            T::from_f32(match r % 16 {
                0 if special => f32::NEG_INFINITY,
                1 if special && r.is_multiple_of(5) => f32::INFINITY,
                2 if special && r.is_multiple_of(5) => f32::NAN,
                3 => 0.0,
                4 => 3.0,
                _ => (r >> 8) as f32 / (1u32 << 23) as f32 * 12.0 - 9.0,
            })
        };
        let case = &problem.case;
        let count: usize = case.shape.iter().product();
        let axis = case.options.axis as usize;
        let rows: usize = (0..case.shape.len())
            .filter(|&d| d != axis)
            .map(|d| case.shape[d])
            .product();
        let data = Data {
            x: (0..count).map(|_| next(true)).collect(),
            mask: problem
                .mask
                .as_ref()
                .map(|shape| ((0..shape.iter().product()).map(|_| next(true)).collect(), shape.clone())),
            upstream: case.is_backward().then(|| {
                (0..if case.kind().reduces() { rows } else { count })
                    .map(|_| next(false))
                    .collect()
            }),
        };
        let expected = oracle(case, &data);
        for (name, context) in contexts {
            let mut failures = Failures::default();
            failures.run_against(name, context, case, &data, &expected);
            prop_assert!(failures.0.is_empty(), "{:?}", failures.0);
        }
        Ok(())
    }

    #[test]
    fn problems() {
        let cpu = Context::cpu();
        let mut contexts = vec![("cpu", &cpu)];
        let adapters = adapters::all("random problems");
        contexts.extend(
            adapters
                .iter()
                .filter(|a| a.is("llvmpipe"))
                .map(|a| ("llvmpipe", &a.context)),
        );
        let config = ProptestConfig {
            cases: 32,
            max_shrink_iters: 64,
            failure_persistence: None,
            ..Default::default()
        };
        let mut runner = proptest::test_runner::TestRunner::new(config);
        runner
            .run(&problem(), |p| match p.case.dtype {
                DType::F32 => run::<f32>(&p, &contexts),
                DType::F16 => run::<f16>(&p, &contexts),
                DType::Bf16 => run::<bf16>(&p, &contexts),
            })
            .unwrap_or_else(|e| panic!("{e}"));
    }
}
