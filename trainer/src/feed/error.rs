//! Errors of the feed.

use super::targets::TargetError;
use crate::augment::OtherChain;
use crate::loss::class_map::ClassMapError;

/// Error of a batch source.
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// Errors that end a feed.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The loader failed.
    #[error("no batch for step {step}")]
    Source {
        /// First step without a batch.
        step: u64,
        /// Error of the loader.
        #[source]
        source: SourceError,
    },
    /// The shape of the batch does not match the model, or its buffers do not match the shape.
    #[error("the batch of step {step} has the shape {shape:?}; the model takes [n, 1, {}, {}, {}]", .crop_size[0], .crop_size[1], .crop_size[2])]
    Shape {
        /// Step of the batch.
        step: u64,
        /// Shape of the batch.
        shape: [usize; 5],
        /// Crop size of the model.
        crop_size: [usize; 3],
    },
    /// A batch is out of order.
    #[error("the batch of step {expected} was expected, that of step {found} was received")]
    Order {
        /// Step that was expected next.
        expected: u64,
        /// Step of the received batch.
        found: u64,
    },
    /// The batch lacks a target.
    #[error("no target for the batch of step {step}")]
    Target {
        /// Step of the batch.
        step: u64,
        /// Missing or invalid target.
        #[source]
        source: TargetError,
    },
    /// The device cannot make the batch's crops.
    #[error("the batch of step {step} cannot be augmented on the device")]
    Augment {
        /// Step of the batch.
        step: u64,
        /// Crop that cannot be made.
        #[source]
        source: OtherChain,
    },
    /// The device failed.
    #[error("the batch of step {step} did not reach the device: {message}")]
    Upload {
        /// Step of the batch.
        step: u64,
        /// Error of the device.
        message: String,
    },
    /// The source ended, or its thread died, although a stream is endless.
    #[error("the stream of batches ended before step {step}")]
    Ended {
        /// First step without a batch.
        step: u64,
    },
}

impl FeedError {
    /// Message of the device, if the device failed.
    pub(crate) fn device_message_mut(&mut self) -> Option<&mut String> {
        match self {
            Self::Upload { message, .. }
            | Self::Target { source: TargetError::OnDevice(ClassMapError::Device(message)), .. } => Some(message),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_the_device_have_its_message() {
        let message = || "out of device memory allocating 8 bytes".to_owned();
        let source = TargetError::OnDevice(ClassMapError::Device(message()));
        for mut error in [FeedError::Upload { step: 3, message: message() }, FeedError::Target { step: 3, source }] {
            *error.device_message_mut().unwrap() += "; to use less: advice";
            let text = hiend_cache::with_sources(&error);
            assert!(text.ends_with("out of device memory allocating 8 bytes; to use less: advice"), "{text}");
        }
        assert!(FeedError::Target { step: 3, source: TargetError::NoLabels }.device_message_mut().is_none());
        assert!(FeedError::Ended { step: 3 }.device_message_mut().is_none());
    }
}
