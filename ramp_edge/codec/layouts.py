"""Bit layouts of the scalar types, in which every weight has a code of its own: bytes -> scales, scales + codes -> bytes.

A block of such a type means `step * levels[code] + offset`, with one step and offset for each group of columns:

- 32-column types: one group. step = d; offset = m for the types with a minimum (Q4_1, Q5_1), else 0.
- 256-column types: groups of 16 or 32. step = d * sub_d; offset = -m * sub_m for those with minima (Q2_K, Q4_K, Q5_K).

d and m are stored as float16, sub_d and sub_m as small integers. Mirrors the block structs of ggml-common.h and the
dequantize functions of ggml-quants.c; `tests/codec/test_layouts.py` holds every layout against libggml's own decoder.
The IQ1 to IQ3 types choose vectors from a codebook and have no such layout.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ramp_edge.codec.types import QuantType

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
Bytes = npt.NDArray[np.uint8]

_u8 = np.uint8  # plain int operands would widen the type
_NON_LINEAR = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
"""kvalues_iq4nl of ggml-common.h."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scales:
    """Scales of n blocks of `n_groups` groups each."""

    d: Float32
    """[n]"""
    m: Float32 | None = None
    """[n]; None for types without a minimum."""
    sub_d: Int32 | None = None
    """[n, n_groups]; None for 32-column types."""
    sub_m: Int32 | None = None
    """[n, n_groups]"""

    def steps(self) -> Float32:
        """float32 [n, n_groups]"""
        d = self.d[:, None]
        return d if self.sub_d is None else d * self.sub_d.astype(np.float32)

    def offsets(self) -> Float32:
        """float32 [n, n_groups]"""
        if self.m is None:
            return np.zeros_like(self.steps())
        m = self.m[:, None]
        return m if self.sub_m is None else -m * self.sub_m.astype(np.float32)


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How one type stores its blocks."""

    levels: Float32
    """What the codes mean, ascending whole numbers: float32 [n_codes]."""
    uniform: bool
    """True where the levels are in a row."""
    nearest_codes: Float32
    """Code of the level nearest to lowest + i / 2 and just above, for each i: float32 [2 * span + 1].

    Borders between whole numbers fall on halves, so this table is exact.
    """
    minimum: bool
    """True where groups have an offset."""
    group_cols: int
    """Columns that share a step and an offset."""
    sub_d_range: tuple[int, int] | None
    """Least and greatest sub_d."""
    sub_m_max: int | None
    read: Callable[[Bytes], Scales]
    """uint8 [n, block_bytes] -> scales of the blocks"""
    write: Callable[[Scales, Bytes], Bytes]
    """(scales, codes uint8 [n, block_size]) -> uint8 [n, block_bytes]"""


def to_float16(values: Float32) -> Float32:
    """The nearest float16 of each value within its range, as float32."""
    limit = np.float32(np.finfo(np.float16).max)
    return values.clip(-limit, limit).astype(np.float16).astype(np.float32)


def _half(data: Bytes) -> Float32:
    """uint8 [n, 2] -> float32 [n]"""
    return np.ascontiguousarray(data).view(np.float16)[:, 0].astype(np.float32)


def _half_bytes(values: Float32 | None) -> Bytes:
    """float32 [n] -> uint8 [n, 2]"""
    assert values is not None
    return np.ascontiguousarray(values.astype(np.float16)[:, None]).view(np.uint8)


def _nibbles(codes: Bytes, run: int) -> Bytes:
    """Low nibbles from the first `run` codes of each 2 * run, high nibbles from the second."""
    pairs = codes.reshape(len(codes), -1, 2, run)
    packed: Bytes = (pairs[:, :, 0] | pairs[:, :, 1] << _u8(4)).reshape(len(codes), -1)
    return packed


def _planes(codes: Bytes, bits: int, columns: int) -> Bytes:
    """`bits`-wide codes of 8 / bits runs of `columns` side by side in a byte, the first run lowest."""
    runs = codes.reshape(len(codes), -1, 8 // bits, columns)
    shifts = (bits * np.arange(8 // bits)).astype(np.uint8)[:, None]
    packed: Bytes = np.bitwise_or.reduce(runs << shifts, axis=2).reshape(len(codes), -1)
    return packed


def _spread(data: Bytes, bits: int, shifts: npt.NDArray[np.uint8]) -> Bytes:
    """Fields of `bits` bits at `shifts` of each byte: [n, k] -> [n, len(shifts) * k], all bytes' first field first."""
    mask = np.uint8((1 << bits) - 1)
    fields: Bytes = (data[:, None, :] >> shifts[:, None] & mask).reshape(len(data), -1)
    return fields


