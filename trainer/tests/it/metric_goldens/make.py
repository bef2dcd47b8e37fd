"""Writes expected.json: surface metrics of PyPI's surface-distance (area) and MONAI (voxels), and p values of SciPy.

    python3 -m venv venv && venv/bin/pip install surface-distance monai scipy
    venv/bin/python make.py > expected.json

Masks are made from integers in the same way here and in metric_goldens.rs.
"""

import json
import warnings

import numpy as np
import scipy
import scipy.ndimage
import scipy.stats
import torch

warnings.filterwarnings("ignore")
# surface-distance 0.1 uses names that NumPy 2 and newer SciPy have dropped.
np.Inf = np.inf
for name in ("filters", "morphology"):
    if not hasattr(scipy.ndimage, name):
        setattr(scipy.ndimage, name, scipy.ndimage)
import surface_distance
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice

CASES = [
    # dims, spacing in mm, centre and radius of the label in voxels, shift of the prediction, noise in 1/1000
    ([20, 18, 16], [1.0, 1.0, 1.0], [10, 9, 8], 6, [1, 0, 1], 0),
    ([20, 18, 16], [0.7, 0.8, 5.0], [10, 9, 8], 6, [2, 1, 0], 0),
    ([20, 18, 16], [1.5, 1.5, 1.5], [3, 9, 8], 7, [1, 2, 0], 20),
    ([13, 17, 11], [0.9, 1.3, 2.5], [6, 8, 5], 5, [0, 0, 0], 300),
    ([13, 17, 11], [2.0, 0.6, 1.1], [6, 8, 5], 12, [0, 0, 0], 500),
]
TOLERANCES = [0.5, 1.0, 3.0]


def noise(number):
    """16 pseudo-random bits of a voxel."""
    x = (number * 2654435761 + 12345) % 2**32
    x ^= x >> 15
    x = (x * 2246822519) % 2**32
    return (x ^ (x >> 13)) & 0xFFFF


def mask(dims, centre, radius, permille, salt):
    result = np.zeros(dims, bool)
    for number in range(np.prod(dims)):
        place = np.unravel_index(number, dims)
        inside = sum((int(p) - c) ** 2 for p, c in zip(place, centre)) <= radius**2
        flipped = noise(number + salt) * 1000 < permille * 0x10000
        result[place] = inside != flipped
    return result


def surfaces(dims, spacing, centre, radius, shift, permille):
    label = mask(dims, centre, radius, permille, 0)
    pred = mask(dims, [c + s for c, s in zip(centre, shift)], radius, permille, 1_000_000)
    found = surface_distance.compute_surface_distances(label, pred, spacing)
    areas = [found["surfel_areas_gt"], found["surfel_areas_pred"]]
    distances = np.concatenate([found["distances_gt_to_pred"], found["distances_pred_to_gt"]])
    area = {
        "surface_dice": [
            float(surface_distance.compute_surface_dice_at_tolerance(found, t * (1 + 1e-6))) for t in TOLERANCES
        ],
        "hd95_mm": float(surface_distance.compute_robust_hausdorff(found, 95)),
        "assd_mm": float(np.average(distances, weights=np.concatenate(areas))),
    }
    pair = [torch.tensor(volume)[None, None] for volume in (pred, label)]
    options = {"include_background": True, "spacing": spacing}
    voxels = {
        "surface_dice": [
            float(compute_surface_dice(*pair, class_thresholds=[t * (1 + 1e-6)], **options)) for t in TOLERANCES
        ],
        "hd95_mm": float(compute_hausdorff_distance(*pair, percentile=95, **options)),
        "assd_mm": float(compute_average_surface_distance(*pair, symmetric=True, **options)),
    }
    return {
        "dims": dims, "spacing": spacing, "centre": centre, "radius": radius, "shift": shift, "permille": permille,
        "label_voxels": int(label.sum()), "pred_voxels": int(pred.sum()), "area": area, "voxels": voxels,
    }


def signed_rank():
    """Differences in thousandths, so that ties are ties in both languages."""
    samples = {
        "exact": [12, -3, 7, 25, -14, 31, 8, 2, -5, 19],
        "exact with ties": [5, 5, -5, 10, 2, 0, -2, 7, 7],
        "approximate": [(noise(i) % 201) - 80 for i in range(80)],
    }
    for name, sample in samples.items():
        nonzero = np.array([value for value in sample if value], float)
        if name == "exact":
            test = scipy.stats.wilcoxon(nonzero, method="exact")
        elif name == "approximate":
            test = scipy.stats.wilcoxon(nonzero, method="approx", correction=False)
        else:
            test = scipy.stats.wilcoxon(nonzero, method=scipy.stats.PermutationMethod(n_resamples=np.inf))
        yield {"name": name, "differences": sample, "p_value": float(test.pvalue)}


lines = lambda items: ",\n    ".join(map(json.dumps, items))
print(
    f"""{{
  "tolerances_mm": {TOLERANCES},
  "surfaces": [
    {lines(surfaces(*case) for case in CASES)}
  ],
  "signed_rank": [
    {lines(signed_rank())}
  ]
}}"""
)
