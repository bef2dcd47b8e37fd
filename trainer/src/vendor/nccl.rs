//! NCCL 2.18 or newer: its functions, which are found at run time, and communicators.
//!
//! A communicator does not block: each call returns at once, and [`Communicator::is_settled`] tells whether it is queued. A
//! lost rank therefore never blocks the thread that calls.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::path::PathBuf;
use std::ptr;
use std::sync::OnceLock;

use super::functions::functions;
use super::library::{self, Found, Library, LibraryError, Places};

/// Bytes of a communicator's identifier.
pub const ID_BYTES: usize = 128;

/// A communicator of the library.
type Raw = *mut c_void;

/// Identifier of a communicator, as the library passes it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Id([u8; ID_BYTES]);

/// Settings of a communicator in the layout of version 2.18. Libraries take the size of the layout from its first field and
/// add defaults for later settings.
#[repr(C)]
struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
    cga_cluster_size: c_int,
    min_ctas: c_int,
    max_ctas: c_int,
    net_name: *const c_char,
    split_share: c_int,
}

impl Config {
    /// Value of a setting that is left to the library.
    const UNDEFINED: c_int = c_int::MIN;

    /// Sets calls to return at once, and nothing else.
    fn non_blocking() -> Self {
        Self {
            size: size_of::<Self>(),
            magic: 0xcafe_beef,
            version: 21_800,
            blocking: 0,
            cga_cluster_size: Self::UNDEFINED,
            min_ctas: Self::UNDEFINED,
            max_ctas: Self::UNDEFINED,
            net_name: ptr::null(),
            split_share: Self::UNDEFINED,
        }
    }
}

functions! {
    get_error_string: "ncclGetErrorString", fn(c_int) -> *const c_char;
    get_unique_id: "ncclGetUniqueId", fn(*mut Id) -> c_int;
    comm_init_rank_config: "ncclCommInitRankConfig", fn(*mut Raw, c_int, Id, c_int, *mut Config) -> c_int;
    comm_get_async_error: "ncclCommGetAsyncError", fn(Raw, *mut c_int) -> c_int;
    comm_abort: "ncclCommAbort", fn(Raw) -> c_int;
    group_start: "ncclGroupStart", fn() -> c_int;
    group_end: "ncclGroupEnd", fn() -> c_int;
    all_reduce: "ncclAllReduce", fn(*const c_void, *mut c_void, usize, c_int, c_int, Raw, *mut c_void) -> c_int;
}

/// Statuses of the library.
mod status {
    use super::c_int;

    pub(super) const SUCCESS: c_int = 0;
    pub(super) const IN_PROGRESS: c_int = 7;
}

/// The library's number of the type of 32-bit floats.
const FLOAT32: c_int = 7;
/// The library's number of the operation that adds.
const SUM: c_int = 0;

/// The library, loaded.
pub struct Nccl {
    functions: Functions,
    /// File and version.
    pub found: Found,
}

/// Reason why the library is not used.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// The library cannot be opened.
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
    #[error("{} has no {symbol}: it is too old; version 2.18 is needed", path.display())]
    Symbol {
        /// The library's file.
        path: PathBuf,
        /// Name of the missing function.
        symbol: &'static str,
    },
    /// A version before 2.18.
    #[error("{} is version {}; version 2.18 is needed", .0.path.display(), .0.version.as_deref().unwrap_or("unknown"))]
    Version(Found),
}

/// Opens the library, once per process, and looks up all required functions.
///
/// # Errors
/// [`Unavailable`] says what is missing and how to get it.
pub fn library() -> Result<&'static Nccl, &'static Unavailable> {
    static LIBRARY: OnceLock<Result<Nccl, Unavailable>> = OnceLock::new();
    LIBRARY.get_or_init(|| open(&Places::of_process())).as_ref()
}

