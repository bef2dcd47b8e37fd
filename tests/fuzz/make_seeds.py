#!/usr/bin/env python3
"""Writes the first inputs of tests/fuzz/corpus: tests/fuzz/make_seeds.py HIEND_SHARD RUN.

HIEND_SHARD is the program, RUN the folder of a short run of hiend-train. Needs PyTorch and openssl. Inputs that broke a
reader are named after it and their seed; this script does not make them.
"""

import gzip
import io
import json
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent
CONFIGS = ROOT.parent.parent / "configs"
SHAPE = (3, 2, 2)
SEEN = json.dumps({
    "D/a": {
        "image": "imagesTr/a_0000.nii", "image_blake3": "00", "label": "labelsTr/a.nii", "label_blake3": "01",
        "bytes": 700, "image_modified_ns": 1700000000000000000, "label_modified_ns": -1, "folder": "/data",
    },
    "D/b": {"image": "b.nii", "image_blake3": "02", "label": None, "label_blake3": None, "bytes": 0},
})


def put(target, name, content):
    folder = ROOT / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def nifti(datatype, code, shape=SHAPE, order="<", offset=352, voxels=None):
    size = struct.calcsize(code)
    header = bytearray(offset)
    pack = lambda at, form, *values: struct.pack_into(order + form, header, at, *values)
    pack(0, "i", 348)
    pack(40, "8h", 3, *shape, 1, 1, 1, 1)
    pack(70, "hh", datatype, 8 * size)
    pack(76, "8f", 1, 2, 2, 2, 0, 0, 0, 0)
    pack(108, "fff", offset, 1, 0)
    pack(123, "B", 2)
    pack(252, "hh", 1, 1)
    pack(256, "6f", 0, 0, 0, 9, 7, -5)
    pack(280, "12f", -2, 0, 0, 9, 0, -2, 0, 7, 0, 0, 2, -5)
    header[344:348] = b"n+1\0"
    if offset > 352:
        header[348] = 1
        pack(352, "ii", offset - 352, 6)
    number = shape[0] * shape[1] * shape[2]
    values = voxels if voxels is not None else [at % 3 for at in range(number)]
    return bytes(header) + struct.pack(f"{order}{number}{code}", *values)


def scans():
    types = {"uint8": (2, "B"), "int8": (256, "b"), "int16": (4, "h"), "uint16": (512, "H"), "int32": (8, "i"),
             "uint32": (768, "I"), "int64": (1024, "q"), "uint64": (1280, "Q"), "float32": (16, "f"), "float64": (64, "d")}
    for name, (datatype, code) in types.items():
        put("nifti", name, nifti(datatype, code))
        put("nifti", f"{name}-big", nifti(datatype, code, order=">"))
    put("nifti", "extension", nifti(4, "h", offset=384))
    put("nifti", "gzip", gzip.compress(nifti(4, "h"), mtime=0))
    # Two members, and zeros after them.
    whole = nifti(4, "h")
    put("nifti", "gzip-members", gzip.compress(whole[:300], mtime=0) + gzip.compress(whole[300:], mtime=0) + bytes(8))
    voxels = struct.pack("<12h", *range(-3, 9))
    head = ("NRRD0004\n# comment\ntype: {type}\ndimension: 3\nspace: left-posterior-superior\nsizes: 3 2 2\n"
            "space directions: (2,0,0) (0,2,0) (0,0,3)\nkinds: domain domain domain\nendian: little\n"
            "encoding: {encoding}\nspace origin: (-9,7,5)\nkey:=value\n{more}\n")
    put("nrrd", "raw", head.format(type="short", encoding="raw", more="").encode() + voxels)
    put("nrrd", "gzip", head.format(type="short", encoding="gzip", more="").encode() + gzip.compress(voxels, mtime=0))
    put("nrrd", "ascii", head.format(type="float", encoding="ascii", more="") + "0 1 2 3 4 5.5 -6 7 8 9 1e1 11\n")
    put("nrrd", "hex", head.format(type="short", encoding="hex", more="").encode() + voxels.hex().encode())
    put("nrrd", "detached", head.format(type="short", encoding="raw", more="byte skip: 8\ndata file: scan.raw\n"))
    put("nrrd", "spacings", "NRRD0001\ntype: uint8\ndimension: 3\nsizes: 3 2 2\nspacings: 1 2 3\nencoding: raw\n\n" + "\1" * 12)
    head = ("ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = {zipped}\n"
            "{size}TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = -9 7 5\nCenterOfRotation = 0 0 0\n"
            "AnatomicalOrientation = RAI\nElementSpacing = 2 2 3\nDimSize = 3 2 2\nElementType = MET_SHORT\n"
            "ElementDataFile = {file}\n")
    packed = zlib.compress(voxels)
    put("metaimage", "raw", head.format(zipped=False, size="", file="LOCAL").encode() + voxels)
    size = f"CompressedDataSize = {len(packed)}\n"
    put("metaimage", "zlib", head.format(zipped=True, size=size, file="LOCAL").encode() + packed)
    put("metaimage", "detached", head.format(zipped=False, size="HeaderSize = -1\n", file="scan.raw"))


