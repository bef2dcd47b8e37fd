#!/usr/bin/env python3
"""Peak memory of converting and predicting one very large scan.

    tests/campaign/large.py                      # 1024 x 1024 x 1500 voxels of 0.4 mm: 3.1 GB, and 12 GB of free disk
    options: --side 1024  --planes 1500  --bin target/release  --work DIR

The programs must be built: cargo build --release --locked. The scan is converted at 1.5 mm, and with all its voxels and
values; the memory that `hiend-shard plan` announces is printed next to the measured peak. A small network, trained for two
steps on two small scans, then predicts it.
"""

import argparse
import gzip
import json
import math
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from array import array
from pathlib import Path

import nifti


def plane(side, radius, noise):
    """A round body with an organ and noise, in air, as 16-bit HU."""
    centre, values = side / 2, array("h", bytes(2 * side * side))
    for y in range(side):
        half = math.sqrt(max(0.0, radius * radius - (y - centre) ** 2))
        low, high = int(centre - half), int(centre + half)
        organ = math.sqrt(max(0.0, (radius / 3) ** 2 - (y - centre) ** 2))
        for x in range(side):
            value = -1000 if not low <= x < high else 120 if abs(x - centre) < organ else 40
            values[y * side + x] = value + noise.randrange(-15, 16)
    return values


def large_scan(path, side, planes):
    """Writes the scan. Planes repeat after sixteen, which no part of the programs makes use of."""
    noise = random.Random(1)
    kinds = [plane(side, side * (0.36 + 0.005 * kind), noise).tobytes() for kind in range(16)]
    with open(path, "wb") as file:
        file.write(nifti.header("int16", (side, side, planes), 0.4))
        for number in range(planes):
            file.write(kinds[number % 16])


def labelled_scans(folder):
    """Writes two small scans with label maps, for a network of two classes."""
    side = 64
    for name in ["imagesTr", "labelsTr"]:
        (folder / name).mkdir(parents=True)
    for number in range(2):
        values = plane(side, 24, random.Random(number)).tobytes() * side
        image = nifti.header("int16", (side, side, side), 2.0) + values
        labels = bytes(int(value > 85) for value in array("h", values))
        (folder / f"imagesTr/case{number}_0000.nii.gz").write_bytes(gzip.compress(image, 1))
        (folder / f"labelsTr/case{number}.nii.gz").write_bytes(
            gzip.compress(nifti.header("uint8", (side, side, side), 2.0) + labels, 1))
    description = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "organ": 1}, "numTraining": 2,
                   "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(description))


def run(command):
    """Runs a program to its end; returns its output and the peak of its memory in GB."""
    start = time.time()
    child = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                             env=dict(os.environ, NO_COLOR="1"))
    out = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: {child.returncode}\n{out}")
    return out, usage.ru_maxrss * 1024 / 1e9, time.time() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--planes", type=int, default=1500)
    parser.add_argument("--bin", type=Path, default=Path("target/release"))
    parser.add_argument("--work", type=Path, default=None, help="folder for the files, deleted at the end")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory(dir=options.work) as name:
        work = Path(name)
        scans = work / "scans"
        scans.mkdir()
        large_scan(scans / "large.nii", options.side, options.planes)
        size = (scans / "large.nii").stat().st_size / 1e9
        print(f"scan of {options.side} x {options.side} x {options.planes} voxels, {size:.1f} GB", flush=True)

        shard = options.bin / "hiend-shard"
        for number, flags in enumerate([[], ["--spacing", "native", "--store", "full"]]):
            plan, _, _ = run([shard, "plan", scans, *flags])
            announced = re.search(r"at most ([\d.]+ \w+)", plan)
            _, peak, secs = run([shard, scans, "--out", work / f"cache-{number}", *flags])
            said = announced.group(1) if announced else "nothing"
            words = " ".join(flags) or "1.5 mm, window"
            print(f"conversion, {words}: peak {peak:.2f} GB (plan: at most {said}), {secs:.0f} s", flush=True)

        labelled_scans(work / "data/Dataset001_Small")
        run([shard, work / "data", "--out", work / "small"])
        train = options.bin / "hiend-train"
        run([train, "finetune", "--shards", work / "small", "--init", "none", "--preset", "tiny", "--device", "cpu",
             "--max-steps", "2", "--no-validation", "--run-dir", work / "run", "--display", "lines"])
        _, peak, secs = run([train, "predict", "--model", work / "run", scans, "--out", work / "out", "--device", "cpu"])
        print(f"prediction of two classes on the scan's own grid: peak {peak:.2f} GB, {secs:.0f} s", flush=True)


if __name__ == "__main__":
    main()
