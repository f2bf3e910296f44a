//! The command line, as clap sees it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use macheps::DType;

/// Numerics on the GPU that stay right: list devices, probe their arithmetic, verify and time the kernels, run them on files.
#[derive(Debug, Parser)]
#[command(
    name = "macheps",
    version,
    max_term_width = 110,
    after_help = "Without a command: lists the devices, verifies every kernel and runs a quick bench on the default device.\n\
                  Exit code: 0 fine, 1 a check failed, 2 wrong usage or input."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the devices and say which one is the default, and why
    Devices {
        #[command(flatten)]
        json: JsonOption,
    },
    /// Report a device's arithmetic: accuracy of its builtins and of ours, fma, subnormals, NaN, loop limit, ...
    Probe {
        #[command(flatten)]
        device: DeviceOption,
        #[command(flatten)]
        json: JsonOption,
    },
    /// Compare every kernel with the reference within its stated bound
    Verify {
        /// auto, cpu, gpu, an index or a part of a name from `macheps devices`, or all
        #[arg(long, value_name = "D", default_value = "auto")]
        device: String,
        /// Only this operation
        #[arg(long, value_name = "NAME")]
        op: Option<String>,
        #[command(flatten)]
        json: JsonOption,
    },
    /// Time the kernels against the device's own copy speed
    Bench(BenchArgs),
    /// Run one operation on files
    Run(RunArgs),
    /// Solve A x = b and say how far to trust the answer
    Solve(SolveArgs),
    /// Count NaN, infinities, zeros, subnormals and exponents of tensors, and what f16 and bf16 would make of them
    Audit(AuditArgs),
}

#[derive(Debug, Args)]
pub struct DeviceOption {
    /// auto, cpu, gpu, or an index or a part of a name from `macheps devices`
    #[arg(long, value_name = "D", default_value = "auto")]
    pub device: String,
}

#[derive(Debug, Args)]
pub struct JsonOption {
    /// Write the results as JSON; `-` prints JSON alone on stdout
    #[arg(long, value_name = "FILE|-")]
    pub json: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(flatten)]
    pub device: DeviceOption,
    /// Only this operation
    #[arg(long, value_name = "NAME")]
    pub op: Option<String>,
    /// Few cases, short runs
    #[arg(long)]
    pub quick: bool,
    #[command(flatten)]
    pub json: JsonOption,
    /// Write the results as CSV
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Write a bar chart of GB/s against the device's copy speed
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Compare with an earlier run's JSON
    #[arg(long, value_name = "OLD.json")]
    pub compare: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "SRC is x.safetensors (all its tensors), x.safetensors#name, x.npz#name or x.npy.\n\
                        Exit code 1 if any tensor holds a NaN or an infinity."
)]
pub struct AuditArgs {
    /// Files, or tensors in them
    #[arg(required = true, value_name = "SRC")]
    pub sources: Vec<String>,
    #[command(flatten)]
    pub device: DeviceOption,
    #[command(flatten)]
    pub json: JsonOption,
    /// Draw a histogram of the exponents
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "SRC is x.npy, x.npz#name, x.safetensors#name or a Matrix Market array file (x.mtx, x.mtx.gz); DST is y.npy or\n\
                        y.safetensors#name, and never a file that is read.\n\
                        softmax, log_softmax: input x, optional mask (additive, broadcast) and upstream; output y, grad;\n\
                        \x20   settings axis=-1, scale=1, causal=false, masked=nan|zero, upstream=1\n\
                        logsumexp: the same, and axes=0,2 in place of axis, keepdims=false\n\
                        cross_entropy: input x [N, C, ..], target (labels) or target_probs, optional weight [C], upstream; output loss, log_prob, grad;\n\
                        \x20   settings ignore_index=-100, label_smoothing=0, z_loss=0, reduction=none|mean|sum, upstream=1\n\
                        nll_loss: the same of log-probabilities, with labels, without log_prob, label_smoothing and z_loss\n\
                        bce_with_logits: input x, target, optional weight, pos_weight (broadcast) and upstream; output loss, grad;\n\
                        \x20   settings reduction=none|mean|sum (mean), upstream=1\n\
                        sigmoid, log_sigmoid, softplus: input x, optional upstream; output y, grad; setting upstream=1\n\
                        sum, mean, variance, std, norm, dot, min, max, argmin, argmax, sum_square, log_sum: input x, optional upstream\n\
                        \x20   (dot: and x2); output y, grad; settings axes (all), keepdims=false, correction=1 (variance, std),\n\
                        \x20   ord=1|2|inf (norm), mode=pairwise|compensated|reproducible (sum, mean, dot), upstream=1\n\
                        layer_norm: input x, optional weight, bias and upstream; output y, grad; settings eps=1e-5, upstream=1\n\
                        rms_norm: the same without bias; eps=1e-6\n\
                        unscale: inputs g0, g1, ..; outputs of the same names, norm, found_nonfinite; settings scale=1, max_norm\n\
                        prune: input x; output mask, threshold, A=a.mtx (of a matrix x); setting sparsity, from 0 to 1\n\
                        spmv: input A (a.mtx, a.mtx.gz), x (also an array file b.mtx), optional y0; output y; settings alpha=1, beta=0,\n\
                        \x20   transpose=false; --dtype is that of A, vectors are f32\n\
                        spmm: the same with x [n, k], y0 [m, k]"
)]
pub struct RunArgs {
    /// The operation, one of those below
    pub op: String,
    /// An input: NAME=SRC
    #[arg(long = "input", value_name = "NAME=SRC")]
    pub inputs: Vec<String>,
    /// An output to write: NAME=DST
    #[arg(long = "output", value_name = "NAME=DST")]
    pub outputs: Vec<String>,
    /// A setting: KEY=VALUE
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub settings: Vec<String>,
    /// Storage type the kernel runs with: f32, f16 or bf16; default is that of x
    #[arg(long, value_name = "TYPE", value_parser = dtype)]
    pub dtype: Option<DType>,
    #[command(flatten)]
    pub device: DeviceOption,
    /// Compare with the CPU reference within the stated bound; exit 1 on a mismatch
    #[arg(long)]
    pub check: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "MATRIX is a Matrix Market file, a.mtx or a.mtx.gz. SRC is x.npy, x.npz#name, x.safetensors#name or a Matrix Market array file.\n\
                        The residual is judged in f64 with the matrix as given. The bound of the forward error is made of estimates. Rows are\n\
                        counted from 0. Exit code 1 if the tolerance was not reached; outputs are written all\n\
                        the same."
)]
pub struct SolveArgs {
    /// The matrix A
    pub matrix: String,
    /// The right-hand side b: a file, or ones
    #[arg(long, value_name = "SRC|ones", default_value = "ones")]
    pub rhs: String,
    /// Where to begin; zeros if not given
    #[arg(long, value_name = "SRC")]
    pub x0: Option<String>,
    /// The method
    #[arg(long, value_enum, default_value_t = Method::Cg)]
    pub method: Method,
    /// Factor of relaxation, between 0 and 2: of jacobi and --precond ssor (1 by default) and of sor (1.5)
    #[arg(long, value_name = "W", allow_hyphen_values = true)]
    pub omega: Option<f64>,
    /// The preconditioner of cg; jacobi by default
    #[arg(long, value_enum)]
    pub precond: Option<Precond>,
    /// Correct the answer with residuals in f64 until the tolerance is reached
    #[arg(long)]
    pub refine: bool,
    /// Solve (A + LAMBDA I) x = b, LAMBDA >= 0 (Tikhonov)
    #[arg(long, value_name = "LAMBDA", allow_hyphen_values = true)]
    pub shift: Option<f64>,
    /// Relative residual to stop at
    #[arg(long, value_name = "R", default_value_t = 1e-6, allow_hyphen_values = true)]
    pub rtol: f64,
    /// The most iterations; 10 for each row, up to 100000, by default
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub max_iter: Option<usize>,
    /// Storage type of the matrix on a device: f32, f16 or bf16
    #[arg(long, value_name = "TYPE", value_parser = dtype)]
    pub dtype: Option<DType>,
    #[command(flatten)]
    pub device: DeviceOption,
    /// Write x, in f64
    #[arg(long, value_name = "FILE.npy")]
    pub output: Option<String>,
    #[command(flatten)]
    pub json: JsonOption,
    /// Draw the residual over the iterations
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,
}

