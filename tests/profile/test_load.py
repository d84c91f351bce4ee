"""Profiles: all shipped ones are valid, every kind of mistake is named with file, line, field and the way out."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ramp_edge.codec.types import QuantType
from ramp_edge.errors import ProfileError
from ramp_edge.profile import load
from ramp_edge.profile.schema import KV_TYPES, schema_text
from ramp_edge.shipped import shipped_dir
from ramp_edge.yaml_source import read_yaml

ASSETS = Path(__file__).parent / "assets"
EXPECTED = {
    "raspberry-pi-4-4gb",
    "raspberry-pi-5-8gb",
    "raspberry-pi-5-16gb",
    "raspberry-pi-zero-2w",
    "jetson-orin-nano-8gb",
    "jetson-orin-nx-16gb",
    "jetson-agx-orin-64gb",
    "apple-m1-8gb",
    "apple-m2-8gb",
    "apple-m3-8gb",
    "apple-m4-16gb",
    "apple-m4-pro-24gb",
    "x86-avx2-16gb",
    "x86-avx512-32gb",
}

ALWAYS_LISTED = (
    "F16",
    "Q8_0",
    "Q2_K",
    "Q3_K",
    "Q4_K",
    "Q5_K",
    "Q6_K",
    "Q4_0",
    "Q4_1",
    "Q5_0",
    "Q5_1",
    "IQ4_NL",
    "IQ4_XS",
)


@pytest.fixture(autouse=True)
def _own_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAMP_EDGE_CONFIG", str(tmp_path / "config"))


def test_all_shipped_profiles_are_valid_and_complete() -> None:
    listed, errors = load.list_profiles()
    assert not errors
    targets = {t.name: t for t in listed}
    assert set(targets) == EXPECTED
    wanted = {QuantType[n] for n in ALWAYS_LISTED}
    for target in targets.values():
        assert wanted <= set(target.types), target.name
        assert not {QuantType.IQ1_S, QuantType.IQ1_M} & set(target.types)
        assert not target.measured
        assert target.default_kv_type in KV_TYPES
        assert all(support.source for support in target.types.values())


@pytest.mark.parametrize("path", sorted(shipped_dir("device_profiles").glob("_family-*.yaml")), ids=lambda p: p.stem)
def test_family_files_are_valid_as_far_as_they_go(path: Path) -> None:
    load.check_profile_file(path)
    assert load.family_names()


@pytest.mark.parametrize(
    ("family", "member"),
    [
        ("jetson-orin", "jetson-orin-nano-8gb"),
        ("raspberry-pi", "raspberry-pi-zero-2w"),
        ("raspberry-pi-4", "raspberry-pi-4-4gb"),
        ("raspberry-pi-5", "raspberry-pi-5-8gb"),
    ],
)
def test_family_means_its_smallest_member(family: str, member: str) -> None:
    assert load.load_target(family).name == member


def test_repacking_follows_the_instruction_set() -> None:
    def repacked(name: str) -> set[str]:
        return {kind.name for kind, support in load.load_target(name).types.items() if support.repacks}

    # ggml-cpu/repack.cpp, ggml_repack_get_optimal_repack_type.
    assert repacked("raspberry-pi-4") == set()
    assert repacked("raspberry-pi-5") == {"Q8_0", "Q4_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL"}
    assert repacked("x86-avx2-16gb") == {"Q4_0", "Q4_K", "IQ4_NL"}
    assert repacked("x86-avx512-32gb") == {"Q4_0", "Q4_K", "IQ4_NL", "Q2_K"}
    assert repacked("jetson-orin") == set()


def test_schema_file_is_current() -> None:
    committed = (shipped_dir("device_profiles") / "schema.json").read_text(encoding="utf-8")
    assert committed == schema_text(), "run: python -m ramp_edge.profile.schema"


BAD = {
    "duplicate-key": (2, "title", "first on line 1"),
    "unknown-key": (8, "processor.decode_treads", "did you mean 'decode_threads'"),
    "unknown-top-key": (5, "bandwith", "did you mean 'bandwidth'"),
    "size-without-unit": (3, "memory.total.value", "has no unit"),
    "wrong-unit": (6, "bandwidth.peak.value", "unknown unit 'GHz'"),
    "size-as-rate": (7, "bandwidth.effective.value", "17.1 GB/s"),
    "usable-over-total": (4, "memory.usable.value", "more than memory.total.value '8 GiB'"),
    "effective-over-peak": (7, "bandwidth.effective.value", "more than bandwidth.peak.value '17.1 GB/s'"),
    "negative-threads": (8, "processor.decode_threads", "-2"),
    "threads-over-cores": (8, "processor.decode_threads", "6 threads are more than the 4"),
    "efficiency-nan": (14, "types.Q4_K.decode_efficiency", "nan"),
    "efficiency-negative": (14, "types.Q4_K.decode_efficiency", "-0.94"),
    "kv-type": (10, "defaults.kv_type", "'Q4_K' is not a type that can be used here"),
    "kv-type-not-listed": (10, "defaults.kv_type", "Q4_0 is not among types"),
    "unknown-type": (14, "types.Q4_KM", "did you mean 'Q4_K'"),
    "target-over-max": (9, "bits.target_bpw", "9.5 is more than bits.max_bpw 8.5"),
    "measured-not-bool": (3, "memory.total.measured", "'no'"),
    "unknown-backend": (8, "processor.backend", "vulkan"),
    "repack-on-gpu": (13, "types.Q8_0.repacks", "only the cpu backend"),
    "missing-source": (3, "memory.total.source", "missing"),
    "baseline-not-one": (13, "types.Q8_0.decode_efficiency", "must be 1.0"),
    "no-f16": (11, "types", "F16 is missing"),
    "extends-missing": (2, "extends", "did you mean 'raspberry-pi-5-8gb'"),
    "zero-memory": (4, "memory.usable.value", "more than zero"),
    "ctx-too-small": (10, "defaults.ctx", "16"),
    "key-not-text": (2, "7", "not text"),
    "not-yaml": (3, "", "not valid YAML"),
    "not-a-mapping": (1, "", "mapping"),
    "empty": (1, "", "mapping"),
    "unsafe-tag": (1, "", "is not allowed"),
    "cycle-a": (2, "extends", "cycle-a.yaml -> cycle-b.yaml -> cycle-a.yaml"),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_each_mistake_is_named_with_file_line_and_field(name: str) -> None:
    line, field, text = BAD[name]
    path = ASSETS / f"{name}.yaml"
    with pytest.raises(ProfileError) as caught:
        load.load_target(str(path))
    said = str(caught.value)
    where = path.with_name("cycle-b.yaml") if name == "cycle-a" else path
    assert f"{where}:{line}: {field}" in said
    assert text in said


def test_every_bad_file_is_expected_and_the_good_one_loads() -> None:
    files = {p.stem for p in ASSETS.glob("*.yaml")} - {"good", "cycle-b", "three-problems"}
    assert files == set(BAD)
    assert load.load_target(str(ASSETS / "good.yaml")).decode_threads == 2


def test_all_offenders_are_in_one_error() -> None:
    with pytest.raises(ProfileError, match="3 problems") as caught:
        load.load_target(str(ASSETS / "three-problems.yaml"))
    said = str(caught.value)
    for part in ("'6 GHz'", "processor.cores", "defaults.contxt: unknown key: did you mean 'ctx'?"):
        assert part in said
    assert "defaults.ctx: missing" not in said, "a misspelt key is one mistake"


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ('bandwith: {peak: {value: "9 GB/s", measured: false, source: abc}}\n', ["3: bandwith: unknown key: did you mean 'bandwidth'?"]),
        ('bandwidth:\n  peak: {value: "9 GB/s", measured: false, source: abc}\n', ["3: bandwidth.effective: missing"]),
        ("", ["1: bandwidth: missing"]),
    ],
)  # fmt: skip
def test_what_is_missing_is_missing_in_the_users_own_file(tmp_path: Path, text: str, problems: list[str]) -> None:
    base = yaml.safe_load((ASSETS / "good.yaml").read_text())
    del base["bandwidth"]
    (tmp_path / "base.yaml").write_text("# a comment\n" + yaml.safe_dump(base))
    mine = tmp_path / "mine.yaml"
    mine.write_text("title: Mine\nextends: base.yaml\n" + text)
    with pytest.raises(ProfileError) as caught:
        load.load_target(str(mine))
    said = caught.value.message
    assert all(f"{mine}:{problem}" in said for problem in problems), said
    assert said.count("mine.yaml:") == len(problems) and "base.yaml:" not in said


def test_unknown_device_lists_the_nearest() -> None:
    with pytest.raises(ProfileError, match="did you mean 'raspberry-pi-5'"):
        load.load_target("rasberry-pi-5")
    with pytest.raises(ProfileError, match="use one of: apple-m1-8gb, "):
        load.load_target("zzzzzz")
    with pytest.raises(ProfileError, match="no such profile file"):
        load.load_target("./absent.yaml")
    with pytest.raises(ProfileError, match="no device profile named '_family-raspberry-pi'"):
        load.load_target("_family-raspberry-pi")


def test_users_profile_extends_and_hides_a_shipped_one(tmp_path: Path) -> None:
    folder = tmp_path / "config" / "device_profiles"
    folder.mkdir(parents=True)
    (folder / "my-board.yaml").write_text(
        "title: Mine\nextends: raspberry-pi-5-8gb\n"
        'memory:\n  usable: {value: "2 GiB", measured: true, source: mine}\ntypes:\n  Q2_K: null\n'
    )
    shutil.copy(ASSETS / "good.yaml", folder / "raspberry-pi-4-4gb.yaml")
    mine, base = load.load_target("my-board"), load.load_target("raspberry-pi-5-8gb")
    assert mine.memory_usable_bytes == 2 << 30
    assert mine.memory_total_bytes == base.memory_total_bytes
    assert set(base.types) - set(mine.types) == {QuantType.Q2_K}
    assert load.load_target("raspberry-pi-4-4gb").title == "Test board"


def test_a_broken_file_of_the_users_own_leaves_shipped_devices_usable(tmp_path: Path) -> None:
    folder = tmp_path / "config" / "device_profiles"
    folder.mkdir(parents=True)
    (folder / "broken.yaml").write_text("title: [\n")
    assert load.load_target("raspberry-pi-5").name == "raspberry-pi-5-8gb"
    targets, errors = load.list_profiles()
    assert {t.name for t in targets} == EXPECTED
    assert ["broken.yaml:2" in str(error) for error in errors] == [True]
    with pytest.raises(ProfileError, match=r"broken\.yaml:2"):
        load.load_target("broken")
    # One that hides a shipped member must not silently turn the family into another device.
    (folder / "raspberry-pi-5-8gb.yaml").write_text("title: [\n")
    with pytest.raises(ProfileError, match=r"raspberry-pi-5-8gb\.yaml:2"):
        load.load_target("raspberry-pi-5")
    assert load.load_target("jetson-orin").name == "jetson-orin-nano-8gb"


def test_inherited_mistake_names_the_base_file(tmp_path: Path) -> None:
    shutil.copy(ASSETS / "threads-over-cores.yaml", tmp_path / "base.yaml")
    child = tmp_path / "child.yaml"
    child.write_text("title: Child\nextends: base.yaml\n")
    with pytest.raises(ProfileError, match=r"base\.yaml:8: processor\.decode_threads"):
        load.load_profile_file(child)
    child.write_text("title: Child\nextends: base.yaml\nprocessor: {cores: 8}\n")
    assert load.load_profile_file(child).cores == 8
    child.write_text("title: Child\nextends: base.yaml\nprocessor:\n  cores: 5\n")
    with pytest.raises(ProfileError, match="more than the 5"):
        load.load_profile_file(child)


def test_measured_needs_every_speed_figure(tmp_path: Path) -> None:
    path = tmp_path / "all.yaml"
    text = (ASSETS / "good.yaml").read_text()
    path.write_text(text.replace("measured: false", "measured: true"))
    assert load.load_profile_file(path).measured
    path.write_text(text.replace("measured: false", "measured: true").replace("measured: true", "measured: false", 4))
    assert not load.load_profile_file(path).measured


KEYS = st.text(alphabet="abcdefgh_", min_size=1, max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(alphabet="abc 123GB/s:#", max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(values=st.dictionaries(KEYS, VALUES, min_size=1, max_size=6))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_located_yaml_reads_what_yaml_reads(values: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "any.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    document = read_yaml(path, "a profile", ProfileError, "title: My board")
    assert document.values == values
    assert not document.problems
    lines = path.read_text().splitlines()
    for location, place in document.places.items():
        if len(location) == 1:
            assert lines[place.line - 1].lstrip("'\"? ").startswith(str(location[0]))


@given(position=st.integers(0, 1200), junk=st.sampled_from(list(":{}[]\"'\t\n-#&*!|>%@`\x00é7")))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_profiles_end_in_our_error_only(position: int, junk: str, tmp_path: Path) -> None:
    text = (ASSETS / "good.yaml").read_text()
    path = tmp_path / "damaged.yaml"
    position %= len(text)
    path.write_text(text[:position] + junk + text[position + 1 :], encoding="utf-8")
    try:
        load.load_profile_file(path)
    except ProfileError as error:
        assert str(path) in str(error)


def test_self_referring_alias_and_oversized_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "loop.yaml"
    path.write_text("title: &a\n  deeper: *a\n")
    with pytest.raises(ProfileError, match=r"loop\.yaml"):
        load.load_profile_file(path)
    path.write_text("#" * (1 << 20) + "\ntitle: x\n")
    with pytest.raises(ProfileError, match="too many for a profile"):
        load.load_profile_file(path)