_2 = np.array([0, 4], np.uint8)
_4 = np.array([0, 2, 4, 6], np.uint8)


def _plain(levels: range | tuple[int, ...], *, minimum: bool) -> Layout:
    """Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL: d, perhaps m, perhaps the fifth bits, codes."""
    n_codes = len(levels)

    def read(data: Bytes) -> Scales:
        return Scales(d=_half(data[:, :2]), m=_half(data[:, 2:4]) if minimum else None)

    def write(scales: Scales, codes: Bytes) -> Bytes:
        parts = [_half_bytes(scales.d)]
        if minimum:
            parts.append(_half_bytes(scales.m))
        if n_codes == 256:
            parts.append(codes ^ _u8(0x80))  # code 0 means -128; stored as int8
        else:
            if n_codes == 32:
                parts.append(np.packbits(codes >> _u8(4), axis=1, bitorder="little"))
            parts.append(_nibbles(codes & _u8(15), 16))
        return np.concatenate(parts, axis=1)

    return _layout(levels, minimum=minimum, group_cols=32, read=read, write=write)


def _layout(
    levels: range | tuple[int, ...],
    *,
    group_cols: int,
    read: Callable[[Bytes], Scales],
    write: Callable[[Scales, Bytes], Bytes],
    minimum: bool = False,
    sub_d_range: tuple[int, int] | None = None,
    sub_m_max: int | None = None,
) -> Layout:
    values = np.array(levels, dtype=np.float32)
    halves = values[0] + (np.arange(2 * int(np.ptp(values)) + 1) + 0.5) / 2
    return Layout(
        levels=values,
        uniform=bool((np.diff(values) == 1).all()),
        nearest_codes=np.abs(halves[:, None] - values).argmin(axis=1).astype(np.float32),
        minimum=minimum,
        group_cols=group_cols,
        sub_d_range=sub_d_range,
        sub_m_max=sub_m_max,
        read=read,
        write=write,
    )


def _q2_k() -> Layout:
    """scales[16] (4 bits of sub_d, 4 of sub_m), qs[64], d, dmin"""

    def read(data: Bytes) -> Scales:
        packed = data[:, :16].astype(np.int32)
        return Scales(d=_half(data[:, 80:82]), m=_half(data[:, 82:84]), sub_d=packed & 15, sub_m=packed >> 4)

    def write(scales: Scales, codes: Bytes) -> Bytes:
        assert scales.sub_d is not None and scales.sub_m is not None
        packed = (scales.sub_d | scales.sub_m << 4).astype(np.uint8)
        return np.concatenate([packed, _planes(codes, 2, 32), _half_bytes(scales.d), _half_bytes(scales.m)], axis=1)

    return _layout(range(4), minimum=True, group_cols=16, sub_d_range=(0, 15), sub_m_max=15, read=read, write=write)


def _q3_k() -> Layout:
    """hmask[32] (third bits), qs[64], scales[12] (sub_d + 32 in 6 bits), d"""

    def read(data: Bytes) -> Scales:
        low, high = _spread(data[:, 96:104], 4, _2), _spread(data[:, 104:108], 2, _4)
        return Scales(d=_half(data[:, 108:110]), sub_d=(low | high << 4).astype(np.int32) - 32)

    def write(scales: Scales, codes: Bytes) -> Bytes:
        assert scales.sub_d is not None
        packed = (scales.sub_d + 32).astype(np.uint8)
        parts = [_planes(codes >> _u8(2), 1, 32), _planes(codes & _u8(3), 2, 32), _nibbles(packed & _u8(15), 8)]
        return np.concatenate([*parts, _planes(packed >> _u8(4), 2, 4), _half_bytes(scales.d)], axis=1)

    return _layout(range(-4, 4), group_cols=16, sub_d_range=(-32, 31), read=read, write=write)


