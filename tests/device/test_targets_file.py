"""The user's boards: every mistake is named with file, line, field and the way out; addresses never become options."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ramp_edge.device.target import TargetSpec
from ramp_edge.device.targets_file import EXAMPLE, find_target, parse_address, read_targets, select_targets
from ramp_edge.errors import TargetsFileError

TWO = """\
targets:
  kitchen-pi:
    host: pi@192.0.2.7:2222
    profile: raspberry-pi-5-8gb
    tags: [lab, pi]
    folder: "with space/ramp"
    exec_prefix: [taskset, -c, "0-3"]
    identity_file: ~/keys/board
  bench:
    host: local
    tags: [lab]
"""


@pytest.fixture
def two(tmp_path: Path) -> Path:
    path = tmp_path / "targets.yaml"
    path.write_text(TWO)
    return path


def test_every_field_arrives(two: Path) -> None:
    spec = read_targets(two)["kitchen-pi"]
    assert spec == TargetSpec(
        name="kitchen-pi",
        host="192.0.2.7",
        user="pi",
        port=2222,
        identity_file=Path("~/keys/board").expanduser(),
        profile="raspberry-pi-5-8gb",
        tags=("lab", "pi"),
        folder="with space/ramp",
        exec_prefix=("taskset", "-c", "0-3"),
    )
    assert spec.address == "pi@192.0.2.7:2222"
    assert read_targets(two)["bench"].is_local


def test_no_file_means_no_targets(tmp_path: Path) -> None:
    assert read_targets(tmp_path / "none.yaml") == {}


def test_the_example_of_the_hint_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "targets.yaml"
    path.write_text(EXAMPLE)
    assert set(read_targets(path)) == {"kitchen-pi"}


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("targets:\n  a:\n    hots: x\n", 3, "targets.a.hots"),
        ("targets:\n  a:\n    tags: [x]\n", 2, "targets.a.host: field required"),
        ("targets:\n  a:\n    host: -oProxyCommand=x\n", 3, "is no address"),
        ("targets:\n  a:\n    host: pi@board:99999\n", 3, "there is no port 99999"),
        ("targets:\n  a:\n    host: b\n    tags: ['-x']\n", 4, "targets.a.tags.0"),
        ("targets:\n  all:\n    host: b\n", 2, "cannot be a target's name"),
        ("targets:\n  a: {host: b}\n  a: {host: c}\n", 3, "given twice"),
        ("boards:\n  a: {host: b}\n", 1, "unknown key"),
        ("targets: [a]\n", 1, "must map names to boards"),
        ("- a\n", 1, "a targets file is a mapping"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    path = tmp_path / "targets.yaml"
    path.write_text(text)
    with pytest.raises(TargetsFileError) as caught:
        read_targets(path)
    assert f"{path}:{line}" in caught.value.message
    assert words in caught.value.message


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "targets.yaml"
    path.write_text("targets:\n  a: {hots: b}\n  -b: {host: c}\n  c: {host: 'x y'}\n")
    with pytest.raises(TargetsFileError) as caught:
        read_targets(path)
    assert len(caught.value.message.splitlines()) == 4, "a misspelt key, the host it stood for, a name and an address"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("board", (None, "board", None)),
        ("pi@board.lan", ("pi", "board.lan", None)),
        ("pi@192.0.2.7:22", ("pi", "192.0.2.7", 22)),
        ("[2001:db8::1]:2222", (None, "2001:db8::1", 2222)),
        ("me@[fe80::1%eth0]", ("me", "fe80::1%eth0", None)),
    ],
)
def test_addresses(text: str, parts: tuple[str | None, str, int | None]) -> None:
    assert parse_address(text) == parts


@settings(deadline=None)
@given(st.text(max_size=30))
def test_no_text_becomes_an_option_or_a_second_word(text: str) -> None:
    try:
        user, host, port = parse_address(text)
    except ValueError:
        return
    for part in (user, host):
        if part is not None:
            assert not part.startswith("-")
            assert part.split() == [part]
    assert port is None or 0 < port < 65536


def test_a_name_wins_over_an_address_and_a_misspelt_one_is_noticed(two: Path) -> None:
    assert find_target("kitchen-pi", two).host == "192.0.2.7"
    assert find_target("pi@kitchen-pi", two).host == "kitchen-pi", "with a user it can only be an address"
    assert find_target("local", two).is_local
    with pytest.raises(TargetsFileError, match="did you mean 'kitchen-pi'"):
        find_target("kitchen-py", two)


def test_all_tags_and_names_choose_each_board_once(two: Path) -> None:
    assert [s.name for s in select_targets(["all"], two)] == ["kitchen-pi", "bench"]
    assert [s.name for s in select_targets(["pi", "kitchen-pi", "lab"], two)] == ["kitchen-pi", "bench"]
    assert [s.name for s in select_targets(["me@192.0.2.9"], two)] == ["me@192.0.2.9"]


def test_all_of_nothing_says_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(TargetsFileError) as caught:
        select_targets(["all"], tmp_path / "none.yaml")
    assert "names no target" in caught.value.message
    assert EXAMPLE in caught.value.hint
