//! Store of nnU-Net 2.8: C-Blosc2 (b2nd), float32, LZ4HC level 5, byte shuffle, blocks of 32³, chunks of 6 MiB.
//!
//! nnU-Net tries shuffle and no filter for each image and keeps the smaller result; shuffle is the faster of the two and
//! is measured here. The array is one frame in memory, where nnU-Net maps a file; with a warm page cache the two are
//! equivalent. Only this file uses the C interface.
#![expect(unsafe_code, reason = "calls a C library")]

use std::ffi::{c_char, c_int, c_void};

use blosc2_src::{
    BLOSC_LZ4HC, BLOSC_SHUFFLE, BLOSC2_CPARAMS_DEFAULTS, BLOSC2_DPARAMS_DEFAULTS, blosc2_init, blosc2_storage,
};

use super::{CROP_LEN, CROP_SIZE, Contender};
use crate::volume::Voxels;

/// Shape of a block in voxels.
const BLOCK: [i32; 3] = [32; 3];
/// Shape of a chunk in voxels.
const CHUNK: [i32; 3] = [96, 128, 128];

unsafe extern "C" {
    fn b2nd_create_ctx(
        storage: *const blosc2_storage,
        ndim: i8,
        shape: *const i64,
        chunkshape: *const i32,
        blockshape: *const i32,
        dtype: *const c_char,
        dtype_format: i8,
        metalayers: *const c_void,
        num_metalayers: i32,
    ) -> *mut c_void;
    fn b2nd_free_ctx(context: *mut c_void) -> c_int;
    fn b2nd_from_cbuffer(context: *mut c_void, array: *mut *mut c_void, buffer: *const c_void, len: i64) -> c_int;
    fn b2nd_to_cframe(array: *const c_void, frame: *mut *mut u8, frame_len: *mut i64, needs_free: *mut bool) -> c_int;
    fn b2nd_get_slice_cbuffer(
        array: *const c_void,
        start: *const i64,
        stop: *const i64,
        buffer: *mut c_void,
        buffer_shape: *const i64,
        buffer_len: i64,
    ) -> c_int;
    fn b2nd_free(array: *mut c_void) -> c_int;
}

/// The volume as a C-Blosc2 array, see the [module](self).
pub struct Blosc2 {
    array: *mut c_void,
    bytes_per_voxel: f64,
}

impl Blosc2 {
    /// Compresses the volume.
    ///
    /// # Errors
    /// If the library reports an error.
    pub fn new(voxels: &Voxels) -> anyhow::Result<Self> {
        let floats = voxels.to_f32();
        let shape = voxels.shape.map(|n| n as i64);
        let mut cparams = BLOSC2_CPARAMS_DEFAULTS;
        cparams.compcode = u8::try_from(BLOSC_LZ4HC)?;
        cparams.clevel = 5;
        cparams.typesize = 4;
        cparams.filters = [0, 0, 0, 0, 0, u8::try_from(BLOSC_SHUFFLE)?];
        let mut dparams = BLOSC2_DPARAMS_DEFAULTS;
        dparams.nthreads = 1;
        let storage = blosc2_storage {
            contiguous: true,
            urlpath: std::ptr::null_mut(),
            cparams: &raw mut cparams,
            dparams: &raw mut dparams,
            io: std::ptr::null_mut(),
        };
        let mut array = std::ptr::null_mut();
        let (mut frame, mut frame_len, mut needs_free) = (std::ptr::null_mut(), 0, false);
        // SAFETY: every pointer lives through its call; the library copies the parameters into the array. The frame
        // of a contiguous array is its own memory, of which only the length is used.
        unsafe {
            blosc2_init();
            let context = b2nd_create_ctx(
                &raw const storage,
                3,
                shape.as_ptr(),
                CHUNK.as_ptr(),
                BLOCK.as_ptr(),
                c"<f4".as_ptr(),
                0,
                std::ptr::null(),
                0,
            );
            anyhow::ensure!(!context.is_null(), "C-Blosc2 rejected the parameters");
            let made = b2nd_from_cbuffer(context, &raw mut array, floats.as_ptr().cast(), 4 * floats.len() as i64);
            b2nd_free_ctx(context);
            anyhow::ensure!(made == 0, "C-Blosc2 cannot compress: error {made}");
            let framed = b2nd_to_cframe(array, &raw mut frame, &raw mut frame_len, &raw mut needs_free);
            anyhow::ensure!(framed == 0, "C-Blosc2 cannot determine the size: error {framed}");
        }
        Ok(Self { array, bytes_per_voxel: super::ratio(u64::try_from(frame_len)?, voxels) })
    }
}

impl Drop for Blosc2 {
    fn drop(&mut self) {
        // SAFETY: created by `new` and freed once.
        unsafe { b2nd_free(self.array) };
    }
}

impl Contender for Blosc2 {
    fn name(&self) -> &'static str {
        "nnunet_blosc2"
    }

    fn label(&self) -> String {
        "nnU-Net 2.8: float32 LZ4HC (C-Blosc2)".into()
    }

    fn bytes_per_voxel(&self) -> f64 {
        self.bytes_per_voxel
    }

    fn cut(&mut self, start: [usize; 3], out: &mut [f32]) -> anyhow::Result<()> {
        assert_eq!(out.len(), CROP_LEN, "the library writes a whole crop");
        let start = start.map(|n| n as i64);
        let stop: [i64; 3] = std::array::from_fn(|axis| start[axis] + CROP_SIZE[axis] as i64);
        let shape = CROP_SIZE.map(|n| n as i64);
        // SAFETY: `out` has the number of bytes of the shape; the library rejects boxes outside the array.
        let read = unsafe {
            b2nd_get_slice_cbuffer(
                self.array,
                start.as_ptr(),
                stop.as_ptr(),
                out.as_mut_ptr().cast(),
                shape.as_ptr(),
                4 * CROP_LEN as i64,
            )
        };
        anyhow::ensure!(read == 0, "C-Blosc2 cannot read: error {read}");
        Ok(())
    }
}
