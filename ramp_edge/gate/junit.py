"""The result as JUnit XML: a suite for each device, a case for each rule; a violation is a failure, what is unjudged an error."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from ramp_edge.gate.rules import Limit
from ramp_edge.gate.verdict import GateResult, Judgement, SubjectResult, Verdict
from ramp_edge.gate.view import heading, row, sources
from ramp_edge.plain import one_line


def junit_xml(result: GateResult) -> str:
    """The document, in the shape that Jenkins, GitLab and GitHub actions read."""
    everything = [judgement for one in result.subjects for judgement in one.judgements]
    root = ET.Element("testsuites", {"name": "ramp-edge gate", **_counts(everything)})
    for one in result.subjects:
        root.append(_suite(one))
    ET.indent(root, " ")
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _counts(judgements: list[Judgement]) -> dict[str, str]:
    return {
        "tests": str(len(judgements)),
        "failures": str(sum(j.verdict is Verdict.VIOLATED for j in judgements)),
        "errors": str(sum(j.verdict.is_unjudged for j in judgements)),
    }


def _suite(one: SubjectResult) -> ET.Element:
    skipped = str(sum(j.verdict is Verdict.SKIPPED for j in one.judgements))
    suite = ET.Element(
        "testsuite", {"name": heading(one), **_counts(list(one.judgements)), "skipped": skipped, "time": "0"}
    )
    properties = ET.SubElement(suite, "properties")
    subject = one.subject
    for name, value in (
        ("records", sources(one)),
        ("profile", subject.profile or ""),
        ("target", subject.target or ""),
        ("file_sha256", subject.file_sha256),
    ):
        ET.SubElement(properties, "property", name=name, value=one_line(value))
    for judgement in one.judgements:
        suite.append(_case(one, judgement))
    return suite


def _case(one: SubjectResult, judgement: Judgement) -> ET.Element:
    shown = row(judgement)
    # Told apart by what is judged, not by today's numbers, so that a CI server can follow a rule over time.
    kind = "limit" if isinstance(judgement.rule, Limit) else "skipped" if judgement.rule is None else "baseline"
    case = ET.Element(
        "testcase", name=f"{shown.metric} ({kind})", classname=f"gate.{one_line(one.subject.device)}", time="0"
    )
    if judgement.verdict is Verdict.PASS:
        ET.SubElement(case, "system-out").text = f"{shown.value}, limit {shown.limit}, headroom {shown.headroom}"
        return case
    tag = {Verdict.VIOLATED: "failure", Verdict.SKIPPED: "skipped"}.get(judgement.verdict, "error")
    found = ET.SubElement(case, tag, type=judgement.verdict.value, message=shown.reason)
    found.text = f"{shown.place}: {shown.reason}"
    return case
