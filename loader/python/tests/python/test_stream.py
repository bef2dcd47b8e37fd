"""Batches equal those of the Rust loader, for all forms, ranks, threads and positions."""

import contextlib
import itertools
import json
import os
import pathlib
import pickle
import shutil
import tempfile
import threading
import unittest
from unittest import mock

import common
import numpy as np
import torch
from common import EXPECTED, dataset
from torch.utils.data import DataLoader

import hiend


def digests(stream, count):
    return [batch.digest() for batch in itertools.islice(stream, count)]


class Digests(unittest.TestCase):
    def test_digests_equal_those_of_the_rust_loader(self):
        for name in EXPECTED.keys() - {"cache"}:
            augment, form = name.split()
            with self.subTest(name):
                self.assertEqual(digests(dataset(augment=augment, form=form), 6), EXPECTED[name])
        self.assertEqual(dataset().digest, EXPECTED["cache"])
        self.assertEqual(hiend.Cache(common.CACHE).digest, EXPECTED["cache"])

    def test_digests_depend_on_neither_threads_nor_start(self):
        expected = EXPECTED["recipe float32"]
        self.assertEqual(digests(dataset(threads=1), 6), expected)
        self.assertEqual(digests(dataset(threads=3, start_step=4), 2), expected[4:])
        self.assertNotEqual(digests(dataset(seed=12), 6), expected)

    def test_both_forms_give_the_same_floats(self):
        for floats, quantized in itertools.islice(zip(dataset(), dataset(form="quantized")), 3):
            self.assertEqual(quantized.image.element_size(), 2)
            self.assertTrue(torch.equal(floats.image, quantized.floats()))
            self.assertIs(floats.floats(), floats.image)
            self.assertTrue(torch.equal(floats.label, quantized.label))
            self.assertEqual(quantized._native.image.dtype, np.uint16)

    def test_digest_of_arrays_equals_that_of_the_batch(self):
        batch = next(iter(dataset()))
        self.assertEqual(hiend._hiend.digest(batch.image.numpy(), batch.label.numpy()), batch.digest())

    def test_batches_hold_crops_and_their_records(self):
        batch = next(iter(dataset()))
        self.assertEqual(batch.shape, (4, 1, 24, 24, 16))
        self.assertEqual(tuple(batch.image.shape), batch.shape)
        self.assertEqual((batch.image.dtype, batch.label.dtype), (torch.float32, torch.uint8))
        self.assertEqual((batch.step, len(batch.crops)), (0, 4))
        crop = batch.crops[0]
        self.assertTrue(crop.case.startswith("Dataset001_Phantoms/"))
        self.assertEqual((crop.epoch, crop.crop, len(crop.origin)), (0, 0, 3))
        self.assertIn(crop.case, repr(crop))
        self.assertEqual(pickle.loads(pickle.dumps(batch.crops)), batch.crops)
        self.assertEqual(len({*batch.crops, *batch.crops}), 4)
        self.assertGreater(batch.times["elapsed_secs"], 0)
        self.assertEqual(set(batch), {"image", "label"})
        self.assertIs(batch["image"], batch.image)
        self.assertEqual(set(next(iter(dataset(labels=False)))), {"image"})

    def test_batches_move_to_a_device_as_dictionaries(self):
        floats, quantized = (next(iter(dataset(form=form))) for form in ("float32", "quantized"))
        for batch in (floats, quantized):
            moved = batch.to("cpu", non_blocking=False)
            self.assertIs(type(moved), dict)
            self.assertTrue(torch.equal(moved["image"], floats.image))
            self.assertTrue(torch.equal(moved["label"], floats.label))
        # A device without memory shows that the tensors move.
        self.assertEqual({tensor.device.type for tensor in floats.to("meta").values()}, {"meta"})
        self.assertEqual(set(next(iter(dataset(labels=False))).to("cpu")), {"image"})


