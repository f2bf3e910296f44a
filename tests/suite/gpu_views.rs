//! Embedded use on every adapter: views at any offset and stride into buffers made here, in place, slices of one pool,
//! workspaces, recordings into encoders and passes; every byte outside of an output must stay as it was. And the typed
//! errors of calls that cannot be served.

use crate::adapters::{self, Adapter};
use crate::gpu_softmax::{Failures, bytes_of, case_of, oracle};
use macheps::element::{DType, Element, bf16, f16};
use macheps::ops::softmax::bounds::{Accuracy, Quantity};
use macheps::ops::softmax::cases::{Case, Data, Fill};
use macheps::rows::contiguous_strides;
use macheps::wgpu;
use macheps::{
    BufferView, Error, Gpu, Softmax, SoftmaxGradientViews, SoftmaxInput, SoftmaxKind, SoftmaxOptions, SoftmaxViews,
    Strategy,
};
use wgpu::BufferUsages as Usage;

const SOFTMAX: Quantity = Quantity::Forward(SoftmaxKind::Softmax);
const SOFTMAX_BACKWARD: Quantity = Quantity::Backward(SoftmaxKind::Softmax);
const LOGSUMEXP: Quantity = Quantity::Forward(SoftmaxKind::LogSumExp);

/// Where a tensor lies: which of the buffers, and how.
#[derive(Clone, Debug, PartialEq)]
struct Place {
    pool: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
    offset: usize,
}

impl Place {
    /// C-ordered but for `pad` elements after every row along the last dimension.
    fn new(pool: usize, shape: &[usize], offset: usize, pad: usize) -> Place {
        let mut padded = shape.to_vec();
        *padded.last_mut().unwrap() += pad;
        Place {
            pool,
            shape: shape.to_vec(),
            strides: contiguous_strides(&padded),
            offset,
        }
    }

    /// Element of the buffer for each element in C order.
    fn positions(&self) -> Vec<usize> {
        let own = contiguous_strides(&self.shape);
        (0..self.shape.iter().product())
            .map(|flat: usize| {
                let index = self.shape.iter().zip(&own).map(|(&size, &stride)| flat / stride % size);
                self.offset + index.zip(&self.strides).map(|(i, s)| i * s).sum::<usize>()
            })
            .collect()
    }

    fn end(&self) -> usize {
        self.positions().into_iter().max().map_or(self.offset, |p| p + 1)
    }

    fn view(&self, buffers: &[wgpu::Buffer], dtype: DType) -> BufferView {
        BufferView::new(&buffers[self.pool], dtype, &self.shape)
            .with_strides(&self.strides)
            .at(self.offset)
    }
}

/// Places of a call's tensors.
#[derive(Clone, Debug)]
struct Places {
    x: Place,
    /// The output: y, or the gradient.
    y: Place,
    mask: Option<Place>,
    upstream: Option<Place>,
    /// Buffer and byte offset of a workspace; a buffer of its own past the others, or one of them.
    workspace: Option<(usize, u64)>,
}

impl Places {
    fn new(x: Place, y: Place) -> Places {
        Places {
            x,
            y,
            mask: None,
            upstream: None,
            workspace: None,
        }
    }

    fn all(&self) -> impl Iterator<Item = &Place> {
        [Some(&self.x), Some(&self.y), self.mask.as_ref(), self.upstream.as_ref()]
            .into_iter()
            .flatten()
    }
}

/// A storage buffer of wgpu's with these bytes.
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

fn read(gpu: &Gpu, buffer: &wgpu::Buffer) -> Vec<u8> {
    let encoder = gpu.device().create_command_encoder(&Default::default());
    gpu.read_back(encoder, buffer, buffer.size()).unwrap().wait().unwrap()
}

