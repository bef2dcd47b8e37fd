//! Work that NVIDIA's libraries did not take over in this process, and that Burn's kernels did instead.

/// Warnings given so far, each with its reason.
#[cfg(any(feature = "cuda", feature = "cuda-nvrtc"))]
pub(super) fn warned() -> Vec<String> {
    hiend_trainer::vendor::fallback::warned()
}

/// Warnings given so far; none in builds without CUDA, which never use the libraries.
#[cfg(not(any(feature = "cuda", feature = "cuda-nvrtc")))]
pub(super) fn warned() -> Vec<String> {
    vec![]
}
