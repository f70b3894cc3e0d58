from __future__ import annotations

from typing import Any, Iterable, Iterator, Mapping, Optional, Sequence, Union, overload

import numpy as np
import numpy.typing as npt

from . import _engine
from . import _options as options

Utterance = Mapping[str, Any]


class Rescorer:
    """A BERT with an adapter, ready to score.

    ``model`` is a Hugging Face folder or an id on the Hub, or None for the small embedded one; without ``adapter`` the model's own head
    scores. ``device`` is "auto", "cpu" or "cuda", ``threads`` the number of workers (None: one per core), ``dtype``
    what the base's weights are kept and multiplied in: "f32", "bf16" or, on the CPU, "int8" (None: f32 on the CPU, bf16
    on a GPU). ``beta`` weighs the engine's score in
    place of what was tuned; the rest says how lists are read in place of what the adapter was trained with.

    Many threads may use one Rescorer at once; a score depends on its text, the instruction set and ``dtype`` alone.
    """

    def __init__(
        self,
        model: Optional[options.Path] = None,
        adapter: Optional[options.Path] = None,
        device: str = "auto",
        threads: Optional[int] = None,
        dtype: Optional[str] = None,
        *,
        beta: Optional[float] = None,
        first_pass: Optional[str] = None,
        lm: Optional[str] = None,
        case: Optional[str] = None,
        noise: Optional[str] = None,
        fillers: Optional[Sequence[str]] = None,
        unit: Optional[str] = None,
    ) -> None:
        self._engine = _engine.Rescorer(
            {
                "model": options.path(model),
                "adapter": options.path(adapter),
                "beta": beta,
                "lists": options.lists(first_pass, lm, case, noise, fillers, unit),
                "compute": options.compute(threads, device, dtype),
            }
        )

    @property
    def device(self) -> str:
        """What decides the last bits of a score: the CPU's instruction set, or the GPU and its kernels."""
        return self._engine.device

    @property
    def digest(self) -> str:
        """Of what decides a rescored list apart from the device: the base with its tokenizer, the adapter, the weights,
        and how lists are read. Two that have the same device and digest write the same bytes, unless their bases
        differ in weights that the base's fingerprint does not look at, as after training some layers alone.
        """
        return self._engine.digest

    def score(self, texts: Iterable[str]) -> npt.NDArray[np.float32]:
        """g of each text."""
        if isinstance(texts, str):
            raise TypeError("texts: expected strings, not one string")
        return np.frombuffer(self._engine.score(list(texts)), dtype=np.float32)

    # Sequences are iterable too, and mypy minds that they give something else; the first that fits counts.
    @overload
    def rescore(  # type: ignore[overload-overlap]
        self, lists: Sequence[Utterance], *, prune: Optional[float] = None
    ) -> list[dict[str, Any]]: ...

    @overload
    def rescore(self, lists: Iterable[Utterance], *, prune: Optional[float] = None) -> Iterator[dict[str, Any]]: ...

    def rescore(
        self, lists: Iterable[Utterance], *, prune: Optional[float] = None
    ) -> Union[list[dict[str, Any]], Iterator[dict[str, Any]]]:
        """Each utterance with "lorb", "total" and, where the adapter has an n-gram model, "lorb_ngram" in its hypotheses, and
        "best", "confidence" and "order": the dict that the command writes as a line. A list gives a list; any other iterable gives an iterator, which reads up
        to 128 utterances ahead and holds no more.

        ``prune``: hypotheses whose first-pass score trails the best of their list by more are not scored.
        """
        rescored = self._engine.rescore(iter(lists), prune)
        return list(rescored) if isinstance(lists, Sequence) else rescored

    def rescore_file(
        self,
        input: options.Path,
        output: options.Path,
        *,
        prune: Optional[float] = None,
        format: Optional[str] = None,
        ref: Optional[options.Path] = None,
        ctc_weight: Optional[float] = None,
        manifest: Optional[options.Path] = None,
    ) -> dict[str, int]:
        """Rescores a file of lists, or a folder, into one of the same format, byte for byte what the command writes:
        compressed where its name ends in .gz or .zst, written beside, synced and renamed. Returns the counts of "utterances", "hypotheses", "tokens",
        and hypotheses that were "cut" at the model's limit. ``format``, ``ref``, ``ctc_weight`` and ``manifest`` say how the
        input is read, as for ``load_nbest``; fields that the format cannot hold are told of in a warning.
        """
        reading = options.reading(format, ref, ctc_weight, manifest)
        return self._engine.rescore_file(input, output, prune, reading)
