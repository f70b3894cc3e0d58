"""What can go wrong. The text is that of the command line."""

from __future__ import annotations


class LorbError(Exception):
    """Any error of the engine."""


class UsageError(LorbError, ValueError):
    """Options that contradict each other or the data."""


class InputError(LorbError, ValueError):
    """A file, a list or a tensor is not what it should be."""


class FileError(LorbError, OSError):
    """The operating system refused something; ``errno`` says what."""

    def __str__(self) -> str:
        return str(self.args[0])


class NotFiniteError(LorbError, ArithmeticError):
    """The loss or a score became NaN or infinite."""


class DeviceError(LorbError, RuntimeError):
    """The GPU or its driver refused or failed."""
