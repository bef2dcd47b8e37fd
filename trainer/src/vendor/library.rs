//! Search for NVIDIA's libraries in the usual places: nothing is linked, and a program without them still runs.
//!
//! Files in the usual places ([`Places`]) come before those that the system's loader finds by name. The loader is asked
//! first only for the name under which the crates that call a library will load it.

#![expect(unsafe_code, reason = "libraries are opened by loading them, and asked for their version")]

mod places;

use std::ffi::{c_int, c_void};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::driver::{self, Cuda};

pub use places::{Libdevice, Places};

/// A library, or a file of one, that the GPU code can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Library {
    /// The user-space part of the driver, without which nothing runs on a GPU.
    Driver,
    /// Mathematical functions of kernels as LLVM bitcode, needed by the default code generator.
    Libdevice,
    /// CUDA's run-time compiler, with which cuDNN compiles some engines, including those of attention; builds with the
    /// feature `cuda-nvrtc` compile all kernels with it.
    Nvrtc,
    /// Products of matrices.
    CublasLt,
    /// Convolutions, and attention if a configuration selects it.
    Cudnn,
    /// Sums over several GPUs.
    Nccl,
}

impl Library {
    /// All libraries, the most important first.
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

    /// Instruction to install the library, in a version for this machine's driver.
    #[must_use]
    pub fn how_to_get(self) -> &'static str {
        self.how_to_get_for(driver::supported())
    }

    /// Instruction to install the library for a driver that supports CUDA up to `driver`, by default the newest. A library
    /// of a later major version than the driver's does not run.
    fn how_to_get_for(self, driver: Option<Cuda>) -> &'static str {
        let is_12 = driver.is_some_and(|driver| driver.major < 13);
        match self {
            Self::Driver => "install NVIDIA's driver; in a container, start it with --gpus all",
            // Bitcode, which is the same to every driver.
            Self::Libdevice => {
                "install CUDA's nvvm (package cuda-nvvm or cuda-nvcc), or pip install nvidia-nvvm in the active Python \
                 environment; CUDA_PATH, if set, must hold nvvm/libdevice"
            }
            Self::Nvrtc if is_12 => {
                "install CUDA 12's nvrtc (package cuda-nvrtc, or pip install nvidia-cuda-nvrtc-cu12)"
            }
            Self::Nvrtc => "install CUDA's nvrtc (package cuda-nvrtc, or pip install nvidia-cuda-nvrtc)",
            Self::CublasLt if is_12 => {
                "pip install nvidia-cublas-cu12 in the active Python environment, or install CUDA 12's libcublas"
            }
            Self::CublasLt => "pip install nvidia-cublas in the active Python environment, or install CUDA's libcublas",
            Self::Cudnn if is_12 => {
                "pip install nvidia-cudnn-cu12 nvidia-cuda-nvrtc-cu12 in the active Python environment, or install \
                 cudnn9-cuda-12"
            }
            Self::Cudnn => {
                "pip install nvidia-cudnn-cu13 nvidia-cuda-nvrtc in the active Python environment, or install \
                 cudnn9-cuda-13"
            }
            Self::Nccl if is_12 => "install libnccl2, or pip install nvidia-nccl-cu12 in the active Python environment",
            Self::Nccl => "install libnccl2, or pip install nvidia-nccl-cu13 in the active Python environment",
        }
    }

    /// Returns true if the crates that call the library open it themselves, by names that only the system's loader
    /// resolves. True for all but cuDNN and NCCL, whose functions are looked up in the file that [`open`] finds.
    fn is_opened_by_name(self) -> bool {
        !matches!(self, Self::Cudnn | Self::Nccl)
    }

    /// Returns true if a version, in the format of [`Self::version`], is older than supported.
    pub(super) fn is_too_old(self, version: Option<&str>) -> bool {
        let oldest = match self {
            Self::Cudnn => [9, 0],
            Self::Nccl => [2, 18],
            _ => return false,
        };
        let parts = |version: &str| {
            let mut parts = version.split('.').map(str::parse::<u32>);
            Some([parts.next()?.ok()?, parts.next()?.ok()?])
        };
        version.and_then(parts).is_some_and(|version| version < oldest)
    }

    /// Name of the function that returns the version.
    fn version_function(self) -> &'static [u8] {
        match self {
            Self::Driver => b"cuDriverGetVersion",
            Self::Libdevice => b"",
            Self::Nvrtc => b"nvrtcVersion",
            Self::CublasLt => b"cublasLtGetVersion",
            Self::Cudnn => b"cudnnGetVersion",
            Self::Nccl => b"ncclGetVersion",
        }
    }

    /// Version that an opened library reports, in its maker's format.
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
                Self::CublasLt | Self::Cudnn => Some(dotted(library.get::<Plain>(self.version_function()).ok()?())),
                Self::Driver | Self::Nccl => {
                    let mut version = 0;
                    (library.get::<Out>(self.version_function()).ok()?(&raw mut version) == 0).then_some(())?;
                    Some(if self == Self::Nccl {
                        format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
                    } else {
                        format!("CUDA {}.{}", version / 1000, version % 1000 / 10)
                    })
                }
                Self::Nvrtc => {
                    let (mut major, mut minor) = (0, 0);
                    let function = library.get::<TwoOut>(self.version_function()).ok()?;
                    (function(&raw mut major, &raw mut minor) == 0).then(|| format!("{major}.{minor}"))
                }
                Self::Libdevice => None,
            }
        }
    }
}

