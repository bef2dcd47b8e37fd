"""Cases of a cache as NumPy arrays."""

from __future__ import annotations

import json
import os
from typing import Any, Iterator, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hiend import _hiend


class Volume(NamedTuple):
    """Voxels of a case, in RAS+ order with z fastest."""

    image: NDArray[np.float32]
    """Image in Hounsfield units, or z-scores of a cache of those, of shape ``(x, y, z)``; clamped to the stored range."""
    label: NDArray[np.uint8] | None
    """Label map of the same shape; ``None`` for a case without labels."""
    affine: NDArray[np.float64]
    """``world_from_voxel``: from voxel indices to RAS+ millimetres, of shape ``(4, 4)``."""

    def __repr__(self) -> str:
        def outline(array: NDArray[Any] | None) -> str:
            return "None" if array is None else f"{array.dtype}{array.shape}"

        parts = [f"{name}={outline(array)}" for name, array in self._asdict().items()]
        return f"Volume({', '.join(parts)})"


class Cache:
    """An open cache: its cases, their records and their voxels."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._native = _hiend.Cache(path)

    @property
    def path(self) -> str:
        """Path or URL of the cache."""
        return self._native.path

    @property
    def cases(self) -> list[str]:
        """Names of the cases, ``DATASET/CASE``, sorted."""
        return self._native.cases

    @property
    def digest(self) -> str:
        """Digest of the content, 32 hex digits. Caches with equal digests hold the same voxels."""
        return self._native.digest

    @property
    def manifest(self) -> dict[str, Any]:
        """Content of ``manifest.json``: preprocessing, label names of each dataset, list of shards."""
        manifest: dict[str, Any] = json.loads(self._native.manifest_json())
        return manifest

    def record(self, case: str) -> dict[str, Any]:
        """Record of a case: shape, spacing, affines, source files and their hashes."""
        record: dict[str, Any] = json.loads(self._native.record_json(case))
        return record

    def read(self, case: str) -> Volume:
        """Reads a case, named ``DATASET/CASE`` or, where that is unique, ``CASE``."""
        return Volume(*self._native.read(case))

    def __len__(self) -> int:
        return len(self.cases)

    def __iter__(self) -> Iterator[str]:
        return iter(self.cases)

    def __contains__(self, case: object) -> bool:
        """Whether the cache has a case of this whole name, ``DATASET/CASE``."""
        return case in self.cases

    def __repr__(self) -> str:
        return f"Cache({self.path!r}, {len(self)} cases)"


def read_case(cache: str | os.PathLike[str] | Cache, case: str) -> Volume:
    """Reads one case of a cache: image in HU or z-scores, label map and affine."""
    return (cache if isinstance(cache, Cache) else Cache(cache)).read(case)
