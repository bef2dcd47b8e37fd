//! Batch memory that a server and a client on one host share: slots in an anonymous file that both map.
//!
//! The server creates the file and seals its size, so that neither side can make the other crash on it. The client
//! chooses a free slot for each batch and frees it by dropping the batch; the server writes a slot only while a request
//! names it. On both sides a slot is handed out to one holder at a time, so that a process never makes two references
//! to it.
//!
//! The other process may still write to a slot at any time if it breaks the contract. Slots hold plain numbers, of
//! which every bit pattern is valid, and only voxels are computed from them, so this can only damage that client's own
//! batches.

#![cfg_attr(not(feature = "serve"), allow(dead_code, reason = "a client needs one side of it"))]

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use memmap2::{MmapOptions, MmapRaw};

use crate::batch::BatchMemory;

pub(crate) mod pass;

/// Alignment of slots in bytes: a page.
const SLOT_ALIGNMENT: usize = 4096;

/// Slots mapped into this process.
#[derive(Debug)]
pub(crate) struct Slots {
    map: MmapRaw,
    slot_bytes: usize,
    in_use: Mutex<Vec<bool>>,
}

/// A slot in use; dropping it frees the slot.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Arc<Slots>,
    number: usize,
    /// Value kept alive while the slot is in use.
    _keep: Box<dyn Send + Sync + std::fmt::Debug>,
}

/// Part of a slot: the voxels or the labels of a batch.
#[derive(Debug)]
pub(crate) struct SlotPart {
    slot: Arc<Slot>,
    range: Range<usize>,
}

/// Size in bytes of a slot that holds `voxel_bytes` and `label_bytes`, and the offset of the labels; `None` on
/// overflow.
pub(crate) fn layout(voxel_bytes: usize, label_bytes: usize) -> Option<(usize, usize)> {
    let label_offset = voxel_bytes.checked_next_multiple_of(SLOT_ALIGNMENT)?;
    Some((label_offset.checked_add(label_bytes)?.checked_next_multiple_of(SLOT_ALIGNMENT)?, label_offset))
}

impl Slots {
    /// Creates slots filled with zeros; also returns the file for the other process.
    ///
    /// # Errors
    /// If the system has no such memory.
    #[cfg(target_os = "linux")]
    pub(crate) fn create(count: usize, slot_bytes: usize) -> io::Result<(Self, OwnedFd)> {
        use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

        let bytes = count.checked_mul(slot_bytes).ok_or(io::ErrorKind::InvalidInput)?;
        let file = memfd_create("hiend-batches", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&file, bytes as u64)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok((Self::map(file.as_fd(), count, slot_bytes)?, file))
    }

