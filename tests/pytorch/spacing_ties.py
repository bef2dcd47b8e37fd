"""Sweeps spacings of CT slices: label maps and images of a cache against MONAI's Spacing, differences counted by ties.

    python3 spacing_ties.py [--save MONAI.npz] [--against MONAI.npz]

Needs the package hiend, MONAI and nibabel; a few minutes on two cores. A voxel of a resampled label map is a tie if its
place in the source is half-way between two voxels, to 1e-9 of their distance. Volumes are noise, in which nearly every
choice of another source voxel shows. --save keeps MONAI's label maps; --against compares them with those kept by another
release of MONAI or PyTorch. Scans to which MONAI gives another number of voxels, as the extent divided by the spacing is
half-way between two whole numbers, are counted and not compared. Exits with 1 if a label off the ties differs from
MONAI's, or an image by more than the cache's rounding to whole HU. benches/README.md has the results.
"""

import argparse
import itertools
import pathlib
import platform
import sys
import tempfile

import hiend
import monai
import nibabel
import numpy as np
import torch
from monai.transforms import Compose, LoadImage, Orientation, Spacing

TARGET_MM = 1.5
IN_PLANE_MM = [round(0.60 + 0.02 * step, 2) for step in range(20)]
THROUGH_MM = [1, 1.25, 1.5, 2, 2.5, 3, 3.75, 4, 5, 6, 7, 7.5, 8, 10]
SHAPE = (48, 40, 24)
# Errors of double precision move a coordinate by about 1e-13 voxel; a side length of 32 bits in the header by 1e-7.
TIE = 1e-9
# A cache holds whole HU, and both sides interpolate in floating point.
HALF_HU = 0.5 + 1e-3


def rotation(degrees, first, second):
    matrix, angle = np.eye(3), np.deg2rad(degrees)
    matrix[[first, second], [first, second]] = np.cos(angle)
    matrix[first, second], matrix[second, first] = -np.sin(angle), np.sin(angle)
    return matrix


DIRECTIONS = {
    "RAS": np.eye(3),
    "LPS": np.diag([-1.0, -1.0, 1.0]),
    "tilted": np.diag([-1.0, -1.0, 1.0]) @ rotation(12, 1, 2) @ rotation(5, 0, 1),
}


def write_scans(folder):
    """Writes an image and a label map for each combination; returns their names with orientation and side lengths."""
    scans = {}
    draw = np.random.default_rng(0)
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for number, (direction, side, through) in enumerate(itertools.product(DIRECTIONS, IN_PLANE_MM, THROUGH_MM)):
        affine = np.eye(4)
        affine[:3, :3] = DIRECTIONS[direction] @ np.diag([side, side, through])
        affine[:3, 3] = draw.uniform(-250, 250, 3).round(3)
        case = f"scan{number:04}"
        image = draw.integers(-150, 240, SHAPE, dtype=np.int16)
        label = draw.integers(1, 251, SHAPE, dtype=np.uint8)
        nibabel.save(nibabel.Nifti1Image(image, affine), folder / "imagesTr" / f"{case}_0000.nii.gz")
        nibabel.save(nibabel.Nifti1Image(label, affine), folder / "labelsTr" / f"{case}.nii.gz")
        scans[case] = (direction, side, through)
    return scans


def by_monai(mode):
    return Compose(
        [
            LoadImage(image_only=True, ensure_channel_first=True),
            Orientation("RAS"),
            Spacing((TARGET_MM,) * 3, mode=mode),
        ]
    )


def source_places(source_affine, volume):
    """Coordinates in the file's array of all voxels of a resampled volume, clamped as both sides do."""
    voxels = np.indices(volume.label.shape).reshape(3, -1)
    map_ = np.linalg.inv(source_affine) @ volume.affine
    places = map_[:3, :3] @ voxels + map_[:3, 3:]
    return np.clip(places, 0, np.array(SHAPE)[:, None] - 1)


