"""Task files: what they become, and what is said about each kind of mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from ramp_edge.errors import TaskDataError, UsageError
from ramp_edge.evaluate.tasks.definitions import TASKS, Metric, parse_task_names
from ramp_edge.evaluate.tasks.files import find_task_files
from ramp_edge.evaluate.tasks.parse import load_task, spread_indices

ASSETS = Path(__file__).parent / "assets"
BAD = {
    "choices-gold-too-high.jsonl": "line 2: gold is 2, there are 2 choices",
    "choices-gold-negative.jsonl": "line 1: gold is -1",
    "choices-gold-bool.jsonl": "line 1: gold is True",
    "choices-gold-text.jsonl": "line 1: gold is '0'",
    "choices-no-gold.jsonl": "line 1: no gold",
    "choices-no-query.jsonl": "line 1: no query or question",
    "choices-no-choices.jsonl": "line 1: no choices",
    "choices-empty-list.jsonl": "line 1: choices is not a list of at least 2 texts",
    "choices-only-one.jsonl": "line 1: choices is not a list of at least 2 texts",
    "choices-blank-choice.jsonl": "line 1: choices holds an empty text",
    "choices-number.jsonl": "line 1: choices holds 7",
    "choices-blank-query.jsonl": "line 1: question holds an empty text",
    "choices-half-surrogate.jsonl": "line 1: choices holds half a surrogate pair",
    "choices-not-json.jsonl": "line 2: not JSON",
    "choices-not-an-object.jsonl": "line 1: not a JSON object",
    "choices-empty-file.jsonl": "the file has no items",
    "choices-seven-problems.jsonl": "line 5: gold is 9, there are 2 choices, from 0; and 2 more",
    "choices-not-utf8.jsonl": "line 2 is not UTF-8",
    "contexts-no-continuation.jsonl": "line 1: no continuation",
    "contexts-no-options.jsonl": "line 1: no context_options",
    "contexts-blank-option.jsonl": "line 1: context_options holds an empty text",
    "contexts-gold-too-high.jsonl": "line 1: gold is 2, there are 2 choices",
    "hellaswag-truncated.txt": "10 lines are not a multiple of 6",
    "hellaswag-label.txt": "line 7: the index of the right ending is '4'",
    "hellaswag-blank-ending.txt": "line 1: endings holds an empty text",
    "hellaswag-blank-line-between.txt": "13 lines are not a multiple of 6",
    "hellaswag-empty.txt": "the file has no items",
    "hellaswag-cut.txt.bz2": "is not a whole bzip2 file",
}
TASK_OF = {"choices": "openbookqa", "contexts": "winogrande", "hellaswag": "hellaswag"}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_named_with_its_line(name: str) -> None:
    with pytest.raises(TaskDataError) as caught:
        load_task(TASKS[TASK_OF[name.partition("-")[0]]], ASSETS / name)
    assert BAD[name] in caught.value.message
    assert name in caught.value.message
    assert caught.value.hint


def test_every_bad_file_has_its_message() -> None:
    assert {file.name for file in ASSETS.iterdir()} == set(BAD)


def test_prompts_are_the_harness_s(task_folder: Path) -> None:
    files = find_task_files(task_folder, tuple(TASKS.values()))
    data = {name: load_task(TASKS[name], file) for name, file in files.items()}
    assert {name: task.n_available for name, task in data.items()} == dict.fromkeys(TASKS, 12)
    first = {name: task.items[0] for name, task in data.items()}
    for name in ("piqa", "arc_easy", "arc_challenge", "boolq"):
        assert first[name].contexts[0].endswith("\nAnswer:")
        assert "\n\n" not in first[name].contexts[0]
    for name in ("piqa", "arc_easy", "arc_challenge"):
        assert first[name].contexts[0].startswith("Question: ")
        assert first[name].contexts[0].count("Question") == 1
    assert "Passage" not in first["boolq"].contexts[0]
    assert first["boolq"].continuations == (" no", " yes")
    assert first["boolq"].n_characters == (2, 3)
    assert len(set(first["winogrande"].contexts)) == 2
    assert len(set(first["winogrande"].continuations)) == 1
    assert first["hellaswag"].n_choices == 4
    assert first["hellaswag"].contexts[0].startswith("Walk: ")
    for task in data.values():
        assert all(item.continuations[item.gold].startswith(" ") for item in task.items)


def test_line_ends_of_windows_and_odd_line_breaks(tmp_path: Path) -> None:
    text = "A man sits. he\r\n1\r\nsings.\r\nreads\u2028on.\r\nruns.\r\nfalls.\r\n"
    file = tmp_path / "hellaswag.txt"
    file.write_bytes(text.encode())
    (item,) = load_task(TASKS["hellaswag"], file).items
    assert item.continuations == (" sings.", " reads\u2028on.", " runs.", " falls.")
    assert item.gold == 1


@pytest.mark.parametrize(("n", "limit"), [(10, 3), (10, 10), (10, 99), (10, None), (10_042, 400), (7, 1)])
def test_a_sample_is_evenly_spread(n: int, limit: int | None) -> None:
    chosen = spread_indices(n, limit)
    assert len(chosen) == min(n, limit or n)
    assert chosen == sorted(set(chosen))
    assert chosen[0] == 0
    gaps = {b - a for a, b in zip(chosen, [*chosen[1:], n], strict=True)}
    assert max(gaps) - min(gaps) <= 1


def test_headlines_are_normalised_where_the_harness_reports_it() -> None:
    assert {name: task.headline for name, task in TASKS.items()} == {
        "hellaswag": Metric.ACC_NORM,
        "piqa": Metric.ACC_NORM,
        "winogrande": Metric.ACC,
        "arc_easy": Metric.ACC_NORM,
        "arc_challenge": Metric.ACC_NORM,
        "openbookqa": Metric.ACC_NORM,
        "boolq": Metric.ACC,
    }


def test_task_names() -> None:
    assert [task.name for task in parse_task_names("piqa, BoolQ,piqa")] == ["piqa", "boolq"]
    assert [task.name for task in parse_task_names("all")] == list(TASKS)
    with pytest.raises(UsageError, match="unknown tasks: mmlu, lambada"):
        parse_task_names("mmlu,piqa,lambada")
    with pytest.raises(UsageError, match="no task"):
        parse_task_names(" , ")


def test_missing_and_ambiguous_files(tmp_path: Path) -> None:
    tasks = parse_task_names("piqa,arc_easy,hellaswag")
    (tmp_path / "piqa.jsonl").touch()
    with pytest.raises(TaskDataError) as caught:
        find_task_files(tmp_path, tasks)
    assert "arc_easy (ARC-Easy*.jsonl or" in caught.value.message
    assert "hellaswag (hellaswag*.txt or hellaswag*.txt.bz2)" in caught.value.message
    assert "piqa" not in caught.value.message
    (tmp_path / "piqa_train.jsonl").touch()
    with pytest.raises(TaskDataError, match=r"several files could be piqa: .*piqa\.jsonl, .*piqa_train\.jsonl"):
        find_task_files(tmp_path, tasks)
    with pytest.raises(TaskDataError, match="cannot be read"):
        find_task_files(tmp_path / "none", tasks)


def test_the_unpacked_file_and_the_nearer_one_win(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    for name in ("hellaswag.txt", "hellaswag.txt.bz2", "far/hellaswag_other.txt"):
        (tmp_path / name).touch()
    (task,) = parse_task_names("hellaswag")
    assert find_task_files(tmp_path, (task,)) == {"hellaswag": tmp_path / "hellaswag.txt"}
    (tmp_path / "hellaswag.txt").unlink()
    assert find_task_files(tmp_path, (task,)) == {"hellaswag": tmp_path / "hellaswag.txt.bz2"}
    (tmp_path / "hellaswag.txt.bz2").unlink()
    assert find_task_files(tmp_path, (task,)) == {"hellaswag": tmp_path / "far" / "hellaswag_other.txt"}


@pytest.mark.shared_data
def test_the_public_files_are_read_whole(shared_data: Path) -> None:
    files = find_task_files(shared_data, tuple(TASKS.values()))
    found = {name: load_task(TASKS[name], file).n_available for name, file in files.items()}
    assert found == {
        "hellaswag": 10_042,
        "piqa": 1_838,
        "winogrande": 1_267,
        "arc_easy": 2_376,
        "arc_challenge": 1_172,
        "openbookqa": 500,
        "boolq": 3_270,
    }
