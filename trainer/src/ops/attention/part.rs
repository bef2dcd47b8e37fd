//! Division of tokens into heads.

/// Multiples to which lengths are padded with zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Padding {
    /// Multiple for the number of tokens.
    pub tokens: usize,
    /// Multiple for the width of a head.
    pub width: usize,
}

/// One of several tensors stored side by side in each token, with its division into heads.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Index of the tensor.
    pub number: usize,
    /// Number of tensors.
    pub parts: usize,
    /// Number of heads.
    pub heads: usize,
    /// Padding of a head's rows and columns.
    pub padding: Padding,
}
