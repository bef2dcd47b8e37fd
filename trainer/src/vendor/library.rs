//! NVIDIA's libraries, looked for where they usually are: nothing is linked, and a program without them still runs.
//!
//! The system's loader is asked by name first, then each file in the usual places ([`Places`]).

#![expect(unsafe_code, reason = "libraries are opened by loading them, and asked for their version")]

mod places;

use std::ffi::{c_int, c_void};
use std::fmt;
use std::path::{Path, PathBuf};

pub use places::{Libdevice, Places};

/// A library, or a file of one, that the GPU code can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Library {
    /// The driver's user-space half; nothing runs on a GPU without it.
    Driver,
    /// Mathematical functions of kernels, as LLVM bitcode: needed by the default code generator.
    Libdevice,
    /// CUDA's run-time compiler: needed by builds with the feature `cuda-nvrtc` only.
    Nvrtc,
    /// Matrix products.
    CublasLt,
    /// Convolutions, and attention where a configuration asks for it.
    Cudnn,
    /// Sums over several GPUs.
    Nccl,
}

impl Library {
    /// All libraries, the most needed first.
    pub const ALL: [Self; 6] = [Self::Driver, Self::Libdevice, Self::Nvrtc, Self::CublasLt, Self::Cudnn, Self::Nccl];

    /// File names, the preferred one first.
    #[must_use]
    pub fn files(self) -> &'static [&'static str] {
        match self {
            Self::Driver => &["libcuda.so.1", "libcuda.so"],
            Self::Libdevice => &["libdevice.10.bc"],
            Self::Nvrtc => &["libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12"],
            Self::CublasLt => &["libcublasLt.so", "libcublasLt.so.13", "libcublasLt.so.12"],
            Self::Cudnn => &["libcudnn.so", "libcudnn.so.9"],
            Self::Nccl => &["libnccl.so", "libnccl.so.2"],
        }
    }

    /// Folders below `site-packages/nvidia` in which wheels put the library.
    fn wheel_folders(self) -> &'static [&'static str] {
        match self {
            Self::Driver => &[],
            Self::Libdevice => &["cu13/nvvm/libdevice", "cuda_nvcc/nvvm/libdevice"],
            Self::Nvrtc => &["cu13/lib", "cuda_nvrtc/lib"],
            Self::CublasLt => &["cu13/lib", "cublas/lib"],
            Self::Cudnn => &["cudnn/lib"],
            Self::Nccl => &["nccl/lib"],
        }
    }

    /// Folders below a CUDA installation.
    fn toolkit_folders(self) -> &'static [&'static str] {
        match self {
            Self::Libdevice => &["nvvm/libdevice"],
            _ => &["lib64", "targets/x86_64-linux/lib", "lib"],
        }
    }

    /// Instruction to install the library.
    #[must_use]
    pub fn how_to_get(self) -> &'static str {
        match self {
            Self::Driver => "install NVIDIA's driver; in a container, start it with --gpus all",
            Self::Libdevice => {
                "install CUDA's nvvm (package cuda-nvvm or cuda-nvcc, or pip install nvidia-nvvm) and set CUDA_PATH \
                 to the folder that holds nvvm/libdevice"
            }
            Self::Nvrtc => "install CUDA's nvrtc (package cuda-nvrtc, or pip install nvidia-cuda-nvrtc)",
            Self::CublasLt => "pip install nvidia-cublas in the active Python environment, or install CUDA's libcublas",
            Self::Cudnn => "pip install nvidia-cudnn-cu13 in the active Python environment, or install cudnn9-cuda-13",
            Self::Nccl => {
                "install libnccl2 (or pip install nvidia-nccl-cu13), and link libnccl.so to libnccl.so.2 in a folder \
                 of LD_LIBRARY_PATH"
            }
        }
    }

    /// The version that an opened library reports, as its maker writes it.
    ///
    /// # Safety
    /// `library` must be this library.
    unsafe fn version(self, library: &libloading::Library) -> Option<String> {
        type Plain = unsafe extern "C" fn() -> usize;
        type Out = unsafe extern "C" fn(*mut c_int) -> c_int;
        type TwoOut = unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int;
        // SAFETY: each symbol has the type that the library's header gives it. None of these functions needs a device
        // or an initialised library, and each writes no more than the integers it is given.
        unsafe {
            match self {
                Self::CublasLt | Self::Cudnn => {
                    let name: &[u8] = if self == Self::Cudnn { b"cudnnGetVersion" } else { b"cublasLtGetVersion" };
                    let version = library.get::<Plain>(name).ok()?();
                    let (major, rest) = (version / 10_000, version % 10_000);
                    Some(format!("{major}.{}.{}", rest / 100, rest % 100))
                }
                Self::Driver | Self::Nccl => {
                    let name: &[u8] = if self == Self::Nccl { b"ncclGetVersion" } else { b"cuDriverGetVersion" };
                    let mut version = 0;
                    (library.get::<Out>(name).ok()?(&raw mut version) == 0).then_some(())?;
                    Some(if self == Self::Nccl {
                        format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
                    } else {
                        format!("CUDA {}.{}", version / 1000, version % 1000 / 10)
                    })
                }
                Self::Nvrtc => {
                    let (mut major, mut minor) = (0, 0);
                    let function = library.get::<TwoOut>(b"nvrtcVersion").ok()?;
                    (function(&raw mut major, &raw mut minor) == 0).then(|| format!("{major}.{minor}"))
                }
                Self::Libdevice => None,
            }
        }
    }
}

