"""Command lines and output of llama-bench and llama-perplexity."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramp_edge.device.llama_tools import (
    BoardTools,
    PerplexityEstimate,
    PerplexityTest,
    SpeedTest,
    decode_energy_j,
    is_progress,
    load_seconds,
    parse_perplexity,
    parse_speeds,
)
from ramp_edge.device.tool_run import ToolLine, ToolRun
from ramp_edge.errors import BoardToolError

TEST = SpeedTest(model_path="/m.gguf", threads=(1,), n_prompt=64, n_gen=16, repeats=2)


def said(text: str, stream: str = "stdout", at_s: float | None = None, energy_j: float | None = None) -> ToolLine:
    return ToolLine(stream="stdout" if stream == "stdout" else "stderr", text=text, at_s=at_s, energy_j=energy_j)


def run_of(*lines: ToolLine) -> ToolRun:
    return ToolRun(
        exit_code=0, wall_s=1.0, cpu_s=1.0, peak_resident_bytes=None, peak_anonymous_bytes=None, energy_source=None,
        lines=lines,
    )  # fmt: skip


def result(**changes: Any) -> str:
    fields = {
        "n_prompt": 64,
        "n_gen": 0,
        "n_depth": 0,
        "n_threads": 1,
        "samples_ts": [5.0, 6.0],
        "build_commit": "abc",
        "backends": "CPU",
    }
    return json.dumps({**fields, **changes})


DECODE = {"n_prompt": 0, "n_gen": 16}


def test_results_in_the_order_of_the_test() -> None:
    run = run_of(said("banner"), said(result(**DECODE)), said(result()))
    prefill, decode = parse_speeds(run, TEST, "board")
    assert (prefill.n_prompt, decode.n_gen) == (64, 16)
    assert prefill.samples_ts == (5.0, 6.0)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (result(samples_ts=[5.0, 0.0]), "samples_ts.1: Input should be greater than 0"),
        (result(samples_ts=[]), "samples_ts: "),
        (result(samples_ts="5"), "samples_ts: "),
        (result(n_threads=0), "n_threads: "),
        (result(n_depth="0"), "n_depth: "),
        (result().replace("5.0", "NaN"), "samples_ts.0: "),
        ("{", "Invalid JSON"),
        ('{"n_prompt": 64}', "Field required"),
    ],
)
def test_what_makes_no_sense_is_named(line: str, expected: str) -> None:
    with pytest.raises(BoardToolError, match="llama-bench on board says what cannot be understood") as caught:
        parse_speeds(run_of(said(line)), TEST, "board")
    assert expected in caught.value.message


@pytest.mark.parametrize(
    "lines",
    [[], [result()], [result(), result(**DECODE, samples_ts=[1.0])], [result(n_threads=2), result(**DECODE)],
     [result(), result(**DECODE, n_depth=512)]],
)  # fmt: skip
def test_missing_results_are_an_error(lines: list[str]) -> None:
    run = run_of(*map(said, lines), said("failed to create context", "stderr"))
    with pytest.raises(BoardToolError, match=r"gave \d of 2 results.*failed to create context"):
        parse_speeds(run, TEST, "board")


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["stdout", "stderr"]), st.text(max_size=80) | st.just(result()) | st.just(result(**DECODE))
        )
    )
)
def test_any_output_gives_results_or_an_error(lines: list[tuple[str, str]]) -> None:
    run = run_of(*(said(text, stream) for stream, text in lines))
    try:
        assert len(parse_speeds(run, TEST, "board")) == 2
    except BoardToolError as error:
        assert error.message.isprintable() and len(error.message) < 600
    parse_perplexity(run, 4)


def test_perplexity() -> None:
    line = said("0.00.120.485 I Final estimate: PPL = 451.5365 +/- 104.13404", "stderr")
    assert parse_perplexity(run_of(line), 4) == PerplexityEstimate(value=451.5365, std_error=104.13404)
    found = parse_perplexity(run_of(said("Final estimate: PPL = nan +/- nan")), 4)
    assert found is not None and math.isnan(found.value)
    assert parse_perplexity(run_of(said("Final estimate: PPL = 1.2.3 +/- 1")), 4) is None


def test_perplexity_whose_last_line_was_lost() -> None:
    running = said("[1]162.0600,[2]450.4728,[3]391.8609,[4]451.5365,")
    assert parse_perplexity(run_of(running), 4) == PerplexityEstimate(value=451.5365, std_error=None)
    assert parse_perplexity(run_of(running), 5) is None
    assert parse_perplexity(run_of(said("[4]451.53")), 4) is None  # cut off within the number
    final = said("Final estimate: PPL = 451.5365 +/- 104.13404")
    assert parse_perplexity(run_of(running, final), 4) == PerplexityEstimate(value=451.5365, std_error=104.13404)


def progress(what: str, at_s: float, energy_j: float | None = None, number: str = "1/1") -> ToolLine:
    return said(f"llama-bench: benchmark {number}: {what}", "stderr", at_s, energy_j)


def test_load_time_and_energy_come_from_the_progress_lines() -> None:
    lines = (
        progress("starting", 0.1, 0.0),
        progress("warmup prompt run", 0.6, 1.0),
        progress("prompt run 1/2", 1.0, 2.0),
        progress("starting", 1.5, 3.0, "2/2"),
        progress("generation run 1/2", 2.0, 4.0, "2/2"),
        progress("depth run 2/2 (cached)", 3.0, 7.0, "2/2"),
        progress("generation run 2/2", 3.1, 7.5, "2/2"),
        said(result(), at_s=4.0, energy_j=11.0),
    )
    assert load_seconds(lines) == pytest.approx(0.5)
    assert decode_energy_j(lines) == {2: [3.0, 3.5]}
    assert [is_progress(line) for line in lines] == [False, False, True, False, True, False, True, False]
    assert load_seconds(lines[1:]) is None
    assert load_seconds((said("x"),)) is None
    without = tuple(said(line.text, line.stream, None, None) for line in lines)
    assert load_seconds(without) is None and decode_energy_j(without) == {}


def test_the_real_tool_answers_in_that_order(llama_bin: Path, tiny_gguf: Path) -> None:
    """Also that its options are still those."""
    test = SpeedTest(
        model_path=str(tiny_gguf), threads=(1,), n_prompt=8, n_gen=4, depths=(0, 16), repeats=2, load_mode="none"
    )
    done = subprocess.run(
        test.argv(BoardTools(bench=str(llama_bin / "llama-bench"))), capture_output=True, text=True, check=True
    )  # fmt: skip
    lines = [said(line) for line in done.stdout.splitlines()]
    results = parse_speeds(run_of(*lines), test, "here")
    assert len(results) == test.n_results == 4
    found = [json.loads(line.text) for line in lines if line.text.startswith("{")]
    assert [(r.n_prompt, r.n_gen, r.n_depth) for r in results] == [
        (f["n_prompt"], f["n_gen"], f["n_depth"]) for f in found
    ]
    progress_lines = [said(line, "stderr") for line in done.stderr.splitlines()]
    assert sum(map(is_progress, progress_lines)) == test.n_runs == 8
    assert {f["load_mode"] for f in found} == {"none"}


def test_command_lines_hold_their_values_apart() -> None:
    argv = SpeedTest(model_path="/a b/-m.gguf", threads=(1, 4), n_prompt=0, n_gen=8, warmup=False).argv(
        BoardTools(bench="/t")
    )
    assert argv[:3] == ("/t", "-m", "/a b/-m.gguf")
    assert argv[argv.index("-t") + 1] == "1,4" and argv[-1] == "--no-warmup"
    test = PerplexityTest(model_path="/m", text_path="/t.txt", n_ctx=256, n_windows=4, threads=2)
    assert test.argv("/p")[-2:] == ("-t", "2")
