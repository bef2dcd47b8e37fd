//! Division of a volume's voxels into groups, each of which is reduced by one unit.

use burn::tensor::{DType, Shape};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use crate::ops::kernels::launch::uninit;

/// Minimum number of voxels in a group.
const SMALLEST_GROUP: usize = 32;
/// Number of groups above which groups grow instead: enough to occupy a device, and few enough for one plane to merge.
const MOST_GROUPS: usize = 2048;

/// Groups into which the voxels of each case are divided, for launches and for kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, CubeType, CubeLaunch)]
pub(crate) struct Groups {
    pub(crate) cases: u32,
    /// Number of voxels in a case.
    pub(crate) voxels: u32,
    pub(crate) channels: u32,
    /// Number of voxels in a group; the last group of a case may have fewer.
    pub(crate) size: u32,
    /// Number of groups in a case.
    pub(crate) count: u32,
}

impl Groups {
    /// Divides the voxels of `x` `[N, .., C]` into groups.
    pub(super) fn of(x: &CubeTensor) -> Self {
        let shape = x.meta.shape();
        let (cases, channels) = (shape[0], shape[shape.num_dims() - 1]);
        let all = shape.num_elements();
        assert!(u32::try_from(all).is_ok(), "kernels count values in 32 bits; use micro-batches");
        Self::new(cases, all / cases / channels, channels)
    }

    fn new(cases: usize, voxels: usize, channels: usize) -> Self {
        let size = voxels.div_ceil(MOST_GROUPS).next_power_of_two().max(SMALLEST_GROUP);
        let count = voxels.div_ceil(size);
        let [cases, voxels, channels, size, count] =
            [cases, voxels, channels, size, count].map(|number| u32::try_from(number).expect("counted above"));
        Self { cases, voxels, channels, size, count }
    }

    /// Allocates an uninitialised buffer for `kinds` sums of each group, `[kinds, N, groups, C]` in f32.
    pub(super) fn buffer(self, kinds: u32, x: &CubeTensor) -> CubeTensor {
        let shape = [kinds, self.cases, self.count, self.channels].map(|length| length as usize);
        uninit(x, Shape::from(shape), DType::F32)
    }

    /// Allocates an uninitialised buffer for `kinds` values of each case and channel, `[kinds, N, C]` in f32.
    pub(super) fn totals(self, kinds: u32, x: &CubeTensor) -> CubeTensor {
        let shape = [kinds, self.cases, self.channels].map(|length| length as usize);
        uninit(x, Shape::from(shape), DType::F32)
    }

    /// Converts the groups to an argument of a launch.
    pub(super) fn arg(self) -> GroupsLaunch {
        let Self { cases, voxels, channels, size, count } = self;
        GroupsLaunch::new(cases, voxels, channels, size, count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_cover_all_voxels_once_and_none_is_empty() {
        for voxels in [1, 31, 32, 33, 1000, 1728, 65_536, 65_537, 96 * 96 * 96, 240 * 240 * 240] {
            let Groups { size, count, .. } = Groups::new(2, voxels, 3);
            assert!((size * count) as usize >= voxels && ((size * (count - 1)) as usize) < voxels, "{voxels}");
            assert!(count as usize <= MOST_GROUPS && size.is_power_of_two(), "{voxels}");
        }
    }
}
