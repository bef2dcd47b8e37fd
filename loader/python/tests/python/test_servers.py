"""Batches of servers equal those of this process."""

import itertools
import logging
import os
import signal
import socket
import unittest

import common
from common import EXPECTED, dataset

import hiend

SERVERS = os.environ["HIEND_TEST_SERVERS"].split()
SECURED = os.environ["HIEND_TEST_SECURED"]
TOKEN = "secret"


def remote(servers=SERVERS, **changes):
    """The stream whose digests `main.rs` records, from servers."""
    settings = {"threads": None, "token": TOKEN, "retry": 120, **changes}
    return dataset(source=None, servers=servers, **settings)


def digests(stream, count):
    return [batch.digest() for batch in itertools.islice(stream, count)]


class Streams(unittest.TestCase):
    def test_digests_equal_those_of_the_rust_loader(self):
        for url, name in itertools.product(SERVERS, EXPECTED.keys() - {"cache"}):
            augment, form = name.split()
            with self.subTest(url=url, name=name):
                stream = remote(url, augment=augment, form=form)
                self.assertEqual(digests(stream, 6), EXPECTED[name])
                self.assertEqual((stream.digest, stream.num_cases), (EXPECTED["cache"], 4))
                with self.assertRaisesRegex(hiend.HiendError, "do not tell the names of their cases"):
                    print(stream.cases)

    def test_several_servers_give_one_stream(self):
        self.assertEqual(digests(remote(), 6), EXPECTED["recipe float32"])
        self.assertEqual(digests(remote(shared_memory=False), 6), EXPECTED["recipe float32"])

    def test_server_with_tls_gives_the_same_stream(self):
        stream = remote(SECURED, ca=common.DIR / "ca.pem")
        self.assertEqual(digests(stream, 6), EXPECTED["recipe float32"])
        both = remote([SECURED, SERVERS[0]], ca=common.DIR / "ca.pem")
        self.assertEqual(digests(both, 6), EXPECTED["recipe float32"])

    def test_server_is_told_from_cache_by_its_url(self):
        stream = dataset(source=SERVERS[0], threads=None, token=TOKEN)
        self.assertEqual(digests(stream, 2), EXPECTED["recipe float32"][:2])

    def test_state_moves_between_server_and_cache(self):
        local = dataset()
        found = digests(local, 2)
        stream = remote()
        stream.load_state_dict(local.state_dict())
        self.assertEqual(found + digests(stream, 4), EXPECTED["recipe float32"])

    def test_tensors_outlive_the_connection(self):
        stream = remote()
        batch = next(iter(stream))
        del stream
        self.assertEqual(batch.digest(), EXPECTED["recipe float32"][0])
        batch.image.add_(1)
        self.assertNotEqual(batch.digest(), EXPECTED["recipe float32"][0])

    def test_ranks_share_the_batch_of_a_server(self):
        halves = [next(iter(remote(rank=rank, world_size=2))) for rank in (0, 1)]
        whole = next(iter(remote()))
        self.assertEqual(
            [crop.origin for half in halves for crop in half.crops], [crop.origin for crop in whole.crops]
        )


class Errors(unittest.TestCase):
    def check(self, pattern, kind=hiend.HiendError, **changes):
        with self.assertRaisesRegex(kind, pattern) as caught:
            remote(**changes)
        self.assertNotIn("\n", str(caught.exception))

    def test_wrong_use_is_refused(self):
        self.check("token", token="wrong")
        self.check("crop_size", ValueError, crop_size=0)
        self.check("threads: batches come from servers", ValueError, threads=1)
        self.check("disk_cache: batches come from servers", ValueError, disk_cache="blocks")
        self.check("servers: none", ValueError, servers=[])
        self.check("include: no dataset matches", ValueError, include="AMOS")
        self.check("takes one server", ValueError, on_corrupt="skip")
        self.check("ftp", ValueError, servers="ftp://host")
        self.check("retry: -1", ValueError, retry=-1)
        self.check("missing.pem", FileNotFoundError, servers="https://127.0.0.1:1", ca="missing.pem")
        self.check("test_servers.py: no certificate found", ValueError, servers="https://127.0.0.1:1", ca=__file__)
        with self.assertRaisesRegex(hiend.ConfigError, "source and servers"):
            dataset(servers=SERVERS)
        with self.assertRaisesRegex(hiend.ConfigError, "URLs of servers among caches"):
            dataset(source=[common.CACHE, SERVERS[0]])

    def test_wrong_certificates_and_protocols_are_refused_at_once(self):
        # Without waiting for as long as a server may be away.
        forever = {"retry": 86_400}
        self.check("certificate", servers=SECURED, ca=common.DIR / "other.pem", **forever)
        self.check("token", servers=SECURED, ca=common.DIR / "ca.pem", token="wrong", **forever)
        self.check("ca: .*has no effect", servers="http://127.0.0.1:1", ca="missing.pem", **forever)
        plain = SERVERS[0].replace("http://", "https://")
        self.check("begins with http://", servers=plain, ca=common.DIR / "ca.pem", **forever)

    def test_absent_server_is_named(self):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{unused.getsockname()[1]}"
            self.check(url, servers=url, retry=0)

    def test_ctrl_c_ends_the_waiting_for_a_server(self):
        class Interrupt(logging.Handler):
            def emit(self, record):
                signal.raise_signal(signal.SIGINT)

        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{unused.getsockname()[1]}"
            logger, handler = logging.getLogger("hiend"), Interrupt()
            logger.addHandler(handler)
            try:
                with self.assertRaises(KeyboardInterrupt):
                    remote(url, retry=600)
            finally:
                logger.removeHandler(handler)


if __name__ == "__main__":
    common.main()
