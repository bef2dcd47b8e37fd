"""Native part of the package ``hiend``. Its classes are wrapped by those of the package."""

import os
from typing import Any, Callable, Iterator, final

import numpy as np
from numpy.typing import NDArray

__version__: str

@final
class Loader:
    """Caches or servers, opened for streaming."""

    @staticmethod
    def open(
        caches: list[tuple[str, int]],
        config: str,
        *,
        seed: int,
        rank: tuple[int, int],
        form: str,
        threads: int,
        memory: int,
        access: str,
        disk_cache: str | os.PathLike[str] | None,
        disk_cache_size: int | None,
        storage_retry: float | None,
    ) -> Loader: ...
    @staticmethod
    def connect(
        servers: list[str],
        config: str,
        *,
        seed: int,
        rank: tuple[int, int],
        form: str,
        memory: int,
        token: str | None,
        ca: str | os.PathLike[str] | None,
        retry: float,
        shared_memory: bool,
    ) -> Loader: ...
    @property
    def num_cases(self) -> int: ...
    @property
    def cases(self) -> list[str] | None: ...
    @property
    def digest(self) -> str: ...
    @property
    def crops_per_batch(self) -> int: ...
    @property
    def steps_per_epoch(self) -> int: ...
    @property
    def num_buffers(self) -> int: ...
    def has_digest(self, digest: str) -> bool: ...
    def stream(self, start_step: int) -> Stream: ...

@final
class Stream(Iterator[Batch]):
    """Iterator over the batches of a stream. Waits without the GIL."""

    def __iter__(self) -> Stream: ...
    def __next__(self) -> Batch: ...

@final
class Batch:
    """Batch of crops. Its arrays share its memory, which returns to the loader when the last of them is gone."""

    @property
    def step(self) -> int: ...
    @property
    def shape(self) -> tuple[int, int, int, int, int]: ...
    @property
    def image(self) -> NDArray[np.float32] | NDArray[np.uint16]: ...
    @property
    def label(self) -> NDArray[np.uint8] | None: ...
    @property
    def dequantize(self) -> NDArray[np.float32] | None: ...
    @property
    def crops(self) -> list[CropRecord]: ...
    @property
    def times(self) -> dict[str, float]: ...
    def digest(self) -> str: ...

@final
class CropRecord:
    """Origin and augmentation of one crop. Records can be pickled and compared."""

    def __new__(cls, json: str) -> CropRecord: ...
    @property
    def case(self) -> str: ...
    @property
    def epoch(self) -> int: ...
    @property
    def crop(self) -> int: ...
    @property
    def origin(self) -> tuple[int, int, int]: ...
    @property
    def augmentation(self) -> list[str]: ...

@final
class Cache:
    """Cases of a cache."""

    def __new__(cls, path: str | os.PathLike[str]) -> Cache: ...
    @property
    def path(self) -> str: ...
    @property
    def cases(self) -> list[str]: ...
    @property
    def digest(self) -> str: ...
    def manifest_json(self) -> str: ...
    def record_json(self, case: str) -> str: ...
    def read(self, case: str) -> tuple[NDArray[np.float32], NDArray[np.uint8] | None, NDArray[np.float64]]: ...

def convert(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    config: str,
    *,
    codec: str,
    jobs: int | None,
    memory: int,
    shard_size: int,
    exclude: list[str],
    reconvert: list[str],
    worker: tuple[int, int],
    prune: str,
    checksum: bool,
    change_parameters: bool,
    forget_lost: bool,
    on_suspect: str,
    progress: Callable[[str, str, int, str | None, int], object] | None,
) -> dict[str, Any]: ...
def write_phantoms(
    folder: str | os.PathLike[str], *, cases: int, seed: int, spacing: list[float]
) -> None: ...
def parse_bytes(text: str) -> int: ...
def digest(image: NDArray[np.float32], label: NDArray[np.uint8] | None) -> str: ...
