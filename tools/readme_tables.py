#!/usr/bin/env python3
"""Write the tables of README.md and of pages in docs/ from device_profiles/ and docs/results/: no figure in them is typed by hand.

python tools/readme_tables.py            # writes them between their markers
python tools/readme_tables.py --check    # fails where they are not what the data says
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from comparison.records import Comparison, load
from comparison.table import matches

from ramp_edge.codec.types import QuantType
from ramp_edge.profile.load import load_profile_file
from ramp_edge.records import DeviceTarget
from ramp_edge.units import human_bytes

ROOT = Path(__file__).resolve().parent.parent
PRESETS = ("IQ4_XS", "Q4_K_S", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0")
INFORMED_AT = "Q4_K_M"
MODELS = {"smollm2-135m": "SmolLM2-135M", "gemma3-270m": "Gemma 3 270M", "embedded": "the embedded model"}
COLUMNS = {
    "raspberry-pi-zero-2w": "Pi Zero 2 W",
    "raspberry-pi-4-4gb": "Pi 4",
    "raspberry-pi-5-8gb": "Pi 5",
    "jetson-orin-nano-8gb": "Jetson Orin",
    "apple-m1-8gb": "Apple M",
    "x86-avx2-16gb": "AVX2",
    "x86-avx512-32gb": "AVX-512",
}
"""Profile that stands for its family in the table of types -> heading."""


def profiles() -> list[DeviceTarget]:
    """The shipped ones, and none of the user's own."""
    files = sorted((ROOT / "device_profiles").glob("*.yaml"))
    return [load_profile_file(file) for file in files if not file.name.startswith("_")]


def _table(columns: list[str], numeric: list[bool], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + "|".join("---:" if n else "---" for n in numeric) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def boards() -> str:
    """A line for each profile."""
    rows = []
    for target in profiles():
        quantized = sorted((t for t in target.types if not t.is_float), key=lambda t: t.bits_per_weight)
        rows.append(
            [
                f"`{target.name}`",
                target.title,
                f"{human_bytes(target.memory_usable_bytes)} of {human_bytes(target.memory_total_bytes)}",
                f"{target.bandwidth_effective_bytes_s / 1e9:.3g} GB/s",
                target.backend,
                f"{len(quantized)}: {quantized[0].name} to {quantized[-1].name}",
            ]
        )
    columns = ["profile", "board", "usable memory", "bandwidth in decode", "backend", "types"]
    return _table(columns, [False, False, True, True, False, False], rows)


def types() -> str:
    """How fast each family decodes each type, relative to Q8_0."""
    targets = {target.name: target for target in profiles()}
    order = sorted({t for target in targets.values() for t in target.types}, key=lambda t: (-t.bits_per_weight, t.name))
    rows = [
        [t.name, f"{t.bits_per_weight:.4g}", str(t.block_size), *(_speed(targets[n], t) for n in COLUMNS)]
        for t in order
    ]
    return _table(["type", "bits per weight", "block", *COLUMNS.values()], [False] + [True] * (2 + len(COLUMNS)), rows)


def _speed(target: DeviceTarget, quant_type: QuantType) -> str:
    support = target.types.get(quant_type)
    return "" if support is None else f"{support.decode_efficiency:.2f}{' r' if support.repacks else ''}"


def comparison() -> str:
    """KL over the best preset's of no more bytes, at the bytes of the usual presets."""
    rows = []
    for stem, name in MODELS.items():
        found = {m.preset.label: m for m in matches(_record(stem).rows)}
        ratios = [found[p].ratio if p in found else None for p in PRESETS]
        informed = found[INFORMED_AT].informed_ratio if INFORMED_AT in found else None
        rows.append([name, *("" if r is None else f"{r:.2f}" for r in (*ratios, informed))])
    columns = ["model", *PRESETS, f"{INFORMED_AT}'s bytes, any embedding type"]
    return _table(columns, [False] + [True] * (len(columns) - 1), rows)


def tasks() -> str:
    """What multiple-choice accuracy is kept: every record of docs/results/tasks.json."""
    rows = []
    for entry in json.loads((ROOT / "docs" / "results" / "tasks.json").read_text(encoding="utf-8")):
        record, average = entry["record"], entry["record"]["average"]
        kept = average["comparison"]
        items = sum(task["n_items"] for task in record["tasks"])
        changed = sum(t["comparison"][t["headline"]]["changed"] * t["n_items"] for t in record["tasks"]) / items
        cells = [f"{100 * average[side]['value']:.2f}" for side in ("model", "reference")]
        cells += [_percent(kept["difference"], "+.2f"), f"**{100 * kept['retention']['value']:.1f}**"]
        low, high = (f"{100 * kept['retention'][end]:.1f}" for end in ("low", "high"))
        name = [entry["model"], entry["file"], f"{record['model']['file_bytes']:,}"]
        rows.append([*name, entry["engine"], f"{items:,}", *cells, f"{low} to {high}", f"{100 * changed:.1f}"])
    columns = ["model", "file", "bytes", "arithmetic", "items", "accuracy %", "f16's", "difference, points", "kept %", "95 %", "changed %"]  # fmt: skip
    return _table(columns, [False, False, True, False] + [True] * 7, rows)


def _percent(interval: dict[str, float], form: str) -> str:
    value, low, high = (format(100 * interval[k], form) for k in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _record(stem: str) -> Comparison:
    return load(ROOT / "docs" / "results" / f"compare-{stem}.json")


TABLES: dict[str, Callable[[], str]] = {"boards": boards, "types": types, "comparison": comparison, "tasks": tasks}
PAGES = {
    "README.md": ("boards", "comparison"),
    "docs/devices.md": ("boards", "types"),
    "docs/commonsense.md": ("tasks",),
}


def filled(text: str, names: tuple[str, ...]) -> str:
    """The page with its tables made anew. Raises ValueError where a marker is missing."""
    for name in names:
        pattern = re.compile(rf"(<!-- {name}: tools/readme_tables.py -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if len(pattern.findall(text)) != 1:
            raise ValueError(f"the page has no place for the table {name!r}")
        table = TABLES[name]()
        text = pattern.sub(lambda found, table=table: found[1] + table + "\n" + found[2], text)
    return text


def main(argv: list[str] | None = None) -> int:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    options = parser.parse_args(argv)
    stale = []
    for page, names in PAGES.items():
        path = ROOT / page
        old = path.read_text(encoding="utf-8")
        new = filled(old, names)
        if new != old:
            stale.append(page)
            if not options.check:
                path.write_text(new, encoding="utf-8")
    if options.check and stale:
        print(f"{', '.join(stale)}: run python tools/readme_tables.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
