"""Sources, cases and augmentation of a stream, from the arguments of ``CropDataset``."""

from __future__ import annotations

import os
from typing import Any, Mapping, Sequence

from hiend._arguments import count, path, strings
from hiend._errors import ConfigError


def sources(source: Any, servers: str | Sequence[str] | None) -> tuple[list[tuple[str, int]], list[str]]:
    """Caches with their weights, or URLs of servers."""
    if servers is not None:
        if source is not None:
            raise ConfigError("source and servers: expected only one of them")
        urls = strings("servers", servers)
        if not urls:
            raise ConfigError("servers: none; expected a URL or a list of URLs")
        return [], urls
    if source is None:
        source = []
    elif isinstance(source, (str, os.PathLike)):
        source = [source]
    if isinstance(source, (bytes, bytearray)) or not hasattr(source, "__iter__"):
        raise ConfigError(f"source: {source!r}; expected a path, a list of paths or a mapping from path to weight")
    weighted = list(source.items()) if isinstance(source, Mapping) else [(one, 1) for one in source]
    if not weighted:
        raise ConfigError("source: no cache; expected a path, a list of paths or a mapping from path to weight")
    caches = [(path("source", one), count("source: weight", weight, 1, 2**32 - 1)) for one, weight in weighted]
    remote = [cache.startswith(("http://", "unix://")) for cache, _ in caches]
    if all(remote) and not isinstance(source, Mapping):
        return [], [cache for cache, _ in caches]
    if any(remote):
        raise ConfigError("source: URLs of servers among caches or with weights; expected one or the other")
    return caches, []


def augmentation(augment: Any) -> dict[str, Any]:
    """Augmentation as a mapping."""
    if isinstance(augment, str):
        return {"chain": augment}
    if isinstance(augment, Mapping):
        return dict(augment)
    expected = "a name, such as 'recipe', or a mapping, such as {'chain': 'nnunet'}"
    raise ConfigError(f"augment: {augment!r}; expected {expected}")


def split(
    fold: tuple[int, int] | int | None,
    rule: str,
    shots: int | None,
    part: str,
    cases: str | os.PathLike[str] | Sequence[str] | None,
    splits: str | os.PathLike[str] | None,
    seed: int,
) -> Any:
    """Selection of cases, as the configuration of a stream holds it."""
    given = [name for name, value in (("fold", fold), ("shots", shots), ("cases", cases)) if value is not None]
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(given)}: expected only one of them")
    if part not in ("train", "validation"):
        raise ConfigError(f"part: {part!r}; expected 'train' or 'validation'")
    if part == "validation" and fold is None and shots is None:
        raise ConfigError("part: 'validation' needs fold or shots, which hold cases out")
    if splits is not None and fold is None:
        raise ConfigError("splits: needs fold, which selects one of the file's")
    if fold is not None:
        if splits is not None and isinstance(fold, int):
            return {"splits": path("splits", splits), "fold": count("fold", fold), "part": part}
        try:
            k, n = fold
        except (TypeError, ValueError):
            raise ConfigError(f"fold: {fold!r}; expected (k, n), such as (0, 5)") from None
        number = {"fold": count("fold", k), "of": count("fold", n, 2 if splits is None else 1), "part": part}
        if splits is not None:
            return {"splits": path("splits", splits), **number}
        return {**number, "seed": count("split_seed", seed), "rule": rule}
    if shots is not None:
        return {"shots": count("shots", shots, 1), "part": part, "seed": count("split_seed", seed)}
    if cases is None:
        return "all"
    if isinstance(cases, (str, os.PathLike)):
        return {"list": path("cases", cases)}
    return {"cases": strings("cases", cases)}
