"""Crops per second of CropDataset, of the Rust consumer, and of MONAI's transforms in PyTorch's DataLoader.

Contenders run in turn, each in a process of its own, several rounds in the same minutes. The figure of a contender is
its best round; crops per CPU second count all its processes and are the figure to compare on a busy machine.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time


# A round of the loader would otherwise be over within a second, and depend on what its threads find ready.
LOADER_BATCHES = 12


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder with CTs; phantoms are drawn without it")
    parser.add_argument("--cases", type=int, default=8, help="phantoms to draw, or cases to make of the CTs by repetition")
    parser.add_argument("--rust", help="program stream-rate")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads, or workers of the DataLoader")
    parser.add_argument("--visits-per-batch", type=int, default=8, help="cases per batch")
    parser.add_argument("--crop-size", type=int, default=96, help="voxels of a crop along each axis")
    parser.add_argument("--warm-up", type=int, default=4, help="batches before the measurement")
    parser.add_argument("--batches", type=int, default=16, help="measured batches of MONAI's; the loader makes LOADER_BATCHES times as many")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of all contenders")
    parser.add_argument("--contender", choices=["hiend", "hiend-quantized", "monai-cache", "monai-persistent"])
    parser.add_argument("--work", help="folder of the cache and of the scans")
    return parser.parse_args(arguments)


def cpu_secs():
    """CPU seconds of this process and of all its descendants that have not ended."""
    ticks = os.sysconf("SC_CLK_TCK")
    total, own = 0.0, os.getpid()
    pids = [own] + [int(name) for name in pathlib.Path(f"/proc/{own}/task/{own}/children").read_text().split()]
    for pid in pids:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += (int(fields[11]) + int(fields[12])) / ticks
    return total


def measure(batches, args):
    """Rates of an endless iterator of (crops) counts."""
    for _ in range(args.warm_up):
        next(batches)
    started, cpu = time.perf_counter(), cpu_secs()
    crops = sum(next(batches) for _ in range(args.batches))
    secs, cpu = time.perf_counter() - started, cpu_secs() - cpu
    print(json.dumps({"crops": crops, "crops_per_s": crops / secs, "crops_per_cpu_s": crops / cpu}))


def hiend_batches(args, form):
    import hiend

    crops = hiend.CropDataset(
        f"{args.work}/cache",
        crop_size=args.crop_size,
        visits_per_batch=args.visits_per_batch,
        threads=args.threads,
        form=form,
        pin_memory=False,
    )
    for batch in crops:
        # The tensor is made, as a training loop would.
        yield batch.image.shape[0]


def monai_batches(args, persistent):
    import monai.transforms as mt
    import torch
    from monai.data import CacheDataset, DataLoader, PersistentDataset, list_data_collate

    size = (args.crop_size,) * 3
    load = [
        mt.LoadImaged("image", image_only=True),
        mt.EnsureChannelFirstd("image"),
        mt.Orientationd("image", axcodes="RAS"),
        mt.Spacingd("image", pixdim=(1.5, 1.5, 1.5), mode="bilinear"),
        mt.ScaleIntensityRanged("image", -175, 250, 0, 1, clip=True),
        mt.CropForegroundd("image", source_key="image"),
        mt.SpatialPadd("image", spatial_size=size),
    ]
    crop = [
        mt.RandCropByPosNegLabeld("image", "image", size, pos=3, neg=1, num_samples=8),
        mt.RandFlipd("image", 0.5, 0),
        mt.RandFlipd("image", 0.5, 1),
        mt.RandFlipd("image", 0.5, 2),
        mt.RandRotate90d("image", 0.3, 3),
        mt.RandScaleIntensityd("image", 0.1, 0.1),
        mt.RandShiftIntensityd("image", 0.1, 0.1),
        mt.EnsureTyped("image", data_type="tensor", track_meta=False),
    ]
    scans = sorted(pathlib.Path(args.work, "scans").rglob("*_0000.nii.gz"))
    items = [{"image": str(path)} for path in scans]
    transform = mt.Compose(load + crop)
    if persistent:
        dataset = PersistentDataset(items, transform, f"{args.work}/persistent")
    else:
        dataset = CacheDataset(items, transform, num_workers=args.threads, progress=False)
    torch.set_num_threads(1)
    loader = DataLoader(
        dataset,
        batch_size=args.visits_per_batch,
        shuffle=True,
        num_workers=args.threads,
        collate_fn=list_data_collate,
        persistent_workers=True,
        drop_last=True,
    )
    while True:
        for batch in loader:
            yield batch["image"].shape[0]


def prepare(args):
    """Scans in nnU-Net's layout, and their cache."""
    import hiend

    scans = pathlib.Path(args.work, "scans", "Dataset001_Bench")
    if args.data is None:
        hiend.phantoms(scans, cases=args.cases, spacing=(1.5, 2.5))
    else:
        images = scans / "imagesTr"
        images.mkdir(parents=True)
        found = sorted(path for path in pathlib.Path(args.data).rglob("*.nii.gz") if "seg" not in path.name)
        for number in range(max(args.cases, args.visits_per_batch)):
            source = found[number % len(found)].resolve()
            (images / f"case{number:02}_0000.nii.gz").symlink_to(source)
    summary = hiend.shard(scans, out=f"{args.work}/cache")
    print(f"{summary['converted']} cases, {summary['voxels'] / 1e6:.0f} million voxels", file=sys.stderr)


