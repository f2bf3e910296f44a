//! layer_norm and rms_norm on every adapter: strategies at boundary lengths with rows of every kind, views at any offset and
//! stride with sentinels, in place, small limits, equal bits of runs, and planted bugs.

use crate::adapters;
use crate::gpu_planted::{Bug, all_gpus, caught, limited};
use macheps::element::{DType, Element};
use macheps::ops::layer_norm::bounds::Quantity;
use macheps::ops::layer_norm::cases::{Case, Data, Fill, verify_cases};
use macheps::ops::layer_norm::{backward, forward};
use macheps::wgpu::{self, BufferUsages as Usage};
use macheps::{
    BufferView, Context, CrossCheck, Error, Gpu, LayerNorm, LayerNormGradientViews, LayerNormGradients, LayerNormInput,
    LayerNormOptions, LayerNormStrategy, LayerNormViews, NormKind,
};

const ROWS: &str = include_str!("../../shaders/lib/layer_norm_rows.wgsl");
const SWEEP: &str = include_str!("../../shaders/lib/layer_norm_sweep.wgsl");
const SPLIT: &str = include_str!("../../shaders/layer_norm_split_merge.wgsl");
const COLUMNS: &str = include_str!("../../shaders/layer_norm_columns.wgsl");

const FORWARD: Quantity = Quantity::Forward(NormKind::LayerNorm);
const BACKWARD: Quantity = Quantity::Backward(NormKind::LayerNorm);
const RMS: Quantity = Quantity::Forward(NormKind::RmsNorm);
const RMS_BACKWARD: Quantity = Quantity::Backward(NormKind::RmsNorm);
const ALL: [Quantity; 4] = [FORWARD, BACKWARD, RMS, RMS_BACKWARD];

/// Failures and the largest share of the bound of each quantity, told at the end.
#[derive(Default)]
struct Tally {
    failures: Vec<String>,
    worst: Vec<(String, f64, String)>,
}

impl Tally {
    fn run(&mut self, name: &str, context: &Context, case: &Case) {
        let what = format!(
            "{name}: {} {} {:?}, {}",
            case.quantity.name(),
            case.dtype,
            case.shape,
            case.detail()
        );
        match case.run(context) {
            Ok(Ok(error)) => {
                let key = format!("{} {}", case.quantity.name(), case.dtype);
                match self.worst.iter_mut().find(|w| w.0 == key) {
                    Some(w) if w.1 >= error.of_bound => {}
                    Some(w) => *w = (key, error.of_bound, what),
                    None => self.worst.push((key, error.of_bound, what)),
                }
            }
            Ok(Err(m)) => self.failures.push(format!("{what}: {m}")),
            Err(e) => self.failures.push(format!("{what}: {e}")),
        }
    }

    fn done(self) {
        for (key, share, what) in &self.worst {
            println!("{key}: {share:.3} of the bound ({what})");
        }
        assert!(self.failures.is_empty(), "{}", self.failures.join("\n"));
    }
}

#[test]
fn cases_of_verify() {
    let mut tally = Tally::default();
    for adapter in adapters::all("cases_of_verify") {
        for case in verify_cases() {
            // Every shape is a pipeline of its own; the slow compilers take them in f32.
            if adapter.is("llvmpipe") || case.dtype == DType::F32 || case.fill == Fill::Special {
                tally.run(&adapter.name, &adapter.context, &case);
            }
        }
    }
    tally.done();
}

