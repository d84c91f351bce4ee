"""`ramp-edge devices diff`: what two profiles say differently, figure by figure, with the ratio."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ramp_edge.records import DeviceTarget


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A field that is not the same in both."""

    field: str
    first: str
    second: str
    ratio: float | None
    """Second over first, for figures."""


def diff_devices(
    first: Annotated[str, typer.Argument(help="A profile's name or file.")],
    second: Annotated[str, typer.Argument(help="Another one, e.g. what `ramp-edge probe` wrote.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Compare two devices: every figure that differs, and by how much."""
    from ramp_edge.profile.load import load_target

    a, b = load_target(first), load_target(second)
    found = differences(a, b)
    if as_json:
        typer.echo(json.dumps([asdict(d) for d in found], indent=2))
        return
    if not found:
        typer.echo(f"{a.name} and {b.name} say the same")
        return
    from ramp_edge.cli.tables import make_table, show

    table = make_table("Field", a.name, b.name, "Ratio")
    for d in found:
        table.add_row(d.field, d.first, d.second, "" if d.ratio is None else f"{d.ratio:.2f}")
    show(table)


def differences(a: DeviceTarget, b: DeviceTarget) -> list[Difference]:
    """Every field that differs, types last."""
    from ramp_edge.units import human_bytes

    found: list[Difference] = []

    def figure(field: str, x: float, y: float, text: str) -> None:
        if x != y:
            shown = [
                human_bytes(v) + text.removeprefix("bytes") if text.startswith("bytes") else f"{v:g}{text}"
                for v in (x, y)
            ]
            ratio = y / x if x else None
            found.append(Difference(field=field, first=shown[0], second=shown[1], ratio=ratio))

    def word(field: str, x: str, y: str) -> None:
        if x != y:
            found.append(Difference(field=field, first=x, second=y, ratio=None))

    figure("memory total", a.memory_total_bytes, b.memory_total_bytes, "bytes")
    figure("memory usable", a.memory_usable_bytes, b.memory_usable_bytes, "bytes")
    figure("bandwidth peak", a.bandwidth_peak_bytes_s, b.bandwidth_peak_bytes_s, "bytes/s")
    figure("bandwidth effective", a.bandwidth_effective_bytes_s, b.bandwidth_effective_bytes_s, "bytes/s")
    if a.bandwidth_in_cache_bytes_s or b.bandwidth_in_cache_bytes_s:
        rates = [t.bandwidth_in_cache_bytes_s or t.bandwidth_effective_bytes_s for t in (a, b)]
        figure("bandwidth in the cache", rates[0], rates[1], "bytes/s")
    figure("time per token", a.token_overhead_s * 1e3, b.token_overhead_s * 1e3, " ms")
    figure("time per layer", a.layer_overhead_s * 1e6, b.layer_overhead_s * 1e6, " us")
    figure("time per layer in the cache", a.layer_overhead_in_cache_s * 1e6, b.layer_overhead_in_cache_s * 1e6, " us")
    figure("cache", a.cache_bytes, b.cache_bytes, "bytes")
    for kind in sorted({*a.attention_macs_s, *b.attention_macs_s}, key=lambda t: -t.bits_per_weight):
        macs_s = [t.attention_macs_s.get(kind) for t in (a, b)]
        if macs_s[0] is None or macs_s[1] is None:
            word(
                f"attention with {kind.name}",
                *("not known" if rate is None else f"{rate / 1e9:g} GMAC/s" for rate in macs_s),
            )
        else:
            figure(f"attention with {kind.name}", macs_s[0] / 1e9, macs_s[1] / 1e9, " GMAC/s")
    word("backend", a.backend, b.backend)
    figure("cores", a.cores, b.cores, "")
    figure("decode threads", a.decode_threads, b.decode_threads, "")
    word("instruction sets", ", ".join(sorted(a.isa)), ", ".join(sorted(b.isa)))
    figure("target bits", a.target_bpw, b.target_bpw, "")
    figure("most bits", a.max_bpw, b.max_bpw, "")
    figure("default context", a.default_ctx, b.default_ctx, "")
    word("default KV type", a.default_kv_type.name, b.default_kv_type.name)
    for kind in sorted({*a.types, *b.types}, key=lambda t: -t.bits_per_weight):
        one, other = a.types.get(kind), b.types.get(kind)
        if one is None or other is None:
            word(kind.name, "listed" if one else "not listed", "listed" if other else "not listed")
            continue
        figure(f"{kind.name} decode", one.decode_efficiency, other.decode_efficiency, "")
        if one.decode_efficiency_in_cache or other.decode_efficiency_in_cache:
            inside = [s.decode_efficiency_in_cache or s.decode_efficiency for s in (one, other)]
            figure(f"{kind.name} decode in the cache", inside[0], inside[1], "")
        figure(f"{kind.name} output row", one.output_row_s * 1e9, other.output_row_s * 1e9, " ns")
        figure(f"{kind.name} prefill", one.prefill_efficiency, other.prefill_efficiency, "")
        word(f"{kind.name} repacks", "yes" if one.repacks else "no", "yes" if other.repacks else "no")
    return found
