"""Help texts as users see them, word for word; and that showing them stays quick."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"
VERBS = ["", "build", "run", "eval", "inspect", "deploy", "bench", "probe", "gate", "gate init", "report", "train", "targets", "targets list", "targets check",
         "devices", "devices list", "devices show", "devices diff", "devices validate", "runtime", "runtime list",
         "runtime fetch", "runtime build"]  # fmt: skip


def _help(verb: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", "import sys; sys.argv[0] = 'ramp-edge'; from ramp_edge.cli.main import main; main()",
         *verb.split(), "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "110", "TERM": "dumb", "NO_COLOR": "1", "RAMP_EDGE_DEVICE": ""},
    )  # fmt: skip
    return "\n".join(line.rstrip() for line in result.stdout.splitlines()) + "\n"


@pytest.mark.parametrize("verb", VERBS)
def test_help_is_the_golden_text(verb: str) -> None:
    """RAMP_EDGE_UPDATE_GOLDEN=1 writes the texts anew; read the difference before you commit it."""
    golden = GOLDEN / f"help{'-' if verb else ''}{verb.replace(' ', '-')}.txt"
    text = _help(verb)
    if os.environ.get("RAMP_EDGE_UPDATE_GOLDEN"):
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")
    assert "Example" in text or (verb == "" and "Start here" in text)


def test_help_imports_nothing_slow() -> None:
    script = """
import sys
sys.argv = ["ramp-edge", "build", "--help"]
from ramp_edge.cli.main import main
try:
    main()
except SystemExit:
    pass
print(sorted({"torch", "numpy", "llama_cpp", "gguf", "yaml", "transformers", "paramiko"} & set(sys.modules)), file=sys.stderr)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stderr.strip() == "[]"
