"""Which type every tensor got: a heat map of layers and roles, shares by type, and every tensor in a table."""

from __future__ import annotations

from ramp_edge.report.documents import BuildDocument, TensorPart
from ramp_edge.report.numbers import percent, significant
from ramp_edge.report.view import Block, Column, HeatCell, HeatMap, HeatRow, Row, Section, Table
from ramp_edge.units import human_bytes

ROLE_NAMES = {
    "token_embd": "embedding",
    "output": "output",
    "attn_q": "q",
    "attn_k": "k",
    "attn_v": "v",
    "attn_output": "attn out",
    "ffn_gate": "gate",
    "ffn_up": "up",
    "ffn_down": "down",
}
"""Role -> heading; in the order of the columns. Others follow under their own names."""


def layer_of(name: str) -> int | None:
    """The block of `blk.7.ffn_up.weight`, or None."""
    parts = name.split(".")
    return (
        int(parts[1]) if len(parts) > 2 and parts[0] == "blk" and parts[1].isdecimal() and len(parts[1]) < 6 else None
    )


def allocated(build: BuildDocument) -> list[TensorPart]:
    """The tensors that were allowed a choice."""
    return [tensor for tensor in build.tensors if tensor.kept_reason is None]


def _cell(tensors: list[TensorPart]) -> HeatCell:
    """One cell, also where a layer has several tensors of a role."""
    types = list(dict.fromkeys(tensor.type for tensor in tensors))
    weights = sum(tensor.n_weights for tensor in tensors)
    size = sum(tensor.size_bytes for tensor in tensors)
    bits = 8 * size / max(1, weights)
    kls = [tensor.predicted_kl for tensor in tensors if tensor.predicted_kl is not None]
    kl = f", KL predicted {significant(sum(kls), 2)}" if kls else ""
    names = ", ".join(tensor.name for tensor in tensors)
    return HeatCell(
        text=types[0] if len(types) == 1 else f"{len(types)} types",
        bits=bits,
        tip=f"{names}: {' and '.join(types)}, {bits:.2f} bits per weight, {human_bytes(size)}{kl}",
    )


def heat_map(build: BuildDocument) -> HeatMap | None:
    """None where no tensor had a choice."""
    cells: dict[int, dict[str, list[TensorPart]]] = {}
    above: list[tuple[str, HeatCell]] = []
    for tensor in allocated(build):
        layer = layer_of(tensor.name)
        if layer is None:
            above.append((ROLE_NAMES.get(tensor.role, tensor.name), _cell([tensor])))
        else:
            cells.setdefault(layer, {}).setdefault(tensor.role, []).append(tensor)
    if not cells and not above:
        return None
    present = {role for layer in cells.values() for role in layer}
    roles = [role for role in ROLE_NAMES if role in present] + sorted(present - set(ROLE_NAMES))
    rows = tuple(
        HeatRow(
            label=str(layer),
            cells=tuple(_cell(cells[layer][role]) if role in cells[layer] else None for role in roles),
        )
        for layer in sorted(cells)
    )
    return HeatMap(
        title="Type of every tensor",
        description=f"{len(rows)} layers and {len(roles)} roles; the colours tell bits per weight, the legend below which.",
        above=tuple(above),
        columns=tuple(ROLE_NAMES.get(role, role.replace("_", " ")) for role in roles),
        rows=rows,
    )


def type_shares(build: BuildDocument) -> dict[str, tuple[int, int, int]]:
    """Type -> (tensors, weights, bytes), most weights first."""
    shares: dict[str, tuple[int, int, int]] = {}
    for tensor in allocated(build):
        count, weights, size = shares.get(tensor.type, (0, 0, 0))
        shares[tensor.type] = (count + 1, weights + tensor.n_weights, size + tensor.size_bytes)
    return dict(sorted(shares.items(), key=lambda item: -item[1][1]))


def _shares_table(build: BuildDocument) -> Table:
    shares = type_shares(build)
    total = max(1, sum(weights for _, weights, _ in shares.values()))
    return Table(
        caption="Share of each type",
        columns=(
            Column(text="Type"),
            Column(text="Bits per weight", numeric=True),
            Column(text="Tensors", numeric=True),
            Column(text="Weights", numeric=True),
            Column(text="Bytes", numeric=True),
        ),
        rows=tuple(
            Row(
                cells=(
                    name,
                    f"{8 * size / max(1, weights):.4g}",
                    str(count),
                    percent(weights / total),
                    human_bytes(size),
                )
            )
            for name, (count, weights, size) in shares.items()
        ),
    )


def _tensor_table(build: BuildDocument) -> Table:
    return Table(
        caption=f"All {len(build.tensors)} tensors",
        columns=(
            Column(text="Tensor"),
            Column(text="Shape"),
            Column(text="Type"),
            Column(text="Bits per weight", numeric=True),
            Column(text="Bytes", numeric=True),
            Column(text="KL predicted (nats/token)", numeric=True),
            Column(text="Kept because"),
        ),
        rows=tuple(
            Row(
                cells=(
                    tensor.name,
                    " × ".join(map(str, tensor.shape)),
                    tensor.type,
                    f"{tensor.bits_per_weight:.4g}",
                    human_bytes(tensor.size_bytes),
                    "" if tensor.predicted_kl is None else f"{tensor.predicted_kl:.2e}",
                    tensor.kept_reason or "",
                )
            )
            for tensor in build.tensors
        ),
        folded=True,
    )


def _illegal_table(build: BuildDocument) -> Table | None:
    reasons: dict[str, dict[str, int]] = {}
    for tensor in allocated(build):
        for name, why in tensor.illegal_types.items():
            reasons.setdefault(why, {})[name] = reasons.get(why, {}).get(name, 0) + 1
    if not reasons:
        return None
    return Table(
        caption="Types that were no choice",
        columns=(Column(text="Why"), Column(text="Types"), Column(text="Tensors", numeric=True)),
        rows=tuple(
            Row(cells=(why, ", ".join(types), str(max(types.values()))))
            for why, types in sorted(reasons.items(), key=lambda item: -max(item[1].values()))
        ),
        folded=True,
    )


def allocation_section(build: BuildDocument) -> Section | None:
    """The whole allocation."""
    drawn = heat_map(build)
    if drawn is None:
        return None
    blocks: list[Block | None] = [drawn, _shares_table(build), _tensor_table(build), _illegal_table(build)]
    return Section(
        anchor="allocation",
        title="Allocation",
        lead=f"Proposed by: {build.origin}. {build.bits_per_weight:.2f} bits per weight on average, over everything in the file.",
        blocks=tuple(block for block in blocks if block is not None),
    )
