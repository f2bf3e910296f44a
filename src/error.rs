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
    /// A NaN where values are to be put in order.
    #[error("element {index} of {what} is NaN, which has no place in an order")]
    NotANumber {
        /// Which argument.
        what: &'static str,
        /// Flat index of the first one.
        index: usize,
    },
    /// A NaN or an infinity where finite numbers are required.
    #[error("element {index} of {what} is {value}, expected finite numbers")]
    NonFinite {
        /// Which argument.
        what: &'static str,
        /// Flat index of the first one.
        index: usize,
        /// The value.
        value: f64,
    },
    /// Parts that are no valid compressed-row matrix.
    #[error("row {row} of a CSR matrix (counted from 0): {defect}")]
    Csr {
        /// The first row with a defect.
        row: usize,
        /// What is wrong with it.
        defect: CsrDefect,
    },
    /// A diagonal entry that a method divides by is missing, zero or of the wrong kind.
    #[error("diagonal entry of row {row} is {value}, expected {expected}")]
    Diagonal {
        /// The first such row.
        row: usize,
        /// The entry, 0 where none is stored.
        value: f64,
        /// What would have been right.
        expected: &'static str,
    },
    /// A text file is not what its format asks for.
    #[error("line {line}: expected {expected}, got {got}")]
    Parse {
        /// Line of the file, from 1.
        line: u64,
        /// What would have been right.
        expected: String,
        /// What is there.
        got: String,
    },
    /// What went wrong with a file.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: String,
        /// What went wrong.
        source: Box<Error>,
    },
    /// The system could not read or write.
    #[error("{message}")]
    Io {
        /// The system's kind of error.
        kind: std::io::ErrorKind,
        /// The system's words.
        message: String,
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

/// What can be wrong with a compressed-row matrix.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CsrDefect {
    /// There must be one pointer more than rows.
    #[error("expected {expected} row pointers, got {got}")]
    RowPtrLength {
        /// Rows + 1.
        expected: usize,
        /// How many came.
        got: usize,
    },
    /// Columns and values must be equally many.
    #[error("{columns} columns but {values} values")]
    ValuesLength {
        /// Number of column indices.
        columns: usize,
        /// Number of values.
        values: usize,
    },
    /// The first pointer must be 0.
    #[error("the first row pointer is {got}, not 0")]
    RowPtrStart {
        /// What it is.
        got: u32,
    },
    /// Pointers must not fall.
    #[error("row pointers fall from {this} to {next}")]
    RowPtrOrder {
        /// Where the row begins.
        this: u32,
        /// Where it would end.
        next: u32,
    },
    /// The last pointer must be the number of entries.
    #[error("the row ends at entry {got} of {entries}")]
    RowPtrEnd {
        /// Number of entries.
        entries: usize,
        /// The pointer.
        got: u32,
    },
    /// A column index beyond the matrix.
    #[error("column {column} of a matrix with {cols} columns")]
    ColumnOutOfRange {
        /// The column.
        column: usize,
        /// Number of columns.
        cols: usize,
    },
    /// Columns must ascend within a row.
    #[error("column {column} stands after column {after}")]
    Unsorted {
        /// The column.
        column: usize,
        /// The one before it.
        after: usize,
    },
    /// A column stands twice in a row.
    #[error("column {column} stands twice")]
    Duplicate {
        /// The column.
        column: usize,
    },
    /// Values must be finite.
    #[error("column {column} has the value {value}")]
    NonFinite {
        /// The column.
        column: usize,
        /// The value.
        value: f64,
    },
    /// A value does not fit the type that it is narrowed to.
    #[error("column {column} has the value {value:e}, beyond {largest:e}; allow it or scale the matrix")]
    Overflow {
        /// The column.
        column: usize,
        /// The value.
        value: f64,
        /// The largest finite number of the type.
        largest: f64,
    },
    /// The largest value of the matrix is below the normal numbers of the type that it is narrowed to.
    #[error(
        "column {column} has the value {value:e}, the matrix's largest, below {smallest:e}, the smallest normal number of {dtype}; scale the matrix by a power of two"
    )]
    Underflow {
        /// The column.
        column: usize,
        /// The value.
        value: f64,
        /// The smallest positive normal number of the type.
        smallest: f64,
        /// The type.
        dtype: DType,
    },
}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Error {
        Error::Io {
            kind: e.kind(),
            message: e.to_string(),
        }
    }
}

impl Error {
    /// Names the file that an error is about.
    pub(crate) fn in_file(self, path: &std::path::Path) -> Self {
        Error::File {
            path: path.display().to_string(),
            source: Box::new(self),
        }
    }

    /// Shape error with formatted parts.
    pub(crate) fn shape(what: impl Into<String>, expected: impl Into<String>, got: impl Into<String>) -> Self {
        Error::Shape {
            what: what.into(),
            expected: expected.into(),
            got: got.into(),
        }
    }
}
