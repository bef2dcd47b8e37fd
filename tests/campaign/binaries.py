#!/usr/bin/env python3
"""Attacks on the real programs: system calls that fail, kills inside system calls and at random moments, and a full disk.

    tests/campaign/binaries.py inject            # every kind of system call fails, in turn and with several errors
    tests/campaign/binaries.py kill              # SIGKILL inside system calls that write
    tests/campaign/binaries.py moments           # SIGKILL at random moments
    tests/campaign/binaries.py full              # a small tmpfs fills (needs root, or a user namespace that may mount)
    options: --programs shard,train,finetune  --tries N (each program)  --seed SEED  --bin target/release

Needs `strace`, except for `moments`. The programs must be built: cargo build --release --locked. After each attack: no
panic and no death by a signal of its own; a run that fails ends with one line `error: ...`; what it left passes `verify`;
the same command, undisturbed, completes it with the result of a run that was never disturbed.
"""

import argparse
import collections
import contextlib
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nifti

SHAPE = (30, 28, 26)
WRITING = ["write", "writev", "pwrite64", "fsync", "fdatasync", "rename", "renameat", "renameat2", "link", "linkat",
           "unlink", "unlinkat", "mkdir", "mkdirat", "ftruncate", "openat"]
READING = ["read", "pread64", "mmap", "flock", "statx", "getdents64"]
ERRORS = {
    "write": ["ENOSPC", "EIO"], "writev": ["ENOSPC"], "pwrite64": ["ENOSPC"], "fsync": ["EIO", "ENOSPC"],
    "fdatasync": ["EIO"], "openat": ["EACCES", "EMFILE", "ENOSPC", "EIO"], "mmap": ["ENOMEM"],
    "flock": ["EIO", "ENOLCK"], "read": ["EIO"], "pread64": ["EIO"], "statx": ["EACCES", "EIO"],
    "getdents64": ["EIO"], "mkdir": ["ENOSPC", "EACCES"],
}
# The allocator's own message; memory short at the very start ends a Rust program with SIGABRT.
MEMORY = re.compile(r"memory allocation of \d+ bytes failed|failed to (spawn|allocate)|Cannot allocate memory")