#[test]
fn strategies_at_boundary_lengths() {
    let mut tally = Tally::default();
    for adapter in adapters::all("strategies_at_boundary_lengths") {
        let full = adapter.is("llvmpipe");
        for quantity in ALL {
            if !full && quantity != BACKWARD {
                continue;
            }
            let lengths: &[(LayerNormStrategy, &[usize])] = &[
                (LayerNormStrategy::Short, &[1, 3, 7, 8, 9, 31, 64]),
                (LayerNormStrategy::OnChip, &[65, 100, 1024]),
                (LayerNormStrategy::Subgroup, &[63, 1000, 4097]),
                (LayerNormStrategy::Workgroup, &[64, 257, 2000, 17_000]),
                (LayerNormStrategy::Split, &[1, 67, 8192, 8193, 25_003]),
            ];
            for &(strategy, lengths) in lengths {
                for (i, &len) in lengths.iter().enumerate() {
                    if !full && i % 3 != 1 {
                        continue;
                    }
                    let rows = if len > 1024 { 3 } else { 19 };
                    for fill in [
                        Fill::Ordinary,
                        Fill::Offset,
                        Fill::Special,
                        Fill::Huge,
                        Fill::Tiny,
                        Fill::Mixed,
                    ] {
                        let case = Case {
                            fill,
                            strategy: Some(strategy),
                            ..Case::new(quantity, DType::F32, &[rows, len])
                        };
                        tally.run(&adapter.name, &adapter.context, &case);
                    }
                }
            }
            for shape in [vec![0, 5], vec![5, 0], vec![4, 3, 2, 17]] {
                tally.run(
                    &adapter.name,
                    &adapter.context,
                    &Case::new(quantity, DType::F32, &shape),
                );
            }
        }
    }
    tally.done();
}

#[test]
fn magnitudes_without_eps() {
    let mut tally = Tally::default();
    for adapter in adapters::all("magnitudes_without_eps") {
        for quantity in [FORWARD, BACKWARD, RMS, RMS_BACKWARD] {
            for (fill, eps) in [
                (Fill::Tiny, 0.0),
                (Fill::Tiny, 1e-30),
                (Fill::Huge, 1e30),
                (Fill::Ordinary, 1e10),
            ] {
                let case = Case {
                    fill,
                    eps,
                    ..Case::new(quantity, DType::F32, &[27, 61])
                };
                tally.run(&adapter.name, &adapter.context, &case);
            }
        }
    }
    tally.done();
}

#[test]
fn sums_over_many_rows() {
    let mut tally = Tally::default();
    for adapter in adapters::all("sums_over_many_rows") {
        for (rows, len) in [(1, 5), (16, 4), (17, 64), (5000, 6), (700, 130)] {
            tally.run(
                &adapter.name,
                &adapter.context,
                &Case::new(BACKWARD, DType::F32, &[rows, len]),
            );
        }
    }
    tally.done();
}

/// Problems larger than a binding or a grid.
#[test]
fn small_limits() {
    let mut tally = Tally::default();
    let gpus = limited("small_limits", |l| {
        l.max_storage_buffer_binding_size = 1 << 20;
        l.max_compute_workgroups_per_dimension = 64;
    });
    for (name, gpu) in gpus {
        let context = Context::from_gpu(gpu);
        let full = name == "llvmpipe";
        for quantity in [FORWARD, BACKWARD] {
            // Windows of rows; rows longer than a binding; records beyond a binding; more rows than a grid has workgroups.
            for shape in [[600, 1000], [2, 300_001], [40_000, 8], [70_000, 3]] {
                if full || shape[0] != 70_000 {
                    tally.run(&name, &context, &Case::new(quantity, DType::F32, &shape));
                }
            }
        }
    }
    tally.done();
}

#[test]
fn runs_and_widths_give_the_same_bits() {
    for adapter in adapters::all("runs_and_widths_give_the_same_bits") {
        for (quantity, shape) in [(BACKWARD, [40, 1000]), (FORWARD, [2, 30_000]), (RMS_BACKWARD, [90, 50])] {
            let case = Case::new(quantity, DType::F32, &shape);
            let data = case.data::<f32>();
            let bits = |context: &Context| -> Vec<u32> {
                let found = case.compute(context, &data).unwrap();
                let sums = found.dweight.into_iter().chain(found.dbias).flatten();
                found.dx.into_iter().chain(sums).map(f32::to_bits).collect()
            };
            let first = bits(&adapter.context);
            assert_eq!(first, bits(&adapter.context), "{}", adapter.name);
            if adapter.is("llvmpipe") {
                let narrow = adapter.gpu().with_capabilities(|c| c.subgroup = 4);
                assert_eq!(first, bits(&Context::from_gpu(narrow)), "{} at 4 lanes", adapter.name);
                let without = adapter.gpu().with_capabilities(|c| c.subgroup = 1);
                assert_eq!(
                    first,
                    bits(&Context::from_gpu(without)),
                    "{} without subgroups",
                    adapter.name
                );
            }
        }
    }
}

