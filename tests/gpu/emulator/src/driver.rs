//! The driver's functions, as `CubeCL` and the trainer call them. All work is done when it is queued.

mod launch;

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use self::launch::{MOST_SHARED_BYTES, SHARED_BYTES};
use crate::memory;
use crate::settings::{devices, memory_bytes};

type Status = c_int;

const SUCCESS: Status = 0;
const INVALID_VALUE: Status = 1;
const OUT_OF_MEMORY: Status = 2;
const INVALID_DEVICE: Status = 101;
const INVALID_PTX: Status = 218;
const NOT_FOUND: Status = 500;
const ILLEGAL_ADDRESS: Status = 700;
const NOT_SUPPORTED: Status = 801;

/// The first fault of a kernel, which all later calls return.
static FAULT: AtomicI32 = AtomicI32::new(SUCCESS);

fn state() -> Status {
    FAULT.load(Ordering::Relaxed)
}

fn says(what: &str) {
    eprintln!("CUDA emulator: {what}");
}

unsafe fn out<T>(to: *mut T, value: T) -> Status {
    // SAFETY: the caller of the driver passes a place for its result.
    unsafe { to.write(value) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuInit(_flags: c_uint) -> Status {
    SUCCESS
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> Status {
    unsafe { out(version, 13_000) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> Status {
    unsafe { out(count, devices()) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> Status {
    if (0..devices()).contains(&ordinal) { unsafe { out(device, ordinal) } } else { INVALID_DEVICE }
}

unsafe fn text(to: *mut c_char, len: c_int, text: &str) -> Status {
    let Some(room) = usize::try_from(len).ok().and_then(|len| len.checked_sub(1)) else { return INVALID_VALUE };
    let count = text.len().min(room);
    // SAFETY: the caller's buffer has `len` bytes.
    unsafe {
        to.cast::<u8>().copy_from(text.as_ptr(), count);
        to.add(count).write(0);
    }
    SUCCESS
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, len: c_int, _device: c_int) -> Status {
    unsafe { text(name, len, "CUDA emulator") }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuDeviceGetPCIBusId(id: *mut c_char, len: c_int, device: c_int) -> Status {
    unsafe { text(id, len, &format!("0000:{:02x}:00.0", device + 1)) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, _device: c_int) -> Status {
    unsafe { out(bytes, memory_bytes() as usize) }
}

/// Attributes of an H200, by their numbers in `CUdevice_attribute`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_uint, _device: c_int) -> Status {
    let number = match attribute {
        1..=3 => 1024,
        4 => 64,
        5 => c_int::MAX,
        6 | 7 => 65_535,
        8 => SHARED_BYTES as c_int,
        10 => 32,
        9 | 12 | 82 => 65_536,
        13 => 1_980_000,
        16 => 132,
        36 => 3_201_000,
        37 => 6144,
        38 => 50 << 20,
        39 => 2048,
        75 => 9,
        81 => 228 << 10,
        97 => MOST_SHARED_BYTES as c_int,
        // Memory pools, unified addresses, cooperative launches and the like.
        41 | 83 | 85 | 95 | 115 => 1,
        _ => 0,
    };
    unsafe { out(value, number) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuDeviceCanAccessPeer(value: *mut c_int, _device: c_int, _peer: c_int) -> Status {
    unsafe { out(value, 1) }
}

// Contexts are the numbers of devices, plus one.

thread_local! {
    static CONTEXT: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut usize, device: c_int) -> Status {
    unsafe { out(context, device as usize + 1) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuDevicePrimaryCtxRelease_v2(_device: c_int) -> Status {
    SUCCESS
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuCtxSetCurrent(context: usize) -> Status {
    CONTEXT.set(context);
    SUCCESS
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuCtxGetCurrent(context: *mut usize) -> Status {
    unsafe { out(context, CONTEXT.get()) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuCtxGetDevice(device: *mut c_int) -> Status {
    match CONTEXT.get() {
        0 => 201,
        context => unsafe { out(device, context as c_int - 1) },
    }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuCtxSynchronize() -> Status {
    state()
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuCtxEnablePeerAccess(_peer: usize, _flags: c_uint) -> Status {
    SUCCESS
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int) -> Status {
    unsafe {
        out(least, 0);
        out(greatest, -5)
    }
}

/// Creates a stream, which is a number, if the thread has a context.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuStreamCreate(stream: *mut usize, _flags: c_uint) -> Status {
    static NEXT: AtomicU64 = AtomicU64::new(0x1000);
    match CONTEXT.get() {
        0 => 201,
        _ => unsafe { out(stream, NEXT.fetch_add(16, Ordering::Relaxed) as usize) },
    }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuStreamCreateWithPriority(
    stream: *mut usize,
    flags: c_uint,
    _priority: c_int,
) -> Status {
    unsafe { cuStreamCreate(stream, flags) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuStreamDestroy_v2(_stream: usize) -> Status {
    SUCCESS
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuStreamSynchronize(_stream: usize) -> Status {
    state()
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuStreamQuery(_stream: usize) -> Status {
    state()
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuStreamWaitEvent(_stream: usize, event: *const Event, _flags: c_uint) -> Status {
    if event.is_null() { INVALID_VALUE } else { state() }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuStreamIsCapturing(_stream: usize, status: *mut c_int) -> Status {
    unsafe { out(status, 0) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuStreamBeginCapture_v2(_stream: usize, _mode: c_uint) -> Status {
    NOT_SUPPORTED
}

/// An event: when it was last recorded.
pub(crate) struct Event(Mutex<Option<Instant>>);

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuEventCreate(event: *mut *mut Event, _flags: c_uint) -> Status {
    unsafe { out(event, Box::into_raw(Box::new(Event(Mutex::new(None))))) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuEventDestroy_v2(event: *mut Event) -> Status {
    drop(unsafe { Box::from_raw(event) });
    SUCCESS
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuEventRecord(event: *mut Event, _stream: usize) -> Status {
    *unsafe { &*event }.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    state()
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuEventSynchronize(_event: *mut Event) -> Status {
    state()
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuEventQuery(_event: *mut Event) -> Status {
    state()
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuEventElapsedTime_v2(ms: *mut f32, start: *mut Event, end: *mut Event) -> Status {
    let [start, end] = [start, end].map(|event| *unsafe { &*event }.0.lock().unwrap_or_else(PoisonError::into_inner));
    match (start, end) {
        (Some(start), Some(end)) => unsafe { out(ms, end.saturating_duration_since(start).as_secs_f32() * 1e3) },
        _ => 400,
    }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuEventElapsedTime(ms: *mut f32, start: *mut Event, end: *mut Event) -> Status {
    unsafe { cuEventElapsedTime_v2(ms, start, end) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> Status {
    match memory::allocate(bytes, memory_bytes()) {
        Some(start) => unsafe { out(address, start) },
        None => OUT_OF_MEMORY,
    }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuMemAllocAsync(address: *mut u64, bytes: usize, _stream: usize) -> Status {
    unsafe { cuMemAlloc_v2(address, bytes) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuMemFree_v2(address: u64) -> Status {
    if address == 0 || memory::free(address) { state() } else { INVALID_VALUE }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuMemFreeAsync(address: u64, _stream: usize) -> Status {
    unsafe { cuMemFree_v2(address) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> Status {
    let (used, _) = memory::in_use();
    unsafe {
        out(free, (memory_bytes() - used) as usize);
        out(total, memory_bytes() as usize)
    }
}

/// Pinned memory: an allocation with its size before it.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuMemAllocHost_v2(to: *mut *mut c_void, bytes: usize) -> Status {
    let layout = std::alloc::Layout::from_size_align(bytes + 4096, 4096).expect("a power of two");
    unsafe {
        let start = std::alloc::alloc(layout);
        if start.is_null() {
            return OUT_OF_MEMORY;
        }
        start.cast::<usize>().write_unaligned(bytes);
        out(to, start.add(4096).cast())
    }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuMemFreeHost(memory: *mut c_void) -> Status {
    unsafe {
        let start = memory.cast::<u8>().sub(4096);
        let bytes = start.cast::<usize>().read_unaligned();
        std::alloc::dealloc(start, std::alloc::Layout::from_size_align(bytes + 4096, 4096).expect("a power of two"));
    }
    SUCCESS
}

/// True if a range is within one allocation of the device.
fn is_of_device(address: u64, bytes: usize) -> bool {
    memory::range_of(&memory::ranges(), address, bytes as u64).is_some()
}

fn copies(name: &str, from: u64, to: u64, bytes: usize, of_device: &[u64]) -> Status {
    if bytes == 0 || state() != SUCCESS {
        return state();
    }
    if let Some(address) = of_device.iter().find(|&&address| !is_of_device(address, bytes)) {
        says(&format!("{name}: {bytes} bytes at {address:#x} are in no allocation of the device"));
        return INVALID_VALUE;
    }
    // SAFETY: the device's side is within an allocation, the host's is the caller's.
    unsafe { (to as *mut u8).copy_from(from as *const u8, bytes) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuMemcpyHtoDAsync_v2(to: u64, from: u64, bytes: usize, _stream: usize) -> Status {
    copies("cuMemcpyHtoDAsync", from, to, bytes, &[to])
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuMemcpyDtoHAsync_v2(to: u64, from: u64, bytes: usize, _stream: usize) -> Status {
    copies("cuMemcpyDtoHAsync", from, to, bytes, &[from])
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, _stream: usize) -> Status {
    copies("cuMemcpyDtoDAsync", from, to, bytes, &[from, to])
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuMemcpyPeerAsync(
    to: u64,
    _to_context: usize,
    from: u64,
    _from_context: usize,
    bytes: usize,
    _stream: usize,
) -> Status {
    copies("cuMemcpyPeerAsync", from, to, bytes, &[from, to])
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuMemsetD8Async(to: u64, value: u8, bytes: usize, _stream: usize) -> Status {
    if bytes == 0 || state() != SUCCESS {
        return state();
    }
    if !is_of_device(to, bytes) {
        says(&format!("cuMemsetD8Async: {bytes} bytes at {to:#x} are in no allocation of the device"));
        return INVALID_VALUE;
    }
    unsafe { (to as *mut u8).write_bytes(value, bytes) };
    SUCCESS
}

/// `CUDA_MEMCPY2D`.
#[repr(C)]
pub(crate) struct Copy2D {
    src_x: usize,
    src_y: usize,
    src_type: c_uint,
    src_host: u64,
    src_device: u64,
    src_array: u64,
    src_pitch: usize,
    dst_x: usize,
    dst_y: usize,
    dst_type: c_uint,
    dst_host: u64,
    dst_device: u64,
    dst_array: u64,
    dst_pitch: usize,
    width: usize,
    height: usize,
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuMemcpy2DAsync_v2(copy: *const Copy2D, _stream: usize) -> Status {
    let copy = unsafe { &*copy };
    // CU_MEMORYTYPE_HOST = 1, CU_MEMORYTYPE_DEVICE = 2.
    let start = |kind, host, device| if kind == 1 { host } else { device };
    let from = start(copy.src_type, copy.src_host, copy.src_device);
    let to = start(copy.dst_type, copy.dst_host, copy.dst_device);
    for row in 0..copy.height {
        let from = from + ((copy.src_y + row) * copy.src_pitch + copy.src_x) as u64;
        let to = to + ((copy.dst_y + row) * copy.dst_pitch + copy.dst_x) as u64;
        let sides = [(copy.src_type, from), (copy.dst_type, to)];
        let of_device: Vec<u64> = sides.iter().filter(|(kind, _)| *kind == 2).map(|(_, address)| *address).collect();
        let status = copies("cuMemcpy2DAsync", from, to, copy.width, &of_device);
        if status != SUCCESS {
            return status;
        }
    }
    SUCCESS
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuGetErrorName(status: Status, text: *mut *const c_char) -> Status {
    let name = match status {
        SUCCESS => c"CUDA_SUCCESS",
        INVALID_VALUE => c"CUDA_ERROR_INVALID_VALUE",
        OUT_OF_MEMORY => c"CUDA_ERROR_OUT_OF_MEMORY",
        INVALID_DEVICE => c"CUDA_ERROR_INVALID_DEVICE",
        INVALID_PTX => c"CUDA_ERROR_INVALID_PTX",
        NOT_FOUND => c"CUDA_ERROR_NOT_FOUND",
        ILLEGAL_ADDRESS => c"CUDA_ERROR_ILLEGAL_ADDRESS",
        NOT_SUPPORTED => c"CUDA_ERROR_NOT_SUPPORTED",
        _ => c"CUDA_ERROR",
    };
    unsafe { out(text, name.as_ptr()) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuGetErrorString(status: Status, text: *mut *const c_char) -> Status {
    unsafe { cuGetErrorName(status, text) }
}
