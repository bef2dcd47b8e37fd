//! Vectors that are written once, without being cleared first. This module contains all unsafe code for them.
#![allow(unsafe_code, reason = "memory becomes floats after it was written")]

use std::mem::MaybeUninit;

use rayon::prelude::*;

/// Memory for floats that are not yet written.
pub type Unwritten = [MaybeUninit<f32>];

/// Creates the vector of `len` floats that `fill` writes.
///
/// # Safety
/// `fill` must write every element.
pub unsafe fn written(len: usize, fill: impl FnOnce(&mut Unwritten)) -> Vec<f32> {
    let mut values = Vec::with_capacity(len);
    let spare = &mut values.spare_capacity_mut()[..len];
    // A test that misses an element computes with NaN instead of what the allocator left there.
    #[cfg(test)]
    spare.fill(MaybeUninit::new(f32::NAN));
    fill(spare);
    // SAFETY: the capacity is at least `len`, and the caller promises that `fill` wrote every element.
    unsafe { values.set_len(len) };
    values
}

/// Writes `value(i)` to each element i, and returns the floats.
#[inline]
pub fn write_with(out: &mut Unwritten, mut value: impl FnMut(usize) -> f32) -> &mut [f32] {
    for (i, element) in out.iter_mut().enumerate() {
        element.write(value(i));
    }
    // SAFETY: the loop wrote every element.
    unsafe { out.assume_init_mut() }
}

/// Fills `out` by calls of `f`, each of which writes one row of `width` values, in order; the last row may be shorter.
/// `f` returns the written row, as [`write_with`] does. Returns all floats.
///
/// # Panics
/// If `f` returns other floats than those of its row.
#[inline]
pub fn write_rows(
    out: &mut Unwritten,
    width: usize,
    mut f: impl for<'a> FnMut(usize, &'a mut Unwritten) -> &'a mut [f32],
) -> &mut [f32] {
    for (number, row) in out.chunks_mut(width).enumerate() {
        let (start, len) = (row.as_ptr().cast::<f32>(), row.len());
        let floats = f(number, row);
        assert!(std::ptr::eq(floats.as_ptr(), start) && floats.len() == len, "a row is written in full");
    }
    // SAFETY: the loop asserts that each row was returned as floats, in full.
    unsafe { out.assume_init_mut() }
}

/// Creates a vector of `len` floats, of which `f` writes blocks of `block` values on several threads; the last block
/// may be shorter. `f` receives the number of the block and the block's own `sums` sums, initially zero; it returns the
/// written block, as [`write_with`] does. The second vector holds the sums, block after block.
///
/// # Panics
/// If `f` returns other floats than those of its block.
pub fn in_blocks(
    len: usize,
    block: usize,
    sums: usize,
    f: impl for<'a> Fn(usize, &'a mut Unwritten, &mut [f32]) -> &'a mut [f32] + Sync,
) -> (Vec<f32>, Vec<f32>) {
    let write = |number: usize, out: &mut Unwritten, sums: &mut [f32]| {
        let (start, len) = (out.as_ptr().cast::<f32>(), out.len());
        let floats = f(number, out, sums);
        assert!(std::ptr::eq(floats.as_ptr(), start) && floats.len() == len, "a block is written in full");
    };
    let mut all_sums = vec![0.0; len.div_ceil(block).max(1) * sums];
    let fill = |out: &mut Unwritten| match (len <= block, sums) {
        (true, _) => write(0, out, &mut all_sums),
        (false, 0) => out.par_chunks_mut(block).enumerate().for_each(|(number, out)| write(number, out, &mut [])),
        (false, _) => {
            let blocks = out.par_chunks_mut(block).zip(all_sums.par_chunks_mut(sums));
            blocks.enumerate().for_each(|(number, (out, sums))| write(number, out, sums));
        }
    };
    // SAFETY: `write` asserts that each block of the vector was returned as floats, in full.
    let values = unsafe { written(len, fill) };
    (values, all_sums)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_the_vector() {
        for (len, block) in [(0, 4), (3, 4), (4, 4), (9, 4)] {
            let (values, sums) = in_blocks(len, block, 1, |number, out, sums| {
                sums[0] += out.len() as f32;
                write_with(out, |i| (number * block + i) as f32)
            });
            assert_eq!(values, (0..len).map(|i| i as f32).collect::<Vec<f32>>());
            assert_eq!(sums.iter().sum::<f32>(), len as f32);
        }
    }

    #[test]
    #[should_panic(expected = "written in full")]
    fn a_block_that_is_not_written_is_a_panic() {
        let _ = in_blocks(4, 4, 0, |_, out, _| write_with(&mut out[1..], |_| 0.0));
    }
}
