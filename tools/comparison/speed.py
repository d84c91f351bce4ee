"""Decode and prefill speed by llama-bench, all files in turn, round after round: what slows the machine for a while hits them alike."""

from __future__ import annotations

import statistics
from pathlib import Path

from comparison.llama_tools import LlamaTools
from comparison.records import Speed
from comparison.workshop import Made, Workshop, say

PROMPT_TOKENS, GENERATED_TOKENS = 128, 32


def measure_speed(tools: LlamaTools, files: list[Made], rounds: int, workshop: Workshop) -> dict[str, Speed]:
    """Label -> speed. The rounds of one call are one figure: a stopped one starts anew."""

    def run() -> dict[str, list[tuple[float, float]]]:
        found: dict[str, list[tuple[float, float]]] = {file.label: [] for file in files}
        for number in range(rounds):
            say(f"llama-bench round {number + 1} of {rounds}, {len(files)} files")
            # Every second round runs backwards: a drift over the round cancels.
            for file in files if number % 2 == 0 else reversed(files):
                log = Path(workshop.path("llama-bench.log"))
                found[file.label].append(
                    tools.bench(file.path, prompt_tokens=PROMPT_TOKENS, generated_tokens=GENERATED_TOKENS, log=log)
                )
        return found

    if not rounds:
        return {}
    pairs = workshop.figure(f"speed {rounds} rounds {len(files)} files", run)
    return {label: _speed(values) for label, values in pairs.items()}


def _speed(values: list[tuple[float, float]]) -> Speed:
    prefill, decode = ([pair[k] for pair in values] for k in (0, 1))
    return Speed(
        decode_tok_s=statistics.median(decode),
        prefill_tok_s=statistics.median(prefill),
        decode_spread=(max(decode) - min(decode)) / statistics.median(decode),
        rounds=len(values),
    )
