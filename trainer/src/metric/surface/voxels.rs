//! Surface voxels of a class.

use super::Region;
use crate::metric::LabelMap;

/// Indices, within `region`, of the surface voxels of `class`.
pub(super) fn surface_indices(map: &LabelMap<'_>, class: u8, region: Region) -> Vec<usize> {
    let [nx, ny, nz] = map.dims();
    let voxels = map.voxels();
    let [_, ry, rz] = region.dims();
    let mut surface = Vec::new();
    for x in region.start[0]..region.end[0] {
        for y in region.start[1]..region.end[1] {
            for z in region.start[2]..region.end[2] {
                let at = (x * ny + y) * nz + z;
                if voxels[at] != class {
                    continue;
                }
                let inside = x > 0
                    && x + 1 < nx
                    && y > 0
                    && y + 1 < ny
                    && z > 0
                    && z + 1 < nz
                    && [at - ny * nz, at + ny * nz, at - nz, at + nz, at - 1, at + 1]
                        .iter()
                        .all(|&n| voxels[n] == class);
                if !inside {
                    let [sx, sy, sz] = region.start;
                    surface.push(((x - sx) * ry + (y - sy)) * rz + (z - sz));
                }
            }
        }
    }
    surface
}
