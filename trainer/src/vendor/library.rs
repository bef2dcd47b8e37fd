//! NVIDIA's libraries, looked for where they usually are: nothing is linked, and a program without them still runs.
//!
//! They are looked for in the folders of `LD_LIBRARY_PATH`, below `CUDA_PATH`, in the `nvidia-*` wheels of the active
//! Python environment (`VIRTUAL_ENV`, `CONDA_PREFIX`), in the system's folders, and in the wheels of the system's Python,
//! in this order. What the system's loader finds by name comes before all of these when a library is opened.

#![expect(unsafe_code, reason = "libraries are opened by loading them, and asked for their version")]

use std::ffi::{c_int, c_void};
use std::fmt;
use std::path::{Path, PathBuf};

use hiend_cache::lookup;

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
    /// All of them, the most needed first.
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

    /// Folders below `site-packages/nvidia` in which wheels put it.
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

/// Places to look in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// Folders of `LD_LIBRARY_PATH`.
    pub library_path: Vec<PathBuf>,
    /// `CUDA_PATH`.
    pub cuda_path: Option<PathBuf>,
    /// Roots of active Python environments.
    pub environments: Vec<PathBuf>,
    /// Root of the file system; another folder in tests.
    pub root: PathBuf,
}

impl Places {
    /// Search paths of this process.
    #[must_use]
    pub fn of_process() -> Self {
        let path = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        Self {
            library_path: path("LD_LIBRARY_PATH").map_or_else(Vec::new, |list| std::env::split_paths(&list).collect()),
            cuda_path: path("CUDA_PATH").map(PathBuf::from),
            environments: ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(path).map(PathBuf::from).collect(),
            root: PathBuf::from("/"),
        }
    }

    /// Every file of `library` that is there, the one to use first. Empty where there is none.
    #[must_use]
    pub fn find(&self, library: Library) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for folder in self.folders(library) {
            for file in library.files() {
                let path = folder.join(file);
                if is_there(&path) && !found.contains(&path) {
                    found.push(path);
                }
            }
        }
        found
    }

    /// Folders to look in, in order; most of them need not exist.
    #[must_use]
    pub fn folders(&self, library: Library) -> Vec<PathBuf> {
        let in_toolkit = |root: &Path| library.toolkit_folders().iter().map(|f| root.join(f)).collect::<Vec<_>>();
        let system = |folder: &&str| self.root.join(folder);
        let mut folders = Vec::new();
        if library != Library::Libdevice {
            folders.extend(self.library_path.iter().cloned());
        }
        folders.extend(self.cuda_path.iter().flat_map(|root| in_toolkit(root)));
        folders.extend(self.environments.iter().flat_map(|root| wheels(root, library)));
        folders.extend(TOOLKITS.iter().map(system).flat_map(|root| in_toolkit(&root)));
        if library != Library::Libdevice {
            folders.extend(SYSTEM.iter().map(system));
        }
        folders.extend(PYTHONS.iter().map(system).flat_map(|root| wheels(&root, library)));
        folders
    }
}

/// Library with the mathematical functions of kernels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Libdevice {
    /// The code generator finds this file.
    Usable(PathBuf),
    /// The code generator does not look where it is; with `CUDA_PATH` set to this folder it does.
    Elsewhere(PathBuf),
    /// Not in any usual place.
    Missing,
}

impl Places {
    /// Folders in which `CubeCL`'s code generator looks for libdevice (cubecl-llvm 0.11.3, `nvptx/libdevice.rs`): with
    /// `CUDA_PATH` set, nowhere else.
    #[must_use]
    pub fn libdevice_folders(&self) -> Vec<PathBuf> {
        let roots = match &self.cuda_path {
            Some(path) => vec![path.clone()],
            None => TOOLKITS.iter().map(|folder| self.root.join(folder)).collect(),
        };
        roots.into_iter().map(|root| root.join("nvvm/libdevice")).collect()
    }

    /// Finds libdevice, in the code generator's folders first.
    #[must_use]
    pub fn libdevice(&self) -> Libdevice {
        let [name, ..] = Library::Libdevice.files() else { unreachable!("it has a name") };
        let usable = self.libdevice_folders().into_iter().map(|folder| folder.join(name)).find(|path| is_there(path));
        if let Some(path) = usable {
            return Libdevice::Usable(path);
        }
        // ROOT/nvvm/libdevice/libdevice.10.bc
        let elsewhere = self.find(Library::Libdevice).into_iter().next();
        elsewhere
            .and_then(|path| Some(Libdevice::Elsewhere(path.ancestors().nth(3)?.to_owned())))
            .unwrap_or(Libdevice::Missing)
    }
}

