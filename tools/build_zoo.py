#!/usr/bin/env python3
"""Build the zoo that the policy learns on: ten small models, trained on plain text.

python tools/build_zoo.py --text books.txt.xz --folder zoo/ --minutes 5
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from zoo.shapes import ZOO
from zoo.train import train_one


def main(argv: list[str] | None = None) -> int:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help=".txt or .xz; documents separated by NUL lines")
    parser.add_argument("--folder", type=Path, required=True, help="where the models go")
    parser.add_argument("--minutes", type=float, default=5.0, help="training time of a model")
    parser.add_argument("--model", action="append", choices=ZOO, help="only these")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    options.folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(options.model or ZOO):
        train_one(name, ZOO[name], options.text, options.folder, options.minutes, options.seed + number)
        print(f"{name}: done", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
