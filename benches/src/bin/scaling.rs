//! Simulation of data-parallel steps on many GPUs: the cost of the slowest rank, of the sums and of the data.
//!
//! `cargo run --release -p benches --bin scaling`. Nothing is measured here: the inputs below are measured figures
//! and assumptions, named as such, and `docs/distributed.md` states the result. The same seed gives the same table.

#![allow(clippy::print_stdout, reason = "a program that prints a table")]
#![allow(clippy::cast_precision_loss, reason = "counts that are printed")]

/// Number of bytes of gradients: 368 million parameters of vit-l-p12 in f32.
const GRADIENT_BYTES: f64 = 368e6 * 4.0;
/// Seconds of a step of 192 crops on one H100 (measured, docs/gpu.md).
const STEP_SECS: f64 = 0.267;
/// Share of a step that is the backward pass (two of three products), and share of the backward pass in which the
/// decoder's blocks run (estimated from the operations on its 513 tokens and the encoder's 129).
const BACKWARD: (f64, f64) = (2.0 / 3.0, 0.19);
/// Number of blocks whose gradients are summed during the backward pass, and bytes per block: first of the decoder,
/// then of the encoder.
const BLOCKS: [(usize, f64); 2] = [(2, 3.352e6 * 4.0), (12, 28.332e6 * 4.0)];
/// Relative spread of a rank's step (assumed: clocks and thermal limits of GPUs of one kind).
const SPREAD: f64 = 0.02;
/// Probability that a rank's batch comes late, and the mean delay in seconds (assumed: tail of an object store behind
/// two prefetched batches).
const LATE: (f64, f64) = (0.002, 0.1);
/// Seconds that rank 0 spends on the facts of one rank and step (measured with all ranks on two busy cores, an upper
/// bound; see docs/distributed.md).
const FACTS_SECS: f64 = 90e-6;
/// Number of GPUs in a machine, and bytes per second and GPU between them (`NVLink`, as reported by NCCL's tests for
/// eight H100).
const MACHINE: (usize, f64) = (8, 360e9);
/// Latency of one hop between machines, in seconds.
const HOP_SECS: f64 = 10e-6;
/// Number of simulated steps.
const STEPS: usize = 2000;

/// A network between machines.
struct Network {
    name: &'static str,
    /// Rate in bytes per second and machine.
    speed: f64,
}

fn main() {
    let networks = [
        Network { name: "8 x 400 Gb/s InfiniBand", speed: 400e9 },
        Network { name: "1 x 100 Gb/s Ethernet", speed: 12.5e9 },
        Network { name: "1 x 10 Gb/s Ethernet", speed: 1.25e9 },
    ];
    println!(
        "| GPUs | network | sum, ms | after backward, ms | slowest rank, ms | facts, ms | step, ms | efficiency |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for ranks in [8, 64, 512] {
        for network in &networks {
            if ranks == MACHINE.0 && network.speed < networks[0].speed {
                continue;
            }
            let sum = sum_secs(ranks, GRADIENT_BYTES, network.speed);
            let left = left_secs(ranks, network.speed);
            let slowest = slowest_secs(ranks);
            let facts = FACTS_SECS * (ranks - 1) as f64;
            let step = slowest + left + facts;
            println!(
                "| {ranks} | {} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.0}% |",
                if ranks == MACHINE.0 { "NVLink" } else { network.name },
                1e3 * sum,
                1e3 * left,
                1e3 * slowest,
                1e3 * facts,
                1e3 * step,
                100.0 * STEP_SECS / step
            );
        }
    }
}

/// Seconds of the sums that remain when the backward pass is over. A block's gradients are final when its part of the
/// pass is over; blocks of one kind take equal parts. The slowdown of products by concurrent sums is ignored.
fn left_secs(ranks: usize, network: f64) -> f64 {
    let [(of_decoder, small), (of_encoder, large)] = BLOCKS;
    let decoder = (1..=of_decoder).map(|_| (BACKWARD.1, small));
    let encoder =
        (1..=of_encoder).map(|block| (BACKWARD.1 + (1.0 - BACKWARD.1) * block as f64 / of_encoder as f64, large));
    let (mut end, mut left) = (0f64, GRADIENT_BYTES);
    for (share, bytes) in decoder.chain(encoder) {
        let is_final = STEP_SECS * (1.0 - BACKWARD.0 * (1.0 - share));
        end = end.max(is_final) + sum_secs(ranks, bytes, network);
        left -= bytes;
    }
    end.max(STEP_SECS) + sum_secs(ranks, left, network) - STEP_SECS
}

/// Seconds of a ring sum, first within a machine and then between machines, where each GPU sums its part.
fn sum_secs(ranks: usize, bytes: f64, network: f64) -> f64 {
    let ring = |members: usize, bytes: f64, speed: f64, hop: f64| {
        let members = members as f64;
        2.0 * (members - 1.0) / members * bytes / speed + 2.0 * (members - 1.0) * hop
    };
    let machines = ranks / MACHINE.0;
    let within = ring(MACHINE.0, bytes, MACHINE.1, 3e-6);
    if machines == 1 { within } else { within + ring(machines, bytes, network, HOP_SECS) }
}

/// Mean duration in seconds of a step of the slowest of `ranks` ranks.
fn slowest_secs(ranks: usize) -> f64 {
    let mut random = Random(7);
    let total: f64 = (0..STEPS)
        .map(|_| {
            let rank = |random: &mut Random| {
                let late = if random.uniform() < LATE.0 { -LATE.1 * (1.0 - random.uniform()).ln() } else { 0.0 };
                STEP_SECS * (1.0 + SPREAD * random.normal()) + late
            };
            (0..ranks).map(|_| rank(&mut random)).fold(0.0, f64::max)
        })
        .sum();
    total / STEPS as f64
}

/// Random numbers of a simulation (Steele, Lea and Flood, `SplitMix`, OOPSLA 2014).
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Samples an approximately normal number of variance 1: the sum of twelve uniform numbers minus its mean.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }
}
