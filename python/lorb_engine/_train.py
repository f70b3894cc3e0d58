from __future__ import annotations

from typing import Any, Callable, Iterable, Mapping, Optional, Sequence, TypedDict, Union

from . import _engine
from . import _options as options


class StepReport(TypedDict):
    """What happened in one step."""

    domain: Optional[str]
    """Whose adapter it was of; None without domains."""
    epoch: int
    step: int
    steps: int
    mwer: float
    """The mean over the step's utterances."""
    mwer_without: float
    """What it would be by the first pass alone."""
    correlation: float
    gradient_norm: float
    """Before clipping."""
    tokens: int
    lr: float
    """Of the low-rank matrices."""
    seconds: float
    """Since the run began."""


def train(
    *,
    model: Optional[options.Path] = None,
    train: Union[options.Path, Sequence[options.Path]] = (),
    domain: Optional[Mapping[str, Union[options.Path, Sequence[options.Path]]]] = None,
    valid: Union[float, options.Path] = 0.2,
    test: Union[options.Path, Sequence[options.Path]] = (),
    out: options.Path = "lorb-adapter",
    resume: bool = False,
    init_adapter: Optional[options.Path] = None,
    rank: Optional[int] = None,
    alpha: Optional[float] = None,
    targets: Optional[str] = None,
    dropout: Optional[float] = None,
    lr: Optional[float] = None,
    head_lr: Optional[float] = None,
    weight_decay: Optional[float] = None,
    epochs: Optional[int] = None,
    patience: Optional[int] = None,
    hyps: Optional[int] = None,
    batch_tokens: Optional[int] = None,
    beta: Optional[float] = None,
    first_pass_weight: Optional[float] = None,
    lm_weight: Optional[float] = None,
    ngram_order: Optional[int] = None,
    fresh_pooler: bool = False,
    corr_weight: Optional[float] = None,
    seed: Optional[int] = None,
    checkpoint_every: int = 15,
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
    callback: Optional[Callable[[StepReport], object]] = None,
    share: Optional[tuple[int, int]] = None,
    all_gather: Optional[Callable[[bytes], Iterable[bytes]]] = None,
) -> Optional[dict[str, Any]]:
    """Trains an adapter into the folder ``out``, as ``lorb-engine train`` does; ``lorb-engine train --help`` explains
    the options. None leaves a choice to the engine (``beta``: it is learned); without ``model`` the base is the
    embedded one, and without ``train`` too the lists are, those of ``test`` unless it names others.

    ``domain`` has names of domains, and the lists of each: instead of one adapter there is one a domain, in the folder of
    its name in ``out``, as if it were trained alone.

    ``format``, ``ref``, ``ctc_weight`` and ``manifest`` say how all files are read, as for ``load_nbest``.

    ``callback`` is called after each step, on the thread that called. What it raises ends the training, and so does
    Ctrl-C: the state is saved after the step under way, and ``resume=True`` goes on from there. A second Ctrl-C does
    not wait for that.

    ``share`` and ``all_gather`` are for several processes that train one adapter together, on the CPU: (0, 2) and (1, 2)
    for two, each of which takes its part of every step, and a function that gives the bytes that every process gave to
    it, in that order, on the thread that called. All get the same result, and the first writes it.

    Returns a dict: "adapter", "epoch" of "epochs", "seconds", "weights" tuned on the validation lists, and the word
    error rates in percent of "validation" and "held_out" (None without ``test``, unless the lists are embedded): "first_pass",
    "tuned_without_lorb", "rescored", "oracle". None where ``resume`` found that nothing was left to do.
    With ``domain``, a dict of such by the names.
    """
    request = {
        "model": options.path(model),
        "train": options.paths(train),
        "domain": [[name, options.paths(lists)] for name, lists in (domain or {}).items()],
        "valid": str(valid) if isinstance(valid, (int, float)) else options.path(valid),
        "test": options.paths(test),
        "out": options.path(out),
        "resume": resume,
        "init_adapter": options.path(init_adapter),
        "options": {
            "rank": rank,
            "alpha": alpha,
            "targets": targets,
            "dropout": dropout,
            "lr": lr,
            "head_lr": head_lr,
            "weight_decay": weight_decay,
            "epochs": epochs,
            "patience": patience,
            "hyps": hyps,
            "batch_tokens": batch_tokens,
            "beta": None if beta is None else {"fixed": beta},
            "first_pass_weight": first_pass_weight,
            "lm_weight": lm_weight,
            "ngram_order": ngram_order,
            "fresh_pooler": fresh_pooler,
            "corr_weight": corr_weight,
            "seed": seed,
        },
        "checkpoint_every": checkpoint_every,
        "share": share,
        "reading": options.reading(format, ref, ctc_weight, manifest),
        "lists": options.lists(first_pass, lm, case, noise, fillers, unit),
        "compute": options.compute(threads, device, dtype),
    }
    return _engine.train(request, callback, all_gather)
