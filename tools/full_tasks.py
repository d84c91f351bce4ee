#!/usr/bin/env python3
"""All items of the multiple-choice tasks, by a float32 forward pass of the stored weights in PyTorch, on a GPU where there is one.

`ramp-edge eval --tasks` asks llama.cpp, whose CPU kernels also round activations: that is what a board does, at about two items a second on
two cores. Telling 99.5 % of an accuracy from noise takes all 20,465 items, which a GPU answers in a minute. Prompts,
borders, metrics and intervals are those of `ramp-edge eval`; what differs is the arithmetic.

    python tools/full_tasks.py ramp-edge.gguf Q4_K_M.gguf --reference f16.gguf --task-data DIR -o results.json
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ramp_edge.beside import written_beside
from ramp_edge.calibrate.decoder import DecoderModel
from ramp_edge.cli.tasks import task_model
from ramp_edge.cli.tasks_report import suite_lines, suite_record
from ramp_edge.evaluate.tasks.definitions import parse_task_names
from ramp_edge.evaluate.tasks.encode import EncodedItem
from ramp_edge.evaluate.tasks.files import find_task_files
from ramp_edge.evaluate.tasks.parse import load_task
from ramp_edge.evaluate.tasks.records import ItemScore, SuiteRun, TaskData, TaskRun
from ramp_edge.evaluate.tasks.score import encode_task
from ramp_edge.model.architecture import architecture_facts
from ramp_edge.model.gguf_file import open_inventory

Int64 = npt.NDArray[np.int64]
BATCH_TOKENS = 32_768
LOGIT_ROWS = 2048
"""Positions whose logits are held at once: 2 GB in float32 for Gemma's 262,144 tokens."""
N_CTX = 8192


class WholeModel(DecoderModel):
    """A decoder with all its weights on one device, in float32."""

    def __init__(self, path: Path, device: str) -> None:
        self._device = device
        inventory, tensors = open_inventory(path, allow_requantize=True)
        facts = architecture_facts(inventory.architecture)
        assert facts is not None, f"{path}: no forward pass for {inventory.architecture}"
        super().__init__(inventory, facts, tensors.load_tensor, torch.float32)
        self.layers = [self.layer(index) for index in range(inventory.hyper.n_layer)]
        self.table = self.as_tensor("token_embd.weight", None)
        self.out = self.table if inventory.tied_embedding else self.as_tensor("output.weight", None)

    def as_tensor(self, name: str, dtype: torch.dtype | None) -> torch.Tensor:
        return super().as_tensor(name, dtype).to(self._device)

    def hidden(self, tokens: torch.Tensor) -> torch.Tensor:
        """tokens [batch, time] -> the output head's input; attention is causal, so padding on the right changes nothing."""
        x = self.table[tokens] * self.embedding_scale
        for layer in self.layers:
            x = layer.forward(x)
        return self.final_norm(x)


def _batches(lengths: Int64) -> Iterator[Int64]:
    order = np.argsort(lengths, kind="stable")[::-1]
    at = 0
    while at < len(order):
        size = max(1, BATCH_TOKENS // int(lengths[order[at]]))
        yield order[at : at + size]
        at += size


@torch.no_grad()
def _score(model: WholeModel, items: list[EncodedItem], device: str) -> tuple[ItemScore, ...]:
    """Log-likelihoods of every choice of every item."""
    flat = [(ids, border) for item in items for ids, border in zip(item.choices, item.borders, strict=True)]
    sums: list[npt.NDArray[np.float64]] = [np.empty(0)] * len(flat)
    for batch in _batches(np.array([len(ids) - 1 for ids, _ in flat])):
        width = max(len(flat[i][0]) for i in batch)
        tokens = torch.zeros(len(batch), width, dtype=torch.long)
        for row, i in enumerate(batch):
            tokens[row, : len(flat[i][0])] = torch.from_numpy(flat[i][0].astype(np.int64))
        tokens = tokens.to(device)
        with torch.device(device):
            hidden = model.hidden(tokens[:, :-1])
        rows = np.concatenate([np.full(len(flat[i][0]) - flat[i][1], row) for row, i in enumerate(batch)])
        places = np.concatenate([np.arange(flat[i][1], len(flat[i][0])) for i in batch])
        log_p = []
        for start in range(0, len(rows), LOGIT_ROWS):
            r = torch.from_numpy(rows[start : start + LOGIT_ROWS]).to(device)
            p = torch.from_numpy(places[start : start + LOGIT_ROWS]).to(device)
            logits = hidden[r, p - 1] @ model.out.T
            log_p.append((logits.gather(1, tokens[r, p][:, None])[:, 0] - logits.logsumexp(1)).double().cpu().numpy())
        joined = np.concatenate(log_p)
        ends = np.cumsum([len(flat[i][0]) - flat[i][1] for i in batch])
        for i, part in zip(batch, np.split(joined, ends[:-1]), strict=True):
            sums[i] = part
    scores, at = [], 0
    for item in items:
        parts = sums[at : at + len(item.choices)]
        at += len(item.choices)
        tails = [v[max(0, item.n_shared - b) :] for v, b in zip(parts, item.borders, strict=True)]
        totals, means = tuple(float(v.sum()) for v in parts), tuple(float(v.mean()) for v in tails)
        scores.append(ItemScore(index=item.index, log_likelihoods=totals, token_means=means, cut=item.cut))
    return tuple(scores)


def run_model(path: Path, data: list[TaskData], device: str) -> tuple[TaskRun, ...]:
    """One model on all tasks."""
    model = WholeModel(path, device)
    runs = []
    for part in data:
        started = time.perf_counter()
        scores = _score(model, encode_task(path, part, N_CTX), device)
        seconds = time.perf_counter() - started
        print(f"{path.name}: {part.definition.name}, {len(scores)} items, {seconds:.0f} s", file=sys.stderr, flush=True)
        runs.append(TaskRun(data=part, scores=scores, n_ctx=N_CTX, n_evaluated=len(scores), seconds=seconds))
    return tuple(runs)


def portable(suite: SuiteRun, device: str) -> dict[str, Any]:
    """The record of `ramp-edge eval --tasks --json` with this engine's name and no paths of this machine."""
    record = suite_record(suite)
    record["engine"] = f"PyTorch {torch.__version__}, float32, {device}"
    for model in (record["model"], record["reference"]):
        model.pop("path")
    for task in record["tasks"]:
        task["file"] = Path(task["file"]).name
    return record


def main(argv: list[str] | None = None) -> int:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+", help="GGUF files")
    parser.add_argument("--reference", type=Path, required=True, help="what they are compared with")
    parser.add_argument("--task-data", type=Path, required=True)
    parser.add_argument("--tasks", default="all")
    parser.add_argument("--limit", type=int, help="items of a task, evenly spread; default all")
    parser.add_argument("-o", "--output", type=Path, help="JSON of all comparisons")
    options = parser.parse_args(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tasks = parse_task_names(options.tasks)
    files = find_task_files(options.task_data, tasks)
    data = [load_task(task, files[task.name], limit=options.limit) for task in tasks]

    reference, reference_runs = task_model(options.reference), run_model(options.reference, data, device)
    records = []
    for path in options.models:
        suite = SuiteRun(
            model=task_model(path), reference=reference, limit=options.limit,
            runs=run_model(path, data, device), reference_runs=reference_runs,
        )  # fmt: skip
        records.append(portable(suite, device))
        print("\n".join(suite_lines(suite)), flush=True)
        if options.output is not None:
            with written_beside(options.output) as partial:
                partial.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