def element(group, number, vr, value):
    value = value.encode() if isinstance(value, str) else value
    value += b"\0" * (len(value) % 2) if vr in ("UI", "OB", "OW", "US") else b" " * (len(value) % 2)
    long = vr in ("OB", "OW")
    head = struct.pack("<HH2s", group, number, vr.encode())
    return head + (struct.pack("<HI", 0, len(value)) if long else struct.pack("<H", len(value))) + value


def fragments(*parts):
    item = lambda content: struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content
    items = b"".join(item(part) for part in (b"", *parts))
    return struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OB", 0, 0xFFFFFFFF) + items + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def slice_of(z, syntax="1.2.840.10008.1.2.1", pixels=None):
    meta = element(2, 2, "UI", "1.2.840.10008.5.1.4.1.1.2") + element(2, 3, "UI", f"1.2.3.{z + 1}")
    meta += element(2, 0x10, "UI", syntax)
    values = struct.pack("<6H", *range(1000, 1060, 10))
    us = lambda group, number, value: element(group, number, "US", struct.pack("<H", value))
    body = [
        element(8, 8, "CS", "ORIGINAL\\PRIMARY\\AXIAL"), element(8, 0x16, "UI", "1.2.840.10008.5.1.4.1.1.2"),
        element(8, 0x18, "UI", f"1.2.3.{z + 1}"), element(8, 0x60, "CS", "CT"), element(8, 0x103E, "LO", "Abdomen"),
        element(0x20, 0xE, "UI", "1.2.3"), element(0x20, 0x11, "IS", "3"), element(0x20, 0x32, "DS", f"-10\\20\\{z}"),
        element(0x20, 0x37, "DS", "1\\0\\0\\0\\1\\0"), us(0x28, 2, 1), element(0x28, 4, "CS", "MONOCHROME2"),
        us(0x28, 0x10, 2), us(0x28, 0x11, 3), element(0x28, 0x30, "DS", "0.6\\0.5"), us(0x28, 0x100, 16),
        us(0x28, 0x101, 12), us(0x28, 0x102, 11), us(0x28, 0x103, 0), element(0x28, 0x1052, "DS", "-1024"),
        element(0x28, 0x1053, "DS", "1"), element(0x28, 0x1054, "LO", "HU"),
        element(0x7FE0, 0x10, "OW", values) if pixels is None else pixels,
    ]
    return bytes(128) + b"DICM" + element(2, 0, "UL", struct.pack("<I", len(meta))) + meta + b"".join(body)


def dicom():
    for number in range(4):
        put("dicom", f"slice-{number}", slice_of(2 * number))
    # RLE: two segments of literal bytes, the high ones first.
    planes = [bytes([5]) + bytes(value >> 8 for value in range(1000, 1060, 10)),
              bytes([5]) + bytes(value & 255 for value in range(1000, 1060, 10))]
    segments = struct.pack("<16I", 2, 64, 72, *[0] * 13) + planes[0] + b"\0" + planes[1] + b"\0"
    put("dicom", "rle", slice_of(6, "1.2.840.10008.1.2.5", fragments(segments)))
    put("dicom", "fragments", slice_of(6, "1.2.840.10008.1.2.4.70", fragments(b"\xff\xd8\xff\xd9")))
    put("dicom", "big", slice_of(6, "1.2.840.10008.1.2.2"))


