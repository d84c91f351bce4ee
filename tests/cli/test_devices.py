"""`ramp-edge devices`: results on stdout, mistakes as errors, nothing heavy imported."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ramp_edge.cli.devices import app
from ramp_edge.errors import ProfileError

ASSETS = Path(__file__).parents[1] / "profile" / "assets"


def run(*args: str) -> str:
    result = CliRunner().invoke(app, list(args), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_list_names_every_device_whole() -> None:
    listed = json.loads(run("list", "--json"))
    names = [d["name"] for d in listed["devices"]]
    assert "raspberry-pi-5-8gb" in names
    assert listed["families"]["jetson-orin"] == "jetson-orin-nano-8gb"
    table = run("list")
    assert all(name in table for name in [*names, *listed["families"]])


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (40, ["Device", "Usable memory"]),
        (60, ["Device", "Usable memory", "Bandwidth", "Backend"]),
        (80, ["Device", "Usable memory", "Bandwidth", "Backend", "Figures"]),
        (120, ["Device", "Title", "Usable memory", "Bandwidth", "Backend", "Figures"]),
    ],
)
def test_list_is_one_line_a_device_at_every_width(
    monkeypatch: pytest.MonkeyPatch, width: int, columns: list[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = run("list").splitlines()
    assert re.split(r"\s{2,}", lines[0].strip()) == columns
    assert max(map(len, lines)) <= width
    names = [d["name"] for d in json.loads(run("list", "--json"))["devices"]]
    assert [line.split()[0] for line in lines[2 : 2 + len(names)]] == names


def test_list_shows_what_is_valid_and_names_what_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAMP_EDGE_CONFIG", str(tmp_path))
    (tmp_path / "device_profiles").mkdir()
    for name in ("first", "second"):
        (tmp_path / "device_profiles" / f"{name}.yaml").write_text("titel: x\n")
    result = CliRunner().invoke(app, ["list", "--json"])
    listed = json.loads(result.stdout)
    assert len(listed["devices"]) >= 14
    assert listed["families"]["raspberry-pi-5"] == "raspberry-pi-5-8gb"
    assert len(listed["errors"]) == 2
    assert isinstance(result.exception, ProfileError)
    assert "2 device profiles are not valid" in result.exception.message
    assert "second.yaml:1: titel: unknown key" in result.exception.message


def test_show_prints_every_type() -> None:
    record = json.loads(run("show", "raspberry-pi-5", "--json"))
    assert record["name"] == "raspberry-pi-5-8gb"
    assert record["types"]["Q4_K"]["decode_efficiency"] == 0.94
    table = run("show", "raspberry-pi-5")
    assert all(kind in table for kind in record["types"])
    with pytest.raises(ProfileError, match="no device profile named"):
        run("show", "nonesuch")


def test_validate_says_which_files_are_valid() -> None:
    good, bad, other = (str(ASSETS / f"{n}.yaml") for n in ("good", "wrong-unit", "kv-type"))
    assert run("validate", good) == f"{good}: valid\n"
    with pytest.raises(ProfileError, match="unknown unit"):
        run("validate", good, bad)
    with pytest.raises(ProfileError, match="2 of 3 profiles") as caught:
        run("validate", bad, good, other)
    assert "wrong-unit.yaml:6" in str(caught.value)
    assert "kv-type.yaml:10" in str(caught.value)
    result = CliRunner().invoke(app, ["validate", good, bad, "--json"])
    assert [item["valid"] for item in json.loads(result.stdout)] == [True, False]


def test_help_has_examples_and_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom ramp_edge.cli.devices import app\n"
        "out = CliRunner().invoke(app, ['--help']).stdout\nassert 'devices show raspberry-pi-5' in ' '.join(out.split()), out\n"
        "heavy = {'torch', 'transformers', 'llama_cpp', 'pydantic', 'numpy', 'yaml'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    run_ = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run_.returncode == 0, run_.stderr
