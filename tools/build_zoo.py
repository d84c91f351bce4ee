#!/usr/bin/env python3
"""Build the zoo that the policy learns on: ten small models, trained on plain text, then calibrated.

    python tools/build_zoo.py train --text books.txt.xz --folder zoo/ --minutes 5
    python tools/build_zoo.py calibrate --folder zoo/ --calibration groups_merged.txt --calibration c4.utf8 [MODEL.gguf ...]

`calibrate` leaves one small npz a model in FOLDER/cases: its 11 features and the predicted KL of every tensor in every type; and what rivals of the
policy see of it in FOLDER/rivals. Models
of other makers may be named as well. What is finished is not done again.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from zoo.shapes import ZOO
from zoo.tables import measure_case
from zoo.train import train_one

from ramp_edge.pipeline.request import Effort


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    train, calibrate = verbs.add_parser("train"), verbs.add_parser("calibrate")
    for verb in (train, calibrate):
        verb.add_argument("--folder", type=Path, required=True, help="where models and cases go")
        verb.add_argument("--threads", type=int, default=torch.get_num_threads())
    train.add_argument("--text", type=Path, required=True, help=".txt or .xz; documents separated by NUL lines")
    train.add_argument("--minutes", type=float, default=5.0, help="training time of a model")
    train.add_argument("--model", action="append", choices=ZOO, help="only these")
    train.add_argument("--seed", type=int, default=0)
    calibrate.add_argument("models", type=Path, nargs="*", help="GGUF files; default: those of the zoo that are there")
    calibrate.add_argument("--calibration", type=Path, action="append", required=True, help="text")
    calibrate.add_argument("--device", default="raspberry-pi-5", help="whose types are measured")
    calibrate.add_argument("--effort", type=Effort, default=Effort.BALANCED)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Command line entry."""
    options = parse(argv)
    torch.set_num_threads(options.threads)
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.verb == "train":
        for number, name in enumerate(options.model or ZOO):
            train_one(name, ZOO[name], options.text, options.folder, options.minutes, options.seed + number)
            print(f"{name}: trained", flush=True)
        return 0
    cases = options.folder / "cases"
    cases.mkdir(exist_ok=True)
    rivals_folder = options.folder / "rivals"
    rivals_folder.mkdir(exist_ok=True)
    for model in options.models or [options.folder / f"{name}.gguf" for name in ZOO]:
        path = cases / f"{model.stem}.npz"
        if not path.exists() and model.exists():
            started = time.perf_counter()
            case, rivals = measure_case(
                model, options.calibration, options.device, options.folder / "cache", options.threads, options.effort
            )
            rivals.save(rivals_folder / path.name)
            case.save(path)  # last: a case that is there is whole
            print(f"{model.stem}: calibrated in {time.perf_counter() - started:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
