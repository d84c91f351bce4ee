"""Every kind of rule on real records: one limit that holds and one that does not, with exit code, message and place."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ramp_edge.errors import BudgetViolatedError, GateUndecidedError, UsageError
from ramp_edge.gate.metrics import Better, Unit, find_metric
from ramp_edge.gate.run import gate_files
from ramp_edge.gate.verdict import GateResult, Judgement, Verdict

ASSETS = Path(__file__).parent / "assets"
NEW = [ASSETS / "new", ASSETS / "new" / "eval.json"]
OLD = [ASSETS / "old", ASSETS / "old" / "eval.json"]
BUILD, BENCH, TASKS = (json.loads((ASSETS / "new" / f"{name}.json").read_text()) for name in ("build", "bench", "eval"))
MODEL = BENCH["models"][0]
EVALUATION = BUILD["evaluation"]
MakeBudget = Callable[..., Path]
Changed = Callable[..., Path]


def _at(speeds: list[dict[str, Any]], depth: int) -> dict[str, Any]:
    return next(speed for speed in speeds if speed["depth_tokens"] == depth)


def _memory(mode: str, field: str) -> float:
    value: float = next(use for use in MODEL["memory"] if use["load_mode"] == mode)[field]
    return value


def _task(name: str) -> dict[str, Any]:
    task: dict[str, Any] = next(task for task in TASKS["tasks"] if task["task"] == name)
    return task


VALUES: dict[str, float] = {
    "size_bytes": BUILD["file_bytes"],
    "bits_per_weight": BUILD["bits_per_weight"],
    "resident_bytes": sum(line["size_bytes"] for line in BUILD["memory"]["lines"]),
    "resident_bytes.kv_cache": next(x["size_bytes"] for x in BUILD["memory"]["lines"] if x["name"] == "kv_cache"),
    "free_bytes": BUILD["memory"]["free_bytes"],
    "predicted_decode_tok_s": BUILD["predicted_decode_tok_s"],
    "predicted_kl": BUILD["predicted_kl"],
    "kl_mean": EVALUATION["divergence"]["mean_kl"],
    "kl_median": EVALUATION["divergence"]["median_kl"],
    "kl_p99": EVALUATION["divergence"]["p99_kl"],
    "top_token_agreement": EVALUATION["divergence"]["top_token_agreement"],
    "ppl": EVALUATION["perplexity"]["value"],
    "ppl_ratio": EVALUATION["perplexity"]["value"] / BUILD["reference"]["perplexity"]["value"],
    "decode_tok_s.median": statistics.median(_at(MODEL["decode"], 0)["samples_tok_s"]),
    "decode_tok_s.depth_256.median": statistics.median(_at(MODEL["decode"], 256)["samples_tok_s"]),
    "decode_tok_s.min": min(_at(MODEL["decode"], 0)["samples_tok_s"]),
    "decode_tok_s.max": max(_at(MODEL["decode"], 0)["samples_tok_s"]),
    "decode_tok_s.spread": _at(MODEL["decode"], 0)["spread"],
    "prefill_tok_s": statistics.median(_at(MODEL["prefill"], 0)["samples_tok_s"]),
    "prefill_tok_s.depth_256": statistics.median(_at(MODEL["prefill"], 256)["samples_tok_s"]),
    "load_s": _memory("mmap", "load_s"),
    "load_s.none": _memory("none", "load_s"),
    "peak_resident_bytes": _memory("mmap", "peak_resident_bytes"),
    "peak_resident_bytes.none": _memory("none", "peak_resident_bytes"),
    "peak_anonymous_bytes": _memory("mmap", "peak_anonymous_bytes"),
    "measured_over_predicted": MODEL["prediction"]["measured_tok_s"] / MODEL["prediction"]["decode_tok_s"],
    "board_ppl_error": abs(MODEL["perplexity"]["board"] / MODEL["perplexity"]["host"] - 1),
    "accuracy.piqa": _task("piqa")["model"]["accuracy"]["acc_norm"]["value"],
    "accuracy.piqa.acc": _task("piqa")["model"]["accuracy"]["acc"]["value"],
    "accuracy.openbookqa": _task("openbookqa")["model"]["accuracy"]["acc_norm"]["value"],
    "accuracy.average": TASKS["average"]["model"]["value"],
    "retention.piqa": _task("piqa")["comparison"]["acc_norm"]["retention"]["value"],
    "retention.average": TASKS["average"]["comparison"]["retention"]["value"],
    "accuracy_change.average": TASKS["average"]["comparison"]["difference"]["value"],
}
"""Metric -> its value, found in the records by another way than the gate's."""