impl fmt::Display for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Driver => "driver",
            Self::Libdevice => "libdevice",
            Self::Nvrtc => "NVRTC",
            Self::CublasLt => "cuBLASLt",
            Self::Cudnn => "cuDNN",
            Self::Nccl => "NCCL",
        })
    }
}

/// True if the system's loader finds a library of this name.
#[must_use]
pub fn loads_by_name(name: &str) -> bool {
    // SAFETY: loading runs the library's initialisers. Callers name NVIDIA's, made to be loaded into any process.
    unsafe { libloading::Library::new(name) }.map(std::mem::forget).is_ok()
}

/// A library that was found, and loaded if it is one that can be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The file, as the process has mapped it.
    pub path: PathBuf,
    /// Version that the library reports; `None` if it reports none.
    pub version: Option<String>,
}

/// Failure to open a library.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LibraryError {
    /// No file of the library in any of the usual places.
    #[error("{library} was not found: {}", library.how_to_get())]
    Missing {
        /// The library.
        library: Library,
    },
    /// Files of the library, none of which can be loaded.
    #[error("{} cannot be loaded: {reason}", path.display())]
    Broken {
        /// The preferred file.
        path: PathBuf,
        /// The loader's reason.
        reason: String,
    },
}

/// Opens `library`, which then stays loaded: the system's loader is asked by name first, then each file in `places`.
///
/// # Errors
/// [`LibraryError`] says whether it is missing or cannot be loaded.
pub fn open(library: Library, places: &Places) -> Result<Found, LibraryError> {
    let files = places.find(library);
    if library == Library::Libdevice {
        let path = files.into_iter().next().ok_or(LibraryError::Missing { library })?;
        return Ok(Found { path, version: None });
    }
    // SAFETY: loading runs the library's initialisers. These are NVIDIA's, made to be loaded into any process.
    let load = |name: &Path| unsafe { libloading::Library::new(name) };
    let mut broken = None;
    for name in library.files().iter().map(PathBuf::from).chain(files) {
        match load(&name) {
            Ok(loaded) => {
                // SAFETY: it bears the library's name.
                let version = unsafe { library.version(&loaded) };
                // Unloading it would leave whatever was resolved in it dangling.
                std::mem::forget(loaded);
                let path = mapped(library).unwrap_or(name);
                return Ok(Found { path, version });
            }
            Err(error) if name.is_absolute() && broken.is_none() => {
                let reason = hiend_cache::with_sources(&error).replace('\n', " ");
                broken = Some(LibraryError::Broken { path: name, reason });
            }
            Err(_) => {}
        }
    }
    Err(broken.unwrap_or(LibraryError::Missing { library }))
}

/// File of `library` that this process has mapped; a library that was opened by name may be any.
fn mapped(library: Library) -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let stem = library.files()[0].split(".so").next()?;
    maps.lines().filter_map(|line| Some(Path::new(line.get(line.find('/')?..)?))).find_map(|path| {
        let name = path.file_name()?.to_string_lossy();
        let rest = name.strip_prefix(stem)?;
        rest.starts_with(".so").then(|| path.to_owned())
    })
}

/// True if the driver initialises: `cuInit` succeeds, which takes a device and permission to use it.
#[must_use]
pub fn driver_answers() -> bool {
    type Init = unsafe extern "C" fn(u32) -> c_int;
    // SAFETY: `cuInit` takes flags that must be 0, may be called any number of times, and the library stays loaded.
    unsafe {
        let Ok(library) = libloading::Library::new("libcuda.so.1") else { return false };
        let answers = library.get::<Init>(b"cuInit").is_ok_and(|init| init(0) == 0);
        std::mem::forget(library);
        answers
    }
}

/// Checks that `found`, which must be loaded, has all of `symbols`.
///
/// # Errors
/// The name of the first symbol that is missing.
pub fn has_symbols<'a>(found: &Found, symbols: &[&'a str]) -> Result<(), &'a str> {
    // SAFETY: it is loaded already, so that no initialiser runs; symbols are looked up, not called.
    unsafe {
        let first = symbols.first().copied().unwrap_or_default();
        let library = libloading::Library::new(&found.path).ok().ok_or(first)?;
        let missing = symbols.iter().find(|symbol| library.get::<*mut c_void>(symbol.as_bytes()).is_err());
        std::mem::forget(library);
        missing.map_or(Ok(()), |symbol| Err(*symbol))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(folder: &tempfile::TempDir) -> Places {
        Places { root: folder.path().to_owned(), ..Places::default() }
    }

    #[test]
    fn a_file_that_is_no_library_is_named_with_the_loaders_reason() {
        // NCCL's name, because no test machine has it where the loader looks; the assertion holds where one has.
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("usr/lib/x86_64-linux-gnu/libnccl.so.2");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, "not a library").unwrap();
        match open(Library::Nccl, &places(&folder)) {
            Err(LibraryError::Broken { path, reason }) => {
                assert_eq!(path, file);
                assert!(!reason.is_empty() && !reason.contains('\n'), "{reason}");
            }
            Ok(found) => assert!(found.path.is_absolute(), "the system's own: {found:?}"),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn a_missing_file_says_how_to_get_it() {
        let folder = tempfile::tempdir().unwrap();
        let error = open(Library::Libdevice, &places(&folder)).unwrap_err().to_string();
        assert!(error.starts_with("libdevice was not found: install CUDA's nvvm"), "{error}");
    }
}
