"""A model calibrated as a build does it, for tools that are no build: training measures plans with it, the zoo's tables come from it."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ramp_edge.allocate.choices import Legal
from ramp_edge.calibrate.text import TextWindows
from ramp_edge.events import EventBus
from ramp_edge.pipeline.budget import legal_choices
from ramp_edge.pipeline.calibration import Calibrated, calibrate, prepare_text
from ramp_edge.pipeline.model_source import SourceModel, open_model
from ramp_edge.pipeline.request import BuildRequest
from ramp_edge.pipeline.texts import cut_texts, read_texts
from ramp_edge.profile.load import load_target
from ramp_edge.records import DeviceTarget


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibratedModel:
    """What quantizing and measuring a plan needs."""

    target: DeviceTarget
    source: SourceModel
    legal: Mapping[str, Legal]
    text: TextWindows
    calibrated: Calibrated


def open_calibrated(request: BuildRequest, threads: int, pool: ThreadPoolExecutor, events: EventBus) -> CalibratedModel:
    """Steps 1 to 3 of a build of `request.model`, a GGUF; whatever the cache holds is not done again. Raises as a build does."""
    assert request.model is not None
    target = load_target(request.device)
    source = open_model(Path(request.model), events)
    legal = legal_choices(request, source.inventory, target, calibrated=True)
    given = cut_texts(request, read_texts(request), source.inventory, events)
    text = prepare_text(request, source.inventory, given, threads, events)
    done = calibrate(request, source, legal, text, target.backend, pool, events)
    return CalibratedModel(target=target, source=source, legal=legal, text=text, calibrated=done)
