"""Tensors share the loader's buffers; memory is bounded."""

import gc
import itertools
import logging
import queue
import resource
import signal
import unittest
import weakref
from unittest import mock

import common
import numpy as np
import torch
from common import EXPECTED, dataset

import hiend
from hiend import _pinning


class Sharing(unittest.TestCase):
    def test_tensors_are_views_of_the_batch(self):
        batch = next(iter(dataset()))
        array = batch._native.image
        self.assertEqual(batch.image.data_ptr(), array.ctypes.data)
        self.assertEqual(batch.image.data_ptr(), batch._native.image.ctypes.data)
        self.assertEqual(batch.label.data_ptr(), batch._native.label.ctypes.data)
        self.assertIs(array.base, batch._native)
        before = batch.digest()
        batch.image.add_(1)
        self.assertNotEqual(batch.digest(), before)
        shared = torch.from_dlpack(array)
        self.assertEqual(shared.data_ptr(), batch.image.data_ptr())

    def test_buffers_return_when_their_tensors_are_gone(self):
        stream = dataset()
        pointers = {batch.image.data_ptr() for batch in itertools.islice(stream, 30)}
        self.assertLessEqual(len(pointers), stream.num_buffers)

    def test_voxels_stay_in_place_while_a_tensor_lives(self):
        stream = iter(dataset())
        image = next(stream).image
        copy = image.clone()
        gc.collect()
        for _ in range(20):
            self.assertNotEqual(next(stream).image.data_ptr(), image.data_ptr())
        self.assertTrue(torch.equal(image, copy))

    def test_tensors_outlive_dataset_and_stream(self):
        stream = dataset()
        image = next(iter(stream)).image
        copy = image.clone()
        del stream
        gc.collect()
        self.assertTrue(torch.equal(image, copy))

    def test_iteration_holds_no_batch(self):
        batch = next(iter(dataset()))
        alive = weakref.ref(batch)
        del batch
        self.assertIsNone(alive())

    def test_memory_stays_flat(self):
        # A batch has 10 MiB with its labels; a leak of one in ten would add 60 MiB.
        stream = iter(dataset(crop_size=64, crops_per_visit=4, augment="plain"))

        def peak_bytes(count):
            for batch in itertools.islice(stream, count):
                self.assertEqual(batch.image.nelement() * 5, 10 << 20)
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

        before = peak_bytes(20)
        self.assertLess(peak_bytes(60) - before, 10 << 20)


class Waiting(unittest.TestCase):
    def test_ctrl_c_interrupts_a_wait_and_loses_nothing(self):
        stream = dataset()
        loop = iter(stream)
        # With all buffers in use, the next batch cannot be made.
        held = list(itertools.islice(loop, stream.num_buffers))

        class Interrupt(logging.Handler):
            def emit(self, record):
                if "all" in record.getMessage() and "are held" in record.getMessage():
                    signal.raise_signal(signal.SIGINT)

        logger, handler = logging.getLogger("hiend"), Interrupt()
        logger.addHandler(handler)
        try:
            with self.assertRaises(KeyboardInterrupt):
                next(loop)
        finally:
            logger.removeHandler(handler)
        found = [batch.digest() for batch in held]
        held.clear()
        found.append(next(loop).digest())
        self.assertEqual(found[:6], EXPECTED["recipe float32"][: len(found)][:6])
        self.assertEqual(stream.step, len(found))


class Losing:
    """Stands for the native loader; its first stream loses a batch to Ctrl-C as it is handed over."""

    def __init__(self, native, step):
        self._native, self.step, self.started = native, step, []

    def __getattr__(self, name):
        return getattr(self._native, name)

    def stream(self, start_step):
        self.started.append(start_step)
        return LosingStream(self, self._native.stream(start_step))


class LosingStream:
    """Iterates over a native stream. The batch of `losing.step` is taken from it and not returned, once."""

    def __init__(self, losing, stream):
        self.losing, self.stream = losing, stream

    def __iter__(self):
        return self

    def __next__(self):
        batch = next(self.stream)
        if batch.step == self.losing.step:
            self.losing.step = None
            raise KeyboardInterrupt
        return batch


class Ended:
    """Stands for the native loader; its first stream ends, as after an error that was lost to Ctrl-C."""

    def __init__(self, native, streams):
        self._native, self.streams = native, streams

    def __getattr__(self, name):
        return getattr(self._native, name)

    def stream(self, start_step):
        return self.streams.pop() if self.streams else self._native.stream(start_step)


