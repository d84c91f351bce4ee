"""The known tasks in one table: file names, layout, prompt, and which accuracies the harness reports.

Prompts and metrics are those of EleutherAI's lm-evaluation-harness, zero-shot (lm_eval/tasks/*/*.yaml): the
context is the prompt, and each continuation is one space and the choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ramp_edge.errors import UsageError


class Layout(str, Enum):
    """How a task's file is laid out."""

    HELLASWAG_TEXT = "hellaswag text"
    """Six lines a task: context, index of the right ending, four endings (llama-perplexity's --hellaswag -f)."""
    CHOICES = "choices"
    """JSON lines with a question, its choices and the right one's index."""
    CONTEXTS = "contexts"
    """JSON lines with one continuation and the contexts that it could follow."""


class Metric(str, Enum):
    """How an answer is chosen: the largest of these over the choices, the first where several are equal."""

    ACC = "acc"
    """Sum of the continuation's token log-likelihoods."""
    ACC_NORM = "acc_norm"
    """That sum over the choice's length in characters, without the space before it (the harness' `len(choice)`)."""
    ACC_TOKEN = "acc_token"
    """llama-perplexity's --hellaswag: the mean over the continuation's tokens after the prefix that all choices share."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskDefinition:
    """One task."""

    name: str
    layout: Layout
    file_patterns: tuple[str, ...]
    """Shell patterns of file names, tried in this order."""
    metrics: tuple[Metric, ...]
    """Headline first."""
    prompt: str = "{}"
    """The context, with the question in place of the braces; line breaks at the question's end are dropped."""
    dropped_prefix: str = ""
    """What the file puts before the question and the harness does not."""

    @property
    def headline(self) -> Metric:
        """The metric to quote: acc_norm where the harness reports it, else acc."""
        return self.metrics[0]


_NORMALISED = (Metric.ACC_NORM, Metric.ACC)


def _jsonl(*stems: str) -> tuple[str, ...]:
    return tuple(f"{stem}{ending}" for stem in stems for ending in (".jsonl", ".jsonl.bz2"))


TASKS = {
    task.name: task
    for task in (
        TaskDefinition(
            name="hellaswag",
            layout=Layout.HELLASWAG_TEXT,
            file_patterns=("hellaswag*.txt", "hellaswag*.txt.bz2"),
            metrics=(*_NORMALISED, Metric.ACC_TOKEN),
        ),
        TaskDefinition(
            name="piqa",
            layout=Layout.CHOICES,
            file_patterns=_jsonl("piqa*"),
            metrics=_NORMALISED,
            prompt="{}\nAnswer:",  # the question begins with "Question: " in the file
        ),
        TaskDefinition(
            name="winogrande",
            layout=Layout.CONTEXTS,
            file_patterns=_jsonl("winogrande*"),
            metrics=(Metric.ACC,),
        ),
        TaskDefinition(
            name="arc_easy",
            layout=Layout.CHOICES,
            file_patterns=_jsonl("ARC-Easy*", "arc_easy*"),
            metrics=_NORMALISED,
            prompt="Question: {}\nAnswer:",
        ),
        TaskDefinition(
            name="arc_challenge",
            layout=Layout.CHOICES,
            file_patterns=_jsonl("ARC-Challenge*", "arc_challenge*"),
            metrics=_NORMALISED,
            prompt="Question: {}\nAnswer:",
        ),
        TaskDefinition(
            name="openbookqa",
            layout=Layout.CHOICES,
            file_patterns=_jsonl("openbook_qa*", "openbookqa*"),
            metrics=_NORMALISED,
        ),
        TaskDefinition(
            name="boolq",
            layout=Layout.CHOICES,
            file_patterns=_jsonl("boolq*"),
            metrics=(Metric.ACC,),
            prompt="{}\nAnswer:",  # passage, "Question: " and question are one text in the file
            dropped_prefix="Passage: ",
        ),
    )
}
"""Name -> definition, in the order in which reports list them."""


def parse_task_names(text: str) -> tuple[TaskDefinition, ...]:
    """Definitions of a comma-separated list, `all` for every one, without repetition. Raises UsageError."""
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    if "all" in names:
        return tuple(TASKS.values())
    unknown = [name for name in names if name not in TASKS]
    if unknown or not names:
        raise UsageError(
            f"--tasks names unknown tasks: {', '.join(unknown)}" if unknown else "--tasks names no task",
            hint=f"known are {', '.join(TASKS)}, or all",
        )
    return tuple(TASKS[name] for name in dict.fromkeys(names))