def only(result: GateResult) -> Judgement:
    """The single judgement of a single subject."""
    (one,) = result.subjects
    (judgement,) = one.judgements
    return judgement


def _written(value: float, unit: Unit) -> str:
    return {Unit.BYTES: f"{value:.0f} B", Unit.SECONDS: f"{value:.9f} s"}.get(unit, f"{value:.9f}")


@pytest.mark.parametrize("name", VALUES)
def test_a_limit_that_holds_and_one_that_does_not(name: str, budget: MakeBudget) -> None:
    metric, value = find_metric(name), VALUES[name]
    operator = "<=" if metric.better is Better.LOWER else ">="
    room = abs(value) * 0.01 + 1e-7
    better, worse = (value - room, value + room) if metric.better is Better.HIGHER else (value + room, value - room)
    held = only(gate_files(NEW, budget(f"{name} {operator} {_written(better, metric.unit)}")))
    assert (held.verdict, held.reason if held.measured and not held.measured.noise else "") == (Verdict.PASS, "")
    assert held.measured is not None
    assert held.measured.value == pytest.approx(value)
    path = budget(f"{name} {operator} {_written(worse, metric.unit)}")
    result = gate_files(NEW, path)
    error = result.error()
    assert isinstance(error, BudgetViolatedError)
    assert error.exit_code == 4
    assert f"{metric.name} is " in error.message and "local (x86-avx512-32gb)" in error.message
    assert str(only(result).place) == f"{path}:2"


@pytest.mark.parametrize(
    ("rule", "records", "baseline", "expected"),
    [
        ("size_bytes: +1%", NEW, OLD, Verdict.PASS),
        ("size_bytes: +1%", OLD, NEW, Verdict.VIOLATED),
        ("resident_bytes: +0%", NEW, OLD, Verdict.PASS),
        ("resident_bytes: +0%", OLD, NEW, Verdict.VIOLATED),
        ("kl_mean: +20%", OLD, NEW, Verdict.PASS),
        ("kl_mean: +20%", NEW, OLD, Verdict.VIOLATED),
        ("kl_mean: +1%", OLD, OLD, Verdict.NOISY),
        ("kl_mean: +1%", OLD, NEW, Verdict.PASS),
        ("peak_resident_bytes: +50%", NEW, OLD, Verdict.PASS),
        ("accuracy.piqa: -20%", NEW, OLD, Verdict.PASS),
        ("accuracy.piqa: -1%", NEW, OLD, Verdict.NOISY),
        ("accuracy.average: -30%", NEW, OLD, Verdict.PASS),
    ],
)
def test_regressions(
    rule: str, records: list[Path], baseline: list[Path], expected: Verdict, budget: MakeBudget
) -> None:
    result = gate_files(records, budget(rule), baseline)
    judgement = only(result)
    assert judgement.verdict is expected, judgement.reason
    assert result.exit_code == {Verdict.PASS: 0, Verdict.VIOLATED: 4, Verdict.NOISY: 5}[expected]
    if expected is Verdict.VIOLATED:
        assert "of the baseline; " in judgement.reason and "is allowed" in judgement.reason


