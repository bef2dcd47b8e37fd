"""Makes cases.safetensors: small crops before and after transforms of batchgeneratorsv2 with fixed parameters.

    pip install torch batchgeneratorsv2 safetensors numpy
    python make.py

Each case holds `NAME.in`, `NAME.out` and `NAME.params` (in the order that transform_parity.rs reads them).
"""

import math

import numpy as np
import torch
from batchgeneratorsv2.transforms.intensity.contrast import ContrastTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from safetensors.numpy import save_file

CROP = (12, 10, 14)
rng = np.random.default_rng(0)
cases = {}


def smooth(shape):
    """Waves with noise, in about [0, 1]."""
    x, y, z = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    waves = 0.5 + 0.2 * np.sin(0.5 * x + 0.1 * y) + 0.2 * np.cos(0.3 * z - 0.4 * y)
    return (waves + 0.05 * rng.standard_normal(shape)).astype(np.float32)


def case(name, image, params, result):
    cases[f"{name}.in"] = image
    cases[f"{name}.params"] = np.asarray(params, dtype=np.float32)
    cases[f"{name}.out"] = np.ascontiguousarray(result.numpy().astype(np.float32))


def tensor(image):
    return torch.from_numpy(image.copy())[None]


yes = torch.tensor([0])
for i, sigma in enumerate([(0.5, 0.7, 1.0), (0.95, 0.55, 0.6)]):
    image = smooth(CROP)
    blur = GaussianBlurTransform((0.5, 1.0), False, False, 1.0, benchmark=False)
    out = blur._apply_to_image(tensor(image), apply_to_channel=torch.tensor([True]), sigmas=[list(sigma)])
    case(f"gaussian_blur.{i}", image, sigma, out[0])

for i, scale in enumerate([0.5, 0.63, 0.87]):
    image = smooth(CROP)
    low = SimulateLowResolutionTransform((0.5, 1), False, True, None, None, 1)
    out = low._apply_to_image(tensor(image), apply_to_channel=[0], scales=torch.tensor([[scale] * 3]))
    case(f"low_resolution.{i}", image, [scale], out[0])

for i, factor in enumerate([0.8, 1.25]):
    image = smooth(CROP)
    contrast = ContrastTransform((0.75, 1.25), True, False, 1)
    out = contrast._apply_to_image(tensor(image), apply_to_channel=yes, multipliers=torch.tensor([factor]))
    case(f"contrast.{i}", image, [factor], out[0])

for i, (exponent, invert) in enumerate([(0.7, 0), (1.4, 0), (0.8, 1), (1.5, 1)]):
    image = smooth(CROP)
    gamma = GammaTransform((0.7, 1.5), invert, False, 1, 1)
    out = gamma._apply_to_image(
        tensor(image),
        apply_to_channel=yes,
        retain_stats=torch.tensor([True]),
        invert_image=torch.tensor([bool(invert)]),
        gamma=torch.tensor([exponent]),
    )
    case(f"gamma.{i}", image, [exponent, invert], out[0])

# The first source holds every voxel that is read; the others do not, so they cover voxels outside the source.
for i, (shape, degrees, scale) in enumerate(
    [((34, 34, 34), (20, -30, 11), 1.3), ((14, 12, 14), (-25, 5, 30), 1.1), ((11, 13, 15), (0, 0, 0), 1.4)]
):
    image = smooth(shape)
    spatial = SpatialTransform(
        CROP, 0, False, 0,
        p_rotation=1, rotation=lambda image, dim: math.radians(degrees[dim]),
        p_scaling=1, scaling=scale, p_synchronize_scaling_across_axes=1,
    )
    out = spatial._apply_to_image(tensor(image), **spatial.get_parameters(image=tensor(image)))
    case(f"spatial.{i}", image, [*degrees, scale], out[0])

save_file(cases, "cases.safetensors")
