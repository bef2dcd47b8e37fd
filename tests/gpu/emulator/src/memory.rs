//! Memory of the device: allocations on the host whose bounds are known, and the windows of other spaces.

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::settings;

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

/// Room for an allocation at any alignment. That of the layout is small, because only such memory is zero without being touched.
fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes + ALIGNMENT, 16).expect("a power of two")
}

/// Where the memory of each allocation begins that was taken from the host.
static BASES: Mutex<BTreeMap<u64, u64>> = Mutex::new(BTreeMap::new());

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
    let is_filled = bytes <= FILLED && !settings::skips();
    // SAFETY: the layout is not empty.
    let start = unsafe { if is_filled { alloc(layout(bytes)) } else { alloc_zeroed(layout(bytes)) } };
    if start.is_null() {
        return None;
    }
    let base = start as u64;
    // SAFETY: the layout has room for the shift.
    let start = unsafe { start.add(base.next_multiple_of(ALIGNMENT as u64).abs_diff(base) as usize) };
    BASES.lock().unwrap_or_else(PoisonError::into_inner).insert(start as u64, base);
    if is_filled {
        // SAFETY: just allocated with this size.
        unsafe { start.write_bytes(0xFF, bytes) };
    }
    with(|ranges| ranges.insert(start as u64, bytes as u64));
    Some(start as u64)
}

/// Frees device memory; false if the address is not an allocation's.
pub(crate) fn free(start: u64) -> bool {
    let Some(bytes) = with(|ranges| ranges.remove(&start)) else { return false };
    let Some(base) = BASES.lock().unwrap_or_else(PoisonError::into_inner).remove(&start) else { return false };
    PEAK.lock().unwrap_or_else(PoisonError::into_inner).0 -= bytes;
    // SAFETY: allocated by `allocate` with this layout, and removed from the table.
    unsafe { dealloc(base as *mut u8, layout(bytes as usize)) };
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
    address.checked_add(len).is_some_and(|end| end <= start + bytes).then_some((start, start + bytes))
}
