//! Failure of a task's picture.

use std::fmt;
use std::io;

use crate::device::failure::reason_of;

/// Reason why a batch cannot be drawn.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// A batch without crops.
    #[error("the batch has no crop")]
    NoCrop,
    /// A failure of the device.
    #[error("the device failed: {message}")]
    Device {
        /// Reason given by the backend.
        message: String,
    },
    /// A file that cannot be written.
    #[error("cannot write the file")]
    Write(#[source] io::Error),
}

impl PictureError {
    /// Converts the backend's error from reading back values.
    pub(crate) fn device(error: impl fmt::Debug) -> Self {
        Self::Device { message: reason_of(error) }
    }
}