/// Constant rows give the bias exactly, whatever their value.
#[test]
fn constant_rows_give_the_bias() {
    for adapter in adapters::all("constant_rows_give_the_bias") {
        for len in [61usize, 20_001] {
            let values = [1.1f32, -3e38, 1e-40, 16_777_215.0, 0.0];
            let x: Vec<f32> = values.iter().flat_map(|&v| vec![v; len]).collect();
            let bias: Vec<f32> = (0..len).map(|j| j as f32 * 0.1 - 2.0).collect();
            let weight = vec![3.3f32; len];
            let y =
                macheps::layer_norm(&adapter.context, &x, &[values.len(), len], Some(&weight), Some(&bias)).unwrap();
            for row in y.chunks(len) {
                assert_eq!(row, bias, "{}", adapter.name);
            }
        }
    }
}

fn buffer(gpu: &Gpu, bytes: &[u8]) -> wgpu::Buffer {
    let buffer = gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: Some("pool"),
        size: bytes.len() as u64,
        usage: Usage::STORAGE | Usage::COPY_SRC | Usage::COPY_DST,
        mapped_at_creation: false,
    });
    gpu.queue().write_buffer(&buffer, 0, bytes);
    buffer
}

/// A pool of elements with tensors in it; whatever is not theirs holds a NaN of an odd pattern.
struct Pool<T> {
    values: Vec<T>,
}

/// Where a tensor lies in the pool.
#[derive(Clone, Debug)]
struct Place {
    shape: Vec<usize>,
    strides: Vec<usize>,
    offset: usize,
}

impl Place {
    fn positions(&self) -> Vec<usize> {
        let own = macheps::rows::contiguous_strides(&self.shape);
        (0..self.shape.iter().product())
            .map(|flat: usize| {
                let steps = self.shape.iter().zip(&own).zip(&self.strides);
                self.offset
                    + steps
                        .map(|((&n, &own), &stride)| flat / own % n * stride)
                        .sum::<usize>()
            })
            .collect()
    }

    fn view(&self, buffer: &wgpu::Buffer, dtype: DType) -> BufferView {
        BufferView::new(buffer, dtype, &self.shape)
            .with_strides(&self.strides)
            .at(self.offset)
    }
}

impl<T: Element> Pool<T> {
    fn new(len: usize) -> Pool<T> {
        Pool {
            values: vec![T::from_f32(f32::NAN); len],
        }
    }

    fn put(&mut self, place: &Place, values: &[T]) {
        for (at, &v) in place.positions().into_iter().zip(values) {
            self.values[at] = v;
        }
    }
}

