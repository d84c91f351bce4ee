"""What the user asked for, complete: a build is a function of this record, the model and the profile."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from ramp_edge.codec.types import QuantType
from ramp_edge.quantize.search import QUICK, THOROUGH, Search

OUTLINE = Path("outline")
"""In the place of a policy's file: the knapsack on what is foreseen, nothing learned."""
TRAINED_POLICY = Path(__file__).resolve().parent.parent / "data" / "policy.onnx"


class Effort(str, Enum):
    """How much a build measures before it chooses."""

    FAST = "fast"
    """The policy's plan from forward passes alone: one candidate."""
    BALANCED = "balanced"
    """Measures the few best candidates of all allocators and the best stock preset."""
    MAX = "max"
    """Twice the calibration text, more candidates, more evaluation text."""


class Fold(str, Enum):
    """Whether channels are scaled and reordered before quantization."""

    AUTO = "auto"
    """Each change where it measures better."""
    OFF = "off"
    ALWAYS = "always"
    """Every change that is possible, for comparison."""


class AllocatorChoice(str, Enum):
    """Whose plans a build measures."""

    KNAPSACK = "knapsack"
    """The knapsack on the Fisher table, beside the presets' types and uniform ones."""
    RAMP = "ramp"
    """The policy alone, from forward passes: no gradients, no table, no predicted KL."""
    PRESET = "preset"
    """The stock presets' types alone, quantized with error feedback."""
    BEST = "best"
    """The knapsack's and the policy's plans are both measured, and the better one is kept."""

    @property
    def asks_policy(self) -> bool:
        """The policy proposes a plan."""
        return self in (AllocatorChoice.RAMP, AllocatorChoice.BEST)

    @property
    def asks_knapsack(self) -> bool:
        """The knapsack on the Fisher table proposes plans: folds and --tune work on these alone."""
        return self in (AllocatorChoice.KNAPSACK, AllocatorChoice.BEST)


@dataclass(frozen=True, kw_only=True, slots=True)
class EffortSettings:
    """Sizes behind an effort level."""

    calibration_windows: int
    fisher_sequences: int
    table_row_share: int
    """The error table looks at one row in this many."""
    search: Search
    """How far quantization looks for better scales and codes."""
    evaluation_windows: int
    measured_candidates: int
    """Allocations quantized and measured, besides stock presets and one of the policy's."""
    stock_presets: int
    """Stock presets quantized by llama.cpp itself and measured."""
    fold: Fold
    """Unless the user says otherwise, as the next."""
    allocator: AllocatorChoice


EFFORTS = {
    Effort.FAST: EffortSettings(
        calibration_windows=40,
        fisher_sequences=8,
        table_row_share=16,
        search=QUICK,
        evaluation_windows=2,
        measured_candidates=1,
        stock_presets=0,
        fold=Fold.OFF,
        allocator=AllocatorChoice.RAMP,
    ),
    Effort.BALANCED: EffortSettings(
        calibration_windows=80,
        fisher_sequences=32,
        table_row_share=8,
        search=THOROUGH,
        evaluation_windows=8,
        measured_candidates=2,
        stock_presets=1,
        fold=Fold.AUTO,
        allocator=AllocatorChoice.BEST,
    ),
    Effort.MAX: EffortSettings(
        calibration_windows=160,
        fisher_sequences=64,
        table_row_share=8,
        search=THOROUGH,
        evaluation_windows=16,
        measured_candidates=4,
        stock_presets=3,
        fold=Fold.AUTO,
        allocator=AllocatorChoice.BEST,
    ),
}
WINDOW_TOKENS = 512
FISHER_TOKENS = 256
HELD_OUT_WINDOWS = 2
"""Calibration windows that judge folds and enter no moments."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildRequest:
    """Options of `ramp-edge build`."""

    model: str | None
    device: str
    output: Path
    ctx: int | None = None
    kv_type: QuantType | None = None
    target_size_bytes: int | None = None
    target_bpw: float | None = None
    min_decode_tok_s: float | None = None
    types: frozenset[QuantType] | None = None
    calibration: tuple[Path, ...] = ()
    eval_text: Path | None = None
    effort: Effort = Effort.BALANCED
    fold: Fold | None = None
    """None: as the effort says."""
    allocator: AllocatorChoice | None = None
    """None: as the effort says."""
    policy: Path | None = None
    """OUTLINE, or a policy's file; None: the trained policy of the package."""
    tune: int = 0
    """Changes of the best plan that are measured before it is settled."""
    allow_requantize: bool = False
    seed: int = 0
    threads: int | None = None
    dry_run: bool = False
    resume: bool = False

    @property
    def allocating(self) -> AllocatorChoice:
        """Whose plans are measured: as the user says, or the effort, or what the user wants besides and the policy alone has not."""
        if self.allocator is not None:
            return self.allocator
        usual = EFFORTS[self.effort].allocator
        needs_table = self.tune > 0 or self.fold in (Fold.AUTO, Fold.ALWAYS)
        return AllocatorChoice.KNAPSACK if needs_table and not usual.asks_knapsack else usual

    @property
    def folding(self) -> Fold:
        """What is asked for, by the user or by the effort; without the error table nothing says what a fold is worth."""
        if not self.allocating.asks_knapsack:
            return Fold.OFF
        return EFFORTS[self.effort].fold if self.fold is None else self.fold

    @property
    def policy_file(self) -> Path | None:
        """The trained policy that is asked; None where none is."""
        if not self.allocating.asks_policy or self.policy == OUTLINE:
            return None
        return TRAINED_POLICY if self.policy is None else self.policy

    def settings(self) -> dict[str, object]:
        """Everything that can change the result, JSON-ready, in a fixed order."""
        return {
            "model": self.model,
            "device": self.device,
            "ctx": self.ctx,
            "kv_type": self.kv_type.name if self.kv_type else None,
            "target_size_bytes": self.target_size_bytes,
            "target_bpw": self.target_bpw,
            "min_decode_tok_s": self.min_decode_tok_s,
            "types": sorted(t.name for t in self.types) if self.types else None,
            "calibration": [str(p) for p in self.calibration],
            "eval_text": str(self.eval_text) if self.eval_text else None,
            "effort": self.effort.value,
            "fold": self.folding.value,
            "allocator": self.allocating.value,
            "policy": (str(self.policy) if self.policy else "trained") if self.allocating.asks_policy else None,
            "tune": self.tune,
            "allow_requantize": self.allow_requantize,
            "seed": self.seed,
        }

    def fingerprint(self, *content_hashes: str) -> str:
        """Identifies the work: the settings and the hashes of what they point to."""
        text = json.dumps([self.settings(), *content_hashes], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()
