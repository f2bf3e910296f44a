//! The one error type of the crate.

use crate::element::DType;

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, named by what, where and what was expected.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No adapter matches the request; `available` lists what there is.
    #[error("no device matches '{wanted}'; there is: {available}")]
    NoDevice {
        /// What was asked for.
        wanted: String,
        /// The devices found, each as `index: name`.
        available: String,
    },
    /// The adapter refused to open a device.
    #[error("device '{adapter}' could not be opened: {reason}")]
    DeviceRequest {
        /// Name of the adapter.
        adapter: String,
        /// The driver's words.
        reason: String,
    },
    /// The request is valid, but this device or form of call cannot serve it.
    #[error("{what} is not supported: {reason}")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// Why not, and what to do instead.
        reason: String,
    },
    /// A limit of the device or of the crate is exceeded.
    #[error("{what}: needs {need}, the limit is {have}")]
    Limit {
        /// Which limit.
        what: &'static str,
        /// What the call needs.
        need: u64,
        /// What there is.
        have: u64,
    },
    /// A shape, stride, axis or length does not fit.
    #[error("{what}: expected {expected}, got {got}")]
    Shape {
        /// Which argument.
        what: String,
        /// What would have been right.
        expected: String,
        /// What came.
        got: String,
    },
    /// An option has a value outside its domain.
    #[error("option {name}: expected {expected}, got {got}")]
    Option {
        /// Name of the option.
        name: &'static str,
        /// The domain.
        expected: &'static str,
        /// What came.
        got: String,
    },
    /// A class label is not one of the classes.
    #[error("label {index} is {label}, expected one of {classes} classes{}", ignore_index.map_or(String::new(), |i| format!(" or the ignored {i}")))]
    Label {
        /// Flat index of the label.
        index: usize,
        /// The label.
        label: i64,
        /// Number of classes.
        classes: usize,
        /// The label that is ignored.
        ignore_index: Option<i64>,
    },
    /// Two tensors have different storage types where one was expected.
    #[error("{what}: expected storage type {expected}, got {got}")]
    DTypeMismatch {
        /// Which argument.
        what: &'static str,
        /// The type expected.
        expected: DType,
        /// The type that came.
        got: DType,
    },
    /// Two views of a call overlap although one of them is written.
    #[error("views {first} and {second} overlap in one buffer")]
    Aliased {
        /// Name of the first view.
        first: &'static str,
        /// Name of the second view.
        second: &'static str,
    },
    /// A buffer was not created with the usages that the call needs.
    #[error("buffer for {what} lacks usage {needed}")]
    BufferUsage {
        /// Which argument.
        what: &'static str,
        /// The missing usages.
        needed: String,
    },
    /// Cross-check: GPU and CPU disagree by more than the stated bound.
    #[error(
        "{kernel}: element {index} is {gpu:e} on the GPU and {cpu:e} on the CPU, which differ by more than the bound {bound:e}"
    )]
    Mismatch {
        /// The operation.
        kernel: &'static str,
        /// Flat index of the element in the output.
        index: usize,
        /// The GPU's result.
        gpu: f64,
        /// The CPU's result.
        cpu: f64,
        /// The bound on their difference.
        bound: f64,
    },
    /// Gradient check: an element of a gradient does not agree with the difference quotient.
    #[error(
        "gradient element {index}: given {analytic:e}, by differences {numeric:e}, tolerance {tolerance:e}: {verdict}"
    )]
    Gradient {
        /// Index of the input, or of the direction.
        index: usize,
        /// The gradient as given.
        analytic: f64,
        /// The difference quotient.
        numeric: f64,
        /// What they may differ by.
        tolerance: f64,
        /// `differs`, `unresolved` or `not finite`.
        verdict: &'static str,
    },
    /// The device was lost or destroyed.
    #[error("the device was lost: {reason}")]
    DeviceLost {
        /// The driver's words, as far as there are any.
        reason: String,
    },
    /// The device did not finish in time.
    #[error("the device did not finish within {seconds} s")]
    Timeout {
        /// The time allowed.
        seconds: f64,
    },
    /// wgpu refused a shader, a pipeline or a command; a bug in this crate or in the driver.
    #[error("wgpu: {0}")]
    Wgpu(String),
}

impl Error {
    /// Shape error with formatted parts.
    pub(crate) fn shape(what: impl Into<String>, expected: impl Into<String>, got: impl Into<String>) -> Self {
        Error::Shape {
            what: what.into(),
            expected: expected.into(),
            got: got.into(),
        }
    }
}
