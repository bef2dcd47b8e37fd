//! Devices on which tensors are stored. Apart from [`crate::ops`], this is the only file that names a backend.
//!
//! DIFFERENCE from Burn's convention: `Device::default()` is never used. In a build with the feature `cuda` it is a
//! CUDA device even on a machine without one, and panics there.

pub(crate) mod failure;
mod kept_kernels;

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use burn::tensor::Device;
#[cfg(feature = "cuda")]
use burn::tensor::Tensor;

use crate::host_memory;
use crate::vendor::driver;

pub use kept_kernels::keep_kernels;

/// Instruction to get a program for NVIDIA's GPUs.
pub(crate) const CUDA_BUILD: &str =
    "cargo install --locked --path trainer --features cuda, or an archive made by configs/release/build cuda";

/// Device as selected on the command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first CUDA device, if this build has CUDA and one answers; the CPU otherwise.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device with this index.
    Cuda(usize),
    /// The Vulkan device with this index. For tests: Mesa's software device runs the GPU code on any machine.
    Vulkan(usize),
}

/// Error of a name that is not a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected auto, cpu, cuda:N or vulkan:N")]
pub struct ParseDeviceError;

impl FromStr for DeviceChoice {
    type Err = ParseDeviceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, number) = text.split_once(':').unwrap_or((text, "0"));
        match (name, number.parse()) {
            ("cuda", Ok(number)) => Ok(Self::Cuda(number)),
            ("vulkan", Ok(number)) => Ok(Self::Vulkan(number)),
            _ if text == "auto" => Ok(Self::Auto),
            _ if text == "cpu" => Ok(Self::Cpu),
            _ => Err(ParseDeviceError),
        }
    }
}

impl DeviceChoice {
    /// Checks that devices can train one model together, one rank on each.
    ///
    /// # Errors
    /// [`DeviceError::Mixed`] unless all are CUDA devices, each once, or all are the CPU.
    pub fn check_together(choices: &[Self]) -> Result<(), DeviceError> {
        let once = |choice| choices.iter().filter(|&other| other == choice).count() == 1;
        let cuda = choices.iter().all(|choice| matches!(choice, Self::Cuda(_)) && once(choice));
        if cuda || choices.iter().all(|choice| *choice == Self::Cpu) {
            return Ok(());
        }
        let names: Vec<String> = choices.iter().map(ToString::to_string).collect();
        Err(DeviceError::Mixed(names.join(",")))
    }
}

/// Failure to open a device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The build has no support for this kind of device.
    #[error("this build has no {name}: {remedy}")]
    NotBuilt {
        /// Kind of device.
        name: &'static str,
        /// Instruction to get a build with the support.
        remedy: &'static str,
    },
    /// The machine has no such device.
    #[error("no {name} device {wanted}: {found} found ({reason})")]
    NotFound {
        /// Kind of device.
        name: &'static str,
        /// Index of the device.
        wanted: usize,
        /// Number of devices of this kind.
        found: usize,
        /// The driver's reason, or a question that leads to it.
        reason: String,
    },
    /// The driver lacks functions that this build calls.
    #[error(transparent)]
    OldDriver(#[from] driver::TooOld),
    /// The file with the mathematical functions of kernels is missing, or not where the code generator looks for it.
    #[error(
        "CUDA's libdevice.10.bc was not found in {}: {}",
        looked.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "),
        elsewhere.as_ref().map_or_else(
            || crate::vendor::library::Library::Libdevice.how_to_get().to_owned(),
            |root| format!("set CUDA_PATH={}, which has it", root.display()),
        )
    )]
    NoLibdevice {
        /// Folders searched by the code generator.
        looked: Vec<PathBuf>,
        /// CUDA installation or Python wheel that has the file, if one was found.
        elsewhere: Option<PathBuf>,
    },
    /// The library that adds gradients of several GPUs is missing.
    #[error("several GPUs need NCCL: {0}")]
    NoNccl(String),
    /// Devices that cannot train one model together.
    #[error("--devices {0}: expected several CUDA devices, each once, or cpu several times")]
    Mixed(String),
    /// The process could not be restarted with `BURN_DEVICE` set.
    #[error("a build with CUDA runs on the CPU only with BURN_DEVICE=flex in its environment: {0}")]
    Environment(String),
}

