"""Conversion of CT scans to a cache."""

from __future__ import annotations

import os
from typing import Any, Callable, NamedTuple, Sequence

from hiend import _hiend
from hiend._arguments import as_json, count, flag, interval, num_bytes, strings, triple
from hiend._errors import ConfigError


class Progress(NamedTuple):
    """Progress of a conversion, given to the callback once per case and finding."""

    event: str
    """``"converted"``, ``"unchanged"``, ``"skipped"`` or ``"finding"``."""
    case: str
    """``DATASET/CASE``."""
    bytes_in: int
    """Size of the case's files in bytes; 0 unless converted or unchanged."""
    text: str | None
    """Reason of a skipped case, or text of a finding."""
    num_cases: int
    """Number of cases in the data."""


def shard(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str] = "cache",
    *,
    normalize: str = "hu",
    spacing: float | Sequence[float] | None = 1.5,
    window: Sequence[float] | None = None,
    store: str = "window",
    codec: str = "fast",
    exclude: str | Sequence[str] = (),
    jobs: int | None = None,
    memory: int | str = "8GiB",
    shard_size: int | str = "1GiB",
    worker: tuple[int, int] = (0, 1),
    prune: bool | str = False,
    compact: bool = False,
    checksum: bool = False,
    reconvert: str | Sequence[str] = (),
    change_parameters: bool = False,
    forget_lost: bool = False,
    on_suspect: str = "warn",
    progress: Callable[[Progress], object] | None = None,
) -> dict[str, Any]:
    """Converts CT scans to shards, as the program ``hiend-shard`` does; only new and changed cases.

    Each scan is oriented to RAS+, resampled, clamped to a HU window (or normalised to z-scores) and cropped to its
    foreground.

    Args:
        data: Folder of nnU-Net datasets or one of them, a Medical Segmentation Decathlon dataset, or any folder with
            NIfTI, NRRD or MetaImage files or series of DICOM files.
        out: Folder of the cache, created if missing, or a URL that begins with ``s3://``, ``gs://`` or ``az://``.
        normalize: ``"hu"``, or ``"zscore"`` for z-scores by each scan's own mean and standard deviation.
        spacing: Voxel side lengths in mm, one number or three; ``None`` keeps those of each scan.
        window: HU range mapped to [0, 1]; voxels above its lower end are foreground; by default (-175, 250). With
            ``normalize="zscore"``, z-scores to keep, by default (-20, 40).
        store: HU range to keep: ``"window"``, or ``"full"`` to choose the window when streaming.
        codec: ``"fast"``, ``"dense"`` or ``"lz4"``.
        exclude: Datasets and cases to exclude; ``*`` and ``?`` are wildcards.
        jobs: Number of cases converted at the same time; by default the number of cores.
        memory: Memory limit of all cases being converted, in bytes or as ``"8GiB"``.
        shard_size: Size at which a shard is closed, in bytes or as ``"1GiB"``.
        worker: Share ``(i, n)`` of the cases to convert.
        prune: Removes superseded records, and the cases that were converted from ``data`` and are no longer in it (``True``
            or ``"gone"``); ``"all"`` also removes the cases that were converted from other folders.
        compact: Removes superseded records, and no case.
        checksum: Compares the content of files even where size and modification time are unchanged.
        reconvert: Datasets and cases to convert again although they are unchanged, or to convert in place of those of
            another folder of the same name; ``*`` and ``?`` are wildcards.
        change_parameters: Converts cases again that the cache holds with other parameters; otherwise they are an error.
        forget_lost: Continues without the cases of lost and damaged shards that are not in the data; otherwise they are
            an error.
        on_suspect: Action on an image that does not look like a CT in HU: ``"warn"``, ``"skip"`` or ``"fail"``.
        progress: Called with a ``Progress`` for each case. An exception that it raises ends the conversion once the
            cases in progress are stored, as Ctrl-C does; the next call continues.

    Returns:
        A summary with the keys ``converted``, ``replaced`` (the number of converted cases that the cache had in an
        earlier version), ``unchanged``, ``with_label``, ``excluded``, ``skipped`` (a list of
        ``{"case", "path", "reason"}``), ``stale`` (a list of those of which the cache keeps an earlier version),
        ``outdated`` (those of ``stale`` that have other parameters: the cache cannot be opened), ``not_used`` (a list of
        ``{"path", "reason"}``: files that belong to no case, such as images that ``dataset.json`` does not list; also
        logged as warnings), ``findings`` (a list of
        ``{"case", "text"}``), ``known_findings`` (the same of unchanged cases), ``unseen_classes`` (a list of texts on
        classes that ``dataset.json`` names and no case has), ``unnamed_labels`` (a list of texts on label values that
        ``dataset.json`` does not name), ``voxels``, ``bytes_in``, ``bytes_out``, ``shards``, ``not_in_data`` (the
        number of such cases in the cache), ``gone`` (a list of those that were converted from ``data``), ``elsewhere``
        (lists of the others by the folder that they were converted from, ``None`` for one that is not known), ``twice``
        (a list of pairs: a case that is not in the data, and one of the data with the same image), ``repeated`` (a list
        of pairs: a case of the data, and the first one of the data with the same image), ``superseded_bytes``, ``lost``
        (a list of cases of lost shards that the cache still lacks: it cannot be opened), ``pruned_cases`` and ``secs``.
        All data were converted if ``skipped``, ``not_used`` and ``lost`` are empty.

    Raises:
        HiendError: If the data cannot be listed, no case can be converted, or the cache cannot be written.
    """
    if window is None:
        window = (-20, 40) if normalize == "zscore" else (-175, 250)
    config = {
        "spacing": None if spacing is None else triple("spacing", spacing, float),
        "window": interval("window", window),
        "store": store,
        "normalize": normalize,
    }
    call = None if progress is None else lambda *fields: progress(Progress(*fields))
    return _hiend.convert(
        data,
        out,
        as_json(config),
        codec=codec,
        jobs=None if jobs is None else count("jobs", jobs),
        memory=num_bytes("memory", memory),
        shard_size=num_bytes("shard_size", shard_size),
        exclude=strings("exclude", exclude),
        reconvert=strings("reconvert", reconvert),
        worker=_worker(worker),
        prune=_prune(prune, compact),
        checksum=flag("checksum", checksum),
        change_parameters=flag("change_parameters", change_parameters),
        forget_lost=flag("forget_lost", forget_lost),
        on_suspect=on_suspect,
        progress=call,
    )