/// Runs a case with its tensors at these places. Whatever is not theirs holds NaNs of an odd pattern: reading one spoils a
/// result, writing one is seen.
fn run<T: Element>(failures: &mut Failures, adapter: &Adapter, case: &Case, places: &Places) {
    let gpu = adapter.gpu();
    let what = format!("{}: {:?} at {places:?}", adapter.name, case);
    let data = Data {
        mask: places.mask.as_ref().map(|p| {
            let count = p.shape.iter().product();
            let values = (0..count).map(|i| T::from_f32((i % 5) as f32 * 0.5 - 1.0)).collect();
            (values, p.shape.clone())
        }),
        ..case.data::<T>()
    };
    let softmax = Softmax::new(gpu, case.kind(), T::DTYPE, case.options).unwrap();
    let softmax = match case.strategy {
        Some(strategy) => softmax.with_strategy(strategy),
        None => softmax,
    };
    let size = T::DTYPE.size();
    let pools = places.all().map(|p| p.pool).max().unwrap() + 1;
    let mut contents: Vec<Vec<u8>> = (0..pools)
        .map(|pool| {
            let mine = places.all().filter(|p| p.pool == pool);
            let end = mine.map(Place::end).max().unwrap_or(0) + 37;
            (0..(end * size).next_multiple_of(4))
                .map(|i| if i % 2 == 0 { 0xa5 } else { 0xff })
                .collect()
        })
        .collect();
    let mut put = |place: &Place, values: &[T]| {
        for (value, at) in values.iter().zip(place.positions()) {
            contents[place.pool][at * size..(at + 1) * size].copy_from_slice(bytes_of(std::slice::from_ref(value)));
        }
    };
    put(&places.x, &data.x);
    if let (Some(place), Some((values, _))) = (&places.mask, &data.mask) {
        put(place, values);
    }
    if let (Some(place), Some(values)) = (&places.upstream, &data.upstream) {
        put(place, values);
    }
    let x_place = BufferView::new(&buffer(gpu, &[0; 16]), T::DTYPE, &places.x.shape).with_strides(&places.x.strides);
    let need = softmax.workspace_size(&x_place, case.is_backward()).unwrap();
    if let Some((pool, offset)) = places.workspace {
        contents.resize_with(contents.len().max(pool + 1), Vec::new);
        let end = (offset + need) as usize;
        if contents[pool].len() < end {
            contents[pool].resize(end, 0xa5);
        }
    }
    let buffers: Vec<wgpu::Buffer> = contents.iter().map(|bytes| buffer(gpu, bytes)).collect();
    let view = |place: &Place| place.view(&buffers, T::DTYPE);
    let workspace = places.workspace.map(|(pool, offset)| (buffers[pool].clone(), offset));
    let bound = match &places.upstream {
        Some(upstream) => softmax.bind_backward(&SoftmaxGradientViews {
            x: view(&places.x),
            upstream: view(upstream),
            dx: view(&places.y),
            mask: places.mask.as_ref().map(view),
            workspace,
        }),
        None => softmax.bind(&SoftmaxViews {
            x: view(&places.x),
            y: view(&places.y),
            mask: places.mask.as_ref().map(view),
            workspace,
        }),
    };
    let bound = match bound {
        Ok(bound) => bound,
        Err(e) => return failures.add(format!("{what}: {e}")),
    };
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    bound.record(&mut encoder);
    gpu.queue().submit([encoder.finish()]);
    let after: Vec<Vec<u8>> = buffers.iter().map(|b| read(gpu, b)).collect();
    let mut kept = contents;
    let mut got = Vec::new();
    for at in places.y.positions() {
        let bytes = &after[places.y.pool][at * size..(at + 1) * size];
        kept[places.y.pool][at * size..(at + 1) * size].copy_from_slice(bytes);
        got.push(bytemuck::pod_read_unaligned::<T>(bytes));
    }
    if let Some((pool, offset)) = places.workspace {
        let range = offset as usize..(offset + need) as usize;
        kept[pool][range.clone()].copy_from_slice(&after[pool][range]);
    }
    for (pool, (kept, after)) in kept.iter().zip(&after).enumerate() {
        if let Some(at) = (0..kept.len()).find(|&i| kept[i] != after[i]) {
            failures.add(format!("{what}: byte {at} of buffer {pool} was written"));
        }
    }
    let x_view = view(&places.x);
    let accuracy = if softmax.strategy(&x_view, case.is_backward()).unwrap().rescales() {
        Accuracy::Relaxed
    } else {
        Accuracy::Standard
    };
    if !failures.judge(&adapter.name, case, &got, &oracle(case, &data), accuracy) {
        failures.add(format!("  at {places:?}"));
    }
}

