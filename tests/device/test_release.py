"""Names and lists of files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramp_edge.device.release import LocalFile, Release, ReleaseFile, parse_release, release_json, release_of, sha256_of
from ramp_edge.errors import UsageError

PART = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/"), min_size=1, max_size=30).filter(
    lambda part: part not in (".", "..") and len(part.encode()) <= 200
)
NAME = st.lists(PART, min_size=1, max_size=4).map("/".join).filter(lambda name: name != "release.json")


def local(content: bytes = b"", executable: bool = False) -> LocalFile:
    return LocalFile(
        path=Path("x"), size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest(), executable=executable
    )


@given(st.dictionaries(NAME, st.builds(local, st.binary(max_size=5), st.booleans()), min_size=1, max_size=5))
def test_a_list_comes_back_as_it_was_written(files: dict[str, LocalFile]) -> None:
    try:
        release = release_of(files)
    except UsageError as error:
        assert "same name" in error.message or "a file and a folder" in error.message
        return
    assert parse_release(release_json(release).encode()) == release


@given(NAME)
def test_no_name_leads_out_of_the_release(name: str) -> None:
    (file,) = release_of({name: local()}).files
    assert Path("/store/release").joinpath(file.name).is_relative_to("/store/release")
    assert ".." not in Path(file.name).parts


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "/etc/passwd",
        "..",
        "../x",
        "a/../b",
        "a//b",
        "a/",
        "./a",
        "a/.",
        "a\0b",
        "a\nb",
        "\x1b[2J",
        "\ud800",
        "release.json",
        "x" * 201,
        "é" * 101,
    ],
)
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(UsageError):
        release_of({"fine": local(), name: local()})


def test_every_wrong_name_is_told_at_once() -> None:
    with pytest.raises(UsageError) as wrong:
        release_of({"../x": local(), "Model": local(), "model": local(), "bin": local(), "bin/tool": local()})
    for part in ("'../x'", "'Model' and 'model' are the same", "'bin' is a file and a folder"):
        assert part in wrong.value.message
    with pytest.raises(UsageError, match="no file"):
        release_of({})


def test_the_id_is_that_of_the_content() -> None:
    one = release_of({"a": local(b"1"), "b": local(b"2")})
    assert one.id == release_of({"b": local(b"2"), "a": local(b"1")}).id
    for other in ({"a": local(b"1")}, {"a": local(b"1"), "c": local(b"2")}, {"a": local(b"1"), "b": local(b"3")},
                  {"a": local(b"1", executable=True), "b": local(b"2")}):  # fmt: skip
        assert release_of(other).id != one.id
    assert len(one.id) == 16


def test_equal_contents_are_counted_once() -> None:
    files = tuple(ReleaseFile(name=n, sha256="0" * 64, size_bytes=5, executable=False) for n in "ab")
    assert Release(id="x", files=files).size_bytes == 5


def test_a_file_here_is_measured_and_hashed(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(bytes(3_000_000))
    file = LocalFile.of(path)
    assert (file.size_bytes, file.sha256) == (3_000_000, hashlib.sha256(bytes(3_000_000)).hexdigest())
    assert sha256_of(path, 1_500_000) == hashlib.sha256(bytes(1_500_000)).hexdigest()
    assert sha256_of(path, 0) == hashlib.sha256().hexdigest()
    with pytest.raises(UsageError, match="cannot be read"):
        LocalFile.of(tmp_path / "none")
