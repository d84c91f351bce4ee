"""Measured KL for training: plans of real models, quantized with error feedback and run by llama.cpp on text that calibration has not seen."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ramp_edge.allocate.cases import ModelCase
from ramp_edge.allocate.scoring import MeasuredTruth
from ramp_edge.codec.types import QuantType
from ramp_edge.errors import UsageError
from ramp_edge.evaluate.evaluator import divergence_by_token, reference_logits
from ramp_edge.events import EventBus
from ramp_edge.model.gguf_file import GgufTensors
from ramp_edge.model.output_head import read_output_head
from ramp_edge.pipeline.calibrated_model import CalibratedModel, open_calibrated
from ramp_edge.pipeline.calibration import cache_root
from ramp_edge.pipeline.emission import Emitter
from ramp_edge.pipeline.request import EFFORTS, BuildRequest, Effort
from ramp_edge.threads import default_threads

Plan = Mapping[str, QuantType]


def models_of(paths: Sequence[Path], cases: Sequence[ModelCase]) -> dict[str, Path]:
    """Case name -> its GGUF among files and folders of them. Raises UsageError where no case has one."""
    files = [f for p in paths for f in (sorted(p.glob("*.gguf")) if p.is_dir() else [p])]
    for file in files:
        if not file.is_file():
            raise UsageError(f"--models {file}: no such file", hint="give GGUF files, or a folder of them")
    names = {case.name for case in cases}
    found = {f.stem: f for f in files if f.stem in names}
    if not found:
        raise UsageError(
            f"--models: none of {len(files)} GGUF files is called as a case is ({', '.join(sorted(names))})",
            hint="a case is named after the model that tools/build_zoo.py calibrated: NAME.npz belongs to NAME.gguf",
        )
    return found


@contextmanager
def measured_models(
    models: Mapping[str, Path],
    texts: Sequence[Path],
    events: EventBus,
    *,
    share: float,
    device: str = "raspberry-pi-5",
    effort: Effort = Effort.BALANCED,
    threads: int | None = None,
) -> Iterator[MeasuredTruth]:
    """Measurements of these models, each calibrated now (or found in the cache). Files of plans live in a temporary folder until the end."""
    n_threads = threads or default_threads()
    with tempfile.TemporaryDirectory(prefix="ramp-edge-plans-") as folder, ThreadPoolExecutor(n_threads) as pool:
        meters = {}
        for name, path in models.items():
            request = BuildRequest(
                model=str(path), device=device, output=Path(folder) / "none", calibration=tuple(texts), effort=effort, threads=n_threads
            )  # fmt: skip
            ready = open_calibrated(request, n_threads, pool, events)
            meters[name] = _PlanMeter(ready, Path(folder) / name, pool, n_threads, effort, events)
        identity = hashlib.sha256(" ".join(f"{name} {m.identity}" for name, m in sorted(meters.items())).encode())
        yield MeasuredTruth(
            kl=lambda task, types: meters[task.name].kl(types),
            models=frozenset(meters),
            share=share,
            identity=identity.hexdigest(),
        )


class _PlanMeter:
    """Plans of one model. Whatever was quantized once is copied the next time: a tensor's bytes depend on nothing but its own type."""

    def __init__(
        self,
        model: CalibratedModel,
        folder: Path,
        pool: ThreadPoolExecutor,
        threads: int,
        effort: Effort,
        events: EventBus,
    ) -> None:
        self._folder, self._threads = folder, threads
        folder.mkdir(parents=True)
        inventory, tensors = model.source.inventory, model.source.tensors
        self._emitter = Emitter(
            inventory, tensors, model.calibrated.moments, pool, EventBus(), EFFORTS[effort].search
        )  # fmt: skip
        windows = model.text.held_out
        self._reference = reference_logits(
            inventory.path,
            windows.reshape(-1),
            n_ctx=windows.shape[1],
            n_windows=len(windows),
            head=read_output_head(tensors),
            cache_dir=cache_root() / "reference",
            model_sha256=inventory.sha256,
            threads=threads,
            events=events,
        )[1]
        self._known: dict[tuple[tuple[str, QuantType], ...], float] = {}
        self.identity = f"{inventory.sha256} {model.text.sha256} {effort}"

    def kl(self, types: Plan) -> float:
        """Nats per token."""
        key = tuple(sorted(types.items()))
        if key not in self._known:
            path = self._folder / "plan.gguf"
            ready = {n: np.load(f, mmap_mode="r") for n, t in types.items() if (f := self._file(n, t)).exists()}
            self._emitter.write(path, types, {}, ready)
            written = GgufTensors(path)
            for name in types.keys() - ready.keys():
                np.save(self._file(name, types[name]), written.raw(name))
            self._known[key] = float(divergence_by_token(path, self._reference, threads=self._threads).mean())
            with contextlib.suppress(OSError):
                path.unlink()
        return self._known[key]

    def _file(self, name: str, quant_type: QuantType) -> Path:
        return self._folder / f"{name}.{quant_type.name}.npy"