fn case(quantity: Quantity, dtype: DType, shape: &[usize], strategy: Option<Strategy>) -> Case {
    Case {
        strategy,
        ..case_of(quantity, dtype, shape, Fill::Ordinary)
    }
}

#[test]
fn offsets_strides_and_in_place() {
    let mut failures = Failures::default();
    for adapter in adapters::all("offsets_strides_and_in_place") {
        let f = &mut failures;
        let shape = [5, 70];
        let plain = case(SOFTMAX, DType::F32, &shape, None);
        for (x, y) in [((0, 0), (1, 0)), ((1, 0), (3, 5)), ((64, 3), (64, 0)), ((3, 9), (0, 1))] {
            let places = Places::new(Place::new(0, &shape, x.0, x.1), Place::new(1, &shape, y.0, y.1));
            run::<f32>(f, adapter, &plain, &places);
        }
        // Every row at a multiple of four elements; and only one of the two.
        let even = case(SOFTMAX, DType::F32, &[5, 72], None);
        for (x, y) in [((64, 0), (4, 8)), ((64, 0), (1, 0)), ((2, 0), (8, 4))] {
            let places = Places::new(Place::new(0, &[5, 72], x.0, x.1), Place::new(1, &[5, 72], y.0, y.1));
            run::<f32>(f, adapter, &even, &places);
        }
        for place in [Place::new(0, &shape, 3, 2), Place::new(0, &shape, 0, 0)] {
            run::<f32>(f, adapter, &plain, &Places::new(place.clone(), place));
        }
        let place = Place::new(0, &[5, 72], 64, 4);
        run::<f32>(f, adapter, &even, &Places::new(place.clone(), place));
        // x and y in one pool, before and behind each other.
        for (x, y) in [(1, 400), (500, 3)] {
            run::<f32>(
                f,
                adapter,
                &plain,
                &Places::new(Place::new(0, &shape, x, 0), Place::new(0, &shape, y, 0)),
            );
        }
        // Transposed: rows run along the dimension with the larger stride.
        let turned = Place {
            pool: 0,
            shape: vec![6, 40],
            strides: vec![1, 7],
            offset: 5,
        };
        let turned_case = case(SOFTMAX, DType::F32, &[6, 40], None);
        run::<f32>(
            f,
            adapter,
            &turned_case,
            &Places::new(turned.clone(), Place::new(1, &[6, 40], 2, 1)),
        );
        run::<f32>(f, adapter, &turned_case, &Places::new(turned.clone(), turned));
        // Three row dimensions that do not merge.
        let shape = [2, 3, 4, 20];
        let apart = |pool, offset| Place {
            pool,
            shape: shape.to_vec(),
            strides: vec![1000, 21, 201, 1],
            offset,
        };
        run::<f32>(
            f,
            adapter,
            &case(SOFTMAX, DType::F32, &shape, None),
            &Places::new(apart(0, 1), apart(1, 2)),
        );
    }
    failures.done();
}

#[test]
fn one_pool_for_everything() {
    let mut failures = Failures::default();
    for adapter in adapters::all("one_pool_for_everything") {
        let shape = [4, 33];
        for offset in [0, 1] {
            let places = Places {
                x: Place::new(0, &shape, offset, 0),
                y: Place::new(0, &shape, offset + 300, 1),
                mask: Some(Place::new(0, &[33], offset + 140, 0)),
                upstream: Some(Place::new(0, &shape, offset + 600, 2)),
                workspace: None,
            };
            run::<f32>(
                &mut failures,
                adapter,
                &case(SOFTMAX_BACKWARD, DType::F32, &shape, None),
                &places,
            );
            run::<f16>(
                &mut failures,
                adapter,
                &case(SOFTMAX_BACKWARD, DType::F16, &shape, None),
                &places,
            );
            // In place beside them.
            let places = Places {
                y: places.x.clone(),
                ..places
            };
            run::<f32>(
                &mut failures,
                adapter,
                &case(SOFTMAX_BACKWARD, DType::F32, &shape, None),
                &places,
            );
        }
        // The mask apart, then x apart.
        let places = Places {
            x: Place::new(0, &shape, 1, 0),
            y: Place::new(1, &shape, 200, 1),
            mask: Some(Place::new(1, &[4, 33], 3, 0)),
            upstream: None,
            workspace: None,
        };
        run::<f32>(
            &mut failures,
            adapter,
            &case(SOFTMAX, DType::F32, &shape, None),
            &places,
        );
    }
    failures.done();
}

