//! What a run tells: lines on the console, a journal, pictures.

pub mod console;
pub mod curves;
pub mod history;
pub mod journal;
pub mod picture;
pub mod series;
pub mod tensorboard;
#[cfg(test)]
mod testing;
