//! Convolutions of 3×3×3 voxels over channels-last volumes, as graphs of one operation, for each of their directions.
//!
//! A volume is `[N, X, Y, Z, C]` in memory and a filter `[out, 3, 3, 3, in]`; the library names their axes in the order
//! `[N, C, X, Y, Z]` and `[out, in, 3, 3, 3]`, so that strides say where channels are. Voxels outside are zero.

use std::fmt;

use super::graph::{
    Attribute, ConvolutionMode, DataType, Descriptor, Draft, Kind, NumericalNote, Tensor, operation_graph,
};
use super::session::Problem;
use super::{CudnnError, Target};
use crate::vendor::problem::Number;

/// Largest scratch memory of a convolution, in bytes. Among UNETR's convolutions on four crops, the most that a
/// preferred engine would need is 0.9 GB, for a gradient in TF32; the next engine needs none.
pub const MAX_WORKSPACE: u64 = 256 << 20;

/// Tensor that a convolution computes from the other two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Result, computed from volume and filter.
    Forward,
    /// Gradient of the volume, computed from the filter and the gradient of the result.
    Volume,
    /// Gradient of the filter, computed from the volume and the gradient of the result.
    Filter,
}

/// Everything that determines how a convolution is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Convolution {
    /// Tensor to compute.
    pub direction: Direction,
    /// Number of volumes.
    pub batch: u32,
    /// Number of channels of a volume.
    pub inputs: u32,
    /// Number of channels of the result.
    pub outputs: u32,
    /// Number of voxels along x, y and z.
    pub size: [u32; 3],
    /// Type of all three tensors; sums are 32-bit.
    pub number: Number,
    /// True if 32-bit factors may be rounded to TF32 (10 bits of fraction).
    pub tf32: bool,
}

impl Convolution {
    /// Graph identifier of the volume, or of its gradient.
    pub const VOLUME: i64 = 1;
    /// Graph identifier of the filter, or of its gradient.
    pub const FILTER: i64 = 2;
    /// Graph identifier of the result, or of its gradient.
    pub const RESULT: i64 = 3;

    /// Graph identifiers of the two tensors that are read and of the one that is written.
    #[must_use]
    pub fn tensors(&self) -> [i64; 3] {
        match self.direction {
            Direction::Forward => [Self::VOLUME, Self::FILTER, Self::RESULT],
            Direction::Volume => [Self::FILTER, Self::RESULT, Self::VOLUME],
            Direction::Filter => [Self::VOLUME, Self::RESULT, Self::FILTER],
        }
    }

    /// Number of multiplications and additions.
    #[must_use]
    pub fn flops(&self) -> u64 {
        let voxels: u64 = self.size.iter().map(|&side| u64::from(side)).product();
        2 * 27 * u64::from(self.batch) * voxels * u64::from(self.inputs) * u64::from(self.outputs)
    }
}

impl Problem for Convolution {
    fn key(&self) -> String {
        self.to_string()
    }