def _q45_k(n_codes: int) -> Layout:
    """d, dmin, scales[12] (sub_d and sub_m in 6 bits each), the fifth bits for Q5_K, qs[128]"""

    def read(data: Bytes) -> Scales:
        first, second, mixed = data[:, 4:8], data[:, 8:12], data[:, 12:16]
        sub_d = np.concatenate([first & 63, mixed & 15 | first >> 2 & 48], axis=1)
        sub_m = np.concatenate([second & 63, mixed >> 4 | second >> 2 & 48], axis=1)
        return Scales(
            d=_half(data[:, :2]), m=_half(data[:, 2:4]), sub_d=sub_d.astype(np.int32), sub_m=sub_m.astype(np.int32)
        )

    def write(scales: Scales, codes: Bytes) -> Bytes:
        assert scales.sub_d is not None and scales.sub_m is not None
        d, m = scales.sub_d.astype(np.uint8), scales.sub_m.astype(np.uint8)
        packed = [d[:, :4] | (d[:, 4:] & 48) << 2, m[:, :4] | (m[:, 4:] & 48) << 2, d[:, 4:] & 15 | m[:, 4:] << 4]
        parts = [_half_bytes(scales.d), _half_bytes(scales.m), *packed]
        if n_codes == 32:
            parts.append(_planes(codes >> _u8(4), 1, 32))
        return np.concatenate([*parts, _nibbles(codes & _u8(15), 32)], axis=1)

    return _layout(
        range(n_codes), minimum=True, group_cols=32, sub_d_range=(0, 63), sub_m_max=63, read=read, write=write
    )


def _q6_k() -> Layout:
    """ql[128] (low 4 bits), qh[64] (high 2 bits), scales[16] (int8), d"""

    def read(data: Bytes) -> Scales:
        sub_d = np.ascontiguousarray(data[:, 192:208]).view(np.int8).astype(np.int32)
        return Scales(d=_half(data[:, 208:210]), sub_d=sub_d)

    def write(scales: Scales, codes: Bytes) -> Bytes:
        assert scales.sub_d is not None
        sub_d = scales.sub_d.astype(np.int8).view(np.uint8)
        return np.concatenate(
            [_nibbles(codes & _u8(15), 64), _planes(codes >> _u8(4), 2, 32), sub_d, _half_bytes(scales.d)], axis=1
        )

    return _layout(range(-32, 32), group_cols=16, sub_d_range=(-128, 127), read=read, write=write)


def _iq4_xs() -> Layout:
    """d, scales_h (2 bits of each sub_d + 32), scales_l[4] (4 bits of each), qs[128]"""
    places = (2 * np.arange(8)).astype(np.uint16)

    def read(data: Bytes) -> Scales:
        high = np.ascontiguousarray(data[:, 2:4]).view(np.uint16) >> places & 3
        low = (data[:, 4:8, None] >> _2 & 15).reshape(len(data), 8)
        return Scales(d=_half(data[:, :2]), sub_d=(low | high << 4).astype(np.int32) - 32)

    def write(scales: Scales, codes: Bytes) -> Bytes:
        assert scales.sub_d is not None
        packed = (scales.sub_d + 32).astype(np.uint16)
        high = np.bitwise_or.reduce(packed >> 4 << places, axis=1, keepdims=True).view(np.uint8)
        low = (packed & 15).astype(np.uint8)
        parts = [_half_bytes(scales.d), high, low[:, ::2] | low[:, 1::2] << 4]
        return np.concatenate([*parts, _nibbles(codes, 16)], axis=1)

    return _layout(_NON_LINEAR, group_cols=32, sub_d_range=(-32, 31), read=read, write=write)


LAYOUTS: dict[QuantType, Layout] = {
    QuantType.Q4_0: _plain(range(-8, 8), minimum=False),
    QuantType.Q4_1: _plain(range(16), minimum=True),
    QuantType.Q5_0: _plain(range(-16, 16), minimum=False),
    QuantType.Q5_1: _plain(range(32), minimum=True),
    QuantType.Q8_0: _plain(range(-128, 128), minimum=False),
    QuantType.IQ4_NL: _plain(_NON_LINEAR, minimum=False),
    QuantType.Q2_K: _q2_k(),
    QuantType.Q3_K: _q3_k(),
    QuantType.Q4_K: _q45_k(16),
    QuantType.Q5_K: _q45_k(32),
    QuantType.Q6_K: _q6_k(),
    QuantType.IQ4_XS: _iq4_xs(),
}
"""The scalar types; a type that is not here chooses codebook vectors."""
