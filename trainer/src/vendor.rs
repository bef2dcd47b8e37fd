//! Use of NVIDIA's libraries: they are found at run time, and called for operations that they compute faster than
//! kernels compiled here.
//!
//! Models and operations never know a library: [`crate::ops::product`], for example, requests a product and receives it,
//! or the reason why it has to compute the product itself.
//!
//! # Safety contract
//! - Libraries are loaded once and never unloaded ([`library`]).
//! - Library handles and plans live on the thread that drives the device, where its context is current (`queue`).
//! - Device pointers are resolved inside the task that uses them, and never kept: memory moves between tasks.
//! - Work goes to the stream of its caller, after that stream waits for those of all buffers used; never to CUDA's
//!   default stream, which does not order with the others.
//! - Everything that a call reads or writes is held until the call is queued. Scratch memory belongs to one call.
//! - A failure taints what the call would have written, and is read there. So does a fault that keeps a library from
//!   planning what it computes otherwise: other kernels take over only where the library refuses.
//!
//! The parts that decide on the calls of a library ([`layout`], [`problem`], [`choices`]) are pure, are built
//! everywhere, and are tested without a device.

pub mod algorithms;
#[cfg(any(test, feature = "cuda"))]
pub mod answers;
pub mod choices;
#[cfg(feature = "cuda")]
#[expect(unsafe_code, reason = "calls of a C library")]
#[allow(clippy::wildcard_imports, reason = "constants of a C library")]
pub mod cublaslt;
pub mod cublaslt_functions;
#[expect(unsafe_code, reason = "calls of a C library")]
pub mod cudnn;
#[cfg(feature = "cuda")]
pub mod device_thread;
pub mod driver;
#[cfg(feature = "cuda")]
pub mod fallback;
mod functions;
pub mod layout;
pub mod library;
#[cfg(feature = "cuda")]
pub mod memory;
#[expect(unsafe_code, reason = "calls of a C library")]
pub mod nccl;
pub mod problem;
#[cfg(feature = "cuda")]
#[expect(unsafe_code, reason = "hands device pointers to a C library")]
pub mod queue;
pub mod recorded;
#[cfg_attr(feature = "cuda", expect(unsafe_code, reason = "calls of the driver's event functions"))]
pub mod timing;
