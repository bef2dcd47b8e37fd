//! Modules shared by the suites, `loader-bench`, `cpu-bench`, `gpu-bench` and `learning`: volumes, clocks, arithmetic,
//! contenders, shapes and operation counts of the models, and the chart of the results.

#![allow(clippy::print_stdout, reason = "tools for developers print their results")]
#![allow(clippy::cast_possible_wrap, reason = "C libraries take lengths of volumes as signed integers")]

pub mod chart;
pub mod clock;
pub mod contender;
#[cfg(feature = "cpu")]
pub mod cpu_bench;
pub mod figures;
#[cfg(feature = "gpu")]
pub mod flops;
#[cfg(feature = "gpu")]
pub mod gpu_bench;
#[cfg(feature = "cube")]
pub mod kernel_times;
#[cfg(feature = "learning")]
pub mod learning;
pub mod loader_bench;
pub mod readers_bench;
pub mod service_bench;
#[cfg(feature = "gpu")]
pub mod shapes;
pub mod storage_bench;
pub mod volume;
