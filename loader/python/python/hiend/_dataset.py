"""The stream of batches as a PyTorch dataset."""

from __future__ import annotations

import logging
import os
import threading
from functools import partial
from typing import Any, Iterator, Mapping, Sequence

from hiend import _hiend, _ranks, _state
from hiend._arguments import as_json, count, flag, interval, num_bytes, path, real, strings, triple
from hiend._batch import Batch
from hiend._errors import ConfigError, HiendError
from hiend._iteration import TAKEN_OVER, Iteration, Source
from hiend._pinning import Pinned
from hiend._selection import augmentation, sources, split
from hiend._state import STEPS
from hiend._torch import IterableDataset, has_cuda, in_worker_process, torch

# Streams opened for one batch before its absence counts as a bug. An interruption explains one of them.
_ATTEMPTS = 10
_IN_WORKER = (
    "CropDataset runs in a worker process of a DataLoader; use num_workers=0 (and batch_size=None): its own threads "
    "decode and augment in this process, and workers would only copy every batch"
)
_FORKED = "CropDataset was opened before this process was forked; open it in the new process"
_LOG = logging.getLogger("hiend.loader")
_NO_PICKLE = "CropDataset cannot be pickled or copied to another process; use DataLoader(dataset, batch_size=None)"


class CropDataset(IterableDataset):
    """Endless stream of batches of augmented 3-D crops, made by threads in this process or by servers.

    A batch is a pure function of the cases, the configuration, the seed and the step. It is the same for any number of
    threads; the batches of several ranks are the parts of one global batch.

    The dataset has a position, ``step``. An iteration starts there and advances it with each batch, so a second
    ``for`` loop continues where the first one ended, also if it was left early, with all of its ``steps`` batches. The first
    one after ``load_state_dict`` has the rest of the interrupted iteration. With ``repeat``, each iteration gives the same
    batches, for validation. Only one iteration runs at a time: a new one ends the previous one.
    Several threads may share an iteration: each batch goes to one of them.
    Items are complete batches (see ``Batch``): iterate over the dataset itself, or over ``DataLoader(dataset,
    batch_size=None)``. Worker processes are neither needed nor possible.

    Args:
        source: Path or URL (``s3://``, ``gs://``, ``az://``, ``https://``, ``http://`` with a path) of a cache, a ``Cache``, a
            list of caches (mixed evenly), or a mapping from cache to its weight. URLs that begin with ``http://``, without a
            path, or ``unix://`` are taken for servers.
        servers: URLs of servers (``hiend-serve``), instead of a cache: ``http://host:port``, ``https://host:port``,
            ``unix:///path``. Batches do not depend on their number; if one fails, the others take its steps.
        crop_size: Voxels of a crop, one number or three (x, y, z).
        crops_per_visit: Crops cut each time a case is visited.
        visits_per_batch: Cases of a global batch, over all ranks; a multiple of ``world_size``.
        augment: ``"recipe"`` (flips, quarter turns, intensity), ``"nnunet"``, ``"plain"``, or a mapping such as
            ``{"chain": "nnunet", "gamma": {"probability": 0}}``.
        labels: Whether batches carry labels. Cases without labels are then left out, which a warning reports; one that
            ``cases`` or ``splits`` names is an error.
        sample_by: Foreground that crops are centred on: ``"intensity"`` (above the lower end of the cache's window),
            ``"label"`` (any class but 0) or ``"class"`` (every class with the same probability).
        foreground_rate: Share of crops whose centre is foreground, 0 to 1.
        ignore_label: Label of voxels without annotation, 1 to 255, on which no crop is centred; by default that of the
            dataset.
        window: HU range that becomes [0, 1]; by default the cache's own. Not for z-scores. The foreground of
            ``sample_by="intensity"`` remains that of the cache's window, which a warning reports.
        seed: Seed of the stream.
        fold: ``(k, n)`` selects the training cases of fold k of n, k from 0; with ``splits``, ``k`` alone is enough.
        fold_rule: ``"dealt"`` (within a dataset, folds differ by one case at most) or ``"hashed"`` (a case stays in its
            fold when others are added).
        shots: Number of cases to train on, instead of a fold.
        part: ``"train"``, or ``"validation"`` for the cases that ``fold`` or ``shots`` hold out.
        cases: Names of the cases to use, or the path of a file that names them, one per line; instead of a fold.
        splits: Path of nnU-Net's ``splits_final.json``, which assigns the cases to folds; ``fold`` selects one.
        split_seed: Seed of the assignment of cases to folds or shots.
        include: Datasets to use (``Dataset009_WORD`` or ``WORD``; ``*`` and ``?`` are wildcards); by default all.
        exclude: Datasets not to use.
        on_corrupt: ``"fail"``, or ``"skip"`` to continue without the crops of a corrupt case: its batch is smaller. A step
            of which no crop is left has no batch, and its iteration one batch less; with several ranks, which would then
            wait for this one, it is an error, and so are ``steps_per_epoch`` such steps in a row.
        form: ``"float32"``, or ``"quantized"`` for 16-bit values that ``Batch.floats`` converts on the device.
        rank: Rank of this process; by default that of ``torch.distributed`` if it is initialised when the dataset is
            opened, else ``RANK`` of the environment, else 0. An iteration in a process of another rank is an error.
        world_size: Number of ranks, found in the same way.
        threads: Number of threads that decode and augment; by default one per core.
        memory: Memory limit for batches, threads and reading ahead, in bytes or as ``"4GiB"``.
        access: ``"mmap"`` (the default), or ``"pread"`` for network file systems.
        disk_cache: Folder that keeps copies of caches in object storage; by default ``hiend/blocks`` in
            ``$XDG_CACHE_HOME`` or ``~/.cache``.
        disk_cache_size: Size of that folder, in bytes or as ``"400GiB"``; by default 50 GiB, or half of the free space if
            that is less.
        storage_retry: Seconds for which a request to object storage is repeated before it fails.
        start_step: Step of the first batch.
        steps: Number of batches per iteration: ``None`` for an endless one, ``"epoch"`` for ``steps_per_epoch``.
        repeat: Whether each iteration begins at ``start_step`` and gives the same batches again.
        token: Token to present to servers.
        ca: File with the certificates (PEM) that servers are checked against; by default those of the system.
        retry: Seconds for which servers are tried again when none answers; by default 300.
        shared_memory: Whether servers on this host pass voxels through shared memory; by default they do.
        pin_memory: Whether batches are copied to page-locked memory of PyTorch ahead of the loop; by default if PyTorch
            can use a CUDA device.

    Raises:
        ConfigError: If an argument is out of range or does not suit the cache.
        NotFoundError: If there is no cache.
    """

    def __init__(
        self,
        source: Any = None,
        *,
        servers: str | Sequence[str] | None = None,
        crop_size: int | Sequence[int] = 96,
        crops_per_visit: int = 8,
        visits_per_batch: int = 24,
        augment: str | Mapping[str, Any] = "recipe",
        labels: bool = False,
        sample_by: str = "intensity",
        foreground_rate: float = 0.75,
        ignore_label: int | None = None,
        window: Sequence[float] | None = None,
        seed: int = 0,
        fold: tuple[int, int] | int | None = None,
        fold_rule: str = "dealt",
        shots: int | None = None,
        part: str = "train",
        cases: str | os.PathLike[str] | Sequence[str] | None = None,
        splits: str | os.PathLike[str] | None = None,
        split_seed: int = 0,
        include: str | Sequence[str] = (),
        exclude: str | Sequence[str] = (),
        on_corrupt: str = "fail",
        form: str = "float32",
        rank: int | None = None,
        world_size: int | None = None,
        threads: int | None = None,
        memory: int | str = "4GiB",
        access: str | None = None,
        disk_cache: str | os.PathLike[str] | None = None,
        disk_cache_size: int | str | None = None,
        storage_retry: float | None = None,
        token: str | None = None,
        ca: str | os.PathLike[str] | None = None,
        retry: float | None = None,
        shared_memory: bool | None = None,
        start_step: int = 0,
        steps: int | str | None = None,
        repeat: bool = False,
        pin_memory: bool | None = None,
    ) -> None:
        super().__init__()
        if not labels and sample_by in ("label", "class"):
            raise ConfigError(f"labels: {labels!r}; sample_by={sample_by!r} needs labels=True")
        if not labels and ignore_label is not None:
            raise ConfigError(f"ignore_label: {ignore_label!r} has no effect without labels=True")
        config = {
            "crop_size": triple("crop_size", crop_size, partial(count, "", smallest=1, largest=1024), "number of 1 to 1024"),
            "crops_per_visit": count("crops_per_visit", crops_per_visit, 1),
            "visits_per_batch": count("visits_per_batch", visits_per_batch, 1),
            "foreground_rate": real("foreground_rate", foreground_rate, "0 to 1"),
            "sample_by": sample_by,
            "window": None if window is None else interval("window", window),
            **({} if ignore_label is None else {"ignore_label": count("ignore_label", ignore_label, 1, 255)}),
            "labels": flag("labels", labels),
            "on_corrupt": on_corrupt,
            "include": strings("include", include),
            "exclude": strings("exclude", exclude),
            "split": split(fold, fold_rule, shots, part, cases, splits, split_seed),
            "augment": augmentation(augment),
        }
        self._config = as_json(config)
        self._seed = count("seed", seed)
        self.rank, self.world_size = _ranks.resolve(rank, world_size)
        self._rank_is_given = rank is not None
        self._step = count("start_step", start_step, largest=STEPS - 1)
        self._pin = has_cuda() if pin_memory is None else flag("pin_memory", pin_memory)
        if self._pin and torch is None:
            raise ConfigError(f"pin_memory: {pin_memory!r}; needs PyTorch, which cannot be imported here")
        if self._pin and not has_cuda():
            raise ConfigError(f"pin_memory: {pin_memory!r}; needs a CUDA device, which PyTorch does not find here")
        if token is not None and not isinstance(token, str):
            raise ConfigError(f"token: {type(token).__name__}; expected a text")
        ranks, budget = (self.rank, self.world_size), num_bytes("memory", memory)
        caches, urls = sources(source, servers)
        if urls:
            own = {"threads": threads, "access": access, "disk_cache": disk_cache, "disk_cache_size": disk_cache_size}
            given = [key for key, value in {**own, "storage_retry": storage_retry}.items() if value is not None]
            if given:
                raise ConfigError(f"{' and '.join(given)}: batches come from servers, which have their own")
            self._native = _hiend.Loader.connect(
                urls,
                self._config,
                seed=self._seed,
                rank=ranks,
                form=form,
                memory=budget,
                token=token,
                ca=None if ca is None else path("ca", ca),
                retry=300.0 if retry is None else real("retry", retry, "seconds"),
                shared_memory=True if shared_memory is None else flag("shared_memory", shared_memory),
            )
        else:
            of_servers = {"token": token, "ca": ca, "retry": retry, "shared_memory": shared_memory}
            given = [key for key, value in of_servers.items() if value is not None]
            if given:
                raise ConfigError(
                    f"{' and '.join(given)}: batches come from caches; a server with TLS is named by servers='https://...'"
                )
            self._native = _hiend.Loader.open(
                caches,
                self._config,
                seed=self._seed,
                rank=ranks,
                form=form,
                threads=0 if threads is None else count("threads", threads, 1),
                memory=budget,
                access=access or "mmap",
                disk_cache=None if disk_cache is None else path("disk_cache", disk_cache),
                disk_cache_size=None if disk_cache_size is None else num_bytes("disk_cache_size", disk_cache_size),
                storage_retry=None if storage_retry is None else real("storage_retry", storage_retry, "seconds"),
            )
        if steps == "epoch":
            self._steps: int | None = self.steps_per_epoch
        else:
            self._steps = None if steps is None else count("steps", steps, 1, expected="or 'epoch' or None")
        self._start_step = self._first_step = self._step
        self._repeat = flag("repeat", repeat)
        # Step at which a state was loaded, until a batch is taken: an iteration that begins there finishes the interrupted one.
        self._resumed_at: int | None = None
        self._process = os.getpid()
        # Guards what follows, and the position. Not held while a batch is awaited.
        self._lock = threading.RLock()
        # Batches from `_step` on, if a stream is open.
        self._source: Source | None = None
        # Batch that was taken from the stream and did not reach the loop.
        self._kept: Batch | None = None
        self._iteration = 0
        # Number of moves to another step.
        self._moves = 0
        # Number of steps in a row of which no crop was left.
        self._num_empty = 0

    @property
    def step(self) -> int:
        """Step of the next batch."""
        return self._position()

    @property
    def num_cases(self) -> int:
        """Number of cases in the stream."""
        return self._native.num_cases

    @property
    def cases(self) -> list[str]:
        """Names of the cases in the stream, ``DATASET/CASE``, cache after cache, as ``Cache.read`` takes them.

        Raises:
            HiendError: If batches come from servers, which do not tell names.
        """
        cases = self._native.cases
        if cases is None:
            raise HiendError("cases: batches come from servers, which do not tell the names of their cases; open the cache")
        return cases

    @property
    def crops_per_batch(self) -> int:
        """Number of crops in this rank's batch."""
        return self._native.crops_per_batch

    @property
    def steps_per_epoch(self) -> int:
        """Number of global batches per epoch, that is, per as many visits as there are cases.

        The last one may reach into the next epoch.
        """
        return self._native.steps_per_epoch

    @property
    def num_buffers(self) -> int:
        """Number of batches that can be in use at the same time, those being made included."""
        return self._native.num_buffers

    @property
    def digest(self) -> str:
        """Digest of the cases, their order and their voxels, 32 hex digits; with labels, also of the label to ignore."""
        return self._native.digest

    def __iter__(self) -> Iterator[Batch]:
        if in_worker_process():
            raise HiendError(_IN_WORKER)
        self._check_process()
        if not self._rank_is_given:
            _ranks.check(self.rank, self.world_size)
        with self._lock:
            self._iteration += 1
            source = self._source
        if source is not None:
            # A thread that waits for a batch takes it; those behind it find that their iteration is over.
            with source.turn:
                pass
        with self._lock:
            self._begin()
            return Iteration(self)

    def _begin(self) -> None:
        """Moves to the start of an iteration, unless a state was loaded here that lies within one."""
        step = self._position()
        is_within = self._steps is None or self._left() != self._steps
        if step == self._resumed_at and is_within:
            return
        if self._repeat and step != self._start_step:
            step = self._start_step
            self._move(step)
        self._first_step = step

    def _move(self, step: int) -> None:
        """Continues at another step, with another stream."""
        self._step, self._kept, self._source = step, None, None
        self._moves += 1

    def _check_process(self) -> None:
        # A forked process has neither the threads that make batches nor the connections to servers.
        if os.getpid() != self._process:
            raise HiendError(_FORKED)

    def _next(self, iteration: int) -> Batch | None:
        """Waits for the batch of the next step; ``None`` if no crop of it is left.

        The stream stays open between iterations and works ahead.
        """
        attempts = 0
        taken = None
        moves = self._moves
        try:
            while True:
                with self._lock:
                    if iteration != self._iteration:
                        raise HiendError(TAKEN_OVER)
                    if self._kept is not None:
                        # Python runs handlers of signals at calls: none comes between statements without one.
                        taken = self._kept
                        self._kept = None
                        return taken
                    if self._source is None or self._source.has_failed:
                        self._source = self._open()
                    source = self._source
                with source.turn:
                    if source.has_failed or iteration != self._iteration:
                        # For another thread, or by a new iteration, while this one waited for its turn.
                        continue
                    try:
                        batch = next(source.batches, None)
                    except Exception:
                        # The stream has ended; the next call opens it again at the same step.
                        self._close(source)
                        raise
                    with self._lock:
                        if self._source is not source:
                            # The dataset has moved to another step: the batch does not belong to the new position.
                            raise HiendError(TAKEN_OVER)
                        if batch is not None and batch.step == self._step:
                            has_crops = self._has_crops(batch)
                            self._step += 1
                            self._resumed_at = None
                            taken = batch if has_crops else None
                            return taken
                    # Ctrl-C came while the batch at `_step`, or an error, was handed over, and it was lost: the stream is
                    # a batch ahead, or has ended. One that begins at `_step` makes it again.
                    self._close(source)
                attempts += 1
                if attempts == _ATTEMPTS:
                    raise HiendError(f"the stream does not continue at step {self._step} (a bug)")
                # Before the next stream needs their buffers.
                del batch, source
        except BaseException:
            # Ctrl-C while a lock was released: the loop has not received the batch. The next call returns it.
            if taken is not None:
                with self._lock:
                    if moves == self._moves:
                        self._kept = taken
            raise

    def _has_crops(self, batch: Batch) -> bool:
        """Whether a batch has crops. One without is left out, which a warning reports.

        Raises:
            HiendError: If the other ranks would wait for this one, or no case can be read.
        """
        if batch.shape[0] > 0:
            self._num_empty = 0
            return True
        what = f"step {batch.step}: every case of this rank's batch is corrupt"
        repair = "the log names the cases; convert them again (reconvert=), or leave them out"
        if self.world_size > 1:
            raise HiendError(f"{what}, and the other ranks would wait for it; {repair}")
        self._num_empty += 1
        if self._num_empty >= self.steps_per_epoch:
            num_empty, self._num_empty = self._num_empty, 0
            raise HiendError(f"no crop is left of {num_empty} steps in a row, an epoch: every case is corrupt; {repair}")
        _LOG.warning("%s: the step has no batch", what)
        return False

    def _position(self) -> int:
        """Step of the next batch."""
        kept = self._kept
        return self._step if kept is None else kept.step

    def _close(self, source: Source) -> None:
        """Ends a stream, so that the next batch comes from a new one at `_step`."""
        source.has_failed = True
        with self._lock:
            if self._source is source:
                self._source = None

    def _open(self) -> Source:
        """Starts a stream at `_step`."""
        stream = map(Batch, self._native.stream(self._step))
        return Source(Pinned(stream) if self._pin else stream)

    def _left(self) -> int | None:
        """Number of batches until the end of the iteration that `_step` lies in; ``None`` if there is no end."""
        if self._steps is None:
            return None
        return self._steps - (self._position() - self._first_step) % self._steps

    def __len__(self) -> int:
        if self._steps is None:
            raise TypeError("an endless CropDataset has no length; set steps, for example steps='epoch'")
        return self._steps

    def __bool__(self) -> bool:
        # An endless dataset has no length.
        return True

    def state_dict(self) -> dict[str, Any]:
        """Position in the stream, and the settings that identify the stream.

        ``"cases"`` are the names of its cases, ``None`` where batches come from servers.
        Holds for the batches that the loop has received, whatever was made ahead. Works with
        ``torchdata.stateful_dataloader.StatefulDataLoader`` and as a part of a checkpoint; the same on every rank.
        """
        return {"step": self._position(), "first_step": self._first_step, **self._identity()}

    def _identity(self) -> dict[str, Any]:
        """Settings and cases that identify the stream."""
        facts = {"seed": self._seed, "config": self._config, "digest": self.digest, "cases": self._native.cases}
        return {"version": _state.VERSION, **facts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues at the position of a state; the number of ranks and threads may differ.

        Cases may be selected in another way, and the cache may hold others since, if the stream has the same: after a cache
        has grown, ``CropDataset(..., cases=state["cases"])`` has them.

        Raises:
            ConfigError: If the state belongs to another stream, with the first key that differs.
        """
        step, first_step = _state.check(state, self._identity(), self._native.has_digest)
        with self._lock:
            self._move(step)
            self._first_step, self._resumed_at = first_step, step
            self._iteration += 1

    def __reduce__(self) -> Any:
        raise HiendError(_NO_PICKLE)

    def __repr__(self) -> str:
        cases = f"{self.num_cases} case{'' if self.num_cases == 1 else 's'}"
        return f"CropDataset({cases}, step={self._position()}, rank={self.rank} of {self.world_size})"
