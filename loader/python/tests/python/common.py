"""Data and streams shared by the tests of the Python package."""

import json
import os
import pathlib
import signal
import unittest

import hiend

DIR = pathlib.Path(os.environ["HIEND_TEST_DIR"])
CACHE = DIR / "cache"
RAW = DIR / "raw"
EXPECTED = json.loads((DIR / "expected.json").read_text())


def dataset(**changes):
    """The stream whose digests `main.rs` records, with changes."""
    settings = {
        "crop_size": (24, 24, 16),
        "crops_per_visit": 2,
        "visits_per_batch": 2,
        "labels": True,
        "seed": 11,
        "threads": 2,
        "memory": "512MiB",
    }
    settings.update(changes)
    return hiend.CropDataset(settings.pop("source", CACHE), **settings)


def error_in_fork(work):
    """Text of the exception that `work` raises in a forked process. One that waits forever is ended, without a text."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(60)
        try:
            work()
        except BaseException as error:
            os.write(write, str(error).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return text


def main():
    """Runs the tests of the calling file; fails if there are none."""
    # A parent that ignores Ctrl-C, such as `nohup` or a shell's background job, leaves it ignored here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    program = unittest.main(exit=False)
    raise SystemExit(0 if program.result.wasSuccessful() and program.result.testsRun > 0 else 1)
