"""Checks of arguments that Python users write in several ways."""

from __future__ import annotations

import operator
from typing import Any, Callable, Sequence

from hiend import _hiend
from hiend._errors import ConfigError


def count(key: str, value: Any, smallest: int = 0) -> int:
    """A whole number of at least ``smallest``."""
    try:
        number = operator.index(value)
    except TypeError:
        number = smallest - 1
    if number < smallest:
        raise ConfigError(f"{key}: {value!r}; expected a whole number of at least {smallest}")
    return number


def triple(key: str, value: Any, kind: Callable[[Any], Any]) -> list[Any]:
    """Three numbers, from one or three."""
    values = list(value) if hasattr(value, "__iter__") and not isinstance(value, str) else [value] * 3
    try:
        numbers = [kind(number) for number in values]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != 3:
        raise ConfigError(f"{key}: {value!r}; expected one number or three")
    return numbers


def strings(key: str, value: str | Sequence[str]) -> list[str]:
    """A list of texts, from one or several."""
    values = [value] if isinstance(value, str) else list(value)
    if not all(isinstance(text, str) for text in values):
        raise ConfigError(f"{key}: {value!r}; expected a name or a list of names")
    return values


def num_bytes(key: str, value: int | str) -> int:
    """A number of bytes, from a number or a size such as ``"4GiB"``."""
    if not isinstance(value, str):
        return count(key, value)
    try:
        return _hiend.parse_bytes(value)
    except ConfigError:
        raise ConfigError(f"{key}: {value!r}; expected a size, such as 512MiB or 4GiB") from None
