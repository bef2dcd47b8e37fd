//! Where tensors live. The only file that names a backend.
//!
//! DIFFERENCE from Burn's habit: `Device::default()` is never used. In a build with the feature `cuda` it is a CUDA
//! device even on a machine without one, and panics there.

use std::fmt;
use std::str::FromStr;

use burn::tensor::Device;

/// What was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first CUDA device, if this build knows CUDA and one answers; the CPU otherwise.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// This CUDA device.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|number| number.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| "expected auto, cpu or cuda:N".to_owned()),
        }
    }
}

/// Why there is no such device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The build has no CUDA in it.
    #[error("this build has no CUDA; rebuild with --features cuda")]
    NotBuilt,
    /// The machine has no such device.
    #[error("no CUDA device {wanted}: {found} found (is the driver loaded?)")]
    NotFound {
        /// Its number.
        wanted: usize,
        /// How many there are.
        found: usize,
    },
    /// Parts of Burn that take no device would go to CUDA.
    #[error("a build with CUDA runs on the CPU only with BURN_DEVICE=flex in its environment: {0}")]
    Environment(String),
}

/// A device that was found to be there.
#[derive(Clone, Debug)]
pub struct Compute {
    raw: Device,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Cpu,
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "made only where CUDA is built in"))]
    Cuda(usize),
}

impl Compute {
    /// Finds the device.
    ///
    /// # Errors
    /// [`DeviceError`] says what is missing.
    pub fn open(choice: DeviceChoice) -> Result<Self, DeviceError> {
        match choice {
            DeviceChoice::Cpu => Ok(Self::cpu()),
            DeviceChoice::Cuda(index) => cuda(index),
            DeviceChoice::Auto => Ok(cuda(0).unwrap_or_else(|_| Self::cpu())),
        }
    }

    /// The CPU.
    #[must_use]
    pub fn cpu() -> Self {
        Self { raw: Device::flex(), kind: Kind::Cpu }
    }

    /// For constants: tensors made here are not tracked.
    #[must_use]
    pub fn raw(&self) -> &Device {
        &self.raw
    }

    /// For parameters that are to be trained.
    #[must_use]
    pub fn autodiff(&self) -> Device {
        self.raw.clone().autodiff()
    }

    /// Whether this is the CPU.
    #[must_use]
    pub fn is_cpu(&self) -> bool {
        self.kind == Kind::Cpu
    }
}

impl fmt::Display for Compute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Cpu => f.write_str("cpu"),
            Kind::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: usize) -> Result<Compute, DeviceError> {
    Err(DeviceError::NotBuilt)
}

#[cfg(feature = "cuda")]
fn cuda(index: usize) -> Result<Compute, DeviceError> {
    use burn::tensor::DeviceType;
    // Listing opens the driver's library, and panics where there is none.
    let found = quietly(|| Device::enumerate(DeviceType::Cuda).into_iter().count()).unwrap_or(0);
    if index < found {
        Ok(Compute { raw: Device::cuda(index), kind: Kind::Cuda(index) })
    } else {
        Err(DeviceError::NotFound { wanted: index, found })
    }
}

/// Runs `probe`; a panic in it is an answer, not a message to the user.
#[cfg(feature = "cuda")]
fn quietly<T>(probe: impl FnOnce() -> T + std::panic::UnwindSafe) -> Option<T> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let answer = std::panic::catch_unwind(probe).ok();
    std::panic::set_hook(hook);
    answer
}

/// Makes `Device::default()`, which Burn calls where it reads optimizer state, mean the CPU.
///
/// Only the environment variable `BURN_DEVICE` decides that, and a running process cannot set it safely; so a build
/// with CUDA that runs on the CPU starts itself once more with it. Does nothing in any other case. To be called
/// by binaries before anything else touches Burn.
///
/// # Errors
/// If the process could not be started again.
pub fn settle_default(compute: &Compute) -> Result<(), DeviceError> {
    if !cfg!(feature = "cuda") || !compute.is_cpu() || std::env::var_os("BURN_DEVICE").is_some() {
        return Ok(());
    }
    restart_on_cpu()
}

#[cfg(unix)]
fn restart_on_cpu() -> Result<(), DeviceError> {
    use std::os::unix::process::CommandExt as _;
    let program = std::env::current_exe().map_err(|e| DeviceError::Environment(e.to_string()))?;
    let failure =
        std::process::Command::new(program).args(std::env::args_os().skip(1)).env("BURN_DEVICE", "flex").exec();
    Err(DeviceError::Environment(failure.to_string()))
}

#[cfg(not(unix))]
fn restart_on_cpu() -> Result<(), DeviceError> {
    Err(DeviceError::Environment("it is not set".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_read() {
        let check = |text: &str, expected: Option<DeviceChoice>| assert_eq!(text.parse().ok(), expected, "{text}");
        check("auto", Some(DeviceChoice::Auto));
        check("cpu", Some(DeviceChoice::Cpu));
        check("cuda", Some(DeviceChoice::Cuda(0)));
        check("cuda:3", Some(DeviceChoice::Cuda(3)));
        check("cuda:", None);
        check("gpu", None);
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn without_cuda_the_message_says_what_to_do() {
        let error = Compute::open(DeviceChoice::Cuda(0)).unwrap_err();
        assert_eq!(error.to_string(), "this build has no CUDA; rebuild with --features cuda");
        assert!(Compute::open(DeviceChoice::Auto).unwrap().is_cpu());
    }
}
