#!/usr/bin/env python3
"""Compare the decode speed that a profile predicts with what llama-bench measures on this machine.

    ramp-edge probe --target local -o here.yaml
    python tools/prediction_check.py here.yaml model-Q8_0.gguf model-Q4_0.gguf out/model.gguf

All files take turns in every round, so that a drift of the machine's speed meets them alike; the median of the rounds counts.
So do two models of Q8_0 as the probe times them, a wide one beyond the last cache and one within it: the last column takes what is measured relative to
the one that is where the file is, round by round, and so leaves out how far the machine itself has drifted since the probe. Other work on the machine
spoils all figures. A run is made as the probe makes it: its best repeat counts, and where the machine has lost its pace it is made again. `--depth` fills
the KV cache first.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ramp_edge.codec.types import QuantType
from ramp_edge.device.agent_client import board_agent
from ramp_edge.device.bench_records import spread
from ramp_edge.device.connect import connected
from ramp_edge.device.probe_models import Filling
from ramp_edge.device.probe_runs import BenchRuns, Pace
from ramp_edge.device.targets_file import find_target
from ramp_edge.events import EventBus
from ramp_edge.model.gguf_file import open_inventory
from ramp_edge.model.synthetic import synthetic_model
from ramp_edge.pipeline.bench import bench_tools
from ramp_edge.pipeline.probe import CACHED, WIDE
from ramp_edge.profile.load import load_target
from ramp_edge.profile.speed import decode_seconds
from ramp_edge.records import DeviceTarget


def predicted_tok_s(path: Path, target: DeviceTarget, depth: int, n_gen: int) -> float:
    """Decode speed of `n_gen` tokens after `depth`, as a build would predict it."""
    inventory, _ = open_inventory(path, allow_requantize=True, events=EventBus())
    types = {t.name: t.source_type for t in inventory.tensors}
    return 1 / decode_seconds(inventory, types, target, ctx_used=depth + n_gen // 2, kv_type=QuantType.F16)


def main() -> int:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", help="a device profile's name or file")
    parser.add_argument("models", type=Path, nargs="+", help="GGUF files")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--depth", type=int, default=0, help="tokens in the KV cache before the first that is timed")
    options = parser.parse_args()
    target = load_target(options.profile)
    events = EventBus()
    with (
        tempfile.TemporaryDirectory() as folder,
        connected(find_target("local")) as local,
        board_agent(local, events) as agent,
    ):
        models = []
        for name, shape in (("wide", WIDE), ("cached", CACHED)):
            models.append(Path(folder) / f"{name}-Q8_0-of-the-probe.gguf")
            synthetic_model(QuantType.Q8_0, shape, Path(folder)).write(models[-1])
        runs = BenchRuns(local, agent, bench_tools(local, None, with_perplexity=False)[0], timeout_s=600.0)
        runs.threads = target.decode_threads
        return _check([*models, *options.models], target, runs, options.rounds, Filling(depth=options.depth))


def _check(files: list[Path], target: DeviceTarget, runs: BenchRuns, n_rounds: int, filling: Filling) -> int:
    n_gen = {path: runs.look(str(path))[0].n_gen for path in files}
    pace = Pace(runs, str(files[1]))

    def one_round(number: int) -> dict[Path, float]:
        order = files if number % 2 == 0 else files[::-1]
        # A whole round is too long to hope that the machine keeps its pace through it.
        return {path: max(pace.rounds(lambda _, path=path: runs.decode_tok_s(str(path), filling), 1)) for path in order}

    rounds = [one_round(number) for number in range(n_rounds)]
    samples = {path: [found[path] for found in rounds] for path in files}
    columns = ("file", "predicted tok/s", "measured tok/s", "spread", "predicted / measured", "without drift")
    print(f"| {' | '.join(columns)} |\n|---|{'---:|' * (len(columns) - 1)}")
    predictions = {path: predicted_tok_s(path, target, filling.depth, n_gen[path]) for path in files}
    for path, predicted in predictions.items():
        base = files[path.stat().st_size <= target.cache_bytes]
        measured = statistics.median(samples[path])
        # Round by round beside the probe's model: what both share, the machine's speed of that minute, cancels.
        beside = statistics.median(own / other for own, other in zip(samples[path], samples[base], strict=True))
        name = path.stem if path.stem != "model" else f"{path.parent.name}/model"
        cells = [name, f"{predicted:.1f}", f"{measured:.1f}", f"{spread(samples[path]):.0%}"]
        cells += [f"{predicted / measured:.2f}", f"{predicted / (beside * predictions[base]):.2f}"]
        print(f"| {' | '.join(cells)} |")
    print(f"\n{n_rounds} rounds; {pace.disturbed_rounds} runs were made again, because the machine had lost its pace.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
