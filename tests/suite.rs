//! The one test binary: every module is a file of tests/suite. Modules named `gpu_*` run on every adapter found.

#[path = "suite/activation.rs"]
mod activation;
#[path = "suite/adapters.rs"]
mod adapters;
#[path = "suite/audit.rs"]
mod audit;
#[path = "suite/backward.rs"]
mod backward;
#[cfg(feature = "cli")]
#[path = "suite/cli.rs"]
mod cli;
#[cfg(feature = "cli")]
#[path = "suite/cli_mistakes.rs"]
mod cli_mistakes;
#[cfg(feature = "cli")]
#[path = "suite/cli_solve.rs"]
mod cli_solve;
#[path = "suite/conformance.rs"]
mod conformance;
#[path = "suite/layer_norm.rs"]
mod cpu_layer_norm;
#[path = "suite/cpu_softmax.rs"]
mod cpu_softmax;
#[path = "suite/cross_entropy.rs"]
mod cross_entropy;
#[path = "suite/data.rs"]
mod data;
#[path = "suite/extremes.rs"]
mod extremes;
#[path = "suite/float.rs"]
mod float;
#[path = "suite/gpu_activation.rs"]
mod gpu_activation;
#[path = "suite/gpu_audit.rs"]
mod gpu_audit;
#[path = "suite/gpu_beyond_a_buffer.rs"]
mod gpu_beyond_a_buffer;
#[path = "suite/gpu_chains.rs"]
mod gpu_chains;
#[path = "suite/gpu_conjugate_gradient.rs"]
mod gpu_conjugate_gradient;
#[path = "suite/gpu_cross_entropy.rs"]
mod gpu_cross_entropy;
#[path = "suite/gpu_eigenvalues.rs"]
mod gpu_eigenvalues;
#[path = "suite/elementary.rs"]
mod gpu_elementary;
#[path = "suite/gpu_extremes.rs"]
mod gpu_extremes;
#[path = "suite/gpu_gradcheck.rs"]
mod gpu_gradcheck;
#[path = "suite/gpu_layer_norm.rs"]
mod gpu_layer_norm;
#[path = "suite/gpu_mixed_precision.rs"]
mod gpu_mixed_precision;
#[path = "suite/gpu_pagerank.rs"]
mod gpu_pagerank;
#[path = "suite/planted.rs"]
mod gpu_planted;
#[path = "suite/probe.rs"]
mod gpu_probe;
#[path = "suite/gpu_prune.rs"]
mod gpu_prune;
#[path = "suite/gpu_reduction.rs"]
mod gpu_reduction;
#[path = "suite/gpu_reduction_gradient.rs"]
mod gpu_reduction_gradient;
#[path = "suite/gpu_relaxation.rs"]
mod gpu_relaxation;
#[path = "suite/gpu_reproducible.rs"]
mod gpu_reproducible;
#[path = "suite/robust.rs"]
mod gpu_robust;
#[path = "suite/gpu_softmax.rs"]
mod gpu_softmax;
#[path = "suite/gpu_spmv.rs"]
mod gpu_spmv;
#[path = "suite/gpu_stencil.rs"]
mod gpu_stencil;
#[path = "suite/gpu_views.rs"]
mod gpu_views;
#[path = "suite/gpu_windows.rs"]
mod gpu_windows;
#[path = "suite/gpus.rs"]
mod gpus;
#[path = "suite/gradcheck.rs"]
mod gradcheck;
#[path = "suite/hard_rows.rs"]
mod hard_rows;
#[path = "suite/house.rs"]
mod house;
#[path = "suite/mixed_precision.rs"]
mod mixed_precision;
#[path = "suite/onnx.rs"]
mod onnx;
#[path = "suite/operators.rs"]
mod operators;
#[path = "suite/reduction.rs"]
mod reduction;
#[path = "suite/relaxation.rs"]
mod relaxation;
#[path = "suite/reproducible.rs"]
mod reproducible;
#[path = "suite/shaders.rs"]
mod shaders;
#[path = "suite/solve_host.rs"]
mod solve_host;
#[path = "suite/sparse.rs"]
mod sparse;
#[path = "suite/spmv.rs"]
mod spmv;
#[path = "suite/stencil.rs"]
mod stencil;
