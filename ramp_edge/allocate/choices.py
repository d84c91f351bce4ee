"""Legal types per tensor, decided before anything is allocated; whatever is not legal is named with its reason.

llama.cpp replaces a type that a row length does not allow by another one in silence; here an illegal type is
never a choice.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ramp_edge.codec.types import QuantType
from ramp_edge.errors import InfeasibleBudgetError
from ramp_edge.records import DeviceTarget, Role, TensorInfo

EXCLUDED = "excluded by --types"


@dataclass(frozen=True, kw_only=True, slots=True)
class Legal:
    """What one tensor may become."""

    tensor: TensorInfo
    types: tuple[QuantType, ...]
    """Smallest first."""
    illegal: Mapping[QuantType, str]
    """Every other type of the device, with the reason."""

    def size_bytes(self, quant_type: QuantType) -> int:
        """Bytes of the tensor in that type."""
        return quant_type.row_bytes(self.tensor.n_cols) * self.tensor.n_rows


def legal_types(
    tensor: TensorInfo,
    target: DeviceTarget,
    *,
    has_moments: bool,
    allowed: Collection[QuantType] | None = None,
) -> Legal:
    """The types that `tensor` may take on `target`.

    `has_moments` says whether calibration knows the tensor's input (codebook types need it); `allowed` is the user's
    own restriction. Raises InfeasibleBudgetError where nothing is left.
    """
    good: list[QuantType] = []
    illegal: dict[QuantType, str] = {}
    for quant_type in target.types:
        if tensor.n_cols % quant_type.block_size:
            illegal[quant_type] = f"rows of {tensor.n_cols} do not divide into blocks of {quant_type.block_size}"
        elif quant_type.needs_imatrix and not has_moments:
            illegal[quant_type] = "needs an importance matrix and calibration has none for this tensor"
        elif quant_type.needs_imatrix and tensor.role is Role.TOKEN_EMBD:
            illegal[quant_type] = "codebook types are not used for embedding tables (rare rows collapse)"
        elif allowed is not None and quant_type not in allowed:
            illegal[quant_type] = EXCLUDED
        elif quant_type.bits_per_weight > tensor.source_type.bits_per_weight:
            illegal[quant_type] = f"larger than the source's {tensor.source_type.name}"
        elif quant_type is QuantType.F16 and tensor.source_type is QuantType.BF16:
            illegal[quant_type] = "BF16 values can leave F16's range"
        else:
            good.append(quant_type)
    if not good:
        reasons = "; ".join(f"{t.name}: {why}" for t, why in illegal.items())
        raise InfeasibleBudgetError(
            f"tensor {tensor.name!r} ({tensor.n_rows} x {tensor.n_cols}) has no legal type on {target.name}: {reasons}",
            hint="add Q8_0, a 32-block type or F16 to --types, or use another profile",
        )
    good.sort(key=lambda t: (t.bits_per_weight, t.value))
    return Legal(tensor=tensor, types=tuple(good), illegal=illegal)
