from __future__ import annotations

from typing import Any, Iterator, Optional

from . import _engine
from . import _options as options


def load_nbest(
    path: options.Path,
    format: Optional[str] = None,
    *,
    ref: Optional[options.Path] = None,
    ctc_weight: Optional[float] = None,
    manifest: Optional[options.Path] = None,
    first_pass: Optional[str] = None,
    lm: Optional[str] = None,
) -> Iterator[dict[str, Any]]:
    """The utterances of a file, one after the other, in constant memory.

    ``format`` is one of those of ``lorb-engine convert``: "jsonl", "espnet", "kaldi", "nemo", "mlm", "csv" or "parquet";
    None recognises it. ``ref`` is a file of what was said, ``ctc_weight`` that of ESPnet's am, ``manifest`` that of a list of
    NeMo's, as in the command line. ``first_pass`` and ``lm`` name the score fields that each hypothesis must have. Each utterance is a dict with every field that stood in the file.
    """
    return _engine.Lists(path, options.reading(format, ref, ctc_weight, manifest), first_pass, lm)