/// Everything in one pool: x, upstream and gradients at odd offsets and strides, dx apart or over one of the two.
fn in_a_pool<T: Element>(
    name: &str,
    gpu: &Gpu,
    shape: [usize; 2],
    turned: bool,
    over: Option<&str>,
    forced: Option<LayerNormStrategy>,
) {
    let case = Case {
        strategy: forced,
        ..Case::new(BACKWARD, T::DTYPE, &shape)
    };
    let data: Data<T> = case.data();
    let [rows, len] = shape;
    let strides = if turned { vec![1, rows + 1] } else { vec![len + 3, 1] };
    let span = (rows + 3) * (len + 3) + 8;
    let full = |slot: usize| Place {
        shape: shape.to_vec(),
        strides: strides.clone(),
        offset: slot * span + 3,
    };
    let row = |slot: usize, step: usize| Place {
        shape: vec![len],
        strides: vec![step],
        offset: 3 * span + slot * 3 * len + 5,
    };
    let (x, upstream) = (full(0), full(1));
    let dx = match over {
        Some("x") => x.clone(),
        Some(_) => upstream.clone(),
        None => full(2),
    };
    let (weight, dweight, dbias) = (row(0, 2), row(1, 1), row(2, 3));
    let mut pool = Pool::<T>::new((3 * span + 12 * len + 8).next_multiple_of(2));
    pool.put(&x, &data.x);
    pool.put(&upstream, data.upstream.as_ref().unwrap());
    pool.put(&weight, data.weight.as_ref().unwrap());
    let storage = buffer(gpu, bytemuck::cast_slice(&pool.values));
    let view = |place: &Place| place.view(&storage, T::DTYPE);
    let mut norm = LayerNorm::new(gpu, T::DTYPE, case.options()).unwrap();
    if let Some(strategy) = forced {
        norm = norm.with_strategy(strategy);
    }
    let views = LayerNormGradientViews {
        weight: Some(view(&weight)),
        dweight: Some(view(&dweight)),
        dbias: Some(view(&dbias)),
        ..LayerNormGradientViews::new(view(&x), view(&upstream), view(&dx))
    };
    let need = norm.workspace_size_backward(&views).unwrap();
    let workspace = buffer(gpu, &vec![0xa5; need as usize + 512]);
    let bound = norm
        .bind_backward(&LayerNormGradientViews {
            workspace: Some((workspace.clone(), 256)),
            ..views
        })
        .unwrap_or_else(|e| panic!("{name}: {e}"));
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    bound.record(&mut encoder);
    gpu.queue().submit([encoder.finish()]);
    let read = |b: &wgpu::Buffer| {
        let encoder = gpu.device().create_command_encoder(&Default::default());
        gpu.read_back(encoder, b, b.size()).unwrap().wait().unwrap()
    };
    let after: Vec<T> = bytemuck::pod_collect_to_vec(&read(&storage));
    let got = |place: &Place| place.positions().into_iter().map(|at| after[at]).collect::<Vec<T>>();
    let found = LayerNormGradients {
        dx: got(&dx),
        dweight: Some(got(&dweight)),
        dbias: Some(got(&dbias)),
    };
    let what = format!("{name}: {shape:?} turned {turned}, over {over:?}, {forced:?}");
    case.judge(&data, &found)
        .unwrap()
        .unwrap_or_else(|m| panic!("{what}: {m}"));
    for place in [&dx, &dweight, &dbias] {
        let values = got(place);
        pool.put(place, &values);
    }
    let same = |a: &[T], b: &[T]| bytemuck::cast_slice::<T, u8>(a) == bytemuck::cast_slice::<T, u8>(b);
    assert!(
        same(&pool.values, &after),
        "{what}: an element beside the outputs was written"
    );
    let kept = read(&workspace);
    assert!(
        kept[..256]
            .iter()
            .chain(&kept[256 + need as usize..])
            .all(|&b| b == 0xa5),
        "{what}: beside the workspace"
    );
}

#[test]
fn views_in_one_pool_and_in_place() {
    use macheps::element::{bf16, f16};
    for adapter in adapters::all("views_in_one_pool_and_in_place") {
        let (name, gpu) = (&adapter.name, adapter.gpu());
        for over in [None, Some("x"), Some("upstream")] {
            in_a_pool::<f32>(name, gpu, [21, 37], false, over, None);
            in_a_pool::<f16>(name, gpu, [21, 37], false, over, None);
            if adapter.is("llvmpipe") {
                in_a_pool::<bf16>(name, gpu, [6, 129], true, over, None);
                in_a_pool::<f32>(name, gpu, [3, 9001], false, over, Some(LayerNormStrategy::Split));
            }
        }
        in_a_pool::<f32>(name, gpu, [7, 300], true, None, Some(LayerNormStrategy::Workgroup));
    }
}

