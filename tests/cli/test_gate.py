"""`ramp-edge gate` as CI meets it: exit codes, the report word for word, files, annotations; real builds from end to end."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ramp_edge.cli.gate_report import gate_lines
from ramp_edge.gate.run import gate_files

GOLDEN = Path(__file__).parent / "golden"
ASSETS = Path(__file__).parents[1] / "gate" / "assets"
Cli = Callable[..., "subprocess.CompletedProcess[str]"]
RULES = """\
defaults:
  - size_bytes <= 5 MB
  - size_bytes: +1%
  - kl_mean <= 0.001
  - kl_mean: +1%
  - accuracy.boolq >= 40 %
devices:
  local:
    - decode_tok_s.median >= 12
    - kl_p99: skip
  raspberry-pi-4-4gb:
    - load_s <= 2 s
"""


def _budget(folder: Path, text: str) -> Path:
    path = folder / "budgets.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_report_is_the_golden_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RAMP_EDGE_UPDATE_GOLDEN=1 writes it anew; read the difference before you commit it."""
    monkeypatch.chdir(tmp_path)
    for name in ("old", "unstable.json"):
        Path(name).symlink_to(ASSETS / name)
    Path("budgets.yaml").write_text(RULES)
    records = [Path("old/build.json"), Path("unstable.json")]
    text = "\n".join(gate_lines(gate_files(records, Path("budgets.yaml"), [Path("old/build.json")]))) + "\n"
    golden = GOLDEN / "gate.txt"
    if os.environ.get("RAMP_EDGE_UPDATE_GOLDEN"):
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("rules", "args", "code", "stdout", "stderr"),
    [
        ("defaults: [size_bytes <= 5 MB]", ["old"], 0, "pass: 1 rule: 1 pass", ""),
        ("defaults: [size_bytes <= 4 MB]", ["old"], 4, "violated: 1 rule: 1 violated", "at most 4.00 MB"),
        ("defaults: [size_bytes: +1%]", ["new", "--baseline", "old"], 0, "1 pass", ""),
        ("defaults: [size_bytes: +1%]", ["old", "--baseline", "new"], 4, "1 violated", "+1% is allowed"),
        ("defaults: [size_bytes: +1%]", ["old"], 5, "1 missing", "no --baseline was given"),
        ("defaults: [size_bytes <= 5 MB, size_bytes: +1%]", ["old", "--limits-only"], 0, "1 pass, 1 skipped", ""),
        ("defaults: [size_bytes <= 4 MB, accuracy.piqa >= 1%]", ["old"], 4, "1 violated, 1 missing", "at most 4.00 MB"),
        ("defaults: [accuracy.piqa >= 1%]", ["old"], 5, "1 missing", "ramp-edge eval OUT --tasks"),
        ("defaults: [accuracy.piqa >= 1%]", ["old", "old/eval.json"], 0, "1 pass", ""),
        ("defaults: [kl_mean: +1%]", ["old", "--baseline", "old"], 5, "1 noisy", "more than the 1% that are allowed"),
        ("devices: {local: [kl_mean <= 1], pi: [kl_mean <= 1]}", ["old"], 5, "1 pass, 1 missing", "no record is for pi"),
        ("devices: {local: [kl_mean <= 1], pi: [kl_mean <= 1]}", ["old", "-d", "local"], 0, "no record for pi", ""),
        ("devices: {pi: [kl_mean <= 1]}", ["old"], 5, "", "has no rule for local (x86-avx512-32gb)"),
        ("devices: {x86-avx512-32g: [kl_mean <= 1]}", ["old"], 5, "", "there is one for 'x86-avx512-32gb'"),
        ("defaults: [sise_bytes <= 5 MB]", ["old"], 6, "", "budgets.yaml:1: defaults: unknown metric 'sise_bytes'"),
        ("defaults: [size_bytes <= 5 MB]", ["nowhere"], 2, "", "nowhere cannot be read"),
        ("defaults: [size_bytes <= 5 MB]", ["old", "--baseline", "new", "--limits-only"], 2, "", "give one of them"),
        ("defaults: [size_bytes <= 5 MB]", ["old", "--junit", "no/such/x.xml"], 13, "", "cannot write no/such/x.xml"),
    ],
)  # fmt: skip
def test_exit_codes(
    rules: str, args: list[str], code: int, stdout: str, stderr: str, ramp_edge_cli: Cli, tmp_path: Path
) -> None:
    _budget(tmp_path, rules)
    for name in ("old", "new"):
        (tmp_path / name).symlink_to(ASSETS / name)
    done = ramp_edge_cli("gate", *args, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert stdout in done.stdout
    assert stderr in done.stderr
    assert ("  -> " in done.stderr) == (code != 0)
    assert code == 0 or done.stderr.startswith("ramp-edge: error: ")


def test_a_real_build_from_record_to_verdict(tiny_build: Path, ramp_edge_cli: Cli, tmp_path: Path) -> None:
    """`gate init`, its own pass, a budget too tight, and the same build as its own baseline."""
    begun = ramp_edge_cli("gate", "init", tiny_build, "-o", "b.yaml", cwd=tmp_path)
    assert begun.returncode == 0, begun.stderr
    assert f"next        ramp-edge gate {tiny_build} --budget b.yaml" in begun.stdout
    assert "raspberry-pi-5-8gb:" in (tmp_path / "b.yaml").read_text()
    start_s = time.monotonic()
    passed = ramp_edge_cli("gate", tiny_build, "-b", "b.yaml", cwd=tmp_path)
    took_s = time.monotonic() - start_s
    assert passed.returncode == 0, passed.stdout + passed.stderr
    assert took_s < 8, "0.5 s on a quiet machine"
    assert "size_bytes" in passed.stdout and "kl_mean" in passed.stdout
    again = ramp_edge_cli("gate", "init", tiny_build, "-o", "b.yaml", cwd=tmp_path)
    assert again.returncode == 2 and "b.yaml exists" in again.stderr
    assert ramp_edge_cli("gate", "init", tiny_build, "-o", "b.yaml", "--force", cwd=tmp_path).returncode == 0
    size_bytes = (tiny_build / "model.gguf").stat().st_size
    _budget(tmp_path, f"defaults: ['size_bytes <= {size_bytes - 1} B', kl_mean <= 1e-9, 'size_bytes: +0%']")
    failed = ramp_edge_cli("gate", tiny_build, "--baseline", tiny_build, cwd=tmp_path)
    assert failed.returncode == 4
    assert f"size_bytes is {size_bytes} B, the budget allows at most {size_bytes - 1} B" in failed.stderr
    assert "kl_mean is " in failed.stderr
    assert "1 pass, 2 violated" in failed.stdout


@pytest.mark.slow
def test_a_real_bench_is_judged_as_stable_as_it_was(
    tiny_build: Path, llama_bin: Path, ramp_edge_cli: Cli, tmp_path: Path
) -> None:
    """This machine may be busy: then nothing may pass, whatever was measured."""
    bench = tmp_path / "bench.json"
    args = ("--target", "local", "--runtime", llama_bin, "--threads", "1", "--depths", "0", "-o", bench)
    done = ramp_edge_cli("bench", tiny_build, *args, cwd=tmp_path, RAMP_EDGE_CONFIG=str(tmp_path))
    assert done.returncode == 0, done.stderr
    record = json.loads(bench.read_text())
    stable = not record["unstable"] and not record["models"][0]["unstable"]
    for rule, code in (("decode_tok_s >= 0.001", 0), ("decode_tok_s >= 1e9", 4)):
        _budget(tmp_path, f"defaults: [size_bytes <= 1 GB, {rule}]")
        judged = ramp_edge_cli("gate", tiny_build, bench, cwd=tmp_path)
        assert judged.returncode == (code if stable else 5), judged.stdout
    tight = ramp_edge_cli("gate", "init", tiny_build, bench, "-o", "own.yaml", cwd=tmp_path)
    assert tight.returncode == (0 if stable else 5), tight.stderr
    if stable:
        assert ramp_edge_cli("gate", tiny_build, bench, "-b", "own.yaml", cwd=tmp_path).returncode == 0


def test_json_is_alone_on_stdout(ramp_edge_cli: Cli, tmp_path: Path) -> None:
    _budget(tmp_path, RULES)
    done = ramp_edge_cli("gate", ASSETS / "old", "--json", cwd=tmp_path)
    data = json.loads(done.stdout)
    assert len(data["devices"]) == 2, "the one that no record is for is told as well"
    done = ramp_edge_cli("gate", ASSETS / "old", "--json", "--device", "local", cwd=tmp_path)
    data = json.loads(done.stdout)
    assert (data["exit_code"], data["verdict"]) == (done.returncode, "violated")
    assert data["error"] in done.stderr
    assert data["notes"] == ["no record for raspberry-pi-4-4gb (budgets.yaml:11): its rules were not judged"]


def test_in_a_github_action(ramp_edge_cli: Cli, tmp_path: Path) -> None:
    budget = _budget(tmp_path, "defaults: [size_bytes <= 1 MB]")
    summary = tmp_path / "summary.md"
    summary.write_text("what another step wrote\n")
    github = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary), "GITHUB_WORKSPACE": str(tmp_path)}
    outputs = ("--junit", "gate.xml", "--markdown", "gate.md")
    done = ramp_edge_cli("gate", ASSETS / "old", "--budget", budget, *outputs, cwd=tmp_path, **github)
    assert done.returncode == 4
    assert "::error file=budgets.yaml,line=1,title=ramp-edge gate%3A size_bytes violated on local" in done.stderr
    assert "::error" not in done.stdout
    assert summary.read_text(encoding="utf-8") == "what another step wrote\n" + (tmp_path / "gate.md").read_text(
        "utf-8"
    )
    assert (tmp_path / "gate.xml").read_text().startswith("<?xml")
    assert [p.name for p in tmp_path.glob("*.partial")] == []
    quiet = ramp_edge_cli("gate", ASSETS / "old", "--no-github", cwd=tmp_path, **github)
    assert "::error" not in quiet.stderr
    # What cannot even be judged is annotated as well.
    missing = ramp_edge_cli("gate", "nowhere", cwd=tmp_path, **github)
    assert "::error title=ramp-edge gate::nowhere cannot be read" in missing.stderr
    full = ramp_edge_cli("gate", ASSETS / "old", cwd=tmp_path, **{**github, "GITHUB_STEP_SUMMARY": "/dev/full"})
    assert full.returncode == 13 and "step summary" in full.stderr


