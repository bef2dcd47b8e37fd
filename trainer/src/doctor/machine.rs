//! Driver, GPUs and NVIDIA's libraries on this machine, whether or not this build uses them.

use std::fmt;
use std::path::PathBuf;

use bytesize::ByteSize;
use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;
use serde_json::{Map, Value, json};

use crate::device::CUDA_BUILD;
use crate::vendor::cudnn::{self, attention};
use crate::vendor::driver::{self, Cuda};
use crate::vendor::library::{self, Found, Libdevice, Library, LibraryError, Places};
use crate::vendor::nccl;

/// Driver, GPUs and libraries found by this process.
#[derive(Debug)]
pub struct Machine {
    places: Places,
    driver: Result<Driver, DriverError>,
    libraries: Vec<(Library, Result<Found, Unusable>)>,
    libdevice: Libdevice,
}

/// Reason why a library is not used.
#[derive(Debug)]
enum Unusable {
    /// The library is not in any of the usual places.
    Missing,
    /// The library cannot be loaded, is too old, or does not have the name under which it is loaded.
    Refused(String),
}

impl From<&LibraryError> for Unusable {
    fn from(error: &LibraryError) -> Self {
        match error {
            LibraryError::Missing { .. } => Self::Missing,
            LibraryError::Broken { .. } => Self::Refused(error.to_string()),
        }
    }
}

/// Opens `library` in the same way as the code that uses it, checking the required version and functions.
fn usable(library: Library, places: &Places) -> Result<Found, Unusable> {
    match library {
        Library::Cudnn => cudnn::library().map(|library| library.found.clone()).map_err(|reason| match reason {
            cudnn::Unavailable::Library(error) => error.into(),
            reason => Unusable::Refused(reason.to_string()),
        }),
        #[cfg(feature = "cuda")]
        Library::CublasLt => {
            use crate::vendor::cublaslt;
            cublaslt::library().cloned().map_err(|reason| match reason {
                cublaslt::Unavailable::Library(error) => error.into(),
                reason => Unusable::Refused(reason.to_string()),
            })
        }
        Library::Libdevice => match places.libdevice() {
            Libdevice::Usable(path) => Ok(Found { path, version: None }),
            Libdevice::Elsewhere(root) => Err(Unusable::Refused(format!(
                "in {}, where the code generator does not look: set CUDA_PATH={}",
                root.join("nvvm/libdevice").display(),
                root.display()
            ))),
            Libdevice::Missing => Err(Unusable::Missing),
        },
        Library::Nccl => nccl::library().map(|library| library.found.clone()).map_err(|reason| match reason {
            nccl::Unavailable::Library(error) => error.into(),
            reason => Unusable::Refused(reason.to_string()),
        }),
        _ => library::open(library, places).map_err(|error| Unusable::from(&error)),
    }
}

/// Remark on a cuDNN that is used, but not for attention; empty otherwise.
fn attention_remark(version: usize) -> String {
    if version >= attention::OLDEST {
        return String::new();
    }
    format!(" (not used for attention, which needs {})", cudnn::major_minor(attention::OLDEST))
}

/// The driver's version, if `library` is of a later major version of CUDA than the driver supports, so that it does not
/// run. `None` for libraries whose version is not CUDA's.
fn beyond_driver(library: Library, version: Option<&str>, driver: Option<Cuda>) -> Option<Cuda> {
    let is_cudas = matches!(library, Library::CublasLt | Library::Nvrtc);
    let of_library = Cuda::parse(version.filter(|_| is_cudas)?)?;
    driver.filter(|driver| of_library.major > driver.major)
}

/// The NVIDIA driver and its devices.
#[derive(Debug)]
struct Driver {
    version: String,
    /// Newest CUDA version that the driver supports.
    cuda: Cuda,
    devices: Vec<Gpu>,
}

