//! Reasons of device failures, extracted from the backend's messages.
//!
//! Burn and `CubeCL` wrap a reason in lines without information, and list between them the operations that were skipped
//! because of it. `Debug` of their errors prints the same text as `Display`.

use std::fmt::Debug;

/// Lines without a reason: titles of errors that wrap another error, headings, and the text of an absent backtrace.
const FRAMES: [&str; 8] = [
    "An error happened during execution",
    "An IO error happened",
    "Several failures at once",
    UNWRITTEN,
    CAUSE,
    "Asked at:",
    "Backtrace",
    "No backtrace available",
];
/// Title followed by a list of skipped operations, up to the next cause.
const UNWRITTEN: &str = "The bytes were never written";
/// Heading of a reason.
const CAUSE: &str = "Caused by:";
/// Largest number of lines kept of a reason: a compiler's message may end with the whole kernel.
const MOST_LINES: usize = 8;

/// Extracts the reason of a failure from the backend's error, in one line.
pub(crate) fn reason_of(error: impl Debug) -> String {
    reason(&format!("{error:?}"))
}

/// Extracts the reason of a failure from the backend's message, in one line; a bare reason stays unchanged.
pub(crate) fn reason(message: &str) -> String {
    tracing::debug!("message of the device: {message}");
    let mut reasons: Vec<&str> = Vec::new();
    let mut skipped = false;
    for line in message.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if line.starts_with(UNWRITTEN) {
            skipped = true;
        } else if line == CAUSE {
            skipped = false;
        }
        // An error that wraps one of its own kind repeats the title.
        if !skipped && !FRAMES.iter().any(|frame| line.starts_with(frame)) && !reasons.contains(&line) {
            reasons.push(line);
        }
    }
    if reasons.is_empty() {
        return message.lines().next().unwrap_or_default().trim().to_owned();
    }
    reasons.truncate(MOST_LINES);
    reasons.join("; ")
}

/// Text by which `CubeCL` reports exhausted memory (`CUDA_ERROR_OUT_OF_MEMORY`) from a call of the driver.
const STATUS: &str = "failed with status 2";

/// Returns whether a reason states that the device's memory is exhausted.
pub(crate) fn is_out_of_memory(reason: &str) -> bool {
    // CubeCL's words, then those of drivers and libraries.
    const WORDS: [&str; 7] = [
        "out of device memory",
        "can't allocate",
        "out of memory",
        "outofmemory",
        "out_of_memory",
        "alloc_failed",
        "allocation_failed",
    ];
    let reason = reason.to_lowercase();
    let is_status = |rest: &str| !rest.starts_with(|next: char| next.is_ascii_digit());
    WORDS.iter().any(|words| reason.contains(words)) || reason.split(STATUS).skip(1).any(is_status)
}

#[cfg(test)]
mod tests {
    use burn::tensor::ExecutionError;

    use super::*;

    /// Message that a read reports two operations after a launch had no memory for its result.
    const UNWRITTEN_FOR_MEMORY: &str = "The bytes were never written (failure #3, still claiming 5 buffer(s))\n  \
         Gelu skipped: needs memory 91\n  Matmul skipped: needs memory 77\nCaused by:\n  An IO error happened\nCaused by:\n  \
         out of device memory allocating 2654208 bytes\nNo backtrace available\nAsked at:\nNo backtrace available";

    fn check(message: &str, expected: &str, out_of_memory: bool) {
        let reason = reason_of(ExecutionError::with_context(message));
        assert_eq!((reason.as_str(), is_out_of_memory(&reason)), (expected, out_of_memory));
        assert_eq!(super::reason(&reason), reason);
    }

    #[test]
    fn reasons_are_found_in_the_messages_of_cubecl() {
        check(UNWRITTEN_FOR_MEMORY, "out of device memory allocating 2654208 bytes", true);
        check(
            "An IO error happened\nCaused by:\n  can't allocate buffer of size: 4398046511104\nNo backtrace available",
            "can't allocate buffer of size: 4398046511104",
            true,
        );
        check(
            "An error happened during execution\nCaused by:\n  cublasLtMatmul failed with \
             CublasError(CUBLAS_STATUS_ALLOC_FAILED)\nBacktrace:\nNo backtrace available",
            "cublasLtMatmul failed with CublasError(CUBLAS_STATUS_ALLOC_FAILED)",
            true,
        );
        check(
            "A launch error happened\nCaused by:\n  An error caused the compilation to fail\nCaused by:\n  no such \
             instruction\nBacktrace:\nNo backtrace available",
            "A launch error happened; An error caused the compilation to fail; no such instruction",
            false,
        );
        check(
            "Several failures at once\nCaused by:\n  An IO error happened\nCaused by:\n  out of device memory allocating 8 \
             bytes\nNo backtrace available\nAn IO error happened\nCaused by:\n  out of device memory allocating 8 bytes\nNo \
             backtrace available",
            "out of device memory allocating 8 bytes",
            true,
        );
        for (status, out_of_memory) in [(2, true), (200, false), (700, false)] {
            let reason = format!("cuEventCreate failed with status {status}");
            check(
                &format!(
                    "An error happened during execution\nCaused by:\n  {reason}\nBacktrace:\nNo backtrace available"
                ),
                &reason,
                out_of_memory,
            );
        }
    }

    #[test]
    fn a_poisoned_device_is_called_so_once() {
        let inner =
            "The device is poisoned\nCaused by:\n  CUDA_ERROR_ILLEGAL_ADDRESS\nBacktrace:\nNo backtrace available";
        let reason = reason_of(ExecutionError::device_poisoned(inner));
        assert_eq!(reason, "The device is poisoned; CUDA_ERROR_ILLEGAL_ADDRESS");
        assert!(!is_out_of_memory(&reason));
    }

    #[test]
    fn a_message_without_a_reason_is_not_lost() {
        assert_eq!(reason("An IO error happened\nCaused by:\n"), "An IO error happened");
        assert_eq!(
            reason("the thread that reads its results has ended"),
            "the thread that reads its results has ended"
        );
        let source: Vec<String> = (0..100).map(|line| format!("line {line}")).collect();
        assert!(reason(&source.join("\n")).ends_with("; line 7"));
    }

    /// The texts above must match those of the library version in use.
    #[cfg(feature = "cube")]
    #[test]
    #[allow(clippy::default_trait_access, reason = "the crate of the type is a dependency with CUDA only")]
    fn errors_of_cubecl_are_understood() {
        use cubecl::server::{IoError, ServerError};
        let memory = ServerError::from(IoError::OutOfMemory { size: 2_654_208, backtrace: Default::default() });
        let root = Box::new(memory);
        let chain = vec!["Gelu skipped: needs memory 91".to_owned(), "Matmul skipped: needs memory 77".to_owned()];
        let unwritten =
            ServerError::Unwritten { failure: 3, claimed: 5, chain, root, backtrace: Default::default() }.to_string();
        assert_eq!(unwritten, UNWRITTEN_FOR_MEMORY);
        let large = ServerError::from(IoError::BufferTooBig { size: 1 << 42, backtrace: Default::default() });
        check(&large.to_string(), "can't allocate buffer of size: 4398046511104", true);
    }
}
