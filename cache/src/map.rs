//! Read-only memory maps that survive the loss of their file. The only module of this crate with `unsafe` code.
//!
//! # Contract
//! A page of a map whose file was truncated, or whose sector cannot be read, raises SIGBUS in the thread that touches
//! it, which by default kills the process without a message. Shards are write-once, so this never happens in our own use
//! of them; a copy onto a shard in place, an `rsync --inplace` or a failing disk can do it.
//!
//! The first map installs a handler for SIGBUS, process-wide. For an address inside one of our maps it puts a page of
//! zeros in place of the lost one, marks the map as lost and returns, so that the read continues and [`Map::check`]
//! reports an error. Every read must therefore be followed by [`Map::check`] before its result is used; `Storage` and
//! `RemoteFile` do that. Any other SIGBUS goes to the handler that was installed before, or to the default action.
//!
//! The handler uses atomics, `mmap` and `sigaction`, no allocation and no lock. A handler that another library installs
//! later replaces this one; then the default action is that library's.

#![expect(unsafe_code, reason = "memory maps and a signal handler; see the contract above")]

use std::fs::File;
use std::io;

use memmap2::Mmap;

/// A read-only map of a whole file.
#[derive(Debug)]
pub(crate) struct Map {
    // Unmapped after `Drop::drop` has withdrawn the registration.
    map: Mmap,
    #[cfg(unix)]
    registration: &'static signal::Registration,
}

impl Map {
    /// Maps a file.
    pub(crate) fn new(file: &File) -> io::Result<Self> {
        // SAFETY: shards are write-once: they get their name by a rename after everything is on disk, and this crate
        // never opens a named shard for writing, so the bytes do not change while the map exists. Should another
        // program truncate the file, `signal` replaces the lost pages by zeros and `check` reports it.
        let map = unsafe { Mmap::map(file)? };
        Ok(Self {
            #[cfg(unix)]
            registration: signal::register(map.as_ptr().addr(), map.len())?,
            map,
        })
    }

    /// The mapped bytes. A result computed from them is valid only if [`Self::check`] succeeds afterwards.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Fails if a page was lost since the map was made.
    ///
    /// # Errors
    /// If any page was lost.
    pub(crate) fn check(&self) -> io::Result<()> {
        #[cfg(unix)]
        if self.registration.is_lost() {
            let reason = "truncated while it was mapped, or unreadable on its disk";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, reason));
        }
        Ok(())
    }

    /// Advises the system that a range, cut to the map, will be read soon.
    pub(crate) fn will_need(&self, start: usize, len: usize) {
        #[cfg(unix)]
        {
            let len = len.min(self.map.len().saturating_sub(start));
            if len > 0 {
                // Advice: a failure costs time, not correctness.
                let _ = self.map.advise_range(memmap2::Advice::WillNeed, start, len);
            }
        }
        #[cfg(not(unix))]
        let _ = (start, len);
    }
}

#[cfg(unix)]
impl Drop for Map {
    fn drop(&mut self) {
        self.registration.withdraw();
    }
}

#[cfg(unix)]
mod signal {
    //! The SIGBUS handler, and the list of maps in which it looks up addresses.

    use std::io;
    use std::ptr;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

    /// Address range of one map. Never freed, so that the handler may read it at any time; reused after `withdraw`.
    #[derive(Debug)]
    pub(super) struct Registration {
        start: AtomicUsize,
        /// Zero while the registration is not in use.
        len: AtomicUsize,
        lost: AtomicBool,
        taken: AtomicBool,
        next: *const Registration,
    }

    // SAFETY: `next` is written before the registration is published and never changes; everything else is atomic.
    unsafe impl Sync for Registration {}
    // SAFETY: as for `Sync`.
    unsafe impl Send for Registration {}

    static FIRST: AtomicPtr<Registration> = AtomicPtr::new(ptr::null_mut());
    static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();
    static PAGE_LEN: AtomicUsize = AtomicUsize::new(0);

    impl Registration {
        /// Returns `true` if a page of the map was lost.
        pub(super) fn is_lost(&self) -> bool {
            self.lost.load(Ordering::Acquire)
        }

        /// Ends the registration of a map that is about to be unmapped and that no thread reads.
        pub(super) fn withdraw(&self) {
            self.len.store(0, Ordering::Release);
            self.taken.store(false, Ordering::Release);
        }

        fn contains(&self, address: usize) -> bool {
            let len = self.len.load(Ordering::Acquire);
            address.checked_sub(self.start.load(Ordering::Acquire)).is_some_and(|offset| offset < len)
        }
    }