/// Reason why the driver gives no information, or not all of it.
#[derive(Debug, thiserror::Error)]
enum DriverError {
    /// A machine without driver.
    #[error("not installed: {}", Library::Driver.how_to_get())]
    Missing,
    /// The driver is there, and its library that describes devices is not.
    #[error(
        "for CUDA up to {0}; libnvidia-ml.so.1 (NVML), a part of the driver, is missing: names and free memory of GPUs are \
         not shown; in a container, NVIDIA_DRIVER_CAPABILITIES=compute,utility adds it"
    )]
    Undescribed(Cuda),
    /// The driver cannot be used.
    #[error("does not answer ({0}): {remedy}", remedy = Library::Driver.how_to_get())]
    Unusable(NvmlError),
    /// The driver answered only some queries.
    #[error("does not answer: {0}")]
    Silent(NvmlError),
}

/// One NVIDIA device.
#[derive(Debug)]
struct Gpu {
    name: String,
    capability: (i32, i32),
    free: u64,
    total: u64,
}

impl Machine {
    /// Examines this machine and loads the libraries that are present.
    #[must_use]
    pub fn of_process() -> Self {
        let places = Places::of_process();
        Self {
            driver: driver(),
            libraries: Library::ALL.into_iter().map(|library| (library, usable(library, &places))).collect(),
            libdevice: places.libdevice(),
            places,
        }
    }

    /// GPUs, driver and libraries with their paths and versions, for the record of a measurement.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let described = |found: &Result<Found, Unusable>| match found {
            Ok(Found { path, version }) => json!({ "path": path.display().to_string(), "version": version }),
            Err(Unusable::Missing) => json!({ "error": "missing" }),
            Err(Unusable::Refused(reason)) => json!({ "error": reason }),
        };
        let libraries: Map<String, Value> =
            self.libraries.iter().map(|(library, found)| (library.to_string(), described(found))).collect();
        let (driver, gpus): (Value, Vec<Value>) = match &self.driver {
            Ok(Driver { version, devices, .. }) => {
                (json!(version), devices.iter().map(|gpu| json!(gpu.name)).collect())
            }
            Err(reason) => (json!({ "error": reason.to_string() }), vec![]),
        };
        json!({ "driver": driver, "gpus": gpus, "libraries": libraries })
    }

    /// Newest CUDA version that the driver supports, if it is known.
    fn cuda(&self) -> Option<Cuda> {
        match &self.driver {
            Ok(driver) => Some(driver.cuda),
            Err(DriverError::Undescribed(cuda)) => Some(*cuda),
            Err(_) => None,
        }
    }

    /// Changes that would make this machine or this build faster, the most effective first.
    pub(super) fn advice(&self) -> Vec<String> {
        let mut advice = Vec::new();
        let has_gpu = match &self.driver {
            Ok(driver) => !driver.devices.is_empty(),
            Err(reason) => matches!(reason, DriverError::Undescribed(_)),
        };
        let missing = |wanted| self.libraries.iter().any(|(library, found)| *library == wanted && found.is_err());
        if !has_gpu {
            return advice;
        }
        if !cfg!(feature = "cuda") {
            advice.push(format!("a build with CUDA would use the GPU: {CUDA_BUILD}"));
        }
        if !cfg!(feature = "cuda-nvrtc") {
            match &self.libdevice {
                Libdevice::Usable(_) => {}
                Libdevice::Elsewhere(root) => {
                    advice.push(format!(
                        "CUDA_PATH={} lets kernels find libdevice; without it none runs",
                        root.display()
                    ));
                }
                Libdevice::Missing => {
                    advice.push(format!("libdevice lets kernels run at all: {}", Library::Libdevice.how_to_get()));
                }
            }
        }
        if missing(Library::CublasLt) {
            advice.push(format!(
                "cuBLASLt multiplies at 416 to 804 TFLOP/s on an H100 where the built-in kernels make 30 to 146: {}",
                Library::CublasLt.how_to_get()
            ));
        }
        let cublas = self.libraries.iter().find(|(library, _)| *library == Library::CublasLt);
        let version = cublas.and_then(|(_, found)| found.as_ref().ok()?.version.as_deref());
        if let Some(driver) = beyond_driver(Library::CublasLt, version, self.cuda()) {
            advice.push(format!(
                "cuBLASLt for CUDA {}, which the driver supports, in place of that for a later one: {}",
                driver.major,
                Library::CublasLt.how_to_get()
            ));
        }
        if missing(Library::Cudnn) {
            advice.push(format!(
                "cuDNN convolves; without it fine-tuning and prediction wait for minutes while convolutions are tuned: {}",
                Library::Cudnn.how_to_get()
            ));
        }
        if !missing(Library::Cudnn) && missing(Library::Nvrtc) {
            advice.push(format!(
                "cuDNN compiles some of its engines by NVRTC, those of attention among them: {}",
                Library::Nvrtc.how_to_get()
            ));
        }
        let several = self.driver.as_ref().is_ok_and(|driver| driver.devices.len() > 1);
        if several && missing(Library::Nccl) {
            advice.push(format!("NCCL lets several GPUs train one model: {}", Library::Nccl.how_to_get()));
        }
        advice
    }
}

