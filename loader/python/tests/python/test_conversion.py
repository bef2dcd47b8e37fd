"""Conversion, and reading a case back."""

import json
import pathlib
import shutil
import struct
import tempfile
import unittest

import common
import numpy as np
from common import CACHE, RAW

import hiend


def write_nifti(path, values, affine):
    """Writes an uncompressed NIfTI-1 file with an sform, from the format's specification."""
    kinds = {"int16": (4, 16), "uint8": (2, 8)}
    code, bits = kinds[values.dtype.name]
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, *values.shape, 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, code, bits)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    struct.pack_into("<8f", header, 76, 1, *spacing, 0, 0, 0, 0)
    struct.pack_into("<f", header, 108, 352)
    struct.pack_into("<2f", header, 112, 1, 0)
    struct.pack_into("<2h", header, 252, 0, 1)
    struct.pack_into("<12f", header, 280, *affine[:3].ravel())
    header[344:348] = b"n+1\0"
    path.write_bytes(bytes(header) + values.tobytes(order="F"))


def one_case(folder, affine):
    """An nnU-Net dataset with one scan of 20 x 16 x 12 voxels; returns image and label."""
    numbers = np.random.default_rng(0)
    image = numbers.integers(-100, 200, (20, 16, 12)).astype(np.int16)
    label = numbers.integers(0, 3, image.shape).astype(np.uint8)
    root = pathlib.Path(folder) / "Dataset002_One"
    for name, values, ending in (("imagesTr", image, "_0000"), ("labelsTr", label, "")):
        (root / name).mkdir(parents=True)
        write_nifti(root / name / f"a{ending}.nii", values, affine)
    (root / "dataset.json").write_text(
        json.dumps({
            "channel_names": {"0": "CT"},
            "labels": {"background": 0, "one": 1, "two": 2},
            "numTraining": 1,
            "file_ending": ".nii",
        })
    )
    return image, label


class RoundTrip(unittest.TestCase):
    def test_voxels_and_affine_come_back(self):
        affine = np.array([[2.0, 0, 0, -30], [0, 1.5, 0, 10], [0, 0, 3, 5], [0, 0, 0, 1]])
        with tempfile.TemporaryDirectory() as folder:
            image, label = one_case(folder, affine)
            hiend.shard(folder, out=f"{folder}/cache", spacing=None)
            case = hiend.read_case(f"{folder}/cache", "a")
        np.testing.assert_array_equal(case.image, image.astype(np.float32))
        np.testing.assert_array_equal(case.label, label)
        np.testing.assert_array_equal(case.affine, affine)
        self.assertEqual((case.image.dtype, case.affine.dtype), (np.float32, np.float64))

    def test_other_orientations_become_ras(self):
        # x runs towards the left and the first two axes are exchanged in the file.
        affine = np.array([[0, -2.0, 0, 40], [1.0, 0, 0, -7], [0, 0, 3, 5], [0, 0, 0, 1]])
        with tempfile.TemporaryDirectory() as folder:
            image, _ = one_case(folder, affine)
            hiend.shard(folder, out=f"{folder}/cache", spacing=None)
            case = hiend.Cache(f"{folder}/cache").read("Dataset002_One/a")
        np.testing.assert_array_equal(case.image, image.transpose(1, 0, 2)[::-1].astype(np.float32))
        np.testing.assert_array_equal(np.diag(case.affine), [2, 1, 3, 1])
        np.testing.assert_array_equal(case.affine[:3, 3], [40 - 2 * 15, -7, 5])

    def test_spacing_changes_shape_and_affine(self):
        with tempfile.TemporaryDirectory() as folder:
            one_case(folder, np.diag([2.0, 2, 2, 1]))
            hiend.shard(folder, out=f"{folder}/cache", spacing=4)
            cache = hiend.Cache(f"{folder}/cache")
            self.assertEqual(cache.record("a")["geometry"]["spacing"], [4, 4, 4])
            self.assertEqual(cache.manifest["datasets"]["Dataset002_One"]["labels"]["2"], "two")
            case = cache.read("a")
        self.assertEqual(case.image.shape, case.label.shape)
        np.testing.assert_array_equal(np.diag(case.affine), [4, 4, 4, 1])