/// An opened device.
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
    /// Opens the device.
    ///
    /// # Errors
    /// [`DeviceError`] says what is missing.
    pub fn open(choice: DeviceChoice) -> Result<Self, DeviceError> {
        match choice {
            DeviceChoice::Cpu => Ok(Self::cpu()),
            DeviceChoice::Cuda(index) => cuda(index),
            DeviceChoice::Auto => match cuda(0) {
                Ok(compute) => Ok(compute),
                // No device: the CPU. A device that is there and cannot be used is an error.
                Err(absent @ (DeviceError::NotBuilt { .. } | DeviceError::NotFound { .. })) => {
                    Ok(Self::cpu_without(&absent))
                }
                Err(error) => Err(error),
            },
            DeviceChoice::Vulkan(index) => vulkan(index),
        }
    }

    /// Opens the CPU.
    #[must_use]
    pub fn cpu() -> Self {
        Self { raw: Device::flex(), kind: Kind::Cpu }
    }

    /// Opens the CPU where the default device is `absent`, with a warning in a build that supports it.
    pub(crate) fn cpu_without(absent: &DeviceError) -> Self {
        if let Some(warning) = warning_without(absent, std::env::var_os(SETTLED).is_some()) {
            tracing::warn!("{warning}");
        }
        Self::cpu()
    }

    /// Device without gradient tracking, for constants.
    #[must_use]
    pub fn raw(&self) -> &Device {
        &self.raw
    }

    /// Device with gradient tracking, for trained parameters.
    #[must_use]
    pub fn autodiff(&self) -> Device {
        self.raw.clone().autodiff()
    }

    /// Returns true if this is the CPU.
    #[must_use]
    pub fn is_cpu(&self) -> bool {
        self.kind == Kind::Cpu
    }

    /// Free memory of the device (for the CPU, of the machine) in bytes, excluding memory that a device's allocator
    /// keeps for reuse. `None` if it is unknown.
    #[must_use]
    pub fn free_memory(&self) -> Option<u64> {
        match self.kind {
            Kind::Cpu => host_memory::available(),
            Kind::Cuda(_) => cuda_free_memory(&self.raw),
            Kind::Vulkan(_) => None,
        }
    }

    /// Returns true if this is a CUDA device.
    #[must_use]
    pub fn is_cuda(&self) -> bool {
        matches!(self.kind, Kind::Cuda(_))
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
    Err(DeviceError::NotBuilt { name: "Vulkan", remedy: "build with --features vulkan" })
}

#[cfg(feature = "vulkan")]
fn vulkan(index: usize) -> Result<Compute, DeviceError> {
    use burn::tensor::DeviceType;
    let found: Vec<Device> =
        quietly(|| Device::enumerate(DeviceType::Vulkan).into_iter().collect()).unwrap_or_default();
    found.get(index).map(|device| Compute { raw: device.clone(), kind: Kind::Vulkan(index) }).ok_or_else(|| {
        let reason = "is the driver loaded?".to_owned();
        DeviceError::NotFound { name: "Vulkan", wanted: index, found: found.len(), reason }
    })
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: usize) -> Result<Compute, DeviceError> {
    Err(DeviceError::NotBuilt { name: "CUDA", remedy: CUDA_BUILD })
}

#[cfg(feature = "cuda")]
fn cuda(index: usize) -> Result<Compute, DeviceError> {
    use burn::tensor::DeviceType;
    // Listing opens the driver's library, and panics where there is none.
    let found = quietly(|| Device::enumerate(DeviceType::Cuda).into_iter().count()).unwrap_or(0);
    if index < found {
        driver::check(driver::supported())?;
        #[cfg(not(feature = "cuda-nvrtc"))]
        find_libdevice()?;
        kept_kernels::report();
        Ok(Compute { raw: Device::cuda(index), kind: Kind::Cuda(index) })
    } else {
        let reason = if found == 0 { why_no_cuda() } else { "devices are counted from 0".to_owned() };
        Err(DeviceError::NotFound { name: "CUDA", wanted: index, found, reason })
    }
}