fn open(places: &Places) -> Result<Nccl, Unavailable> {
    let found = library::open(Library::Nccl, places)?;
    if Library::Nccl.is_too_old(found.version.as_deref()) {
        return Err(Unavailable::Version(found));
    }
    let path = || found.path.clone();
    // SAFETY: the library is loaded already, so that no initialiser runs.
    let loaded = unsafe { libloading::Library::new(&found.path) }
        .map_err(|reason| Unavailable::Reopen { path: path(), reason })?;
    // SAFETY: it was opened under NCCL's name, and is not unloaded.
    let functions = unsafe { Functions::of(&loaded) };
    std::mem::forget(loaded);
    let functions = functions.map_err(|symbol| Unavailable::Symbol { path: path(), symbol })?;
    Ok(Nccl { functions, found })
}

/// Error of the library, with the call that failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("NCCL: {call} failed with {status}")]
pub struct NcclError {
    /// Name of the call.
    pub call: &'static str,
    /// The library's description of the status.
    pub status: String,
}

impl Nccl {
    /// Checks the status of a call, which may still be in progress.
    fn check(&self, call: &'static str, status: c_int) -> Result<(), NcclError> {
        if matches!(status, status::SUCCESS | status::IN_PROGRESS) { Ok(()) } else { Err(self.error(call, status)) }
    }

    fn error(&self, call: &'static str, status: c_int) -> NcclError {
        // SAFETY: takes any number, and gives a string that is never freed.
        let text = unsafe { CStr::from_ptr((self.functions.get_error_string)(status)) };
        NcclError { call, status: format!("{} ({status})", text.to_string_lossy()) }
    }

    /// Creates the identifier of a communicator.
    ///
    /// # Errors
    /// The library's reason.
    pub fn unique_id(&self) -> Result<[u8; ID_BYTES], NcclError> {
        let mut id = Id([0; ID_BYTES]);
        // SAFETY: the identifier is written, as large as it is.
        self.check("ncclGetUniqueId", unsafe { (self.functions.get_unique_id)(&raw mut id) })?;
        Ok(id.0)
    }
}

/// A communicator of one rank with all others.
pub struct Communicator {
    raw: Raw,
    library: &'static Nccl,
}

// SAFETY: NCCL allows calls on a communicator from any thread, one at a time; it is not `Sync`, so that threads share it by a
// lock.
unsafe impl Send for Communicator {}

impl Communicator {
    /// Begins to form a communicator of `num_ranks` ranks on the current device. It is formed once [`Self::is_settled`].
    ///
    /// # Errors
    /// The library's reason.
    pub fn form(library: &'static Nccl, num_ranks: c_int, id: [u8; ID_BYTES], rank: c_int) -> Result<Self, NcclError> {
        let (mut raw, mut config) = (ptr::null_mut(), Config::non_blocking());
        // SAFETY: both pointers are to live values; the library reads as many bytes of the settings as their first field says.
        let started = unsafe {
            (library.functions.comm_init_rank_config)(&raw mut raw, num_ranks, Id(id), rank, &raw mut config)
        };
        library.check("ncclCommInitRankConfig", started)?;
        Ok(Self { raw, library })
    }

    /// Returns true if the last call, which is named `call` in an error, is queued; false while it is in progress.
    ///
    /// # Errors
    /// If the call failed.
    pub fn is_settled(&self, call: &'static str) -> Result<bool, NcclError> {
        let mut state = status::IN_PROGRESS;
        // SAFETY: the communicator is alive, and the state is written.
        let asked = unsafe { (self.library.functions.comm_get_async_error)(self.raw, &raw mut state) };
        self.library.check("ncclCommGetAsyncError", asked)?;
        self.library.check(call, state)?;
        Ok(state == status::SUCCESS)
    }