def phantoms(
    folder: str | os.PathLike[str], *, cases: int = 4, seed: int = 0, spacing: tuple[float, float] = (1.8, 3.2)
) -> None:
    """Writes synthetic CTs with labels as an nnU-Net dataset, for a first try.

    Args:
        folder: Folder of the dataset, such as ``raw/Dataset001_Phantoms``.
        cases: Number of cases, at least 1.
        seed: Seed of size, position, spacing, orientation and noise.
        spacing: Smallest and largest voxel side length, 0.5 to 10 mm.

    Raises:
        ConfigError: If an argument is out of range, or the folder holds another dataset or more phantoms than ``cases``.

    Ctrl-C ends the writing once the cases in progress are written; the folder then has no ``dataset.json``.
    """
    sides = interval("spacing", spacing)
    _hiend.write_phantoms(folder, cases=count("cases", cases), seed=count("seed", seed), spacing=sides)


def _prune(prune: bool | str, compact: bool) -> str:
    """Records that a conversion removes."""
    if isinstance(prune, str):
        return prune
    if flag("prune", prune):
        return "gone"
    return "superseded" if flag("compact", compact) else "nothing"


def _worker(worker: Any) -> tuple[int, int]:
    """Number of a worker, and number of workers."""
    try:
        number, workers = worker
    except (TypeError, ValueError):
        raise ConfigError(f"worker: {worker!r}; expected (i, n), such as (0, 4)") from None
    return count("worker", number), count("worker", workers, 1)
