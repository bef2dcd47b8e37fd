//! Models and training of Hi-End-MAE on Burn: pre-training, UNETR fine-tuning, inference and evaluation.

pub mod inference;
pub mod loss;
pub mod metric;
