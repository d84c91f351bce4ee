"""docs/walkthrough.md from end to end: build, deploy, bench, probe, and a build for the profile that came back.

One board is this machine behind an SSH server, the other runs aarch64 programs behind the same server through qemu.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from ramp_edge.cli.main import app
from ramp_edge.device.bench_records import read_bench
from ramp_edge.model.synthetic import Shape
from ramp_edge.pipeline import probe as pipeline_probe
from ramp_edge.profile.load import load_profile_file
from ramp_edge.runtime.built import BuiltRuntime

pytestmark = [pytest.mark.slow, pytest.mark.ssh]
TARGETS = """\
targets:
  board:
    host: {user}@127.0.0.1:{port}
    profile: {profile}
    folder: walk {name}
    exec_prefix: {prefix}
"""


def run(*args: str | Path) -> Result:
    result = CliRunner().invoke(app, [str(a) for a in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def visit(shared_sshd: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, llama_bin: Path) -> Any:
    """(profile, prefix) -> a targets.yaml whose `board` is behind the server, as the client's own ssh would reach it."""
    monkeypatch.setenv("RAMP_EDGE_PROGRESS", "off")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("RAMP_EDGE_CACHE", str(tmp_path / "cache"))

    def arrive(profile: str, prefix: tuple[str, ...] = ()) -> None:
        path = tmp_path / "targets.yaml"
        path.write_text(
            TARGETS.format(
                user=shared_sshd.user,
                port=shared_sshd.port,
                profile=profile,
                name=tmp_path.name,
                prefix=json.dumps(prefix),
            )
        )
        monkeypatch.setenv("RAMP_EDGE_TARGETS", str(path))
        monkeypatch.setenv("HOME", str(shared_sshd.client_home))

    return arrive


def test_build_deploy_bench_probe_and_build_again(
    visit: Any, tmp_path: Path, tiny_gguf: Path, llama_bin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    visit("x86-avx2-16gb")
    out, profile = tmp_path / "out", tmp_path / "board.yaml"
    run("build", tiny_gguf, "--device", "x86-avx2-16gb", "--effort", "fast", "-o", out)

    # The loopback board has this machine's programs: nothing is cross-built for it.
    sent = json.loads(run("deploy", out, "--target", "board", "--runtime", "none", "--json").stdout)["targets"][0]
    assert sent["result"] == "deployed"
    assert sent["sent_bytes"] > (out / "model.gguf").stat().st_size
    again = json.loads(run("deploy", out, "--target", "board", "--runtime", "none", "--json").stdout)["targets"][0]
    assert (again["result"], again["sent_bytes"]) == ("already there", 0)

    shown = run("bench", out, "--target", "board", "--runtime", llama_bin, "--threads", "1", "--depths", "0").stdout
    record = read_bench(out / "bench.json")
    model = record.models[0]
    assert model.perplexity is not None
    assert model.perplexity.board == pytest.approx(model.perplexity.host, rel=0.01)
    assert model.decode[0].median_tok_s > 0
    assert len(model.decode[0].samples_tok_s) >= 5
    assert f"{model.decode[0].median_tok_s:.0f}"[:2] in shown

    for name, shape in {
        "WIDE": Shape(n_embd=512, n_layer=1, n_vocab=512),
        "DEEP": Shape(n_embd=256, n_layer=4, n_vocab=512),
        "SMALL": Shape(n_embd=256, n_layer=1, n_vocab=512),
        "SMALL_DEEP": Shape(n_embd=256, n_layer=2, n_vocab=512),
    }.items():
        monkeypatch.setattr(pipeline_probe, name, shape)
    monkeypatch.setattr("ramp_edge.device.probe_runs.REPEAT_S", 0.02)
    run(
        "probe", "--target", "board", "-o", profile, "--types", "Q4_0,Q4_K,Q6_K", "--rounds", "3", "--threads", "1",
        "--runtime", llama_bin,
    )  # fmt: skip
    target = load_profile_file(profile)
    assert target.measured
    assert target.title.endswith("(board)")
    assert "Q4_K decode" in run("devices", "diff", "x86-avx2-16gb", profile).stdout

    run("build", tiny_gguf, "--device", profile, "--effort", "fast", "-o", tmp_path / "again")
    rebuilt = json.loads((tmp_path / "again" / "build.json").read_text())
    assert rebuilt["device"]["measured"] is True
    assert {t["type"] for t in rebuilt["tensors"] if t["kept_reason"] is None} <= {
        "F16",
        "Q8_0",
        "Q4_0",
        "Q4_K",
        "Q6_K",
    }


@pytest.mark.arm
def test_the_same_on_an_arm_board(
    visit: Any,
    tmp_path: Path,
    tiny_gguf: Path,
    arm_tools: BuiltRuntime,
    qemu_aarch64: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    visit("raspberry-pi-5-8gb", (qemu_aarch64, "-cpu", "cortex-a76"))
    out = tmp_path / "out"
    run("build", tiny_gguf, "--device", "raspberry-pi-5-8gb", "--effort", "fast", "-o", out)

    # The ARM tools are where this machine built them before.
    monkeypatch.setenv("RAMP_EDGE_CACHE", os.fspath(arm_tools.folder.parents[3]))
    sent = json.loads(run("deploy", out, "--target", "board", "--json").stdout)["targets"][0]
    assert sent["runtime"] == "aarch64-dotprod"
    assert sent["sent_bytes"] > arm_tools.size_bytes
    run("bench", out, "--target", "board", "--threads", "1", "--depths", "0")
    record = read_bench(out / "bench.json")
    assert record.exec_prefix == (qemu_aarch64, "-cpu", "cortex-a76")
    perplexity = record.models[0].perplexity
    assert perplexity is not None
    assert perplexity.board == pytest.approx(perplexity.host, rel=0.01), "ARM kernels compute what this machine's do"
    assert run("deploy", "--target", "board", "--verify").exit_code == 0