/// What solves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Method {
    /// Conjugate gradients, for symmetric positive definite matrices
    Cg,
    /// Jacobi's iteration
    Jacobi,
    /// The iteration of Gauss and Seidel
    GaussSeidel,
    /// Successive over-relaxation
    Sor,
}

impl Method {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Method::Cg => "cg",
            Method::Jacobi => "jacobi",
            Method::GaussSeidel => "gauss-seidel",
            Method::Sor => "sor",
        }
    }
}

/// What makes conjugate gradients faster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Precond {
    /// Nothing
    None,
    /// The diagonal
    Jacobi,
    /// Symmetric successive over-relaxation
    Ssor,
    /// Incomplete Cholesky factors without fill
    Ic0,
}

impl Precond {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Precond::None => "none",
            Precond::Jacobi => "jacobi",
            Precond::Ssor => "ssor",
            Precond::Ic0 => "ic0",
        }
    }
}

fn dtype(text: &str) -> Result<DType, String> {
    text.parse().map_err(|_| "expected f32, f16 or bf16".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn reads_a_run() {
        let cli = Cli::try_parse_from([
            "macheps", "run", "softmax", "--input", "x=a.npy", "--set", "axis=-1", "--dtype", "bf16", "--check",
        ])
        .unwrap();
        let Some(Command::Run(run)) = cli.command else {
            panic!("{cli:?}")
        };
        assert_eq!(
            (run.op.as_str(), run.dtype, run.check),
            ("softmax", Some(DType::Bf16), true)
        );
        assert_eq!(
            (run.inputs, run.settings),
            (vec!["x=a.npy".to_string()], vec!["axis=-1".to_string()])
        );
        assert!(Cli::try_parse_from(["macheps", "run", "softmax", "--dtype", "f64"]).is_err());
        assert!(Cli::try_parse_from(["macheps"]).unwrap().command.is_none());
    }
}