class Counts:
    """Voxels of several scans."""

    def __init__(self):
        self.voxels = self.ties = self.lower = self.upper = self.other_shape = 0
        self.differ_on = self.differ_off = self.other_on = self.other_off = self.image_off = 0
        self.largest_hu = 0.0

    def row(self, has_other):
        cells = [self.voxels, self.ties, self.lower, self.upper, self.differ_on, self.differ_off]
        cells += [self.other_on, self.other_off] if has_other else []
        return [f"{cell:,}" for cell in cells] + [str(self.other_shape), f"{self.largest_hu:.4f}"]

    def add(self, volume, label_file, monai_label, monai_image, other):
        ours, source = volume.label.ravel(), np.asanyarray(label_file.dataobj)
        if volume.label.shape != monai_label.shape:
            self.other_shape += 1
            return
        places = source_places(label_file.affine, volume)
        halves = np.abs(places - np.floor(places) - 0.5) <= TIE
        on_tie = halves.any(axis=0)
        self.voxels += ours.size
        self.ties += int(on_tie.sum())
        for selected, field in ((on_tie, "differ_on"), (~on_tie, "differ_off")):
            setattr(self, field, getattr(self, field) + int((ours != monai_label.ravel())[selected].sum()))
        if other is not None and other.shape == monai_label.shape:
            for selected, field in ((on_tie, "other_on"), (~on_tie, "other_off")):
                setattr(self, field, getattr(self, field) + int((other.ravel() != monai_label.ravel())[selected].sum()))
        # The side of a tie along z, where nothing else is in doubt.
        alone = halves[2] & ~halves[:2].any(axis=0)
        x, y = np.rint(places[:2, alone]).astype(int)
        below = np.floor(places[2, alone]).astype(int)
        self.lower += int((ours[alone] == source[x, y, below]).sum())
        self.upper += int((ours[alone] == source[x, y, below + 1]).sum())
        difference = np.abs(volume.image - monai_image)
        self.largest_hu = max(self.largest_hu, float(difference.max()))
        self.image_off += int((difference > HALF_HU).sum())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--save", help="file for MONAI's label maps, as .npz")
    parser.add_argument("--against", help="label maps that --save wrote with another release")
    args = parser.parse_args()
    others = np.load(args.against) if args.against else None
    with tempfile.TemporaryDirectory() as work:
        raw = pathlib.Path(work) / "Dataset001_Slices"
        scans = write_scans(raw)
        hiend.shard(raw, pathlib.Path(work) / "cache", spacing=TARGET_MM)
        cache = hiend.Cache(pathlib.Path(work) / "cache")
        assert len(cache) == len(scans), (len(cache), len(scans))
        label_by_monai, image_by_monai = by_monai("nearest"), by_monai("bilinear")
        by_through, by_direction, kept = {}, {}, {}
        for name in cache:
            case = name.rsplit("/", 1)[-1]
            direction, _, through = scans[case]
            volume = cache.read(name)
            label_path = raw / "labelsTr" / f"{case}.nii.gz"
            monai_label = label_by_monai(label_path).numpy()[0].astype(np.uint8)
            monai_image = image_by_monai(raw / "imagesTr" / f"{case}_0000.nii.gz").numpy()[0]
            kept[case] = monai_label
            other = None if others is None else others[case]
            label_file = nibabel.load(label_path)
            for counts in (by_through.setdefault(through, Counts()), by_direction.setdefault(direction, Counts())):
                counts.add(volume, label_file, monai_label, monai_image, other)
        if args.save:
            np.savez_compressed(args.save, **kept)
    print(
        f"MONAI {monai.__version__}, PyTorch {torch.__version__}, NumPy {np.__version__}, Python "
        f"{platform.python_version()}; {len(scans)} scans brought to {TARGET_MM} mm\n"
    )
    heads = ["labels", "ties", "z: lower", "z: upper", "differ on ties", "differ elsewhere"]
    heads += ["other MONAI on ties", "other MONAI elsewhere"] if others is not None else []
    for first, table in (("through, mm", dict(sorted(by_through.items()))), ("orientation", by_direction)):
        print("| " + " | ".join([first, *heads, "scans of another shape", "largest image difference, HU"]) + " |")
        print("|---" + "|--:" * (len(heads) + 2) + "|")
        for key, counts in table.items():
            print("| " + " | ".join([str(key), *counts.row(others is not None)]) + " |")
        print()
    totals = list(by_direction.values())
    return int(any(counts.differ_off or counts.image_off for counts in totals))


if __name__ == "__main__":
    sys.exit(main())
