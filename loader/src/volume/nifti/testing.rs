//! NIfTI-1 files with any header field, for tests.

use std::path::{Path, PathBuf};

use crate::geometry::Affine;

/// Creates a FIFO without the program `mkfifo`: until a new process executes its program, it has copies of the sockets
/// and locks of all tests.
#[cfg(target_os = "linux")]
pub(crate) fn make_fifo(path: &Path) {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

/// A test file: 16-bit voxels of 2 mm, LPS, unless changed.
#[derive(Clone, Debug)]
pub(crate) struct TestFile {
    bytes: Vec<u8>,
    data: Vec<u8>,
}

impl TestFile {
    pub(crate) fn new(shape: [usize; 3], voxels: &[i16]) -> Self {
        let mut bytes = vec![0u8; 352];
        bytes[344..348].copy_from_slice(b"n+1\0");
        let data = voxels.iter().flat_map(|value| value.to_le_bytes()).collect();
        let mut file = Self { bytes, data }.put(0, &348i32.to_le_bytes()).put(40, &3i16.to_le_bytes());
        for (axis, &length) in shape.iter().enumerate() {
            file = file.put(42 + 2 * axis, &i16::try_from(length).unwrap().to_le_bytes());
        }
        file.dtype(4, 16)
            .floats(76, &[1.0, 2.0, 2.0, 2.0])
            .floats(108, &[352.0])
            .units(2)
            .sform(1, &[[-2.0, 0.0, 0.0, 9.0], [0.0, -2.0, 0.0, 7.0], [0.0, 0.0, 2.0, -5.0]])
    }

    pub(crate) fn put(mut self, at: usize, value: &[u8]) -> Self {
        self.bytes[at..at + value.len()].copy_from_slice(value);
        self
    }

    pub(crate) fn floats(self, at: usize, values: &[f32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.put(at, &bytes)
    }

    fn dtype(self, code: i16, bits: i16) -> Self {
        self.put(70, &code.to_le_bytes()).put(72, &bits.to_le_bytes())
    }

    pub(crate) fn with_u8(mut self, voxels: &[u8]) -> Self {
        self.data = voxels.to_vec();
        self.dtype(2, 8)
    }

    pub(crate) fn with_f32(mut self, voxels: &[f32]) -> Self {
        self.data = voxels.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.dtype(16, 32)
    }

    pub(crate) fn scaling(self, slope: f32, intercept: f32) -> Self {
        self.floats(112, &[slope, intercept])
    }

    /// Sets `xyzt_units`.
    pub(crate) fn units(self, code: u8) -> Self {
        self.put(123, &[code])
    }

    /// Sets `pixdim[1..4]`.
    pub(crate) fn sides(self, sides: [f32; 3]) -> Self {
        self.floats(80, &sides)
    }

    pub(crate) fn qform(self, code: i16, quaternion: [f32; 3], origin: [f32; 3]) -> Self {
        self.put(252, &code.to_le_bytes()).floats(256, &quaternion).floats(268, &origin)
    }

    /// Sets the sform and, if its code is not 0, `pixdim` to its sides.
    pub(crate) fn sform(self, code: i16, rows: &[[f32; 4]; 3]) -> Self {
        let side = |axis: usize| rows.iter().map(|row| row[axis].powi(2)).sum::<f32>().sqrt();
        let file = if code == 0 { self } else { self.sides([side(0), side(1), side(2)]) };
        file.put(254, &code.to_le_bytes()).floats(280, rows.as_flattened())
    }

    /// Sets the sform.
    pub(crate) fn affine(self, affine: &Affine) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "NIfTI stores affines as f32")]
        let rows = std::array::from_fn(|row| affine[row].map(|value| value as f32));
        self.sform(1, &rows)
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        [&self.bytes[..], &self.data].concat()
    }

    /// Writes the file, creating its folder.
    pub(crate) fn write(&self, path: &Path) -> PathBuf {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, self.to_bytes()).unwrap();
        path.to_owned()
    }
}