/// Queries NVML, which comes with the driver and takes no memory on the devices.
fn driver() -> Result<Driver, DriverError> {
    let nvml = Nvml::init().map_err(|error| match error {
        NvmlError::LibloadingError(_) => driver::supported().map_or(DriverError::Missing, DriverError::Undescribed),
        error => DriverError::Unusable(error),
    })?;
    let read = || -> Result<Driver, NvmlError> {
        let cuda = nvml.sys_cuda_driver_version()?.unsigned_abs();
        let device = |index| -> Result<Gpu, NvmlError> {
            let device = nvml.device_by_index(index)?;
            let (memory, capability) = (device.memory_info()?, device.cuda_compute_capability()?);
            Ok(Gpu {
                name: device.name()?,
                capability: (capability.major, capability.minor),
                free: memory.free,
                total: memory.total,
            })
        };
        Ok(Driver {
            version: nvml.sys_driver_version()?,
            cuda: Cuda { major: cuda / 1000, minor: cuda % 1000 / 10 },
            devices: (0..nvml.device_count()?).map(device).collect::<Result<_, _>>()?,
        })
    };
    read().map_err(DriverError::Silent)
}

fn shown(path: Option<&PathBuf>) -> String {
    path.map_or_else(|| "unset".to_owned(), |path| path.display().to_string())
}