#[test]
fn sixteen_bits_share_words() {
    fn all<T: Element>(failures: &mut Failures, adapter: &Adapter) {
        let shape = [9, 33];
        let plain = case(SOFTMAX, T::DTYPE, &shape, None);
        for (x, y) in [((0, 0), (1, 0)), ((1, 0), (0, 0)), ((3, 2), (5, 0))] {
            let places = Places::new(Place::new(0, &shape, x.0, x.1), Place::new(1, &shape, y.0, y.1));
            run::<T>(failures, adapter, &plain, &places);
        }
        let place = Place::new(0, &shape, 1, 0);
        run::<T>(failures, adapter, &plain, &Places::new(place.clone(), place));
        // The last of x and the first of y are halves of one word.
        let places = Places::new(Place::new(0, &shape, 0, 0), Place::new(0, &shape, 9 * 33, 0));
        run::<T>(failures, adapter, &plain, &places);
        // One value a row, two rows a word.
        let places = Places::new(Place::new(0, &shape, 1, 0), Place::new(1, &[9], 3, 0));
        run::<T>(failures, adapter, &case(LOGSUMEXP, T::DTYPE, &shape, None), &places);
        let columns = Place::new(0, &[4, 9, 7], 1, 0);
        let mut along = case(SOFTMAX, T::DTYPE, &[4, 9, 7], None);
        along.options.axis = 1;
        run::<T>(
            failures,
            adapter,
            &along,
            &Places::new(columns.clone(), Place::new(1, &[4, 9, 7], 1, 0)),
        );
        let even = Place::new(0, &[4, 64], 4, 4);
        run::<T>(
            failures,
            adapter,
            &case(SOFTMAX, T::DTYPE, &[4, 64], None),
            &Places::new(even, Place::new(1, &[4, 64], 8, 0)),
        );
    }
    let mut failures = Failures::default();
    for adapter in adapters::all("sixteen_bits_share_words") {
        all::<f16>(&mut failures, adapter);
        all::<bf16>(&mut failures, adapter);
        if adapter.gpu().capabilities().shader_f16 {
            let gpu = adapter.gpu().with_capabilities(|c| c.shader_f16 = false);
            let packed = Adapter {
                name: "packed f16".into(),
                context: macheps::Context::from_gpu(gpu),
            };
            all::<f16>(&mut failures, &packed);
        }
    }
    failures.done();
}