/// Formats a version number of cuBLASLt or cuDNN: 91400 is 9.14.0; before cuDNN 9, 8907 was 8.9.7.
fn dotted(version: usize) -> String {
    let major = if version < 10_000 { 1000 } else { 10_000 };
    format!("{}.{}.{}", version / major, version % major / 100, version % 100)
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

/// A library that was found and, if possible, loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Path of the file that the process has mapped.
    pub path: PathBuf,
    /// Version that the library reports; `None` if it reports none.
    pub version: Option<String>,
}

/// Error from opening a library.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LibraryError {
    /// The library was in none of the usual places.
    #[error("{library} was not found: {}", library.how_to_get())]
    Missing {
        /// Library that was not found.
        library: Library,
    },
    /// Files of the library exist, but none can be loaded.
    #[error("{} cannot be loaded: {reason}", path.display())]
    Broken {
        /// Path of the preferred file.
        path: PathBuf,
        /// The loader's reason.
        reason: String,
    },
}

/// Opens `library`, which then stays loaded: the files in `places`, in their order, then those that the system's loader finds
/// by name. A cuDNN before version 9 or an NCCL before 2.18 is opened only if no newer one is found.
///
/// Crates that call a library open it again by name. For these, the file that they will receive is opened: a file that
/// the system's loader finds by the first name, or else the file in `places`, which is found by its own name once it is
/// loaded.
///
/// # Errors
/// [`LibraryError`] says whether it is missing or cannot be loaded.
pub fn open(library: Library, places: &Places) -> Result<Found, LibraryError> {
    let files = places.find(library);
    if library == Library::Libdevice {
        let path = files.into_iter().next().ok_or(LibraryError::Missing { library })?;
        return Ok(Found { path, version: None });
    }
    let (mut broken, mut too_old) = (None, None);
    for name in candidates(library, files) {
        match load(&name) {
            Ok(loaded) => {
                let found = describe(library, &name, loaded);
                if !library.is_too_old(found.version.as_deref()) {
                    return Ok(found);
                }
                too_old = too_old.or(Some(found));
            }
            Err(error) if name.is_absolute() && broken.is_none() => {
                let reason = hiend_cache::with_sources(&error).replace('\n', " ");
                broken = Some(LibraryError::Broken { path: name, reason });
            }
            Err(_) => {}
        }
    }
    too_old.ok_or_else(|| broken.unwrap_or(LibraryError::Missing { library }))
}

