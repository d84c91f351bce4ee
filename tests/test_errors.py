"""Exit codes are a promise to scripts: one per cause, none of the reserved ones."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ramp_edge import errors
from ramp_edge.errors import RampEdgeError, UsageError

RESERVED = {0, 1, 70, 130}


def subclasses(base: type[RampEdgeError]) -> Iterator[type[RampEdgeError]]:
    for cls in base.__subclasses__():
        yield cls
        yield from subclasses(cls)


def test_every_error_has_its_own_exit_code() -> None:
    codes: dict[int, type[RampEdgeError]] = {}
    for cls in subclasses(RampEdgeError):
        assert cls.exit_code not in RESERVED, cls
        assert 0 < cls.exit_code < 128, f"{cls} would read as a signal"
        assert codes.setdefault(cls.exit_code, cls) is cls, f"{cls} and {codes[cls.exit_code]} share a code"
    assert len(codes) >= 11


@pytest.mark.parametrize("cls", sorted(subclasses(RampEdgeError), key=lambda c: c.__name__))
def test_every_error_lives_in_one_place_and_explains_itself(cls: type[RampEdgeError]) -> None:
    if cls.__module__.startswith("ramp_edge"):
        assert cls.__module__ == errors.__name__
        assert cls.__doc__
        assert "exit_code" in vars(cls), "an inherited code is not its own"
        assert "usual_hint" in vars(cls), "every error has a next step"


def test_the_hint_follows_the_message() -> None:
    error = UsageError("--ctx is -1", hint="give a whole number from 1")
    assert (error.message, error.hint) == ("--ctx is -1", "give a whole number from 1")
    assert str(error) == "--ctx is -1\n  -> give a whole number from 1"
    assert str(UsageError("alone")) == f"alone\n  -> {UsageError.usual_hint}"
