"""One stream by every way that leads to it: the digests side by side."""

import itertools
import os
import unittest

import common
from common import CACHE, EXPECTED, RAW, dataset

import hiend

TCP, UNIX = sorted(os.environ["HIEND_TEST_SERVERS"].split())
SECURED = os.environ["HIEND_TEST_SECURED"]
BUCKET = os.environ.get("HIEND_TEST_BUCKET")
# Nobody listens there.
AWAY = "http://127.0.0.1:1"
NUM_SHOWN = 3


def remote(servers, **changes):
    return dataset(source=None, servers=servers, threads=None, token="secret", retry=120, **changes)


def from_bucket():
    url = f"{BUCKET}/every-way/cache"
    hiend.shard(RAW, out=url, spacing=6.0)
    return dataset(source=url, disk_cache=common.DIR / "blocks-of-every-way", disk_cache_size="1GiB")


class EveryWay(unittest.TestCase):
    def test_digests_are_the_same_by_every_way(self):
        expected = EXPECTED["recipe float32"]
        ways = {
            "Python, in its process": dataset,
            "server, shared memory": lambda: remote(UNIX),
            "server, Unix socket": lambda: remote(UNIX, shared_memory=False),
            "server, TCP": lambda: remote(TCP),
            "server, TCP with TLS and token": lambda: remote(SECURED, ca=common.DIR / "ca.pem"),
            "two servers": lambda: remote([UNIX, TCP]),
            "two servers, one of them away": lambda: remote([AWAY, UNIX]),
        }
        # Where CI is set to "true", `main.rs` fails without the S3 server.
        if BUCKET:
            ways["shards in S3"] = from_bucket
        found = {"Rust, in its process": expected}
        for way, stream in ways.items():
            found[way] = [batch.digest() for batch in itertools.islice(stream(), len(expected))]
        width = max(map(len, found))
        print(f"\n{'':{width}}  " + "  ".join(f"{f'step {step}':16}" for step in range(NUM_SHOWN)))
        for way, digests in found.items():
            print(f"{way:{width}}  " + "  ".join(digests[:NUM_SHOWN]))
        for way, digests in found.items():
            self.assertEqual(digests, expected, way)
        # They are not equal because all batches are.
        self.assertEqual(len(set(expected)), len(expected))


if __name__ == "__main__":
    common.main()