    /// Iterates over all registrations, used and unused.
    fn registrations() -> impl Iterator<Item = &'static Registration> {
        let mut next: *const Registration = FIRST.load(Ordering::Acquire);
        std::iter::from_fn(move || {
            // SAFETY: null or a registration, which is never freed.
            let registration = unsafe { next.as_ref() }?;
            next = registration.next;
            Some(registration)
        })
    }

    /// Registers a map and installs the handler if it is the first.
    pub(super) fn register(start: usize, len: usize) -> io::Result<&'static Registration> {
        install()?;
        // Looked at before it is written: thousands of blocks of a disk cache may be mapped at a time.
        let is_free = |registration: &&Registration| {
            !registration.taken.load(Ordering::Relaxed) && !registration.taken.swap(true, Ordering::AcqRel)
        };
        let free = registrations().find(is_free);
        let registration = free.unwrap_or_else(add);
        registration.lost.store(false, Ordering::Release);
        registration.start.store(start, Ordering::Release);
        registration.len.store(len, Ordering::Release);
        Ok(registration)
    }

    /// Adds a taken registration to the list.
    fn add() -> &'static Registration {
        let new = Box::leak(Box::new(Registration {
            start: AtomicUsize::new(0),
            len: AtomicUsize::new(0),
            lost: AtomicBool::new(false),
            taken: AtomicBool::new(true),
            next: ptr::null(),
        }));
        let mut first = FIRST.load(Ordering::Acquire);
        loop {
            new.next = first;
            match FIRST.compare_exchange(first, new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return new,
                Err(now) => first = now,
            }
        }
    }

    /// Installs the handler once per process.
    fn install() -> io::Result<()> {
        static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
        let installed = INSTALLED.get_or_init(|| {
            // SAFETY: `sysconf` has no preconditions. Both structures are valid for the calls, and all-zero is a valid
            // `sigaction`. The handler fulfils the contract of a signal handler, see the module's head. `PREVIOUS` is
            // set before the handler can run.
            unsafe {
                let page_len = usize::try_from(libc::sysconf(libc::_SC_PAGESIZE)).unwrap_or(4096);
                PAGE_LEN.store(page_len, Ordering::Release);
                let mut previous: libc::sigaction = std::mem::zeroed();
                if libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut previous) != 0 {
                    return Err(io::Error::last_os_error().raw_os_error().unwrap_or_default());
                }
                PREVIOUS.get_or_init(|| previous);
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = handle as *const () as usize;
                // On the alternate stack, because the standard library reports stack overflows through this signal too.
                action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
                libc::sigemptyset(&raw mut action.sa_mask);
                if libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) != 0 {
                    return Err(io::Error::last_os_error().raw_os_error().unwrap_or_default());
                }
            }
            Ok(())
        });
        installed.map_err(io::Error::from_raw_os_error)
    }

    /// Replaces a lost page of one of our maps by zeros; passes every other signal on.
    extern "C" fn handle(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        // SAFETY: the system passes a valid `siginfo_t` to a handler with `SA_SIGINFO`, and for a SIGBUS it raised itself
        // (positive code) the address is set. The faulting page lies in a map of ours, which a thread is reading and so
        // cannot be unmapped now; replacing one page of it by a private page of zeros keeps every borrow of it valid.
        unsafe {
            if (*info).si_code > 0 {
                let address = (*info).si_addr().addr();
                let mut is_ours = false;
                // All of them: one that another thread is just reusing may seem to contain the address as well.
                for registration in registrations().filter(|registration| registration.contains(address)) {
                    registration.lost.store(true, Ordering::Release);
                    is_ours = true;
                }
                if is_ours {
                    let page_len = PAGE_LEN.load(Ordering::Acquire);
                    let page = address & !(page_len - 1);
                    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
                    let at = ptr::with_exposed_provenance_mut(page);
                    if libc::mmap(at, page_len, libc::PROT_READ, flags, -1, 0) != libc::MAP_FAILED {
                        return;
                    }
                }
            }
            pass_on(signal, info, context);
        }
    }

    /// Calls the handler that was installed before, or has the signal raised again under the default action.
    ///
    /// # Safety
    /// To be called from a signal handler with its own arguments.
    unsafe fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        let previous = PREVIOUS.get();
        let handler = previous.map_or(libc::SIG_DFL, |previous| previous.sa_sigaction);
        let with_info = previous.is_some_and(|previous| previous.sa_flags & libc::SA_SIGINFO != 0);
        // SAFETY: a value other than the two constants is the address of a handler of the kind that its flags say.
        unsafe {
            match handler {
                libc::SIG_DFL | libc::SIG_IGN => {
                    // The instruction runs again, or the pending signal is delivered, and ends the process.
                    libc::signal(signal, libc::SIG_DFL);
                    if (*info).si_code <= 0 {
                        libc::raise(signal);
                    }
                }
                address if with_info => {
                    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                        std::mem::transmute(ptr::with_exposed_provenance::<()>(address));
                    handler(signal, info, context);
                }
                address => {
                    let handler: extern "C" fn(libc::c_int) =
                        std::mem::transmute(ptr::with_exposed_provenance::<()>(address));
                    handler(signal);
                }
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn registration_is_reused_and_starts_anew() {
            let mine = |start| registrations().filter(move |r| r.contains(start)).count();
            // Addresses of no map.
            let first = register(8, 100).unwrap();
            assert!(first.contains(8) && first.contains(107) && !first.contains(108) && !first.contains(7));
            first.lost.store(true, Ordering::Release);
            first.withdraw();
            assert_eq!(mine(8), 0);
            let again = register(8, 100).unwrap();
            assert!(!again.is_lost());
            assert_eq!(mine(8), 1);
            again.withdraw();
        }
    }
}