def test_speed_against_the_same_board(budget: MakeBudget, changed: Changed) -> None:
    """By the definition, from the repeats in the records."""
    old = _at(json.loads((ASSETS / "old" / "bench.json").read_text())["models"][0]["decode"], 0)["samples_tok_s"]
    new = _at(MODEL["decode"], 0)["samples_tok_s"]
    before, after = statistics.median(old), statistics.median(new)
    noise = ((max(old) - min(old)) / 2 + (max(new) - min(new)) / 2) / before
    worse = (before - after) / before
    for allowed in (1, 2, 3, 5, 8, 13, 21, 34, 55, 89):
        share = allowed / 100
        expected = (
            Verdict.VIOLATED if worse > share and worse > noise else Verdict.NOISY if noise > share else Verdict.PASS
        )
        assert only(gate_files(NEW, budget(f"decode_tok_s: -{allowed}%"), OLD)).verdict is expected

    def halved(data: dict[str, Any]) -> None:
        for speed in data["models"][0]["decode"]:
            speed["samples_tok_s"] = [x / 2 for x in speed["samples_tok_s"]]
            speed["median_tok_s"] /= 2

    slow = changed("new/bench.json", halved)
    result = gate_files([ASSETS / "new" / "build.json", slow], budget("decode_tok_s: -5%"), NEW)
    assert only(result).verdict is Verdict.VIOLATED
    assert "-50% from" in only(result).reason


def test_an_unstable_bench_judges_no_speed_but_size(budget: MakeBudget) -> None:
    shaky = [ASSETS / "old" / "build.json", ASSETS / "unstable.json"]
    result = gate_files(shaky, budget("size_bytes <= 5 MB", "decode_tok_s >= 1"))
    assert [j.verdict for j in result.subjects[0].judgements] == [Verdict.PASS, Verdict.UNSTABLE]
    error = result.error()
    assert isinstance(error, GateUndecidedError) and error.exit_code == 5
    assert "the bench is unstable" in error.message
    baseline = gate_files(OLD, budget("decode_tok_s: -90%"), shaky)
    assert only(baseline).verdict is Verdict.UNSTABLE
    assert "the baseline's bench is unstable" in only(baseline).reason


def _set(*path: str | int, to: object) -> Callable[[Any], None]:
    def edit(data: Any) -> None:
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = to

    return edit


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (_set("models", 0, "decode", 0, "threads", to=2), "threads 1, in the baseline 2"),
        (_set("runtime_commit", to="abc1234"), "runtime commit"),
        (_set("runtime_commit", to=None), "runtime commit is not known"),
        (_set("facts_before", "cpu_model", to="Cortex-A76"), "in the baseline Cortex-A76"),
        (_set("facts_before", "power_mode", to="MAXN"), "power mode unknown, in the baseline MAXN"),
        (_set("exec_prefix", to=["taskset", "-c", "0"]), "exec_prefix none, in the baseline taskset -c 0"),
        (_set("models", 0, "kv_type", to="q8_0"), "KV type f16, in the baseline q8_0"),
        (_set("target", to="cellar"), "the baseline is of cellar"),
    ],
)
def test_an_unlike_bench_is_no_baseline(
    edit: Callable[[Any], None], words: str, budget: MakeBudget, changed: Changed
) -> None:
    baseline = [ASSETS / "old" / "build.json", changed("old/bench.json", edit)]
    result = gate_files(NEW, budget("decode_tok_s: -99%"), baseline)
    assert only(result).verdict is Verdict.UNLIKE
    assert words in only(result).reason
    assert result.exit_code == 5


@pytest.mark.parametrize(
    ("name", "edit", "rule", "words"),
    [
        ("build", _set("model", "sha256", to="f" * 64), "size_bytes: +99%", "built from another model"),
        ("build", _set("device", "name", to="raspberry-pi-4-4gb"), "size_bytes: +99%", "the baseline is of"),
        ("build", _set("model", "ctx", to=4096), "resident_bytes: +99%", "context 512, in the baseline 4096"),
        ("build", _set("evaluation", "perplexity", "n_tokens", to=510), "kl_mean: +99%", "evaluated tokens"),
        ("build", _set("reference", "perplexity", "value", to=40.0), "kl_mean: +99%", "reference's perplexity"),
        ("eval", _set("tasks", 0, "file_sha256", to="f" * 64), "accuracy.openbookqa: -99%", "task file"),
        ("eval", _set("tasks", 0, "n_items", to=100), "accuracy.openbookqa: -99%", "items 200, in the baseline 100"),
        ("eval", _set("tasks", 0, "n_items", to=100), "accuracy.average: -99%", "openbookqa"),
        ("eval", _set("engine", to="other 1"), "accuracy.piqa: -99%", "in the baseline other 1"),
    ],
)  # fmt: skip
def test_unlike_builds_and_evaluations(
    name: str, edit: Callable[[Any], None], rule: str, words: str, budget: MakeBudget, changed: Changed
) -> None:
    others = [ASSETS / "old" / f"{other}.json" for other in ("build", "eval") if other != name]
    result = gate_files(NEW, budget(rule), [*others, changed(f"old/{name}.json", edit)])
    assert only(result).verdict is Verdict.UNLIKE, only(result)
    assert words in only(result).reason


