"""Rank of this process and number of ranks."""

from __future__ import annotations

import os

from hiend._arguments import count
from hiend._errors import ConfigError, HiendError
from hiend._torch import torch


def resolve(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Rank and number of ranks: as given, else of ``torch.distributed``, else of ``RANK`` and ``WORLD_SIZE``."""
    if (rank is None) != (world_size is None):
        raise ConfigError("rank and world_size: only one is given; expected both or neither")
    if rank is not None and world_size is not None:
        return _checked(count("rank", rank), count("world_size", world_size, 1), "rank")
    found_by_torch = _of_torch()
    if found_by_torch is not None:
        return found_by_torch
    texts = [os.environ.get(name) for name in ("RANK", "WORLD_SIZE")]
    if texts == [None, None]:
        return 0, 1
    source = f"RANK={texts[0] or ''} and WORLD_SIZE={texts[1] or ''} in the environment"
    try:
        rank, world_size = [int(text or "") for text in texts]
    except ValueError as error:
        remedy = "; with Lightning, open the dataset in train_dataloader()" if texts[0] is None else ""
        raise ConfigError(f"{source}: expected two whole numbers{remedy}") from error
    return _checked(rank, world_size, source)


def check(rank: int, world_size: int) -> None:
    """Compares the rank that was found when a dataset was opened with that of ``torch.distributed``, initialised since.

    Raises:
        HiendError: If they differ: all ranks would train on the same crops.
    """
    now = _of_torch()
    if now is not None and now != (rank, world_size):
        raise HiendError(
            f"the dataset was opened as rank {rank} of {world_size}, but this process is rank {now[0]} of {now[1]}; "
            "open it after init_process_group, or pass rank and world_size"
        )


def _of_torch() -> tuple[int, int] | None:
    """Rank and number of ranks of ``torch.distributed``; ``None`` unless it is initialised."""
    if torch is None or not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return None
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def _checked(rank: int, world_size: int, source: str) -> tuple[int, int]:
    if 0 <= rank < world_size:
        return rank, world_size
    raise ConfigError(f"{source}: rank {rank} of {world_size}; expected a rank from 0 to world_size - 1")
