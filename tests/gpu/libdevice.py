"""Prints the path of a libdevice.10.bc on this machine, CUDA's mathematical functions; exits with 1 where there is none.

It comes with nvcc, with the wheels nvidia-nvvm and nvidia-cuda-nvcc, and with Triton, which comes with PyTorch.
"""

import importlib.util
import os
import pathlib
import sys

TOOLKITS = [os.environ.get("CUDA_PATH"), "/usr/local/cuda", "/opt/cuda", "/usr/lib/cuda", "/usr"]
WHEELS = {
    "nvidia": ["cu13/nvvm/libdevice", "cuda_nvcc/nvvm/libdevice"],
    "triton": ["backends/nvidia/lib"],
}


def folders():
    yield from (pathlib.Path(root) / "nvvm/libdevice" for root in TOOLKITS if root)
    for package, inside in WHEELS.items():
        spec = importlib.util.find_spec(package)
        roots = spec.submodule_search_locations if spec else None
        yield from (pathlib.Path(root) / folder for root in roots or [] for folder in inside)


found = next((file for folder in folders() if (file := folder / "libdevice.10.bc").is_file()), None)
if found:
    print(found)
sys.exit(0 if found else 1)
