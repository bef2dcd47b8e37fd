//! Stores that bypass the caches, for data that is written once and read much later.
//!
//! An ordinary store first reads the cache line that it overwrites. A batch is larger than any cache, so this read, and
//! the later write of the line evicted for it, would be wasted. `benches/README.md`, "Copying", has the figures. Only
//! x86-64 has such stores here; other processors use ordinary ones.

/// Copies `values` to `out`. Call [`finish`] on the same thread before another thread reads them.
///
/// # Panics
/// If the lengths differ.
#[cfg(target_arch = "x86_64")]
#[inline]
#[expect(unsafe_code, reason = "the intrinsics take pointers")]
pub(crate) fn write<T: bytemuck::Pod>(values: &[T], out: &mut [T]) {
    use std::arch::x86_64::{_mm_loadu_si128, _mm_stream_si128};
    const LANES: usize = 16;

    assert_eq!(values.len(), out.len(), "source and destination have one length");
    let (values, out): (&[u8], &mut [u8]) = (bytemuck::cast_slice(values), bytemuck::cast_slice_mut(out));
    // Bytes before the first aligned address and after the last full vector take ordinary stores.
    let head = out.as_ptr().align_offset(LANES).min(out.len());
    let (values_head, values) = values.split_at(head);
    let (out_head, out) = out.split_at_mut(head);
    // Fewer bytes than a vector, usually none.
    out_head.iter_mut().zip(values_head).for_each(|(to, from)| *to = *from);
    let (values, values_tail) = values.as_chunks::<LANES>();
    let (out, out_tail) = out.as_chunks_mut::<LANES>();
    for (to, from) in out.iter_mut().zip(values) {
        // SAFETY: SSE2 is part of x86-64; both point to 16 bytes of their slices, and `to` is aligned to 16 bytes, because
        // `head` was chosen so and each iteration adds 16.
        unsafe { _mm_stream_si128(to.as_mut_ptr().cast(), _mm_loadu_si128(from.as_ptr().cast())) };
    }
    out_tail.iter_mut().zip(values_tail).for_each(|(to, from)| *to = *from);
}

/// Orders all stores of [`write`] before any later store, so that other threads see them.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "the intrinsic needs SSE")]
pub(crate) fn finish() {
    // SAFETY: SSE is part of x86-64.
    unsafe { std::arch::x86_64::_mm_sfence() };
}

/// Copies `values` to `out`.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn write<T: Copy>(values: &[T], out: &mut [T]) {
    out.copy_from_slice(values);
}

/// Does nothing: ordinary stores need no fence.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn finish() {}

#[cfg(test)]
mod tests {
    #[test]
    fn values_of_any_alignment_and_length_are_copied() {
        let values: Vec<f32> = (1u8..=60).map(f32::from).collect();
        for start in 0..8 {
            for len in 0..40 {
                let mut out = vec![0f32; 60];
                super::write(&values[..len], &mut out[start..start + len]);
                super::finish();
                let expected: Vec<f32> =
                    [&vec![0f32; start][..], &values[..len], &vec![0f32; 60 - start - len]].concat();
                assert_eq!(out, expected, "{len} values from index {start}");
            }
        }
    }

    #[test]
    fn bytes_of_any_alignment_and_length_are_copied() {
        let values: Vec<u8> = (1..=100).collect();
        for start in 0..20 {
            for len in 0..60 {
                let mut out = vec![0; 100];
                super::write(&values[..len], &mut out[start..start + len]);
                super::finish();
                let expected = [&vec![0; start][..], &values[..len], &vec![0; 100 - start - len]].concat();
                assert_eq!(out, expected, "{len} bytes from index {start}");
            }
        }
    }
}