@pytest.mark.parametrize(
    ("rule", "records", "words"),
    [
        ("decode_tok_s >= 1", ["new/build.json"], "ramp-edge bench OUT --target T"),
        ("decode_tok_s.depth_512 >= 1", ["new"], "there are decode_tok_s.depth_256.max"),
        ("accuracy.piqa >= 1 %", ["new"], "ramp-edge eval OUT --tasks"),
        ("accuracy.boolq >= 1 %", ["new", "new/eval.json"], "there are accuracy.average, accuracy.openbookqa"),
        ("energy_j_per_token <= 9 J", ["new"], "the record does not have it"),
        ("size_bytes <= 1 GB", ["new/bench.json"], "give the build folder"),
    ],
)
def test_a_missing_metric_says_how_to_get_it(rule: str, records: list[str], words: str, budget: MakeBudget) -> None:
    result = gate_files([ASSETS / record for record in records], budget(rule))
    assert only(result).verdict is Verdict.MISSING
    assert words in only(result).reason
    assert result.exit_code == 5


def test_a_build_that_measured_nothing_has_no_quality(budget: MakeBudget, changed: Changed) -> None:
    path = changed("new/build.json", _set("evaluation", to=None))
    assert "--effort balanced" in only(gate_files([path], budget("kl_mean <= 9"))).reason


@pytest.mark.parametrize(
    "records", [["new/build.json", "new/eval.json"], ["new/bench.json", "new/eval.json"], ["new/eval.json"]]
)
def test_any_of_the_records_can_be_left_out(records: list[str], budget: MakeBudget) -> None:
    result = gate_files([ASSETS / record for record in records], budget("accuracy.piqa >= 1 %"))
    assert result.word == "pass"
    assert len(result.subjects) == 1


@pytest.mark.parametrize(
    ("records", "error", "words"),
    [
        (["new/build.json", "old/bench.json"], GateUndecidedError, "measured another file than was built"),
        (["new/build.json", "old/eval.json"], GateUndecidedError, "evaluated another file"),
        (["new/build.json", "old/build.json"], UsageError, "two records for x86-avx512-32gb"),
        (["old", "unstable.json"], UsageError, "two records for local (x86-avx512-32gb)"),
        (["README.md"], UsageError, "is not JSON"),
        (["nowhere.json"], UsageError, "cannot be read: No such file"),
        (["."], UsageError, "holds neither build.json nor bench.json"),
    ],
)
def test_records_that_do_not_belong_together(
    records: list[str], error: type[Exception], words: str, budget: MakeBudget
) -> None:
    with pytest.raises(error) as caught:
        gate_files([ASSETS / record for record in records], budget("size_bytes <= 1 GB"))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("name", "edit", "words"),
    [
        ("build", _set("schema_version", to=2), "a build record of schema version 2, this ramp-edge reads 1"),
        ("build", _set("file_bytes", to="90"), "file_bytes: input should be a valid integer"),
        ("build", _set("evaluation", "divergence", "mean_kl", to=float("nan")), "evaluation.divergence.mean_kl"),
        ("build", _set("bits_per_weight", to=None), "bits_per_weight"),
        ("bench", _set("models", to=[]), "models: list should have at least 1 item"),
        ("bench", _set("models", 0, "decode", 0, "samples_tok_s", to=[]), "models.0.decode.0.samples_tok_s"),
        ("bench", _set("models", 0, "decode", 0, "median_tok_s", to=0), "models.0.decode.0.median_tok_s"),
        ("eval", _set("tasks", to=[]), "tasks: list should have at least 1 item"),
    ],
)
def test_a_damaged_record_is_named(
    name: str, edit: Callable[[Any], None], words: str, budget: MakeBudget, changed: Changed
) -> None:
    path = changed(f"new/{name}.json", edit)
    with pytest.raises(UsageError) as caught:
        gate_files([path], budget("size_bytes <= 1 GB"))
    assert str(path) in caught.value.message and words in caught.value.message