#[test]
fn forward_in_place_and_typed_errors() {
    for adapter in adapters::all("forward_in_place_and_typed_errors") {
        let gpu = adapter.gpu();
        let case = Case::new(FORWARD, DType::F32, &[5, 72]);
        let data = case.data::<f32>();
        let x = buffer(gpu, bytemuck::cast_slice(&data.x));
        let view = BufferView::new(&x, DType::F32, &[5, 72]);
        let row = |values: &[f32]| BufferView::new(&buffer(gpu, bytemuck::cast_slice(values)), DType::F32, &[72]);
        let (weight, bias) = (row(data.weight.as_ref().unwrap()), row(data.bias.as_ref().unwrap()));
        let norm = LayerNorm::new(gpu, DType::F32, LayerNormOptions::default()).unwrap();
        let views = LayerNormViews {
            weight: Some(weight.clone()),
            bias: Some(bias.clone()),
            ..LayerNormViews::new(view.clone(), view.clone())
        };
        let bound = norm.bind(&views).unwrap();
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        bound.record(&mut encoder);
        let bytes = gpu.read_back(encoder, &x, x.size()).unwrap().wait().unwrap();
        let found = LayerNormGradients {
            dx: bytemuck::pod_collect_to_vec(&bytes),
            dweight: None,
            dbias: None,
        };
        case.judge(&data, &found)
            .unwrap()
            .unwrap_or_else(|m| panic!("{}: {m}", adapter.name));

        let bad = |views: &LayerNormViews| norm.bind(views).err().expect("refused");
        let shifted = BufferView::new(&x, DType::F32, &[4, 72]);
        let e = bad(&LayerNormViews::new(shifted.clone(), shifted.clone().at(72)));
        assert!(matches!(e, Error::Aliased { .. }), "{e}");
        let e = bad(&LayerNormViews {
            weight: Some(shifted),
            ..views.clone()
        });
        assert!(matches!(e, Error::Shape { .. }), "{e}");
        let e = bad(&LayerNormViews {
            x: BufferView::new(&x, DType::F16, &[5, 72]),
            ..views.clone()
        });
        assert!(matches!(e, Error::DTypeMismatch { .. }), "{e}");
        let e = bad(&LayerNormViews {
            x: view.clone().at(1),
            ..views.clone()
        });
        assert!(matches!(e, Error::Shape { .. }), "{e}");
        let rms = LayerNorm::new(gpu, DType::F32, LayerNormOptions::new(NormKind::RmsNorm)).unwrap();
        assert!(matches!(rms.bind(&views), Err(Error::Unsupported { .. })));
        let gradients = LayerNormGradientViews {
            dweight: Some(weight.clone()),
            weight: Some(weight),
            ..LayerNormGradientViews::new(
                view.clone(),
                BufferView::new(&buffer(gpu, &[0; 1440]), DType::F32, &[5, 72]),
                view,
            )
        };
        let e = norm.bind_backward(&gradients).err().expect("refused");
        assert!(
            matches!(
                e,
                Error::Aliased {
                    first: "weight",
                    second: "dweight"
                }
            ),
            "{e}"
        );
    }
}

#[test]
fn chains_and_cross_checks() {
    for adapter in adapters::all("chains_and_cross_checks") {
        let context = adapter.context.clone().with_cross_check(CrossCheck::Full);
        let case = Case::new(BACKWARD, DType::F32, &[21, 37]);
        let data = case.data::<f32>();
        let options = LayerNormOptions::default();
        let up = |v: &[f32], shape: &[usize]| context.upload(v, shape).unwrap();
        let x = up(&data.x, &[21, 37]);
        let (weight, bias) = (
            up(data.weight.as_ref().unwrap(), &[37]),
            up(data.bias.as_ref().unwrap(), &[37]),
        );
        let g = up(data.upstream.as_ref().unwrap(), &[21, 37]);
        let mut chain = context.chain();
        let y = chain.layer_norm(&x, Some(&weight), Some(&bias), &options).unwrap();
        let (dx, dweight, dbias) = chain
            .layer_norm_backward(&x, Some(&weight), Some(&bias), &g, &options)
            .unwrap();
        chain.submit().unwrap();
        let input = LayerNormInput {
            x: &data.x,
            shape: &[21, 37],
            weight: data.weight.as_deref(),
            bias: data.bias.as_deref(),
        };
        assert_eq!(y.download().unwrap(), forward(&context, &input, &options).unwrap());
        let found = backward(&context, &input, data.upstream.as_ref().unwrap(), &options).unwrap();
        assert_eq!(dx.download().unwrap(), found.dx);
        assert_eq!(dweight.map(|t| t.download().unwrap()), found.dweight);
        assert_eq!(dbias.map(|t| t.download().unwrap()), found.dbias);
    }
}

fn expect_caught(bug: &Bug, case: &Case) {
    let gpus: Vec<_> = all_gpus(bug.name).into_iter().filter(|g| g.0 != "gl").collect();
    let caught = caught(bug, &gpus, |context| {
        case.run(context).expect("the case runs").map(|_| ())
    });
    assert!(gpus.is_empty() || !caught.is_empty(), "{}: caught nowhere", bug.name);
}

