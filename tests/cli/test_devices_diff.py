"""`devices diff` names every figure that differs, with its ratio, and nothing that is the same."""

from __future__ import annotations

import dataclasses
import json

from typer.testing import CliRunner

from ramp_edge.cli.devices_diff import differences
from ramp_edge.cli.main import app
from ramp_edge.codec.types import QuantType
from ramp_edge.profile.load import load_target
from ramp_edge.records import DeviceTarget

IGNORED = {"name", "title", "profile_path", "measured", "types"}


def test_the_same_profile_differs_in_nothing() -> None:
    result = CliRunner().invoke(app, ["devices", "diff", "raspberry-pi-5-8gb", "raspberry-pi-5-8gb"])
    assert result.exit_code == 0
    assert result.stdout == "raspberry-pi-5-8gb and raspberry-pi-5-8gb say the same\n"


def test_every_figure_of_a_device_is_compared() -> None:
    target = load_target("raspberry-pi-5-8gb")
    for field in dataclasses.fields(DeviceTarget):
        if field.name in IGNORED:
            continue
        value = getattr(target, field.name)
        value = 0 if value is None else value
        other = {str: "metal", tuple: ("x",), dict: {QuantType.F16: 1e9}}.get(type(value)) or (
            QuantType.Q8_0 if field.name == "default_kv_type" else value + 1
        )
        changed = dataclasses.replace(target, **{field.name: other})
        assert len(differences(target, changed)) == 1, field.name


def test_types_and_ratios() -> None:
    target = load_target("raspberry-pi-5-8gb")
    slower = dataclasses.replace(target.types[QuantType.Q4_K], decode_efficiency=0.47, repacks=False)
    types = {**target.types, QuantType.Q4_K: slower}
    del types[QuantType.IQ2_S]
    found = {d.field: d for d in differences(target, dataclasses.replace(target, types=types))}
    assert set(found) == {"Q4_K decode", "Q4_K repacks", "IQ2_S"}
    assert (found["Q4_K decode"].first, found["Q4_K decode"].second, found["Q4_K decode"].ratio) == (
        "0.94",
        "0.47",
        0.5,
    )
    slow_inside = dataclasses.replace(target.types[QuantType.Q4_K], decode_efficiency_in_cache=0.47)
    types = {**target.types, QuantType.Q4_K: slow_inside}
    (only,) = differences(target, dataclasses.replace(target, types=types))
    assert (only.field, only.first, only.second) == ("Q4_K decode in the cache", "0.94", "0.47")
    assert (found["Q4_K repacks"].first, found["Q4_K repacks"].second) == ("yes", "no")
    assert (found["IQ2_S"].first, found["IQ2_S"].second) == ("listed", "not listed")


def test_json_and_table_agree() -> None:
    arguments = ["devices", "diff", "raspberry-pi-5-8gb", "raspberry-pi-4-4gb"]
    listed = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    table = CliRunner().invoke(app, arguments).stdout
    assert {"field": "bandwidth effective", "first": "11.7 GB/s", "second": "3.30 GB/s"}.items() <= listed[3].items()
    for entry in listed:
        assert entry["field"] in table
        assert entry["second"] in table