class Conversion(unittest.TestCase):
    def test_progress_and_summary_count_the_cases(self):
        seen = []
        with tempfile.TemporaryDirectory() as folder:
            first = hiend.shard(RAW, out=folder, spacing=6, progress=seen.append)
            self.assertEqual((first["converted"], first["unchanged"], first["with_label"]), (4, 0, 4))
            self.assertEqual([(step.event, step.num_cases) for step in seen], [("converted", 4)] * 4)
            self.assertEqual(sum(step.bytes_in for step in seen), first["bytes_in"])
            second = hiend.shard(RAW, out=folder, spacing=6)
            self.assertEqual((second["converted"], second["unchanged"]), (0, 4))
            self.assertEqual(hiend.Cache(folder).digest, hiend.Cache(CACHE).digest)

    def test_cases_are_converted_again_when_asked(self):
        with tempfile.TemporaryDirectory() as folder:
            hiend.shard(RAW, out=folder, spacing=6)
            again = hiend.shard(RAW, out=folder, spacing=6, reconvert="phantom_000")
            self.assertEqual((again["converted"], again["unchanged"]), (1, 3))
            with self.assertRaisesRegex(hiend.HiendError, "parameters"):
                hiend.shard(RAW, out=folder, spacing=7)
            self.assertEqual(hiend.shard(RAW, out=folder, spacing=7, change_parameters=True)["converted"], 4)
            with self.assertRaisesRegex(hiend.ConfigError, "reconvert"):
                hiend.shard(RAW, out=folder, spacing=7, reconvert="x")

    def test_exception_of_the_callback_ends_the_run(self):
        def refuse(_):
            raise RuntimeError("enough")

        with tempfile.TemporaryDirectory() as folder:
            with self.assertRaisesRegex(RuntimeError, "enough"):
                hiend.shard(RAW, out=folder, spacing=6, jobs=1, progress=refuse)
            self.assertEqual(hiend.shard(RAW, out=folder, spacing=6)["not_in_data"], 0)
            self.assertEqual(len(hiend.Cache(folder)), 4)

    def test_unreadable_scan_is_skipped_with_its_reason(self):
        with tempfile.TemporaryDirectory() as folder:
            one_case(folder, np.diag([2.0, 2, 2, 1]))
            images = pathlib.Path(folder) / "Dataset002_One" / "imagesTr"
            (images / "b_0000.nii").write_bytes(b"no scan")
            seen = []
            summary = hiend.shard(folder, out=f"{folder}/cache", progress=seen.append)
            self.assertEqual([case["case"] for case in summary["skipped"]], ["Dataset002_One/b"])
            self.assertIn("b_0000.nii", summary["skipped"][0]["path"].name)
            self.assertIn(("skipped", "Dataset002_One/b"), [(step.event, step.case) for step in seen])
            (images / "a_0000.nii").write_bytes(b"no scan either")
            with self.assertRaisesRegex(hiend.HiendError, "none of 2 cases could be converted"):
                hiend.shard(folder, out=f"{folder}/other")

    def test_files_that_are_not_used_are_logged_and_listed(self):
        with tempfile.TemporaryDirectory() as folder:
            data = pathlib.Path(folder).resolve() / "data"
            one_case(data, np.diag([2.0, 2, 2, 1]))
            first = data / "Dataset002_One"
            (first / "imagesTr" / "b_0000.nii.bz2").write_bytes(b"packed")
            write_nifti(first / "imagesTr" / "d.nii", np.zeros((4, 4, 4), np.int16), np.eye(4))
            write_nifti(first / "labelsTr" / "c.nii", np.zeros((4, 4, 4), np.uint8), np.eye(4))
            (first / "notes.txt").write_text("not worth a word")
            broken = data / "Dataset003_Broken"
            (broken / "imagesTr").mkdir(parents=True)
            (broken / "dataset.json").write_text("{")
            write_nifti(broken / "imagesTr" / "e_0000.nii", np.zeros((4, 4, 4), np.int16), np.eye(4))
            with self.assertLogs("hiend", "WARNING") as logs:
                summary = hiend.shard(data, out=f"{folder}/cache", spacing=None)
            self.assertEqual((summary["converted"], summary["skipped"]), (1, []))
            reasons = {entry["path"]: entry["reason"] for entry in summary["not_used"]}
            expected = {
                first / "imagesTr" / "b_0000.nii.bz2": "bzip2",
                first / "imagesTr" / "d.nii": "no channel number",
                first / "labelsTr" / "c.nii": "label map without an image",
                broken / "dataset.json": "not a valid description",
            }
            self.assertEqual(reasons.keys(), expected.keys())
            for path, reason in expected.items():
                self.assertIn(reason, reasons[path])
                self.assertTrue([line for line in logs.output if f"not converted: {path}: " in line], path)
            one_reason = [data / f"Dataset002_One/imagesTr/f{number}_0000.nii.bz2" for number in range(30)]
            for path in one_reason:
                path.write_bytes(b"packed")
            with self.assertLogs("hiend", "WARNING") as logs:
                summary = hiend.shard(data, out=f"{folder}/cache", spacing=None)
            self.assertEqual(len(summary["not_used"]), 34)
            packed = [line for line in logs.output if "bzip2" in line]
            self.assertEqual(len(packed), 21)
            self.assertIn("11 further files", packed[-1])
            # Files of an excluded dataset are not missed.
            summary = hiend.shard(data, out=f"{folder}/cache", spacing=None, exclude="Broken")
            self.assertNotIn(broken / "dataset.json", [entry["path"] for entry in summary["not_used"]])

    def test_scans_under_two_names_and_known_findings_are_told(self):
        with tempfile.TemporaryDirectory() as folder:
            data, out = pathlib.Path(folder) / "data", f"{folder}/cache"
            one_case(data, np.diag([2.0, 2, 2, 1]))
            image = data / "Dataset002_One" / "imagesTr" / "a_0000.nii"
            # Values of another modality, which do not look like HU.
            numbers = np.random.default_rng(1)
            odd = numbers.integers(0, 4, (20, 16, 12)).astype(np.int16) * 700
            write_nifti(image, odd, np.diag([2.0, 2, 2, 1]))
            first = hiend.shard(data, out=out, spacing=None)
            self.assertEqual((len(first["findings"]), first["known_findings"], first["twice"]), (1, [], []))
            second = hiend.shard(data, out=out, spacing=None)
            self.assertEqual((second["findings"], second["known_findings"]), ([], first["findings"]))
            image.rename(image.with_name("z_0000.nii"))
            label = data / "Dataset002_One" / "labelsTr" / "a.nii"
            label.rename(label.with_name("z.nii"))
            third = hiend.shard(data, out=out, spacing=None)
            self.assertEqual((third["converted"], third["not_in_data"]), (1, 1))
            self.assertEqual((third["gone"], third["elsewhere"]), (["Dataset002_One/a"], {}))
            self.assertEqual(third["twice"], [("Dataset002_One/a", "Dataset002_One/z")])
            self.assertEqual((third["replaced"], third["repeated"]), (0, []))
            shutil.copyfile(image.with_name("z_0000.nii"), image.with_name("y_0000.nii"))
            shutil.copyfile(label.with_name("z.nii"), label.with_name("y.nii"))
            fourth = hiend.shard(data, out=out, spacing=None)
            self.assertEqual(fourth["repeated"], [("Dataset002_One/z", "Dataset002_One/y")])

    def test_pruning_keeps_the_cases_of_other_folders(self):
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder).resolve()
            data, out = folder / "data", folder / "cache"
            one_case(data, np.diag([2.0, 2, 2, 1]))
            hiend.shard(data, out=out, spacing=6)
            summary = hiend.shard(RAW, out=out, spacing=6, prune=True)
            self.assertEqual((summary["pruned_cases"], summary["gone"]), (0, []))
            self.assertEqual(summary["elsewhere"], {str(data): ["Dataset002_One/a"]})
            hiend.shard(RAW, out=out, spacing=6, reconvert="phantom_000")
            summary = hiend.shard(RAW, out=out, spacing=6, compact=True)
            self.assertEqual((summary["pruned_cases"], summary["superseded_bytes"]), (0, 0))
            summary = hiend.shard(RAW, out=out, spacing=6, prune="all")
            self.assertEqual((summary["pruned_cases"], summary["not_in_data"]), (1, 0))

    def test_bad_arguments_are_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            for pattern, changes in [
                ("spacing", {"spacing": "fine"}),
                ("expected 0.05 to 50 mm", {"spacing": 0}),
                ("spacing: nan; expected one number or three", {"spacing": float("nan")}),
                ("window", {"window": (250, -175)}),
                ("window: .*; expected two numbers", {"window": (0, float("inf"))}),
                ("jobs: -1; expected a whole number", {"jobs": -1}),
                ("worker: 3; expected", {"worker": 3}),
                ("codec: \"zip\"", {"codec": "zip"}),
                ("store", {"store": "all"}),
                ("jobs: 0; expected at least 1", {"jobs": 0}),
                ("memory: 0", {"memory": 0}),
                ("shard_size: 0", {"shard_size": 0}),
                ("worker: 2 of 2", {"worker": (2, 2)}),
                ("on_suspect", {"on_suspect": "ask"}),
                ("prune: \"some\"", {"prune": "some"}),
                ("exclude: \"AMOS\" matches", {"exclude": "AMOS"}),
                ("every case is excluded", {"exclude": "Phantoms"}),
            ]:
                with self.subTest(pattern), self.assertRaisesRegex(hiend.ConfigError, pattern):
                    hiend.shard(RAW, out=folder, **changes)
            with self.assertRaisesRegex(FileNotFoundError, "missing"):
                hiend.shard(f"{folder}/missing", out=folder)
            for pattern, out in [
                ("expected s3://bucket/", "s3:/bucket/cache"),
                ("can only be read", "https://host/cache"),
            ]:
                with self.subTest(out), self.assertRaisesRegex(hiend.ConfigError, pattern):
                    hiend.shard(RAW, out=out)
            for pattern, changes in [
                ("cases: -1", {"cases": -1}),
                ("seed: .*at most", {"seed": 2**64}),
                ("spacing: 2; expected two numbers", {"spacing": 2}),
                ("cases: 0; expected at least 1", {"cases": 0}),
                ("spacing: .*expected 0.5 to 10 mm", {"spacing": (0, 1)}),
                ("spacing: .*the smaller side first", {"spacing": (3, 2)}),
            ]:
                with self.subTest(pattern), self.assertRaisesRegex(hiend.ConfigError, pattern):
                    hiend.phantoms(f"{folder}/phantoms", **changes)

    def test_phantoms_do_not_replace_another_dataset(self):
        with tempfile.TemporaryDirectory() as folder:
            description = pathlib.Path(folder) / "dataset.json"
            description.write_text('{"labels": {"background": 0, "tumour": 1}}')
            with self.assertRaisesRegex(hiend.ConfigError, "dataset.json: .* holds a dataset other than these phantoms"):
                hiend.phantoms(folder, cases=1, spacing=(9, 10))
            self.assertIn("tumour", description.read_text())

    def test_a_volume_is_shown_by_its_shapes(self):
        volume = hiend.read_case(CACHE, hiend.Cache(CACHE).cases[0])
        shape = volume.image.shape
        expected = f"Volume(image=float32{shape}, label=uint8{shape}, affine=float64(4, 4))"
        self.assertEqual(repr(volume), expected)
        self.assertIn("label=None", repr(volume._replace(label=None)))

    def test_unknown_case_is_named(self):
        with self.assertRaisesRegex(hiend.ConfigError, "no case is named \"x\""):
            hiend.read_case(CACHE, "x")
        name = hiend.Cache(CACHE).cases[0]
        with self.assertRaisesRegex(hiend.ConfigError, f'; did you mean "{name}"\\?'):
            hiend.read_case(CACHE, f"Other/{name.split('/')[1]}")

    def test_cache_lists_its_cases(self):
        cache = hiend.Cache(CACHE)
        self.assertEqual(len(list(cache)), len(cache))
        self.assertIn(cache.cases[0], cache)
        self.assertNotIn("x", cache)


if __name__ == "__main__":
    common.main()
