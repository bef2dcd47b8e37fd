//! NIfTI-1 files of small scans with any header field.

/// Voxels along the axes of a scan, and the side of a voxel in mm, which is that of the caches as well.
pub(super) const SHAPE: [usize; 3] = [12, 11, 10];
pub(super) const SIDE: f32 = 6.0;
/// Place of a bright spot in the scans, in mm (RAS+); no other place of the same distances is bright.
pub(super) const MARKER: [f64; 3] = [9.0, 6.0, 9.0];

/// Offsets of header fields, in bytes.
pub(super) const DIM: usize = 40;
pub(super) const DATA_TYPE: usize = 70;
pub(super) const PIXDIM: usize = 76;
pub(super) const VOX_OFFSET: usize = 108;
pub(super) const SCALING: usize = 112;
pub(super) const UNITS: usize = 123;
pub(super) const QFORM_CODE: usize = 252;
pub(super) const SFORM_CODE: usize = 254;
pub(super) const QUATERNION: usize = 256;
pub(super) const ORIGIN: usize = 268;
pub(super) const SFORM: usize = 280;

const HEADER: usize = 352;

/// A file in memory.
#[derive(Clone)]
pub(super) struct Nifti {
    header: Vec<u8>,
    voxels: Vec<u8>,
}

/// HU at a place of a scan: fat around soft tissue in air, with a bright spot, and a texture that depends on the voxel.
pub(super) fn hu([x, y, z]: [f64; 3], number: usize) -> i16 {
    let texture = i16::try_from(number * 7919 % 1009 % 31).unwrap() - 15;
    let near = |a: f64, b: f64| (a - b).powi(2);
    if near(x, MARKER[0]) + near(y, MARKER[1]) + near(z, MARKER[2]) < 49.0 {
        return 200;
    }
    match (x / 31.0).powi(2) + (y / 27.0).powi(2) {
        r if r < 0.6 => 40 + texture,
        r if r < 1.0 => -100 + texture,
        _ => -1000 + texture,
    }
}

/// A small whole number as a real one.
fn real(number: usize) -> f32 {
    f32::from(u16::try_from(number).unwrap())
}

/// Place of the first voxel in mm, of a scan with its centre at the origin and axes of these steps.
pub(super) fn origin(shape: [usize; 3], steps: [f32; 3]) -> [f32; 3] {
    std::array::from_fn(|axis| -steps[axis] * (real(shape[axis]) - 1.0) / 2.0)
}

impl Nifti {
    /// A scan with its centre at the origin.
    pub(super) fn scan() -> Self {
        Self::with_axes([SIDE, SIDE, SIDE])
    }

    /// A scan with its centre at the origin whose axes have these steps in mm, which may be negative.
    pub(super) fn with_axes(steps: [f32; 3]) -> Self {
        Self::of(SHAPE, steps, hu)
    }

    /// Like [`Self::scan`], with more voxels. A dry run of two cases converts the larger one as its first sample.
    pub(super) fn larger() -> Self {
        Self::of([14, 13, 12], [SIDE; 3], hu)
    }

    /// A scan whose voxels follow from the HU of [`Self::scan`].
    pub(super) fn of_hu(value: impl Fn(i16) -> i16) -> Self {
        Self::of(SHAPE, [SIDE; 3], |place, number| value(hu(place, number)))
    }

    /// A label map on the grid of [`Self::scan`]: class 1 in the half with positive x, 2 at the marker.
    pub(super) fn label() -> Self {
        Self::label_with_axes([SIDE; 3])
    }

    /// A label map at the place of [`Self::label`] whose axes have these steps in mm, which may be negative.
    pub(super) fn label_with_axes(steps: [f32; 3]) -> Self {
        Self::of(SHAPE, steps, |place, number| match hu(place, number) {
            200 => 2,
            value if value > -500 && place[0] > 0.0 => 1,
            _ => 0,
        })
    }