class Ranks(unittest.TestCase):
    def test_two_ranks_get_the_two_halves(self):
        whole = dataset(start_step=3)
        halves = [dataset(start_step=3, rank=rank, world_size=2) for rank in (0, 1)]
        for batch, first, second in itertools.islice(zip(whole, *halves), 3):
            self.assertTrue(torch.equal(batch.image, torch.cat([first.image, second.image])))
            self.assertTrue(torch.equal(batch.label, torch.cat([first.label, second.label])))
            origins = [(crop.case, crop.origin) for half in (first, second) for crop in half.crops]
            self.assertEqual(origins, [(crop.case, crop.origin) for crop in batch.crops])
        self.assertEqual([half.crops_per_batch for half in halves], [2, 2])

    def test_rank_comes_from_the_environment(self):
        with mock.patch.dict(os.environ, RANK="1", WORLD_SIZE="2"):
            found = dataset()
        self.assertEqual((found.rank, found.world_size), (1, 2))
        # As Lightning leaves it in the processes that it starts.
        with mock.patch.dict(os.environ, WORLD_SIZE="2", LOCAL_RANK="1"):
            with self.assertRaisesRegex(hiend.ConfigError, "with Lightning, open the dataset in train_dataloader"):
                dataset()
        for texts in ({"RANK": "1"}, {"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "x", "WORLD_SIZE": "2"}):
            with mock.patch.dict(os.environ, texts), self.assertRaisesRegex(hiend.ConfigError, "WORLD_SIZE"):
                dataset()

    def test_rank_comes_from_torch_distributed(self):
        store = torch.distributed.HashStore()
        with mock.patch.dict(os.environ, RANK="1", WORLD_SIZE="2", GLOO_SOCKET_IFNAME="lo"):
            torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
            try:
                found = dataset()
            finally:
                torch.distributed.destroy_process_group()
        self.assertEqual((found.rank, found.world_size), (0, 1))


    def test_rank_found_before_the_process_group_is_refused(self):
        early, given = dataset(visits_per_batch=8), dataset(visits_per_batch=8, rank=0, world_size=1)
        group = {"is_initialized": lambda: True, "get_rank": lambda: 3, "get_world_size": lambda: 8}
        with mock.patch.multiple(torch.distributed, **group):
            with self.assertRaisesRegex(hiend.HiendError, "opened as rank 0 of 1, but this process is rank 3 of 8; open"):
                next(iter(early))
            self.assertEqual(next(iter(given)).step, 0)
            late = dataset(visits_per_batch=8)
            self.assertEqual((late.rank, late.world_size, next(iter(late)).step), (3, 8, 0))
        self.assertEqual(next(iter(early)).step, 0)


class Positions(unittest.TestCase):
    def test_second_loop_continues_where_the_first_ended(self):
        stream = dataset()
        found = digests(stream, 2)
        self.assertEqual(stream.step, 2)
        found += digests(stream, 4)
        self.assertEqual(found, EXPECTED["recipe float32"])

    def test_newer_iteration_ends_the_previous_one(self):
        stream = dataset()
        first = iter(stream)
        self.assertEqual(next(first).step, 0)
        self.assertEqual(next(iter(stream)).step, 1)
        with self.assertRaisesRegex(hiend.HiendError, "newer one"):
            next(first)

    def test_iterations_have_the_length_that_was_asked_for(self):
        self.assertEqual([len([batch.step for batch in stream]) for stream in [dataset(steps=3)] * 2], [3, 3])
        epoch = dataset(steps="epoch")
        self.assertEqual((len(epoch), epoch.steps_per_epoch, epoch.num_cases), (2, 2, 4))
        cases = {crop.case for batch in epoch for crop in batch.crops}
        self.assertEqual(len(cases), 4)
        # 4 cases and 3 visits: the second batch reaches into the next epoch.
        uneven = dataset(steps="epoch", visits_per_batch=3)
        self.assertEqual(len(uneven), 2)
        self.assertEqual({crop.epoch for batch in uneven for crop in batch.crops}, {0, 1})
        with self.assertRaisesRegex(TypeError, "endless"):
            len(dataset())

    def test_a_loop_that_was_left_early_does_not_shorten_the_next(self):
        stream = dataset(steps=4)
        found = [digests(stream, 1), [batch.digest() for batch in stream], digests(stream, 1)]
        self.assertEqual(found, [EXPECTED["recipe float32"][part] for part in (slice(0, 1), slice(1, 5), slice(5, 6))])
        # The state lies within the last one, which a resumed loop finishes.
        other = dataset(steps=4)
        other.load_state_dict(stream.state_dict())
        # An iterator that gives no batch does not count.
        iter(other)
        self.assertEqual([[batch.step for batch in other] for _ in range(2)], [[6, 7, 8], [9, 10, 11, 12]])

    def test_repeated_iterations_give_the_same_batches(self):
        expected = EXPECTED["recipe float32"]
        stream = dataset(steps=2, start_step=1, repeat=True)
        found = [digests(stream, 1)] + [[batch.digest() for batch in stream] for _ in range(2)]
        self.assertEqual(found, [expected[1:2], expected[1:3], expected[1:3]])
        # At the end of an iteration, and within one.
        for taken, rest in (2, expected[1:3]), (1, expected[2:3]):
            self.assertEqual(digests(stream, taken), expected[1 : 1 + taken])
            other = dataset(steps=2, start_step=1, repeat=True)
            other.load_state_dict(stream.state_dict())
            self.assertEqual([batch.digest() for batch in other], rest)
            # Also after a loop that was left where the state lay.
            self.assertEqual(digests(other, 1), expected[1:2])
            self.assertEqual([batch.digest() for batch in other], expected[1:3])
        endless = dataset(repeat=True)
        self.assertEqual([digests(endless, 2), digests(endless, 1)], [expected[:2], expected[:1]])
        endless.load_state_dict(dataset(start_step=4).state_dict())
        self.assertEqual([digests(endless, 1), digests(endless, 1)], [expected[4:5], expected[:1]])

    def test_a_validation_sees_every_case_that_is_held_out(self):
        parts = [
            dataset(fold=(0, 2), part=part, visits_per_batch=3, augment="plain", steps="epoch", repeat=True)
            for part in ("train", "validation")
        ]
        self.assertEqual(sorted(parts[0].cases + parts[1].cases), hiend.Cache(common.CACHE).cases)
        for part in parts:
            self.assertEqual(len(part.cases), part.num_cases)
            for _ in range(2):
                self.assertEqual({crop.case for batch in part for crop in batch.crops}, set(part.cases))
        self.assertEqual(dataset().cases, hiend.Cache(common.CACHE).cases)

    def test_crops_lie_in_the_volumes_of_their_cases(self):
        cache = hiend.Cache(common.CACHE)
        low, high = cache.manifest["preprocess"]["window"]
        batch = next(iter(dataset(augment="plain")))
        for image, label, crop in zip(batch.image.numpy(), batch.label.numpy(), batch.crops):
            volume = cache.read(crop.case)
            # Where a crop reaches beyond the volume, it holds the lower end of the window and label 0.
            first = np.array(crop.origin)
            begin, end = np.maximum(first, 0), np.minimum(first + image.shape[1:], volume.image.shape)
            there, here = (tuple(map(slice, begin - by, end - by)) for by in (0, first))
            expected, labels = np.zeros(image.shape[1:]), np.zeros(image.shape[1:])
            expected[here] = np.clip((volume.image[there] - low) / (high - low), 0, 1)
            labels[here] = volume.label[there]
            # At most eight roundings of float32 numbers up to 1, of 2**-24 each, on the way to either.
            self.assertLess(np.abs(image[0] - expected).max(), 8 * 2**-24)
            self.assertTrue(np.array_equal(label[0], labels))

    def test_state_resumes_within_an_iteration(self):
        stream = dataset(steps=4)
        loop = iter(stream)
        found = [next(loop).digest()]
        state = stream.state_dict()
        other = dataset(steps=4, threads=1)
        other.load_state_dict(state)
        found += [batch.digest() for batch in other]
        self.assertEqual(found, EXPECTED["recipe float32"][:4])

    def test_state_is_loaded_before_the_iterator_is_made(self):
        class StatefulLoader:
            """Calls a dataset in the order of torchdata's ``StatefulDataLoader`` without workers."""

            def __init__(self, dataset):
                self.dataset, self.next_state = dataset, None

            def __iter__(self):
                if self.next_state is not None:
                    self.dataset.load_state_dict(self.next_state)
                    self.next_state = None
                self.iterator = iter(self.dataset)
                return self

            def __next__(self):
                return next(self.iterator)

            def state_dict(self):
                return {"dataset": self.dataset.state_dict()}

            def load_state_dict(self, state):
                self.next_state = state["dataset"]

        expected = EXPECTED["recipe float32"]
        loader = StatefulLoader(dataset(steps=3))
        found = [next(iter(loader)).digest()]
        state = loader.state_dict()
        other = StatefulLoader(dataset(steps=3, threads=1))
        # The state is taken from a loop that then continues, and loaded into a loader that was used before.
        found += [batch.digest() for batch in loader.iterator]
        next(iter(other))
        other.load_state_dict(state)
        self.assertEqual([batch.digest() for batch in other], expected[1:3])
        self.assertEqual(found, expected[:3])
        # At the end of an iteration, the next one follows.
        other.load_state_dict(loader.state_dict())
        self.assertEqual([batch.digest() for batch in other], expected[3:6])

    def test_state_of_another_stream_is_refused(self):
        state = dataset().state_dict()
        for changes, key in [
            ({"seed": 12}, "seed"),
            ({"crop_size": 16}, "crop_size"),
            ({"augment": "plain"}, "augment"),
        ]:
            with self.assertRaisesRegex(hiend.ConfigError, f"state_dict: {key}"):
                dataset(**changes).load_state_dict(state)
        with self.assertRaisesRegex(hiend.ConfigError, "digest"):
            dataset().load_state_dict({**state, "digest": "0" * 32})
        with self.assertRaisesRegex(hiend.ConfigError, "version"):
            dataset().load_state_dict({})
        # States of earlier versions do not name their cases.
        dataset().load_state_dict({name: value for name, value in state.items() if name != "cases"})
        for key in state.keys() - {"version", "cases"}:
            with self.assertRaisesRegex(hiend.ConfigError, f"no {key}; expected the mapping"):
                dataset().load_state_dict({name: value for name, value in state.items() if name != key})
        with self.assertRaisesRegex(hiend.ConfigError, "config is 5"):
            dataset().load_state_dict({**state, "config": 5})
        with self.assertRaisesRegex(hiend.ConfigError, "step: .*at most"):
            dataset().load_state_dict({**state, "step": 2**47})
        with self.assertRaisesRegex(hiend.ConfigError, "expected the mapping"):
            dataset().load_state_dict(None)

    def test_state_of_a_stream_with_another_label_to_ignore_is_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            copy = pathlib.Path(folder) / "cache"
            shutil.copytree(common.CACHE, copy)
            manifest = json.loads((copy / "manifest.json").read_text())
            # As the manifest's documentation describes for changes by hand.
            del manifest["checksum"]
            for info in manifest["datasets"].values():
                info["ignore"] = 2
            (copy / "manifest.json").write_text(json.dumps(manifest))
            with self.assertRaisesRegex(hiend.ConfigError, "another label to ignore"):
                dataset(source=copy).load_state_dict(dataset().state_dict())
            # Without labels the streams are equal.
            dataset(source=copy, labels=False).load_state_dict(dataset(labels=False).state_dict())

    def test_state_fits_its_cases_after_the_cache_has_grown(self):
        with tempfile.TemporaryDirectory() as folder:
            copy, raw = pathlib.Path(folder) / "cache", pathlib.Path(folder) / "raw"
            shutil.copytree(common.CACHE, copy)
            hiend.phantoms(raw / "Dataset000_Other", cases=1, spacing=(8, 9))
            hiend.shard(raw, out=copy, spacing=6.0)
            stream = dataset(steps=4)
            found = digests(stream, 3)
            state = json.loads(json.dumps(stream.state_dict()))
            added = "not among its cases: 1 of those here, such as Dataset000_Other/phantom_000; .*cases=state"
            with self.assertRaisesRegex(hiend.ConfigError, added):
                dataset(source=copy).load_state_dict(state)
            grown = dataset(source=copy, steps=4, cases=state["cases"])
            self.assertNotEqual(grown.digest, stream.digest)
            grown.load_state_dict(state)
            found += [batch.digest() for batch in grown]
            self.assertEqual(found, EXPECTED["recipe float32"][:4])
            stream.load_state_dict(grown.state_dict())
            self.assertEqual(digests(stream, 2), EXPECTED["recipe float32"][4:])
            lost = f"not among the cases here: 1 of its cases, such as {state['cases'][0]}"
            with self.assertRaisesRegex(hiend.ConfigError, lost):
                dataset(source=copy, cases=state["cases"][1:]).load_state_dict(state)

    def test_data_loader_passes_batches_on(self):
        loader = DataLoader(dataset(steps=6), batch_size=None)
        self.assertEqual(len(loader), 6)
        self.assertEqual([batch.digest() for batch in loader], EXPECTED["recipe float32"])

    def test_folds_divide_the_cases(self):
        splits = [{"fold": (1, 2)}, {"fold": (0, 2), "fold_rule": "hashed", "split_seed": 1}, {"shots": 1}]
        for split in splits:
            train, validation = (
                {crop.case for batch in dataset(part=part, steps="epoch", **split) for crop in batch.crops}
                for part in ("train", "validation")
            )
            self.assertEqual((len(train | validation), train & validation), (4, set()))
        self.assertEqual(len(train), 1)

    def test_named_cases_and_nnunet_splits_are_taken(self):
        names = hiend.Cache(common.CACHE).cases
        chosen = dataset(cases=names[1:3])
        self.assertEqual({crop.case for batch in itertools.islice(chosen, 3) for crop in batch.crops}, set(names[1:3]))
        short = [name.split("/")[1] for name in names]
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump([{"train": short[:3], "val": short[3:]}, {"train": short[1:], "val": short[:1]}], file)
            file.flush()
            parts = [dataset(splits=file.name, fold=(0, 2), part=part) for part in ("train", "validation")]
            # The number of folds may be left out.
            parts += [dataset(splits=file.name, fold=1, part=part) for part in ("train", "validation")]
            file.seek(0)
            file.truncate()
            json.dump([{"train": short[:2], "val": short[2:]}], file)
            file.flush()
            parts += [dataset(splits=file.name, fold=fold) for fold in (0, (0, 1))]
        self.assertEqual([part.num_cases for part in parts], [3, 1, 3, 1, 2, 2])

    def test_a_window_that_begins_elsewhere_than_the_cache_s_is_reported(self):
        with self.assertLogs("hiend", "WARNING") as logs:
            dataset(window=(-100, 200))
        expected = "above the -175 HU of the cache, not above the -100 HU of window; convert with window=-100,200"
        self.assertEqual([expected in line for line in logs.output], [True])

    def test_a_name_to_exclude_that_matches_nothing_is_reported(self):
        with self.assertLogs("hiend", "WARNING") as logs:
            dataset(exclude=["no such dataset"])
        expected = 'exclude: no dataset matches "no such dataset", which excludes nothing'
        self.assertEqual([expected in line for line in logs.output], [True])

    def test_options_of_object_storage_are_refused_for_a_cache_in_a_folder(self):
        for key, value in {"disk_cache": "blocks", "disk_cache_size": "1GiB", "storage_retry": 1}.items():
            with self.assertRaisesRegex(hiend.ConfigError, f"{key} has no effect on caches in folders"):
                dataset(**{key: value})

    def test_caches_mix_by_weight(self):
        stream = dataset(source={common.CACHE: 1})
        self.assertEqual(digests(stream, 2), EXPECTED["recipe float32"][:2])


class Threads(unittest.TestCase):
    def test_threads_that_share_an_iteration_get_each_batch_once(self):
        for taken in (0, 1):
            stream = dataset(crop_size=8, crops_per_visit=1, augment="plain", steps=60)
            loop = iter(stream)
            found = [next(loop).step for _ in range(taken)]

            def take():
                with contextlib.suppress(StopIteration):
                    # More than there are: one that does not end is not waited for.
                    for _ in range(100):
                        found.append(next(loop).step)

            threads = [threading.Thread(target=take) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self.assertEqual(sorted(found), list(range(60)))
            self.assertEqual((stream.step, stream.state_dict()["step"]), (60, 60))


if __name__ == "__main__":
    common.main()