/// Formats the rows of `doctor`: driver, GPUs, libraries, and the folders that were searched.
impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.driver {
            Ok(Driver { version, cuda, devices }) => {
                writeln!(f, "driver       {version}, for CUDA up to {cuda}")?;
                for (index, gpu) in devices.iter().enumerate() {
                    let Gpu { name, capability, free, total } = gpu;
                    let (free, total) = (ByteSize::b(*free).display().iec(), ByteSize::b(*total).display().iec());
                    let (major, minor) = capability;
                    writeln!(f, "  gpu {index:<7}{name}, compute capability {major}.{minor}, {free} of {total} free")?;
                }
                if devices.is_empty() {
                    writeln!(f, "  no devices")?;
                }
            }
            Err(reason) => writeln!(f, "driver       {reason}")?,
        }
        if cfg!(feature = "cuda") {
            writeln!(f, "libraries")?;
        } else {
            writeln!(f, "libraries (no effect in this build, which has no CUDA: {CUDA_BUILD})")?;
        }
        for (library, found) in &self.libraries {
            let name = library.to_string();
            match found {
                Ok(Found { path, version: Some(version) }) => {
                    let cudnn = cudnn::library().ok().filter(|_| *library == Library::Cudnn);
                    let remark = match beyond_driver(*library, Some(version.as_str()), self.cuda()) {
                        Some(cuda) => format!(" (does not run: the driver supports CUDA up to {cuda})"),
                        None => cudnn.map(|cudnn| attention_remark(cudnn.version)).unwrap_or_default(),
                    };
                    writeln!(f, "  {name:<11}{version}, {}{remark}", path.display())?;
                }
                Ok(Found { path, version: None }) => writeln!(f, "  {name:<11}{}", path.display())?,
                // Reported above.
                Err(Unusable::Missing) if *library == Library::Driver && self.driver.is_err() => {}
                Err(Unusable::Missing) => writeln!(f, "  {name:<11}missing: {}", library.how_to_get())?,
                Err(Unusable::Refused(reason)) => writeln!(f, "  {name:<11}not used: {reason}")?,
            }
        }
        let Places { library_path, cuda_path, environments, .. } = &self.places;
        let list = |paths: &[PathBuf]| {
            let all = paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
            if all.is_empty() { "none".to_owned() } else { all }
        };
        writeln!(f, "  searched: the system's folders, CUDA_PATH ({}),", shown(cuda_path.as_ref()))?;
        writeln!(
            f,
            "    LD_LIBRARY_PATH ({}), the active Python environment ({})",
            list(library_path),
            list(environments)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn libdevice_is_usable_only_where_the_code_generator_looks() {
        let tree = tempfile::tempdir().unwrap();
        let folder = tree.path().join("home/env/lib/python3.12/site-packages/nvidia/cu13/nvvm/libdevice");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("libdevice.10.bc"), "bitcode").unwrap();
        let environments = vec![tree.path().join("home/env")];
        let places = Places { root: tree.path().to_owned(), environments, ..Places::default() };
        let root = folder.ancestors().nth(2).unwrap();
        match usable(Library::Libdevice, &places) {
            Err(Unusable::Refused(reason)) => {
                assert!(reason.ends_with(&format!("set CUDA_PATH={}", root.display())), "{reason}");
            }
            other => panic!("{other:?}"),
        }
        let set = Places { cuda_path: Some(root.to_owned()), ..places };
        assert_eq!(usable(Library::Libdevice, &set).unwrap().path, folder.join("libdevice.10.bc"));
    }

    #[test]
    fn a_cudnn_too_old_for_attention_is_called_so() {
        assert_eq!(attention_remark(91_002), " (not used for attention, which needs 9.11)");
        assert_eq!(attention_remark(attention::OLDEST), "");
    }

    #[test]
    fn a_driver_without_nvml_is_there() {
        let machine = |driver| Machine { driver, ..Machine::of_process() };
        let there = machine(Err(DriverError::Undescribed(Cuda { major: 13, minor: 0 })));
        let text = there.to_string();
        assert!(text.starts_with("driver       for CUDA up to 13.0; libnvidia-ml.so.1 (NVML), a part of"), "{text}");
        assert!(!text.contains("not installed"), "{text}");
        // There may be a GPU, so that advice is given.
        assert!(cfg!(feature = "cuda") || !there.advice().is_empty());
        assert!(machine(Err(DriverError::Missing)).advice().is_empty());
    }

    #[test]
    fn a_library_of_a_later_cuda_than_the_drivers_is_called_so() {
        let check = |library, version, driver: &str, expected: bool| {
            let beyond = beyond_driver(library, Some(version), Cuda::parse(driver));
            assert_eq!(beyond, Cuda::parse(driver).filter(|_| expected), "{library} {version}, driver {driver}");
        };
        check(Library::CublasLt, "13.1.0", "12.8", true);
        check(Library::Nvrtc, "13.0", "12.9", true);
        // Minor versions of one major version are compatible.
        check(Library::CublasLt, "12.9.1", "12.8", false);
        check(Library::CublasLt, "12.9.1", "13.0", false);
        // Not a version of CUDA.
        check(Library::Driver, "CUDA 13.0", "12.8", false);
        check(Library::Cudnn, "9.14.0", "8.0", false);
        assert_eq!(beyond_driver(Library::CublasLt, Some("13.1.0"), None), None);
        let found = Found { path: "libcublasLt.so.13".into(), version: Some("13.1.0".to_owned()) };
        let driver = Driver { version: "570".to_owned(), cuda: Cuda { major: 12, minor: 8 }, devices: vec![] };
        let libraries = vec![(Library::CublasLt, Ok(found))];
        let text = Machine { driver: Ok(driver), libraries, ..Machine::of_process() }.to_string();
        assert!(
            text.contains("13.1.0, libcublasLt.so.13 (does not run: the driver supports CUDA up to 12.8)"),
            "{text}"
        );
    }

    #[test]
    fn the_record_names_every_library() {
        let json = Machine::of_process().to_json();
        for library in Library::ALL {
            let row = &json["libraries"][library.to_string()];
            assert!(row["path"].is_string() != row["error"].is_string(), "{library}: {row}");
        }
        assert!(json["gpus"].is_array() && !json["driver"].is_null(), "{json}");
    }
}