    fn graph(&self, target: &Target) -> Result<Descriptor, CudnnError> {
        let Self { batch, inputs, outputs, size, number, .. } = *self;
        let tensor = |uid, first, channels, size| channels_last(uid, number.into(), first, channels, size).descriptor();
        let volume = tensor(Self::VOLUME, batch, inputs, size)?;
        let filter = tensor(Self::FILTER, outputs, inputs, [3; 3])?;
        let result = tensor(Self::RESULT, batch, outputs, size)?;
        let ones: &[i64] = &[1; 3];
        let convolution = Draft::new(Kind::Convolution)?
            .set(Attribute::ConvolutionSpatialDims, &[3i64])?
            .set(Attribute::ConvolutionCompType, &[DataType::Float])?
            .set(Attribute::ConvolutionConvMode, &[ConvolutionMode::CrossCorrelation])?
            .set(Attribute::ConvolutionDilations, ones)?
            .set(Attribute::ConvolutionFilterStrides, ones)?
            .set(Attribute::ConvolutionPrePaddings, ones)?
            .set(Attribute::ConvolutionPostPaddings, ones)?
            .finalize()?;
        let (kind, attributes) = match self.direction {
            Direction::Forward => (
                Kind::OperationConvolutionForward,
                [
                    Attribute::OperationConvolutionForwardConvDesc,
                    Attribute::OperationConvolutionForwardX,
                    Attribute::OperationConvolutionForwardW,
                    Attribute::OperationConvolutionForwardY,
                    Attribute::OperationConvolutionForwardAlpha,
                    Attribute::OperationConvolutionForwardBeta,
                ],
            ),
            Direction::Volume => (
                Kind::OperationConvolutionBackwardData,
                [
                    Attribute::OperationConvolutionBwdDataConvDesc,
                    Attribute::OperationConvolutionBwdDataDx,
                    Attribute::OperationConvolutionBwdDataW,
                    Attribute::OperationConvolutionBwdDataDy,
                    Attribute::OperationConvolutionBwdDataAlpha,
                    Attribute::OperationConvolutionBwdDataBeta,
                ],
            ),
            Direction::Filter => (
                Kind::OperationConvolutionBackwardFilter,
                [
                    Attribute::OperationConvolutionBwdFilterConvDesc,
                    Attribute::OperationConvolutionBwdFilterX,
                    Attribute::OperationConvolutionBwdFilterDw,
                    Attribute::OperationConvolutionBwdFilterDy,
                    Attribute::OperationConvolutionBwdFilterAlpha,
                    Attribute::OperationConvolutionBwdFilterBeta,
                ],
            ),
        };
        let [of_convolution, of_volume, of_filter, of_result, alpha, beta] = attributes;
        let operation = Draft::new(kind)?
            .set_descriptors(of_convolution, &[&convolution])?
            .set_descriptors(of_volume, &[&volume])?
            .set_descriptors(of_filter, &[&filter])?
            .set_descriptors(of_result, &[&result])?
            .set(alpha, &[1f32])?
            .set(beta, &[0f32])?
            .finalize()?;
        operation_graph(target, &[operation])
    }

    /// Rules out matrix units for unrounded `f32`, because they round to TF32, and rounding of factors or sums to a
    /// shorter type for all types.
    fn refused(&self) -> &'static [NumericalNote] {
        const ROUNDED: NumericalNote = NumericalNote::DOWN_CONVERT_INPUTS;
        const SUMS_ROUNDED: NumericalNote = NumericalNote::REDUCED_PRECISION_REDUCTION;
        match self.number {
            Number::F32 if !self.tf32 => &[ROUNDED, SUMS_ROUNDED, NumericalNote::TENSOR_CORE],
            _ => &[ROUNDED, SUMS_ROUNDED],
        }
    }

    fn most_workspace(&self) -> u64 {
        MAX_WORKSPACE
    }
}

/// Formats direction, channels, sizes and types, such as `convolution 4x 64 to 32 of 96x96x96 bf16`.
impl fmt::Display for Convolution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { direction, batch, inputs, outputs, size: [x, y, z], number, tf32 } = self;
        let name = match direction {
            Direction::Forward => "convolution",
            Direction::Volume => "convolution dx",
            Direction::Filter => "convolution dw",
        };
        let number = if *tf32 { "tf32".to_owned() } else { format!("{number:?}").to_lowercase() };
        write!(f, "{name} {batch}x {inputs} to {outputs} of {x}x{y}x{z} {number}")
    }
}

