"""A batch of crops as tensors that share the loader's memory."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Iterator

from hiend._errors import ConfigError
from hiend._hiend import digest
from hiend._torch import collations, from_numpy, torch

if TYPE_CHECKING:
    from hiend import _hiend


class Batch:
    """Crops of one step, or of one rank's share of it.

    The tensors are views of the loader's buffers: no voxel is copied. A buffer returns to the loader when the batch and
    all tensors and arrays that share its memory are gone, so a loop should not collect batches; what is to be kept is
    copied with ``batch.image.clone()``. Tensors are also found by name, ``batch["image"]``; ``to`` gives a dictionary.
    """

    def __init__(self, native: _hiend.Batch) -> None:
        self._native: _hiend.Batch | None = native
        # Facts without voxels; the native batch itself until its buffer is given back.
        self._facts: _hiend.Batch | _Facts = native

    @property
    def step(self) -> int:
        """Step of the stream, from 0. A stream that starts at this step makes this batch again."""
        return self._facts.step

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """Shape of the tensors, ``(n, 1, x, y, z)`` in RAS+ order, z fastest."""
        return self._facts.shape

    @cached_property
    def image(self) -> Any:
        """Images, ``[n, 1, x, y, z]``: a ``torch.Tensor``, or an array without PyTorch.

        ``float32`` in units of the window (0 is its lower end, 1 its upper end), or z-scores of a cache of those; with
        ``form="quantized"``, ``uint16`` as stored (``int16`` with the same bits in PyTorch before 2.3); ``floats`` converts the latter.
        """
        return from_numpy(self._voxels().image)

    @cached_property
    def label(self) -> Any:
        """Labels, ``uint8`` of shape ``[n, 1, x, y, z]``; ``None`` if the stream carries none."""
        label = self._voxels().label
        return None if label is None else from_numpy(label)

    @property
    def crops(self) -> list[_hiend.CropRecord]:
        """Origin and augmentation of each crop."""
        return self._facts.crops

    @property
    def times(self) -> dict[str, float]:
        """Seconds spent on the stages of this batch: reading, decoding, augmenting and waiting."""
        return self._facts.times

    @property
    def dequantize(self) -> Any:
        """Rows ``(gain, bias, low, high, factor, shift)``, one per crop, that ``floats`` applies; ``None`` for floats."""
        return self._facts.dequantize

    def digest(self) -> str:
        """Hash of the finished voxels and labels as 16 hex digits, equal to that of the Rust loader.

        Not to be called while another thread writes to the tensors.
        """
        if self._native is None:
            floats, label = self.floats().numpy(), self.label
            return digest(floats, None if label is None else label.numpy())
        return self._native.digest()

    def floats(self, device: Any = None, non_blocking: bool = True) -> Any:
        """Images as ``float32`` on a device, with the same bits for both forms.

        Quantized crops are converted on the device, after half the bytes were transferred. Needs PyTorch, except for a
        batch of floats without a device.
        """
        rows = self.dequantize
        if torch is None and device is not None:
            raise ImportError("a device needs PyTorch, which cannot be imported here")
        values = self.image if device is None else self.image.to(device, non_blocking=non_blocking)
        if rows is None:
            return values
        if torch is None:
            raise ImportError("Batch.floats needs PyTorch for quantized crops; use form='float32' without it")
        if values.dtype == torch.int16:
            values = values.to(torch.int32).bitwise_and_(0xFFFF)
        rows = torch.from_numpy(rows).to(values.device).view(-1, 6, 1, 1, 1, 1)
        gain, bias, low, high, factor, shift = rows.unbind(1)
        return values.to(torch.float32).mul_(gain).add_(bias).clamp_(low, high).mul_(factor).add_(shift)

    def to(self, device: Any, non_blocking: bool = True) -> dict[str, Any]:
        """Finished images and labels on a device: a dictionary with the keys ``"image"`` and, with labels, ``"label"``.

        Frameworks such as Lightning call this to move a batch. Needs PyTorch.
        """
        if torch is None:
            raise ImportError("Batch.to needs PyTorch, which cannot be imported here")
        tensors = {"image": self.floats(device, non_blocking)}
        if self.label is not None:
            tensors["label"] = self.label.to(device, non_blocking=non_blocking)
        return tensors

    def pin_memory(self) -> Batch:
        """Copies the tensors to page-locked memory of PyTorch and returns the batch, as ``DataLoader`` expects.

        The loader's buffer is then free for another batch. The copy is what makes asynchronous transfers safe: PyTorch
        keeps its own page-locked memory until a transfer has ended, which it cannot do for the loader's.
        """
        if torch is None:
            raise ImportError("Batch.pin_memory needs PyTorch, which cannot be imported here")
        label = self.label
        self.image = self.image.pin_memory()
        self.label = None if label is None else label.pin_memory()
        self._facts, self._native = _Facts(self), None
        return self

    def _voxels(self) -> _hiend.Batch:
        """The native batch. Tensors of a pinned batch are set already, so nothing asks for it then."""
        assert self._native is not None
        return self._native

    def keys(self) -> tuple[str, ...]:
        """Names of the tensors."""
        return ("image",) if self.label is None else ("image", "label")

    def __getitem__(self, key: str) -> Any:
        if key in self.keys():
            return getattr(self, key)
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def __repr__(self) -> str:
        return f"Batch(step={self.step}, shape={self.shape}, keys={self.keys()})"


def _refuse_collection(*_: Any, **__: Any) -> None:
    """Ends a ``DataLoader`` that would collect batches, which are whole, into larger ones."""
    expected = "use DataLoader(dataset, batch_size=None), and visits_per_batch for the number of cases in a batch"
    raise ConfigError(f"CropDataset makes whole batches; {expected}")


collations[Batch] = _refuse_collection


class _Facts:
    """Facts of a batch whose buffer has returned to the loader."""

    def __init__(self, batch: Batch) -> None:
        self.step, self.shape, self.crops = batch.step, batch.shape, batch.crops
        self.times, self.dequantize = batch.times, batch.dequantize
