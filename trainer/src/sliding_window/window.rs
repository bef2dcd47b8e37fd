//! Windows cut out of a volume, and their mirror images.

use super::InputVolume;
use super::geometry::Geometry;

/// Appends the window that begins at `start` of the padded volume to `batch`, as `[C, rx, ry, rz]`; zeros outside the
/// volume.
pub(super) fn copy_window(volume: InputVolume<'_>, geometry: &Geometry, start: [usize; 3], batch: &mut Vec<f32>) {
    let Geometry { pad, roi, .. } = *geometry;
    let [nx, ny, nz] = volume.dims;
    let z_from = start[2].max(pad[2]);
    let z_till = (start[2] + roi[2]).min(pad[2] + nz);
    for channel in 0..volume.num_channels {
        for x in start[0]..start[0] + roi[0] {
            for y in start[1]..start[1] + roi[1] {
                let row_end = batch.len() + roi[2];
                let inside = (pad[0]..pad[0] + nx).contains(&x) && (pad[1]..pad[1] + ny).contains(&y);
                if inside && z_from < z_till {
                    let row = ((channel * nx + x - pad[0]) * ny + y - pad[1]) * nz;
                    batch.resize(batch.len() + z_from - start[2], 0.0);
                    batch.extend_from_slice(&volume.values[row + z_from - pad[2]..row + z_till - pad[2]]);
                }
                batch.resize(row_end, 0.0);
            }
        }
    }
}

/// Reverses one axis of each `[X, Y, Z]` block of `values`.
pub(super) fn mirror(values: &mut [f32], dims: [usize; 3], axis: usize) {
    let run: usize = dims[axis + 1..].iter().product();
    for line in values.chunks_exact_mut(dims[axis] * run) {
        for i in 0..dims[axis] / 2 {
            let (front, back) = line.split_at_mut((dims[axis] - 1 - i) * run);
            front[i * run..(i + 1) * run].swap_with_slice(&mut back[..run]);
        }
    }
}