/// Reason why the driver names no device.
#[cfg(feature = "cuda")]
fn why_no_cuda() -> String {
    use crate::vendor::library::{self, Library, Places};
    if let Err(error) = library::open(Library::Driver, &Places::of_process()) {
        return error.to_string();
    }
    match quietly(cudarc::driver::result::init) {
        Some(Ok(())) => "the driver names none; see CUDA_VISIBLE_DEVICES".to_owned(),
        Some(Err(error)) => format!("the driver answers {error}"),
        None => "the driver does not answer".to_owned(),
    }
}

#[cfg(not(feature = "cuda"))]
fn cuda_free_memory(_: &Device) -> Option<u64> {
    None
}

#[cfg(feature = "cuda")]
fn cuda_free_memory(device: &Device) -> Option<u64> {
    let there = Tensor::<1>::zeros([1], device).try_into_primitive::<burn::backend::Cube>().ok()?;
    crate::vendor::memory::free_bytes(&there)
}

/// Checks that `CubeCL`'s code generator will find libdevice; its own error message is less helpful.
#[cfg(all(feature = "cuda", not(feature = "cuda-nvrtc")))]
fn find_libdevice() -> Result<(), DeviceError> {
    use crate::vendor::library::{Libdevice, Places};
    let places = Places::of_process();
    let elsewhere = match places.libdevice() {
        Libdevice::Usable(_) => return Ok(()),
        Libdevice::Elsewhere(root) => Some(root),
        Libdevice::Missing => None,
    };
    Err(DeviceError::NoLibdevice { looked: places.libdevice_folders(), elsewhere })
}

/// Checks that gradients on `compute` can be added to those of other ranks; CUDA devices need NCCL.
///
/// # Errors
/// [`DeviceError::NoNccl`] if it is not found, or too old.
pub fn check_sums(compute: &Compute) -> Result<(), DeviceError> {
    if compute.is_cuda() {
        crate::vendor::nccl::library().map_err(|reason| DeviceError::NoNccl(reason.to_string()))?;
    }
    Ok(())
}

/// Runs `probe` with panic messages suppressed; `None` if it panics.
#[cfg(any(feature = "cuda", feature = "vulkan"))]
fn quietly<T>(probe: impl FnOnce() -> T + std::panic::UnwindSafe) -> Option<T> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let answer = std::panic::catch_unwind(probe).ok();
    std::panic::set_hook(hook);
    answer
}

/// Takes the message of the last panic of a device's own threads since the previous call.
///
/// Such a panic does not end the run: tuning tries kernels that a device rejects, and continues. The message is kept in
/// case a result is later missing or not a number.
#[must_use]
pub fn take_panic() -> Option<String> {
    PANIC.lock().unwrap_or_else(PoisonError::into_inner).take()
}

static PANIC: Mutex<Option<String>> = Mutex::new(None);

/// Stores the messages of panics on device threads from now on, instead of printing them; see [`take_panic`].
pub fn remember_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if is_on_device_thread() {
            let message = panic.to_string().replace('\n', " ");
            tracing::debug!("device thread: {message}");
            *PANIC.lock().unwrap_or_else(PoisonError::into_inner) = Some(message);
        } else {
            before(panic);
        }
    }));
}

/// Returns true on a device's own threads, whose panics end no run; see [`take_panic`].
pub(crate) fn is_on_device_thread() -> bool {
    // CubeCL's threads: DSU for fusion, DSD for devices.
    std::thread::current().name().is_some_and(|name| name.starts_with("DSU-") || name.starts_with("DSD-"))
}

/// Lets the code generator find libdevice in a Python wheel, where it does not look: restarts the process once with
/// `CUDA_PATH` set, unless a CUDA installation has the file or the variable is set already. Has no effect in a build that
/// needs no libdevice. Binaries call it before anything else.
pub fn settle_libdevice() {
    #[cfg(all(feature = "cuda", not(feature = "cuda-nvrtc")))]
    if let Some(root) = crate::vendor::library::Places::of_process().cuda_path_for_libdevice() {
        // Without it, opening a device names the folder.
        let _ = restart_with("CUDA_PATH", root.as_os_str());
    }
}

/// Variable that names Burn's default device; set before this process is restarted for the CPU.
const SETTLED: &str = "BURN_DEVICE";