fn of(quantity: Quantity, fill: Fill) -> Case {
    Case {
        fill,
        ..Case::new(quantity, DType::F32, &[27, 61])
    }
}

#[test]
fn planted_variance_as_a_difference() {
    // E[x^2] - E[x]^2: squares of the elements, less the square of the mean.
    let bug = Bug {
        name: "variance as E[x^2] - E[x]^2",
        edits: &[
            (
                SWEEP,
                "let d = centred4(scaled4(again4(row, block, a, j, len), scale), m.mean);",
                "let d = Pair4(scaled4(again4(row, block, a, j, len), scale), vec4<f32>(0.0));",
            ),
            (
                ROWS,
                "var variance = pair_product(squares, params.inverse);",
                "var variance = vec2<f32>(squares.x * params.inverse.x - mean.x * mean.x, 0.0);",
            ),
        ],
    };
    expect_caught(&bug, &of(FORWARD, Fill::Offset));
}

#[test]
fn planted_eps_outside_of_the_root() {
    let bug = Bug {
        name: "eps outside of the root",
        edits: &[(
            ROWS,
            "let eps = quarter(params.eps, params.eps_half - s.f);",
            "let eps = quarter(params.eps, 2 * params.eps_half - s.f);",
        )],
    };
    let case = Case {
        eps: 0.25,
        ..of(FORWARD, Fill::Ordinary)
    };
    expect_caught(&bug, &case);
}

#[test]
fn planted_gradient_without_the_mean() {
    let bug = Bug {
        name: "gradient without the mean of the upstream gradient",
        edits: &[(
            ROWS,
            "v = opaque4(v - c.mean, params.zero);",
            "v = opaque4(v, params.zero);",
        )],
    };
    expect_caught(&bug, &of(BACKWARD, Fill::Ordinary));
}

#[test]
fn planted_tail_mask() {
    let bug = Bug {
        name: "tail mask dropped",
        edits: &[(
            ROWS,
            "return vec4<u32>(j, j + 1u, j + 2u, j + 3u) < vec4<u32>(end);",
            "return vec4<bool>(true);",
        )],
    };
    expect_caught(&bug, &of(RMS, Fill::Ordinary));
}

#[test]
fn planted_partial_block_of_rows() {
    let bug = Bug {
        name: "last rows of a block dropped from the gradient of the weight",
        edits: &[(
            COLUMNS,
            "let count = min(params.block_rows, params.rows - begin);",
            "let count = select(0u, params.block_rows, params.block_rows <= params.rows - begin);",
        )],
    };
    // 700 rows in 44 blocks of 16: the last has 12.
    expect_caught(&bug, &Case::new(BACKWARD, DType::F32, &[700, 64]));
}

#[test]
fn planted_mean_rounded() {
    let bug = Bug {
        name: "mean rounded to one number",
        edits: &[(
            ROWS,
            "return two_sum4(t.high, opaque4(t.low - mean.y, params.zero), params.zero);",
            "return Pair4(t.high, vec4<f32>(0.0));",
        )],
    };
    expect_caught(&bug, &of(FORWARD, Fill::Offset));
}

#[test]
fn planted_merge_without_delta() {
    let bug = Bug {
        name: "chunks merged without the differences of their means",
        edits: &[(
            SPLIT,
            "sum = pair_merge(sum, between, params.zero);",
            "sum = pair_merge(sum, between * 0.0, params.zero);",
        )],
    };
    let case = Case {
        strategy: Some(LayerNormStrategy::Split),
        ..Case::new(FORWARD, DType::F32, &[2, 20_001])
    };
    expect_caught(&bug, &case);
}

#[test]
fn planted_norm_without_scaling() {
    let bug = Bug {
        name: "squares of elements as they are",
        edits: &[(
            ROWS,
            "scale.e = min(field - 127, 126);",
            "scale.e = select(0, min(field - 127, 126), field == 255);",
        )],
    };
    expect_caught(&bug, &of(RMS, Fill::Huge));
}
