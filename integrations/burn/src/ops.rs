//! The operations as Burn's dispatch sees them, and how they differentiate.

use crate::{SparseMatrix, cross_entropy, softmax, sparse};
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
#[cfg(feature = "fusion")]
use burn::backend::fusion::custom::TensorSpec;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Backend, ExtensionType, backend_extension};
#[cfg(feature = "fusion")]
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use macheps::{CrossEntropyOptions, Error, Result, SoftmaxKind, SoftmaxOptions};

/// How much the classes weigh in a loss.
#[derive(Clone, Debug, ExtensionType)]
#[extension_type(fusion: cfg(feature = "fusion"))]
pub enum Weights<B: Backend> {
    /// All alike.
    Equal,
    /// One weight a class, f32; not differentiated.
    Given(FloatTensor<B>),
}

/// What is differentiable. The functions of this crate call these on Burn's `Dispatch`; they check what they are given, these do not.
#[backend_extension(Cube, Autodiff, Fusion: cfg(feature = "fusion"))]
pub trait MachepsOps: Backend {
    /// Softmax or log-softmax.
    #[fusion(dtype = x, shape = x)]
    fn macheps_softmax(x: FloatTensor<Self>, kind: SoftmaxKind, options: SoftmaxOptions) -> FloatTensor<Self>;

    /// Cross-entropy: f32, one value a row or one in all.
    #[fusion(dtype = DType::F32, shape = cross_entropy::shape_of_losses(x, options))]
    fn macheps_cross_entropy(
        x: FloatTensor<Self>,
        labels: IntTensor<Self>,
        #[extension_type] weight: Weights<Self>,
        options: CrossEntropyOptions,
    ) -> FloatTensor<Self>;

    /// A sparse matrix times columns.
    #[fusion(dtype = x, shape = sparse::shape_of_product(&matrix.product, x))]
    fn macheps_spmm(x: FloatTensor<Self>, matrix: SparseMatrix) -> FloatTensor<Self>;
}

/// What the backward passes are made of.
#[backend_extension(Cube, Fusion: cfg(feature = "fusion"))]
pub trait MachepsGradients: MachepsOps {
    /// The gradient of softmax or log-softmax with respect to its input.
    #[fusion(dtype = x, shape = x)]
    fn macheps_softmax_gradient(
        x: FloatTensor<Self>,
        upstream: FloatTensor<Self>,
        kind: SoftmaxKind,
        options: SoftmaxOptions,
    ) -> FloatTensor<Self>;

    /// Cross-entropy, and what the rows come to, for the gradient later.
    #[fusion(meta = |x, _labels, _weight, options| {
        let losses = cross_entropy::shape_of_losses(&x.shape, options);
        let sums = cross_entropy::shape_of_sums(&x.shape);
        (TensorSpec::new(losses, DType::F32), TensorSpec::new(sums, DType::F32))
    })]
    fn macheps_cross_entropy_kept(
        x: FloatTensor<Self>,
        labels: IntTensor<Self>,
        #[extension_type] weight: Weights<Self>,
        options: CrossEntropyOptions,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// The gradient of cross-entropy with respect to the logits, from what the rows came to.
    #[fusion(dtype = x, shape = x)]
    fn macheps_cross_entropy_gradient(
        x: FloatTensor<Self>,
        labels: IntTensor<Self>,
        #[extension_type] weight: Weights<Self>,
        sums: FloatTensor<Self>,
        upstream: FloatTensor<Self>,
        options: CrossEntropyOptions,
    ) -> FloatTensor<Self>;

    /// The transpose of a sparse matrix times columns.
    #[fusion(dtype = x, shape = sparse::shape_of_product(&matrix.transpose, x))]
    fn macheps_spmm_transposed(x: FloatTensor<Self>, matrix: SparseMatrix) -> FloatTensor<Self>;
}

/// Burn's operations return tensors and nothing else.
fn done<T>(result: Result<T>) -> T {
    result.unwrap_or_else(|error: Error| panic!("macheps: {error}"))
}

impl MachepsOps for CubeBackend {
    fn macheps_softmax(x: FloatTensor<Self>, kind: SoftmaxKind, options: SoftmaxOptions) -> FloatTensor<Self> {
        done(softmax::forward(x, kind, options))
    }

    fn macheps_cross_entropy(
        x: FloatTensor<Self>,
        labels: IntTensor<Self>,
        weight: Weights<Self>,
        options: CrossEntropyOptions,
    ) -> FloatTensor<Self> {
        done(cross_entropy::loss(x, labels, weight, options))
    }

    fn macheps_spmm(x: FloatTensor<Self>, matrix: SparseMatrix) -> FloatTensor<Self> {
        done(sparse::product(&matrix.product, x))
    }
}

