//! Where tensors live. The only file that names a backend.
//!
//! DIFFERENCE from Burn's habit: `Device::default()` is never used. In a build with the feature `cuda` it is a CUDA
//! device even on a machine without one, and panics there.

use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

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
    /// This Vulkan device. Its place is in tests: Mesa's software device runs the GPU's code on any machine.
    Vulkan(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, number) = text.split_once(':').unwrap_or((text, "0"));
        match (name, number.parse()) {
            ("cuda", Ok(number)) => Ok(Self::Cuda(number)),
            ("vulkan", Ok(number)) => Ok(Self::Vulkan(number)),
            _ if text == "auto" => Ok(Self::Auto),
            _ if text == "cpu" => Ok(Self::Cpu),
            _ => Err("expected auto, cpu, cuda:N or vulkan:N".to_owned()),
        }
    }
}

/// Why there is no such device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The build knows no such devices.
    #[error("this build has no {name}; rebuild with --features {feature}")]
    NotBuilt {
        /// Of the kind of device.
        name: &'static str,
        /// What brings it in.
        feature: &'static str,
    },
    /// The machine has no such device.
    #[error("no {name} device {wanted}: {found} found (is the driver loaded?)")]
    NotFound {
        /// Of the kind of device.
        name: &'static str,
        /// Its number.
        wanted: usize,
        /// How many there are.
        found: usize,
    },
    /// The kernels' mathematical functions are missing.
    #[error(
        "CUDA's libdevice.10.bc was not found in {}: install CUDA's nvvm (it comes with nvcc, not with the runtime \
         alone), or set CUDA_PATH to the folder that holds nvvm/libdevice",
        looked.join(", ")
    )]
    NoLibdevice {
        /// Where it was looked for.
        looked: Vec<String>,
    },
    /// Gradients cannot be added up between GPUs.
    #[error(
        "several GPUs need NCCL, and libnccl.so was not found: install it, and link libnccl.so to libnccl.so.2 where \
         the loader looks (LD_LIBRARY_PATH)"
    )]
    NoNccl,
    /// Devices that cannot train one model together.
    #[error("--devices {0}: several CUDA devices, each once, or several times cpu")]
    Mixed(String),
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
    #[cfg_attr(not(feature = "vulkan"), expect(dead_code, reason = "made only where Vulkan is built in"))]
    Vulkan(usize),
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
            DeviceChoice::Auto => match cuda(0) {
                Ok(compute) => Ok(compute),
                // There is none to be had. One that is there and cannot be used is worth knowing about.
                Err(DeviceError::NotBuilt { .. } | DeviceError::NotFound { .. }) => Ok(Self::cpu()),
                Err(error) => Err(error),
            },
            DeviceChoice::Vulkan(index) => vulkan(index),
        }
    }

    /// Finds several devices that train one model.
    ///
    /// # Errors
    /// [`DeviceError`] says what is missing, or which do not go together.
    pub fn open_all(choices: &[DeviceChoice]) -> Result<Vec<Self>, DeviceError> {
        let num_cuda = choices.iter().filter(|choice| matches!(choice, DeviceChoice::Cuda(_))).count();
        let once = |choice| choices.iter().filter(|&other| other == choice).count() == 1;
        let cuda = num_cuda == choices.len() && choices.iter().all(once);
        if !cuda && choices.iter().any(|choice| *choice != DeviceChoice::Cpu) {
            let names: Vec<String> = choices.iter().map(ToString::to_string).collect();
            return Err(DeviceError::Mixed(names.join(",")));
        }
        let devices = choices.iter().map(|&choice| Self::open(choice)).collect::<Result<Vec<_>, _>>()?;
        #[cfg(feature = "cuda")]
        if cuda && devices.len() > 1 {
            find_nccl()?;
        }
        Ok(devices)
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
            Kind::Vulkan(index) => write!(f, "vulkan:{index}"),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
            Self::Vulkan(index) => write!(f, "vulkan:{index}"),
        }
    }
}

#[cfg(not(feature = "vulkan"))]
fn vulkan(_: usize) -> Result<Compute, DeviceError> {
    Err(DeviceError::NotBuilt { name: "Vulkan", feature: "vulkan" })
}

#[cfg(feature = "vulkan")]
fn vulkan(index: usize) -> Result<Compute, DeviceError> {
    use burn::tensor::DeviceType;
    let found: Vec<Device> =
        quietly(|| Device::enumerate(DeviceType::Vulkan).into_iter().collect()).unwrap_or_default();
    match found.get(index) {
        Some(device) => Ok(Compute { raw: device.clone(), kind: Kind::Vulkan(index) }),
        None => Err(DeviceError::NotFound { name: "Vulkan", wanted: index, found: found.len() }),
    }
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: usize) -> Result<Compute, DeviceError> {
    Err(DeviceError::NotBuilt { name: "CUDA", feature: "cuda" })
}

