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
    usual_hint: str = "run again with --debug and report the traceback"
    """The way out where the place that raises knows no better one."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.usual_hint

    def __str__(self) -> str:
        return f"{self.message}\n  -> {self.hint}"


class UsageError(RampEdgeError):
    """An option or a combination of options that makes no sense."""

    exit_code = 2
    usual_hint = "the command's --help lists its options, with examples"


class InfeasibleBudgetError(RampEdgeError):
    """No legal allocation fits the memory, bit or speed budget."""

    exit_code = 3
    usual_hint = "a smaller --ctx, a quantized --kv-type or a larger --target-size leaves more room"


class BudgetViolatedError(RampEdgeError):
    """A record is beyond a limit of the budget, or worse than its baseline by more than the budget allows."""

    exit_code = 4
    usual_hint = "mend what made it worse; where the cost is meant, change the budget in the same pull request"


class GateUndecidedError(RampEdgeError):
    """A rule could not be judged: a figure is missing, the baseline is unlike, or the measurement is too noisy."""

    exit_code = 5
    usual_hint = "measure what is missing, or measure again on a quiet board; nothing passes unjudged"


class BudgetFileError(RampEdgeError):
    """`budgets.yaml` cannot be read, or holds what is no rule."""

    exit_code = 6
    usual_hint = "ramp-edge gate init OUT -o budgets.yaml writes one; docs/gates.md lists every metric"


class ArtifactMismatchError(RampEdgeError):
    """A file that was written does not read back as planned."""

    exit_code = 7
    usual_hint = "a bug in ramp-edge or a failing disk: build again, and report it with build.json if it stays"


class ModelFileError(RampEdgeError):
    """The model file is missing, truncated, malformed or holds values that are not finite."""

    exit_code = 8
    usual_hint = "copy or download the file again; ramp-edge inspect shows what is readable"


class UnsupportedModelError(RampEdgeError):
    """The model is readable, but its architecture or storage cannot be compiled as asked."""

    exit_code = 9
    usual_hint = "start from the F16 or BF16 file of a supported architecture"


class CalibrationError(RampEdgeError):
    """The calibration or evaluation text is empty, too short or unreadable."""

    exit_code = 10
    usual_hint = "give readable UTF-8 text, a few hundred kilobytes of what the model will see"


class ProfileError(RampEdgeError):
    """A device profile is unknown, malformed or impossible."""

    exit_code = 11
    usual_hint = (
        "ramp-edge devices show raspberry-pi-5 is a valid example; ramp-edge devices validate names every problem"
    )


class RuntimeToolError(RampEdgeError):
    """llama.cpp's tools could not be fetched, verified, built or run."""

    exit_code = 12
    usual_hint = "pip install --force-reinstall llama-cpp-python==0.3.36; ramp-edge runtime list shows what is there"


class OutputError(RampEdgeError):
    """The result cannot be written: disk full, no permission, or something is in the way."""

    exit_code = 13
    usual_hint = "choose a folder that can be written with -o"


class ResumeError(RampEdgeError):
    """`--resume` found saved work that belongs to other settings, or none at all."""

    exit_code = 14
    usual_hint = "run the same command without --resume to start afresh"


class EvaluationError(RampEdgeError):
    """libllama could not load or run a model, or its numbers are not finite."""

    exit_code = 15
    usual_hint = "free memory, or use a smaller context; ramp-edge inspect shows whether the file is whole"


class CacheError(RampEdgeError):
    """The cache cannot be written: disk full, no permission, or something is in the way."""

    exit_code = 16
    usual_hint = "free space there, or set RAMP_EDGE_CACHE to a folder that can be written"


class TaskDataError(RampEdgeError):
    """A multiple-choice task's file is missing, or not in the layout that its task has."""

    exit_code = 17
    usual_hint = "give a folder with the task files: --task-data DIR or RAMP_EDGE_TASK_DATA"


class TargetsFileError(RampEdgeError):
    """`targets.yaml` is malformed, or the target that was named is not in it and is no address either."""

    exit_code = 18
    usual_hint = "ramp-edge targets list shows what there is; --target also takes local or user@host[:port]"


class ConnectionFailedError(RampEdgeError):
    """The board cannot be reached, or the connection broke."""

    exit_code = 19
    usual_hint = (
        "check that the board is on and that `ssh` reaches it, then run the same command again: it goes on where it was"
    )


class HostKeyError(RampEdgeError):
    """The board's host key is unknown or not the one that is on record."""

    exit_code = 20
    usual_hint = "compare the fingerprint with the board's own: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub"


class AuthenticationError(RampEdgeError):
    """The board refused every key that was offered."""

    exit_code = 21
    usual_hint = "ssh-copy-id USER@HOST puts your key there; identity_file in targets.yaml names another one"


class BoardStorageError(RampEdgeError):
    """The board's disk is full, or refuses what deploy needs to do in its folder."""

    exit_code = 22
    usual_hint = "free some space on the board, or give the target another folder in targets.yaml"


class BoardMismatchError(RampEdgeError):
    """What is on the board is not what was sent there."""

    exit_code = 23
    usual_hint = "deploy again: only what differs is sent"


class BoardBusyError(RampEdgeError):
    """Another deploy to the same board is under way."""

    exit_code = 24
    usual_hint = "wait for it, then run the same command again"


class BoardToolError(RampEdgeError):
    """A program on the board cannot start, crashed, or says what cannot be understood."""

    exit_code = 25
    usual_hint = "ramp-edge runtime list shows which runtime fits which board; ramp-edge deploy sends it"


class DeadlineError(RampEdgeError):
    """The board did not answer in the time that it was given."""

    exit_code = 26
    usual_hint = "give it longer with --timeout, or look at the board's load"


class PolicyFileError(RampEdgeError):
    """A policy file is missing, damaged, or of another version of ramp-edge."""

    exit_code = 27
    usual_hint = "leave --policy out for the package's; ramp-edge train writes policies"
