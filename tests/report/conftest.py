"""Real records of the embedded model (tests/gate/assets), as they are, changed, or with hostile text everywhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ASSETS = Path(__file__).parents[1] / "gate" / "assets"
MINIMAL = Path(__file__).parents[1] / "cli" / "golden" / "build.json"
"""A record that knows little."""

HOSTILE = (
    "<script>document.title='owned'</script>",
    '"><img src=x onerror="document.title=1">',
    "' onmouseover='alert(1)' x='",
    "</style><style>*{display:none}</style>",
    "</title></head><body><h1>owned</h1>",
    "javascript:alert(1)//https://example.invalid/",
    "{{ 7 * 7 }}{% for x in y %}",
    "\u202egnp.exe\u2066 \u200b",
    "a\nb\r\x1b[31mc\x00",
    "]]>--><!-- | `code` **bold** [link](http://example.invalid) @someone #1 ```",
    "very-" + "long-" * 400,
    "Überraß שלום 模型 🐢",
    "x\ud800y",
)
_OURS = {"decode", "prefill", "mmap", "none", "feedback", "stock"}
"""Words whose meaning the records' format fixes."""


def loaded(name: str) -> dict[str, Any]:
    """A real record as data; `new/build.json` and the like."""
    data: dict[str, Any] = json.loads((ASSETS / name).read_text(encoding="utf-8"))
    return data


@pytest.fixture
def record() -> Callable[..., dict[str, Any]]:
    """(name, changes) -> a real record with other values for some fields."""

    def read(name: str, **changes: Any) -> dict[str, Any]:
        return loaded(name) | changes

    return read


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """(files by name) -> a folder that holds them as JSON."""

    def write(name: str = "out", **files: dict[str, Any]) -> Path:
        place = tmp_path / name
        place.mkdir(exist_ok=True)
        for stem, data in files.items():
            (place / f"{stem}.json").write_text(json.dumps(data), encoding="utf-8")
        return place

    return write


def hostile(value: Any, text: str) -> Any:
    """The same record with `text` in the place of every name, path, key of a map and sentence."""
    if isinstance(value, dict):
        free = {"versions", "illegal_types", "temperatures_c", "types", "stage_seconds"}
        return {
            key: {f"{text}{i}": hostile(v, text) for i, v in enumerate(item.values())}
            if key in free and isinstance(item, dict)
            else hostile(item, text)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [hostile(item, text) for item in value]
    if isinstance(value, str) and value not in _OURS:
        return text
    return value


@pytest.fixture(params=HOSTILE, ids=lambda text: ascii(text[:24]))
def hostile_folder(request: pytest.FixtureRequest, folder: Callable[..., Path]) -> tuple[Path, str]:
    """A build and its bench where all that is text is one hostile string."""
    text = request.param
    files = {}
    for name in ("build", "bench"):
        files[name] = hostile(loaded(f"new/{name}.json"), text)
    return folder(**files), text
