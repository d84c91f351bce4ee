"""What pages say beside commands: the example profile is valid, the table of exit codes is errors.py's, report.md names every kind of block."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import get_args

from ramp_edge import errors
from ramp_edge.codec.types import QuantType
from ramp_edge.profile.load import load_profile_file
from ramp_edge.profile.schema import Profile
from ramp_edge.report.as_json import SCHEMA_VERSION
from ramp_edge.report.view import Block, Report

from .conftest import ROOT

DOCS = ROOT / "docs"


def test_every_error_has_its_line() -> None:
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (\w+) \| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    known = [
        error
        for error in vars(errors).values()
        if inspect.isclass(error) and issubclass(error, errors.RampEdgeError) and error is not errors.RampEdgeError
    ]
    assert [(int(code), name) for code, name, _, _ in rows] == sorted((e.exit_code, e.__name__) for e in known)
    for _, name, cause, way_out in rows:
        error = getattr(errors, name)
        assert cause == error.__doc__.strip().splitlines()[0]
        assert way_out == error.usual_hint


def test_the_example_profile_is_one(tmp_path: Path) -> None:
    text = (DOCS / "writing-a-profile.md").read_text(encoding="utf-8")
    path = tmp_path / "my-board.yaml"
    path.write_text(text.split("```yaml\n")[1].split("```")[0], encoding="utf-8")
    target = load_profile_file(path)
    assert target.title == "Raspberry Pi 5, 4 GB, overclocked"
    assert target.types[QuantType.Q5_0].measured
    assert QuantType.IQ2_XXS not in target.types


def test_every_field_of_a_profile_is_described() -> None:
    text = (DOCS / "writing-a-profile.md").read_text(encoding="utf-8")
    code = set(re.findall(r"`([\w.]+)", text))
    assert {field.split(".")[0] for field in code} >= set(Profile.model_fields) | {"extends"}


def test_the_report_s_json_is_described() -> None:
    text = (DOCS / "report.md").read_text(encoding="utf-8")
    code = set(re.findall(r"`([^`\n]+)`", text))
    assert {block.kind for block in get_args(Block)} <= code
    assert set(Report.__dataclass_fields__) <= code | {"schema_version"}
    assert f"`schema_version` ({SCHEMA_VERSION})" in text
