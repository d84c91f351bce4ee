"""Records for the gate: real ones from `assets/` (how they were made: assets/README.md), and altered copies of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ASSETS = Path(__file__).parent / "assets"


def loaded(name: str) -> dict[str, Any]:
    """An asset as plain data."""
    data: dict[str, Any] = json.loads((ASSETS / name).read_text(encoding="utf-8"))
    return data


@pytest.fixture
def changed(tmp_path: Path) -> Callable[..., Path]:
    """changed("new/bench.json", edit) -> a copy of the asset after `edit` changed its data in place."""

    def make(name: str, edit: Callable[[dict[str, Any]], object], to: str | None = None) -> Path:
        data = loaded(name)
        edit(data)
        path = tmp_path / (to or name.replace("/", "-"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(data), encoding="utf-8")
        return path

    return make


@pytest.fixture
def budget(tmp_path: Path) -> Callable[..., Path]:
    """budget("size_bytes <= 9 MB", ...) -> a budget file with these defaults."""

    def make(*rules: str, **devices: tuple[str, ...]) -> Path:
        lines = ["defaults:", *(f"  - {rule}" for rule in rules)] if rules else []
        if devices:
            lines.append("devices:")
        for name, own in devices.items():
            lines += [f"  {name.replace('_', '-')}:", *(f"    - {rule}" for rule in own)]
        path = tmp_path / "budgets.yaml"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return make
