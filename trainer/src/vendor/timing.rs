//! Measures the time of calls of vendor libraries on the device, with a pair of the driver's events around each call.
//!
//! `CubeCL`'s own profile contains only its own kernels. Events cost a few microseconds each, and are recorded only
//! inside [`timed`].

use std::sync::{Mutex, MutexGuard, PoisonError};

/// One call of a library.
#[derive(Clone, Debug, PartialEq)]
pub struct VendorCall {
    /// Operation, sizes and types, such as `product 12384x6144x1536 bf16`.
    pub name: String,
    /// Time on the device, in seconds.
    pub secs: f64,
}

/// A call whose events are recorded, to be read once the device is done.
#[cfg(feature = "cuda")]
struct Pending {
    name: String,
    /// Addresses of `CUevent`s, which belong to a context rather than to a thread.
    events: [usize; 2],
    /// Address of the events' context.
    context: usize,
}

struct Recorder {
    active: bool,
    #[cfg(feature = "cuda")]
    pending: Vec<Pending>,
}

fn recorder() -> MutexGuard<'static, Recorder> {
    static RECORDER: Mutex<Recorder> = Mutex::new(Recorder {
        active: false,
        #[cfg(feature = "cuda")]
        pending: Vec::new(),
    });
    RECORDER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `work`, which must wait for the device before it returns, and returns its library calls in order. Empty in
/// builds without CUDA. Includes calls of other threads in the meantime.
pub fn timed<R>(work: impl FnOnce() -> R) -> (R, Vec<VendorCall>) {
    recorder().active = true;
    let result = work();
    let calls = {
        let mut recorder = recorder();
        recorder.active = false;
        #[cfg(feature = "cuda")]
        let calls = std::mem::take(&mut recorder.pending).into_iter().filter_map(events::read).collect();
        #[cfg(not(feature = "cuda"))]
        let calls = vec![];
        calls
    };
    (result, calls)
}

#[cfg(feature = "cuda")]
pub(super) use events::around;

#[cfg(feature = "cuda")]
mod events {
    use super::{Pending, VendorCall, recorder};
    use cudarc::driver::result::{ctx, event};
    use cudarc::driver::sys::{CUcontext, CUevent, CUevent_flags, CUstream, cuEventDestroy_v2, cuEventSynchronize};

    /// Runs `call`, which queues work on `stream`, between two events if calls are being timed. Called on the device's
    /// thread, with its context current.
    pub(crate) fn around<R>(name: impl FnOnce() -> String, stream: CUstream, call: impl FnOnce() -> R) -> R {
        if !recorder().active {
            return call();
        }
        let record = || {
            let event = event::create(CUevent_flags::CU_EVENT_DEFAULT).ok()?;
            // SAFETY: the event was just created in the current context, which is the stream's.
            unsafe { event::record(event, stream) }.ok()?;
            Some(event as usize)
        };
        let start = record();
        let result = call();
        if let (Some(start), Some(end), Ok(Some(context))) = (start, record(), ctx::get_current()) {
            recorder().pending.push(Pending { name: name(), events: [start, end], context: context as usize });
        }
        result
    }

    /// Reads and destroys a call's events; `None` if the driver refuses, as for a call that failed.
    pub(super) fn read(pending: Pending) -> Option<VendorCall> {
        let [start, end] = pending.events.map(|event| event as CUevent);
        // SAFETY: the context is the device's primary one, which CubeCL keeps until the process ends. The events were
        // created and recorded in it by `around`, are read here alone, and are destroyed once.
        unsafe {
            ctx::set_current(pending.context as CUcontext).ok()?;
            let waited = cuEventSynchronize(end).result();
            let millis = waited.and_then(|()| event::elapsed(start, end));
            let _ = (cuEventDestroy_v2(start), cuEventDestroy_v2(end));
            Some(VendorCall { name: pending.name, secs: f64::from(millis.ok()?) / 1e3 })
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn without_a_device_nothing_is_timed_and_the_result_is_passed_on() {
        let (result, calls) = super::timed(|| 7);
        assert_eq!(result, 7);
        assert!(calls.is_empty());
    }
}
