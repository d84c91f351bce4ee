"""The user's own texts, read and cut into windows before anything expensive: a bad one must not cost an hour of calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ramp_edge.calibrate.text import TextWindows, windows_of, with_bos
from ramp_edge.errors import CalibrationError
from ramp_edge.evaluate.evaluator import read_text
from ramp_edge.evaluate.llama import LlamaVocabulary
from ramp_edge.events import EventBus
from ramp_edge.pipeline.request import EFFORTS, WINDOW_TOKENS, BuildRequest
from ramp_edge.records import ModelInventory

Tokens = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Texts:
    """The files' contents."""

    calibration: tuple[str, ...]
    """In the order of the options; empty where the model writes its own."""
    evaluation: str | None
    """From `--eval-text`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GivenWindows:
    """Windows of the user's texts, each beginning with the model's own first token where it wants one."""

    calibration: TextWindows | None
    """From `--calibration`; None where the model writes its own text."""
    evaluation: Tokens | None
    """int32 [n_windows, window_tokens] from `--eval-text`."""
    bos: int | None
    """What each window begins with; None where the model wants nothing there."""


def read_texts(request: BuildRequest) -> Texts:
    """Read every text that the request names. Raises CalibrationError for one that is missing, empty or not text."""
    return Texts(
        calibration=tuple(read_text(path) for path in request.calibration),
        evaluation=None if request.eval_text is None else read_text(request.eval_text),
    )


def cut_texts(request: BuildRequest, texts: Texts, inventory: ModelInventory, events: EventBus) -> GivenWindows:
    """Tokenize the texts and cut them into windows. Raises CalibrationError for those that are too short."""
    effort = EFFORTS[request.effort]
    size = min(WINDOW_TOKENS, inventory.hyper.context_length)
    with LlamaVocabulary(inventory.path) as vocabulary:
        bos = vocabulary.bos if vocabulary.add_bos else None
        evaluation = None
        if texts.evaluation is not None:
            tokens = vocabulary.tokenize(texts.evaluation)
            if len(tokens) < size:
                raise CalibrationError(
                    f"--eval-text {request.eval_text}: {len(tokens)} tokens, one window needs {size}",
                    hint=f"give more text: {effort.evaluation_windows} windows are measured where there are as many",
                )
            windows = tokens[: len(tokens) // size * size].reshape(-1, size)
            evaluation = with_bos(windows[: effort.evaluation_windows], bos)
        calibration = None
        if texts.calibration:
            streams = [vocabulary.tokenize(text, add_special=False) for text in texts.calibration]
            names = [path.name for path in request.calibration]
            # With a text for evaluation nothing needs to be held out of this one.
            held_out = 0 if evaluation is not None else effort.evaluation_windows
            streams, names = _without_short(streams, names, size, events)
            found = windows_of(streams, names, count=effort.calibration_windows, held_out=held_out, size=size)
            calibration = TextWindows(
                calibration=with_bos(found.calibration, bos),
                held_out=with_bos(found.held_out, bos),
                source=found.source,
            )
    return GivenWindows(calibration=calibration, evaluation=evaluation, bos=bos)


def _without_short(
    streams: Sequence[Tokens], names: Sequence[str], size: int, events: EventBus
) -> tuple[list[Tokens], list[str]]:
    """The streams that give a window, a warning for each other one; all of them where none does."""
    used = [i for i, stream in enumerate(streams) if len(stream) >= size] or range(len(streams))
    for i in sorted(set(range(len(streams))) - set(used)):
        events.warn(
            f"--calibration {names[i]} is not used: it has {len(streams[i])} tokens, one window needs {size}; "
            "join short texts into one file"
        )
    return [streams[i] for i in used], [names[i] for i in used]
