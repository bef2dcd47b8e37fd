//! The driver's functions for modules of kernels, and their launches.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::{FAULT, ILLEGAL_ADDRESS, INVALID_PTX, INVALID_VALUE, NOT_FOUND, SUCCESS, Status, out, says, state};
use crate::kernel::{Kernel, Module};
use crate::machine::{Launch, run};
use crate::{memory, parse, settings};

/// Bytes of shared memory that a cube may have, and that it may have where the program asks for them.
pub(super) const SHARED_BYTES: usize = 48 << 10;
pub(super) const MOST_SHARED_BYTES: usize = 227 << 10;

/// Loads PTX text that ends with a zero.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuModuleLoadData(module: *mut *mut Module, image: *const c_char) -> Status {
    let text = unsafe { CStr::from_ptr(image) }.to_string_lossy();
    if let Some(folder) = settings::ptx_folder() {
        // Named after the kernel, which is unlike others.
        let name =
            text.split_once(".entry ").map_or("none", |(_, rest)| rest.split(['(', ' ']).next().unwrap_or("none"));
        let file = folder.join(format!("{name}.ptx"));
        std::fs::write(file, text.as_bytes()).unwrap_or_else(|error| says(&format!("EMULATOR_PTX: {error}")));
    }
    match parse::module(&text) {
        Ok(loaded) => unsafe { out(module, Box::into_raw(Box::new(loaded))) },
        Err(reason) => {
            says(&format!("a module that cannot be loaded: {reason}"));
            INVALID_PTX
        }
    }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuModuleUnload(module: *mut Module) -> Status {
    drop(unsafe { Box::from_raw(module) });
    SUCCESS
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuModuleGetFunction(
    function: *mut *const Kernel,
    module: *mut Module,
    name: *const c_char,
) -> Status {
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
    match unsafe { &*module }.kernels.get(&*name) {
        Some(kernel) => unsafe { out(function, Arc::as_ptr(kernel)) },
        None => NOT_FOUND,
    }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuFuncSetAttribute(function: *const Kernel, attribute: c_uint, value: c_int) -> Status {
    // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8.
    if attribute != 8 {
        return SUCCESS;
    }
    let kernel = unsafe { &*function };
    match usize::try_from(value) {
        Ok(bytes) if bytes + kernel.shared_bytes <= MOST_SHARED_BYTES => {
            kernel.dynamic_limit.store(bytes, Ordering::Relaxed);
            SUCCESS
        }
        _ => INVALID_VALUE,
    }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuFuncGetAttribute(
    value: *mut c_int,
    _attribute: c_uint,
    _function: *const Kernel,
) -> Status {
    unsafe { out(value, 0) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuLaunchKernel(
    function: *const Kernel,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared_bytes: c_uint,
    _stream: usize,
    params: *const *const c_void,
    _extra: *const c_void,
) -> Status {
    if state() != SUCCESS {
        return state();
    }
    let kernel = unsafe { &*function };
    let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
    let threads = block.iter().map(|&n| u64::from(n)).product::<u64>();
    let is_within = threads <= kernel.max_threads.min(1024) && block_z <= 64 && grid_y <= 65_535 && grid_z <= 65_535;
    if grid.contains(&0) || block.contains(&0) || !is_within {
        says(&format!("{}: a launch of {grid:?} cubes of {block:?} threads", kernel.name));
        return INVALID_VALUE;
    }
    let dynamic_bytes = shared_bytes as usize;
    let own_limit = kernel.dynamic_limit.load(Ordering::Relaxed);
    let is_granted = dynamic_bytes <= own_limit || dynamic_bytes + kernel.shared_bytes <= SHARED_BYTES;
    if !is_granted || dynamic_bytes + kernel.shared_bytes > MOST_SHARED_BYTES {
        says(&format!("{}: {dynamic_bytes} bytes of dynamic shared memory, with a limit of {own_limit}", kernel.name));
        return INVALID_VALUE;
    }
    let bytes = kernel.params.last().map_or(0, |(start, bytes)| start + bytes);
    let mut values = vec![0u8; bytes];
    for (index, &(start, bytes)) in kernel.params.iter().enumerate() {
        // SAFETY: the caller passes a pointer for each of the kernel's parameters.
        unsafe {
            let value = (*params.add(index)).cast::<u8>();
            values[start..start + bytes].copy_from_slice(std::slice::from_raw_parts(value, bytes));
        }
    }
    // Burn measures the device's bandwidth by kernels that only spend time.
    if kernel.name.contains("throughput") || settings::skips() {
        return SUCCESS;
    }
    let started = Instant::now();
    let launch = Launch { kernel, grid, block, dynamic_bytes, params: &values, ranges: memory::ranges() };
    let result = run(&launch);
    if settings::traces() {
        says(&format!("{} {grid:?} x {block:?} in {:.3} s", kernel.name, started.elapsed().as_secs_f64()));
    }
    if let Err(reason) = result {
        says(&reason);
        FAULT.store(ILLEGAL_ADDRESS, Ordering::Relaxed);
    }
    state()
}
