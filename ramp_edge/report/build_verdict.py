"""What a build came to, in a sentence and a few key numbers."""

from __future__ import annotations

from ramp_edge.report.documents import BuildDocument, CandidatePart, DivergencePart
from ramp_edge.report.numbers import (
    NATS,
    TOK_S,
    apart,
    kl_text,
    more_bytes,
    percent,
    share_text,
    significant,
    with_error,
)
from ramp_edge.report.view import Figure, Figures, Tone, Verdict
from ramp_edge.units import human_bytes


def build_verdict(build: BuildDocument) -> Verdict:
    """Closeness to the original beside the stock preset first, then memory; limits hold, or there would be no build."""
    tone, headline, details = _quality(build)
    memory = build.memory
    fits = (
        f"It takes {human_bytes(memory.total_bytes)} of the {human_bytes(memory.usable_bytes)} of memory that the device "
        f"can give; {human_bytes(memory.free_bytes)} stay free. What bounds it: {build.limit}."
    )
    return Verdict(tone=tone, headline=headline, details=(*details, fits))


def _quality(build: BuildDocument) -> tuple[Tone, str, tuple[str, ...]]:
    if build.dry_run:
        predicted = "" if build.predicted_kl is None else f"KL predicted: {significant(build.predicted_kl)} {NATS}."
        return Tone.PLAIN, "A plan: nothing is built or measured yet.", (predicted,) if predicted else ()
    ours = build.divergence
    if ours is None:
        return Tone.PLAIN, "Built; its closeness to the original was not measured.", ()
    preset = build.best_preset
    if preset is not None and preset.chosen:
        name = preset_name(preset.origin)
        return (
            Tone.CAUTION,
            f"This is llama.cpp's stock {name}: it measured better than every allocation of ramp-edge.",
            (f"KL divergence to the original: {kl_text(ours)} {NATS}.",),
        )
    theirs = preset.divergence if preset is not None else None
    if preset is None or theirs is None:
        text = f"KL divergence to the original: {kl_text(ours)} {NATS}. No stock preset was measured beside it."
        return Tone.PLAIN, "Built and measured.", (text,)
    return _beside(build, ours, preset, theirs)


def _beside(
    build: BuildDocument, ours: DivergencePart, preset: CandidatePart, theirs: DivergencePart
) -> tuple[Tone, str, tuple[str, ...]]:
    name = preset_name(preset.origin)
    size = more_bytes(build.file_bytes, preset.file_bytes)
    pair = f"KL divergence to the original {kl_text(ours)} {NATS} against {kl_text(theirs)}; this file has {size}."
    if not apart(ours, theirs):
        return Tone.PLAIN, f"No measurable difference to stock {name}.", (pair,)
    if ours.mean_kl > theirs.mean_kl:
        return Tone.CAUTION, f"Stock {name} measured closer to the original, but may not be taken here.", (pair,)
    ratio = ours.mean_kl / theirs.mean_kl
    headline = f"{percent(1 - ratio, 0)} less divergence from the original than llama.cpp's stock {name}."
    return Tone.GOOD, headline, (pair,)


def preset_name(origin: str) -> str:
    """IQ4_XS of `preset:IQ4_XS`."""
    return origin.removeprefix("preset:")


def build_figures(build: BuildDocument) -> Figures:
    """Size, memory, closeness, speed."""
    items = [
        Figure(
            label="File",
            text=human_bytes(build.file_bytes).split(" ")[0],
            unit=human_bytes(build.file_bytes).split(" ")[1],
            note=f"{build.bits_per_weight:.2f} bits per weight; original {human_bytes(build.model.file_bytes)}",
            value=build.file_bytes,
        ),
        Figure(
            label="Memory",
            text=human_bytes(build.memory.total_bytes).split(" ")[0],
            unit=human_bytes(build.memory.total_bytes).split(" ")[1],
            note=f"{share_text(build.memory.total_bytes, build.memory.usable_bytes)} of what the device can give, "
            f"context {build.model.ctx}",
            value=build.memory.total_bytes,
        ),
        _kl_figure(build),
        Figure(
            label="Decode, predicted",
            text=significant(build.predicted_decode_tok_s),
            unit=TOK_S,
            note=f"at half of the context; profile figures {'measured' if build.device.measured else 'not measured'}",
            value=build.predicted_decode_tok_s,
        ),
    ]
    return Figures(items=tuple(item for item in items if item is not None))


def _kl_figure(build: BuildDocument) -> Figure | None:
    divergence = build.divergence
    if divergence is not None:
        text, spread = with_error(divergence.mean_kl, divergence.std_error)
        return Figure(
            label="KL divergence",
            text=text,
            unit=NATS,
            spread=spread,
            note=f"same top token at {percent(divergence.top_token_agreement)} of {divergence.n_tokens} positions",
            value=divergence.mean_kl,
        )
    if build.predicted_kl is None:
        return None
    return Figure(
        label="KL divergence, predicted",
        text=significant(build.predicted_kl),
        unit=NATS,
        note="by the error table; not measured",
        value=build.predicted_kl,
    )
