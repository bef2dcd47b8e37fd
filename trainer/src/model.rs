//! Hi-End-MAE: a masked autoencoder whose decoder reads several encoder layers (arXiv 2502.08347, section 3).
//!
//! Every part has an `XConfig` with its sizes, an `init` that takes initial weights from a
//! [`WeightInit`](init::WeightInit), and a `forward`. Field names follow the released state dict, so that exporting
//! only renames tensors.

pub mod attention;
pub mod block;
pub mod conv_block;
pub mod decoder;
pub mod encoder;
pub mod gated;
pub mod hi_end_mae;
pub mod init;
pub mod layer_norm;
pub mod masking;
pub mod patch_embed;
pub mod pos_embed;
pub mod precision;
pub mod unetr;
