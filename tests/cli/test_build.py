"""`ramp-edge build` as users meet it: the summary word for word, JSON alone on stdout, errors with a next step."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ramp_edge.cli.summary import summary_lines
from ramp_edge.pipeline.record import BuildRecord, CandidateRecord, Continuation, TensorRecord, record_json
from ramp_edge.records import Divergence, EvaluationResult, MemoryBudget, MemoryLine, Perplexity

GOLDEN = Path(__file__).parent / "golden"


def cli(*args: str | Path, cwd: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    script = "import sys; sys.argv[0] = 'ramp-edge'; from ramp_edge.cli.main import main; main()"
    environment = {k: v for k, v in os.environ.items() if k not in ("RAMP_EDGE_DEVICE", "RAMP_EDGE_DEBUG")}
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, args)],
        capture_output=True, text=True, check=False, cwd=cwd, env={**environment, "RAMP_EDGE_CACHE": str(cache)},
    )  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def _result(label: str, size: int, ppl: float, kl: float | None) -> EvaluationResult:
    divergence = None
    if kl is not None:
        divergence = Divergence(
            mean_kl=kl, std_error=kl / 20, median_kl=kl / 2, p99_kl=9 * kl, top_token_agreement=0.944, n_tokens=2040
        )
    perplexity = Perplexity(value=ppl, std_error=0.5, n_tokens=2040, n_windows=8)
    return EvaluationResult(label=label, file_bytes=size, perplexity=perplexity, divergence=divergence, seconds=1.5)


@pytest.fixture
def record() -> BuildRecord:
    """A made-up build whose every number is easy to find again in the text."""
    ours = _result("knapsack", 90_000_000, 15.2, 0.0428)
    stock = CandidateRecord(
        origin="preset:IQ4_XS", codec="stock", file_bytes=89_000_000, predicted_kl=0.06,
        evaluation=_result("stock IQ4_XS", 89_000_000, 16.1, 0.1070), chosen=False,
    )  # fmt: skip
    won = CandidateRecord(
        origin="knapsack", codec="feedback", file_bytes=90_000_000, predicted_kl=0.04, evaluation=ours, chosen=True
    )
    tensor = TensorRecord(
        name="blk.0.ffn_up.weight", role="ffn_up", shape=(1536, 576), type="Q4_K", size_bytes=497_664,
        predicted_kl=0.001, kept_reason=None, illegal_types={"Q2_K_X": "unknown"},
    )  # fmt: skip
    other = dataclasses.replace(tensor, name="token_embd.weight", role="token_embd", shape=(512, 576), type="Q6_K")
    norm = dataclasses.replace(tensor, name="output_norm.weight", shape=(576,), type="F32", kept_reason="a vector")
    return BuildRecord(
        settings={}, dry_run=False, versions={}, origin="knapsack", limit="--target-size 90.0 MB",
        model={"name": "Test 135M", "file_bytes": 270_000_000, "ctx": 2048},
        device={"name": "raspberry-pi-5-8gb", "title": "Raspberry Pi 5, 8 GB", "measured": False},
        calibration={"evaluation": "held-out windows of: text.txt"},
        file_name="model.gguf", file_bytes=90_000_000, file_sha256="0" * 64, bits_per_weight=5.35,
        memory=MemoryBudget(
            lines=(
                MemoryLine(name="weights", size_bytes=88_000_000, detail="272 tensors"),
                MemoryLine(name="kv_cache", size_bytes=47_000_000, detail="30 layers x 2048 tokens"),
                MemoryLine(name="repack_copy", size_bytes=0, detail="nothing is repacked"),
            ),
            usable_bytes=7_000_000_000,
        ),
        predicted_decode_tok_s=87.5, predicted_kl=0.04, reference=_result("reference", 270_000_000, 14.9, None),
        evaluation=ours, best_preset=stock, candidates=(won, stock), tensors=(tensor, other, norm),
        continuation=Continuation(prompt="The old man", reference=" went\nhome.", emitted=" went out."),
        warnings=(), stage_seconds={"moments": 95.0, "write": 18.0},
    )  # fmt: skip


def _is_golden(name: str, lines: list[str]) -> None:
    text = "\n".join(line.rstrip() for line in lines) + "\n"
    if os.environ.get("RAMP_EDGE_UPDATE_GOLDEN"):
        (GOLDEN / name).write_text(text, encoding="utf-8")
    assert text == (GOLDEN / name).read_text(encoding="utf-8")


def test_summary_is_the_golden_text(record: BuildRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # whose `out` holds no report
    _is_golden("summary.txt", summary_lines(record, Path("out")))


def test_whose_plans_were_measured_is_told(record: BuildRecord) -> None:
    knapsack = record.candidates[0]
    ramp = dataclasses.replace(
        knapsack, origin="ramp", folded=True, chosen=False, evaluation=_result("ramp", 90_000_000, 15.5, 0.0391)
    )
    assert not any("finalists" in line for line in summary_lines(record, Path("out")))
    several = dataclasses.replace(record, candidates=(ramp, *record.candidates))
    line = next(line for line in summary_lines(several, Path("out")) if "finalists" in line)
    kl = knapsack.measured_kl
    assert line == f"  finalists   KL measured: 0.0391 ramp, folded; {kl:#.3g} knapsack (this file)"


def test_the_next_command_can_be_pasted(record: BuildRecord) -> None:
    assert "ramp-edge run 'my models/a\"b' -p" in summary_lines(record, Path('my models/a"b'))[-1]


def test_summary_of_a_dry_run_is_the_golden_text(
    record: BuildRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # whose `out` holds no report
    dry = dataclasses.replace(
        record, dry_run=True, evaluation=None, reference=None, continuation=None,
        best_preset=dataclasses.replace(record.candidates[1], evaluation=None),
    )  # fmt: skip
    _is_golden("summary-dry-run.txt", summary_lines(dry, Path("out")))


def test_a_lost_comparison_is_told(record: BuildRecord) -> None:
    assert record.best_preset is not None
    better = dataclasses.replace(record.best_preset, evaluation=_result("stock", 89_000_000, 15.0, 0.0214))
    text = "\n".join(summary_lines(dataclasses.replace(record, best_preset=better), Path("out")))
    assert "KL is 2.00x that preset's" in text


def test_record_json_is_the_golden_text(record: BuildRecord) -> None:
    _is_golden("build.json", record_json(record).splitlines())


def test_build_run_eval_in_a_row(tiny_gguf: Path, tmp_path: Path, cache: Path) -> None:
    built = cli("build", tiny_gguf, "--device", "raspberry-pi-5", "--effort", "fast", "--timings",
                cwd=tmp_path, cache=cache)  # fmt: skip
    assert built.returncode == 0, built.stderr
    for word in ("tiny 0 for Raspberry Pi 5", "kv cache", "KL", "goes on", "ramp-edge run out", "written"):
        assert word in built.stdout
    assert "moments" in built.stderr and "moments" not in built.stdout
    spoken = cli("run", "out", "-p", "The small board", "-n", "8", "--json", cwd=tmp_path, cache=cache)
    assert json.loads(spoken.stdout)["generated_tokens"] == 8
    assert json.loads(spoken.stdout)["context_full"] is False
    shown = cli("inspect", "out", "--json", cwd=tmp_path, cache=cache)
    assert json.loads(shown.stdout)["path"] == "out/model.gguf"
    (tmp_path / "text.txt").write_text("The small board reads a page of words and writes the next one. " * 60)
    scored = cli("eval", "out", "--text", "text.txt", "--reference", tiny_gguf, "--ctx", "128", "--windows", "4", "--json",
                 cwd=tmp_path, cache=cache)  # fmt: skip
    reference, ours = json.loads(scored.stdout)
    assert (
        reference["divergence"] is None and 0 < ours["divergence"]["mean_kl"] < 1.0
    )  # measured 0.28: random weights, small text
    assert (reference["label"], ours["label"], scored.stderr) == (str(tiny_gguf), "out/model.gguf", "")
    again = cli("eval", tiny_gguf, "--text", "text.txt", "--reference", "out", "--ctx", "128", "--windows", "1",
                cwd=tmp_path, cache=cache)  # fmt: skip
    assert again.stdout.startswith("out/model.gguf (")
    assert again.stderr.startswith("warning: the reference out/model.gguf is itself quantized (")


def test_json_is_alone_on_stdout_and_a_dry_run_writes_nothing(tiny_gguf: Path, tmp_path: Path, cache: Path) -> None:
    dry = cli("build", tiny_gguf, "-d", "raspberry-pi-5", "--dry-run", "--json", cwd=tmp_path, cache=cache)
    assert dry.returncode == 0, dry.stderr
    record = json.loads(dry.stdout)
    assert record["dry_run"] is True and record["predicted_decode_tok_s"] > 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["--device is missing", "ramp-edge devices list"]),
        (["-d", "raspberry-pi-5", "--target-size", "95"], ["--target-size", "95 MB"]),
        (["-d", "raspberry-pi-5", "--effort", "most"], ["--effort 'most'", "fast, balanced or max"]),
        (["-d", "raspberry-pi-5", "--allocator", "rmap"], ["--allocator 'rmap'", "knapsack, ramp, preset or best"]),
        (["-d", "raspberry-pi-5", "--allocator", "ramp", "--fold", "auto"], ["--fold auto", "--allocator best"]),
        (
            ["-d", "raspberry-pi-5", "--allocator", "preset", "--tune", "3"],
            ["--tune has no part in --allocator preset"],
        ),
        (
            ["-d", "raspberry-pi-5", "--effort", "fast", "--tune", "3", "--policy", "p.onnx"],
            ["--policy has no part in --allocator knapsack", "--allocator ramp or best"],
        ),
        (["-d", "raspberry-pi-5", "--types", "Q4_K,Q7_K"], ["--types 'Q7_K'", "did you mean"]),
        (["-d", "raspberry-pi-5", "--types", ""], ["--types is empty", "--types Q4_K,Q6_K"]),
        (["-d", "raspberry-pi-5", "--types", " , "], ["--types is empty"]),
        (["-d", "raspberry-pi-5", "--kv-type", "q8"], ["--kv-type 'q8' is no KV cache type", "did you mean Q8_0"]),
        (["-d", "raspberry-pi-5", "--kv-type", "Q4_K"], ["--kv-type 'Q4_K' is no KV cache type"]),
        (["-d", "raspberry-pi-5", "--min-decode-tok-s", "-1"], ["--min-decode-tok-s -1"]),
        (["-d", "raspberry-pi-5", "--min-decode-tok-s", "inf"], ["--min-decode-tok-s inf"]),
        (["-d", "raspberry-pi-5", "--min-decode-tok-s", "nan"], ["--min-decode-tok-s nan"]),
        (["-d", "raspberry-pi-5", "--eval-text", "none.txt", "--dry-run"], ["none.txt"]),
        (["-d", "raspberry-pi-5", "--seed", "-1"], ["--seed -1"]),
        (["-d", "raspberry-pi-5", "--calibration", "none.txt"], ["none.txt"]),
        (["-d", "raspberry-pi-5", "--progress", "loud"], ["--progress 'loud'", "auto, plain or off"]),
        (["-d", "jetson-orim"], ["jetson-orim", "jetson-orin"]),
        (["none.gguf", "-d", "raspberry-pi-5"], ["none.gguf"]),
    ],
)
def test_mistakes_name_the_option_and_the_way_out(
    arguments: list[str], words: list[str], tmp_path: Path, cache: Path
) -> None:
    result = cli("build", *arguments, cwd=tmp_path, cache=cache)
    assert result.returncode not in (0, 70), result.stderr
    assert "Traceback" not in result.stderr and "  -> " in result.stderr and result.stdout == ""
    for word in words:
        assert word in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_unknown_kv_type_suggests_kv_types_only(tmp_path: Path, cache: Path) -> None:
    result = cli("build", "-d", "raspberry-pi-5", "--kv-type", "nonsense", cwd=tmp_path, cache=cache)
    assert result.returncode == 2
    hint = result.stderr.splitlines()[-1]
    assert "F16" in hint and "Q8_0" in hint and "IQ4_NL" in hint
    assert "Q6_K" not in hint and "IQ1_S" not in hint


def test_debug_shows_the_traceback(tmp_path: Path, cache: Path) -> None:
    result = cli("--debug", "build", "none.gguf", "-d", "raspberry-pi-5", cwd=tmp_path, cache=cache)
    assert "Traceback" in result.stderr