def versions():
    import numpy
    import torch

    found = {"python": sys.version.split()[0], "numpy": numpy.__version__, "torch": torch.__version__}
    try:
        import monai

        found["monai"] = monai.__version__
    except ImportError:
        found["monai"] = None
    return found


def main(arguments):
    args = parse(arguments)
    if args.contender is not None:
        batches = {
            "hiend": lambda: hiend_batches(args, "float32"),
            "hiend-quantized": lambda: hiend_batches(args, "quantized"),
            "monai-cache": lambda: monai_batches(args, persistent=False),
            "monai-persistent": lambda: monai_batches(args, persistent=True),
        }[args.contender]()
        measure(batches, args)
        # Workers and threads of an endless iterator end with the process.
        sys.stdout.flush()
        os._exit(0)
    found = versions()
    print(json.dumps({**found, "cores": os.cpu_count(), "load": os.getloadavg()[0]}))
    with tempfile.TemporaryDirectory() as folder:
        args.work = args.work or folder
        if not pathlib.Path(args.work, "cache").exists():
            prepare(args)
        flags = ["--threads", "--visits-per-batch", "--crop-size", "--warm-up", "--batches"]
        settings = [text for flag in flags for text in (flag, str(getattr(args, flag[2:].replace("-", "_"))))]
        long = [*settings[:-1], str(LOADER_BATCHES * args.batches)]
        own = [sys.executable, __file__, "--work", args.work]
        contenders = {
            "Rust consumer": [args.rust, f"{args.work}/cache", *long],
            "hiend.CropDataset": [*own, *long, "--contender", "hiend"],
            "Rust consumer, quantized": [args.rust, f"{args.work}/cache", *long, "--form", "quantized"],
            "hiend.CropDataset, quantized": [*own, *long, "--contender", "hiend-quantized"],
        }
        if found["monai"]:
            contenders["MONAI CacheDataset, DataLoader"] = [*own, *settings, "--contender", "monai-cache"]
            contenders["MONAI PersistentDataset, DataLoader"] = [*own, *settings, "--contender", "monai-persistent"]
        rates = {name: [] for name in contenders}
        for number in range(args.rounds):
            for name, command in contenders.items():
                output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                rates[name].append(json.loads(output.splitlines()[-1]))
                print(f"round {number + 1}, {name}: {output.splitlines()[-1]}", file=sys.stderr)
    print("| contender | crops/s, best | median | crops per CPU second, best | of the Rust consumer |")
    print("|---|---|---|---|---|")
    for name, rounds in rates.items():
        wall, cpu = ([line[key] for line in rounds] for key in ("crops_per_s", "crops_per_cpu_s"))
        base = rates["Rust consumer, quantized" if "quantized" in name else "Rust consumer"]
        shares = [max(values) / max(line[key] for line in base) for values, key in
                  ((wall, "crops_per_s"), (cpu, "crops_per_cpu_s"))]
        print(
            f"| {name} | {max(wall):.0f} | {statistics.median(wall):.0f} | {max(cpu):.0f} "
            f"| {shares[0]:.2f} wall, {shares[1]:.2f} CPU |"
        )
    if not found["monai"]:
        print("MONAI is not installed: its DataLoader was not measured")


if __name__ == "__main__":
    main(sys.argv[1:])
