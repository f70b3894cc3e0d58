from __future__ import annotations

from typing import Any, Iterator, Optional

from . import _engine
from ._options import Path


def load_nbest(
    path: Path,
    format: Optional[str] = None,
    *,
    first_pass: Optional[str] = None,
    lm: Optional[str] = None,
) -> Iterator[dict[str, Any]]:
    """The utterances of a file, one after the other, in constant memory.

    ``format`` is one of those of ``lorb-engine convert``: "jsonl", "espnet", "kaldi", "nemo", "mlm", "csv" or "parquet";
    None recognises it. ``first_pass`` and ``lm`` name the score fields that each hypothesis must have. Each utterance is a dict with every field that stood in the file.
    """
    return _engine.Lists(path, format, first_pass, lm)
