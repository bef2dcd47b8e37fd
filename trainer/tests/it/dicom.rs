//! DICOM files for tests, written byte by byte.

use std::path::Path;

/// Writes a CT series, one file per slice, with voxels of 3, 3 and 6 mm; the first voxel lies at the origin (LPS).
/// `voxels` holds HU, the first axis fastest.
pub(crate) fn write_series(folder: &Path, shape: [u16; 3], voxels: &[i16]) {
    write_series_of("CT", "1.2.840.10008.5.1.4.1.1.2\0", folder, shape, voxels);
}

/// Writes an MR series in the same way as [`write_series`].
pub(crate) fn write_mr_series(folder: &Path, shape: [u16; 3], voxels: &[i16]) {
    write_series_of("MR", "1.2.840.10008.5.1.4.1.1.4\0", folder, shape, voxels);
}

fn write_series_of(modality: &str, class: &str, folder: &Path, [columns, rows, slices]: [u16; 3], voxels: &[i16]) {
    std::fs::create_dir_all(folder).unwrap();
    let plane = usize::from(columns) * usize::from(rows);
    for z in 0..slices {
        let pixels = &voxels[usize::from(z) * plane..][..plane];
        let mut data = Data::default();
        data.put(0x0008, 0x0016, b"UI", class.as_bytes());
        data.put(0x0008, 0x0060, b"CS", modality.as_bytes());
        data.put(0x0020, 0x000e, b"UI", b"1.2.3\0");
        data.put(0x0020, 0x0032, b"DS", format!("0\\0\\{}", 6 * z).as_bytes());
        data.put(0x0020, 0x0037, b"DS", b"1\\0\\0\\0\\1\\0");
        data.put(0x0028, 0x0002, b"US", &1u16.to_le_bytes());
        data.put(0x0028, 0x0010, b"US", &rows.to_le_bytes());
        data.put(0x0028, 0x0011, b"US", &columns.to_le_bytes());
        data.put(0x0028, 0x0030, b"DS", b"3\\3");
        for (element, value) in [(0x0100, 16u16), (0x0101, 16), (0x0102, 15), (0x0103, 1)] {
            data.put(0x0028, element, b"US", &value.to_le_bytes());
        }
        data.put(0x0028, 0x1052, b"DS", b"0");
        data.put(0x0028, 0x1053, b"DS", b"1");
        data.put(0x7fe0, 0x0010, b"OW", &pixels.iter().flat_map(|voxel| voxel.to_le_bytes()).collect::<Vec<u8>>());
        data.write(&folder.join(format!("IM{z}")));
    }
}

/// Writes a file without pixels, of a modality or, like a DICOMDIR, without one.
pub(crate) fn write_other(path: &Path, modality: Option<&str>) {
    let mut data = Data::default();
    data.put(0x0008, 0x0005, b"CS", b"ISO_IR 100");
    if let Some(modality) = modality {
        data.put(0x0008, 0x0060, b"CS", modality.as_bytes());
        data.put(0x0020, 0x000e, b"UI", b"1.2.4\0");
    }
    data.write(path);
}

/// Elements of a file, in the order of their tags.
#[derive(Default)]
struct Data(Vec<u8>);

impl Data {
    fn put(&mut self, group: u16, element: u16, vr: &[u8; 2], value: &[u8]) {
        let Self(data) = self;
        data.extend(group.to_le_bytes());
        data.extend(element.to_le_bytes());
        data.extend(vr);
        // OW has a length of 32 bits behind two empty bytes; values have even lengths.
        let len = value.len().next_multiple_of(2);
        if vr == b"OW" {
            data.extend([0, 0]);
            data.extend(u32::try_from(len).unwrap().to_le_bytes());
        } else {
            data.extend(u16::try_from(len).unwrap().to_le_bytes());
        }
        data.extend(value);
        data.resize(data.len() + len - value.len(), b' ');
    }

    fn write(self, path: &Path) {
        let mut file = vec![0; 128];
        file.extend(b"DICM");
        // The file meta group: its length, and the transfer syntax, explicit little-endian.
        let syntax = b"1.2.840.10008.1.2.1\0";
        file.extend([2, 0, 0, 0, b'U', b'L', 4, 0]);
        file.extend(u32::try_from(8 + syntax.len()).unwrap().to_le_bytes());
        file.extend([2, 0, 0x10, 0, b'U', b'I', u8::try_from(syntax.len()).unwrap(), 0]);
        file.extend(syntax);
        file.extend(self.0);
        std::fs::write(path, file).unwrap();
    }
}
