"""MONAI's UNETR in PyTorch: the peer of `gpu-bench --cases finetune,predict --preset vit-l-p16` on the same device.

Same sizes, data, loss, optimizer and timing as there, by MONAI's public API alone, with what a PyTorch user tries first:
bf16 autocast, TF32, cuDNN's search for algorithms, fused AdamW, optionally `torch.compile`. One JSON line per case on
standard output, with gpu-bench's keys and `peer`.

  python3 unetr_baseline.py                             # ViT-L, 96^3, 4 crops; prediction of 240^3; on cuda
  python3 unetr_baseline.py --compile --cases finetune  # compiled
  python3 unetr_baseline.py --device cpu --crop-size 32 --volume 48 --embed-dim 96 --num-heads 4 --feature-size 4 \
      --batch 2 --steps 3 --warmup 1 --precision f32    # a trial on a CPU, a minute; bf16 is slow there

Differences (each line repeats them under `differs`):
- MONAI's UNETR has patches of 16 voxels and 12 blocks; our recipe has patches of 12. The peer is therefore our
  `vit-l-p16`. The taps are the same: blocks 3, 6 and 9, from 0, and the normed output.
- MONAI reaches the resolution of the crop by a transposed convolution. We interpolate and convolve 3x3x3, because 64
  voxels cannot be doubled to 96: at full size 98 GFLOP per crop forward instead of 4, of MONAI's 577 in all.
- Each block of MONAI's holds a layer norm for cross attention that is not used: `params_unused`.
- `--compile` excludes the loss: torch 2.11 takes MONAI's one-hot labels for integers there and rejects their norm.
- Windows are averaged on the device, which holds all logits of the volume (14 classes of 240^3: 0.8 GB); ours are averaged
  there in memory that one window bounds along the longest axis. Both compute the classes on the device.
- `--batch` counts windows at a time in prediction; gpu-bench takes as many as the free memory holds, at most 16.

Needs torch, monai and einops (MONAI's patches and heads).
"""

import argparse
import contextlib
import gc
import importlib.util
import json
import math
import sys
import time
import warnings

DIFFERS = [
    "patch 16 is MONAI's only one: compare with vit-l-p16, the recipe has 12",
    "last doubling by transposed convolution, ours interpolates and convolves 3x3x3",
]


def arguments():
    parser = argparse.ArgumentParser(description="Times MONAI's UNETR, the peer of gpu-bench's finetune and predict.")
    parser.add_argument("--cases", default="finetune,predict", help="what to measure [%(default)s]")
    parser.add_argument("--device", default="cuda", help="cuda or cpu [%(default)s]")
    parser.add_argument("--batch", type=int, default=4, help="crops of a batch, and windows at a time [%(default)s]")
    parser.add_argument("--steps", type=int, default=20, help="steps that count [%(default)s]")
    parser.add_argument("--warmup", type=int, default=5, help="steps before those [%(default)s]")
    parser.add_argument("--precision", choices=("bf16", "f32"), default="bf16", help="of the products [%(default)s]")
    parser.add_argument("--compile", action="store_true", help="torch.compile of the model")
    parser.add_argument("--volume", type=int, default=240, help="side of the volume to predict [%(default)s]")
    parser.add_argument("--crop-size", type=int, default=96, help="side of a crop, a multiple of 16 [%(default)s]")
    parser.add_argument("--embed-dim", type=int, default=1536, help="width of the tokens [%(default)s]")
    parser.add_argument("--num-heads", type=int, default=16, help="attention heads, divide the width [%(default)s]")
    parser.add_argument("--feature-size", type=int, default=32, help="channels at full resolution [%(default)s]")
    parser.add_argument("--classes", type=int, default=14, help="classes with background [%(default)s]")
    args = parser.parse_args()
    args.cases = args.cases.split(",")
    if unknown := set(args.cases) - {"finetune", "predict"}:
        parser.error(f"--cases: {', '.join(sorted(unknown))}: expected finetune or predict")
    sizes = ("batch", "steps", "volume", "crop_size", "embed_dim", "num_heads", "feature_size", "classes")
    if wrong := next((name for name in sizes if getattr(args, name) < 1), None):
        parser.error(f"--{wrong.replace('_', '-')}: must be at least 1")
    if args.crop_size % 16:
        parser.error(f"--crop-size: {args.crop_size} is not a multiple of the 16 voxels of a patch")
    if args.embed_dim % args.num_heads:
        parser.error(f"--embed-dim: {args.embed_dim} is not a multiple of {args.num_heads} heads")
    return args


args = arguments()
for package in ("torch", "monai", "einops"):
    if importlib.util.find_spec(package) is None:
        sys.exit(f"unetr_baseline: {package} is not installed; needs torch, monai and einops (a wheel on PYTHONPATH will do)")
