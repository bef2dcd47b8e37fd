//! Weights of the voxels of a window.

/// Smallest weight in a Gaussian window, so that no voxel is divided by zero.
const MIN_WEIGHT: f32 = 1e-3;
/// Width of the Gaussian relative to the ROI.
const SIGMA_SCALE: f64 = 0.125;

/// Weights of a window's voxels where windows overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Weighting {
    /// Equal weights, as in the recipe.
    #[default]
    Constant,
    /// A Gaussian around the window's centre with sigma `0.125 * roi`, at least 0.001.
    Gaussian,
}

impl Weighting {
    /// Weights of the voxels of a window of `roi` voxels, z fastest.
    pub(super) fn of_window(self, roi: [usize; 3]) -> Vec<f32> {
        let bell = |axis: usize| -> Vec<f32> {
            let (centre, sigma) = ((roi[axis] as f64 - 1.0) / 2.0, SIGMA_SCALE * roi[axis] as f64);
            (0..roi[axis]).map(|i| (-0.5 * ((i as f64 - centre) / sigma).powi(2)).exp() as f32).collect()
        };
        match self {
            Self::Constant => vec![1.0; roi.iter().product()],
            Self::Gaussian => {
                let [bx, by, bz] = [bell(0), bell(1), bell(2)];
                let rows = bx.iter().flat_map(|wx| by.iter().map(move |wy| wx * wy));
                rows.flat_map(|wxy| bz.iter().map(move |wz| (wxy * wz).max(MIN_WEIGHT))).collect()
            }
        }
    }
}
