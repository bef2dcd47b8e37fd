"""Tensors share the loader's buffers; memory is bounded."""

import gc
import itertools
import logging
import resource
import signal
import unittest
import weakref
from unittest import mock

import common
import numpy as np
import torch
from common import EXPECTED, dataset

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
