"""`ramp-edge devices`: the profiles that exist, one of them in full, and a check of profile files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ramp_edge.cli.devices_diff import diff_devices
from ramp_edge.cli.tables import GAP, console, make_table, show
from ramp_edge.errors import ProfileError

if TYPE_CHECKING:
    from ramp_edge.records import DeviceTarget, TypeSupport

app = typer.Typer(
    help="Device profiles: list them, show one, check your own.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    epilog="Examples:  ramp-edge devices list  |  ramp-edge devices show raspberry-pi-5  |  ramp-edge devices validate board.yaml",
)
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command("list", epilog="Example:  ramp-edge devices list --json")
def list_devices(as_json: JsonOption = False) -> None:
    """List every device profile, shipped and your own, and the family names."""
    from ramp_edge.profile.load import family_names, list_profiles, load_target

    targets, broken = list_profiles()
    errors = {str(error): error for error in broken}
    families = {}
    for family in family_names():
        try:
            families[family] = load_target(family).name
        except ProfileError as error:
            errors[str(error)] = error
    if as_json:
        _print_json({"devices": [_target_record(t) for t in targets], "families": families, "errors": list(errors)})
    else:
        _print_targets(targets, families)
    _raise_all(list(errors.values()), "device profiles are not valid")


def _print_targets(targets: tuple[DeviceTarget, ...], families: dict[str, str]) -> None:
    columns = {
        "Device": [t.name for t in targets],
        "Title": [t.title for t in targets],
        "Usable memory": [_memory(t) for t in targets],
        "Bandwidth": [_rate(t.bandwidth_effective_bytes_s) for t in targets],
        "Backend": [t.backend for t in targets],
        "Figures": ["measured" if t.measured else "from documents" for t in targets],
    }
    shown = fitting_columns(columns, console().width)
    table = make_table(*shown)
    for row in zip(*(columns[name] for name in shown), strict=True):
        table.add_row(*row)
    show(table)
    names = make_table("Family", "Means")
    for family, member in families.items():
        names.add_row(family, member)
    show(names)


def fitting_columns(columns: dict[str, list[str]], width: int) -> list[str]:
    """The columns that fit side by side in `width` characters, the least needed left out first; the names always stay."""
    shown = list(columns)
    for name in ("Title", "Figures", "Backend", "Bandwidth", "Usable memory"):
        widths = [max(map(len, (column, *columns[column]))) for column in shown]
        if sum(widths) + GAP * (len(widths) - 1) <= width:
            break
        shown.remove(name)
    return shown


@app.command("show", epilog="Example:  ramp-edge devices show raspberry-pi-5")
def show_device(
    name: Annotated[str, typer.Argument(help="A profile, a family name, or the path of a profile file.")],
    as_json: JsonOption = False,
) -> None:
    """Show one device: memory, bandwidth, bit limits, and every type with its efficiency."""
    from ramp_edge.profile.load import load_target

    target = load_target(name)
    if as_json:
        _print_json(_target_record(target))
        return
    facts = make_table("Field", "Value")
    for label, value in (
        ("name", target.name),
        ("title", target.title),
        ("memory, usable of total", _memory(target)),
        (
            "bandwidth, effective of peak",
            f"{_rate(target.bandwidth_effective_bytes_s)} of {_rate(target.bandwidth_peak_bytes_s)}",
        ),
        (
            "time beside that",
            f"{target.token_overhead_s * 1e3:g} ms a token, {target.layer_overhead_s * 1e6:g} us a layer{_in_cache(target)}",
        ),
        ("attention, by KV type", attention_rates(target)),
        ("backend", target.backend),
        ("decode threads of cores", f"{target.decode_threads} of {target.cores}"),
        ("instruction sets", ", ".join(target.isa)),
        ("bits per weight, aim and limit", f"{target.target_bpw:g}, {target.max_bpw:g}"),
        ("default context and KV type", f"{target.default_ctx}, {target.default_kv_type.name}"),
        ("all speeds measured", "yes" if target.measured else "no"),
        ("file", str(target.profile_path)),
    ):
        facts.add_row(label, value)
    show(facts)
    # Only a probe tells speeds within the cache.
    inside = ["In cache"] if any(s.decode_efficiency_in_cache for s in target.types.values()) else []
    rows = ["Row (ns)"] if any(s.output_row_s for s in target.types.values()) else []
    types = make_table("Type", "Bits", "Decode", *inside, *rows, "Prefill", "Repacks", "Measured", "Source")
    for kind, support in sorted(target.types.items(), key=lambda item: -item[0].bits_per_weight):
        types.add_row(
            kind.name,
            f"{kind.bits_per_weight:.3f}",
            f"{support.decode_efficiency:.2f}",
            *(efficiency_in_cache(support) for _ in inside),
            *(f"{support.output_row_s * 1e9:.1f}" for _ in rows),
            f"{support.prefill_efficiency:.2f}",
            "yes" if support.repacks else "no",
            "yes" if support.measured else "no",
            support.source,
        )
    show(types)


app.command("diff", epilog="Example:  ramp-edge devices diff raspberry-pi-5-8gb my-board.yaml")(diff_devices)


@app.command("validate", epilog="Example:  ramp-edge devices validate my-board.yaml other-board.yaml")
def validate_profiles(
    paths: Annotated[list[Path], typer.Argument(help="Profile files.", metavar="PATH...")],
    as_json: JsonOption = False,
) -> None:
    """Check profile files; every problem is named with file, line, field and the way out."""
    from ramp_edge.profile.load import check_profile_file

    errors: dict[Path, ProfileError] = {}
    for path in paths:
        try:
            check_profile_file(path)
        except ProfileError as error:
            errors[path] = error
    if as_json:
        _print_json([{"path": str(p), "valid": p not in errors, "error": str(errors.get(p, ""))} for p in paths])
    else:
        for path in paths:
            if path not in errors:
                typer.echo(f"{path}: valid")
    _raise_all(list(errors.values()), f"of {len(paths)} profiles are not valid")


def _raise_all(errors: list[ProfileError], what: str) -> None:
    """One error as it is, several as one that names them all."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise ProfileError(
            f"{len(errors)} {what}:\n" + "\n".join(error.message for error in errors),
            hint="correct them; `ramp-edge devices validate FILE` checks a file",
        )


