//! Loads, stores and atomic instructions.

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use super::{Cube, WARP, lanes_of};
use crate::alu::{self, Lanes};
use crate::kernel::{Base, Instruction, Kernel, Operand, Space, Type};
use crate::memory::{LOCAL, SHARED, STATIC, range_of};

impl Cube<'_> {
    /// Host address of `len` bytes that a thread reads or writes.
    fn place(&mut self, number: usize, lane: usize, space: Space, address: u64, len: usize) -> Result<*mut u8, String> {
        let thread = format_args!("thread {lane} of the warp");
        if !address.is_multiple_of(len as u64) {
            return Err(format!("{thread}: the address {address:#x} is not aligned to {len} bytes"));
        }
        // Addresses of shared and local memory may be those of their own space, or generic.
        let within = |memory: &mut [u64], bytes: usize, offset: u64| {
            if offset.checked_add(len as u64).is_none_or(|end| end > bytes as u64) {
                return Err(format!(
                    "{thread}: {len} bytes at {address:#x}, outside of {bytes} bytes of {space:?} memory"
                ));
            }
            // SAFETY: within the memory, as just compared.
            Ok(unsafe { memory.as_mut_ptr().cast::<u8>().add(offset as usize) })
        };
        let warp = &mut self.warps[number];
        if space == Space::Shared || space == Space::Generic && address & SHARED != 0 {
            let offset = address.checked_sub(SHARED).unwrap_or(address);
            let Kernel { shared_bytes, .. } = *self.launch.kernel;
            return match offset.checked_sub(STATIC) {
                None => within(&mut self.dynamic, self.launch.dynamic_bytes, offset),
                Some(offset) => within(&mut self.fixed, shared_bytes, offset),
            };
        }
        if space == Space::Local || space == Space::Generic && address & LOCAL != 0 {
            let bytes = self.launch.kernel.local_bytes;
            let words = bytes.div_ceil(8);
            let own = &mut warp.local[lane * words..][..words];
            return within(own, bytes, address.checked_sub(LOCAL).unwrap_or(address));
        }
        let is_cached =
            address >= warp.cached.0 && address.checked_add(len as u64).is_some_and(|end| end <= warp.cached.1);
        if !is_cached {
            warp.cached = range_of(&self.launch.ranges, address, len as u64)
                .ok_or_else(|| format!("{thread}: {len} bytes at {address:#x} are in no allocation of the device"))?;
        }
        Ok(address as *mut u8)
    }

    pub(super) fn load(&mut self, number: usize, instruction: &Instruction, mask: u32) -> Result<(), String> {
        let (opcode, operands) = (&instruction.opcode, &instruction.operands);
        let ty = opcode.ty();
        let bytes = ty.bytes();
        let addresses = self.get(number, &operands[1]);
        let targets = match &operands[0] {
            Operand::Vector(targets) => targets.clone(),
            other => vec![other.clone()],
        };
        let mut values = vec![[0u64; WARP]; targets.len()];
        for lane in lanes_of(mask) {
            if opcode.space == Space::Param {
                let params = self.launch.params.get(addresses[lane] as usize..).unwrap_or_default();
                let params = params.get(..bytes * targets.len()).ok_or("beyond the parameters")?;
                for (values, param) in values.iter_mut().zip(params.chunks_exact(bytes)) {
                    let mut value = [0; 8];
                    value[..bytes].copy_from_slice(param);
                    values[lane] = u64::from_le_bytes(value);
                }
                continue;
            }
            let place = self.place(number, lane, opcode.space, addresses[lane], bytes * targets.len())?;
            for (index, values) in values.iter_mut().enumerate() {
                // SAFETY: `place` checked the address of as many bytes as all values have.
                values[lane] = unsafe { read(place.add(index * bytes), bytes) };
            }
        }
        for (target, values) in targets.iter().zip(&values) {
            let values = match ty {
                Type::Signed(bits) => values.map(|value| alu::extended(value, bits)),
                _ => *values,
            };
            self.put(number, target, &values, mask);
        }
        Ok(())
    }

    pub(super) fn store(&mut self, number: usize, instruction: &Instruction, mask: u32) -> Result<(), String> {
        let (opcode, operands) = (&instruction.opcode, &instruction.operands);
        let bytes = opcode.ty().bytes();
        let addresses = self.get(number, &operands[0]);
        let values: Vec<Lanes> = match &operands[1] {
            Operand::Vector(sources) => sources.iter().map(|source| self.get(number, source)).collect(),
            other => vec![self.get(number, other)],
        };
        for lane in lanes_of(mask) {
            let place = self.place(number, lane, opcode.space, addresses[lane], bytes * values.len())?;
            for (index, values) in values.iter().enumerate() {
                // SAFETY: `place` checked the address of as many bytes as all values have.
                unsafe { write(place.add(index * bytes), bytes, values[lane]) };
            }
        }
        Ok(())
    }

    pub(super) fn atomic(&mut self, number: usize, instruction: &Instruction, mask: u32) -> Result<(), String> {
        static LOCK: Mutex<()> = Mutex::new(());
        let (opcode, operands) = (&instruction.opcode, &instruction.operands);
        let has_result = opcode.base == Base::Atom;
        let first = usize::from(has_result);
        let addresses = self.get(number, &operands[first]);
        let sources: Vec<Lanes> = operands[first + 1..].iter().map(|operand| self.get(number, operand)).collect();
        let bytes = opcode.ty().bytes();
        let mut before = [0u64; WARP];
        // Threads of other cubes may run at the same time.
        let _guard = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
        for lane in lanes_of(mask) {
            let place = self.place(number, lane, opcode.space, addresses[lane], bytes)?;
            // SAFETY: `place` checked the address.
            before[lane] = unsafe { read(place, bytes) };
            let after = alu::changed(opcode, before[lane], &sources.iter().map(|s| s[lane]).collect::<Vec<_>>())?;
            // SAFETY: `place` checked the address.
            unsafe { write(place, bytes, after) };
        }
        if has_result {
            self.put(number, &operands[0], &before, mask);
        }
        Ok(())
    }
}

/// Reads a value of 1, 2, 4 or 8 bytes, which threads of other cubes may write at the same time.
///
/// # Safety
/// The place is valid and aligned to its size.
unsafe fn read(from: *mut u8, bytes: usize) -> u64 {
    // SAFETY: by the contract of this function; all threads access memory by these types while kernels run.
    unsafe {
        match bytes {
            1 => AtomicU8::from_ptr(from).load(Relaxed).into(),
            2 => AtomicU16::from_ptr(from.cast()).load(Relaxed).into(),
            4 => AtomicU32::from_ptr(from.cast()).load(Relaxed).into(),
            _ => AtomicU64::from_ptr(from.cast()).load(Relaxed),
        }
    }
}

/// Writes the lowest 1, 2, 4 or 8 bytes of a value.
///
/// # Safety
/// The place is valid and aligned to its size.
unsafe fn write(to: *mut u8, bytes: usize, value: u64) {
    // SAFETY: as for `read`.
    unsafe {
        match bytes {
            1 => AtomicU8::from_ptr(to).store(value as u8, Relaxed),
            2 => AtomicU16::from_ptr(to.cast()).store(value as u16, Relaxed),
            4 => AtomicU32::from_ptr(to.cast()).store(value as u32, Relaxed),
            _ => AtomicU64::from_ptr(to.cast()).store(value, Relaxed),
        }
    }
}