    /// Begins to queue one group of float sums on a stream: sources, targets, and numbers of values.
    ///
    /// # Errors
    /// The library's reason.
    ///
    /// # Safety
    /// Each source and target is a device pointer to that many floats, alive until the stream has passed the sums; the
    /// stream is a `CUstream` of the communicator's device.
    pub unsafe fn sum(&self, pointers: &[(u64, u64, usize)], stream: *mut c_void) -> Result<(), NcclError> {
        let functions = &self.library.functions;
        // SAFETY: takes nothing.
        self.library.check("ncclGroupStart", unsafe { (functions.group_start)() })?;
        let queued = pointers.iter().try_for_each(|&(from, to, count)| {
            // SAFETY: the caller's promise.
            let status = unsafe {
                (functions.all_reduce)(from as *const c_void, to as *mut c_void, count, FLOAT32, SUM, self.raw, stream)
            };
            self.library.check("ncclAllReduce", status)
        });
        // SAFETY: takes nothing; ends the group that was started, whatever failed in it.
        let ended = self.library.check("ncclGroupEnd", unsafe { (functions.group_end)() });
        queued.and(ended)
    }

    /// Ends the communicator and what waits on it, without waiting for other ranks.
    pub fn abort(self) {
        // SAFETY: the communicator is alive, and no longer used. Nothing can be done about a failure.
        let _ = unsafe { (self.library.functions.comm_abort)(self.raw) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_have_the_layout_of_the_header() {
        assert_eq!(size_of::<Config>(), 48);
        assert_eq!(std::mem::offset_of!(Config, net_name), 32);
        assert_eq!(size_of::<Id>(), ID_BYTES);
    }

    /// Identifiers are made without a device.
    #[test]
    #[ignore = "needs NCCL, such as the wheel nvidia-nccl-cu13 in the active Python environment; no device"]
    fn the_library_has_all_functions_and_makes_identifiers() {
        let library = library().unwrap_or_else(|reason| panic!("{reason}"));
        println!("{:?}", library.found);
        assert_ne!(library.unique_id().unwrap(), library.unique_id().unwrap());
    }

    #[test]
    #[ignore = "needs NCCL, such as the wheel nvidia-nccl-cu13 in the active Python environment; no device"]
    fn errors_are_told_in_the_librarys_words() {
        let library = library().unwrap_or_else(|reason| panic!("{reason}"));
        assert!(library.check("ncclAllReduce", status::IN_PROGRESS).is_ok());
        let error = library.check("ncclAllReduce", 4).unwrap_err().to_string();
        assert!(error.starts_with("NCCL: ncclAllReduce failed with ") && error.ends_with(" (4)"), "{error}");
    }

    /// Environment variable with the settings that only make calls return at once, as the library's header defines them,
    /// in hexadecimal digits.
    const HEADER: &str = "HIEND_NCCL_HEADER";

    #[test]
    #[ignore = "needs NCCL and its header, and a machine without a device: tests/gpu/nccl DIR"]
    fn settings_are_those_of_the_header_and_a_missing_device_is_an_error() {
        let digits = std::env::var(HEADER).expect("tests/gpu/nccl sets HIEND_NCCL_HEADER");
        let theirs: Vec<u8> =
            (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect();
        let settings = Config::non_blocking();
        let end = std::mem::offset_of!(Config, split_share) + size_of::<c_int>();
        // SAFETY: the fields up to `end` have no padding between them.
        let ours = unsafe { std::slice::from_raw_parts((&raw const settings).cast::<u8>(), end) };
        // Size and version differ between versions of the library, which append settings at the end.
        let magic = std::mem::offset_of!(Config, magic)..std::mem::offset_of!(Config, version);
        let values = std::mem::offset_of!(Config, blocking)..end;
        assert_eq!(ours[magic.clone()], theirs[magic]);
        assert_eq!(ours[values.clone()], theirs[values]);

        let library = library().unwrap_or_else(|reason| panic!("{reason}"));
        let formed = Communicator::form(library, 1, library.unique_id().unwrap(), 0);
        let Err(error) = formed else { panic!("this machine has a device: run the tests on it instead") };
        // ncclUnhandledCudaError.
        assert!(error.call == "ncclCommInitRankConfig" && error.status.ends_with(" (1)"), "{error}");
    }
}
