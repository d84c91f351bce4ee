"""The shape of a device profile file, and the JSON Schema that editors complete it with.

Every figure names its source and whether it was measured on the board; sizes and rates are strings with units, so that a
profile cannot be read wrongly by a factor of 1.07. Cross-field rules live in `find_contradictions`, because they must all be
reported at once. `python -m ramp_edge.profile.schema` writes `device_profiles/schema.json`.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

from ramp_edge.codec.types import QUANTIZED_TYPES, QuantType
from ramp_edge.units import parse_bytes, parse_rate

KV_TYPES: tuple[QuantType, ...] = (
    QuantType.F32,
    QuantType.F16,
    QuantType.BF16,
    QuantType.Q8_0,
    QuantType.Q5_1,
    QuantType.Q5_0,
    QuantType.Q4_1,
    QuantType.Q4_0,
    QuantType.IQ4_NL,
)
"""The cache types that llama.cpp's tools accept for `--cache-type-k/-v`."""
_WEIGHT_TYPES: tuple[QuantType, ...] = (QuantType.F16, QuantType.BF16, *QUANTIZED_TYPES)
MAX_BPW = 16.0


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` most likely means, or None where nothing is near."""
    choices = list(known)
    near = difflib.get_close_matches(word.lower(), [c.lower() for c in choices], n=1, cutoff=0.5)
    return next((c for c in choices if near and c.lower() == near[0]), None)


def suggest(word: str, known: Iterable[str]) -> str:
    """The nearest known word as a phrase, or the whole list where nothing is near."""
    choices = list(known)
    match = nearest(word, choices)
    return f"did you mean {match!r}?" if match else f"use one of: {', '.join(choices)}"


def _check_type_name(name: str, allowed: tuple[QuantType, ...]) -> str:
    names = [t.name for t in allowed]
    if name not in names:
        raise ValueError(f"{name!r} is not a type that can be used here: {suggest(name, names)}")
    return name


def _check_size(text: str) -> str:
    if parse_bytes(text) <= 0:
        raise ValueError(f"{text!r} must be more than zero")
    return text


def _check_rate(text: str) -> str:
    if parse_rate(text) <= 0:
        raise ValueError(f"{text!r} must be more than zero")
    return text


_UNITS = "(B|[kKMGT]i?B)"
Size = Annotated[
    str,
    AfterValidator(_check_size),
    WithJsonSchema({"type": "string", "pattern": rf"^\s*[0-9.]+\s*{_UNITS}\s*$", "examples": ["8 GiB"]}),
]
Rate = Annotated[
    str,
    AfterValidator(_check_rate),
    WithJsonSchema({"type": "string", "pattern": rf"^\s*[0-9.]+\s*{_UNITS}/s\s*$", "examples": ["17.1 GB/s"]}),
]
WeightTypeName = Annotated[
    str,
    AfterValidator(lambda name: _check_type_name(name, _WEIGHT_TYPES)),
    WithJsonSchema({"type": "string", "enum": [t.name for t in _WEIGHT_TYPES]}),
]
KvTypeName = Annotated[
    str,
    AfterValidator(lambda name: _check_type_name(name, KV_TYPES)),
    WithJsonSchema({"type": "string", "enum": [t.name for t in KV_TYPES]}),
]
ProfileName = Annotated[str, Field(pattern=r"^[a-z0-9_][a-z0-9._-]*$")]
Ratio = Annotated[float, Field(gt=0, le=4, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class _Sourced(_Part):
    source: str = Field(
        min_length=3, description="Where the figure comes from: a document, an issue, or `estimate: why`."
    )
    measured: bool = Field(strict=True, description="True only where it was measured on the board itself.")


class SizeFigure(_Sourced):
    value: Size = Field(description="A size with its unit, e.g. `8 GiB`.")


class RateFigure(_Sourced):
    value: Rate = Field(description="A rate with its unit, e.g. `17.1 GB/s`.")


class OverheadFigure(_Sourced):
    milliseconds: float = Field(ge=0, le=1000, allow_inf_nan=False, description="Fixed time per decoded token.")
    per_layer_microseconds: float = Field(
        default=0.0,
        ge=0,
        le=100_000,
        allow_inf_nan=False,
        description="Time per layer and token beside reading weights.",
    )
    per_layer_in_cache_microseconds: float | None = Field(
        default=None,
        ge=0,
        le=100_000,
        allow_inf_nan=False,
        description="The same for a model that fits in the last cache; as above where it is absent.",
    )


class AttentionFigure(_Sourced):
    gigamacs_per_second: float = Field(
        gt=0,
        le=1e6,
        allow_inf_nan=False,
        description="Billions of multiply-adds of query heads with cached keys and values per second, in decode.",
    )


class Memory(_Part):
    total: SizeFigure = Field(description="What the system reports as its memory.")
    usable: SizeFigure = Field(description="What is left for the model beside the operating system.")


class Bandwidth(_Part):
    peak: RateFigure = Field(description="Theoretical memory bandwidth.")
    effective: RateFigure = Field(description="What llama.cpp's decode reaches with Q8_0.")
    in_cache: RateFigure | None = Field(
        default=None, description="The same for a model that fits in the last cache; as effective where it is absent."
    )


class Processor(_Sourced):
    backend: Literal["cpu", "cuda", "metal"] = Field(description="Where llama.cpp runs the model.")
    cores: int = Field(ge=1, le=1024, strict=True)
    decode_threads: int = Field(ge=1, le=1024, strict=True, description="Threads that decode fastest.")
    isa: list[str] = Field(description="Instruction sets that decide llama.cpp's kernels, e.g. neon, dotprod.")


class Bits(_Sourced):
    target_bpw: float = Field(gt=0, le=MAX_BPW, allow_inf_nan=False, description="Aimed-at mean bits per weight.")
    max_bpw: float = Field(
        gt=0,
        le=MAX_BPW,
        allow_inf_nan=False,
        description="More than this, without norms and biases, is never worth it here.",
    )


class Defaults(_Part):
    ctx: int = Field(ge=256, le=1 << 22, strict=True, description="Context in tokens where --ctx is absent.")
    kv_type: KvTypeName = Field(description="Type of the KV cache where --kv-type is absent.")


class TypeFigures(_Sourced):
    decode_efficiency: Ratio = Field(description="Bytes per second in decode relative to Q8_0 on this device.")
    decode_efficiency_in_cache: Ratio | None = Field(
        default=None,
        description="The same for a model that fits in the last cache; as decode_efficiency where it is absent.",
    )
    output_row_nanoseconds: float = Field(
        default=0.0,
        ge=0.0,
        le=1e6,
        allow_inf_nan=False,
        description="Nanoseconds that each row of the output matrix costs beside its bytes, beyond the last cache.",
    )
    prefill_efficiency: Ratio = Field(description="Prefill tokens per second relative to Q8_0 on this device.")
    repacks: bool = Field(strict=True, description="True where llama.cpp's CPU backend converts the type on load.")


class Profile(_Part):
    """A device profile after `extends` is resolved."""

    title: str = Field(min_length=1, description="The device's name for people.")
    extends: str | None = Field(default=None, description="A profile whose values are taken where this one has none.")
    memory: Memory
    bandwidth: Bandwidth
    cache: SizeFigure | None = Field(default=None, description="The last cache, where it decides speeds.")
    token_overhead: OverheadFigure | None = None
    attention: dict[KvTypeName, AttentionFigure] | None = Field(
        default=None,
        description="By type of the KV cache; one that is not listed is taken to be as slow as the slowest. Absent: keys and "
        "values cost what their bytes cost.",
    )
    processor: Processor
    bits: Bits
    defaults: Defaults
    types: dict[WeightTypeName, TypeFigures] = Field(description="The types this device may use; null drops one.")


Location = tuple[str | int, ...]


def find_contradictions(profile: Profile) -> list[tuple[Location, str]]:
    """Every rule between fields that the profile breaks: (where, what is wrong and the way out)."""
    found: list[tuple[Location, str]] = []

    def require(holds: bool, where: Location, text: str) -> None:
        if not holds:
            found.append((where, text))

    total, usable = profile.memory.total.value, profile.memory.usable.value
    require(
        parse_bytes(usable) <= parse_bytes(total),
        ("memory", "usable", "value"),
        f"{usable!r} is more than memory.total.value {total!r}",
    )
    peak, effective = profile.bandwidth.peak.value, profile.bandwidth.effective.value
    require(
        parse_rate(effective) <= parse_rate(peak),
        ("bandwidth", "effective", "value"),
        f"{effective!r} is more than bandwidth.peak.value {peak!r}",
    )
    require(
        profile.bandwidth.in_cache is None or profile.cache is not None,
        ("bandwidth", "in_cache"),
        "needs the size of the cache: give `cache` as well",
    )
    processor, bits = profile.processor, profile.bits
    require(
        processor.decode_threads <= processor.cores,
        ("processor", "decode_threads"),
        f"{processor.decode_threads} threads are more than the {processor.cores} of processor.cores",
    )
    require(
        bits.target_bpw <= bits.max_bpw,
        ("bits", "target_bpw"),
        f"{bits.target_bpw:g} is more than bits.max_bpw {bits.max_bpw:g}",
    )
    for needed in ("F16", "Q8_0"):
        require(needed in profile.types, ("types",), f"{needed} is missing: every device must list F16 and Q8_0")
    baseline = profile.types.get("Q8_0")
    for field in ("decode_efficiency", "decode_efficiency_in_cache", "prefill_efficiency"):
        require(
            baseline is None or getattr(baseline, field) in (1.0, None),
            ("types", "Q8_0", field),
            f"{getattr(baseline, field, None)} must be 1.0: every efficiency is relative to Q8_0",
        )
    if profile.types and "Q8_0" in profile.types:
        lowest = min(QuantType[name].bits_per_weight for name in profile.types)
        require(
            bits.max_bpw >= lowest,
            ("bits", "max_bpw"),
            f"{bits.max_bpw:g} is less than the smallest listed type's {lowest:g} bits",
        )
    kv_type = QuantType[profile.defaults.kv_type]
    require(
        kv_type.is_float or kv_type.name in profile.types,
        ("defaults", "kv_type"),
        f"{kv_type.name} is not among types, so its speed is not known: list it there, or take one of "
        f"{', '.join(t.name for t in KV_TYPES if t.is_float or t.name in profile.types)}",
    )
    if processor.backend != "cpu":
        for name, figures in profile.types.items():
            require(
                not figures.repacks,
                ("types", name, "repacks"),
                f"only the cpu backend repacks, not {processor.backend}",
            )
    return found


def json_schema() -> dict[str, Any]:
    """The schema of a profile file. Nothing is required, because `extends` may supply every field."""
    schema = Profile.model_json_schema()
    for part in (schema, *schema["$defs"].values()):
        part.pop("required", None)
    types = schema["properties"]["types"]
    types["additionalProperties"] = {"anyOf": [types["additionalProperties"], {"type": "null"}]}
    types["propertyNames"] = {"enum": [t.name for t in _WEIGHT_TYPES]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "ramp-edge device profile",
        **{k: v for k, v in schema.items() if k != "title"},
    }


def schema_text() -> str:
    """The committed file's text."""
    return json.dumps(json_schema(), indent=2, sort_keys=True) + "\n"


def _write_schema() -> None:
    from ramp_edge.shipped import shipped_dir

    path = shipped_dir("device_profiles") / "schema.json"
    beside = path.with_suffix(".json.tmp")
    beside.write_text(schema_text(), encoding="utf-8")
    beside.replace(path)


if __name__ == "__main__":
    _write_schema()
