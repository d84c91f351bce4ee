"""Every error that a user can see, one class and one exit code per cause.

A message says what is wrong, where (file, field or tensor) and the numbers; `hint` says the way out.
Only `ramp_edge.cli.main` turns these into an exit; the library raises them and never prints.
Exit codes 0 (success), 1 (reserved: never used), 70 (a bug in ramp-edge) and 130 (interrupted) are not classes here.
"""

from __future__ import annotations


class RampEdgeError(Exception):
    """Base of all user-visible errors."""

    exit_code: int = 70
    """Process exit code; unique for each concrete class (tested)."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  -> {self.hint}" if self.hint else self.message


class UsageError(RampEdgeError):
    """An option or a combination of options that makes no sense."""

    exit_code = 2


class InfeasibleBudgetError(RampEdgeError):
    """No legal allocation fits the memory, bit or speed budget."""

    exit_code = 3


class ArtifactMismatchError(RampEdgeError):
    """A file that was written does not read back as planned."""

    exit_code = 7


class ModelFileError(RampEdgeError):
    """The model file is missing, truncated, malformed or holds values that are not finite."""

    exit_code = 8


class UnsupportedModelError(RampEdgeError):
    """The model is readable, but its architecture or storage cannot be compiled as asked."""

    exit_code = 9


class CalibrationError(RampEdgeError):
    """The calibration or evaluation text is empty, too short or unreadable."""

    exit_code = 10


class ProfileError(RampEdgeError):
    """A device profile is unknown, malformed or impossible."""

    exit_code = 11


class RuntimeToolError(RampEdgeError):
    """llama.cpp's tools could not be fetched, verified, built or run."""

    exit_code = 12


class OutputError(RampEdgeError):
    """The result cannot be written: disk full, no permission, or something is in the way."""

    exit_code = 13


class ResumeError(RampEdgeError):
    """`--resume` found saved work that belongs to other settings, or none at all."""

    exit_code = 14


class EvaluationError(RampEdgeError):
    """libllama could not load or run a model, or its numbers are not finite."""

    exit_code = 15
