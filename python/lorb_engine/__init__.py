"""Second-pass rescoring of N-best lists with low-rank adapted BERT (LoRB)."""

from ._errors import DeviceError, FileError, InputError, LorbError, NotFiniteError, UsageError
from ._evaluate import evaluate
from ._lists import load_nbest
from ._rescorer import Rescorer
from ._train import StepReport, train

__all__ = [
    "DeviceError",
    "FileError",
    "InputError",
    "LorbError",
    "NotFiniteError",
    "Rescorer",
    "StepReport",
    "UsageError",
    "evaluate",
    "load_nbest",
    "train",
]
