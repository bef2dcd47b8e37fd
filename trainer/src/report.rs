//! What a run tells: a dashboard or lines, a journal, event files for TensorBoard, curves and pictures.

pub mod attention;
pub mod console;
pub mod curves;
pub mod dashboard;
pub mod history;
pub mod journal;
pub mod picture;
pub mod series;
pub mod sheet;
pub mod tensorboard;
#[cfg(test)]
mod testing;
mod ticker;
pub mod watcher;
