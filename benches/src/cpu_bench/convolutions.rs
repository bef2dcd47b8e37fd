//! Convolutions of `tiny`'s UNETR, one by one.

use std::hint::black_box;
use std::time::Instant;

use hiend_cpu::conv::{ConvShape, conv3, conv3_input_gradient, conv3_weight_gradient};
use rayon::prelude::*;

use super::peer::{Measured, Peer};
use super::{Cli, least, lesser};
use crate::clock::Elapsed;

/// Numbers of input and output channels, and voxels per side.
const SHAPES: [[usize; 3]; 10] = [
    [1, 8, 96],
    [8, 8, 96],
    [16, 8, 96],
    [16, 16, 64],
    [32, 16, 64],
    [16, 16, 32],
    [32, 32, 32],
    [64, 32, 32],
    [64, 64, 16],
    [128, 64, 16],
];

const COLUMNS: [&str; 3] = ["forward", "input gradient", "weight gradient"];

pub(super) fn run(cli: &Cli, peer: Option<&Peer>) -> anyhow::Result<()> {
    let before = SHAPES.map(|shape| ours(shape, cli.rounds.div_ceil(2)));
    let theirs: Option<Measured<Vec<[[f64; 2]; 3]>>> = match peer {
        Some(peer) => {
            let shapes = SHAPES.iter().map(|[i, o, side]| format!("{i},{o},{side}"));
            Some(peer.measure(
                "torch_unetr.py",
                &std::iter::once("convolutions".to_owned()).chain(shapes).collect::<Vec<_>>(),
            )?)
        }
        None => None,
    };
    let after = SHAPES.map(|shape| ours(shape, cli.rounds.div_ceil(2)));
    let peak = peak_gflops(cli.threads);
    println!(
        "convolutions of 3x3x3, {} threads, ms of {} time; peak of fused multiply-adds {peak:.1} GFLOP/s",
        cli.threads,
        cli.clock.name()
    );
    println!("| in, out, side | | ours | GFLOP/s | at the peak | PyTorch | ours / PyTorch |");
    println!("|---|---|---|---|---|---|---|");
    let mut sums = [0.0; 2];
    for (number, shape) in SHAPES.iter().enumerate() {
        let [i, o, side] = *shape;
        let gflop = 2.0 * (side.pow(3) * 27 * i * o) as f64 / 1e9;
        for (column, name) in COLUMNS.iter().enumerate() {
            // The image has no gradient.
            if i == 1 && column == 1 {
                continue;
            }
            let secs = cli.clock.of(lesser(before[number][column], after[number][column]));
            let theirs = theirs.as_ref().map(|theirs| cli.clock.of_pair(theirs.secs[number][column]));
            sums[0] += secs;
            sums[1] += theirs.unwrap_or(0.0);
            println!(
                "| {i}, {o}, {side} | {name} | {:.1} | {:.1} | {:.1} | {} |",
                secs * 1e3,
                gflop / secs,
                gflop / peak * 1e3,
                theirs.map_or("| ".to_owned(), |theirs| format!("{:.1} | {:.2}", theirs * 1e3, secs / theirs)),
            );
        }
    }
    if let Some(theirs) = theirs {
        let [ours, sum] = sums;
        println!("| all | | {:.0} | | | {:.0} | {:.2} |", ours * 1e3, sum * 1e3, ours / sum);
        println!("PyTorch {}", theirs.torch);
    }
    Ok(())
}

fn ours([in_channels, out_channels, side]: [usize; 3], rounds: usize) -> [Elapsed; 3] {
    let shape = ConvShape { batch: 1, in_channels, out_channels, size: [side; 3] };
    let wave = |len: usize| -> Vec<f32> { (0..len).map(|at| (at % 101) as f32 / 50.0 - 1.0).collect() };
    let (x, dy) = (wave(shape.input_len()), wave(shape.output_len()));
    let weight = wave(in_channels * out_channels * 27);
    [
        least(rounds, || drop(black_box(conv3(&x, &weight, None, shape)))),
        least(rounds, || drop(black_box(conv3_input_gradient(&dy, &weight, shape)))),
        least(rounds, || drop(black_box(conv3_weight_gradient(&x, &dy, shape)))),
    ]
}

/// Rate of 12 independent chains of fused multiply-adds of 8 lanes on each thread, which no kernel can exceed.
fn peak_gflops(threads: usize) -> f64 {
    const LEN: usize = 96;
    const ROUNDS: usize = 1_000_000;
    let rates: Vec<f64> = (0..threads)
        .into_par_iter()
        .map(|_| {
            let (a, b) = (black_box(0.999_f32), black_box(0.001_f32));
            let mut sums = black_box([0.0_f32; LEN]);
            let started = Instant::now();
            for _ in 0..ROUNDS {
                for sum in &mut sums {
                    *sum = f32::mul_add(*sum, a, b);
                }
            }
            black_box(sums);
            (2 * LEN * ROUNDS) as f64 / started.elapsed().as_secs_f64() / 1e9
        })
        .collect();
    rates.iter().sum()
}
