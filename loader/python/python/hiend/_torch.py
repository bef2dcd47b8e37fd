"""PyTorch, if it is installed."""

from __future__ import annotations

from typing import Any

__all__ = ["IterableDataset", "collations", "from_numpy", "has_cuda", "in_worker_process", "torch"]

try:
    import torch
    from torch.utils.data import IterableDataset
except ImportError:
    torch = None

    class IterableDataset:  # type: ignore[no-redef]
        """Base class of datasets without PyTorch."""


try:
    from torch.utils.data._utils import collate

    # Functions by which a DataLoader collects samples, by their type.
    collations: dict[Any, Any] = collate.default_collate_fn_map
except (ImportError, AttributeError):
    # No PyTorch, or one before 2.0.
    collations = {}


def from_numpy(array: Any) -> Any:
    """Tensor that shares the memory of an array; the array itself without PyTorch.

    PyTorch before 2.3 has no unsigned 16-bit integers. There, quantized values become ``torch.int16`` with the same
    bits; ``Batch.floats`` undoes that.
    """
    if torch is None:
        return array
    if array.dtype.name == "uint16" and not hasattr(torch, "uint16"):
        array = array.view("int16")
    return torch.from_numpy(array)


def in_worker_process() -> bool:
    """True in a worker process of a ``DataLoader``."""
    return torch is not None and torch.utils.data.get_worker_info() is not None


def has_cuda() -> bool:
    """True if PyTorch can use a CUDA device."""
    return torch is not None and torch.cuda.is_available()
