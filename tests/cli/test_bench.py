"""`ramp-edge bench` as users meet it: the report word for word, the record beside the build, errors with a next step."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
from rich.console import Console

from ramp_edge.cli.bench_report import detail_lines, head_lines, speed_table
from ramp_edge.device.bench_records import (
    BenchRecord,
    MemoryUse,
    ModelBench,
    PairedRatio,
    PerplexityCheck,
    Prediction,
    Speed,
    SweepPoint,
    Unstable,
    read_bench,
)
from ramp_edge.device.facts import BoardFacts
from ramp_edge.units import human_tok_s

GOLDEN = Path(__file__).parent / "golden"


def cli(*args: str | Path, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    script = "import sys; sys.argv[0] = 'ramp-edge'; from ramp_edge.cli.main import main; main()"
    base = {k: v for k, v in os.environ.items() if not k.startswith("RAMP_EDGE_") or k == "RAMP_EDGE_CACHE"}
    return subprocess.run(
        [sys.executable, "-c", script, "bench", *map(str, args)],
        capture_output=True, text=True, check=False,
        env={**base, "HOME": str(home), "RAMP_EDGE_CONFIG": str(home), **environment},
    )  # fmt: skip


def _speed(kind: str, depth: int, median: float, threads: int, energy: float | None = None) -> Speed:
    return Speed(
        kind="decode" if kind == "decode" else "prefill", depth_tokens=depth, n_tokens=32, threads=threads,
        samples_tok_s=tuple(median * x for x in (0.99, 1.0, 1.0, 1.005, 1.01)), median_tok_s=median, spread=0.02, energy_j_per_token=energy,
    )  # fmt: skip


def _model(label: str, factor: float, **changes: object) -> ModelBench:
    model = ModelBench(
        label=label,
        board_path=f"/home/pi/ramp-edge/{label}/model.gguf",
        file_bytes=round(90_000_000 * factor),
        sha256="0" * 64,
        kv_type="f16",
        sweep=(SweepPoint(threads=1, decode_tok_s=12.0, prefill_tok_s=30.0),),
        decode=(_speed("decode", 0, 23.4 / factor, 2, 0.153), _speed("decode", 512, 21.0 / factor, 2, 0.161)),
        prefill=(_speed("prefill", 0, 118.0, 4), _speed("prefill", 512, 97.3, 4)),
        memory=(
            MemoryUse(load_mode="mmap", n_ctx=2048, peak_resident_bytes=245_000_000, peak_anonymous_bytes=151_000_000, load_s=0.31, predicted_bytes=135_000_000),
            MemoryUse(load_mode="none", n_ctx=2048, peak_resident_bytes=155_000_000, peak_anonymous_bytes=None, load_s=0.52, predicted_bytes=135_000_000),
        ),
        perplexity=PerplexityCheck(text="bench-text.txt", text_sha256="1" * 64, n_ctx=256, n_windows=4, board=15.214, board_std_error=1.0, host=15.203),
        prediction=Prediction(decode_tok_s=22.0, depth_tokens=1024, measured_tok_s=21.0 / factor),
        unstable=(),
    )  # fmt: skip
    return replace(model, **changes)  # type: ignore[arg-type]


def _facts(**known: object) -> BoardFacts:
    nothing = {
        f.name: () if "tuple" in str(f.type) else {} if "dict" in str(f.type) else None for f in fields(BoardFacts)
    }
    return BoardFacts(**{**nothing, **known})  # type: ignore[arg-type]


@pytest.fixture
def record() -> BenchRecord:
    before = _facts(
        board_model="Raspberry Pi 5 Model B Rev 1.0", cpu_model="Cortex-A76", distribution="Debian GNU/Linux 12 (bookworm)",
        cores=4, usable_cores=4, memory_total_bytes=8_453_000_000, memory_available_bytes=7_168_000_000, governors=("ondemand",),
        temperatures_c={"cpu": 48.4},
    )  # fmt: skip
    return BenchRecord(
        target="kitchen-pi",
        address="pi@192.0.2.7",
        exec_prefix=("taskset", "-c", "0-3"),
        agent="python",
        measured_at="2026-11-26T07:00:00+00:00",
        wall_s=312.0,
        ramp_edge_version="0.1.0",
        runtime_commit="0c1e57098",
        backends="CPU",
        repeats=5,
        rounds=5,
        models=(
            _model("out", 1.0),
            _model("iq4_xs", 1.1, memory=(), perplexity=None, prediction=None, unstable=(Unstable(kind="spread", detail="decode at depth 0: repeats lie 9% apart"),)),
        ),
        ratios=(PairedRatio(first="out", second="iq4_xs", kind="decode", depth_tokens=0, samples=(1.09, 1.1, 1.12), median=1.1),),
        energy_source="PMIC rails",
        facts_before=before,
        facts_after=replace(before, temperatures_c={"cpu": 71.2}),
        unstable=(Unstable(kind="throttled", detail="during the bench: soft temperature limit"),),
        notes=("depth 2048 is left out: its prefill would take 90 s each time; --depths 2048 asks for it",),
    )  # fmt: skip


def shown(record: BenchRecord) -> str:
    console = Console(width=132, no_color=True, highlight=False)
    with console.capture() as capture:
        for line in head_lines(record):
            console.print(line, markup=False, soft_wrap=True)
        console.print()
        console.print(speed_table(record))
        console.print()
        for line in detail_lines(record):
            console.print(line, markup=False, soft_wrap=True)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


def test_the_report_is_the_golden_text(record: BenchRecord) -> None:
    """RAMP_EDGE_UPDATE_GOLDEN=1 writes it anew; read the difference before you commit it."""
    golden = GOLDEN / "bench.txt"
    if os.environ.get("RAMP_EDGE_UPDATE_GOLDEN"):
        golden.write_text(shown(record), encoding="utf-8")
    assert shown(record) == golden.read_text(encoding="utf-8")
    assert not record.is_stable


def test_a_board_that_tells_nothing(record: BenchRecord) -> None:
    silent = replace(
        record, facts_before=_facts(), facts_after=_facts(), models=(_model("[out]", 1.0, decode=(_speed("decode", 0, 9.0, 1),), prefill=(_speed("prefill", 0, 9.0, 1),)),),
        ratios=(), energy_source=None, unstable=(), notes=(), exec_prefix=(), runtime_commit=None, backends=None, rounds=1,
    )  # fmt: skip
    text = shown(silent)
    assert text.startswith("kitchen-pi (pi@192.0.2.7): a board that does not name itself\n")
    assert "llama.cpp of unknown commit, 5 repeats, python agent" in text
    assert "[out]" in text and "mJ/token" not in text and "unstable" not in text
    assert silent.is_stable


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], "--target is missing"),
        (["--target", "local", "--repeats", "3"], "--repeats 3: fewer than 5"),
        (["--target", "local", "--threads", "2,x"], "--threads '2,x' is no list of numbers"),
        (["--target", "local", "--threads", ""], "--threads '' is no list of numbers"),
        (["--target", "local", "--depths", "-1"], "--depths '-1' is no list of numbers"),
        (["--target", "local", "--timeout", "0"], "--timeout 0"),
        (["--target", "local", "--against", "nowhere"], "nowhere does not exist"),
        (["--target", "-oProxyCommand=x"], "is no address"),
    ],
)
def test_what_makes_no_sense_is_said_at_once(args: list[str], expected: str, tiny_gguf: Path, tmp_path: Path) -> None:
    done = cli(tiny_gguf, *args, home=tmp_path)
    assert done.returncode in (2, 18), done.stderr
    assert expected in done.stderr and "->" in done.stderr
    assert done.stdout == ""


def test_a_dry_run_shows_the_plan_and_connects_to_nothing(tiny_gguf: Path, tmp_path: Path) -> None:
    done = cli(tiny_gguf, "--target", "pi@192.0.2.7:2222", "--against", tiny_gguf, "--dry-run", home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "target      pi@192.0.2.7:2222 (pi@192.0.2.7:2222)" in done.stdout
    assert done.stdout.count(str(tiny_gguf)) == 2
    assert "1 in each of 5 rounds" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_build_folder_gets_its_record(tiny_gguf: Path, llama_bin: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    shutil.copy(tiny_gguf, out / "model.gguf")
    args = (out, "--target", "local", "--runtime", llama_bin, "--threads", "1", "--depths", "0", "--progress", "plain")
    done = cli(*args, home=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert "Decode tok/s" in done.stdout and f"written     {out / 'bench.json'}" in done.stdout
    assert "speed on local" in done.stderr and "speed on local" not in done.stdout
    record = read_bench(out / "bench.json")
    assert record.models[0].label == "out" and record.target == "local"
    assert f"report      {out / 'report.html'}" in done.stdout
    drawn = (out / "report.html").read_text(encoding="utf-8")
    assert f"{record.models[0].decode[0].median_tok_s:.0f}" in drawn
    # Again, as JSON and elsewhere: stdout is the document alone.
    elsewhere = tmp_path / "b.json"
    done = cli(*args, "--no-perplexity", "--json", "-o", elsewhere, home=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(elsewhere.read_text())
    assert read_bench(elsewhere).models[0].perplexity is None
    assert read_bench(out / "bench.json") == record
    assert (tmp_path / "b.html").is_file()
    assert (out / "report.html").read_text(encoding="utf-8") == drawn


def test_a_file_that_is_not_ours_stays(tiny_gguf: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("mine")
    done = cli(tiny_gguf, "--target", "local", "-o", path, home=tmp_path)
    assert done.returncode == 2 and "was not written by ramp-edge bench" in done.stderr
    assert path.read_text() == "mine"


@pytest.mark.slow
def test_several_boards_give_one_table_and_a_record_each(tiny_gguf: Path, llama_bin: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    shutil.copy(tiny_gguf, out / "model.gguf")
    targets = tmp_path / "targets.yaml"
    targets.write_text(
        "targets:\n"
        f"  first: {{host: local, folder: '{tmp_path}/one', tags: [lab]}}\n"
        f"  second: {{host: local, folder: '{tmp_path}/two', tags: [lab]}}\n"
        "  away: {host: 'nobody@127.0.0.1:1', tags: [lab]}\n"
    )
    options = ("--runtime", llama_bin, "--threads", "1", "--depths", "0", "--no-perplexity", "--progress", "off")
    done = cli(out, "--target", "lab", *options, home=tmp_path, RAMP_EDGE_TARGETS=str(targets), COLUMNS="160")
    assert done.returncode == 19, done.stderr
    assert "1 of 3 boards failed" in done.stderr
    assert "away: " in done.stderr
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if line.split()}
    for name in ("first", "second"):
        record = read_bench(out / f"bench-{name}.json")
        assert record.target == name
        assert human_tok_s(record.models[0].decode[0].median_tok_s) in rows[name]
    assert "failed" in rows["away"]
    assert not (out / "bench-away.json").exists()
    drawn = (out / "report.html").read_text(encoding="utf-8")
    assert "Boards side by side" in drawn and "The board: first" in drawn and "The board: second" in drawn

    refused = cli(out, "--target", "lab", "-o", tmp_path / "x.json", home=tmp_path, RAMP_EDGE_TARGETS=str(targets))
    assert refused.returncode == 2
    assert "several boards" in refused.stderr