/// True if a file can be used. One that cannot be looked at is told and passed over: another folder may have it.
fn is_there(path: &Path) -> bool {
    lookup::is_file(path).unwrap_or_else(|error| {
        tracing::warn!("{error}: {}; looking elsewhere", error.source);
        false
    })
}

/// True if the system's loader finds a library of this name.
#[must_use]
pub fn loads_by_name(name: &str) -> bool {
    // SAFETY: loading runs the library's initialisers. Callers name NVIDIA's, made to be loaded into any process.
    unsafe { libloading::Library::new(name) }.map(std::mem::forget).is_ok()
}

/// Usual places of a CUDA installation.
const TOOLKITS: [&str; 4] = ["usr/local/cuda", "opt/cuda", "usr/lib/cuda", "usr"];
/// Usual places of libraries.
const SYSTEM: [&str; 6] =
    ["usr/lib/x86_64-linux-gnu", "usr/lib64", "usr/lib", "usr/local/lib", "usr/local/nvidia/lib64", "usr/lib/wsl/lib"];
/// Roots of the system's Python.
const PYTHONS: [&str; 2] = ["usr/local", "usr"];

/// Folders of wheels below a Python environment's `lib/python3.*`, by name.
fn wheels(environment: &Path, library: Library) -> Vec<PathBuf> {
    let folder = environment.join("lib");
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) => {
            if error.kind() != std::io::ErrorKind::NotFound {
                tracing::warn!("{}: cannot list: {error}; looking elsewhere", folder.display());
            }
            return vec![];
        }
    };
    let is_python = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("python3"));
    let mut pythons: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_python).collect();
    pythons.sort();
    let packages = |python: PathBuf| ["site-packages", "dist-packages"].map(|name| python.join(name).join("nvidia"));
    let folders = |nvidia: PathBuf| library.wheel_folders().iter().map(move |folder| nvidia.join(folder));
    pythons.into_iter().flat_map(packages).flat_map(folders).collect()
}

/// A library that was found, and loaded if it is one that can be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The file, as the process has mapped it.
    pub path: PathBuf,
    /// The version that it reports, if it does.
    pub version: Option<String>,
}

/// Failure to open a library.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LibraryError {
    /// There is no such file in any of the usual places.
    #[error("{library} was not found: {}", library.how_to_get())]
    Missing {
        /// The library.
        library: Library,
    },
    /// There are such files, and none of them can be loaded.
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
                let reason = with_reasons(&error).replace('\n', " ");
                broken = Some(LibraryError::Broken { path: name, reason });
            }
            Err(_) => {}
        }
    }
    Err(broken.unwrap_or(LibraryError::Missing { library }))
}

/// File of `library` that this process has mapped, which a name alone does not tell.
fn mapped(library: Library) -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let stem = library.files()[0].split(".so").next()?;
    maps.lines().filter_map(|line| Some(Path::new(line.get(line.find('/')?..)?))).find_map(|path| {
        let name = path.file_name()?.to_string_lossy();
        let rest = name.strip_prefix(stem)?;
        rest.starts_with(".so").then(|| path.to_owned())
    })
}

