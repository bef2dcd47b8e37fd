//! Memory of the device: allocations on the host whose bounds are known, and the windows of other spaces.

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Where the window of shared memory begins among generic addresses; dynamic memory comes first.
pub(crate) const SHARED: u64 = 1 << 60;
/// Offset of shared memory of a size that the kernel states.
pub(crate) const STATIC: u64 = 1 << 19;
/// Where the window of a thread's local memory begins.
pub(crate) const LOCAL: u64 = 1 << 61;

/// Alignment of allocations, as the driver's.
const ALIGNMENT: usize = 512;
/// Bytes up to which new memory is filled with ones, so that a value that nothing has written is not a number. Larger
/// allocations are zeros.
const FILLED: usize = 1 << 28;

/// Ranges of addresses, by their first byte.
pub(crate) type Ranges = Arc<BTreeMap<u64, u64>>;

static RANGES: Mutex<Option<Ranges>> = Mutex::new(None);
static PEAK: Mutex<(u64, u64)> = Mutex::new((0, 0));

fn with<T>(change: impl FnOnce(&mut BTreeMap<u64, u64>) -> T) -> T {
    let mut ranges = RANGES.lock().unwrap_or_else(PoisonError::into_inner);
    change(Arc::make_mut(ranges.get_or_insert_default()))
}

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes.max(1), ALIGNMENT).expect("a power of two")
}

/// Allocates device memory; `None` if `limit` is exceeded.
pub(crate) fn allocate(bytes: usize, limit: u64) -> Option<u64> {
    {
        let mut peak = PEAK.lock().unwrap_or_else(PoisonError::into_inner);
        if peak.0 + bytes as u64 > limit {
            return None;
        }
        peak.0 += bytes as u64;
        peak.1 = peak.1.max(peak.0);
    }
    // SAFETY: the layout is not empty.
    let start = unsafe { if bytes <= FILLED { alloc(layout(bytes)) } else { alloc_zeroed(layout(bytes)) } };
    if start.is_null() {
        return None;
    }
    if bytes <= FILLED {
        // SAFETY: just allocated with this size.
        unsafe { start.write_bytes(0xFF, bytes) };
    }
    with(|ranges| ranges.insert(start as u64, bytes as u64));
    Some(start as u64)
}

/// Frees device memory; false if the address is not an allocation's.
pub(crate) fn free(start: u64) -> bool {
    let Some(bytes) = with(|ranges| ranges.remove(&start)) else { return false };
    PEAK.lock().unwrap_or_else(PoisonError::into_inner).0 -= bytes;
    // SAFETY: allocated by `allocate` with this layout, and removed from the table.
    unsafe { dealloc(start as *mut u8, layout(bytes as usize)) };
    true
}

/// Bytes allocated now, and at most.
pub(crate) fn in_use() -> (u64, u64) {
    *PEAK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All allocations as they are now.
pub(crate) fn ranges() -> Ranges {
    RANGES.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default().clone()
}

/// The allocation that holds `len` bytes from `address`.
pub(crate) fn range_of(ranges: &BTreeMap<u64, u64>, address: u64, len: u64) -> Option<(u64, u64)> {
    let (&start, &bytes) = ranges.range(..=address).next_back()?;
    (address + len <= start + bytes).then_some((start, start + bytes))
}