try:
    import torch

    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        import monai
        from monai.inferers import sliding_window_inference
        from monai.losses import DiceCELoss
        from monai.networks.nets import UNETR
except (ImportError, OSError, ValueError) as error:  # torch names a missing CUDA library in any of these
    sys.exit(f"unetr_baseline: torch or monai does not load: {(str(error) or repr(error)).splitlines()[0]}")

KIND = args.device.partition(":")[0]
if KIND == "cuda" and not torch.cuda.is_available():
    sys.exit("unetr_baseline: torch finds no CUDA device; use --device cpu for a trial")


def unetr():
    """The recipe's network as far as MONAI has it. Patch embedding by one matrix product and biases for q, k, v, as ours."""
    torch.manual_seed(0)
    return UNETR(
        in_channels=1,
        out_channels=args.classes,
        img_size=(args.crop_size,) * 3,
        feature_size=args.feature_size,
        hidden_size=args.embed_dim,
        mlp_dim=4 * args.embed_dim,
        num_heads=args.num_heads,
        proj_type="perceptron",
        qkv_bias=True,
    ).to(args.device)


def autocast():
    return torch.autocast(KIND, torch.bfloat16, enabled=args.precision == "bf16")


def wait():
    if KIND == "cuda":
        torch.cuda.synchronize()


def show(case, started, **line):
    """Prints the line of a case: its own keys, then those of all cases."""
    peak = round(torch.cuda.max_memory_allocated() / 2**30, 3) if KIND == "cuda" else None
    common = {
        "precision": args.precision,
        "patch_size": 16,
        "embed_dim": args.embed_dim,
        "num_heads": args.num_heads,
        "feature_size": args.feature_size,
        "compiled": args.compile,
        "peak_gib": peak,
        "peer": f"monai {monai.__version__} torch {torch.__version__}",
        "differs": DIFFERS,
        "case": case,
        "device": args.device,
        "case_secs": round(time.perf_counter() - started, 4),
    }
    print(json.dumps(line | common), flush=True)


def finetune():
    """Times steps on one resident batch, each followed by reading its loss and waiting for the device."""
    started = time.perf_counter()
    model = unetr()
    # The recipe's Dice: squares in the denominator, no smoothing of the numerator, each case and class by itself.
    loss_of = DiceCELoss(to_onehot_y=True, softmax=True, squared_pred=True, smooth_nr=0.0, smooth_dr=1e-6)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=1e-5, fused=True)
    forward = torch.compile(model) if args.compile else model
    shape = (args.batch, 1, *(args.crop_size,) * 3)
    at = torch.arange(math.prod(shape))
    images = (at * 0.37).sin().reshape(shape).to(args.device)
    labels = (at // 50 % args.classes).reshape(shape).to(args.device)
    secs = []
    for number in range(args.warmup + args.steps):
        since = time.perf_counter()
        with autocast():
            loss = loss_of(forward(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if not math.isfinite(loss.item()):
            sys.exit("unetr_baseline: the loss is not finite")
        wait()
        if number >= args.warmup:
            secs.append(time.perf_counter() - since)
    median = sorted(secs)[len(secs) // 2]
    show(
        "finetune",
        started,
        crop_size=[args.crop_size] * 3,
        classes=args.classes,
        params=sum(p.numel() for p in model.parameters()),
        params_unused=sum(p.numel() for p in model.parameters() if p.grad is None),
        batch=args.batch,
        ms=round(median * 1e3, 4),
        crops_per_s=round(args.batch / median, 4),
        loss=loss.item(),
    )


def predict():
    """Times two sliding windows over a volume in host memory, to a class map in host memory; the first one compiles."""
    started = time.perf_counter()
    model = unetr().eval()
    forward = torch.compile(model) if args.compile else model
    dims = (args.volume,) * 3
    image = (torch.arange(math.prod(dims)) * 0.01).sin().reshape(1, 1, *dims)
    num_windows = 0

    def logits(windows):
        nonlocal num_windows
        num_windows += len(windows)
        return forward(windows)

    def run():
        since = time.perf_counter()
        with torch.inference_mode(), autocast():
            crop_size = (args.crop_size,) * 3
            mean = sliding_window_inference(image.to(args.device), crop_size, args.batch, logits, overlap=0.5)
            classes = mean.argmax(1).to(torch.uint8).cpu()
        assert classes.shape == (1, *dims)
        return time.perf_counter() - since

    first, again = run(), run()
    show(
        "predict",
        started,
        volume=dims,
        windows=num_windows // 2,
        sw_batch_size=args.batch,
        first_secs=round(first, 4),
        secs=round(again, 4),
    )


torch.set_float32_matmul_precision("high")
torch.backends.cudnn.benchmark = True
for case in args.cases:
    {"finetune": finetune, "predict": predict}[case]()
    # The next case starts with empty caches.
    torch.compiler.reset()
    gc.collect()
    if KIND == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
