#!/usr/bin/env python3
"""Time and memory of very many tiny scans: conversion, verification, first batch, and the batch of a late step.

    tests/campaign/many.py                       # 100,000 scans of 16 x 16 x 16 voxels; 2 GB of free disk
    options: --cases 100000  --step 1000000  --bin target/release  --work DIR

The programs must be built: cargo build --release --locked. The batches of the first and of the late step are each made three
times: by one thread, by four, and by a process that begins one step earlier. The three must be equal.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path

import nifti
from large import run

SIDE = 16
CROP = ["--crop-size", "8", "--crops-per-visit", "2", "--visits-per-batch", "24"]


def tiny_scans(folder, count):
    """Writes scans of a body with noise of its own, in air, as 16-bit HU from 8 to 71 and -1000."""
    folder.mkdir()
    head = nifti.header("int16", (SIDE,) * 3, 1.5)
    air = (-1000).to_bytes(2, "little", signed=True)
    voxels = bytearray(head + air * SIDE**3)
    noise = random.Random(1)
    to_low_byte = bytes(8 + (value & 63) for value in range(256))
    inside = SIDE - 2
    rows = [len(head) + 2 * (1 + SIDE * (y + SIDE * z)) for z in range(1, SIDE - 1) for y in range(1, SIDE - 1)]
    for start in rows:
        voxels[start + 1:start + 2 * inside:2] = bytes(inside)
    for number in range(count):
        values = noise.randbytes(inside**3).translate(to_low_byte)
        for at, start in enumerate(rows):
            voxels[start:start + 2 * inside:2] = values[at * inside:(at + 1) * inside]
        (folder / f"scan{number:07}.nii").write_bytes(voxels)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--step", type=int, default=1_000_000)
    parser.add_argument("--bin", type=Path, default=Path("target/release"))
    parser.add_argument("--work", type=Path, default=None, help="folder for the files, deleted at the end")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.work) as name:
        work, shard = Path(name), options.bin / "hiend-shard"
        start = time.time()
        tiny_scans(work / "scans", options.cases)
        print(f"{options.cases} scans written in {time.time() - start:.0f} s", flush=True)

        def timed(what, command):
            out, peak, secs = run([shard, *command])
            print(f"{what}: {secs:.2f} s, peak {1000 * peak:.0f} MB", flush=True)
            return out

        convert = [work / "scans", "--out", work / "cache", "--spacing", "original"]
        timed("dry run", [*convert, "--dry-run"])
        timed("conversion", convert)
        shards = sum(path.stat().st_size for path in (work / "cache").glob("*.shard"))
        print(f"shards: {shards / 1e6:.0f} MB, {shards / options.cases:.0f} bytes per case", flush=True)
        timed("conversion again, all unchanged", convert)
        timed("verification", ["verify", work / "cache"])

        def digests(step, batches, threads):
            out = timed(f"{batches} batch{'es' * (batches > 1)} from step {step}, {threads} thread{'s' * (threads > 1)}",
                        ["stream", work / "cache", *CROP, "--start-step", step, "--batches", batches, "--threads", threads])
            lines = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
            return [line["digest"] for line in lines if "digest" in line][:batches]

        for step in [0, options.step]:
            one, four = digests(step, 1, 1), digests(step, 1, 4)
            earlier = digests(max(0, step - 1), 2, 4)[min(1, step):][:1]
            if not one or not one == four == earlier:
                sys.exit(f"step {step}: {one}, {four} and {earlier} differ")


if __name__ == "__main__":
    main()
