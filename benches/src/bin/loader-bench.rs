//! See [`benches::loader_bench`].

use clap::Parser as _;

fn main() -> anyhow::Result<()> {
    benches::loader_bench::run(&benches::loader_bench::Cli::parse())
}
