#!/usr/bin/env python3
"""Compare the decode speed that a profile predicts with what llama-bench measures on this machine.

    ramp-edge probe --target local -o here.yaml
    python tools/prediction_check.py here.yaml model-Q8_0.gguf model-Q4_0.gguf out/model.gguf

All files take turns in every round, so that a drift of the machine's speed meets them alike; the median of the rounds counts.
So do two models of Q8_0 as the probe times them, a wide one beyond the last cache and one within it: the last column takes what is measured relative to
the one that is where the file is, round by round, and so leaves out how far the machine itself has drifted since the probe. Other work on the machine
spoils all figures.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ramp_edge.codec.types import QuantType
from ramp_edge.device.bench_records import spread
from ramp_edge.events import EventBus
from ramp_edge.model.gguf_file import open_inventory
from ramp_edge.model.synthetic import synthetic_model
from ramp_edge.pipeline.probe import CACHED, WIDE
from ramp_edge.profile.load import load_target
from ramp_edge.profile.speed import decode_seconds
from ramp_edge.records import DeviceTarget
from ramp_edge.runtime.build import build_host_tools

SECONDS = 1.0
"""A repeat is made about this long."""


def predicted_tok_s(path: Path, target: DeviceTarget, n_tokens: int) -> float:
    """Decode speed over the first `n_tokens` tokens, as a build would predict it."""
    inventory, _ = open_inventory(path, allow_requantize=True, events=EventBus())
    types = {t.name: t.source_type for t in inventory.tensors}
    return 1 / decode_seconds(inventory, types, target, ctx_used=n_tokens // 2, kv_type=QuantType.F16)


def measured_tok_s(bench: Path, path: Path, threads: int, n_tokens: int, repeats: int) -> list[float]:
    """Repeats of llama-bench's decode test."""
    command = [bench, "-m", path, "-p", "0", "-n", str(n_tokens), "-r", str(repeats), "-t", str(threads), "-o", "json"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True)
    samples: list[float] = json.loads(done.stdout)[0]["samples_ts"]
    return samples


def main() -> int:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", help="a device profile's name or file")
    parser.add_argument("models", type=Path, nargs="+", help="GGUF files")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    target = load_target(options.profile)
    bench = build_host_tools(EventBus()) / "llama-bench"
    with tempfile.TemporaryDirectory() as folder:
        models = []
        for name, shape in (("wide", WIDE), ("cached", CACHED)):
            models.append(Path(folder) / f"{name}-Q8_0-of-the-probe.gguf")
            synthetic_model(QuantType.Q8_0, shape, Path(folder)).write(models[-1])
        return _check([*models, *options.models], target, bench, options.rounds)


def _check(files: list[Path], target: DeviceTarget, bench: Path, rounds: int) -> int:
    lengths = {}
    for path in files:
        rough = measured_tok_s(bench, path, target.decode_threads, 16, 1)[0]
        lengths[path] = max(16, min(512, round(rough * SECONDS)))
    samples: dict[Path, list[float]] = {path: [] for path in files}
    for number in range(rounds):
        for path in files if number % 2 == 0 else files[::-1]:
            samples[path].append(max(measured_tok_s(bench, path, target.decode_threads, lengths[path], 2)))
    columns = ("file", "predicted tok/s", "measured tok/s", "spread", "predicted / measured", "without drift")
    print(f"| {' | '.join(columns)} |\n|---|{'---:|' * (len(columns) - 1)}")
    predictions = {path: predicted_tok_s(path, target, lengths[path]) for path in files}
    for path, predicted in predictions.items():
        base = files[path.stat().st_size <= target.cache_bytes]
        measured = statistics.median(samples[path])
        # Round by round beside the probe's model: what both share, the machine's speed of that minute, cancels.
        beside = statistics.median(own / other for own, other in zip(samples[path], samples[base], strict=True))
        name = path.stem if path.stem != "model" else f"{path.parent.name}/model"
        cells = [name, f"{predicted:.1f}", f"{measured:.1f}", f"{spread(samples[path]):.0%}"]
        cells += [f"{predicted / measured:.2f}", f"{predicted / (beside * predictions[base]):.2f}"]
        print(f"| {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
