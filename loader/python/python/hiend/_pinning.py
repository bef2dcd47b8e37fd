"""Batches copied to page-locked memory, one ahead of the loop."""

from __future__ import annotations

import atexit
import queue
import threading
import weakref
from typing import Iterator, Union

from hiend._batch import Batch

_Item = Union[Batch, BaseException, None]

# Seconds between checks of whether the other side is still there.
_TICK = 0.1

# Seconds that the end of the process waits for each thread.
_PATIENCE = 5.0


class _State:
    """State shared by the loop and the thread of a :class:`Pinned`.

    Ctrl-C can raise an exception at any call. ``queue.SimpleQueue`` stays usable then, which ``queue.Queue`` and
    ``threading.Event`` do not: they can keep their lock.
    """

    def __init__(self) -> None:
        self.ready: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        # One entry for each item that may be made.
        self.room: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.has_ended = False

    def end(self) -> None:
        self.has_ended = True


class Pinned(Iterator[Batch]):
    """Pins batches on a thread of its own, one ahead; ends, or raises, as ``batches`` does.

    An interruption while an item is handed over loses it: a batch is then missing, and an error becomes an end.
    """

    def __init__(self, batches: Iterator[Batch]) -> None:
        state = self._state = _State()
        for _ in range(2):
            state.room.put(None)
        self._thread = threading.Thread(target=_run, args=(batches, state), name="hiend-pin", daemon=True)
        self._thread.start()
        _RUNNING.add(self)
        weakref.finalize(self, state.end)

    def __next__(self) -> Batch:
        if self._state.has_ended:
            raise StopIteration
        item = self._wait()
        self._state.room.put(None)
        if isinstance(item, Batch):
            return item
        self._state.end()
        raise StopIteration if item is None else item

    def _wait(self) -> _Item:
        """The next item; an end where the thread has ended and its last item was lost."""
        while True:
            is_over = not self._thread.is_alive()
            try:
                return self._state.ready.get(timeout=_TICK)
            except queue.Empty:
                if is_over:
                    return None

    def stop(self) -> None:
        """Ends the thread and waits for it."""
        self._state.end()
        self._thread.join(_PATIENCE)


_RUNNING: weakref.WeakSet[Pinned] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    """Ends all threads before the interpreter does: one inside PyTorch's code would end the process with an error."""
    for pinned in list(_RUNNING):
        pinned.stop()


def _has_room(state: _State) -> bool:
    """Waits until an item may be made; false once the loop has ended."""
    while not state.has_ended:
        try:
            state.room.get(timeout=_TICK)
        except queue.Empty:
            # An interruption can lose an entry; nothing waits to be taken then.
            if not state.ready.empty():
                continue
        return not state.has_ended
    return False


def _run(batches: Iterator[Batch], state: _State) -> None:
    last = False
    while not last and _has_room(state):
        item: _Item
        try:
            item = next(batches).pin_memory()
        except StopIteration:
            item = None
        except BaseException as error:  # raised again in the loop
            item = error
        last = not isinstance(item, Batch)
        state.ready.put(item)
        del item