def _target_record(target: DeviceTarget) -> dict[str, Any]:
    return {
        "name": target.name,
        "title": target.title,
        "memory_total_bytes": target.memory_total_bytes,
        "memory_usable_bytes": target.memory_usable_bytes,
        "bandwidth_peak_bytes_s": target.bandwidth_peak_bytes_s,
        "bandwidth_effective_bytes_s": target.bandwidth_effective_bytes_s,
        "bandwidth_in_cache_bytes_s": target.bandwidth_in_cache_bytes_s,
        "token_overhead_s": target.token_overhead_s,
        "layer_overhead_s": target.layer_overhead_s,
        "layer_overhead_in_cache_s": target.layer_overhead_in_cache_s,
        "cache_bytes": target.cache_bytes,
        "attention_macs_s": {kind.name: rate for kind, rate in target.attention_macs_s.items()},
        "cores": target.cores,
        "decode_threads": target.decode_threads,
        "isa": list(target.isa),
        "backend": target.backend,
        "target_bpw": target.target_bpw,
        "max_bpw": target.max_bpw,
        "default_ctx": target.default_ctx,
        "default_kv_type": target.default_kv_type.name,
        "measured": target.measured,
        "profile_path": str(target.profile_path),
        "types": {
            kind.name: {
                "bits_per_weight": kind.bits_per_weight,
                "decode_efficiency": s.decode_efficiency,
                "decode_efficiency_in_cache": s.decode_efficiency_in_cache,
                "output_row_s": s.output_row_s,
                "prefill_efficiency": s.prefill_efficiency,
                "repacks": s.repacks,
                "source": s.source,
                "measured": s.measured,
            }
            for kind, s in target.types.items()
        },
    }


def _memory(target: DeviceTarget) -> str:
    from ramp_edge.units import human_bytes

    return f"{human_bytes(target.memory_usable_bytes)} of {human_bytes(target.memory_total_bytes)}"


def _in_cache(target: DeviceTarget) -> str:
    from ramp_edge.units import human_bytes

    if not target.cache_bytes:
        return ""
    rate = target.bandwidth_in_cache_bytes_s
    return (
        f" ({target.layer_overhead_in_cache_s * 1e6:g} within the cache of {human_bytes(target.cache_bytes)}"
        + (f", bytes at {_rate(rate)}" if rate else "")
        + ")"
    )


def attention_rates(target: DeviceTarget) -> str:
    """For a line of a table."""
    rates = ", ".join(f"{kind.name} {rate / 1e9:.3g}" for kind, rate in target.attention_macs_s.items())
    return f"{rates} billion multiply-adds/s" if rates else "not known: charged by bytes alone"


def efficiency_in_cache(support: TypeSupport) -> str:
    """For a cell of a table; empty where it is that beyond the cache."""
    return "" if support.decode_efficiency_in_cache is None else f"{support.decode_efficiency_in_cache:.2f}"


def _rate(bytes_s: float) -> str:
    from ramp_edge.units import human_bytes

    return f"{human_bytes(bytes_s)}/s"


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2))
