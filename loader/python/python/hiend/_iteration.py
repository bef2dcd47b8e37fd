"""Iterations over a ``CropDataset``, and the stream that they take batches from."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Iterator

from hiend._batch import Batch
from hiend._errors import HiendError

if TYPE_CHECKING:
    from hiend._dataset import CropDataset

TAKEN_OVER = "this iteration has ended: a newer one of the same CropDataset began, or a state was loaded"


class Source:
    """Open stream of a dataset. Threads take their batches one after another."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self.batches = batches
        # Held by the thread that waits for a batch.
        self.turn = threading.RLock()
        self.has_failed = False


class Iteration(Iterator[Batch]):
    """One iteration over a dataset. Holds no batch, so that a dropped one returns to the loader at once."""

    def __init__(self, dataset: CropDataset) -> None:
        self._dataset = dataset
        self._number = dataset._iteration
        self._left = dataset._left()

    def __next__(self) -> Batch:
        while True:
            # No call follows, at which an interruption would lose the batch.
            batch = self._next()
            if batch is not None:
                return batch

    def _next(self) -> Batch | None:
        """The batch of the next step; ``None`` if no crop of it is left."""
        dataset = self._dataset
        # Before any lock: a thread of the parent process may have held it.
        dataset._check_process()
        is_counted = False
        try:
            with dataset._lock:
                if self._number != dataset._iteration:
                    raise HiendError(TAKEN_OVER)
                if self._left == 0:
                    raise StopIteration
                if self._left is not None:
                    self._left -= 1
                    is_counted = True
            return dataset._next(self._number)
        except BaseException:
            # The batch is still to come.
            if is_counted:
                with dataset._lock:
                    assert self._left is not None
                    self._left += 1
            raise