/// Names under which to try loading `library`, in order; `files` are those found in the usual places.
fn candidates(library: Library, files: Vec<PathBuf>) -> Vec<PathBuf> {
    let names = || library.files().iter().map(PathBuf::from);
    let before = usize::from(library.is_opened_by_name());
    names().take(before).chain(files).chain(names().skip(before)).collect()
}

fn load(name: &Path) -> Result<libloading::Library, libloading::Error> {
    // SAFETY: loading runs the library's initialisers. Callers name NVIDIA's, made to be loaded into any process.
    unsafe { libloading::Library::new(name) }
}

/// File and version of a library that was loaded by `name`. The library stays loaded, because unloading it would leave
/// its resolved functions dangling.
fn describe(library: Library, name: &Path, loaded: libloading::Library) -> Found {
    // Another file may answer to an earlier name than this one does.
    let by_name = || library.files().iter().find_map(|name| load(Path::new(name)).ok());
    let named = (name.is_absolute() && library.is_opened_by_name()).then(by_name).flatten();
    let used = named.as_ref().unwrap_or(&loaded);
    // SAFETY: it bears the library's name.
    let version = unsafe { library.version(used) };
    let is_this_file = named.is_none() && name.is_absolute();
    let path = if is_this_file { name.canonicalize().ok() } else { file_of(library, used) };
    std::mem::forget((named, loaded));
    Found { path: path.unwrap_or_else(|| name.to_owned()), version }
}

/// File that this process has mapped for `loaded`, which was opened by a name that several files may have.
fn file_of(library: Library, loaded: &libloading::Library) -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let stem = library.files()[0].split(".so").next()?;
    let is_librarys = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy());
        name.is_some_and(|name| name.strip_prefix(stem).is_some_and(|rest| rest.starts_with(".so")))
    };
    // SAFETY: the symbol is looked up, neither called nor read.
    let function = unsafe { loaded.get::<*mut c_void>(library.version_function()) };
    let address = function.map_or(0, |function| function.addr());
    let mappings: Vec<Mapping> =
        maps.lines().filter_map(Mapping::of).filter(|mapping| is_librarys(&mapping.path)).collect();
    // The function may lie in a library that this one is made of.
    let exact = mappings.iter().find(|mapping| mapping.addresses.contains(&address));
    exact.or(mappings.first()).map(|mapping| mapping.path.clone())
}

/// A file mapped into the memory of this process.
struct Mapping {
    addresses: Range<usize>,
    path: PathBuf,
}

