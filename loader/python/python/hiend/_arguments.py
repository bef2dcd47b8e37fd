"""Checks of arguments that Python users write in several ways. Each error names the argument, the value and the range."""

from __future__ import annotations

import json
import math
import operator
import os
from typing import Any, Callable, Mapping, Sequence

import numpy as np

from hiend import _hiend
from hiend._errors import ConfigError

_LARGEST = 2**64 - 1


def flag(key: str, value: Any) -> bool:
    """True or false; texts and lists, which Python counts as true, are errors."""
    if not isinstance(value, (bool, np.bool_)):
        raise ConfigError(f"{key}: {value!r}; expected True or False")
    return bool(value)


def count(key: str, value: Any, smallest: int = 0, largest: int = _LARGEST, *, expected: str = "") -> int:
    """A whole number from ``smallest`` to ``largest``; the error adds what else was ``expected``."""
    try:
        # True is a number to Python.
        number = smallest - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = smallest - 1
    if number < smallest:
        other = expected and f" {expected}"
        raise ConfigError(f"{key}: {value!r}; expected a whole number of at least {smallest}{other}")
    if number > largest:
        raise ConfigError(f"{key}: {value!r}; expected a whole number of at most {largest}")
    return number


def real(key: str, value: Any, expected: str) -> float:
    """A finite number; the error says what was ``expected``."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"{key}: {value!r}; expected {expected}")
    return number


def interval(key: str, value: Any) -> list[float]:
    """Two finite numbers."""
    try:
        ends = [] if isinstance(value, str) else [real(key, end, "a number") for end in value]
    except (TypeError, ConfigError):
        ends = []
    if len(ends) != 2:
        raise ConfigError(f"{key}: {value!r}; expected two numbers, the lower one first")
    return ends


def triple(key: str, value: Any, kind: Callable[[Any], Any], name: str = "number") -> list[Any]:
    """Three finite numbers, from one or three."""
    values = list(value) if hasattr(value, "__iter__") and not isinstance(value, str) else [value] * 3
    try:
        numbers = [kind(number) for number in values]
        are_finite = all(math.isfinite(number) for number in numbers)
    except (TypeError, ValueError, OverflowError):
        numbers, are_finite = [], False
    if len(numbers) != 3 or not are_finite:
        raise ConfigError(f"{key}: {value!r}; expected one {name} or three")
    return numbers


def strings(key: str, value: str | Sequence[str]) -> list[str]:
    """A list of texts, from one or several."""
    values: list[Any]
    try:
        values = [value] if isinstance(value, str) else list(value)
    except TypeError:
        values = [value]
    if not all(isinstance(text, str) for text in values):
        raise ConfigError(f"{key}: {value!r}; expected a name or a list of names")
    return values


def path(key: str, value: Any) -> str:
    """A path or URL as text."""
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(text, str) or not text:
        raise ConfigError(f"{key}: {value!r}; expected a path, as str or os.PathLike")
    return text


def num_bytes(key: str, value: int | str) -> int:
    """A number of bytes, from a number or a size such as ``"4GiB"``."""
    if not isinstance(value, str):
        return count(key, value)
    try:
        return _hiend.parse_bytes(value)
    except ConfigError:
        raise ConfigError(f"{key}: {value!r}; expected a size, such as 512MiB or 4GiB") from None


def as_json(config: Mapping[str, Any]) -> str:
    """A configuration as JSON, which has no number that is not finite."""
    for key, value in config.items():
        try:
            json.dumps(value, sort_keys=True, allow_nan=False)
        except (TypeError, ValueError):
            kinds = "texts, finite numbers, lists and mappings of those"
            raise ConfigError(f"{key}: {value!r}; expected {kinds}") from None
    return json.dumps(config, sort_keys=True)
