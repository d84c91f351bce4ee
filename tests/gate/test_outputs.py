"""JUnit, Markdown, annotations and JSON: valid, complete, and with hostile names harmless."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import xmlschema
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ramp_edge.gate.as_json import gate_json
from ramp_edge.gate.github import annotation, annotation_lines
from ramp_edge.gate.junit import junit_xml
from ramp_edge.gate.markdown import MARKER, gate_markdown
from ramp_edge.gate.run import gate_files
from ramp_edge.gate.verdict import GateResult
from ramp_edge.plain import one_line

ASSETS = Path(__file__).parent / "assets"
HOSTILE = (
    "</testcase><x a=\"'&]]>`|@everyone <img src=x onerror=alert(1)>\n::error::no\r\x1b[31m\x00\u202e\ud800%0A,: é"
)
RULES = (
    "size_bytes <= 1 MB",
    "size_bytes: +1%",
    "kl_mean <= 0.5",
    "kl_mean: +1%",
    "accuracy.boolq >= 1 %",
    "decode_tok_s >= 1",
)
Changed = Callable[..., Path]


@pytest.fixture(scope="module")
def schema() -> xmlschema.XMLSchema:
    return xmlschema.XMLSchema(str(ASSETS / "junit.xsd"))


@pytest.fixture
def result(budget: Callable[..., Path]) -> GateResult:
    """One of each: pass, violated, missing, noisy, unstable."""
    records = [ASSETS / name for name in ("old/build.json", "unstable.json")]
    return gate_files(records, budget(*RULES), [ASSETS / "old" / "build.json"])


def _name_it(name: str) -> Callable[[dict[str, Any]], None]:
    def edit(data: dict[str, Any]) -> None:
        if "facts_before" in data:
            data["target"] = name
            data["models"][0]["label"] = name
            data["unstable"] = [{"kind": name, "detail": name}]
        else:
            data["model"]["name"] = data["device"]["name"] = name

    return edit


def hostile_result(name: str, changed: Changed, budget: Callable[..., Path]) -> GateResult:
    """Everything that a record can name, named like that."""
    records = [changed(f"old/{kind}.json", _name_it(name)) for kind in ("build", "bench")]
    return gate_files(records, budget(*RULES), [ASSETS / "old" / "build.json"])


def test_junit_counts_what_it_holds(result: GateResult, schema: xmlschema.XMLSchema) -> None:
    text = junit_xml(result)
    schema.validate(text)
    (suite,) = ET.fromstring(text)
    assert {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "6", "failures": "1", "errors": "3", "skipped": "0",
    }  # fmt: skip
    kinds = {case.get("name"): [child.tag for child in case] for case in suite.iter("testcase")}
    assert kinds == {
        "size_bytes (limit)": ["failure"],
        "size_bytes (baseline)": ["system-out"],
        "kl_mean (limit)": ["system-out"],
        "kl_mean (baseline)": ["error"],
        "accuracy.boolq (limit)": ["error"],
        "decode_tok_s.median (limit)": ["error"],
    }
    failure = suite.find("testcase/failure")
    assert failure is not None
    assert failure.get("message") == "size_bytes is 4.10 MB, the budget allows at most 1.00 MB"
    assert failure.text is not None and "budgets.yaml:2: " in failure.text
    assert {error.get("type") for error in suite.iter("error")} == {"noisy", "missing", "unstable"}


def test_the_schema_is_one_that_refuses(result: GateResult, schema: xmlschema.XMLSchema) -> None:
    good = junit_xml(result)
    for old, new in (
        (r"(</?)failure\b", r"\1fail"),
        (' errors="3"', ""),
        (r"\(baseline\)", "(limit)"),
        ('time="0"', 'time="x"'),
    ):
        bad = re.sub(old, new, good)
        assert bad != good
        with pytest.raises(xmlschema.XMLSchemaValidationError):
            schema.validate(bad)


def test_hostile_names_stay_names(changed: Changed, budget: Callable[..., Path], schema: xmlschema.XMLSchema) -> None:
    result = hostile_result(HOSTILE, changed, budget)
    text = junit_xml(result)
    schema.validate(text)
    (suite,) = ET.fromstring(text)
    assert suite.get("tests") == "6"
    # What cannot be in XML, or would turn the line round, is written out; the rest is there as it was.
    name = suite.get("name") or ""
    assert (
        "</testcase><x a=\"'&]]>`|@everyone <img src=x onerror=alert(1)>\\n::error::no\\r\\x1b[31m\\x00\\u202e\\ud800%0A,: é"
        in name
    )
    markdown = gate_markdown(result)
    markdown.encode("utf-8")
    for line in markdown.splitlines():
        outside = re.sub(r"`[^`]*`", "", line)
        assert "@everyone" not in outside and "<img" not in outside and "</testcase>" not in outside
        assert not line.startswith("::")
    for line in annotation_lines(result, Path.cwd()):
        assert "\n" not in line and "\r" not in line and "\x1b" not in line
        assert re.match(r"::error file=[^:,]*,line=\d+,title=[^:,]*::", line), line
    assert json.loads(gate_json(result))["devices"][0]["target"] == one_line(HOSTILE)
    error = result.error()
    assert error is not None and error.message.isprintable()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(name=st.text(st.characters(codec=None), min_size=1, max_size=30))
def test_any_name_gives_valid_outputs(
    name: str, changed: Changed, budget: Callable[..., Path], schema: xmlschema.XMLSchema
) -> None:
    result = hostile_result(name, changed, budget)
    schema.validate(junit_xml(result))
    gate_markdown(result).encode("utf-8")
    assert all(len(line.splitlines()) == 1 for line in annotation_lines(result, Path.cwd()))
    assert one_line(name).isprintable() or one_line(name) == ""


def test_markdown_has_a_row_a_rule_and_every_reason(result: GateResult) -> None:
    text = gate_markdown(result)
    assert text.startswith(f"{MARKER}\n### ❌ ramp-edge gate: violated\n")
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) == len(RULES)
    assert all(row.count("|") == 6 for row in rows)
    assert "| `size_bytes` | 4.10 MB | `<= 1 MB` | -310% | ❌ violated |" in rows
    assert "- ❌ `size_bytes is 4.10 MB, the budget allows at most 1.00 MB` (`" in text
    assert text.count("- ⚠️ ") == 3


def test_a_pass_reads_as_one(budget: Callable[..., Path]) -> None:
    result = gate_files([ASSETS / "new"], budget("size_bytes <= 1 GB"))
    assert "### ✅ ramp-edge gate: passed" in gate_markdown(result)
    assert annotation_lines(result, Path.cwd()) == []


def test_annotations_name_the_line_from_the_checkout(result: GateResult, tmp_path: Path) -> None:
    lines = annotation_lines(result, tmp_path)
    assert len(lines) == 4
    assert lines[0] == (
        "::error file=budgets.yaml,line=2,title=ramp-edge gate%3A size_bytes violated on local (x86-avx512-32gb)::"
        "size_bytes is 4.10 MB, the budget allows at most 1.00 MB"
    )


def test_an_annotation_is_one_line() -> None:
    assert annotation("50%\nof a: b, c", title="a:b,c\r") == "::error title=a%3Ab%2Cc%0D::50%25%0Aof a: b, c"


def test_json_says_everything(result: GateResult) -> None:
    data = json.loads(gate_json(result))
    assert (data["schema_version"], data["verdict"], data["exit_code"]) == (1, "violated", 4)
    (device,) = data["devices"]
    assert (device["profile"], device["target"]) == ("x86-avx512-32gb", "local")
    by_rule = {rule["rule"]: rule for rule in device["rules"]}
    size = by_rule["size_bytes <= 1 MB"]
    assert (size["value"], size["limit"], size["verdict"], size["line"]) == (4097312, 1_000_000, "violated", 2)
    assert size["headroom"] == pytest.approx(-3.097312)
    kl = by_rule["kl_mean: +1%"]
    assert (kl["change"], kl["allowed"], kl["kind"], kl["verdict"]) == (0.0, 0.01, "regression", "noisy")
    assert kl["noise"] == pytest.approx(2 * kl["value_noise"] / kl["value"])
