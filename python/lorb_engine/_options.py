"""Options as the native part takes them."""

from __future__ import annotations

import os
from typing import Any, Optional, Sequence, Union

Path = Union[str, "os.PathLike[str]"]


def path(given: Optional[Path]) -> Optional[str]:
    return None if given is None else os.fspath(given)


def paths(given: Union[Path, Sequence[Path]]) -> list[str]:
    """One path, or several."""
    return [os.fspath(given)] if isinstance(given, (str, os.PathLike)) else [os.fspath(p) for p in given]


def reading(
    format: Optional[str], ref: Optional[Path], ctc_weight: Optional[float], manifest: Optional[Path]
) -> dict[str, Any]:
    return {"format": format, "ref": path(ref), "ctc_weight": ctc_weight, "manifest": path(manifest)}


def lists(
    first_pass: Optional[str],
    lm: Optional[str],
    case: Optional[str],
    noise: Optional[str],
    fillers: Optional[Sequence[str]],
    unit: Optional[str],
) -> dict[str, Any]:
    words = None if fillers is None else list(fillers)
    return {"first_pass": first_pass, "lm": lm, "case": case, "noise": noise, "fillers": words, "unit": unit}


def compute(threads: Optional[int], device: str, dtype: Optional[str]) -> dict[str, Any]:
    return {"threads": threads, "device": device, "dtype": dtype}
