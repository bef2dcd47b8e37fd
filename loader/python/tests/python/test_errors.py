"""Errors are Python exceptions with one line that says what to do."""

import os
import pathlib
import pickle
import shutil
import tempfile
import unittest
from unittest import mock

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
        self.check("crop_size: 'big'; expected one whole number or three", crop_size="big")
        self.check("crop_size: .1, 2.; expected one whole number or three", crop_size=(1, 2))
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
        self.check("labels: False; sample_by='label' needs labels=True", labels=False, sample_by="label")
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

    def test_values_of_other_kinds_name_their_key_and_what_was_expected(self):
        nan = float("nan")
        self.check("crop_size: 24.0; expected one whole number or three", crop_size=24.0)
        self.check("foreground_rate: nan; expected 0 to 1", foreground_rate=nan)
        self.check("foreground_rate: 'half'; expected 0 to 1", foreground_rate="half")
        self.check("window: .nan, 1.; expected two numbers", window=(nan, 1))
        self.check("window: 5; expected two numbers", window=5)
        self.check("seed: 18446744073709551616; expected a whole number of at most 18446744073709551615", seed=2**64)
        self.check("start_step: 140737488355328; expected a whole number of at most", start_step=2**47)
        self.check("crops_per_visit: .*; expected a whole number of at most", crops_per_visit=2**70)
        self.check("weight: .*; expected a whole number of at most", source={CACHE: 2**32})
        self.check("rank: 'first'; expected a whole number", rank="first", world_size=2)
        for augment in (None, ["recipe"]):
            self.check("augment: .*; expected a name, such as 'recipe', or a mapping", augment=augment)
        self.check("augment: .*nan.*; expected texts, finite numbers", augment={"chain": "recipe", "gamma": nan})
        self.check("sample_by: b'label'; expected texts", sample_by=b"label")
        for source in (b"cache", 5):
            self.check("source: .*; expected a path, a list of paths or a mapping", source=source)
        self.check("source: 5; expected a path", source=[5])
        self.check("cases: 5; expected a name or a list", cases=5)
        self.check("include: 5; expected a name or a list", include=5)
        self.check("splits: 5; expected a path", splits=5, fold=(0, 2))
        self.check("disk_cache: 5; expected a path", disk_cache=5)
        self.check("storage_retry: nan; expected seconds", storage_retry=nan)
        with self.assertRaisesRegex(hiend.ConfigError, "retry: 'long'; expected seconds"):
            hiend.CropDataset(servers="http://127.0.0.1:1", retry="long")
        with self.assertRaisesRegex(hiend.ConfigError, "ca: 5; expected a path"):
            hiend.CropDataset(servers="https://127.0.0.1:1", ca=5)

    def test_page_locked_memory_and_devices_need_pytorch(self):
        with mock.patch.object(hiend._dataset, "torch", None):
            self.check("pin_memory: True; needs PyTorch", pin_memory=True)
            batch = next(iter(dataset(pin_memory=False)))
        with mock.patch.object(hiend._batch, "torch", None):
            for move in (batch.to, batch.floats):
                with self.assertRaisesRegex(ImportError, "needs PyTorch"):
                    move("cuda")

    def test_unknown_keyword_is_a_type_error(self):
        with self.assertRaises(TypeError):
            dataset(crop=24)

    def test_options_of_servers_are_refused_for_caches(self):
        for key, value in {"token": "secret", "ca": "ca.pem", "retry": 5, "shared_memory": False}.items():
            self.check(f"{key}: batches come from caches; .* servers='https://", **{key: value})
        self.check("token and ca: batches come from caches", source="https://127.0.0.1:1", token="secret", ca="ca.pem")

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

    def test_collecting_batches_is_refused(self):
        with self.assertRaisesRegex(hiend.ConfigError, "CropDataset makes whole batches; .*batch_size=None"):
            next(iter(DataLoader(dataset(), batch_size=2)))

    def test_pickling_is_refused(self):
        with self.assertRaisesRegex(hiend.HiendError, "cannot be pickled"):
            pickle.dumps(dataset())

    def test_forked_process_is_told_to_open_its_own(self):
        stream = dataset()
        self.assertIn("before this process was forked", common.error_in_fork(lambda: next(iter(stream))))

    def test_iterator_of_the_parent_is_refused_in_a_forked_process(self):
        loop = iter(dataset())
        self.assertEqual(next(loop).step, 0)
        self.assertIn("before this process was forked", common.error_in_fork(lambda: next(loop)))
        self.assertEqual(next(loop).step, 1)


if __name__ == "__main__":
    common.main()