    /// Voxels that follow from their place in mm and their number in the file.
    pub(super) fn of(shape: [usize; 3], steps: [f32; 3], value: impl Fn([f64; 3], usize) -> i16) -> Self {
        let origin = origin(shape, steps);
        let place = |number: usize| {
            let index = [number % shape[0], number / shape[0] % shape[1], number / (shape[0] * shape[1])];
            std::array::from_fn(|axis| f64::from(origin[axis] + steps[axis] * real(index[axis])))
        };
        let voxels: Vec<i16> = (0..shape.iter().product()).map(|number| value(place(number), number)).collect();
        let [x, y, z] = steps;
        let mut header = vec![0; HEADER];
        header[344..348].copy_from_slice(b"n+1\0");
        let lengths = shape.map(|length| i16::try_from(length).unwrap());
        Self { header, voxels: Vec::new() }
            .bytes(0, &348i32.to_le_bytes())
            .numbers(DIM, &[3, lengths[0], lengths[1], lengths[2], 1, 1, 1, 1])
            .floats(PIXDIM, &[1.0, x.abs(), y.abs(), z.abs()])
            .floats(VOX_OFFSET, &[352.0])
            .bytes(UNITS, &[2])
            .numbers(SFORM_CODE, &[1])
            .sform([[x, 0.0, 0.0, origin[0]], [0.0, y, 0.0, origin[1]], [0.0, 0.0, z, origin[2]]])
            .voxels(&voxels)
    }

    pub(super) fn bytes(mut self, at: usize, value: &[u8]) -> Self {
        self.header[at..at + value.len()].copy_from_slice(value);
        self
    }

    pub(super) fn numbers(self, at: usize, values: &[i16]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.bytes(at, &bytes)
    }

    pub(super) fn floats(self, at: usize, values: &[f32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.bytes(at, &bytes)
    }

    /// Divides the sform by `factor`.
    pub(super) fn in_unit(self, factor: f32) -> Self {
        let floats = self.header[SFORM..SFORM + 48].as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
        let floats: Vec<f32> = floats.map(|value| value / factor).collect();
        self.floats(SFORM, &floats)
    }

    pub(super) fn sform(self, rows: [[f32; 4]; 3]) -> Self {
        self.floats(SFORM, rows.as_flattened())
    }

    /// Sets no sform, and a qform without a rotation at the place of [`Self::scan`].
    pub(super) fn qform(self) -> Self {
        let origin = origin(SHAPE, [SIDE; 3]);
        self.numbers(QFORM_CODE, &[1, 0]).floats(QUATERNION, &[0.0; 3]).floats(ORIGIN, &origin)
    }

    /// Sets 16-bit voxels.
    pub(super) fn voxels(mut self, voxels: &[i16]) -> Self {
        self.voxels = voxels.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.numbers(DATA_TYPE, &[4, 16])
    }

    /// The 16-bit voxels.
    pub(super) fn values(&self) -> Vec<i16> {
        self.voxels.as_chunks::<2>().0.iter().map(|bytes| i16::from_le_bytes(*bytes)).collect()
    }

    /// Changes the 16-bit voxels, given their numbers in the file, to floats.
    pub(super) fn with_floats(mut self, value: impl Fn(usize, f32) -> f32) -> Self {
        let values = self.values();
        let floats = values.iter().enumerate().map(|(number, voxel)| value(number, f32::from(*voxel)));
        self.voxels = floats.flat_map(f32::to_le_bytes).collect();
        self.numbers(DATA_TYPE, &[16, 32])
    }

    /// Bytes of the file in big-endian order. Voxels must have 16 bits.
    pub(super) fn big_endian(self) -> Vec<u8> {
        let mut bytes = self.file();
        // Fields of one byte each and texts remain.
        for [from, to, width] in
            [[0, 4, 4], [DIM, 56, 2], [56, 68, 4], [68, 76, 2], [76, 120, 4], [252, 256, 2], [256, 328, 4]]
        {
            bytes[from..to].chunks_exact_mut(width).for_each(<[u8]>::reverse);
        }
        bytes[120..122].reverse();
        bytes[HEADER..].chunks_exact_mut(2).for_each(<[u8]>::reverse);
        bytes
    }

    /// Content of the file.
    pub(super) fn file(&self) -> Vec<u8> {
        [&self.header[..], &self.voxels].concat()
    }

    /// Content of the file compressed with gzip.
    pub(super) fn gzip(&self) -> Vec<u8> {
        gzip(&self.file())
    }
}

/// Bytes compressed with gzip.
pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;

    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
