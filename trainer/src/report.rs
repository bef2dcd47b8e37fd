//! What a run tells: lines on the console, a journal, pictures.

pub mod attention;
pub mod console;
pub mod journal;
pub mod picture;
pub mod sheet;