#[cfg(feature = "cuda")]
fn cuda(index: usize) -> Result<Compute, DeviceError> {
    use burn::tensor::DeviceType;
    // Listing opens the driver's library, and panics where there is none.
    let found = quietly(|| Device::enumerate(DeviceType::Cuda).into_iter().count()).unwrap_or(0);
    if index < found {
        #[cfg(not(feature = "cuda-nvrtc"))]
        find_libdevice()?;
        Ok(Compute { raw: Device::cuda(index), kind: Kind::Cuda(index) })
    } else {
        Err(DeviceError::NotFound { name: "CUDA", wanted: index, found })
    }
}

/// Looks where CubeCL's code generator will look, which says less when it finds nothing.
#[cfg(all(feature = "cuda", not(feature = "cuda-nvrtc")))]
fn find_libdevice() -> Result<(), DeviceError> {
    // With CUDA_PATH set, nowhere else is looked.
    let roots = match std::env::var("CUDA_PATH") {
        Ok(path) => vec![path],
        Err(_) => ["/usr/local/cuda", "/opt/cuda", "/usr/lib/cuda", "/usr"].map(str::to_owned).to_vec(),
    };
    let looked: Vec<String> = roots.into_iter().map(|root| format!("{root}/nvvm/libdevice")).collect();
    let found = looked.iter().any(|folder| std::path::Path::new(folder).join("libdevice.10.bc").is_file());
    if found { Ok(()) } else { Err(DeviceError::NoLibdevice { looked }) }
}

#[cfg(feature = "cuda")]
#[expect(unsafe_code, reason = "a library is looked for by loading it, as its user will")]
fn find_nccl() -> Result<(), DeviceError> {
    // SAFETY: NCCL's initialisers do nothing that a process must be ready for; it is loaded soon after in any case.
    unsafe { libloading::Library::new("libnccl.so") }.map(drop).map_err(|_| DeviceError::NoNccl)
}

/// Keeps compiled kernels and what tuning chose in `dir`, for the next run. Does nothing in a build without kernels.
pub fn keep_kernels_in(dir: &std::path::Path) {
    #[cfg(feature = "cuda")]
    {
        use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig as _};
        let mut config = CubeClRuntimeConfig::default();
        config.compilation.cache = true;
        CubeClRuntimeConfig::set(config);
        cubecl::environment::set_root(dir);
    }
    let _ = dir;
}

/// Runs `probe`; a panic in it is an answer, not a message to the user.
#[cfg(any(feature = "cuda", feature = "vulkan"))]
fn quietly<T>(probe: impl FnOnce() -> T + std::panic::UnwindSafe) -> Option<T> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let answer = std::panic::catch_unwind(probe).ok();
    std::panic::set_hook(hook);
    answer
}

/// What a device's own threads panicked with, if they did, since this was last asked.
///
/// Such a panic is not the run's: tuning tries kernels that a device refuses, and goes on. It is remembered in case a
/// result turns out to be missing or no number.
#[must_use]
pub fn take_panic() -> Option<String> {
    PANIC.lock().unwrap_or_else(PoisonError::into_inner).take()
}

static PANIC: Mutex<Option<String>> = Mutex::new(None);

/// From here on, panics of device threads are remembered instead of printed; see [`take_panic`].
pub fn remember_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let thread = std::thread::current();
        // CubeCL's threads: DSU for fusion, DSD for devices.
        if thread.name().is_some_and(|name| name.starts_with("DSU-") || name.starts_with("DSD-")) {
            let message = panic.to_string().replace('\n', " ");
            tracing::debug!("device thread: {message}");
            *PANIC.lock().unwrap_or_else(PoisonError::into_inner) = Some(message);
        } else {
            before(panic);
        }
    }));
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
    if !cfg!(feature = "cube") || !compute.is_cpu() || std::env::var_os("BURN_DEVICE").is_some() {
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
        check("vulkan:1", Some(DeviceChoice::Vulkan(1)));
        check("cuda:", None);
        check("cpu:0", None);
        check("gpu", None);
    }

    #[test]
    fn devices_that_train_together_are_of_one_kind() {
        use DeviceChoice::{Auto, Cpu, Cuda};
        assert_eq!(Compute::open_all(&[Cpu, Cpu]).unwrap().len(), 2);
        for choices in [[Cpu, Cuda(0)], [Cuda(1), Cuda(1)], [Auto, Cpu]] {
            assert!(matches!(Compute::open_all(&choices), Err(DeviceError::Mixed(_))), "{choices:?}");
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn without_cuda_the_message_says_what_to_do() {
        let error = Compute::open(DeviceChoice::Cuda(0)).unwrap_err();
        assert_eq!(error.to_string(), "this build has no CUDA; rebuild with --features cuda");
        assert!(Compute::open(DeviceChoice::Auto).unwrap().is_cpu());
    }
}
