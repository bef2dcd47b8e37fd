//! Parameters of one optimizer step, shared by the composed step and its kernel.

/// Scalars of an `AdamW` step, bias corrections included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepParams {
    /// Learning rate.
    pub lr: f64,
    /// Factor by which weight decay scales the parameter: `1 - lr · decay`.
    pub keep: f64,
    /// Decay rates of the two moments.
    pub betas: [f32; 2],
    /// Term added to the square root of the second moment.
    pub epsilon: f32,
    /// Bias corrections of the moments at the t-th step, `1 - betasᵗ`.
    pub corrections: [f32; 2],
}
