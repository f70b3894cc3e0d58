from __future__ import annotations

from typing import Any, Mapping, Optional, Sequence, Union

from . import _engine
from . import _options as options


def evaluate(
    files: Union[options.Path, Sequence[options.Path]],
    *,
    model: Optional[options.Path] = None,
    adapter: Optional[options.Path] = None,
    adapter_for: Optional[Mapping[str, options.Path]] = None,
    tune: Union[options.Path, Sequence[options.Path]] = (),
    prune: Union[float, str, None] = None,
    align: str = "levenshtein",
    trn: Optional[options.Path] = None,
    device: str = "auto",
    threads: Optional[int] = None,
    dtype: Optional[str] = None,
    format: Optional[str] = None,
    ref: Optional[options.Path] = None,
    ctc_weight: Optional[float] = None,
    manifest: Optional[options.Path] = None,
    first_pass: Optional[str] = None,
    lm: Optional[str] = None,
    case: Optional[str] = None,
    noise: Optional[str] = None,
    fillers: Optional[Sequence[str]] = None,
    unit: Optional[str] = None,
) -> dict[str, Any]:
    """Counts the word errors of lists, as ``lorb-engine evaluate --json`` does.

    With ``model`` or ``adapter`` the lists are scored anew (an adapter alone is one of the embedded model); without,
    their own scores count. ``adapter_for`` has domains and the adapter of each, for the utterances whose field "domain"
    names it; ``adapter`` is then the one for all others. ``tune`` are lists to tune the weights on first, which are saved beside the adapter.
    ``prune`` is a margin, or "auto"; ``align`` is "levenshtein" or "sclite"; ``trn`` is a folder for transcripts that
    sclite reads. It warns where ``tune`` has utterances that an adapter was trained on. ``format``, ``ref``, ``ctc_weight`` and ``manifest`` say how all files are read, as for ``load_nbest``.
    """
    return _engine.evaluate(
        {
            "files": options.paths(files),
            "model": options.path(model),
            "adapter": options.path(adapter),
            "adapter_for": [[domain, options.path(named)] for domain, named in (adapter_for or {}).items()],
            "tune": options.paths(tune),
            "prune": None if prune is None else str(prune),
            "align": align,
            "transcripts": options.path(trn),
            "reading": options.reading(format, ref, ctc_weight, manifest),
            "lists": options.lists(first_pass, lm, case, noise, fillers, unit),
            "compute": options.compute(threads, device, dtype),
        }
    )
