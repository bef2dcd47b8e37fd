//! cuDNN 9: its functions, which are found at run time, and a handle for the device.
//!
//! Only the library's graph interface is used: a computation is described as a graph of operations ([`graph`]), the
//! library names engines that compute it, one of them becomes a plan ([`plan`]), and the plan runs on the stream of its
//! caller (`queue`). Graphs can also be built for an absent device from a description of its properties, so that they
//! can be tested on any machine with the library.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::path::PathBuf;
use std::sync::OnceLock;

use super::functions::functions;
use super::library::{self, Found, Library, LibraryError, Places};
use super::recorded;

pub mod attention;
pub mod conv;
pub mod graph;
pub mod operations;
pub mod plan;
#[cfg(feature = "cuda")]
pub mod queue;
pub mod record;
pub mod session;

/// Oldest supported version, in the library's numbering.
const OLDEST: usize = 90_000;

/// Opaque object of the library.
type Raw = *mut c_void;

functions! {
    get_version: "cudnnGetVersion", fn() -> usize;
    get_error_string: "cudnnGetErrorString", fn(c_int) -> *const c_char;
    get_last_error_string: "cudnnGetLastErrorString", fn(*mut c_char, usize) -> ();
    create: "cudnnCreate", fn(*mut Raw) -> c_int;
    set_stream: "cudnnSetStream", fn(Raw, *mut c_void) -> c_int;
    create_descriptor: "cudnnBackendCreateDescriptor", fn(c_int, *mut Raw) -> c_int;
    destroy_descriptor: "cudnnBackendDestroyDescriptor", fn(Raw) -> c_int;
    set_attribute: "cudnnBackendSetAttribute", fn(Raw, c_int, c_int, i64, *const c_void) -> c_int;
    get_attribute: "cudnnBackendGetAttribute", fn(Raw, c_int, c_int, i64, *mut i64, *mut c_void) -> c_int;
    finalize: "cudnnBackendFinalize", fn(Raw) -> c_int;
    execute: "cudnnBackendExecute", fn(Raw, Raw, Raw) -> c_int;
}

/// The library, loaded.
pub struct Cudnn {
    functions: Functions,
    /// Version as a number: 9.14.0 is 91400.
    pub version: usize,
    /// File and version.
    pub found: Found,
}

/// Reason why the library is not used.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// The file that was opened cannot be opened a second time.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// The file that was opened cannot be opened again.
    #[error("{}: {reason}", path.display())]
    Reopen {
        /// The library's file.
        path: PathBuf,
        /// The loader's reason.
        reason: libloading::Error,
    },
    /// A required function is missing.
    #[error("{} has no {symbol}: it is too old; version 9 is needed", path.display())]
    Symbol {
        /// The library's file.
        path: PathBuf,
        /// Name of the missing function.
        symbol: &'static str,
    },
    /// A version before 9.
    #[error("{} is version {}; version 9 is needed", .0.path.display(), .0.version.as_deref().unwrap_or("unknown"))]
    Version(Found),
}

/// Opens the library, once per process, and looks up all required functions.
///
/// # Errors
/// [`Unavailable`] says what is missing and how to get it.
pub fn library() -> Result<&'static Cudnn, &'static Unavailable> {
    static LIBRARY: OnceLock<Result<Cudnn, Unavailable>> = OnceLock::new();
    LIBRARY.get_or_init(open).as_ref()
}

/// Major and minor part of a version in the library's numbering: "9.14" for 91400.
pub(crate) fn major_minor(version: usize) -> String {
    format!("{}.{}", version / 10_000, version / 100 % 100)
}

fn open() -> Result<Cudnn, Unavailable> {
    let places = Places::of_process();
    // cuDNN asks the system's loader for NVRTC, which then knows the one that is loaded, wherever that lies. Without NVRTC
    // some engines are refused later, each with its reason.
    let _ = library::open(Library::Nvrtc, &places);
    let found = library::open(Library::Cudnn, &places)?;
    let path = || found.path.clone();
    // SAFETY: the library is loaded already, so that no initialiser runs.
    let loaded = unsafe { libloading::Library::new(&found.path) }
        .map_err(|reason| Unavailable::Reopen { path: path(), reason })?;
    // SAFETY: it was opened under cuDNN's name, and is not unloaded.
    let functions = unsafe { Functions::of(&loaded) };
    std::mem::forget(loaded);
    let functions = functions.map_err(|symbol| Unavailable::Symbol { path: path(), symbol })?;
    // SAFETY: takes nothing and has no effect.
    let version = unsafe { (functions.get_version)() };
    if version < OLDEST {
        return Err(Unavailable::Version(found));
    }
    Ok(Cudnn { functions, version, found })
}

