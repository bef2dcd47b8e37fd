"""Checks, with nnU-Net's own code, that its trainer takes the encoder of an export and sees scans as in pre-training.

    python3 nnunet_handover.py DATASET PLANS TRAINER CHECKPOINT.pth IMAGE.nii.gz

IMAGE is a scan of DATASET on the grid of the plans, with the axes x, y, z in RAS+. The trainer is found and initialised as
by nnUNetv2_train. Every tensor of the checkpoint must then be in its network, bit for bit, and every tensor of the
network's encoder in the checkpoint. Preprocessed by nnU-Net and mapped back by the network, every voxel of the scan must
be its HU mapped from the window of pre-training to [0, 1]. Needs nnunetv2.
"""

import sys
from pathlib import Path

import nibabel
import numpy as np
import torch
from nnunetv2.run.run_training import get_trainer_from_args

# Standardised and undone in single precision: a few roundings of values up to 1,024 HU, over a window of 425 HU.
TOLERANCE = 1e-5


def main(dataset, plans, trainer_name, checkpoint_path, image_path):
    trainer = get_trainer_from_args(dataset, "3d_fullres", 0, trainer_name, plans, device=torch.device("cpu"))
    trainer.initialize()
    network = trainer.network
    weights = torch.load(checkpoint_path, weights_only=True)["network_weights"]
    state = network.state_dict()
    encoder = {key for key in state if key.startswith(("stem.", "encoder."))}
    assert encoder == set(weights), sorted(encoder ^ set(weights))
    different = [key for key, tensor in weights.items() if not torch.equal(state[key], tensor)]
    assert not different, different
    num_numbers = sum(tensor.numel() for tensor in weights.values())
    print(f"encoder: all {len(weights)} tensors ({num_numbers:,} numbers) are those of {Path(checkpoint_path).name}")

    name = Path(image_path).name.removesuffix("_0000.nii.gz")
    image = nibabel.load(image_path)
    assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S"), image.affine
    data, _, _, properties = trainer.dataset_class(trainer.preprocessed_dataset_folder).load_case(name)
    box = tuple(slice(*side) for side in reversed(properties["bbox_used_for_cropping"]))
    hu = np.asanyarray(image.dataobj).astype(np.float64)[box]
    low, high = network.window
    expected = np.clip((hu - low) / (high - low), 0, 1)
    units = network.pretraining_units(torch.tensor(np.asarray(data[:]), dtype=torch.float32)[None])[0, 0].numpy()
    assert units.shape == expected.shape, (units.shape, expected.shape)
    error = np.abs(units - expected).max()
    print(
        f"{name}: {units.size:,} voxels as nnU-Net's preprocessing and the network hand them to the encoder; the largest "
        f"difference from pre-training is {error:.1e} of the window (tolerance {TOLERANCE:.0e})"
    )
    assert 0 < expected.mean() < 1 and error <= TOLERANCE


if __name__ == "__main__":
    if len(sys.argv) != 6:
        sys.exit(__doc__)
    main(*sys.argv[1:])
