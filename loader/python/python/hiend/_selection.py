"""Sources, cases and augmentation of a stream, from the arguments of ``CropDataset``."""

from __future__ import annotations

import os
import urllib.parse
from typing import Any, Mapping, Sequence

from hiend._arguments import count, path, strings
from hiend._cache import Cache
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
    elif isinstance(source, (str, os.PathLike, Cache)):
        source = [source]
    if isinstance(source, (set, frozenset)):
        raise ConfigError(f"source: {source!r}; expected a list: the order of a set differs from process to process")
    if isinstance(source, (bytes, bytearray)) or not hasattr(source, "__iter__"):
        raise ConfigError(f"source: {source!r}; expected a path, a list of paths or a mapping from path to weight")
    weighted = list(source.items()) if isinstance(source, Mapping) else [(one, 1) for one in source]
    if not weighted:
        raise ConfigError("source: no cache; expected a path, a list of paths or a mapping from path to weight")
    def place(one: Any) -> str:
        return one.path if isinstance(one, Cache) else path("source", one)

    caches = [(place(one), count("source: weight", weight, 1, 2**32 - 1)) for one, weight in weighted]
    remote = [_is_server(cache) for cache, _ in caches]
    if all(remote) and not isinstance(source, Mapping):
        return [], [cache for cache, _ in caches]
    if any(remote):
        raise ConfigError("source: URLs of servers among caches or with weights; expected one or the other")
    seen = set()
    for cache, _ in caches:
        identity = cache.rstrip("/") if "://" in cache else os.path.realpath(cache)
        if identity in seen:
            raise ConfigError(f"source: {cache} is given twice; {{path: weight}} gives a cache a larger share")
        seen.add(identity)
    return caches, []


def _is_server(url: str) -> bool:
    """Whether a URL names a server: one on plain HTTP with a path is that of a cache."""
    if url.startswith("http://"):
        return urllib.parse.urlsplit(url).path in ("", "/")
    return url.startswith("unix:")


def augmentation(augment: Any) -> dict[str, Any]:
    """Augmentation as a mapping."""
    if isinstance(augment, str):
        return {"chain": augment}
    if isinstance(augment, Mapping):
        return dict(augment)
    expected = "a name, such as 'recipe', or a mapping, such as {'chain': 'nnunet'}; 'plain' augments nothing"
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
    if rule not in ("dealt", "hashed"):
        raise ConfigError(f"fold_rule: {rule!r}; expected 'dealt' or 'hashed'")
    if rule != "dealt" and (fold is None or splits is not None):
        raise ConfigError(f"fold_rule: {rule!r} has no effect; it is for fold=(k, n) without splits")
    if count("split_seed", seed) != 0 and (splits is not None or (fold is None and shots is None)):
        raise ConfigError(f"split_seed: {seed!r} has no effect; it is for fold=(k, n) without splits, and for shots")
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
        return {**number, "seed": int(seed), "rule": rule}
    if shots is not None:
        return {"shots": count("shots", shots, 1), "part": part, "seed": int(seed)}
    if cases is None:
        return "all"
    if isinstance(cases, (str, os.PathLike)):
        return {"list": path("cases", cases)}
    return {"cases": strings("cases", cases)}