#[test]
fn strategies_on_views_and_workspaces() {
    let mut failures = Failures::default();
    for adapter in adapters::all("strategies_on_views_and_workspaces") {
        let f = &mut failures;
        for strategy in [
            Strategy::OnChip,
            Strategy::Workgroup,
            Strategy::Online,
            Strategy::Subgroup,
        ] {
            let shape = [3, 301];
            let place = Place::new(0, &shape, 5, 2);
            let one = case(SOFTMAX, DType::F32, &shape, Some(strategy));
            run::<f32>(
                f,
                adapter,
                &one,
                &Places::new(place.clone(), Place::new(1, &shape, 2, 1)),
            );
            run::<f32>(f, adapter, &one, &Places::new(place.clone(), place));
        }
        let shape = [3, 40, 6];
        let mut columns = case(SOFTMAX, DType::F32, &shape, Some(Strategy::Columns));
        columns.options.axis = 1;
        let place = Place::new(0, &shape, 3, 3);
        run::<f32>(
            f,
            adapter,
            &columns,
            &Places::new(place.clone(), Place::new(1, &shape, 1, 0)),
        );
        run::<f32>(f, adapter, &columns, &Places::new(place.clone(), place));

        let shape = [2, 9001];
        let (x, y) = (Place::new(0, &shape, 3, 1), Place::new(1, &shape, 1, 4));
        let split = |quantity, dtype| case(quantity, dtype, &shape, Some(Strategy::Split));
        for workspace in [None, Some((2, 0)), Some((2, 512))] {
            let places = Places {
                workspace,
                ..Places::new(x.clone(), y.clone())
            };
            run::<f32>(f, adapter, &split(SOFTMAX, DType::F32), &places);
        }
        // In place, and with the workspace behind the tensors in their own pool.
        run::<f32>(
            f,
            adapter,
            &split(SOFTMAX, DType::F32),
            &Places::new(x.clone(), x.clone()),
        );
        for pool in [0, 1] {
            let places = Places {
                workspace: Some((pool, 18_100 * 4 / 256 * 256 + 256)),
                ..Places::new(x.clone(), y.clone())
            };
            run::<f32>(f, adapter, &split(SOFTMAX, DType::F32), &places);
        }
        let one_pool = Places {
            workspace: Some((0, 256 * 1000)),
            ..Places::new(x.clone(), Place::new(0, &shape, 20_001, 0))
        };
        run::<f32>(f, adapter, &split(SOFTMAX, DType::F32), &one_pool);
        if adapter.is("llvmpipe") {
            run::<bf16>(f, adapter, &split(SOFTMAX, DType::Bf16), &one_pool);
            let places = Places {
                workspace: Some((0, 256 * 1000)),
                ..Places::new(x.clone(), Place::new(0, &[2], 20_001, 0))
            };
            run::<f32>(f, adapter, &split(LOGSUMEXP, DType::F32), &places);
            let places = Places {
                upstream: Some(Place::new(0, &shape, 40_003, 0)),
                workspace: Some((0, 256 * 1000)),
                ..Places::new(x.clone(), y.clone())
            };
            run::<f32>(f, adapter, &split(SOFTMAX_BACKWARD, DType::F32), &places);
        }
    }
    failures.done();
}

#[test]
fn recordings_follow_each_other() {
    for adapter in adapters::all("recordings_follow_each_other") {
        let (gpu, context) = (adapter.gpu(), &adapter.context);
        let shape = [6, 77];
        let x: Vec<f32> = case_of(SOFTMAX, DType::F32, &shape, Fill::Ordinary).data().x;
        let options = SoftmaxOptions::default();
        let scaled = SoftmaxOptions { scale: 0.5, ..options };
        let forward = |x: &[f32], options: &SoftmaxOptions| {
            let input = SoftmaxInput::new(x, &shape);
            macheps::ops::softmax::forward(context, SoftmaxKind::Softmax, &input, options).unwrap()
        };
        let want = forward(&forward(&forward(&x, &options), &scaled), &scaled);

        let buffers = [buffer(gpu, bytes_of(&x)), buffer(gpu, &vec![0; x.len() * 4])];
        let view = |i: usize| BufferView::new(&buffers[i], DType::F32, &shape);
        let softmax = |options| Softmax::new(gpu, SoftmaxKind::Softmax, DType::F32, options).unwrap();
        let first = softmax(options).bind(&SoftmaxViews::new(view(0), view(1))).unwrap();
        let again = softmax(scaled).bind(&SoftmaxViews::new(view(1), view(1))).unwrap();
        assert_eq!(first.dispatches(), 1);
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        first.record(&mut encoder);
        again.record(&mut encoder);
        again.record(&mut encoder);
        gpu.queue().submit([encoder.finish()]);
        assert!(read(gpu, &buffers[1]) == bytes_of(&want), "{}: encoder", adapter.name);

        gpu.queue().write_buffer(&buffers[1], 0, &vec![0; x.len() * 4]);
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            first.record_pass(&mut pass);
            again.record_pass(&mut pass);
            again.record_pass(&mut pass);
        }
        gpu.queue().submit([encoder.finish()]);
        assert!(read(gpu, &buffers[1]) == bytes_of(&want), "{}: pass", adapter.name);
    }
}

