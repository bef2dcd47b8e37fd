"""States of a stream, and the check that one belongs to a stream."""

from __future__ import annotations

import json
from typing import Any, Callable, Mapping

from hiend._arguments import count
from hiend._errors import ConfigError

VERSION = 1
# Step after the last one: below it, the number of a visit fits into 64 bits.
STEPS = 2**47
_KEYS = ("step", "first_step", "seed", "config", "digest")
# Keys of a configuration that say nothing but which cases there are, which the digest tells.
_SELECTION = {"include", "exclude", "split"}


def check(state: Any, ours: Mapping[str, Any], has_digest: Callable[[str], bool]) -> tuple[int, int]:
    """Step of a state, and that at which its iteration began; ``ours`` identifies the stream that is to continue there.

    Raises:
        ConfigError: If the state belongs to another stream, with the first key that differs.
    """
    if not isinstance(state, Mapping):
        raise ConfigError(f"state_dict: {state!r}; expected the mapping that state_dict() returned")
    if state.get("version") != VERSION:
        raise ConfigError(f"state_dict: version {state.get('version')!r}; expected {VERSION}")
    missing = [key for key in _KEYS if key not in state]
    if missing:
        raise ConfigError(f"state_dict: no {missing[0]}; expected the mapping that state_dict() returned")
    if state["seed"] != ours["seed"]:
        raise ConfigError(f"state_dict: seed is {state['seed']} there and {ours['seed']} here")
    difference = _difference(state["config"], ours["config"])
    if difference is not None:
        raise ConfigError(f"state_dict: {difference}")
    if not has_digest(str(state["digest"])):
        raise ConfigError(f"state_dict: {_other_cases(state, ours)}")
    step = count("state_dict: step", state["step"], largest=STEPS - 1)
    return step, count("state_dict: first_step", state["first_step"], largest=step)


def _difference(theirs: Any, ours: str) -> str | None:
    """The first key in which a configuration differs from that of this dataset, the selection of cases excepted."""
    try:
        there, here = json.loads(theirs), json.loads(ours)
        keys = sorted({*there, *here} - _SELECTION)
        key = next((key for key in keys if there.get(key) != here.get(key)), None)
    except (AttributeError, TypeError, ValueError):
        return f"config is {theirs!r} there and {ours!r} here"
    return None if key is None else f"{key} is {there.get(key)!r} there and {here.get(key)!r} here"


def _other_cases(state: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """The difference between the cases of a state and those of this dataset."""
    there, here = state.get("cases"), ours["cases"]
    if there is not None and here is not None:
        lost, added = sorted({*there} - {*here}), sorted({*here} - {*there})
        if lost:
            return f"not among the cases here: {len(lost)} of its cases, such as {lost[0]}"
        if added:
            remedy = "CropDataset(..., cases=state['cases']), without fold and shots, leaves them out"
            return f"not among its cases: {len(added)} of those here, such as {added[0]}; {remedy}"
    others = "other cases or voxels, or another label to ignore"
    return f"{others}: the digest is {state['digest']} there and {ours['digest']} here"
