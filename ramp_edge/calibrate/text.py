"""Token windows for calibration and for held-out evaluation, from text or from the model's own mouth.

Text that the model generates itself needs no third-party data in the package and follows the model's own distribution.
Windows for evaluation are never among those for calibration.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ramp_edge.errors import CalibrationError

Tokens = npt.NDArray[np.int32]
MIN_WINDOWS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class TextWindows:
    """int32 [n_windows, window_tokens] each; `held_out`, which is measured on, may be empty."""

    calibration: Tokens
    held_out: Tokens
    source: str
    """Where the tokens came from, for the record."""

    @property
    def sha256(self) -> str:
        """Of all tokens."""
        digest = hashlib.sha256(np.ascontiguousarray(self.calibration).tobytes())
        digest.update(np.ascontiguousarray(self.held_out).tobytes())
        return digest.hexdigest()


def windows_of(streams: Sequence[Tokens], names: Sequence[str], *, count: int, held_out: int, size: int) -> TextWindows:
    """Cut `count` calibration and `held_out` other windows of `size` tokens, spread evenly over every stream.

    Raises CalibrationError where the streams cannot give MIN_WINDOWS windows; fewer than asked for is accepted.
    """
    pieces = [s[: len(s) // size * size].reshape(-1, size) for s in streams]
    if sum(map(len, pieces)) < MIN_WINDOWS:
        raise CalibrationError(
            f"{', '.join(names)}: {sum(map(len, streams))} tokens in all, calibration needs at least "
            f"{MIN_WINDOWS * size} in windows of {size}",
            hint="give more text (200 kB or more is good), or none: then the model writes its own",
        )
    per_stream = -(-(count + held_out) // len(pieces))
    chosen = []
    for piece in pieces:
        picks = np.unique(np.linspace(0, len(piece) - 1, min(per_stream, len(piece))).round().astype(np.int64))
        chosen.append(piece[picks])
    windows = np.concatenate(chosen)
    # Every k-th window is held out, so both sets span the whole text; where text is short, evaluation gets an eighth.
    n_held = min(held_out, max(len(windows) - count, len(windows) // 8))
    held = np.linspace(0, len(windows) - 1, n_held).round().astype(np.int64) if n_held else np.zeros(0, np.int64)
    rest = np.delete(np.arange(len(windows)), held)
    return TextWindows(
        calibration=np.ascontiguousarray(windows[rest][:count]),
        held_out=np.ascontiguousarray(windows[held]),
        source=", ".join(names),
    )


def with_bos(windows: Tokens, bos: int | None) -> Tokens:
    """Each window begins with the beginning-of-sequence token where the model wants one, as in llama-perplexity."""
    if bos is None:
        return windows
    out: Tokens = windows.copy()
    out[:, 0] = bos
    return out