macro_rules! refused {
    ($adapter:expr, $result:expr, $pattern:pat) => {
        match $result.map(|_| ()) {
            Err($pattern) => {}
            other => panic!(
                "{}, line {}: {other:?} in place of {}",
                $adapter.name,
                line!(),
                stringify!($pattern)
            ),
        }
    };
}

#[test]
fn errors_are_typed() {
    let adapters = adapters::all("errors_are_typed");
    for (i, adapter) in adapters.iter().enumerate() {
        let gpu = adapter.gpu();
        let f32s = |n: usize| buffer(gpu, &vec![0; 4 * n]);
        let (a, b) = (f32s(64), f32s(64));
        let view = |buffer: &wgpu::Buffer, shape: &[usize]| BufferView::new(buffer, DType::F32, shape);
        let new = |kind, options| Softmax::new(gpu, kind, DType::F32, options).unwrap();
        let softmax = new(SoftmaxKind::Softmax, SoftmaxOptions::default());
        let bind = |x: BufferView, y: BufferView| softmax.bind(&SoftmaxViews::new(x, y));
        let shape = [4, 8];

        // Shapes, storage types, strides and sizes of views.
        refused!(adapter, bind(view(&a, &shape), view(&b, &[4, 7])), Error::Shape { .. });
        refused!(adapter, bind(view(&a, &shape), view(&b, &[4])), Error::Shape { .. });
        refused!(adapter, bind(view(&a, &shape), view(&b, &[32])), Error::Shape { .. });
        let sums = new(SoftmaxKind::LogSumExp, SoftmaxOptions::default());
        let y = view(&b, &shape);
        refused!(
            adapter,
            sums.bind(&SoftmaxViews::new(view(&a, &shape), y)),
            Error::Shape { .. }
        );
        for shape_of_y in [vec![4], vec![4, 1]] {
            let views = SoftmaxViews::new(view(&a, &shape), view(&b, &shape_of_y));
            assert!(sums.bind(&views).is_ok(), "{shape_of_y:?}");
        }
        let halves = BufferView::new(&b, DType::F16, &shape);
        refused!(
            adapter,
            bind(view(&a, &shape), halves.clone()),
            Error::DTypeMismatch { what: "y", .. }
        );
        refused!(
            adapter,
            bind(halves, view(&a, &shape)),
            Error::DTypeMismatch { what: "x", .. }
        );
        refused!(
            adapter,
            bind(view(&a, &[4, 17]), view(&b, &[4, 17])),
            Error::Shape { .. }
        );
        refused!(
            adapter,
            bind(view(&a, &shape).at(33), view(&b, &shape)),
            Error::Shape { .. }
        );
        refused!(
            adapter,
            bind(view(&a, &shape).at(usize::MAX), view(&b, &shape)),
            Error::Shape { .. }
        );
        let far = view(&a, &shape).with_strides(&[usize::MAX / 2, 1]);
        refused!(adapter, bind(far, view(&b, &shape)), Error::Shape { .. });
        refused!(
            adapter,
            bind(view(&a, &shape).with_strides(&[1]), view(&b, &shape)),
            Error::Shape { .. }
        );
        refused!(adapter, bind(view(&a, &[]), view(&b, &[])), Error::Shape { .. });
        // An output of which two indices are the same element; an input may be so.
        refused!(
            adapter,
            bind(view(&a, &shape), view(&b, &shape).with_strides(&[0, 1])),
            Error::Shape { .. }
        );
        refused!(
            adapter,
            bind(view(&a, &shape), view(&b, &shape).with_strides(&[4, 1])),
            Error::Shape { .. }
        );
        assert!(bind(view(&a, &shape).with_strides(&[0, 1]), view(&b, &shape)).is_ok());

        // Overlap.
        refused!(
            adapter,
            bind(view(&a, &shape), view(&a, &shape).at(1)),
            Error::Aliased {
                first: "x",
                second: "y"
            }
        );
        refused!(
            adapter,
            bind(view(&a, &shape), view(&a, &shape).with_strides(&[1, 4])),
            Error::Aliased { .. }
        );
        assert!(bind(view(&a, &shape), view(&a, &shape).at(32)).is_ok());
        let masked = |mask: BufferView| {
            softmax.bind(&SoftmaxViews {
                mask: Some(mask),
                ..SoftmaxViews::new(view(&a, &shape), view(&b, &shape))
            })
        };
        refused!(
            adapter,
            masked(view(&b, &[8]).at(31)),
            Error::Aliased { first: "mask", .. }
        );
        for wrong in [vec![7], vec![3, 8], vec![1, 4, 8], vec![4]] {
            refused!(adapter, masked(view(&a, &wrong)), Error::Shape { .. });
        }
        let gradient = |upstream: BufferView, dx: BufferView| {
            softmax.bind_backward(&SoftmaxGradientViews {
                x: view(&a, &shape),
                upstream,
                dx,
                mask: None,
                workspace: None,
            })
        };
        let c = f32s(64);
        refused!(adapter, gradient(view(&c, &[4]), view(&b, &shape)), Error::Shape { .. });
        refused!(adapter, gradient(view(&c, &shape), view(&b, &[4])), Error::Shape { .. });
        refused!(
            adapter,
            gradient(view(&b, &shape), view(&b, &shape)),
            Error::Aliased { first: "upstream", .. }
        );

        // Buffers without STORAGE.
        let bare = gpu.device().create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: 256,
            usage: Usage::COPY_DST,
            mapped_at_creation: false,
        });
        refused!(
            adapter,
            bind(view(&bare, &shape), view(&b, &shape)),
            Error::BufferUsage { what: "x", .. }
        );
        refused!(
            adapter,
            bind(view(&a, &shape), view(&bare, &shape)),
            Error::BufferUsage { what: "y", .. }
        );

        // Options.
        let refuse_options = |options: SoftmaxOptions, shape: &[usize]| {
            Softmax::new(gpu, SoftmaxKind::Softmax, DType::F32, options)
                .and_then(|s| s.bind(&SoftmaxViews::new(view(&a, shape), view(&b, shape))))
        };
        let options = SoftmaxOptions::default();
        for scale in [f32::NAN, f32::INFINITY] {
            refused!(
                adapter,
                refuse_options(SoftmaxOptions { scale, ..options }, &shape),
                Error::Option { name: "scale", .. }
            );
        }
        for axis in [2, -3, isize::MIN, isize::MAX] {
            refused!(
                adapter,
                refuse_options(SoftmaxOptions { axis, ..options }, &shape),
                Error::Shape { .. }
            );
        }
        let causal = SoftmaxOptions {
            causal: Some(0),
            ..options
        };
        refused!(
            adapter,
            refuse_options(SoftmaxOptions { axis: 0, ..causal }, &shape),
            Error::Shape { .. }
        );
        refused!(adapter, refuse_options(causal, &[8]), Error::Shape { .. });

        // Strategies that do not serve.
        let long = f32s(2000);
        let long2 = f32s(2000);
        for (strategy, shape) in [(Strategy::Short, [1, 65]), (Strategy::OnChip, [1, 1025])] {
            let views = SoftmaxViews::new(view(&long, &shape), view(&long2, &shape));
            let forced = softmax.clone().with_strategy(strategy);
            refused!(adapter, forced.bind(&views), Error::Unsupported { .. });
            refused!(
                adapter,
                forced.workspace_size(&views.x, false),
                Error::Unsupported { .. }
            );
        }
        let turned = new(SoftmaxKind::Softmax, SoftmaxOptions { axis: 0, ..options });
        let views = SoftmaxViews::new(view(&a, &shape), view(&b, &shape));
        for strategy in [Strategy::OnChip, Strategy::Workgroup, Strategy::Online] {
            refused!(
                adapter,
                turned.clone().with_strategy(strategy).bind(&views),
                Error::Unsupported { .. }
            );
        }
        let online = softmax.clone().with_strategy(Strategy::Online);
        let views = SoftmaxGradientViews {
            x: view(&a, &shape),
            upstream: view(&c, &shape),
            dx: view(&b, &shape),
            mask: None,
            workspace: None,
        };
        refused!(adapter, online.bind_backward(&views), Error::Unsupported { .. });

        // Workspaces.
        let split = softmax.clone().with_strategy(Strategy::Split);
        let need = split.workspace_size(&view(&a, &shape), false).unwrap();
        assert!(need > 0 && softmax.workspace_size(&view(&a, &shape), false).unwrap() == 0);
        let with = |workspace: (wgpu::Buffer, u64)| {
            split.bind(&SoftmaxViews {
                workspace: Some(workspace),
                ..SoftmaxViews::new(view(&a, &shape), view(&b, &shape))
            })
        };
        let enough = f32s(need as usize / 4);
        assert!(with((enough.clone(), 0)).is_ok());
        refused!(adapter, with((f32s(need as usize / 4 - 1), 0)), Error::Shape { .. });
        refused!(adapter, with((enough.clone(), 256)), Error::Shape { .. });
        refused!(adapter, with((f32s(need as usize), 4)), Error::Shape { .. });
        refused!(adapter, with((enough, u64::MAX - 255)), Error::Shape { .. });
        refused!(
            adapter,
            with((bare.clone(), 0)),
            Error::BufferUsage { what: "workspace", .. }
        );
        // A workspace that lies on a tensor.
        let pool = f32s(need as usize);
        let on_pool = |x: BufferView, y: BufferView| {
            split.bind(&SoftmaxViews {
                workspace: Some((pool.clone(), 0)),
                ..SoftmaxViews::new(x, y)
            })
        };
        refused!(
            adapter,
            on_pool(view(&pool, &shape), view(&b, &shape)),
            Error::Aliased { .. }
        );
        refused!(
            adapter,
            on_pool(view(&a, &shape), view(&pool, &shape).at(8)),
            Error::Aliased { .. }
        );

        // One-shots and tensors.
        let context = &adapter.context;
        let x = [0.0f32; 32];
        refused!(adapter, macheps::softmax(context, &x, &[4, 7]), Error::Shape { .. });
        refused!(
            adapter,
            macheps::softmax(context, &x, &[usize::MAX, 8]),
            Error::Shape { .. }
        );
        let input = SoftmaxInput::new(&x, &shape);
        for (kind, len) in [(SoftmaxKind::Softmax, 31), (SoftmaxKind::LogSumExp, 32)] {
            let result = macheps::ops::softmax::backward(context, kind, &input, &x[..len], &options);
            refused!(adapter, result, Error::Shape { .. });
        }
        let mask = macheps::ops::softmax::Mask {
            values: &x[..8],
            shape: &[4, 2],
        };
        let input = SoftmaxInput {
            mask: Some(mask),
            ..input
        };
        let result = macheps::ops::softmax::forward(context, SoftmaxKind::Softmax, &input, &options);
        refused!(adapter, result, Error::Shape { .. });
        let other = match adapters.get((i + 1) % adapters.len()) {
            Some(next) if adapters.len() > 1 => next.context.clone(),
            _ => macheps::Context::cpu(),
        };
        for foreign in [other, macheps::Context::cpu()] {
            let tensor = foreign.upload(&x, &shape).unwrap();
            let own = context.upload(&x, &shape).unwrap();
            let mut chain = context.chain();
            refused!(
                adapter,
                chain.softmax(SoftmaxKind::Softmax, &tensor, None, &options),
                Error::Unsupported { .. }
            );
            refused!(
                adapter,
                chain.softmax(SoftmaxKind::Softmax, &own, Some(&tensor), &options),
                Error::Unsupported { .. }
            );
            let mut chain = foreign.chain();
            refused!(
                adapter,
                chain.softmax(SoftmaxKind::Softmax, &own, None, &options),
                Error::Unsupported { .. }
            );
        }
    }
}
