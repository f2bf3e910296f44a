//! How a command can fail, and the exit code that says so.

use std::path::Path;
use std::process::ExitCode;

/// Result of everything in this program that can fail.
pub type Outcome<T = ()> = Result<T, Failure>;

/// A failure: one line for stderr and an exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// A result lies outside its bound, or a device could not do the work. Exit code 1.
    Check(String),
    /// Wrong usage or a bad input. Exit code 2.
    Usage(String),
}

impl Failure {
    /// Wrong usage or input.
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure::Usage(message.into())
    }

    /// A bad file, named.
    pub fn file(path: &Path, message: impl std::fmt::Display) -> Failure {
        Failure::Usage(format!("{}: {message}", path.display()))
    }

    /// The same, said of an option.
    pub fn within(self, option: &str) -> Failure {
        match self {
            Failure::Check(message) => Failure::Check(format!("{option}: {message}")),
            Failure::Usage(message) => Failure::Usage(format!("{option}: {message}")),
        }
    }

    /// The exit code of the program.
    pub fn code(&self) -> ExitCode {
        match self {
            Failure::Check(_) => ExitCode::from(1),
            Failure::Usage(_) => ExitCode::from(2),
        }
    }
}

impl std::fmt::Display for Failure {
    /// Always one line, whatever a file name or a driver's message contains.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Failure::Check(message) | Failure::Usage(message)) = self;
        for (i, part) in message
            .split(['\n', '\r'])
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .enumerate()
        {
            if i > 0 {
                f.write_str(" ")?;
            }
            f.write_str(part)?;
        }
        Ok(())
    }
}

impl From<macheps::Error> for Failure {
    fn from(error: macheps::Error) -> Failure {
        use macheps::Error::*;
        match error {
            // The machine's fault or a wrong result, not the user's.
            Mismatch { .. } | DeviceRequest { .. } | DeviceLost { .. } | Timeout { .. } | Wgpu(_) => {
                Failure::Check(error.to_string())
            }
            other => Failure::Usage(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_one_line() {
        assert_eq!(Failure::usage("a\n  b\r\n\nc").to_string(), "a b c");
    }
}
