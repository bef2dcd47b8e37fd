//! See [`benches::gpu_bench`].

use clap::Parser as _;

fn main() -> anyhow::Result<()> {
    benches::gpu_bench::run(&benches::gpu_bench::Cli::parse())
}
