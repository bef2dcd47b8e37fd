//! Reports of a run: dashboard or lines, event files for TensorBoard, curves and pictures.

pub mod attention;
pub mod console;
pub mod curves;
pub mod dashboard;
pub mod history;
pub mod metrics;
pub mod mlflow;
pub mod picture;
mod ranks;
pub mod series;
pub mod sheet;
pub mod tensorboard;
mod ticker;
pub mod watcher;