def caches(shard):
    with tempfile.TemporaryDirectory() as folder:
        data, cache = Path(folder) / "data/Dataset001_Scans", Path(folder) / "cache"
        (data / "imagesTr").mkdir(parents=True)
        (data / "labelsTr").mkdir()
        shape = (9, 8, 7)
        noise = [(at * 2654435761 >> 7) % 61 - 30 for at in range(9 * 8 * 7)]
        for case in "ab":
            (data / f"imagesTr/{case}_0000.nii").write_bytes(nifti(4, "h", shape, voxels=noise))
        (data / "labelsTr/a.nii").write_bytes(nifti(2, "B", shape, voxels=[at // 72 % 3 for at in range(9 * 8 * 7)]))
        description = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1, "tumour": 2},
                       "numTraining": 2, "file_ending": ".nii"}
        (data / "dataset.json").write_text(json.dumps(description))
        put("dataset", "nnunet", json.dumps(description, indent=1))
        listed = {**description, "modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver"},
                  "training": [{"image": "./imagesTr/a_0000.nii", "label": "./labelsTr/a.nii"}], "test": []}
        put("dataset", "decathlon", json.dumps(listed, indent=1))
        regions = {"labels": {"background": 0, "whole": [1, 2], "ignore": 3}, "regions_class_order": [1, 2],
                   "channel_names": {"0": "CT"}, "dataset": {"a": {"images": ["imagesTr/a_0000.nii"], "label": "x"}}}
        put("dataset", "regions", json.dumps(regions, indent=1))
        for codec in ("fast", "dense", "lz4"):
            shutil.rmtree(cache, ignore_errors=True)
            subprocess.run([shard, data.parent, "--out", cache, "--spacing", "native", "--codec", codec], check=True)
            for path in cache.glob("*.shard"):
                put("shard", codec, path.read_bytes())
        text = (cache / "manifest.json").read_text()
        put("manifest", "sealed", text)
        without = json.loads(text)
        del without["checksum"]
        put("manifest", "unsealed", json.dumps(without, indent=1))
        put("seen", "one", SEEN)


def folders():
    scan = nifti(4, "h")
    header = (b"ObjectType = Image\nNDims = 3\nElementSpacing = 2 2 3\nDimSize = 3 2 2\nElementType = MET_SHORT\n"
              b"ElementDataFile = lost.raw\n")
    files = {"nifti": (b"scan", scan), "gzip": (b"scan.1", gzip.compress(scan, mtime=0)), "header": (b"a.mhd", header),
             "nrrd": (b"a.nii.gz.part", b"NRRD0004\ntype: short\n"), "slice": (b"IM_0003", slice_of(6)),
             "headless": (b"1.2.3", slice_of(6)[132:]), "archive": (b"a.tar.gz.aa", b"\x1f\x8b"),
             "text": ("größe.txt~".encode(), b"text"), "other": (b"A_0001.NII", scan), "description": (b"Dataset.json", b"{}")}
    for name, (file, content) in files.items():
        put("unnamed", name, file + b"\n" + content)
    case = lambda *names: "\n".join(names) + "\n"
    trees = {
        "nnunet": case("D/dataset.json", "D/imagesTr/a_0000.nii", "D/imagesTr/a_0001.nii", "D/imagesTs/b_0000.nii",
                       "D/labelsTr/a.nii", "E/imagesTr/a_0000.nii", "D/predictions/a.nii", "D/.cache/x"),
        "pair": case("img/img1.nii.gz", "img/img2.nii.gz", "label/label1.nii.gz", "label/label2.nii.gz", "readme.md"),
        "parts": case("Training/img/a.nii", "Training/label/a.nii", "Testing/img/b.nii", "x/images1/c.nii", "x/images2/d.nii"),
        "mirrored": case("rawdata/s1/ct.nii.gz", "rawdata/s2/ct.nii.gz", "derivatives/s1/seg.nii.gz", "derivatives/s2/seg.nii"),
        "per-case": case("s1/ct.nii.gz", "s1/segmentations/liver.nii.gz", "s1/segmentations/spleen.nii.gz", "s2/ct.nii.gz"),
        "kits": case("case_1/imaging.nii.gz", "case_1/segmentation.nii.gz", "case_2/imaging.nii.gz", "case_2/ct/x.nii"),
        "autopet": case("P1/s1/CTres.nii.gz", "P1/s1/SUV.nii.gz", "P1/s1/SEG.nii.gz", "P2/s1/CTres.nii.gz"),
        "plain": case("a.nii.gz", "b/a.nii", "b/a_seg.nii", "c.mha", "c.raw", "d.nrrd", "e.zip", "lesions/e.nii"),
    }
    for name, paths in trees.items():
        put("tree", name, paths)


def selection():
    put("cases", "list", "\ufeff# training\nDataset001_A/a\nb # the second\n\n")
    folds = [{"train": ["Dataset001_A/a"], "val": ["b"]}, {"train": ["b"], "val": ["a", "c"]}]
    put("cases", "folds", json.dumps(folds, indent=1))