/// Tensor whose channels are the fastest axis in memory.
fn channels_last(uid: i64, dtype: DataType, first: u32, channels: u32, [x, y, z]: [u32; 3]) -> Tensor {
    let [n, c, x, y, z] = [first, channels, x, y, z].map(i64::from);
    Tensor::new(uid, dtype, &[n, c, x, y, z], &[x * y * z * c, 1, y * z * c, z * c, c])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vendor::cudnn::session::Session;

    fn of_unetr(direction: Direction, [inputs, outputs, side]: [u32; 3], number: Number, tf32: bool) -> Convolution {
        Convolution { direction, batch: 4, inputs, outputs, size: [side; 3], number, tf32 }
    }

    /// Description of an H100 in cuDNN's format.
    const H100: &str = include_str!("attention/h100.json");

    /// Numbers of channels before and after, and side of the volume, for UNETR's convolutions with 32 features and
    /// patches of 16 voxels.
    const UNETR: [[u32; 3]; 11] = [
        [1, 32, 96],
        [32, 32, 96],
        [64, 32, 96],
        [64, 64, 24],
        [64, 64, 48],
        [128, 64, 48],
        [128, 128, 24],
        [256, 128, 24],
        [256, 256, 12],
        [512, 256, 12],
        // Taken from the operation's own tests.
        [3, 5, 9],
    ];

    /// Every convolution of UNETR gets a plan for an H100 on a machine without one, in each direction and type;
    /// repeating the same choice gives the same plan. `tests/gpu/plans` runs it.
    #[test]
    #[ignore = "needs cuDNN 9.11 and NVRTC, and a libcuda.so.1; no device"]
    fn every_convolution_of_unetr_has_a_plan_on_an_h100() {
        let described = || Session::on(Target::described(H100).unwrap(), "an H100, described".to_owned()).unwrap();
        let mut session = described();
        let forms = [(Number::Bf16, false), (Number::F16, false), (Number::F32, true), (Number::F32, false)];
        for (number, tf32) in forms {
            for direction in [Direction::Forward, Direction::Volume, Direction::Filter] {
                for channels in UNETR {
                    let problem = of_unetr(direction, channels, number, tf32);
                    let bytes = session.prepare(&problem).unwrap_or_else(|error| panic!("{problem}: {error}"));
                    println!("{problem}: scratch memory {bytes}");
                    assert!(bytes <= MAX_WORKSPACE, "{problem}");
                    assert_eq!(described().prepare(&problem).unwrap(), bytes, "the recorded engine is another");
                }
            }
        }
    }

    #[test]
    fn channels_are_neighbours_in_memory() {
        let tensor = channels_last(7, DataType::BFloat16, 4, 32, [5, 6, 7]);
        assert_eq!(tensor.dims, [4, 32, 5, 6, 7]);
        assert_eq!(tensor.strides, [5 * 6 * 7 * 32, 1, 6 * 7 * 32, 7 * 32, 32]);
    }

    #[test]
    fn each_direction_reads_the_other_two_tensors() {
        for (direction, written) in [
            (Direction::Forward, Convolution::RESULT),
            (Direction::Volume, Convolution::VOLUME),
            (Direction::Filter, Convolution::FILTER),
        ] {
            let mut tensors = of_unetr(direction, [32, 32, 8], Number::Bf16, false).tensors();
            assert_eq!(tensors[2], written);
            tensors.sort_unstable();
            assert_eq!(tensors, [1, 2, 3]);
        }
    }

    #[test]
    fn a_key_distinguishes_everything() {
        let first = of_unetr(Direction::Filter, [64, 32, 96], Number::F32, true);
        assert_eq!(first.key(), "convolution dw 4x 64 to 32 of 96x96x96 tf32");
        assert_eq!(first.flops(), 2 * 27 * 4 * 96 * 96 * 96 * 64 * 32);
        for other in [
            Convolution { direction: Direction::Forward, ..first },
            Convolution { direction: Direction::Volume, ..first },
            Convolution { batch: 3, ..first },
            Convolution { inputs: 32, ..first },
            Convolution { outputs: 64, ..first },
            Convolution { size: [96, 96, 48], ..first },
            Convolution { tf32: false, ..first },
            Convolution { number: Number::Bf16, tf32: false, ..first },
        ] {
            assert_ne!(first.key(), other.key());
        }
    }

    #[test]
    fn full_f32_leaves_the_matrix_units_out() {
        let refuses = |number, tf32| {
            let problem = of_unetr(Direction::Forward, [64, 32, 96], number, tf32);
            problem.refused().contains(&NumericalNote::TENSOR_CORE)
        };
        assert!(refuses(Number::F32, false));
        assert!(!refuses(Number::F32, true) && !refuses(Number::Bf16, false) && !refuses(Number::F16, false));
    }
}