def test_a_hostile_record_gives_no_workflow_commands(ramp_edge_cli: Cli, tmp_path: Path) -> None:
    """Neither on stdout nor on stderr, where the runner listens as well, and no escape codes for a terminal."""
    budget = _budget(tmp_path, "defaults: [size_bytes <= 1 MB, decode_tok_s >= 1]")
    evil = "x\n::stop-commands::y\x1b[2J\u202e\ud800"
    build = json.loads((ASSETS / "old" / "build.json").read_text())
    build["device"]["name"] = build["model"]["name"] = evil
    bench = json.loads((ASSETS / "old" / "bench.json").read_text())
    bench["target"] = bench["models"][0]["label"] = evil
    (tmp_path / "build.json").write_text(json.dumps(build))
    for doubts, digest in (([{"kind": evil, "detail": evil}], build["file_sha256"]), ([], "e" * 64)):
        bench["unstable"], bench["models"][0]["sha256"] = doubts, digest
        (tmp_path / "bench.json").write_text(json.dumps(bench))
        done = ramp_edge_cli("gate", tmp_path, "-b", budget, cwd=tmp_path)
        assert done.returncode == (4 if doubts else 5)
        assert "x\\n::stop-commands::y\\x1b[2J\\u202e\\ud800" in done.stderr
        for line in (done.stdout + done.stderr).splitlines():
            assert line.isprintable() and not line.lstrip().startswith("::"), line


def test_a_folder_called_init_can_be_judged(ramp_edge_cli: Cli, tmp_path: Path) -> None:
    _budget(tmp_path, "defaults: [size_bytes <= 5 MB]")
    (tmp_path / "init").symlink_to(ASSETS / "old")
    assert ramp_edge_cli("gate", "./init", cwd=tmp_path).returncode == 0
