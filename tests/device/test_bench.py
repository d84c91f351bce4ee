"""Whole benches on this machine with llama.cpp's own tools, and tools that lie, hang and crash."""

from __future__ import annotations

import hashlib
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest

from ramp_edge.device import agent_client, shell_agent
from ramp_edge.device.bench import bench
from ramp_edge.device.bench_model import BenchModel, BenchText
from ramp_edge.device.bench_plan import BenchOptions
from ramp_edge.device.bench_records import BenchRecord
from ramp_edge.device.llama_tools import BoardTools
from ramp_edge.device.local import LocalTarget
from ramp_edge.device.target import TargetSpec
from ramp_edge.errors import BoardMismatchError, BoardToolError, DeadlineError, UsageError
from ramp_edge.evaluate.evaluator import evaluate_model, tokenize_text
from ramp_edge.events import Event, EventBus, StageAdvanced, StageStarted

ONE_THREAD = BenchOptions(threads=(1,), depths=(0, 64), timeout_s=120.0)
SPEC = TargetSpec(name="board", host=None)
N_CTX, N_WINDOWS = 64, 3


@pytest.fixture(autouse=True)
def quick_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each bench waits twice for the load of the moment: a second each on real boards."""
    monkeypatch.setattr(agent_client, "LOAD_WINDOW_S", 0.05)
    monkeypatch.setattr(shell_agent, "LOAD_WINDOW_S", 0.05)


@pytest.fixture(scope="module")
def text() -> str:
    return "".join(f"the small board reads page {i} of words and writes the next one\n" for i in range(40))


@pytest.fixture(scope="module")
def bench_text(tiny_gguf: Path, text: str) -> BenchText:
    result = evaluate_model(tiny_gguf, tokenize_text(tiny_gguf, text), n_ctx=N_CTX, n_windows=N_WINDOWS, threads=1)
    return BenchText(name="t.txt", data=text.encode(), n_ctx=N_CTX, n_windows=N_WINDOWS, host=result.perplexity.value)


@pytest.fixture(scope="module")
def tools(llama_bin: Path) -> BoardTools:
    return BoardTools(bench=str(llama_bin / "llama-bench"), perplexity=str(llama_bin / "llama-perplexity"))


@pytest.fixture(scope="module")
def model(tiny_gguf: Path, bench_text: BenchText) -> BenchModel:
    return BenchModel(
        label="tiny",
        board_path=str(tiny_gguf),
        file_bytes=tiny_gguf.stat().st_size,
        sha256=hashlib.sha256(tiny_gguf.read_bytes()).hexdigest(),
        context=512,
        planned_context=128,
        predicted_decode_tok_s=1000.0,
        predicted_memory_bytes=10_000_000,
        text=bench_text,
    )


class Bencher(Protocol):
    def __call__(
        self, *models: BenchModel, tools: BoardTools = ..., options: BenchOptions = ..., python: str = ...
    ) -> BenchRecord: ...


@pytest.fixture
def run(tools: BoardTools, tmp_path: Path) -> Bencher:
    default = tools

    def run_bench(
        *models: BenchModel, tools: BoardTools = default, options: BenchOptions = ONE_THREAD, python: str = "python3"
    ) -> BenchRecord:
        target = LocalTarget(replace(SPEC, python=python), home=tmp_path)
        return bench(target, models, tools, options, EventBus(), runtime_commit="0123abc")

    return run_bench


@pytest.mark.parametrize("python", ["python3", "/nonexistent"], ids=["python", "shell"])
def test_a_model_is_measured(python: str, run: Bencher, model: BenchModel) -> None:
    record = run(model, python=python)
    assert record.agent == ("python" if python == "python3" else "shell")
    assert (record.repeats, record.rounds, record.backends, record.runtime_commit) == (5, 1, "CPU", "0123abc")
    (found,) = record.models
    assert [s.depth_tokens for s in found.decode] == [s.depth_tokens for s in found.prefill] == [0, 64]
    for speed in (*found.decode, *found.prefill):
        assert len(speed.samples_tok_s) == 5 and speed.threads == 1
        assert speed.median_tok_s == statistics.median(speed.samples_tok_s)
        assert speed.spread == (max(speed.samples_tok_s) - min(speed.samples_tok_s)) / speed.median_tok_s
        assert speed.energy_j_per_token is None or speed.energy_j_per_token > 0
    assert statistics.median(found.prefill[0].samples_tok_s) > statistics.median(found.decode[0].samples_tok_s)
    mapped, own = found.memory
    assert (mapped.load_mode, own.load_mode, mapped.n_ctx) == ("mmap", "none", 128)
    for use in (mapped, own):
        if use.peak_resident_bytes is not None:
            # The shell's last look may have been at the very start of a tool that is done in a tenth of a second.
            least = model.file_bytes if python == "python3" else 100_000
            assert least < use.peak_resident_bytes < 100e6
        assert use.load_s is not None and 0 <= use.load_s < 60
        assert use.predicted_bytes == 10_000_000
    if python == "python3":
        assert mapped.peak_resident_bytes and own.peak_resident_bytes
    assert found.perplexity is not None and abs(found.perplexity.relative_difference) < 1e-3
    assert found.perplexity.text_sha256 == hashlib.sha256(model.text.data if model.text else b"").hexdigest()
    assert found.prediction is not None
    assert (found.prediction.depth_tokens, found.prediction.measured_tok_s) == (64, found.decode[1].median_tok_s)
    assert found.sweep == () and record.ratios == ()
    assert record.facts_before.cores == record.facts_after.cores


def test_models_take_turns(run: Bencher, model: BenchModel) -> None:
    plain = replace(model, label="other", predicted_decode_tok_s=None, text=None)
    record = run(model, plain, options=replace(ONE_THREAD, depths=(0,)))
    assert (record.repeats, record.rounds) == (5, 5)
    first, second = record.models
    assert second.prediction is None and second.perplexity is None
    decode = next(r for r in record.ratios if r.kind == "decode")
    assert (decode.first, decode.second, len(decode.samples)) == ("tiny", "other", 5)
    pairs = zip(first.decode[0].samples_tok_s, second.decode[0].samples_tok_s, strict=True)
    assert decode.samples == pytest.approx([a / b for a, b in pairs])
    assert {(r.kind, r.depth_tokens) for r in record.ratios} == {("decode", 0), ("prefill", 0)}


@pytest.mark.slow
def test_threads_are_swept(run: Bencher, model: BenchModel) -> None:
    record = run(model, options=BenchOptions(depths=(0,), timeout_s=300.0))
    (found,) = record.models
    cores = record.facts_before.usable_cores or 1
    assert [p.threads for p in found.sweep] == list(range(1, cores + 1))[:8] if cores <= 8 else found.sweep
    best = max(found.sweep, key=lambda p: p.decode_tok_s)
    chosen = next(p for p in found.sweep if p.threads == found.decode[0].threads)
    assert chosen.decode_tok_s >= 0.98 * best.decode_tok_s


def test_progress_counts_every_repeat(tools: BoardTools, model: BenchModel, tmp_path: Path) -> None:
    heard: list[Event] = []
    bench(LocalTarget(SPEC, home=tmp_path), [model], tools, ONE_THREAD, EventBus(listeners=[heard.append]))
    for name in ("thread sweep", "speed", "memory"):
        (start,) = [e for e in heard if isinstance(e, StageStarted) and e.name == f"{name} on board"]
        done = [e.done for e in heard if isinstance(e, StageAdvanced) and e.name == start.name]
        assert done[-1] == start.total, name


def test_another_perplexity_fails_the_bench(run: Bencher, model: BenchModel, bench_text: BenchText) -> None:
    wrong = replace(model, text=replace(bench_text, host=bench_text.host * 1.02))
    with pytest.raises(
        BoardMismatchError, match=r"tiny: perplexity [\d.]+ on board, [\d.]+ on this machine .* more than 1% apart"
    ):
        run(wrong)
    close = replace(model, text=replace(bench_text, host=bench_text.host * 1.008))
    assert run(close).models[0].perplexity is not None


def test_more_threads_than_cores(run: Bencher, model: BenchModel) -> None:
    with pytest.raises(UsageError, match="the board has"):
        run(model, options=BenchOptions(threads=(4096,)))


def script(path: Path, text: str) -> str:
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return str(path)


GOOD = (
    '{"build_commit":"x","backends":"CPU","n_prompt":32,"n_gen":0,"n_depth":0,"n_threads":1,"samples_ts":[9.0]}',
    '{"build_commit":"x","backends":"CPU","n_prompt":0,"n_gen":8,"n_depth":0,"n_threads":1,"samples_ts":[9.0]}',
)


@pytest.mark.parametrize(
    ("tool", "error", "expected"),
    [
        ("echo hello", BoardToolError, "gave 0 of 2 results"),
        ("echo '{\"n_prompt\": \"many\"}'", BoardToolError, "what cannot be understood"),
        (f"echo '{GOOD[0]}'", BoardToolError, "gave 1 of 2 results; without the 1 repeats of: decode of 8 tokens"),
        ("echo 'error: failed to load model' >&2; exit 1", BoardToolError, "failed with status 1: error: failed to load model"),
        ("kill -ILL $$", BoardToolError, "uses an instruction that this processor does not have"),
        ("kill -SEGV $$", BoardToolError, "ended by signal 11"),
        ("kill -KILL $$", BoardToolError, "most likely the board ran out of memory"),
        ("head -c 2000000 /dev/zero | tr '\\0' '{'; echo", BoardToolError, "cannot be understood|Invalid JSON"),
        ("printf '{\\377\\033[31m\\n'", BoardToolError, "cannot be understood"),
        ("sleep 60", DeadlineError, "was not done after 1 s"),
        ("while :; do echo flood; done", DeadlineError, "was not done after 1 s"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("python", ["python3", "/nonexistent"], ids=["python", "shell"])
def test_a_tool_that_goes_wrong(
    tool: str, error: type[Exception], expected: str, python: str, run: Bencher, model: BenchModel, tmp_path: Path
) -> None:
    tools = BoardTools(bench=script(tmp_path / "llama-bench", tool))
    start_s = time.monotonic()
    with pytest.raises(error, match=expected) as caught:
        run(
            model,
            tools=tools,
            options=replace(ONE_THREAD, timeout_s=1.0 if error is DeadlineError else 60.0),
            python=python,
        )
    assert time.monotonic() - start_s < 25
    assert "\x1b" not in str(caught.value) and len(str(caught.value)) < 900


@pytest.mark.parametrize(
    ("tool", "error", "expected"),
    [
        ("echo 'Final estimate: PPL = nan +/- nan'", BoardMismatchError, "perplexity nan on board"),
        ("echo 'Final estimate: PPL = 0.0 +/- 0.0'", BoardMismatchError, "perplexity 0.0000 on board"),
        ("echo nothing", BoardToolError, "no estimate in 3 attempts; its last words: 'nothing'"),
        ("exit 3", BoardToolError, "failed with status 3"),
    ],
)
def test_perplexity_that_goes_wrong(
    tool: str, error: type[Exception], expected: str, run: Bencher, tools: BoardTools, model: BenchModel, tmp_path: Path
) -> None:
    broken = replace(tools, perplexity=script(tmp_path / "llama-perplexity", tool))
    with pytest.raises(error, match=expected):
        run(model, tools=broken)


def test_perplexity_is_asked_again_where_its_end_was_lost(
    run: Bencher, tools: BoardTools, model: BenchModel, bench_text: BenchText, tmp_path: Path
) -> None:
    tool = f"echo x >>{tmp_path}/calls; [ $(wc -l <{tmp_path}/calls) -lt 3 ] || echo 'Final estimate: PPL = {bench_text.host:.4f} +/- 1.0'"
    flaky = replace(tools, perplexity=script(tmp_path / "llama-perplexity", tool))
    found = run(model, tools=flaky).models[0].perplexity
    assert found is not None and found.board == pytest.approx(bench_text.host, abs=1e-4)
    assert (tmp_path / "calls").read_text() == "x\n" * 3


def test_a_missing_model(run: Bencher, model: BenchModel, tmp_path: Path) -> None:
    with pytest.raises(BoardToolError, match=r"llama-\w+ on board failed with status 1"):
        run(replace(model, board_path=str(tmp_path / "no such.gguf")))


def test_a_path_that_looks_like_an_option(run: Bencher, model: BenchModel, tmp_path: Path) -> None:
    folder = tmp_path / "a 'b' $HOME;"
    folder.mkdir()
    path = folder / "-rf.gguf"
    path.symlink_to(model.board_path)
    record = run(replace(model, board_path=str(path), text=None), options=replace(ONE_THREAD, depths=(0,)))
    assert record.models[0].decode[0].median_tok_s > 0
