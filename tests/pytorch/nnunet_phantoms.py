"""Writes a small dataset of CT phantoms in nnU-Net's raw layout, with labels for the test scans too.

    python3 nnunet_phantoms.py FOLDER

Makes FOLDER/Dataset001_Phantoms: six training and two test cases, ellipsoids and a tube in a body in air, about 6 cm wide.
Spacing and orientation differ between cases; the first has 1.5 mm and RAS+, so that no program needs to resample or turn
it. One training case lacks the aorta. Needs nibabel.
"""

import json
import sys
from pathlib import Path

import nibabel
import numpy as np

LABELS = {"background": 0, "liver": 1, "spleen": 2, "aorta": 3}
HU = np.array([40, 110, 160, 250])
EXTENT_MM = np.array([66, 60, 54])
NUM_TRAINING, NUM_TEST, WITHOUT_AORTA = 6, 2, 4


def phantom(draw, spacing, has_aorta):
    """Image and label map with axes x, y, z towards right, anterior, superior."""
    shape = np.round(EXTENT_MM / spacing).astype(int)
    places = np.stack(np.meshgrid(*[(np.arange(n) + 0.5) * s for n, s in zip(shape, spacing)], indexing="ij"), -1)
    places = places - EXTENT_MM / 2

    def ellipsoid(centre, radii):
        return ((((places - centre) / radii) ** 2).sum(-1)) < 1

    label = np.zeros(shape, np.uint8)
    label[ellipsoid(draw.normal([12, 3, 0], 1), draw.normal([13, 17, 16], 1))] = 1
    label[ellipsoid(draw.normal([-15, -5, 3], 1), draw.normal([8, 10, 11], 1))] = 2
    if has_aorta:
        label[ellipsoid(draw.normal([-3, -16, 0], 1), [4, 4, 1000])] = 3
    image = HU[label] + draw.normal(0, 15, shape)
    outside = ~ellipsoid([0, 0, 0], [30, 27, 1000])
    image[outside] = draw.normal(-1000, 10, outside.sum())
    label[outside] = 0
    return np.round(image).clip(-1024).astype(np.int16), label


def main(folder):
    dataset = Path(folder) / "Dataset001_Phantoms"
    draw = np.random.default_rng(0)
    for number in range(NUM_TRAINING + NUM_TEST):
        part = "Tr" if number < NUM_TRAINING else "Ts"
        spacing = np.array([1.5, 1.5, 1.5])
        if number > 0:
            in_plane = draw.uniform(1.2, 1.8)
            spacing = np.array([in_plane, in_plane, draw.uniform(1.5, 2.5)]).round(2)
        image, label = phantom(draw, spacing, number != WITHOUT_AORTA)
        affine = np.diag([*spacing, 1.0])
        affine[:3, 3] = draw.uniform(-200, 200, 3).round(1)
        if number % 2 == 1:
            # Scanners store rows towards the left and columns towards the back.
            affine = affine @ np.diag([-1.0, -1.0, 1.0, 1.0])
            image, label = image[::-1, ::-1], label[::-1, ::-1]
        for kind, name, array in (("images", f"phantom_{number}_0000", image), ("labels", f"phantom_{number}", label)):
            (dataset / f"{kind}{part}").mkdir(parents=True, exist_ok=True)
            scan = nibabel.Nifti1Image(np.ascontiguousarray(array), affine)
            scan.header.set_xyzt_units("mm")
            nibabel.save(scan, dataset / f"{kind}{part}" / f"{name}.nii.gz")
    description = {
        "channel_names": {"0": "CT"}, "labels": LABELS, "numTraining": NUM_TRAINING, "file_ending": ".nii.gz",
    }
    (dataset / "dataset.json").write_text(json.dumps(description, indent=4) + "\n")
    print(f"{dataset}: {NUM_TRAINING} training and {NUM_TEST} test cases")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