/// Warning that the CPU takes the place of a device that was looked for and is `absent`. `None` in a build without such
/// devices, and in a process that was restarted for the CPU, which has warned before.
fn warning_without(absent: &DeviceError, is_settled: bool) -> Option<String> {
    let DeviceError::NotFound { .. } = absent else { return None };
    (!is_settled).then(|| format!("{absent}; computing on the CPU (--device cpu does so without this warning)"))
}

/// Makes `Device::default()`, which Burn calls when it reads optimizer state, return the CPU.
///
/// Only the environment variable `BURN_DEVICE` decides that, and a running process cannot set it safely. A build with
/// GPU kernels that runs on the CPU therefore restarts its process once with the variable set. Has no effect otherwise.
/// Binaries call it before anything else uses Burn.
///
/// # Errors
/// If the process cannot be restarted.
pub fn settle_default(compute: &Compute) -> Result<(), DeviceError> {
    if !cfg!(feature = "cube") || !compute.is_cpu() || std::env::var_os(SETTLED).is_some() {
        return Ok(());
    }
    restart_with(SETTLED, OsStr::new("flex")).map_err(|error| DeviceError::Environment(error.to_string()))
}

/// Restarts this process with a variable in its environment. Returns only if that fails.
fn restart_with(variable: &str, value: &OsStr) -> io::Result<()> {
    use std::os::unix::process::CommandExt as _;
    let program = std::env::current_exe()?;
    Err(std::process::Command::new(program).args(std::env::args_os().skip(1)).env(variable, value).exec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names_are_parsed() {
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
        for choices in [[Cpu, Cpu], [Cuda(0), Cuda(3)]] {
            assert!(DeviceChoice::check_together(&choices).is_ok(), "{choices:?}");
        }
        for choices in [[Cpu, Cuda(0)], [Cuda(1), Cuda(1)], [Auto, Cpu], [Auto, Auto]] {
            assert!(matches!(DeviceChoice::check_together(&choices), Err(DeviceError::Mixed(_))), "{choices:?}");
        }
    }

    #[test]
    fn threads_of_a_device_are_known_by_their_names() {
        let is_of_device = |name: &str| {
            let thread = std::thread::Builder::new().name(name.to_owned()).spawn(is_on_device_thread);
            thread.unwrap().join().unwrap()
        };
        assert!(is_of_device("DSD-0") && is_of_device("DSU-1") && !is_of_device("readback"));
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_build_without_cuda_names_the_feature_to_add() {
        let error = Compute::open(DeviceChoice::Cuda(0)).unwrap_err();
        assert_eq!(error.to_string(), format!("this build has no CUDA: {CUDA_BUILD}"));
        assert!(Compute::open(DeviceChoice::Auto).unwrap().is_cpu());
    }

    #[test]
    fn the_cpu_in_place_of_a_missing_gpu_is_reported_once() {
        let reason = "driver was not found: install it".to_owned();
        let absent = DeviceError::NotFound { name: "CUDA", wanted: 0, found: 0, reason };
        let warning = warning_without(&absent, false).unwrap();
        let expected = "no CUDA device 0: 0 found (driver was not found: install it); computing on the CPU";
        assert!(warning.starts_with(expected), "{warning}");
        assert_eq!(warning_without(&absent, true), None);
        assert_eq!(warning_without(&DeviceError::NotBuilt { name: "CUDA", remedy: CUDA_BUILD }, false), None);
    }

    #[test]
    fn missing_libraries_are_named_with_a_remedy() {
        let looked = vec![PathBuf::from("/opt/cuda/nvvm/libdevice")];
        let missing = DeviceError::NoLibdevice { looked: looked.clone(), elsewhere: None }.to_string();
        assert!(
            missing.starts_with("CUDA's libdevice.10.bc was not found in /opt/cuda/nvvm/libdevice: install CUDA's")
        );
        let elsewhere = DeviceError::NoLibdevice { looked, elsewhere: Some("/env/nvidia/cu13".into()) }.to_string();
        assert!(elsewhere.ends_with("set CUDA_PATH=/env/nvidia/cu13, which has it"), "{elsewhere}");
    }
}