    /// Maps slots that a server created.
    ///
    /// # Errors
    /// If the file is not sealed, has another size, or cannot be mapped.
    #[cfg(target_os = "linux")]
    pub(crate) fn open(file: &OwnedFd, count: usize, slot_bytes: usize) -> io::Result<Self> {
        use rustix::fs::{SealFlags, fcntl_get_seals, fstat};

        let sealed = SealFlags::SHRINK | SealFlags::SEAL;
        if !fcntl_get_seals(file)?.contains(sealed) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is not sealed"));
        }
        let bytes = count.checked_mul(slot_bytes).ok_or(io::ErrorKind::InvalidInput)?;
        if u64::try_from(fstat(file)?.st_size).ok() != Some(bytes as u64) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the file has another size"));
        }
        Self::map(file.as_fd(), count, slot_bytes)
    }

    /// Fails: only Linux has sealed anonymous files.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn create(_: usize, _: usize) -> io::Result<(Self, OwnedFd)> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Fails: only Linux has sealed anonymous files.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn open(_: &OwnedFd, _: usize, _: usize) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    fn map(file: BorrowedFd<'_>, count: usize, slot_bytes: usize) -> io::Result<Self> {
        if !slot_bytes.is_multiple_of(SLOT_ALIGNMENT) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "slots are not whole pages"));
        }
        let map = MmapOptions::new().len(count * slot_bytes).map_raw(&file)?;
        Ok(Self { map, slot_bytes, in_use: Mutex::new(vec![false; count]) })
    }

    /// Hands out a slot by its number; `None` if it is in use or does not exist.
    pub(crate) fn take(
        self: &Arc<Self>,
        number: usize,
        keep: impl Send + Sync + std::fmt::Debug + 'static,
    ) -> Option<Arc<Slot>> {
        let mut in_use = self.lock();
        let taken = in_use.get_mut(number)?;
        (!std::mem::replace(taken, true)).then(|| self.slot(number, keep))
    }

    /// Hands out the first free slot; `None` if all are in use.
    ///
    /// Finds and takes it under one lock; otherwise callers that find the same slot free would get none.
    pub(crate) fn take_free(self: &Arc<Self>, keep: impl Send + Sync + std::fmt::Debug + 'static) -> Option<Arc<Slot>> {
        let mut in_use = self.lock();
        let number = in_use.iter().position(|in_use| !in_use)?;
        in_use[number] = true;
        Some(self.slot(number, keep))
    }

    /// Creates the handle to a slot that has been marked as in use.
    fn slot(self: &Arc<Self>, number: usize, keep: impl Send + Sync + std::fmt::Debug + 'static) -> Arc<Slot> {
        Arc::new(Slot { slots: Arc::clone(self), number, _keep: Box::new(keep) })
    }

    /// Number of slots in use.
    #[cfg(test)]
    pub(crate) fn num_in_use(&self) -> usize {
        self.lock().iter().filter(|&&in_use| in_use).count()
    }

    /// Size of a slot in bytes.
    pub(crate) fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<bool>> {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// Number of the slot.
    pub(crate) fn number(&self) -> usize {
        self.number
    }

    /// Memory for voxels and labels: two parts of the slot that do not overlap. `None` if they do not fit.
    ///
    /// Consumes the only handle, so that a slot is divided once.
    pub(crate) fn divide(
        self: Arc<Self>,
        voxel_bytes: usize,
        label_offset: usize,
        label_bytes: usize,
    ) -> Option<(SlotPart, SlotPart)> {
        let whole = self.slots.slot_bytes;
        let fits = Arc::strong_count(&self) == 1
            && voxel_bytes <= label_offset
            && label_offset.is_multiple_of(SLOT_ALIGNMENT)
            && label_offset.checked_add(label_bytes)? <= whole;
        fits.then(|| {
            let voxels = SlotPart { slot: Arc::clone(&self), range: 0..voxel_bytes };
            (voxels, SlotPart { slot: self, range: label_offset..label_offset + label_bytes })
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.lock()[self.number] = false;
    }
}

impl SlotPart {
    /// Pointer to the first byte of the part.
    #[expect(unsafe_code, reason = "offset into a map")]
    fn start(&self) -> *mut u8 {
        let slots = &self.slot.slots;
        // SAFETY: the slot's number is below their count and the range lies within a slot, so the offset is within the
        // map.
        unsafe { slots.map.as_mut_ptr().add(self.slot.number * slots.slot_bytes + self.range.start) }
    }
}

impl BatchMemory for SlotPart {
    #[expect(unsafe_code, reason = "reference into a map")]
    fn bytes(&self) -> &[u8] {
        // SAFETY: the range is mapped as long as `slot` lives. In this process only this part refers to it: a slot is
        // handed out once at a time and divided once into parts that do not overlap. The other process writes to a slot
        // only while a request of this one names it; see the module on one that does otherwise.
        unsafe { std::slice::from_raw_parts(self.start(), self.range.len()) }
    }

    #[expect(unsafe_code, reason = "reference into a map")]
    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start(), self.range.len()) }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn both_maps_show_the_same_bytes() {
        let (slot_bytes, label_offset) = layout(5000, 300).unwrap();
        assert_eq!((slot_bytes, label_offset), (12_288, 8192));
        let (ours, file) = Slots::create(2, slot_bytes).unwrap();
        let theirs = Arc::new(Slots::open(&file, 2, slot_bytes).unwrap());
        let ours = Arc::new(ours);
        let (mut voxels, mut labels) = ours.take(1, ()).unwrap().divide(5000, label_offset, 300).unwrap();
        voxels.bytes_mut().fill(3);
        labels.bytes_mut().fill(4);
        let (seen_voxels, seen_labels) = theirs.take(1, ()).unwrap().divide(5000, label_offset, 300).unwrap();
        assert!(seen_voxels.bytes().iter().all(|&byte| byte == 3) && seen_voxels.bytes().len() == 5000);
        assert!(seen_labels.bytes().iter().all(|&byte| byte == 4) && seen_labels.bytes().len() == 300);
        let (other, _) = theirs.take(0, ()).unwrap().divide(5000, label_offset, 300).unwrap();
        assert!(other.bytes().iter().all(|&byte| byte == 0));
    }

    #[test]
    fn slots_are_handed_out_once_and_freed_with_their_last_part() {
        let (slots, _file) = Slots::create(2, 4096).unwrap();
        let slots = Arc::new(slots);
        assert!(slots.take(2, ()).is_none());
        let (voxels, labels) = slots.take(0, ()).unwrap().divide(10, 4096, 0).unwrap();
        assert!(slots.take(0, ()).is_none());
        let other = slots.take_free(()).unwrap();
        assert_eq!(other.number(), 1);
        assert!(slots.take_free(()).is_none());
        drop(voxels);
        assert_eq!(slots.num_in_use(), 2);
        drop(labels);
        assert_eq!(slots.take_free(()).unwrap().number(), 0);
    }

    #[test]
    fn as_many_threads_as_slots_always_get_one() {
        const COUNT: usize = 4;
        let (slots, _file) = Slots::create(COUNT, 4096).unwrap();
        let slots = Arc::new(slots);
        std::thread::scope(|scope| {
            for _ in 0..COUNT {
                scope.spawn(|| (0..2000).for_each(|_| drop(slots.take_free(()).unwrap())));
            }
        });
        assert_eq!(slots.num_in_use(), 0);
    }

    #[test]
    fn parts_outside_a_slot_or_over_each_other_are_refused() {
        let (slots, _file) = Slots::create(1, 8192).unwrap();
        let slots = Arc::new(slots);
        for (voxels, offset, labels) in
            [(8193, 8192, 0), (10, 8192, 1), (4097, 4096, 10), (10, 100, 10), (0, 4096, usize::MAX)]
        {
            assert!(slots.take(0, ()).unwrap().divide(voxels, offset, labels).is_none());
        }
        assert!(slots.take(0, ()).unwrap().divide(4096, 4096, 4096).is_some());
        assert_eq!(layout(usize::MAX, 1), None);
    }

    #[test]
    fn files_of_another_size_or_without_a_seal_are_refused() {
        let (_slots, file) = Slots::create(2, 4096).unwrap();
        assert!(Slots::open(&file, 3, 4096).is_err());
        assert!(Slots::open(&file, 2, 100).is_err());
        let plain = tempfile::tempfile().unwrap();
        plain.set_len(8192).unwrap();
        assert!(Slots::open(&plain.into(), 2, 4096).is_err());
    }
}