def write(path, dtype, voxels):
    """Writes a NIfTI-1 file whose times are an hour old."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(nifti.header(dtype, SHAPE, 2, signs=(-1, -1, 1), origin=(9, 7, -5)) + voxels)
    os.utime(path, (time.time() - 3600,) * 2)


def scan(path, seed):
    """Writes a body with noise, in air."""
    noise = random.Random(seed)
    nx, ny, _ = SHAPE
    voxels = []
    for at in range(SHAPE[0] * SHAPE[1] * SHAPE[2]):
        x, y = at % nx, at // nx % ny
        voxels.append(noise.randrange(-30, 31) + (40 if 1 <= x < nx - 1 and 1 <= y < ny - 1 else -1000))
    write(path, "int16", struct.pack(f"<{len(voxels)}h", *voxels))


def label(path, seed):
    """Writes a label map with one plane of class 1."""
    plane = SHAPE[0] * SHAPE[1]
    write(path, "uint8", bytes(at // plane == 8 + seed for at in range(plane * SHAPE[2])))


class Program:
    """A program, its command, and what makes its result complete."""

    def __init__(self, binaries, work):
        self.bin, self.work = binaries, work

    def run(self, command, **options):
        return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=300,
                              env=dict(os.environ, NO_COLOR="1"), **options)

    def must(self, command):
        done = self.run(command)
        if done.returncode != 0:
            sys.exit(f"{' '.join(map(str, command))}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout


class Shard(Program):
    name = "shard"

    def __init__(self, binaries, work):
        super().__init__(binaries, work)
        self.data = work / "data"
        for number in range(4):
            scan(self.data / f"Dataset001_Scans/imagesTr/case{number}_0000.nii", number)
            label(self.data / f"Dataset001_Scans/labelsTr/case{number}.nii", number)
        self.expected = None

    def command(self, out):
        return [self.bin / "hiend-shard", self.data, "--out", out, "--spacing", "original", "--jobs", "1",
                "--shard-size", "60KB"]

    def check(self, out):
        """Result of a complete cache: digests of batches."""
        self.must([self.bin / "hiend-shard", "verify", out])
        left = [name for name in os.listdir(out) if name.endswith(".tmp")]
        if left:
            sys.exit(f"{out}: {left} left")
        lines = self.must([self.bin / "hiend-shard", "stream", out, "--crop-size", "16", "--visits-per-batch", "2",
                           "--crops-per-visit", "1", "--batches", "3"])
        return [json.loads(line).get("digest") for line in lines.splitlines()]

    def sound(self, out):
        """A disturbed run leaves no cache yet, or one without faults."""
        if out.is_dir() and any(name.endswith(".shard") for name in os.listdir(out)):
            done = self.run([self.bin / "hiend-shard", "verify", out])
            if done.returncode != 0:
                sys.exit(f"{out}: not sound:\n{done.stdout}{done.stderr}")


class Train(Program):
    name = "train"

    def __init__(self, binaries, work):
        super().__init__(binaries, work)
        shard = Shard(binaries, work)
        self.cache = work / "cache-to-train"
        shard.must(shard.command(self.cache))

    def command(self, out):
        config = Path(__file__).resolve().parents[2] / "configs/smoke.toml"
        settings = ["model.patch_size=4", "model.embed_dim=12", "model.depth=2", "model.num_heads=2", "model.taps=[0]",
                "model.decoder_embed_dim=12", "model.decoder_self_depth=1", "model.decoder_num_heads=2",
                "stream.crop_size=[8,8,8]", "stream.crops_per_visit=1", "stream.visits_per_batch=1"]
        return self.begin_or_resume(out, ["pretrain"], ["--config", config, *sets(settings)])

    def begin_or_resume(self, out, command, first, weights=()):
        """Command line of a run; `first` is for its beginning, `weights` for the time before its first checkpoint."""
        begun = (out / "config.toml").is_file() and (out / "config.toml").stat().st_size > 0
        weights = [] if list((out / "checkpoints").glob("step-*")) else weights
        return [self.bin / "hiend-train", *command, "--shards", self.cache, "--run-dir", out, "--device", "cpu",
                "--max-steps", "4", "--checkpoint-every", "1", "--keep", "2", "--threads", "1", "--display", "lines",
                *(["--resume"] if begun else first), *weights]

    def check(self, out):
        """Result of a complete run: the last loss of each step, and the Dice of each validation."""
        self.must([self.bin / "hiend-train", "verify", out])
        figures = {}
        for line in (out / "journal.jsonl").read_text().splitlines():
            entry = json.loads(line)
            if entry["event"] in ("step", "validation"):
                figures[entry["event"], entry["step"]] = entry.get("loss", entry.get("mean_dice"))
        return sorted(figures.items())

    def sound(self, out):
        steps = sorted((out / "checkpoints").glob("step-*")) if (out / "checkpoints").is_dir() else []
        if steps:
            done = self.run([self.bin / "hiend-train", "verify", out])
            if done.returncode != 0:
                sys.exit(f"{out}: not sound:\n{done.stdout}{done.stderr}")


class Finetune(Train):
    name = "finetune"

    def command(self, out):
        settings = ["model.patch_size=8", "model.embed_dim=12", "model.depth=3", "model.num_heads=2", "model.taps=[0,1,2]",
                    "model.feature_size=2", "stream.crop_size=[16,16,16]", "stream.crops_per_visit=1",
                    "stream.visits_per_batch=1", "validation.every=1", 'classes=["background","plane"]']
        return self.begin_or_resume(out, ["finetune"],
                                    ["--preset", "tiny", "--shots", "1", *sets(settings)], ["--init", "none"])


def sets(settings):
    """Flags for settings of the configuration."""
    return [part for setting in settings for part in ("--set", setting)]


def counts(program, work, syscalls):
    """First and last number of the calls of each kind that the program makes in an undisturbed run.

    Earlier ones are those of the system's dynamic loader; Rust's runtime begins with a `poll` of the standard streams.
    """
    out, log = work / "counted", work / "counted.log"
    command = ["strace", "-f", "-qq", "-o", log, "-e", "trace=poll," + ",".join(f"?{call}" for call in syscalls)]
    program.must([*command, *program.command(out)])
    found = re.findall(r"^\d+ +(\w+)\(", log.read_text(errors="replace"), re.M)
    loader = found[:found.index("poll")]
    spans = {call: (loader.count(call) + 1, found.count(call)) for call in syscalls}
    return {call: (first, last) for call, (first, last) in spans.items() if first <= last}, program.check(out)


def judge(done, what):
    """The outcome in words; ends the campaign on a panic or a death by a signal."""
    text = done.stderr
    if "fatal runtime error: initialization" in text:
        return "ended before main"
    if "failed to allocate an alternative stack" in text:
        return "memory"
    if "panicked" in text:
        sys.exit(f"{what}: a panic\n{text}")
    if done.returncode == 0:
        return "done"
    if MEMORY.search(text):
        return "memory"
    if done.returncode == 3 and re.search(r"^skipped ", text, re.M):
        return "case skipped"
    # Messages that cannot be written are not missed: standard error may be what failed.
    errors = [line for line in text.splitlines() if line.startswith("error:")]
    if done.returncode < 0 or done.returncode > 128:
        sys.exit(f"{what}: exit status {done.returncode}\n{text}")
    return "refused" if len(errors) == 1 else "refused without its line"


@contextlib.contextmanager
def tallied(title):
    """Counts outcomes, and prints the counts at the end, also of a campaign that is ended or finds a fault."""
    tally = collections.Counter()
    try:
        yield tally
    finally:
        print(f"{title}: {sum(tally.values())} tries: {dict(tally)}", flush=True)


def interleaved(spans, rng):
    """All calls in random order, one of each kind in turn: a program writes far more often than it syncs."""
    left = {call: rng.sample(range(first, last + 1), last - first + 1) for call, (first, last) in spans.items()}
    places = []
    while any(left.values()):
        places += [(call, numbers.pop()) for call, numbers in left.items() if numbers]
    return places


def attack(program, work, kind, tries, rng):
    syscalls = WRITING + (READING if kind == "inject" else [])
    spans, expected = counts(program, work, syscalls)
    num_places = sum(last - first + 1 for first, last in spans.values())
    print(f"{program.name}: {num_places} calls in an undisturbed run, from the first to the last: {spans}", flush=True)
    places = interleaved(spans, rng)[:tries]
    with tallied(f"{program.name}, {kind}") as tally:
        for attempt, (call, number) in enumerate(places):
            out = work / f"try-{attempt}"
            if kind == "kill":
                fault = f"{call}:signal=KILL:when={number}"
            else:
                fault = f"{call}:error={rng.choice(ERRORS.get(call, ['EIO']))}:when={number}"
            command = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"inject={fault}", *program.command(out)]
            done = program.run(command)
            what = f"{program.name}, {fault}"
            outcome = "killed" if kind == "kill" and done.returncode in (-9, 137) else judge(done, what)
            if outcome == "refused without its line":
                print(f"{what}: exit status {done.returncode}: {done.stderr.strip()[-300:]!r}", flush=True)
            program.sound(out)
            program.must(program.command(out))
            if program.check(out) != expected:
                sys.exit(f"{what}: another result than that of an undisturbed run")
            tally[outcome] += 1
            shutil.rmtree(out)


def moments(program, work, tries, rng):
    """SIGKILL after a random time, up to a tenth longer than an undisturbed run; half of the runs are killed twice."""
    undisturbed = work / "undisturbed"
    start = time.time()
    program.must(program.command(undisturbed))
    span = 1.1 * (time.time() - start)
    expected = program.check(undisturbed)
    print(f"{program.name}: kills within {span:.2f} s", flush=True)
    with tallied(f"{program.name}, kill at random moments") as tally:
        for attempt in range(tries):
            out = work / f"try-{attempt}"
            for _ in range(rng.choice([1, 2])):
                delay = rng.uniform(0, span)
                child = subprocess.Popen(program.command(out), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
                try:
                    _, text = child.communicate(timeout=delay)
                    outcome = judge(subprocess.CompletedProcess(child.args, child.returncode, "", text), program.name)
                except subprocess.TimeoutExpired:
                    outcome = "killed"
                finally:
                    child.kill()
                    child.communicate()
                program.sound(out)
                tally[outcome] += 1
            program.must(program.command(out))
            if program.check(out) != expected:
                sys.exit(f"{program.name}, killed after {delay:.3f} s: another result than that of an undisturbed run")
            shutil.rmtree(out)


def fill(program, work, tries, rng):
    """Runs on file systems of every size between nothing and enough."""
    mount = work / "small"
    mount.mkdir()
    full = work / "enough"
    program.must(program.command(full))
    expected = program.check(full)
    needed = sum(path.stat().st_size for path in full.rglob("*") if path.is_file())
    with tallied(f"{program.name}, full disk") as tally:
        for _ in range(tries):
            size = max(4096 * rng.randrange(4, max(5, 2 * needed // 4096)), 16384)
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", mount], check=True)
            try:
                out = mount / "out"
                what = f"{program.name} on {size} bytes"
                outcome = judge(program.run(program.command(out)), what)
                program.sound(out)
                if outcome != "done":
                    subprocess.run(["mount", "-o", f"remount,size={size + 4 * needed + (8 << 20)}", mount], check=True)
                    program.must(program.command(out))
                if program.check(out) != expected:
                    sys.exit(f"{what}: another result than that of an undisturbed run")
                tally[outcome] += 1
            finally:
                subprocess.run(["umount", mount], check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["inject", "kill", "moments", "full"])
    parser.add_argument("--programs", default="shard,train,finetune")
    parser.add_argument("--tries", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bin", type=Path, default=Path(__file__).resolve().parents[2] / "target/release")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for name in args.programs.split(","):
        with tempfile.TemporaryDirectory(prefix="hiend-campaign-") as work:
            work = Path(work)
            program = {"shard": Shard, "train": Train, "finetune": Finetune}[name](args.bin.resolve(), work)
            rng = random.Random(args.seed)
            if args.kind == "full":
                fill(program, work, args.tries, rng)
            elif args.kind == "moments":
                moments(program, work, args.tries, rng)
            else:
                attack(program, work, args.kind, args.tries, rng)


if __name__ == "__main__":
    main()
