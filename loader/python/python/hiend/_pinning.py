"""Batches copied to page-locked memory, one ahead of the loop."""

from __future__ import annotations

import queue
import threading
import weakref
from typing import Iterator, Union

from hiend._batch import Batch

_Item = Union[Batch, BaseException, None]


# Seconds between two looks at whether the thread is still there.
_TICK = 0.1


class Pinned(Iterator[Batch]):
    """Pins batches on a thread of its own, one ahead; ends, or raises, as ``batches`` does.

    An interruption while an item is handed over loses it: a batch is then missing, and an error becomes an end.
    """

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._ready: queue.Queue[_Item] = queue.Queue(1)
        ended = threading.Event()
        self._ended = ended
        arguments = (batches, self._ready, ended)
        self._thread = threading.Thread(target=_run, args=arguments, name="hiend-pin", daemon=True)
        self._thread.start()
        weakref.finalize(self, ended.set)

    def __next__(self) -> Batch:
        if self._ended.is_set():
            raise StopIteration
        item = self._wait()
        if isinstance(item, Batch):
            return item
        self._ended.set()
        raise StopIteration if item is None else item

    def _wait(self) -> _Item:
        """The next item; an end where the thread has ended and its last item was lost."""
        while True:
            is_over = not self._thread.is_alive()
            try:
                return self._ready.get(timeout=_TICK)
            except queue.Empty:
                if is_over:
                    return None


def _run(batches: Iterator[Batch], ready: queue.Queue[_Item], ended: threading.Event) -> None:
    last = False
    while not last and not ended.is_set():
        item: _Item
        try:
            item = next(batches).pin_memory()
        except StopIteration:
            item = None
        except BaseException as error:  # raised again in the loop
            item = error
        last = not isinstance(item, Batch)
        while not ended.is_set():
            try:
                ready.put(item, timeout=_TICK)
                break
            except queue.Full:
                continue
        del item