class Interruptions(unittest.TestCase):
    def test_batch_lost_to_ctrl_c_is_made_again(self):
        stream = dataset(steps=6)
        stream._native = Losing(stream._native, 2)
        loop, found = iter(stream), []
        with self.assertRaises(KeyboardInterrupt):
            found.extend(batch.digest() for batch in iter(lambda: next(loop), None))
        self.assertEqual((len(found), stream.step), (2, 2))
        found += [batch.digest() for batch in loop]
        self.assertEqual(found, EXPECTED["recipe float32"])
        self.assertEqual(stream._native.started, [0, 2])

    def test_next_loop_gets_a_batch_lost_to_ctrl_c(self):
        stream = dataset()
        stream._native = Losing(stream._native, 1)
        found = []
        with self.assertRaises(KeyboardInterrupt):
            for batch in stream:
                found.append(batch.digest())
        found += [batch.digest() for batch in itertools.islice(stream, 5)]
        self.assertEqual(found, EXPECTED["recipe float32"])

    def test_pinned_batch_lost_to_ctrl_c_is_made_again(self):
        class Interrupted(queue.SimpleQueue):
            """Loses its third batch."""

            count = 0

            def get(self, *args, **kwargs):
                item = super().get(*args, **kwargs)
                if isinstance(item, hiend.Batch):
                    Interrupted.count += 1
                    if Interrupted.count == 3:
                        raise KeyboardInterrupt
                return item

        found = []
        with (
            mock.patch.object(torch.Tensor, "pin_memory", torch.Tensor.clone),
            mock.patch.object(hiend._dataset, "has_cuda", lambda: True),
            mock.patch.object(_pinning.queue, "SimpleQueue", Interrupted),
        ):
            stream = dataset(pin_memory=True)
            with self.assertRaises(KeyboardInterrupt):
                for batch in stream:
                    found.append(batch.digest())
            found += [batch.digest() for batch in itertools.islice(stream, 4)]
        self.assertEqual(found, EXPECTED["recipe float32"])

    def test_batch_on_its_way_to_the_loop_is_kept(self):
        class Interrupting:
            """Lock that raises, as a handler of Ctrl-C does, where it is released for the given time."""

            def __init__(self, lock, at):
                self.lock, self.left = lock, at

            def __enter__(self):
                return self.lock.__enter__()

            def __exit__(self, *error):
                self.lock.__exit__(*error)
                self.left -= 1
                if self.left == 0:
                    raise KeyboardInterrupt

        for at in range(1, 12):
            with self.subTest(at=at):
                stream, found = dataset(steps=4), []
                loop = iter(stream)
                stream._lock = Interrupting(stream._lock, at)
                with self.assertRaises(KeyboardInterrupt):
                    for batch in loop:
                        found.append(batch.step)
                self.assertEqual(stream.step, len(found))
                found += [batch.step for batch in loop]
                self.assertEqual(found, [0, 1, 2, 3])

    def test_loaded_state_forgets_a_kept_batch(self):
        stream = dataset()
        state = stream.state_dict()
        stream._kept = next(iter(stream))
        self.assertEqual(stream.step, 0)
        stream.load_state_dict({**state, "step": 3})
        self.assertEqual(next(iter(stream)).step, 3)

    def test_stream_that_ended_is_opened_again(self):
        stream = dataset()
        stream._native = Ended(stream._native, [iter(())])
        found = [batch.digest() for batch in itertools.islice(stream, 2)]
        self.assertEqual(found, EXPECTED["recipe float32"][:2])
        # Streams that only end are not opened forever.
        stream = dataset()
        stream._native = Ended(stream._native, [iter(()) for _ in range(20)])
        with self.assertRaisesRegex(hiend.HiendError, "does not continue at step 0"):
            next(iter(stream))


class Pinning(unittest.TestCase):
    class Page:
        """Stands for a batch; counts its copies."""

        def __init__(self, step):
            self.step, self.copies = step, 0

        def pin_memory(self):
            self.copies += 1
            return self

    def pinned(self, batches):
        with mock.patch.object(_pinning, "Batch", self.Page):
            return [(page.step, page.copies) for page in _pinning.Pinned(batches)]

    def test_every_batch_is_pinned_once_and_in_order(self):
        self.assertEqual(self.pinned(map(self.Page, range(9))), [(step, 1) for step in range(9)])

    def test_errors_reach_the_loop(self):
        def failing():
            yield self.Page(0)
            raise ValueError("corrupt")

        with self.assertRaisesRegex(ValueError, "corrupt"):
            self.pinned(failing())

    def test_error_that_was_lost_is_an_end(self):
        def failing():
            yield self.Page(0)
            raise ValueError("corrupt")

        with mock.patch.object(_pinning, "Batch", self.Page):
            pinned = _pinning.Pinned(failing())
            self.assertEqual(next(pinned).step, 0)
            # As an interruption between the queue and its caller does.
            self.assertIsInstance(pinned._state.ready.get(), ValueError)
            self.assertEqual(list(pinned), [])

    def test_pinned_batch_keeps_facts_and_returns_its_buffer(self):
        batch = next(iter(dataset()))
        digest, crops = batch.digest(), batch.crops
        with mock.patch.object(torch.Tensor, "pin_memory", torch.Tensor.clone):
            buffer = batch.image.data_ptr()
            batch.pin_memory()
        self.assertNotEqual(batch.image.data_ptr(), buffer)
        self.assertEqual(batch.digest(), digest)
        self.assertEqual((batch.step, batch.shape, len(batch.crops)), (0, (4, 1, 24, 24, 16), len(crops)))
        self.assertIsInstance(batch.image.numpy(), np.ndarray)


if __name__ == "__main__":
    common.main()