def secrets():
    with tempfile.TemporaryDirectory() as folder:
        key, certificate = Path(folder) / "key", Path(folder) / "certificate"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-subj", "/CN=localhost", "-days", "9",
                        "-keyout", key, "-out", certificate], check=True, capture_output=True)
        put("pem", "both", certificate.read_bytes() + key.read_bytes())
        put("pem", "certificate", certificate.read_bytes())
        put("pem", "key", key.read_bytes())
    put("pem", "encrypted", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n")


def ranks():
    number = lambda *values: struct.pack(f"<{len(values)}I", *values)
    frame = lambda kind, payload=b"": bytes([kind]) + number(len(payload)) + payload
    values = number(2) + number(3) + b"[1]" + number(1) + b"2"
    put("ranks", "frames", frame(0) + frame(1, b"1") + frame(1, values) + frame(2, struct.pack("<3f", 1, -2, 0.5)) + frame(4))
    put("ranks", "abort", frame(3, json.dumps({"rank": 1, "reason": "a"}).encode()))
    put("ranks", "texts", b"\x05host1\x00\x03abc")


def varint(number):
    out = bytearray()
    while True:
        out.append(number & 127 | (128 if number > 127 else 0))
        number >>= 7
        if not number:
            return bytes(out)


def message(*fields):
    """Protobuf of (number, value): an int, text or bytes, or a float as fixed64."""
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        elif isinstance(value, float):
            out += varint(number << 3 | 1) + struct.pack("<d", value)
        else:
            value = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(value)) + value
    return out


def service():
    augment = '{"transforms":[{"kind":"mirror","p":[0.5,0.5,0.5]}]}'
    fields = [(1, 7), (2, 1), (3, 2), (4, 3), (5, bytes([96, 96, 96])), (6, 4), (7, 2), (8, 0.5), (9, 1),
              (10, message((1, -175.0), (2, 250.0))), (11, 1), (12, 1), (13, "A*"), (14, "B"),
              (15, message((1, 2), (2, 5), (3, 1), (4, 9), (5, 1)))]
    put("service", "spec", message(*fields, (18, augment)))
    put("service", "spec-recipe", message(*fields[:-1], (16, message((1, 3), (3, 9))), (18, "[]")))
    put("service", "spec-cases", message(*fields[:-1], (17, message((1, "a"), (1, "b"))), (18, "{}"), (19, 255)))
    put("service", "open", message((1, message(*fields, (18, augment)))))
    put("service", "fetch", message((1, "0" * 32), (2, 3), (3, message((1, 1), (2, 2)))))
    put("service", "share", message((1, "0" * 32), (2, 8)))
    f32 = lambda *values: b"".join(varint(number << 3 | 5) + struct.pack("<f", value) for number, value in values)
    box = message((1, 0), (2, bytes([2, 2, 2])), (5, "{}")) + f32((3, 1.0), (4, 0.5))
    crop = message((1, "D/0"), (4, bytes([4, 6, 8])), (6, "mirror"), (7, f32((1, 1.0), (2, 0.5), (3, 1.0))), (8, box))
    header = message((1, 3), (2, 64), (6, crop), (6, crop), (7, 0.25))
    put("service", "header", header)
    frames = [message((1, header)), message((2, bytes(range(40))))]
    put("service", "frames", b"".join(b"\0" + struct.pack(">I", len(frame)) + frame for frame in frames))


def runs(run):
    for name in ("smoke.toml", "pretrain/vit-l-p12.toml", "finetune/btcv.toml"):
        put("config", Path(name).stem, (CONFIGS / name).read_bytes())
    checkpoints = sorted((run / "checkpoints").glob("step-*"))
    put("checkpoint", "state", (checkpoints[-1] / "state.json").read_bytes())
    put("journal", "journal", b"".join((run / "journal.jsonl").read_bytes().splitlines(keepends=True)[:8]))
    put("run_cases", "cases", (run / "cases.json").read_bytes())
    record = {"event": "validation", "step": 6, "epoch": 1.5, "mean_dice": 0.5, "mean_fg_dice": None,
              "dice_per_class": [0.9, None], "num_cases": 1, "best": True, "secs": 0.5}
    put("journal", "validation", json.dumps(record) + "\n")
    link = {"key": "0" * 16, "experiment": "hiend", "start_ms": 1, "experiment_id": "1", "run_id": None, "described": False}
    put("mlflow", "link", json.dumps(link, indent=2) + "\n")


def weights():
    import torch

    state = {"state_dict": {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2, dtype=torch.float16),
                            "n": torch.tensor(3)}, "epoch": 4}
    for name, zipped in (("zip", True), ("legacy", False)):
        buffer = io.BytesIO()
        torch.save(state, buffer, _use_new_zipfile_serialization=zipped)
        put("pth", name, buffer.getvalue())
    header = json.dumps({"__metadata__": {"format": "pt"},
                         "a.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
                         "a.bias": {"dtype": "BF16", "shape": [2], "data_offsets": [24, 28]},
                         "n": {"dtype": "I64", "shape": [], "data_offsets": [28, 36]}}).encode()
    put("safetensors", "three", struct.pack("<Q", len(header)) + header + bytes(36))


if __name__ == "__main__":
    scans()
    dicom()
    caches(sys.argv[1])
    folders()
    selection()
    service()
    secrets()
    ranks()
    runs(Path(sys.argv[2]))
    weights()
