"""Reproducible batches of augmented 3-D CT crops for PyTorch.

``shard`` converts CT scans to a cache once; ``CropDataset`` streams batches of crops from it, in this process and
without worker processes. A batch is a pure function of the cases, the configuration, the seed and the step: it is the
same for any number of threads and ranks, and a stream resumes at any step at no cost.

    import hiend

    hiend.shard("data/", out="cache/")
    for batch in hiend.CropDataset("cache/", crop_size=96, labels=True, steps=1000):
        loss = train_step(batch.image, batch.label)

PyTorch is optional: without it, arrays are NumPy's. Messages go to the loggers below ``hiend`` of Python's ``logging``.
"""

from hiend._batch import Batch
from hiend._cache import Cache, Volume, read_case
from hiend._dataset import CropDataset
from hiend._errors import ConfigError, HiendError, NotFoundError
from hiend._hiend import CropRecord, __version__
from hiend._shard import Progress, phantoms, shard

__all__ = [
    "Batch",
    "Cache",
    "ConfigError",
    "CropDataset",
    "CropRecord",
    "HiendError",
    "NotFoundError",
    "Progress",
    "Volume",
    "__version__",
    "phantoms",
    "read_case",
    "shard",
]