def test_a_dry_run_has_no_file_to_judge(budget: MakeBudget, changed: Changed) -> None:
    path = changed("new/build.json", _set("dry_run", to=True))
    with pytest.raises(GateUndecidedError, match="dry run"):
        gate_files([path], budget("size_bytes <= 1 GB"))


def test_all_damaged_records_are_named_at_once(budget: MakeBudget, tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "half.json").write_text('{"tensors": ')
    with pytest.raises(UsageError) as caught:
        gate_files([tmp_path / "list.json", tmp_path / "half.json", tmp_path], budget("size_bytes <= 1 GB"))
    assert len(caught.value.message.splitlines()) == 3


def test_a_bench_of_rivals_is_judged_by_the_build_s_own(budget: MakeBudget, changed: Changed) -> None:
    """--against: the others are not what is judged, wherever they stand."""

    def with_rival(data: dict[str, Any]) -> None:
        rival = json.loads(json.dumps(data["models"][0]))
        rival |= {"sha256": "e" * 64, "label": "rival"}
        rival["decode"][0] |= {"median_tok_s": 1.0, "samples_tok_s": [1.0]}
        data["models"].insert(0, rival)

    path = changed("new/bench.json", with_rival)
    judged = only(gate_files([ASSETS / "new" / "build.json", path], budget("decode_tok_s >= 2")))
    assert judged.verdict is Verdict.PASS
    alone = gate_files([path], budget("decode_tok_s >= 2"))
    assert only(alone).verdict is Verdict.VIOLATED, "without a build the first one is meant"
    assert alone.subjects[0].subject.model == "rival"


def test_a_folder_s_benches_of_several_boards(budget: MakeBudget, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "build.json").write_text(json.dumps(BUILD))
    for board in ("cellar", "kitchen"):
        (folder / f"bench-{board}.json").write_text(json.dumps({**BENCH, "target": board}))
    path = budget(cellar=("decode_tok_s >= 1",), kitchen=("decode_tok_s >= 1e9",))
    result = gate_files([folder], path)
    assert [(one.subject.target, one.judgements[0].verdict.value) for one in result.subjects] == [
        ("cellar", "pass"),
        ("kitchen", "violated"),
    ]
    (folder / "bench.json").write_text(json.dumps({**BENCH, "target": "cellar"}))
    with pytest.raises(UsageError, match="are two records for cellar"):
        gate_files([folder], path)


def test_one_build_on_two_boards(budget: MakeBudget, changed: Changed) -> None:
    other = changed("new/bench.json", _set("target", to="cellar"))
    path = budget("size_bytes <= 1 GB", cellar=("decode_tok_s >= 1", "size_bytes <= 1 MB"))
    result = gate_files([ASSETS / "new", other], path)
    assert [one.subject.device for one in result.subjects] == ["local (x86-avx512-32gb)", "cellar (x86-avx512-32gb)"]
    assert [[j.verdict.value for j in one.judgements] for one in result.subjects] == [["pass"], ["violated", "pass"]]


def test_all_right_of_a_few_is_not_exact(budget: MakeBudget, changed: Changed) -> None:
    """The binomial standard error of 5 right out of 5 is 0."""

    def few(data: dict[str, Any]) -> None:
        for task in data["tasks"]:
            task["n_items"] = 5
            task["model"]["accuracy"] = {"acc_norm": {"value": 1.0, "std_error": 0.0, "n_items": 5, "n_correct": 5}}

    path = changed("new/eval.json", few)
    judged = only(gate_files([path], budget("accuracy.piqa: -5%"), [path]))
    assert judged.verdict is Verdict.NOISY
    assert judged.measured is not None and judged.measured.noise == pytest.approx((6 / 7 / 7 / 7) ** 0.5)