impl MachepsGradients for CubeBackend {
    fn macheps_softmax_gradient(
        x: FloatTensor<Self>,
        upstream: FloatTensor<Self>,
        kind: SoftmaxKind,
        options: SoftmaxOptions,
    ) -> FloatTensor<Self> {
        done(softmax::backward(x, upstream, kind, options))
    }

    fn macheps_cross_entropy_kept(
        x: FloatTensor<Self>,
        labels: IntTensor<Self>,
        weight: Weights<Self>,
        options: CrossEntropyOptions,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        done(cross_entropy::loss_and_sums(x, labels, weight, options))
    }

    fn macheps_cross_entropy_gradient(
        x: FloatTensor<Self>,
        labels: IntTensor<Self>,
        weight: Weights<Self>,
        sums: FloatTensor<Self>,
        upstream: FloatTensor<Self>,
        options: CrossEntropyOptions,
    ) -> FloatTensor<Self> {
        done(cross_entropy::gradient(x, labels, weight, sums, upstream, options))
    }

    fn macheps_spmm_transposed(x: FloatTensor<Self>, matrix: SparseMatrix) -> FloatTensor<Self> {
        done(sparse::product(&matrix.transpose, x))
    }
}

impl<B: MachepsGradients, C: CheckpointStrategy> MachepsOps for Autodiff<B, C> {
    fn macheps_softmax(x: FloatTensor<Self>, kind: SoftmaxKind, options: SoftmaxOptions) -> FloatTensor<Self> {
        match SoftmaxStep.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(step) => {
                let x = x.into_primitive();
                let y = B::macheps_softmax(x.clone(), kind, options);
                step.finish((x, kind, options), y)
            }
            OpsKind::UnTracked(step) => step.finish(B::macheps_softmax(x.into_primitive(), kind, options)),
        }
    }

    fn macheps_cross_entropy(
        x: FloatTensor<Self>,
        labels: IntTensor<Self>,
        weight: Weights<Self>,
        options: CrossEntropyOptions,
    ) -> FloatTensor<Self> {
        let weight = match weight {
            Weights::Given(weight) => Weights::Given(weight.into_primitive()),
            Weights::Equal => Weights::Equal,
        };
        match CrossEntropyStep.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(step) => {
                let x = x.into_primitive();
                let (loss, sums) = B::macheps_cross_entropy_kept(x.clone(), labels.clone(), weight.clone(), options);
                let state = CrossEntropyState {
                    x,
                    labels,
                    weight,
                    sums,
                    options,
                };
                step.finish(state, loss)
            }
            OpsKind::UnTracked(step) => {
                step.finish(B::macheps_cross_entropy(x.into_primitive(), labels, weight, options))
            }
        }
    }

    fn macheps_spmm(x: FloatTensor<Self>, matrix: SparseMatrix) -> FloatTensor<Self> {
        match SpmmStep.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(step) => {
                let y = B::macheps_spmm(x.into_primitive(), matrix.clone());
                step.finish(matrix, y)
            }
            OpsKind::UnTracked(step) => step.finish(B::macheps_spmm(x.into_primitive(), matrix)),
        }
    }
}

/// From the input: nothing else is kept.
#[derive(Debug)]
struct SoftmaxStep;

impl<B: MachepsGradients> Backward<B, 1> for SoftmaxStep {
    type State = (FloatTensor<B>, SoftmaxKind, SoftmaxOptions);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (x, kind, options) = ops.state;
        unary::<B, _>(ops.parents, ops.node, grads, |upstream| {
            B::macheps_softmax_gradient(x, upstream, kind, options)
        });
    }
}

#[derive(Debug)]
struct CrossEntropyStep;

/// What was given, and what the rows came to: 32 bytes each.
#[derive(Clone, Debug)]
struct CrossEntropyState<B: Backend> {
    x: FloatTensor<B>,
    labels: IntTensor<B>,
    weight: Weights<B>,
    sums: FloatTensor<B>,
    options: CrossEntropyOptions,
}

impl<B: MachepsGradients> Backward<B, 1> for CrossEntropyStep {
    type State = CrossEntropyState<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let kept = ops.state;
        unary::<B, _>(ops.parents, ops.node, grads, |upstream| {
            B::macheps_cross_entropy_gradient(kept.x, kept.labels, kept.weight, kept.sums, upstream, kept.options)
        });
    }
}

#[derive(Debug)]
struct SpmmStep;

impl<B: MachepsGradients> Backward<B, 1> for SpmmStep {
    type State = SparseMatrix;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let matrix = ops.state;
        unary::<B, _>(ops.parents, ops.node, grads, |upstream| {
            B::macheps_spmm_transposed(upstream, matrix)
        });
    }
}
