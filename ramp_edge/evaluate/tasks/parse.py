"""Reads task files: every bad line is named, and nothing is scored from a file that has one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ramp_edge.errors import TaskDataError
from ramp_edge.evaluate.tasks.definitions import Layout, TaskDefinition
from ramp_edge.evaluate.tasks.files import read_bytes
from ramp_edge.evaluate.tasks.records import TaskData, TaskItem

_SHOWN_PROBLEMS = 5
_QUESTION_KEYS = ("query", "question")
_DELIMITER = " "
"""Between context and continuation, as the harness' target_delimiter."""


class _Problem(Exception):
    """What is wrong with one item."""


def load_task(definition: TaskDefinition, path: Path, *, limit: int | None = None) -> TaskData:
    """The items of a file, `limit` of them evenly spread where it is given. Raises TaskDataError."""
    raw, data = read_bytes(path)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TaskDataError(f"{path}, line {line} is not UTF-8", hint="save the file as UTF-8") from error
    parse = _hellaswag_items if definition.layout is Layout.HELLASWAG_TEXT else _json_items
    problems: list[str] = []
    items = parse(definition, text, problems)
    if not items and not problems:
        problems.append("the file has no items")
    if problems:
        more = len(problems) - _SHOWN_PROBLEMS
        shown = "; ".join(problems[:_SHOWN_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")
        raise TaskDataError(f"{path} ({definition.name}): {shown}", hint=_hint(definition.layout))
    return TaskData(
        definition=definition,
        path=path,
        sha256=hashlib.sha256(raw).hexdigest(),
        n_available=len(items),
        items=tuple(items[i] for i in spread_indices(len(items), limit)),
        limit=limit,
    )


def spread_indices(n_available: int, limit: int | None) -> list[int]:
    """`limit` indices evenly spread over the file, floor(i n / limit): files are often sorted by source."""
    if limit is None or limit >= n_available:
        return list(range(n_available))
    return [i * n_available // limit for i in range(limit)]


def _hint(layout: Layout) -> str:
    if layout is Layout.HELLASWAG_TEXT:
        return "each task has six lines: context, index of the right ending 0 to 3, four endings"
    if layout is Layout.CONTEXTS:
        return 'each line is {"context_options": [text, ...], "continuation": text, "gold": index}'
    return 'each line is {"query": text, "choices": [text, ...], "gold": index}'


def _hellaswag_items(definition: TaskDefinition, text: str, problems: list[str]) -> list[TaskItem]:
    lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []
    if len(lines) % 6:
        problems.append(f"{len(lines)} lines are not a multiple of 6, the last task is cut short")
    items: list[TaskItem] = []
    for at in range(0, len(lines) - 5, 6):
        try:
            context, label, *endings = lines[at : at + 6]
            if label.strip() not in ("0", "1", "2", "3"):
                raise _Problem(f"the index of the right ending is {label[:40]!r}")
            choices = _texts("endings", endings)
            items.append(_choice_item(definition, len(items), at + 1, context, choices, int(label)))
        except _Problem as problem:
            problems.append(f"line {at + 1}: {problem}")
    return items


def _json_items(definition: TaskDefinition, text: str, problems: list[str]) -> list[TaskItem]:
    items: list[TaskItem] = []
    # Not splitlines(): it also breaks at U+2028 and the like, which JSON strings may hold.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            items.append(_json_item(definition, len(items), number, line))
        except _Problem as problem:
            problems.append(f"line {number}: {problem}")
    return items


def _json_item(definition: TaskDefinition, index: int, number: int, line: str) -> TaskItem:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _Problem(f"not JSON ({error})") from error
    if not isinstance(record, dict):
        raise _Problem("not a JSON object")
    if definition.layout is Layout.CONTEXTS:
        contexts = _texts("context_options", _value(record, "context_options"))
        (continuation,) = _texts("continuation", [_value(record, "continuation")], least=1)
        return TaskItem(
            index=index,
            line=number,
            contexts=contexts,
            continuations=(_DELIMITER + continuation,) * len(contexts),
            n_characters=(len(continuation),) * len(contexts),
            gold=_gold(record, len(contexts)),
        )
    question = _value(record, *_QUESTION_KEYS)
    choices = _texts("choices", _value(record, "choices"))
    return _choice_item(definition, index, number, question, choices, _gold(record, len(choices)))


def _choice_item(
    definition: TaskDefinition, index: int, number: int, question: Any, choices: tuple[str, ...], gold: int
) -> TaskItem:
    (question,) = _texts("question", [question], least=1)
    context = definition.prompt.format(question.removeprefix(definition.dropped_prefix).rstrip("\r\n"))
    return TaskItem(
        index=index,
        line=number,
        contexts=(context,) * len(choices),
        continuations=tuple(_DELIMITER + choice for choice in choices),
        n_characters=tuple(len(choice) for choice in choices),
        gold=gold,
    )


def _value(record: dict[str, Any], *keys: str) -> Any:
    for key in keys:
        if key in record:
            return record[key]
    raise _Problem(f"no {' or '.join(keys)}")


def _texts(what: str, values: Any, *, least: int = 2) -> tuple[str, ...]:
    if not isinstance(values, list) or len(values) < least:
        raise _Problem(f"{what} is not a list of at least {least} texts")
    for value in values:
        if not isinstance(value, str) or not value.strip():
            raise _Problem(f"{what} holds {'an empty text' if isinstance(value, str) else repr(value)[:40]}")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise _Problem(f"{what} holds half a surrogate pair") from error
    return tuple(values)


def _gold(record: dict[str, Any], n_choices: int) -> int:
    gold = _value(record, "gold")
    # A bool is an int in Python, not in a task file.
    if not isinstance(gold, int) or isinstance(gold, bool) or not 0 <= gold < n_choices:
        raise _Problem(f"gold is {repr(gold)[:40]}, there are {n_choices} choices, from 0")
    return gold