fn with_reasons(error: &dyn std::error::Error) -> String {
    let reasons = std::iter::successors(Some(error), |error| error.source());
    reasons.map(ToString::to_string).collect::<Vec<_>>().join(": ")
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

/// True if `library`, which must be open, has all of `symbols`; the first missing one otherwise.
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
    use std::fs;

    /// A folder tree in which the given files exist.
    struct Tree(tempfile::TempDir);

    impl Tree {
        fn of(files: &[&str]) -> Self {
            let tree = Self(tempfile::tempdir().unwrap());
            for file in files {
                let path = tree.at(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, "not a library").unwrap();
            }
            tree
        }

        fn at(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }

        fn places(&self) -> Places {
            Places { root: self.0.path().to_owned(), ..Places::default() }
        }

        /// Files found, relative to the tree.
        fn find(&self, library: Library, places: &Places) -> Vec<String> {
            let relative = |path: PathBuf| path.strip_prefix(self.0.path()).unwrap().display().to_string();
            places.find(library).into_iter().map(relative).collect()
        }
    }

    const SYSTEM_FILE: &str = "usr/lib/x86_64-linux-gnu/libcublasLt.so.12";
    const TOOLKIT_FILE: &str = "usr/local/cuda/lib64/libcublasLt.so";
    const WHEEL_FILE: &str = "home/env/lib/python3.12/site-packages/nvidia/cu13/lib/libcublasLt.so.13";
    const OLD_WHEEL_FILE: &str = "home/env/lib/python3.12/site-packages/nvidia/cublas/lib/libcublasLt.so.12";

    #[test]
    fn the_systems_folders_are_searched_without_any_variable() {
        let tree = Tree::of(&[SYSTEM_FILE, TOOLKIT_FILE, WHEEL_FILE]);
        assert_eq!(tree.find(Library::CublasLt, &tree.places()), [TOOLKIT_FILE, SYSTEM_FILE]);
        assert!(tree.find(Library::Nccl, &tree.places()).is_empty());
    }

    #[test]
    fn an_active_python_environment_comes_before_the_system() {
        let tree = Tree::of(&[SYSTEM_FILE, WHEEL_FILE, OLD_WHEEL_FILE]);
        let places = Places { environments: vec![tree.at("home/env")], ..tree.places() };
        assert_eq!(tree.find(Library::CublasLt, &places), [WHEEL_FILE, OLD_WHEEL_FILE, SYSTEM_FILE]);
    }

    #[test]
    fn explicit_paths_come_first() {
        let tree = Tree::of(&[SYSTEM_FILE, WHEEL_FILE, "cuda-13/lib64/libcublasLt.so", "mine/libcublasLt.so.13"]);
        let places = Places {
            library_path: vec![tree.at("nothing here"), tree.at("mine")],
            cuda_path: Some(tree.at("cuda-13")),
            environments: vec![tree.at("home/env")],
            ..tree.places()
        };
        let expected = ["mine/libcublasLt.so.13", "cuda-13/lib64/libcublasLt.so", WHEEL_FILE, SYSTEM_FILE];
        assert_eq!(tree.find(Library::CublasLt, &places), expected);
    }

    #[test]
    fn libdevice_is_found_below_toolkits_and_in_wheels() {
        let wheel = "home/env/lib/python3.11/site-packages/nvidia/cuda_nvcc/nvvm/libdevice/libdevice.10.bc";
        let tree = Tree::of(&[wheel, "usr/lib/cuda/nvvm/libdevice/libdevice.10.bc", "elsewhere/libdevice.10.bc"]);
        let places = Places {
            library_path: vec![tree.at("elsewhere")],
            environments: vec![tree.at("home/env")],
            ..tree.places()
        };
        let expected = [wheel, "usr/lib/cuda/nvvm/libdevice/libdevice.10.bc"];
        assert_eq!(tree.find(Library::Libdevice, &places), expected);
    }

    #[test]
    fn libdevice_outside_the_code_generators_folders_names_the_folder_to_set() {
        let toolkit = "usr/local/cuda/nvvm/libdevice/libdevice.10.bc";
        let wheel = "home/env/lib/python3.11/site-packages/nvidia/cu13/nvvm/libdevice/libdevice.10.bc";
        let tree = Tree::of(&[toolkit, wheel]);
        assert_eq!(tree.places().libdevice(), Libdevice::Usable(tree.at(toolkit)));
        // With CUDA_PATH set, the code generator looks nowhere else.
        let set = Places { cuda_path: Some(tree.at("cuda-13")), ..tree.places() };
        assert_eq!(set.libdevice_folders(), [tree.at("cuda-13/nvvm/libdevice")]);
        assert_eq!(set.libdevice(), Libdevice::Elsewhere(tree.at("usr/local/cuda")));
        let tree = Tree::of(&[wheel]);
        let active = Places { environments: vec![tree.at("home/env")], ..tree.places() };
        let root = "home/env/lib/python3.11/site-packages/nvidia/cu13";
        assert_eq!(active.libdevice(), Libdevice::Elsewhere(tree.at(root)));
        assert_eq!(tree.places().libdevice(), Libdevice::Missing);
    }

    #[test]
    fn a_file_that_is_no_library_is_named_with_the_loaders_reason() {
        // NCCL's name, because no test machine has it where the loader looks; the assertion holds where one has.
        let tree = Tree::of(&["usr/lib/x86_64-linux-gnu/libnccl.so.2"]);
        match open(Library::Nccl, &tree.places()) {
            Err(LibraryError::Broken { path, reason }) => {
                assert_eq!(path, tree.at("usr/lib/x86_64-linux-gnu/libnccl.so.2"));
                assert!(!reason.is_empty() && !reason.contains('\n'), "{reason}");
            }
            Ok(found) => assert!(found.path.is_absolute(), "the system's own: {found:?}"),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn a_missing_file_says_how_to_get_it() {
        let tree = Tree::of(&[]);
        let error = open(Library::Libdevice, &tree.places()).unwrap_err().to_string();
        assert!(error.starts_with("libdevice was not found: install CUDA's nvvm"), "{error}");
    }
}
