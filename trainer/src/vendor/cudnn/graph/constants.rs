//! Constants of cuDNN's graph interface, with the numbers of its header.

use crate::vendor::problem::Number;

/// Kinds of descriptors, with the library's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
#[allow(missing_docs, reason = "names of the library's header")]
pub enum Kind {
    Pointwise = 0,
    Convolution = 1,
    Engine = 2,
    EngineConfig = 3,
    EngineHeuristics = 4,
    ExecutionPlan = 5,
    KnobChoice = 7,
    OperationConvolutionForward = 10,
    OperationConvolutionBackwardFilter = 11,
    OperationConvolutionBackwardData = 12,
    OperationPointwise = 13,
    OperationGraph = 15,
    VariantPack = 16,
    Tensor = 17,
    Matmul = 18,
    OperationMatmul = 19,
    Reduction = 21,
    OperationReduction = 22,
    OperationNormForward = 29,
    OperationNormBackward = 30,
    OperationReshape = 31,
    DeviceProperties = 38,
}

/// Attributes of descriptors, with the library's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
#[allow(missing_docs, reason = "names of the library's header")]
pub enum Attribute {
    PointwiseMode = 0,
    PointwiseMathPrec = 1,
    PointwiseReluLowerClip = 3,
    PointwiseReluLowerClipSlope = 5,
    PointwiseAxis = 9,
    ConvolutionCompType = 100,
    ConvolutionConvMode = 101,
    ConvolutionDilations = 102,
    ConvolutionFilterStrides = 103,
    ConvolutionPostPaddings = 104,
    ConvolutionPrePaddings = 105,
    ConvolutionSpatialDims = 106,
    EngineHeurMode = 200,
    EngineHeurOperationGraph = 201,
    EngineHeurResults = 202,
    EngineHeurDeviceProp = 204,
    EngineCfgEngine = 300,
    EngineCfgKnobChoices = 302,
    ExecutionPlanHandle = 400,
    ExecutionPlanEngineConfig = 401,
    ExecutionPlanWorkspaceSize = 402,
    ExecutionPlanDeviceProp = 407,
    KnobChoiceKnobType = 600,
    KnobChoiceKnobValue = 601,
    OperationConvolutionForwardAlpha = 700,
    OperationConvolutionForwardBeta = 701,
    OperationConvolutionForwardConvDesc = 702,
    OperationConvolutionForwardW = 703,
    OperationConvolutionForwardX = 704,
    OperationConvolutionForwardY = 705,
    OperationConvolutionBwdDataAlpha = 706,
    OperationConvolutionBwdDataBeta = 707,
    OperationConvolutionBwdDataConvDesc = 708,
    OperationConvolutionBwdDataW = 709,
    OperationConvolutionBwdDataDx = 710,
    OperationConvolutionBwdDataDy = 711,
    OperationConvolutionBwdFilterAlpha = 712,
    OperationConvolutionBwdFilterBeta = 713,
    OperationConvolutionBwdFilterConvDesc = 714,
    OperationConvolutionBwdFilterDw = 715,
    OperationConvolutionBwdFilterX = 716,
    OperationConvolutionBwdFilterDy = 717,
    OperationPointwisePwDescriptor = 750,
    OperationPointwiseX = 751,
    OperationPointwiseB = 752,
    OperationPointwiseY = 753,
    OperationPointwiseDx = 756,
    OperationPointwiseDy = 757,
    OperationPointwiseT = 758,
    OperationGraphHandle = 800,
    OperationGraphOps = 801,
    OperationGraphEngineGlobalCount = 802,
    TensorByteAlignment = 900,
    TensorDataType = 901,
    TensorDimensions = 902,
    TensorStrides = 903,
    TensorUniqueId = 906,
    TensorIsVirtual = 907,
    TensorIsByValue = 908,
    VariantPackUniqueIds = 1000,
    VariantPackDataPointers = 1001,
    VariantPackWorkspace = 1003,
    EngineOperationGraph = 1300,
    EngineGlobalIndex = 1301,
    EngineNumericalNote = 1303,
    EngineDeviceProp = 1307,
    MatmulCompType = 1500,
    OperationMatmulA = 1520,
    OperationMatmulB = 1521,
    OperationMatmulC = 1522,
    OperationMatmulDesc = 1523,
    OperationMatmulMOverride = 1525,
    OperationMatmulNOverride = 1526,
    OperationMatmulKOverride = 1527,
    ReductionOperator = 1600,
    ReductionCompType = 1601,
    OperationReductionX = 1610,
    OperationReductionY = 1611,
    OperationReductionDesc = 1612,
    OperationReshapeX = 2200,
    OperationReshapeY = 2201,
    DevicePropJson = 2702,
}

/// Types of values in tensors and of computations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
#[allow(missing_docs, reason = "names of the library's header")]
pub enum DataType {
    Float = 0,
    Half = 2,
    Int32 = 4,
    BFloat16 = 9,
    Int64 = 10,
    Boolean = 11,
}

impl DataType {
    /// Number of bytes of a value.
    #[must_use]
    pub fn bytes(self) -> i64 {
        match self {
            Self::Boolean => 1,
            Self::Half | Self::BFloat16 => 2,
            Self::Float | Self::Int32 => 4,
            Self::Int64 => 8,
        }
    }
}

impl From<Number> for DataType {
    fn from(number: Number) -> Self {
        match number {
            Number::F32 => Self::Float,
            Number::F16 => Self::Half,
            Number::Bf16 => Self::BFloat16,
        }
    }
}

/// Elementwise functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
#[allow(missing_docs, reason = "names of the library's header")]
pub enum PointwiseMode {
    Add = 0,
    Mul = 1,
    Max = 3,
    Div = 6,
    Sub = 9,
    Exp = 13,
    Log = 15,
    Identity = 21,
    ReluForward = 100,
    ReluBackward = 200,
    CompareLess = 304,
    LogicalAnd = 400,
    GenerateIndex = 501,
    BinarySelect = 601,
}

/// Functions that reduce axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
#[allow(missing_docs, reason = "names of the library's header")]
pub enum ReductionOperator {
    Add = 0,
    Max = 3,
}

/// Direction of a convolution's filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
#[allow(missing_docs, reason = "names of the library's header")]
pub enum ConvolutionMode {
    Convolution = 0,
    CrossCorrelation = 1,
}

/// Heuristics for finding engines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum HeuristicMode {
    /// Engines that can compute the graph, without regard to speed.
    Fallback = 2,
    /// Engines in the order of their expected speed.
    A = 3,
}

/// Kind of an engine's knob, by the library's number; later versions have more kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct KnobType(pub i32);

/// Note about an engine's arithmetic, by the library's number; later versions have more notes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct NumericalNote(pub i32);

impl NumericalNote {
    /// Products are computed by matrix units.
    pub const TENSOR_CORE: Self = Self(0);
    /// Inputs are rounded to a shorter type.
    pub const DOWN_CONVERT_INPUTS: Self = Self(1);
    /// Intermediate sums are rounded.
    pub const REDUCED_PRECISION_REDUCTION: Self = Self(2);
    /// Two runs may give different bits.
    pub const NONDETERMINISTIC: Self = Self(4);
}