/// Reason why cuDNN does not compute something, in one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CudnnError {
    /// A failed call of the library.
    #[error("{call} failed with {status}{reason}")]
    Failed {
        /// Name of the function.
        call: &'static str,
        /// Status that it returned.
        code: c_int,
        /// Name of the status.
        status: String,
        /// Message of the library, preceded by a colon; may be empty.
        reason: String,
    },
    /// An operation that this program does not pass to cuDNN.
    #[error("{0}")]
    Refused(String),
    /// A graph without a usable engine.
    #[error("none of the {looked_at} engine configurations that cuDNN names is usable; the first: {first}")]
    NoEngine {
        /// Number of engine configurations examined; several may belong to one engine.
        looked_at: usize,
        /// Reason why the library's first choice of configuration is not used.
        first: Box<CudnnError>,
    },
    /// A failure of the driver.
    #[error("{0}")]
    Driver(String),
    /// The library rejects the engine that a run recorded.
    #[error(
        "{0} for the engine that the run recorded in {file}: {remedy}",
        file = record::Engines::FILE,
        remedy = recorded::REMEDY
    )]
    Recorded(Box<CudnnError>),
}

impl CudnnError {
    /// Creates a refusal by this program.
    fn refused(reason: impl Into<String>) -> Self {
        Self::Refused(reason.into())
    }

    /// Returns true if no other kernel must take over, because the library may compute this another time, or because a
    /// run depends on it.
    #[must_use]
    pub fn is_fault(&self) -> bool {
        match self {
            // Classes of statuses: 4000 internal errors, among them exhausted memory, and 5000 failed executions. Those
            // below say that something is missing, wrong or not supported; 4001 says that an engine does not compile.
            Self::Failed { code, .. } => (4000..6000).contains(code) && *code != 4001,
            Self::NoEngine { first, .. } => first.is_fault(),
            Self::Driver(_) | Self::Recorded(_) => true,
            Self::Refused(_) => false,
        }
    }

    /// Returns true if memory of the host or of the device is exhausted.
    fn is_out_of_memory(&self) -> bool {
        matches!(self, Self::Failed { code: 4003 | 4004, .. })
    }
}

impl Cudnn {
    fn check(&self, call: &'static str, status: c_int) -> Result<(), CudnnError> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: takes any number, and gives a string that is never freed.
        let name = unsafe { CStr::from_ptr((self.functions.get_error_string)(status)) };
        let mut text = [0u8; 1024];
        // SAFETY: the library writes no more than the bytes it is given.
        unsafe { (self.functions.get_last_error_string)(text.as_mut_ptr().cast(), text.len()) };
        let reason = CStr::from_bytes_until_nul(&text).unwrap_or_default().to_string_lossy();
        // The library may give several lines.
        let reason = reason.split_whitespace().collect::<Vec<_>>().join(" ");
        let reason = if reason.is_empty() { reason } else { format!(": {reason}") };
        Err(CudnnError::Failed { call, code: status, status: name.to_string_lossy().into_owned(), reason })
    }
}

fn opened() -> Result<&'static Cudnn, CudnnError> {
    library().map_err(|reason| CudnnError::refused(reason.to_string()))
}

/// The library on the current device. Used on the device's own thread, and never destroyed, like the device.
pub struct Handle {
    raw: Raw,
    library: &'static Cudnn,
    /// Marker that keeps a handle on one thread.
    thread: PhantomData<*mut ()>,
}

impl Handle {
    /// Opens a handle on the device whose context is current.
    ///
    /// # Errors
    /// The library's reason.
    pub fn open() -> Result<Self, CudnnError> {
        let library = opened()?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the pointer is written.
        library.check("cudnnCreate", unsafe { (library.functions.create)(&raw mut raw) })?;
        Ok(Self { raw, library, thread: PhantomData })
    }

    /// Sets the stream on which plans run from now on.
    ///
    /// # Errors
    /// The library's reason.
    ///
    /// # Safety
    /// `stream` is a `CUstream` of the handle's device, and lives until another is set or the handle is no longer used.
    pub unsafe fn set_stream(&self, stream: *mut c_void) -> Result<(), CudnnError> {
        // SAFETY: the handle is alive; the stream is by the caller's contract.
        self.library.check("cudnnSetStream", unsafe { (self.library.functions.set_stream)(self.raw, stream) })
    }
}

/// Device for which graphs and plans are made.
pub enum Target {
    /// The device of a handle.
    Device(Handle),
    /// A described device, which need not be present: its plans cannot run. Needs version 9.11.
    Described(graph::Descriptor),
}

impl Target {
    /// Creates the target that `json` describes, in the library's own format.
    ///
    /// # Errors
    /// The library's reason: a property is missing, or the version is too old.
    pub fn described(json: &str) -> Result<Self, CudnnError> {
        use graph::{Attribute, Draft, Kind};
        let properties = Draft::new(Kind::DeviceProperties)?.set(Attribute::DevicePropJson, json.as_bytes())?;
        Ok(Self::Described(properties.finalize()?))
    }
}
