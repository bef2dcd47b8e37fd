"""Caches in object storage: converting, reading, streaming, and what goes wrong."""

import itertools
import logging
import os
import pathlib
import signal
import unittest

import common
import numpy as np
from common import CACHE, EXPECTED, RAW, dataset

import hiend

BUCKET = os.environ.get("HIEND_TEST_BUCKET")
BLOCKS = common.DIR / "blocks"
NOBODY = "http://127.0.0.1:1"


def digests(stream, count):
    return [batch.digest() for batch in itertools.islice(stream, count)]


@unittest.skipUnless(BUCKET, "no S3 server")
class Storage(unittest.TestCase):
    URL = f"{BUCKET}/python/cache"

    @classmethod
    def setUpClass(cls):
        cls.summary = hiend.shard(RAW, out=cls.URL, spacing=6.0, jobs=2)

    def test_conversion_into_a_bucket_equals_a_local_one(self):
        self.assertEqual(self.summary["converted"], 4)
        self.assertEqual(hiend.shard(RAW, out=self.URL, spacing=6.0)["unchanged"], 4)
        stored, local = hiend.Cache(self.URL), hiend.Cache(CACHE)
        self.assertEqual((stored.path, stored.cases, stored.digest), (self.URL, local.cases, EXPECTED["cache"]))
        for found, expected in zip(hiend.read_case(self.URL, stored.cases[0]), local.read(local.cases[0])):
            np.testing.assert_array_equal(found, expected)

    def test_streams_are_those_of_the_local_cache(self):
        for name in EXPECTED.keys() - {"cache"}:
            augment, form = name.split()
            with self.subTest(name=name):
                stream = dataset(
                    source=self.URL, augment=augment, form=form, disk_cache=BLOCKS, disk_cache_size="1GiB"
                )
                self.assertEqual(digests(stream, 6), EXPECTED[name])
        self.assertTrue((BLOCKS / "hiend-disk-cache").is_file())
        # Positions move between a bucket and a folder.
        local = dataset()
        found = digests(local, 2)
        stream = dataset(source=self.URL)
        stream.load_state_dict(local.state_dict())
        self.assertEqual(found + digests(stream, 4), EXPECTED["recipe float32"])

    def test_forked_process_is_told_to_be_started_otherwise(self):
        stored = hiend.Cache(self.URL)
        case = stored.cases[0]
        stored.read(case)
        for work in (
            lambda: stored.read(case),
            lambda: hiend.read_case(self.URL, case),
            lambda: dataset(source=self.URL),
        ):
            self.assertIn('start method "spawn"', common.error_in_fork(work))
        stored.read(case)

    def test_wrong_use_is_refused(self):
        with self.assertRaisesRegex(hiend.ConfigError, "at least [0-9]+ bytes"):
            dataset(source=self.URL, disk_cache=common.DIR / "small", disk_cache_size=4096)
        with self.assertRaisesRegex(hiend.ConfigError, "is not a disk cache"):
            dataset(source=self.URL, disk_cache=CACHE)
        with self.assertRaisesRegex(hiend.ConfigError, "storage_retry: -1"):
            dataset(source=self.URL, storage_retry=-1)
        with self.assertRaisesRegex(hiend.ConfigError, "disk_cache_size: 'much'"):
            dataset(source=self.URL, disk_cache_size="much")
        with self.assertRaisesRegex(hiend.NotFoundError, "no cache here"):
            hiend.Cache(f"{BUCKET}/python/absent")
        # A path joins the two slashes of a URL.
        with self.assertRaisesRegex(hiend.ConfigError, "expected s3://bucket/"):
            dataset(source=pathlib.PurePosixPath(self.URL))

    def test_storage_that_does_not_answer_is_named_and_ctrl_c_ends_the_waiting(self):
        class Interrupt(logging.Handler):
            """Presses Ctrl-C at the first message, which is that the storage does not answer."""

            def emit(self, record):
                signal.raise_signal(signal.SIGINT)

        endpoint = os.environ["AWS_ENDPOINT"]
        os.environ["AWS_ENDPOINT"] = NOBODY
        logger, handler = logging.getLogger("hiend"), Interrupt()
        try:
            # Each bucket has a connection of its own.
            with self.assertRaisesRegex(hiend.HiendError, "s3://away-.*refused"):
                dataset(source="s3://away-for-a-second/cache", storage_retry=1)
            logger.addHandler(handler)
            with self.assertRaises(KeyboardInterrupt):
                dataset(source="s3://away-for-an-hour/cache", storage_retry=3600)
        finally:
            logger.removeHandler(handler)
            os.environ["AWS_ENDPOINT"] = endpoint


if __name__ == "__main__":
    common.main()