impl Mapping {
    /// Reads a line of `/proc/self/maps`; `None` if it is not about a file.
    fn of(line: &str) -> Option<Self> {
        let (start, end) = line.split(' ').next()?.split_once('-')?;
        let address = |text| usize::from_str_radix(text, 16).ok();
        Some(Self { addresses: address(start)?..address(end)?, path: PathBuf::from(line.get(line.find('/')?..)?) })
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
    fn files_in_the_usual_places_come_before_the_loaders() {
        let check = |library, files: &[&str], expected: &[&str]| {
            let found = candidates(library, files.iter().map(PathBuf::from).collect());
            assert_eq!(found, expected.iter().map(PathBuf::from).collect::<Vec<_>>(), "{library}");
        };
        let wheel = "/env/nvidia/cudnn/lib/libcudnn.so.9";
        check(Library::Cudnn, &[wheel], &[wheel, "libcudnn.so", "libcudnn.so.9"]);
        let wheel = "/env/nvidia/nccl/lib/libnccl.so.2";
        check(Library::Nccl, &[wheel], &[wheel, "libnccl.so", "libnccl.so.2"]);
        // The crate that calls it asks for libcublasLt.so before anything else.
        let wheel = "/env/nvidia/cu13/lib/libcublasLt.so.13";
        check(Library::CublasLt, &[wheel], &["libcublasLt.so", wheel, "libcublasLt.so.13", "libcublasLt.so.12"]);
    }

    #[test]
    fn versions_before_the_oldest_are_too_old() {
        let check = |library: Library, version, expected| {
            assert_eq!(library.is_too_old(version), expected, "{library} {version:?}");
        };
        check(Library::Cudnn, Some("8.9.7"), true);
        check(Library::Cudnn, Some("9.0.0"), false);
        check(Library::Nccl, Some("2.17.1"), true);
        check(Library::Nccl, Some("2.18.1"), false);
        check(Library::Nccl, Some("3.0.0"), false);
        check(Library::Nccl, None, false);
        check(Library::CublasLt, Some("1.0.0"), false);
    }

    /// Compiles a stand-in for cuDNN that only reports its version.
    fn make_cudnn(file: &Path, version: usize) {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        let source = file.with_extension("c");
        std::fs::write(&source, format!("unsigned long cudnnGetVersion(void) {{ return {version}; }}\n")).unwrap();
        // The compiler that links this test.
        let mut compiler = std::process::Command::new("cc");
        let status = compiler.args(["-shared", "-fPIC", "-o"]).arg(file).arg(&source).status().unwrap();
        assert!(status.success(), "{status}");
    }

    #[test]
    fn a_cudnn_that_is_too_old_does_not_hide_a_newer_one() {
        let folder = tempfile::tempdir().unwrap();
        let [first, second] =
            ["mine/libcudnn.so", "usr/lib/x86_64-linux-gnu/libcudnn.so.9"].map(|file| folder.path().join(file));
        make_cudnn(&first, 8907);
        make_cudnn(&second, 91_400);
        let places = Places { library_path: vec![folder.path().join("mine")], ..places(&folder) };
        let found = open(Library::Cudnn, &places).unwrap();
        assert_eq!(found, Found { path: second.canonicalize().unwrap(), version: Some("9.14.0".to_owned()) });
    }

    #[test]
    fn a_loaded_file_is_found_by_an_address_in_it() {
        let line = "7f10a000-7f10c000 r-xp 00001000 08:01 77 /opt/a b/libnccl.so.2.28";
        let Mapping { addresses, path } = Mapping::of(line).unwrap();
        assert!(addresses.contains(&0x7f10_b000) && !addresses.contains(&0x7f10_c000));
        assert_eq!(path, Path::new("/opt/a b/libnccl.so.2.28"));
        assert!(Mapping::of("7f10a000-7f10c000 rw-p 00000000 00:00 0 [heap]").is_none());
    }

    #[test]
    fn versions_are_written_as_their_maker_does() {
        let check = |version, expected: &str| assert_eq!(dotted(version), expected);
        check(8907, "8.9.7");
        check(91_400, "9.14.0");
        check(130_100, "13.1.0");
    }

    #[test]
    fn packages_are_of_the_drivers_major_version() {
        let of = |library: Library, driver| library.how_to_get_for(Cuda::parse(driver));
        for library in [Library::Nvrtc, Library::CublasLt, Library::Cudnn, Library::Nccl] {
            assert!(of(library, "12.9").contains("-cu12") && !of(library, "12.9").contains("cu13"), "{library}");
            assert!(!of(library, "13.0").contains("cu12"), "{library}");
            assert_eq!(of(library, "13.0"), library.how_to_get_for(None));
        }
        assert_eq!(of(Library::Libdevice, "12.9"), of(Library::Libdevice, "13.0"));
    }

    #[test]
    fn a_missing_file_says_how_to_get_it() {
        let folder = tempfile::tempdir().unwrap();
        let error = open(Library::Libdevice, &places(&folder)).unwrap_err().to_string();
        assert!(error.starts_with("libdevice was not found: install CUDA's nvvm"), "{error}");
    }
}
