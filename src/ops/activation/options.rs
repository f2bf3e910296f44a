//! Which function of an element.

/// A function of the sigmoid family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActivationKind {
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `log(sigmoid(x)) = -softplus(-x)`.
    LogSigmoid,
    /// `log(1 + exp(x))`.
    Softplus,
}

impl ActivationKind {
    /// All three.
    pub const ALL: [ActivationKind; 3] = [
        ActivationKind::Sigmoid,
        ActivationKind::LogSigmoid,
        ActivationKind::Softplus,
    ];

    /// Name of the operation: `sigmoid`, `log_sigmoid`, `softplus`.
    pub const fn name(self) -> &'static str {
        match self {
            ActivationKind::Sigmoid => "sigmoid",
            ActivationKind::LogSigmoid => "log_sigmoid",
            ActivationKind::Softplus => "softplus",
        }
    }

    /// Name of the operation or of its gradient: `sigmoid_backward`, ...
    pub const fn name_of(self, backward: bool) -> &'static str {
        match (self, backward) {
            (kind, false) => kind.name(),
            (ActivationKind::Sigmoid, true) => "sigmoid_backward",
            (ActivationKind::LogSigmoid, true) => "log_sigmoid_backward",
            (ActivationKind::Softplus, true) => "softplus_backward",
        }
    }
}
