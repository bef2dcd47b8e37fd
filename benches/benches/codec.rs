//! Decoding and encoding times of a chunk of 32³ voxels for each codec.
//!
//! `cargo bench -p benches --bench codec`. Voxels are generated with CT-like noise; throughput counts values of two
//! bytes, and `floor/copy` copies as many. Sizes are printed once at the start. For real CT: `loader-bench --codec`.

#![allow(clippy::print_stdout, reason = "tools for developers print their results")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hiend_cache::codec::planes::Planes;
use hiend_cache::codec::{Codec, CodecPreset, Decoder, Encoder};

use benches::volume::Voxels;

const SIDE: usize = 32;

/// Chunks from the middle of the volume, which contain body rather than air.
fn chunks(voxels: &Voxels) -> Vec<Vec<u16>> {
    let [_, ny, nz] = voxels.shape;
    let start = voxels.shape.map(|n| n / 3);
    let chunk = |number: usize| {
        let corner = [start[0] + number / 2 * SIDE, start[1] + number % 2 * SIDE, start[2]];
        let rows =
            (0..SIDE * SIDE).map(|row| ((corner[0] + row / SIDE) * ny + corner[1] + row % SIDE) * nz + corner[2]);
        rows.flat_map(|at| voxels.values[at..at + SIDE].iter().copied()).collect()
    };
    (0..4).map(chunk).collect()
}

fn codec(criterion: &mut Criterion) {
    let voxels = Voxels::generated();
    let chunks = chunks(&voxels);
    let num_voxels = chunks.iter().map(Vec::len).sum::<usize>();
    let mut values = vec![0u16; SIDE * SIDE * SIDE];
    let planes = |raw_bits| Planes { bits: voxels.bits, raw_bits };
    let codecs = [
        ("packed", Codec::new(voxels.bits, CodecPreset::Fast)),
        ("planes, zstd", Codec::Planes(planes(0))),
        ("planes, low bits raw, zstd", Codec::Planes(planes(4))),
        ("planes, lz4", Codec::Lz4(planes(0))),
        ("planes, low bits apart, lz4", Codec::Lz4(planes(4))),
    ];
    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Bytes(2 * num_voxels as u64));
    group.bench_function("floor/copy", |bencher| {
        bencher.iter(|| chunks.iter().for_each(|chunk| values.copy_from_slice(chunk)));
    });
    let mut encoder = Encoder::new(hiend_cache::encode::LEVEL).expect("zstd has memory");
    let mut decoder = Decoder::new().expect("zstd has memory");
    for (name, codec) in &codecs {
        let mut coded = Vec::new();
        for chunk in &chunks {
            let mut bytes = Vec::new();
            encoder.encode(codec, [SIDE; 3], chunk, &mut bytes).expect("zstd has memory");
            coded.push(bytes);
        }
        let bytes = coded.iter().map(Vec::len).sum::<usize>();
        println!("{name}: {bytes} bytes for {num_voxels} voxels");
        group.bench_function(*name, |bencher| {
            bencher.iter(|| {
                for bytes in &coded {
                    decoder.decode(codec, [SIDE; 3], bytes, &mut values).expect("just encoded");
                }
            });
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("encode");
    group.throughput(Throughput::Bytes(2 * num_voxels as u64));
    let mut bytes = Vec::new();
    for (name, codec) in &codecs {
        group.bench_function(*name, |bencher| {
            bencher.iter(|| {
                for chunk in &chunks {
                    bytes.clear();
                    encoder.encode(codec, [SIDE; 3], chunk, &mut bytes).expect("zstd has memory");
                }
            });
        });
    }
    group.finish();
}

criterion_group!(suite, codec);
criterion_main!(suite);
