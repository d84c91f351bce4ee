"""What a bench measures: thread counts, depths, lengths. Pure functions, from options and first speeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ramp_edge.device.bench_records import SweepPoint
from ramp_edge.errors import UsageError

DEFAULT_DEPTHS = (0, 512, 2048)
MIN_REPEATS = 5
TOOL_TIMEOUT_S = 1800.0
EVERY_COUNT_UP_TO = 8
"""With more cores than this, the sweep takes powers of two."""
TIE = 0.02
"""Within this share of the best, fewer threads are chosen: they leave cores and heat to others."""
REPEAT_S = 1.0
"""A measured repeat is made about this long: shorter ones measure the clock, longer ones the patience."""
SWEEP_REPEAT_S = 0.3
DEPTH_LIMIT_S = 60.0
"""A default depth whose prefill takes longer is left out."""
FIRST_PROMPT, FIRST_GEN = 32, 8
_GEN_RANGE = (16, 128)
_PROMPT_RANGE = (64, 512)
_SWEEP_GEN_RANGE = (FIRST_GEN, 64)
_SWEEP_PROMPT_RANGE = (FIRST_PROMPT, 256)


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchOptions:
    """What the user asked for."""

    threads: tuple[int, ...] | None = None
    """None: all counts up to the board's cores."""
    depths: tuple[int, ...] | None = None
    """None: 0, 512, 2048 and the depth of the prediction, as context and patience allow."""
    repeats: int = MIN_REPEATS
    rounds: int | None = None
    """None: one, or as many as repeats where several models take turns."""
    timeout_s: float = TOOL_TIMEOUT_S
    """Of one run of a tool."""

    def __post_init__(self) -> None:
        if self.repeats < MIN_REPEATS:
            raise UsageError(f"--repeats {self.repeats}: fewer than {MIN_REPEATS} repeats tell nothing about spread")
        if self.rounds is not None and self.rounds < 1:
            raise UsageError(f"--rounds {self.rounds}: at least one")
        if not 0 < self.timeout_s < float("inf"):
            raise UsageError(f"--timeout {self.timeout_s:g}: give seconds above 0")
        for name, values, least in (("--threads", self.threads, 1), ("--depths", self.depths, 0)):
            if values is not None and (not values or min(values) < least or len(set(values)) < len(values)):
                raise UsageError(f"{name} {','.join(map(str, values))}: give each number of {least} or more once")

    def rounds_for(self, n_models: int) -> int:
        """Turns that the models take."""
        return self.rounds or (1 if n_models == 1 else self.repeats)

    def repeats_per_round(self, n_models: int) -> int:
        """So that all rounds together give at least `repeats`."""
        return -(-self.repeats // self.rounds_for(n_models))


@dataclass(frozen=True, kw_only=True, slots=True)
class Lengths:
    """Tokens of one repeat."""

    n_prompt: int
    n_gen: int


def thread_candidates(cores: int, wanted: Sequence[int] | None) -> tuple[int, ...]:
    """Thread counts to try. Raises UsageError for more threads than cores: they only get in each other's way."""
    if wanted is not None:
        if max(wanted) > cores:
            raise UsageError(
                f"--threads {','.join(map(str, wanted))}: the board has {cores} cores for it",
                hint=f"give counts of 1 to {cores}",
            )
        return tuple(sorted(wanted))
    if cores <= EVERY_COUNT_UP_TO:
        return tuple(range(1, cores + 1))
    powers = {1 << k for k in range(cores.bit_length())}
    return tuple(sorted({n for n in powers if n <= cores} | {cores // 2, cores}))


def pick_threads(points: Sequence[SweepPoint]) -> tuple[int, int]:
    """(for decode, for prefill): the fastest, or the fewest threads that come near it."""

    def best(speeds: dict[int, float]) -> int:
        limit = max(speeds.values()) * (1 - TIE)
        return min(threads for threads, speed in speeds.items() if speed >= limit)

    return best({p.threads: p.decode_tok_s for p in points}), best({p.threads: p.prefill_tok_s for p in points})


def sweep_lengths(decode_tok_s: float, prefill_tok_s: float, context: int) -> Lengths:
    """Short repeats for the sweep."""
    return Lengths(
        n_prompt=_sized(prefill_tok_s * SWEEP_REPEAT_S, _SWEEP_PROMPT_RANGE, context),
        n_gen=_sized(decode_tok_s * SWEEP_REPEAT_S, _SWEEP_GEN_RANGE, context),
    )


def measured_lengths(decode_tok_s: float, prefill_tok_s: float, context: int) -> Lengths:
    """Repeats of about a second."""
    return Lengths(
        n_prompt=_sized(prefill_tok_s * REPEAT_S, _PROMPT_RANGE, context),
        n_gen=_sized(decode_tok_s * REPEAT_S, _GEN_RANGE, context),
    )


def _sized(tokens: float, limits: tuple[int, int], context: int) -> int:
    """A power of two near `tokens`, within the limits and half of the context."""
    size, most = limits[0], max(1, min(limits[1], context // 2))
    while size * 2 <= min(tokens, most):
        size *= 2
    return min(size, most)


def choose_depths(
    wanted: Sequence[int] | None, predicted_depth: int | None, context: int, lengths: Lengths, prefill_tok_s: float
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """(depths, what was left out and why). Raises UsageError where a depth that was asked for does not fit."""
    longest = max(lengths.n_prompt, lengths.n_gen)
    if wanted is not None:
        too_deep = [depth for depth in wanted if depth + longest > context]
        if too_deep:
            raise UsageError(
                f"--depths {','.join(map(str, too_deep))}: with {longest} tokens more the model's context of "
                f"{context} is exceeded",
                hint=f"give depths of at most {context - longest}",
            )
        return tuple(sorted(wanted)), ()
    candidates = sorted({*DEFAULT_DEPTHS, *(() if predicted_depth is None else (predicted_depth,))})
    fitting = [depth for depth in candidates if depth + longest <= context]
    chosen = tuple(depth for depth in fitting if depth == 0 or depth / prefill_tok_s <= DEPTH_LIMIT_S)
    notes = tuple(
        f"depth {depth} is left out: its prefill would take {depth / prefill_tok_s:.0f} s each time; --depths {depth} asks for it"
        for depth in fitting
        if depth not in chosen
    )
    return chosen, notes


def memory_context(wanted: int, prefill_tok_s: float) -> int:
    """Tokens to prefill for the memory figures: the wanted context, or what takes no longer than DEPTH_LIMIT_S."""
    if wanted / prefill_tok_s <= DEPTH_LIMIT_S:
        return wanted
    size = FIRST_PROMPT
    while size * 2 <= min(wanted, prefill_tok_s * DEPTH_LIMIT_S):
        size *= 2
    return min(size, wanted)


def turn_order(n_models: int, round_number: int) -> tuple[int, ...]:
    """Which model is measured when in a round (from 0): every second round runs backwards, so that a drift cancels."""
    order = range(n_models)
    return tuple(order) if round_number % 2 == 0 else tuple(reversed(order))
