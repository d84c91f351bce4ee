"""What a user may name as a model."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from ramp_edge.errors import ModelFileError, RuntimeToolError
from ramp_edge.events import EventBus
from ramp_edge.model import source
from ramp_edge.model.source import resolve_model


def never() -> Path:
    raise AssertionError("nothing is to be converted here")


def resolve(spec: str | None, cache: Path) -> Path:
    return resolve_model(spec, fetch_converter=never, cache=cache, events=EventBus())


def test_a_file_is_itself(tiny_gguf: Path, tmp_path: Path) -> None:
    assert resolve(str(tiny_gguf), tmp_path) == tiny_gguf


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "m.gguf").touch()
    assert resolve("~/m.gguf", tmp_path) == tmp_path / "m.gguf"


def test_nothing_means_the_embedded_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(source, "files", lambda name: tmp_path)
    with pytest.raises(ModelFileError, match=r"lacks its embedded model .*ramp-edge-default-f16\.gguf"):
        resolve(None, tmp_path)
    (tmp_path / "data" / "ramp-edge-default-f16.gguf").touch()
    assert resolve(None, tmp_path) == tmp_path / "data" / "ramp-edge-default-f16.gguf"


@pytest.mark.parametrize("spec", ["absent.gguf", "folder/absent.gguf", "./a/b", "/no/such/model", "name", "a/b/c", ""])
def test_what_is_not_there_is_named(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelFileError) as caught:
        resolve(spec, tmp_path)
    assert spec in caught.value.message


def test_folders_that_are_no_models(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(ModelFileError, match=r"no config\.json"):
        resolve(str(folder), tmp_path)
    (folder / "model-q4.gguf").touch()
    with pytest.raises(ModelFileError, match="folder with 1 GGUF file, not") as caught:
        resolve(str(folder), tmp_path)
    assert "model-q4.gguf" in caught.value.hint


def test_missing_packages_are_told_before_anything_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ramp_edge.model import converter

    monkeypatch.setattr(converter, "_NEEDED_MODULES", ("absent_package",))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RuntimeToolError, match="absent_package"):
        resolve(str(tmp_path), tmp_path)


def fake_hub(monkeypatch: pytest.MonkeyPatch, outcome: Exception | Path) -> type[Exception]:
    """A huggingface_hub whose download raises or returns `outcome`; returns its not-found class."""
    hub, errors = ModuleType("huggingface_hub"), ModuleType("huggingface_hub.errors")
    not_found = type("RepositoryNotFoundError", (Exception,), {})
    gated = type("GatedRepoError", (not_found,), {})
    errors.RepositoryNotFoundError, errors.GatedRepoError = not_found, gated  # type: ignore[attr-defined]

    def snapshot_download(repo_id: str, allow_patterns: list[str]) -> str:
        assert repo_id == "org/name" and "*.safetensors" in allow_patterns
        if isinstance(outcome, Exception):
            raise {"gated": gated, "absent": not_found}.get(str(outcome), lambda: outcome)()
        return str(outcome)

    hub.snapshot_download = snapshot_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)
    return not_found


@pytest.mark.parametrize(
    ("outcome", "words", "hint"),
    [
        (Exception("gated"), "licence to be accepted", "https://huggingface.co/org/name"),
        (Exception("absent"), "neither a path on this machine nor a public model", "hf auth login"),
        (ConnectionError("no route to host\nand more"), "could not be reached: no route to host\n", "network"),
        (TimeoutError(), "could not be reached: TimeoutError\n", "network"),
    ],
)
def test_hub_failures_are_worded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: Exception, words: str, hint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    fake_hub(monkeypatch, outcome)
    with pytest.raises(ModelFileError, match=words) as caught:
        resolve("org/name", tmp_path)
    assert hint in caught.value.hint


def test_a_downloaded_model_is_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fake_hub(monkeypatch, tmp_path)
    (tmp_path / "config.json").write_text("{}")
    calls: list[Path] = []

    def convert(directory: Path, *, converter_source: Path, cache: Path, events: EventBus) -> Path:
        calls.append(directory)
        return converter_source / "out.gguf"

    monkeypatch.setattr(source, "convert_hf", convert)
    monkeypatch.setattr(source, "require_packages", lambda: None)
    found = resolve_model("org/name", fetch_converter=lambda: Path("src"), cache=tmp_path, events=EventBus())
    assert found == Path("src/out.gguf") and calls == [tmp_path]


def test_without_the_hub_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(RuntimeToolError, match="needs huggingface_hub") as caught:
        resolve("org/name", tmp_path)
    assert "ramp-edge[hf]" in caught.value.hint
