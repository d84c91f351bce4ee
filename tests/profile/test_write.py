"""A written profile reads back as the same device, whatever its texts hold."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ramp_edge.errors import OutputError, ProfileError
from ramp_edge.profile.load import list_profiles, load_profile_file
from ramp_edge.profile.schema import Profile
from ramp_edge.profile.write import profile_text, write_profile
from ramp_edge.yaml_source import read_yaml


@cache
def resolved(name: str) -> Profile:
    from ramp_edge.profile import load

    document, _ = load._resolve_extends(load._profile_files()[name])
    profile = load._validate(document)
    assert profile is not None
    return profile.model_copy(update={"extends": None})


@pytest.mark.parametrize("name", [t.name for t in list_profiles()[0]])
def test_shipped_profiles_survive(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name}.yaml"
    write_profile(path, resolved(name), "first line\n\nthird line")
    before = next(t for t in list_profiles()[0] if t.name == name)
    assert load_profile_file(path) == dataclasses.replace(before, profile_path=path)
    assert path.read_text().startswith("# first line\n#\n# third line\ntitle: ")
    assert list(tmp_path.iterdir()) == [path]


@settings(deadline=None, max_examples=50)
@given(st.text(min_size=3))
def test_any_text_stays_what_it_is(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    profile = resolved("raspberry-pi-5-8gb")
    bits = profile.bits.model_copy(update={"source": text})
    path = tmp_path_factory.mktemp("profile") / "x.yaml"
    path.write_text(profile_text(profile.model_copy(update={"title": text, "bits": bits}), "x"), encoding="utf-8")
    values = read_yaml(path, "a profile", ProfileError, "title: x").values
    assert (values["title"], values["bits"]["source"]) == (text, text)


def test_a_contradiction_is_not_written(tmp_path: Path) -> None:
    profile = resolved("raspberry-pi-5-8gb")
    wrong = profile.processor.model_copy(update={"decode_threads": 64})
    path = tmp_path / "board.yaml"
    path.write_text("old")
    with pytest.raises(ProfileError, match="64 threads are more than the 4"):
        write_profile(path, profile.model_copy(update={"processor": wrong}), "x")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_takes_nothing_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file/board\.yaml: cannot be written"):
        write_profile(tmp_path / "file" / "board.yaml", resolved("raspberry-pi-5-8gb"), "x")
