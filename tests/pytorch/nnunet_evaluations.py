"""Compares the summary.json of `hiend-train evaluate --summary` with that of nnUNetv2_evaluate_folder, number by number.

    python3 nnunet_evaluations.py HIEND_TRAIN LABELS PREDICTIONS DATASET.json PLANS.json
    python3 nnunet_evaluations.py HIEND_TRAIN --awkward PLANS.json

The second form writes label maps of its own: regions with an ignore label, a class that no map has, one that only
predictions have, one that a case lacks. Counts must be equal, ratios and means within a few roundings of double precision,
and NaN where nnU-Net has NaN. Needs nnunetv2, whose programs stand next to this Python.
"""

import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel
import numpy as np

# A ratio of counts below 2^53 is rounded once or twice; a mean of n values n times. 1e-13 has room for some hundred.
TOLERANCE = 1e-13
AWKWARD = {
    "labels": {
        # The last class is in no map.
        "labels": {"background": 0, "liver": 1, "spleen": 2, "aorta": 3, "nothing": 4},
    },
    "regions": {
        "labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": [3], "nothing": [4], "ignore": 5},
        "regions_class_order": [1, 2, 3, 4],
    },
}


def numbers(value, at=()):
    """Pairs of path and value of everything in a JSON document."""
    if isinstance(value, dict):
        return [pair for key, part in value.items() for pair in numbers(part, (*at, key))]
    if isinstance(value, list):
        return [pair for i, part in enumerate(value) for pair in numbers(part, (*at, i))]
    return [(at, value)]


def compare(program, labels, predictions, dataset, plans):
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder, "hiend.json"), Path(folder, "nnunet.json")
        flags = ["--labels", labels, "--predictions", predictions, "--dataset", dataset, "--summary", ours, "--partial"]
        subprocess.run([program, "evaluate", *flags], check=True, stdout=subprocess.DEVNULL)
        evaluate = Path(sys.executable).parent / "nnUNetv2_evaluate_folder"
        flags = ["-djfile", dataset, "-pfile", plans, "-o", theirs, "-np", "1", "--chill"]
        subprocess.run([evaluate, labels, predictions, *flags], check=True, stdout=subprocess.DEVNULL)
        ours, theirs = (dict(numbers(json.loads(file.read_text()))) for file in (ours, theirs))
    assert ours.keys() == theirs.keys(), sorted(map(str, ours.keys() ^ theirs.keys()))
    largest, num_nan, num_equal = 0.0, 0, 0
    for at, expected in theirs.items():
        value = ours[at]
        if value == expected:
            num_equal += 1
        elif isinstance(expected, float) and math.isnan(expected):
            assert math.isnan(value), (at, value, expected)
            num_nan += 1
        else:
            assert isinstance(expected, float), (at, value, expected)
            largest = max(largest, abs(value - expected) / abs(expected))
            assert largest <= TOLERANCE, (at, value, expected)
    num_cases = sum(at[-1] == "reference_file" for at in theirs)
    print(
        f"{predictions}: {num_cases} cases, {len(theirs)} values of summary.json: {num_equal} equal, {num_nan} NaN in both, "
        f"largest relative difference of the others {largest:.1e} (tolerance {TOLERANCE:.0e})"
    )


def awkward(program, plans):
    draw = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as root:
        for name, description in AWKWARD.items():
            folder = Path(root, name)
            for kind in ("labels", "predictions"):
                (folder / kind).mkdir(parents=True)
            for number in range(5):
                label = draw.integers(0, 4, (9, 8, 7), np.uint8)
                prediction = np.where(draw.random(label.shape) < 0.7, label, draw.integers(0, 4, label.shape, np.uint8))
                if name == "regions":
                    # A voxel that may not count is predicted as anything.
                    label[draw.random(label.shape) < 0.2] = 5
                if number == 1:
                    label[label == 3] = 0
                if number == 2:
                    label[label == 3], prediction[prediction == 3] = 0, 0
                if number == 3:
                    prediction[:] = 0
                for kind, array in (("labels", label), ("predictions", prediction)):
                    scan = nibabel.Nifti1Image(array.astype(np.uint8), np.diag([1.5, 1.5, 3, 1]))
                    nibabel.save(scan, folder / kind / f"case_{number}.nii.gz")
            file = folder / "dataset.json"
            more = {"channel_names": {"0": "CT"}, "numTraining": 5, "file_ending": ".nii.gz"}
            file.write_text(json.dumps(description | more))
            compare(program, folder / "labels", folder / "predictions", file, plans)


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[2] == "--awkward":
        awkward(sys.argv[1], sys.argv[3])
    elif len(sys.argv) == 6:
        compare(*sys.argv[1:])
    else:
        sys.exit(__doc__)
