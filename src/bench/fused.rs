//! Cross-entropy with its gradient in one go, and the same by operations that know nothing of each other: log-softmax, the loss
//! of log-probabilities with its gradient, and the gradient of log-softmax. Their times in one run are what fusing is worth.

use super::{Call, Prepared, Preparing, Workload};
use crate::context::{Context, CrossCheck};
use crate::element::DType;
use crate::error::Result;
use crate::gpu::{BufferView, Gpu, Recording};
use crate::ops::cross_entropy::{
    CrossEntropy, CrossEntropyInput, CrossEntropyOptions, CrossEntropyViews, LossKind, TargetView,
    cross_entropy_with_gradient_async,
};
use crate::ops::softmax::{Softmax, SoftmaxGradientViews, SoftmaxInput, SoftmaxKind, SoftmaxOptions, SoftmaxViews};
use crate::verify::shape_text;
use futures::FutureExt;

/// One of the two ways, for logits of this shape.
pub(super) struct FusedLoss {
    pub fused: bool,
    pub shape: Vec<usize>,
}

/// Both ways at every shape, next to each other.
pub(super) fn cases(quick: bool) -> Vec<FusedLoss> {
    let shapes: &[&[usize]] = if quick {
        &[&[4096, 1024], &[32, 10]]
    } else {
        &[
            &[4096, 1024],
            &[64, 128_256],
            &[65_536, 64],
            &[2, 1_048_576],
            &[32, 10],
            &[1, 1000],
            &[512, 1000],
            &[8, 21, 128, 128],
        ]
    };
    let both = |shape: &&[usize]| {
        [true, false].map(|fused| FusedLoss {
            fused,
            shape: shape.to_vec(),
        })
    };
    shapes.iter().flat_map(both).collect()
}

impl FusedLoss {
    fn rows(&self) -> usize {
        self.shape.iter().product::<usize>() / self.shape[1]
    }

    fn logits(&self) -> Vec<f32> {
        let count: usize = self.shape.iter().product();
        (0..count)
            .map(|i| (i % 8191 * 7919 % 8191) as f32 * 1e-3 - 4.0)
            .collect()
    }

    fn labels(&self) -> Vec<i32> {
        (0..self.rows()).map(|row| (row * 7 % self.shape[1]) as i32).collect()
    }

    fn on_gpu(&self, gpu: &Gpu) -> Result<Recording> {
        use wgpu::BufferUsages as U;
        let bytes = self.shape.iter().product::<usize>() as u64 * 4;
        let x = gpu.upload("x", bytemuck::cast_slice(&self.logits()))?;
        let labels = gpu.upload("labels", bytemuck::cast_slice(&self.labels()))?;
        let loss = gpu.create_buffer("loss", 4, U::STORAGE)?;
        let tensor = |label| {
            let buffer = gpu.create_buffer(label, bytes, U::STORAGE)?;
            Ok::<_, crate::error::Error>(BufferView::new(&buffer, DType::F32, &self.shape))
        };
        let x = BufferView::new(&x, DType::F32, &self.shape);
        let target = TargetView::Labels {
            buffer: labels,
            offset: 0,
        };
        let bind = |kind, x: &BufferView, grad: &BufferView| {
            let views = CrossEntropyViews {
                loss: Some(BufferView::new(&loss, DType::F32, &[])),
                grad: Some(grad.clone()),
                ..CrossEntropyViews::new(x.clone(), target.clone())
            };
            let bound = CrossEntropy::new(gpu, kind, DType::F32, CrossEntropyOptions::default())?.bind(&views)?;
            Ok::<_, crate::error::Error>(bound.into_recording())
        };
        let dx = tensor("dx")?;
        if self.fused {
            return bind(LossKind::CrossEntropy, &x, &dx);
        }
        let options = SoftmaxOptions {
            axis: 1,
            ..Default::default()
        };
        let softmax = Softmax::new(gpu, SoftmaxKind::LogSoftmax, DType::F32, options)?;
        let (log_prob, upstream) = (tensor("log_prob")?, tensor("upstream")?);
        let forward = softmax.bind(&SoftmaxViews::new(x.clone(), log_prob.clone()))?;
        let nll = bind(LossKind::NllLoss, &log_prob, &upstream)?;
        let backward = softmax.bind_backward(&SoftmaxGradientViews {
            x,
            upstream,
            dx,
            mask: None,
            workspace: None,
        })?;
        let mut all = forward.into_recording();
        all.label = "cross_entropy_unfused";
        all.steps.extend(nll.steps);
        all.steps.extend(backward.into_recording().steps);
        Ok(all)
    }

    fn on_cpu(&self) -> Call {
        let (x, labels, shape, fused) = (self.logits(), self.labels(), self.shape.clone(), self.fused);
        // The CPU path computes in the first poll.
        let context = Context::cpu();
        Box::new(move || {
            let options = CrossEntropyOptions::default();
            let input = CrossEntropyInput::new(&x, &shape, &labels);
            if fused {
                let both = cross_entropy_with_gradient_async(&context, &input, None, &options);
                std::hint::black_box(both.now_or_never());
                return;
            }
            let unfused = async {
                let (kind, along) = (
                    SoftmaxKind::LogSoftmax,
                    SoftmaxOptions {
                        axis: 1,
                        ..Default::default()
                    },
                );
                let logits = SoftmaxInput::new(&x, &shape);
                let log_prob = crate::ops::softmax::forward_async(&context, kind, &logits, &along).await?;
                let picked = CrossEntropyInput { x: &log_prob, ..input };
                let (loss, upstream) =
                    crate::ops::cross_entropy::nll_loss_with_gradient_async(&context, &picked, None, &options).await?;
                let dx = crate::ops::softmax::backward_async(&context, kind, &logits, &upstream, &along).await?;
                Ok::<_, crate::error::Error>((loss, dx))
            };
            std::hint::black_box(unfused.now_or_never());
        })
    }
}

impl Workload for FusedLoss {
    fn op(&self) -> &'static str {
        if self.fused {
            "cross_entropy_fused"
        } else {
            "cross_entropy_unfused"
        }
    }

    fn shape(&self) -> String {
        shape_text(&self.shape)
    }

    fn dtype(&self) -> DType {
        DType::F32
    }

    fn bytes(&self) -> u64 {
        (self.shape.iter().product::<usize>() * 8 + self.rows() * 4 + 4) as u64
    }

    fn prepare_async<'a>(&'a self, context: &'a Context) -> Preparing<'a> {
        Box::pin(async move {
            let (x, labels) = (self.logits(), self.labels());
            let input = CrossEntropyInput::new(&x, &self.shape, &labels);
            let checked = context.clone().with_cross_check(CrossCheck::Sampled);
            let options = CrossEntropyOptions::default();
            cross_entropy_with_gradient_async(&checked, &input, None, &options).await?;
            match context.gpu() {
                Some(gpu) => Ok(Prepared::Gpu(gpu.clone(), self.on_gpu(gpu)?)),
                None => Ok(Prepared::Cpu(self.on_cpu())),
            }
        })
    }
}
