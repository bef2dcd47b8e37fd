"""Writes nnU-Net plans for a pre-trained encoder: hiendPlans.json next to nnUNetPlans.json.

    python make_plans.py DATASET CHECKPOINT.pth [--plans nnUNetPlans] [--out hiendPlans] [--batch-size 2] [--scratch]

DATASET is the number or the name of a dataset that nnUNetv2_plan_and_preprocess has planned. Spacing, patch size and
normalisation are those of pre-training; README.md in this folder has the steps around it.
"""

import argparse
import json
import os
from pathlib import Path

import torch


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--plans", default="nnUNetPlans", help="plans to start from")
    parser.add_argument("--out", default="hiendPlans", help="plans to write")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--scratch", action="store_true", help="the same network without the pre-trained weights")
    args = parser.parse_args()

    folder = dataset_folder(args.dataset)
    checkpoint = torch.load(args.checkpoint, map_location="cpu", weights_only=True)
    plan = checkpoint["nnssl_adaptation_plan"]
    plans = json.loads((folder / f"{args.plans}.json").read_text())
    seen = plan["pretrain_plan"]["configurations"]["3d_fullres"]
    configuration = plans["configurations"]["3d_fullres"]
    schemes = configuration["normalization_schemes"]
    if len(schemes) != 1:
        raise SystemExit(f"the encoder takes one channel, the dataset has {len(schemes)}")
    if seen["normalization_schemes"] == ["CTNormalization"] != schemes:
        raise SystemExit(f"the encoder was trained on HU: expected a CT dataset, not {schemes}")
    if plans["transpose_forward"] != [0, 1, 2]:
        raise SystemExit(f"transpose_forward {plans['transpose_forward']}: the network expects axes z, y, x")
    configuration |= {
        "data_identifier": f"{args.out}_3d_fullres",
        "spacing": seen["spacing"] or configuration["spacing"],
        "normalization_schemes": seen["normalization_schemes"],
        "use_mask_for_norm": [bool(flag) for flag in seen["use_mask_for_norm"]],
        "patch_size": plan["recommended_downstream_patchsize"],
        "batch_size": args.batch_size,
    }
    arch_kwargs = plan["architecture_plans"]["arch_kwargs"]
    if "window" in arch_kwargs:
        # CTNormalization clips to the foreground's percentiles, between which fat and air may be lost.
        low, high = arch_kwargs["window"]
        plans["foreground_intensity_properties_per_channel"]["0"] |= {"percentile_00_5": low, "percentile_99_5": high}
    plans |= {
        "plans_name": args.out,
        "configurations": {"3d_fullres": configuration},
        "pretrain_info": {
            "checkpoint_path": None if args.scratch else str(args.checkpoint.resolve()),
            "arch_kwargs": arch_kwargs,
            "citations": checkpoint["citations"],
        },
    }
    out = folder / f"{args.out}.json"
    out.write_text(json.dumps(plans, indent=4) + "\n")
    print(
        f"{out}: spacing {configuration['spacing']} mm, patch size {configuration['patch_size']}, "
        f"{configuration['normalization_schemes'][0]}"
    )


def dataset_folder(dataset):
    root = Path(os.environ["nnUNet_preprocessed"])
    pattern = f"Dataset{int(dataset):03d}_*" if dataset.isdigit() else dataset
    found = sorted(root.glob(pattern))
    if len(found) != 1:
        raise SystemExit(f"{root}: {len(found)} folders match {pattern}, expected one")
    return found[0]


if __name__ == "__main__":
    main()
