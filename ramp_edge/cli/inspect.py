"""`ramp-edge inspect`: what is in a GGUF, quantized or not."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ramp_edge.model.gguf_file import GgufTensors
    from ramp_edge.model.header import HeaderTensor

_SHOWN_KEYS = 60
_SHOWN_CHARACTERS = 60
_PIPE_COLUMNS = 132


class SortKey(str, Enum):
    """Order of the tensors."""

    FILE = "file"
    NAME = "name"
    SIZE = "size"
    TYPE = "type"


def inspect_file(
    file: Annotated[Path, typer.Argument(help="A build folder (its model.gguf) or a GGUF file.", metavar="OUT|GGUF")],
    sort: Annotated[SortKey, typer.Option(help="Order of the tensors.")] = SortKey.FILE,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show a GGUF's tensors with type, role and bytes, the totals, and its metadata."""
    from ramp_edge.cli.run import model_file
    from ramp_edge.model.gguf_file import GgufTensors

    record = _record(GgufTensors(model_file(file) if file.is_dir() else file), sort)
    if as_json:
        typer.echo(json.dumps(record, indent=2))
    else:
        _print(record)


def _record(tensors: GgufTensors, sort: SortKey) -> dict[str, Any]:
    rows = [_tensor_record(entry) for entry in _sorted(tensors.header.tensors, sort)]
    weights = sum(row["weights"] for row in rows)
    size = sum(row["size_bytes"] for row in rows)
    return {
        "path": str(tensors.path),
        "file_bytes": tensors.path.stat().st_size,
        "gguf_version": tensors.header.version,
        "alignment": tensors.header.alignment,
        "weights": weights,
        "tensor_bytes": size,
        "bits_per_weight": 8 * size / weights if weights else 0.0,
        "metadata": {key: _metadata_record(tensors, key) for key in tensors.header.metadata},
        "by_type": _totals(rows, lambda row: str(row["type"])),
        "by_role": _totals(rows, lambda row: str(row["role"])),
        "tensors": rows,
    }


def _sorted(entries: tuple[HeaderTensor, ...], sort: SortKey) -> list[HeaderTensor]:
    if sort is SortKey.NAME:
        return sorted(entries, key=lambda e: e.name)
    if sort is SortKey.SIZE:
        return sorted(entries, key=lambda e: (-e.size_bytes, e.name))
    if sort is SortKey.TYPE:
        return sorted(entries, key=lambda e: (e.type_id, e.name))
    return list(entries)


def _tensor_record(entry: HeaderTensor) -> dict[str, Any]:
    from ramp_edge.model.roles import kept_reason, role_of

    weights = 1
    for length in entry.shape:
        weights *= length
    return {
        "name": entry.name,
        "role": role_of(entry.name).value,
        "type": entry.type_name,
        "shape": list(entry.shape),
        "weights": weights,
        "size_bytes": entry.size_bytes,
        "bits_per_weight": 8 * entry.size_bytes / weights,
        "kept_reason": kept_reason(entry.name, entry.shape),
    }


def _totals(rows: list[dict[str, Any]], key: Callable[[dict[str, Any]], str]) -> dict[str, dict[str, float]]:
    totals: dict[str, dict[str, float]] = {}
    for row in rows:
        entry = totals.setdefault(key(row), {"tensors": 0, "weights": 0, "size_bytes": 0})
        entry["tensors"] += 1
        entry["weights"] += row["weights"]
        entry["size_bytes"] += row["size_bytes"]
    for entry in totals.values():
        entry["bits_per_weight"] = 8 * entry["size_bytes"] / entry["weights"]
    return dict(sorted(totals.items(), key=lambda item: -item[1]["size_bytes"]))


def _metadata_record(tensors: GgufTensors, key: str) -> Any:
    """The value; long lists (vocabularies) as their length."""
    import math

    value = tensors.metadata(key)
    if isinstance(value, list) and len(value) > 16:
        return {"items": len(value)}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _print(record: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape

    from ramp_edge.units import human_bytes

    # A pipe has no width: lines stay whole there.
    console = Console() if sys.stdout.isatty() else Console(width=_PIPE_COLUMNS)
    console.print(
        f"{escape(record['path'])}: {human_bytes(record['file_bytes'])}, GGUF version {record['gguf_version']}, "
        f"{record['weights']:,} weights in {len(record['tensors'])} tensors, "
        f"{record['bits_per_weight']:.3f} bits a weight",
        highlight=False,
        soft_wrap=True,
    )
    keys = _table("Key", "Value")
    for key, value in list(record["metadata"].items())[:_SHOWN_KEYS]:
        keys.add_row(escape(key), escape(_short(value)))
    console.print(keys)
    tensors = _table("Tensor", "Role", "Type", "Shape", ">Size", ">Bits")
    for row in record["tensors"]:
        shape = " x ".join(map(str, row["shape"]))
        size, bits = human_bytes(row["size_bytes"]), f"{row['bits_per_weight']:.4g}"
        tensors.add_row(escape(row["name"]), row["role"], row["type"], shape, size, bits)
    console.print(tensors)
    for title, totals in (("Type", record["by_type"]), ("Role", record["by_role"])):
        table = _table(title, ">Tensors", ">Weights", ">Size", ">Share", ">Bits")
        for name, entry in totals.items():
            share = entry["size_bytes"] / max(1, record["tensor_bytes"])
            table.add_row(
                name,
                str(entry["tensors"]),
                f"{entry['weights']:,}",
                human_bytes(entry["size_bytes"]),
                f"{share:.1%}",
                f"{entry['bits_per_weight']:.4g}",
            )
        console.print(table)


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return f"({value['items']:,} items)"
    text = " ".join(str(value).split())
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."


def _table(*columns: str) -> Any:
    """A table whose columns named `>...` are right-aligned."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(
            column.lstrip(">"),
            justify="right" if column.startswith(">") else "left",
            no_wrap=column not in ("Value", "Tensor"),
            overflow="fold",
        )
    return table
