//! Builder of a graph, which adds operations one after another.

use super::graph::{
    Attribute, DataType, Descriptor, Draft, Kind, Place, PointwiseMode, ReductionOperator, Tensor, contiguous_strides,
    operation_graph,
};
use super::{CudnnError, Target};

/// First identifier of tensors that exist only within a graph.
const FIRST_HIDDEN: i64 = 1000;

/// Actual lengths that replace the sizes of a product: rows, columns and inner length. Each is a tensor in device
/// memory with one number for each sequence.
#[derive(Clone, Copy, Default)]
pub struct Lengths<'a> {
    /// Number of rows of the result.
    pub rows: Option<&'a Descriptor>,
    /// Number of columns of the result.
    pub columns: Option<&'a Descriptor>,
    /// Length of the sums.
    pub inner: Option<&'a Descriptor>,
}

/// Operations in the order in which they were added.
#[derive(Default)]
pub struct Operations {
    list: Vec<Descriptor>,
}

impl Operations {
    /// Creates the graph of all operations.
    ///
    /// # Errors
    /// If they are not a graph.
    pub fn graph(&self, target: &Target) -> Result<Descriptor, CudnnError> {
        operation_graph(target, &self.list)
    }

    /// Creates a contiguous tensor within the graph, for the result of the next operation.
    ///
    /// # Errors
    /// If the library refuses the tensor.
    pub fn hidden(&self, dtype: DataType, dims: &[i64]) -> Result<Descriptor, CudnnError> {
        self.hidden_at(dtype, dims, &contiguous_strides(dims))
    }

    /// Creates a tensor within the graph with these strides, for the result of the next operation.
    ///
    /// # Errors
    /// If the library refuses the tensor.
    pub fn hidden_at(&self, dtype: DataType, dims: &[i64], strides: &[i64]) -> Result<Descriptor, CudnnError> {
        // Each operation has one result.
        let uid = FIRST_HIDDEN + self.list.len() as i64;
        Tensor::new(uid, dtype, dims, strides).at(Place::Virtual).descriptor()
    }

    /// Adds `y = a · b`, matrix by matrix, in f32.
    ///
    /// # Errors
    /// If the library refuses the operation.
    pub fn matmul(
        &mut self,
        a: &Descriptor,
        b: &Descriptor,
        y: &Descriptor,
        lengths: Lengths<'_>,
    ) -> Result<(), CudnnError> {
        let matmul = Draft::new(Kind::Matmul)?.set(Attribute::MatmulCompType, &[DataType::Float])?.finalize()?;
        let mut draft = Draft::new(Kind::OperationMatmul)?
            .set_descriptors(Attribute::OperationMatmulA, &[a])?
            .set_descriptors(Attribute::OperationMatmulB, &[b])?
            .set_descriptors(Attribute::OperationMatmulC, &[y])?
            .set_descriptors(Attribute::OperationMatmulDesc, &[&matmul])?;
        for (attribute, length) in [
            (Attribute::OperationMatmulMOverride, lengths.rows),
            (Attribute::OperationMatmulNOverride, lengths.columns),
            (Attribute::OperationMatmulKOverride, lengths.inner),
        ] {
            if let Some(length) = length {
                draft = draft.set_descriptors(attribute, &[length])?;
            }
        }
        self.list.push(draft.finalize()?);
        Ok(())
    }

    /// Adds `y = mode(x)` or `y = mode(x, b)`, computed in `math`.
    ///
    /// # Errors
    /// If the library refuses the operation.
    pub fn pointwise(
        &mut self,
        mode: PointwiseMode,
        math: DataType,
        x: &Descriptor,
        b: Option<&Descriptor>,
        y: &Descriptor,
    ) -> Result<(), CudnnError> {
        let pointwise = Draft::new(Kind::Pointwise)?
            .set(Attribute::PointwiseMode, &[mode])?
            .set(Attribute::PointwiseMathPrec, &[math])?
            .finalize()?;
        self.apply(&pointwise, x, b, None, y)
    }

    /// Adds an operation that writes the index along `axis` of each value of `x` to `y`.
    ///
    /// # Errors
    /// If the library refuses the operation.
    pub fn index(&mut self, axis: i64, x: &Descriptor, y: &Descriptor) -> Result<(), CudnnError> {
        let pointwise = Draft::new(Kind::Pointwise)?
            .set(Attribute::PointwiseMode, &[PointwiseMode::GenerateIndex])?
            .set(Attribute::PointwiseMathPrec, &[DataType::Int32])?
            .set(Attribute::PointwiseAxis, &[axis])?
            .finalize()?;
        self.apply(&pointwise, x, None, None, y)
    }

    /// Adds an operation with `y = x` where `mask` is true, and `other` elsewhere.
    ///
    /// # Errors
    /// If the library refuses the operation.
    pub fn select(
        &mut self,
        mask: &Descriptor,
        x: &Descriptor,
        other: &Descriptor,
        y: &Descriptor,
    ) -> Result<(), CudnnError> {
        let pointwise = Draft::new(Kind::Pointwise)?
            .set(Attribute::PointwiseMode, &[PointwiseMode::BinarySelect])?
            .set(Attribute::PointwiseMathPrec, &[DataType::Float])?
            .finalize()?;
        self.apply(&pointwise, x, Some(other), Some(mask), y)
    }

    fn apply(
        &mut self,
        pointwise: &Descriptor,
        x: &Descriptor,
        b: Option<&Descriptor>,
        mask: Option<&Descriptor>,
        y: &Descriptor,
    ) -> Result<(), CudnnError> {
        let mut draft = Draft::new(Kind::OperationPointwise)?
            .set_descriptors(Attribute::OperationPointwisePwDescriptor, &[pointwise])?
            .set_descriptors(Attribute::OperationPointwiseX, &[x])?;
        for (attribute, tensor) in [(Attribute::OperationPointwiseB, b), (Attribute::OperationPointwiseT, mask)] {
            if let Some(tensor) = tensor {
                draft = draft.set_descriptors(attribute, &[tensor])?;
            }
        }
        self.list.push(draft.set_descriptors(Attribute::OperationPointwiseY, &[y])?.finalize()?);
        Ok(())
    }

    /// Adds a reduction of `x` to `y` along the axes on which `y` has length 1, in f32.
    ///
    /// # Errors
    /// If the library refuses the operation.
    pub fn reduce(&mut self, operator: ReductionOperator, x: &Descriptor, y: &Descriptor) -> Result<(), CudnnError> {
        let reduction = Draft::new(Kind::Reduction)?
            .set(Attribute::ReductionOperator, &[operator])?
            .set(Attribute::ReductionCompType, &[DataType::Float])?
            .finalize()?;
        let draft = Draft::new(Kind::OperationReduction)?
            .set_descriptors(Attribute::OperationReductionX, &[x])?
            .set_descriptors(Attribute::OperationReductionY, &[y])?
            .set_descriptors(Attribute::OperationReductionDesc, &[&reduction])?;
        self.list.push(draft.finalize()?);
        Ok(())
    }

    /// Adds an operation in which `y` holds the values of `x` with other sizes and strides.
    ///
    /// # Errors
    /// If the library refuses the operation.
    pub fn reshape(&mut self, x: &Descriptor, y: &Descriptor) -> Result<(), CudnnError> {
        let draft = Draft::new(Kind::OperationReshape)?
            .set_descriptors(Attribute::OperationReshapeX, &[x])?
            .set_descriptors(Attribute::OperationReshapeY, &[y])?;
        self.list.push(draft.finalize()?);
        Ok(())
    }
}
