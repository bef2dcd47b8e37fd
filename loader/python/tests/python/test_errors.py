"""Errors are Python exceptions with one line that says what to do."""

import os
import pathlib
import pickle
import shutil
import tempfile
import unittest

import common
from common import CACHE, dataset
from torch.utils.data import DataLoader

import hiend


class Arguments(unittest.TestCase):
    def check(self, pattern, kind=ValueError, **changes):
        with self.assertRaisesRegex(kind, pattern) as caught:
            dataset(**changes)
        self.assertIsInstance(caught.exception, hiend.HiendError)
        self.assertNotIn("\n", str(caught.exception))

    def test_values_out_of_range_name_their_key(self):
        self.check("crop_size.*1 to 1024", crop_size=0)
        self.check("crop_size: 'big'; expected one number or three", crop_size="big")
        self.check("crop_size: .1, 2.; expected one number or three", crop_size=(1, 2))
        self.check("crops_per_visit: -1; expected a whole number of at least 1", crops_per_visit=-1)
        self.check("crops_per_visit: 1.5", crops_per_visit=1.5)
        self.check("foreground_rate: 2; expected 0 to 1", foreground_rate=2)
        self.check("sample_by: unknown variant `colour`", sample_by="colour")
        self.check("augment: unknown variant `strong`", augment="strong")
        self.check("augment: unknown field `flop`", augment={"chain": "recipe", "flop": {}})
        self.check("augment", augment="nnunet", form="quantized")
        self.check("form: \"int8\"; expected \"float32\" or \"quantized\"", form="int8")
        self.check("memory: 'much'; expected a size", memory="much")
        self.check("the budget is 1000", memory=1000)
        self.check("labels: false; sampling by label", labels=False, sample_by="label")
        self.check("visits_per_batch: 2; expected a multiple of the 3 ranks", rank=0, world_size=3)
        self.check("rank and world_size: only one", rank=0)
        self.check("fold: 5; expected .*", fold=5)
        self.check("fold 3 of 2", fold=(3, 2))
        self.check("part: 'validation' needs", part="validation")
        self.check("fold and shots: expected only one", fold=(0, 2), shots=1)
        self.check("split", fold=(0, 2), fold_rule="drawn")
        self.check("splits: needs fold", splits="splits_final.json")
        self.check("ignore_label", ignore_label=300)
        self.check("include: no dataset matches", include="AMOS")
        self.check("seed: -1", seed=-1)
        self.check("steps: 0", steps=0)
        self.check("start_step: 'end'", start_step="end")
        self.check("source: no cache", source=[])
        self.check("weight: 0", source={CACHE: 0})

    def test_unknown_keyword_is_a_type_error(self):
        with self.assertRaises(TypeError):
            dataset(crop=24)

    def test_missing_cache_is_not_found(self):
        with tempfile.TemporaryDirectory() as folder:
            self.check("no cache here", FileNotFoundError, source=folder)
            with self.assertRaisesRegex(FileNotFoundError, "no cache here"):
                hiend.Cache(folder)
            self.check("cannot read the list of cases", FileNotFoundError, cases=f"{folder}/missing.txt")

    def test_corrupt_chunk_is_named_and_ends_the_stream(self):
        with tempfile.TemporaryDirectory() as folder:
            copy = pathlib.Path(folder) / "cache"
            shutil.copytree(CACHE, copy)
            shard = next(copy.glob("*.shard"))
            span = hiend.Cache(copy).record(hiend.Cache(copy).cases[0])["span"]
            with open(shard, "r+b") as file:
                file.seek(span["offset"])
                file.write(bytes(b ^ 0xFF for b in os.pread(file.fileno(), span["data_len"], span["offset"])))
            stream = dataset(source=copy)
            with self.assertRaisesRegex(hiend.HiendError, "case Dataset001_Phantoms/.* chunk"):
                for _ in range(stream.steps_per_epoch):
                    next(iter(stream))
            with self.assertLogs("hiend.loader", "ERROR") as logs:
                kept = [len(batch.crops) for batch in dataset(source=copy, on_corrupt="skip", steps="epoch")]
            self.assertEqual(sum(kept), 6)
            self.assertIn("skipped in this epoch", logs.output[0])


class Processes(unittest.TestCase):
    def test_workers_of_a_data_loader_are_refused(self):
        with self.assertRaisesRegex(hiend.HiendError, "num_workers=0"):
            next(iter(DataLoader(dataset(), batch_size=None, num_workers=1)))

    def test_pickling_is_refused(self):
        with self.assertRaisesRegex(hiend.HiendError, "cannot be pickled"):
            pickle.dumps(dataset())

    def test_forked_process_is_told_to_open_its_own(self):
        stream = dataset()
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                next(iter(stream))
            except BaseException as error:
                os.write(write, str(error).encode())
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as pipe:
            self.assertIn("before this process was forked", pipe.read())
        self.assertEqual(os.waitpid(child, 0)[1], 0)


if __name__ == "__main__":
    common.main()
