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


def corrupt_copy(folder, num_cases):
    """A copy of the cache in which every chunk of the first cases is corrupt."""
    copy = pathlib.Path(folder) / "cache"
    shutil.copytree(CACHE, copy)
    [shard] = copy.glob("*.shard")
    cache = hiend.Cache(CACHE)
    with open(shard, "r+b") as file:
        for case in cache.cases[:num_cases]:
            span = cache.record(case)["span"]
            file.seek(span["offset"])
            file.write(bytes(b ^ 0xFF for b in os.pread(file.fileno(), span["data_len"], span["offset"])))
    return copy


class Arguments(unittest.TestCase):
    def check(self, pattern, kind=ValueError, **changes):
        with self.assertRaisesRegex(kind, pattern) as caught:
            dataset(**changes)
        self.assertIsInstance(caught.exception, hiend.HiendError)
        self.assertNotIn("\n", str(caught.exception))

    def test_values_out_of_range_name_their_key(self):
        for size in (0, -1, 1025, "big", (1, 2)):
            self.check("crop_size: .*; expected one number of 1 to 1024 or three", crop_size=size)
        self.check("crops_per_visit: -1; expected a whole number of at least 1", crops_per_visit=-1)
        self.check("crops_per_visit: 1.5", crops_per_visit=1.5)
        self.check("foreground_rate: 2; expected 0 to 1", foreground_rate=2)
        self.check("^sample_by: unknown variant `colour`", sample_by="colour")
        self.check("augment: unknown variant `strong`", augment="strong")
        self.check("augment: unknown field `flop`", augment={"chain": "recipe", "flop": {}})
        self.check("augment", augment="nnunet", form="quantized")
        self.check("form: \"int8\"; expected \"float32\" or \"quantized\"", form="int8")
        self.check("memory: 'much'; expected a size", memory="much")
        self.check("the budget is 1000; raise memory, or make", memory=1000)
        self.check('but window is -500 to 500; convert again with store="full"', window=(-500, 500))
        self.check("labels: False; sample_by='label' needs labels=True", labels=False, sample_by="label")
        self.check("^visits_per_batch: 2; expected a multiple of the 3 ranks", rank=0, world_size=3)
        self.check("rank and world_size: only one", rank=0)
        self.check("fold: 5; expected .*", fold=5)
        self.check("^split: .*fold 3 of 2", fold=(3, 2))
        self.check("part: 'validation' needs", part="validation")
        self.check("fold and shots: expected only one", fold=(0, 2), shots=1)
        self.check("fold_rule: 'drawn'; expected 'dealt' or 'hashed'", fold=(0, 2), fold_rule="drawn")
        self.check("splits: needs fold", splits="splits_final.json")
        self.check("ignore_label: 300; expected a whole number of at most 255", ignore_label=300)
        self.check("ignore_label: 0; expected a whole number of at least 1", ignore_label=0)
        self.check("include: no dataset matches", include="AMOS")
        self.check("seed: -1", seed=-1)
        self.check("steps: 0", steps=0)
        self.check("steps: 'epochs'; expected a whole number of at least 1 or 'epoch' or None", steps="epochs")
        self.check("repeat: 'no'; expected True or False", repeat="no")
        self.check("start_step: 'end'", start_step="end")
        self.check("source: no cache", source=[])
        self.check("weight: 0", source={CACHE: 0})

    def test_values_of_other_kinds_name_their_key_and_what_was_expected(self):
        nan = float("nan")
        self.check("crop_size: 24.0; expected one number of 1 to 1024 or three", crop_size=24.0)
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

    def test_arguments_without_effect_are_refused(self):
        for split in ({}, {"shots": 1}, {"splits": "splits.json", "fold": 0}):
            self.check("fold_rule: 'hashed' has no effect", fold_rule="hashed", **split)
        for split in ({}, {"cases": ["a"]}, {"splits": "splits.json", "fold": 0}):
            self.check("split_seed: 3 has no effect", split_seed=3, **split)
        self.check("ignore_label: 255 has no effect without labels=True", labels=False, ignore_label=255)

    def test_texts_and_lists_are_no_truth_values(self):
        for key in ("labels", "pin_memory", "repeat"):
            for value in ("no", ["liver"], 1, None if key == "labels" else 0):
                self.check(f"{key}: .*; expected True or False", **{key: value})
        self.check("foreground_rate: True; expected 0 to 1", foreground_rate=True)
        with self.assertRaisesRegex(hiend.ConfigError, "shared_memory: 'no'; expected True or False"):
            hiend.CropDataset(servers="http://127.0.0.1:1", shared_memory="no")
        with self.assertRaisesRegex(hiend.ConfigError, "token: int; expected a text"):
            hiend.CropDataset(servers="http://127.0.0.1:1", token=5)
        for key in ("prune", "compact", "checksum", "change_parameters", "forget_lost"):
            with self.assertRaisesRegex(hiend.ConfigError, f"{key}: 1; expected True or False"):
                hiend.shard("data", **{key: 1})

    def test_sources_are_one_list_in_every_process(self):
        for kind in (set, frozenset):
            self.check("source: .*; expected a list: the order of a set differs", source=kind([CACHE]))
        self.check("source: ''; expected a path", source="")
        with tempfile.TemporaryDirectory() as folder:
            link = pathlib.Path(folder) / "link"
            link.symlink_to(CACHE)
            for pair in ([CACHE, str(CACHE)], {CACHE: 1, f"{CACHE}/": 2}, (CACHE, link), [CACHE, hiend.Cache(CACHE)]):
                self.check("source: .* is given twice; {path: weight} gives", source=pair)
            # A path makes a URL that of a cache.
            with self.assertRaises(hiend.HiendError) as caught:
                dataset(source="http://127.0.0.1:1/cache", storage_retry=0, disk_cache=folder)
            self.assertNotIn("server", str(caught.exception))
        self.assertEqual(dataset(source=hiend.Cache(CACHE)).digest, dataset().digest)
        self.assertTrue(dataset())
        self.assertIn("(1 case, step=0", repr(dataset(cases=hiend.Cache(CACHE).cases[:1])))

    def test_page_locked_memory_and_devices_need_pytorch(self):
        with mock.patch.object(hiend._dataset, "has_cuda", lambda: False):
            self.check("pin_memory: True; needs a CUDA device", pin_memory=True)
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
            copy = corrupt_copy(folder, 1)
            stream = dataset(source=copy)
            with self.assertRaisesRegex(hiend.HiendError, "case Dataset001_Phantoms/.* chunk"):
                for _ in range(stream.steps_per_epoch):
                    next(iter(stream))
            with self.assertLogs("hiend.loader", "ERROR") as logs:
                kept = [len(batch.crops) for batch in dataset(source=copy, on_corrupt="skip", steps="epoch")]
            self.assertEqual(sum(kept), 6)
            self.assertIn("skipped in this epoch", logs.output[0])

    def test_a_step_of_corrupt_cases_has_no_batch(self):
        with tempfile.TemporaryDirectory() as folder:
            stream = dataset(source=corrupt_copy(folder, 1), on_corrupt="skip", steps="epoch", visits_per_batch=1)
            for epoch in range(2):
                with self.assertLogs("hiend.loader", "WARNING") as logs:
                    steps = [batch.step for batch in stream if batch.shape[0] == 2]
                self.assertEqual(len(steps), 3)
                [empty] = {*range(4 * epoch, 4 * epoch + 4)} - {*steps}
                expected = f"step {empty}: every case of this rank's batch is corrupt: the step has no batch"
                self.assertEqual([line.endswith(expected) for line in logs.output].count(True), 1, logs.output)
            self.assertEqual(stream.step, 8)

    def test_several_ranks_do_not_wait_for_an_empty_batch(self):
        with tempfile.TemporaryDirectory() as folder:
            copy = corrupt_copy(folder, 1)
            found = []
            for rank in (0, 1):
                stream = dataset(source=copy, on_corrupt="skip", steps="epoch", rank=rank, world_size=2)
                try:
                    found.append(len([batch.step for batch in stream]))
                except hiend.HiendError as error:
                    self.assertRegex(str(error), "every case of this rank's batch is corrupt, and the other ranks")
            self.assertEqual(found, [2])

    def test_a_stream_of_corrupt_cases_ends(self):
        with tempfile.TemporaryDirectory() as folder:
            copy = corrupt_copy(folder, 4)
            for steps in (None, 2):
                stream = dataset(source=copy, on_corrupt="skip", visits_per_batch=1, steps=steps)
                with self.assertRaisesRegex(hiend.HiendError, "no crop is left of 4 steps in a row, an epoch"):
                    for _ in range(2):
                        self.assertEqual(list(stream), [])


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
